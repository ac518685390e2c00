import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

import stepgame
from stepgame.bulk import STATUSES, judge_all, read_all
from stepgame.maps import draw_map
from stepgame.names import letter_names
from stepgame.read import UnreadableError, read_sentence
from stepgame.relations import NAMES
from stepgame.solve import judge

names = st.sampled_from([*letter_names(702), "A1", "Alder", "Birch", "Top", "TOP", "Hawthornhedge", "Übel", "N", "NW"])
patterns = st.sampled_from(
    [
        "{a} is left of {b}.",
        "{a} is to the left of {b}",
        "The {a} is above {b}.",
        "{a} lies NW of {b}.",
        "{a} is N of {b}.",
        "A step below {b} is {a}.",
        "{a} is at {b}’s 9 o'clock.",
        "{a} – {b}",
        "{a} {{ {b}",
        "{a} IS LEFT OF {b}.",
        "{a} is left of {a}.",
        "{a} and {b} and C are above D.",
        "If {b} is the center of a clock face, {a} is located between 4 and 5.",
        "Above {b} stands {a}.",
    ]
)
sentences = st.builds(lambda pattern, a, b: pattern.format(a=a, b=b), patterns, names, names)


def table(stories, questions):
    return pa.table({"story": pa.array(stories, pa.list_(pa.string())), "question": pa.array(questions, pa.string())})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(sentences, st.text(max_size=40)), min_size=1, max_size=12))
def test_sentences_are_read_as_one_by_one(texts):
    readings = read_all(pa.array(texts, pa.string()))
    seen = {}
    for text, relation, head, tail in zip(texts, *readings, strict=True):
        try:
            fact = read_sentence(text)
        except UnreadableError:
            assert relation == -1
            continue
        assert relation == fact.relation
        for number, name in ((head, fact.head), (tail, fact.tail)):
            assert seen.setdefault(number, name) == name
    assert len(set(seen.values())) == len(seen)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(sentences, min_size=1, max_size=8), st.builds("Where is {} relative to {}?".format, names, names)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_stories_are_judged_as_one_by_one(cases):
    stories, questions = zip(*cases, strict=True)
    verdicts = judge_all(table(stories, questions))
    for number, (story, question) in enumerate(cases):
        status, label = judge(story, question)
        assert STATUSES[verdicts.status[number]] == status
        if status == "answered":
            assert NAMES[verdicts.label[number]] == label


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32), st.data())
def test_planted_contradictions_are_found_as_one_by_one(hops, seed, data):
    made = stepgame.generate(hops, 4, noise=True, seed=seed)
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    stories = []
    for row in made:
        story = list(row["story"])
        place = data.draw(st.integers(0, len(story) - 1))
        fact = row["facts"][place]
        told = opposite.get(fact["relation"], "left")
        story.append(f"{fact['head']} is {told} of {fact['tail']}.")
        stories.append(story)
    verdicts = judge_all(table(stories, made.column("question")))
    for number, story in enumerate(stories):
        assert verdicts.contradiction[number] == len(story) - 1
        assert judge(story, made[number]["question"]) == ("contradictory", None)


def test_slices_and_chunks_of_a_table():
    made = stepgame.generate(3, 20, noise=True)
    whole = judge_all(made.table)
    part = judge_all(made.table.slice(7, 5))
    assert part.label.tolist() == whole.label.tolist()[7:12]
    joined = pa.concat_tables([made.table.slice(0, 7), made.table.slice(7)])
    assert judge_all(joined).label.tolist() == whole.label.tolist()
    empty = judge_all(made[:0].table)
    assert len(empty.status) == 0


def test_unreadable_sentences_are_counted_and_the_rest_still_answers():
    story = ["A is left of B.", "B is B.", "C is above B.", "Nothing here."]
    verdicts = judge_all(table([story], ["Where is A relative to C?"]))
    assert STATUSES[verdicts.status[0]] == "unreadable"
    assert (verdicts.unreadable[0], verdicts.first_unreadable[0]) == (2, 1)
    assert NAMES[verdicts.label[0]] == "lower-left"
    assert not judge_all(table([story], ["Why?"])).asked[0]


def test_map():
    drawn = draw_map({"A": (0, 0), "B": (1, 1), "CC": (-1, 0), "D": (1, 1)})
    assert drawn.split("\n") == ["·  · B+D", "CC A ·"]
