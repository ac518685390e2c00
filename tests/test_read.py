"""The reader: literal readings, refusals with their reason, agents of every naming, any text at all."""

from __future__ import annotations

import pickle
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgame.errors import InputError
from stepgame.read import (
    Fact,
    UnreadableError,
    is_agent_name,
    mask,
    read_question,
    read_sentence,
    read_shape,
)
from stepgame.relations import DIRECTIONS, Relation

CASES = tomllib.loads((Path(__file__).parent / "data" / "read_cases.toml").read_text(encoding="utf-8"))
EXPECTED_COUNTS = {"read": 250, "unreadable": 110, "questions": 30, "unreadable_questions": 10}

letters = st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
doubled = st.tuples(letters, letters).map("".join)
numbered = st.tuples(letters, st.integers(0, 999)).map(lambda pair: f"{pair[0]}{pair[1]}")
words = st.from_regex(r"[A-Z][a-z]{3,9}", fullmatch=True).filter(is_agent_name)
names = st.one_of(letters, doubled, numbered, words)
two_names = st.lists(names, min_size=2, max_size=2, unique=True)


def fact(text: str) -> Fact:
    head, label, tail = text.split()
    return Fact(head, Relation.parse(label), tail)


def rename(text: str, first: str, second: str) -> str:
    shape, agents = mask(text)
    renaming = {"A": first, "B": second}
    return shape.format(*(renaming[agent] for agent in agents))


@pytest.mark.parametrize(("section", "least"), EXPECTED_COUNTS.items())
def test_the_case_file_is_whole(section: str, least: int) -> None:
    assert len(CASES[section]) >= least


@pytest.mark.parametrize(("sentence", "expected"), CASES["read"].items())
def test_reads_what_the_sentence_says(sentence: str, expected: str) -> None:
    assert read_sentence(sentence).canonical() == fact(expected).canonical()


@pytest.mark.parametrize(("sentence", "reason"), CASES["unreadable"].items())
def test_refuses_with_the_reason(sentence: str, reason: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_sentence(sentence)
    assert caught.value.reason == reason
    assert caught.value.sentence == sentence
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("question", "expected"), CASES["questions"].items())
def test_reads_the_question(question: str, expected: str) -> None:
    assert read_question(question) == tuple(expected.split())


@pytest.mark.parametrize(("question", "reason"), CASES["unreadable_questions"].items())
def test_refuses_the_question_with_the_reason(question: str, reason: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_question(question)
    assert caught.value.reason == reason


PLAIN = {text: said for text, said in CASES["read"].items() if set(mask(text)[1]) == {"A", "B"} and not text.isupper()}


@given(st.sampled_from(sorted(PLAIN)), two_names)
def test_a_reading_does_not_depend_on_the_names(sentence: str, pair: list[str]) -> None:
    first, second = pair
    expected = fact(PLAIN[sentence])
    renaming = {"A": first, "B": second}
    renamed = rename(sentence, first, second)
    said = read_sentence(renamed).canonical()
    assert said == Fact(renaming[expected.head], expected.relation, renaming[expected.tail]).canonical()


@pytest.mark.parametrize("pair", ["N S", "S E", "NE SW", "I A", "A I", "AN IS", "OF TO", "Ash Elm", "E1 W1", "US WE"])
def test_names_that_look_like_words_stay_names(pair: str) -> None:
    first, second = pair.split()
    renaming = {"A": first, "B": second}
    for sentence, text in PLAIN.items():
        expected = fact(text)
        said = read_sentence(rename(sentence, first, second)).canonical()
        assert said == Fact(renaming[expected.head], expected.relation, renaming[expected.tail]).canonical(), sentence


@given(st.sampled_from(sorted(PLAIN)), names)
def test_an_agent_is_never_related_to_itself(sentence: str, name: str) -> None:
    with pytest.raises(UnreadableError):
        read_sentence(rename(sentence, name, name))


@given(st.sampled_from(sorted(PLAIN)), st.sampled_from(["’", "'"]), st.sampled_from(["", ".", " .", "!"]))
def test_punctuation_does_not_matter(sentence: str, apostrophe: str, end: str) -> None:
    varied = sentence.rstrip(".").replace("'", apostrophe) + end
    assert read_sentence(varied).canonical() == fact(PLAIN[sentence]).canonical()


HORIZONTAL = {-1: ["left", "west", "left-hand side"], 1: ["right", "east", "righthand side"]}
VERTICAL = {1: ["above", "over", "north of", "on top of"], -1: ["below", "under", "south of", "beneath"]}


@given(st.data(), st.sampled_from(DIRECTIONS), two_names)
def test_any_two_axes_make_a_diagonal(data: st.DataObject, relation: Relation, pair: list[str]) -> None:
    head, tail = pair
    dx, dy = relation.vector
    parts = []
    if dy:
        parts.append(f"{data.draw(st.sampled_from(VERTICAL[dy]))} {tail}")
    if dx:
        side = data.draw(st.sampled_from(HORIZONTAL[dx]))
        parts.append(f"to the {side} of {tail}")
    parts = data.draw(st.permutations(parts))
    sentence = f"The agent {head} lies {' and '.join(parts)}."
    assert read_sentence(sentence) == Fact(head, relation, tail)


@given(st.integers(1, 12), two_names)
def test_the_hours_of_a_clock_face(hour: int, pair: list[str]) -> None:
    head, tail = pair
    quadrants = [(1, 1), (1, -1), (-1, -1), (-1, 1)]
    full = {12: (0, 1), 3: (1, 0), 6: (0, -1), 9: (-1, 0)}
    expected = full.get(hour) or quadrants[hour // 3]
    assert read_sentence(f"{head} is at the {hour} o'clock position from {tail}.").relation.vector == expected
    later = hour % 12 + 1
    between = read_sentence(f"With {tail} in the centre of a clock face, {head} is between {hour} and {later}.")
    assert between.relation.vector == quadrants[hour % 12 // 3]
    assert between.head == head


@given(st.sampled_from(["{0} is {1} near {0}", "{0} and {1} are {2}"]), st.lists(names, min_size=3, max_size=3))
def test_masking_restores_its_text(pattern: str, agents: list[str]) -> None:
    shape, found = mask(pattern.format(*agents))
    assert shape.format(*found) == pattern.format(*agents)
    assert len(set(found)) == len(found)


def grammar_text() -> st.SearchStrategy[str]:
    cues = (
        "A B C AB Oak left right upper lower top above below over under north of to from than and or with , . ? : ; "
        "is are has sees looks between 10 11 12 9:00 o'clock clock 45 degrees it its it's 's ’s not same row column "
        "spot the where how which from at by neighbour side corner centre respectively the former latter { } {0} {9} "
        "NE N if"
    )
    return st.lists(st.sampled_from(cues.split(" ")), max_size=14).map(" ".join)


@given(st.one_of(st.text(), grammar_text()))
def test_any_text_gives_a_fact_or_a_reason(text: str) -> None:
    try:
        said = read_sentence(text)
    except UnreadableError as error:
        assert error.reason
        assert not isinstance(error.__cause__, Exception)
        return
    _, agents = mask(text)
    assert {said.head, said.tail} == set(agents)
    assert read_sentence(text) == said


@given(st.one_of(st.text(), grammar_text()))
def test_any_question_gives_two_agents_or_a_reason(text: str) -> None:
    try:
        head, tail = read_question(text)
    except UnreadableError as error:
        assert error.reason
        return
    assert {head, tail} == set(mask(text)[1])


@given(
    st.sampled_from(
        [
            "{9} is left of {3}",
            "{0} is {",
            "{2} left of {2}",
            "{}",
            "{0} {1} {0",
            "{0} is left of {12",
            "{" + "9" * 5000 + "} is below {1}",
        ]
    )
)
def test_shapes_that_mask_never_makes_are_refused(shape: str) -> None:
    assert read_shape(shape).reason


@pytest.mark.parametrize(
    "name", ["A", "I", "O", "AA", "ZZ", "IS", "OF", "NE", "S", "A1", "B12", "Alder", "Birch", "Élan"]
)
def test_these_are_agents(name: str) -> None:
    assert is_agent_name(name)
    assert read_sentence(f"{name} is below Q.") == Fact(name, Relation.BELOW, "Q")
    assert read_sentence(f"Above Q is {name}.") == Fact(name, Relation.ABOVE, "Q")


@pytest.mark.parametrize("name", ["", "a", "alder", "North", "The", "To", "Left", "1A", "A B", "A-B", "ABOVE"])
def test_these_are_not(name: str) -> None:
    assert not is_agent_name(name)


@given(two_names, st.sampled_from(Relation))
def test_facts_tell_the_same_from_both_ends(pair: list[str], relation: Relation) -> None:
    said = Fact(pair[0], relation, pair[1])
    assert said.inverse().inverse() == said
    assert said.canonical() == said.inverse().canonical()
    assert said.canonical().head <= said.canonical().tail


def test_the_error_is_an_input_error_and_survives_pickling() -> None:
    error = UnreadableError("A is nowhere.", "it says where an agent is not", 3)
    assert isinstance(error, InputError)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.sentence, copy.reason, copy.index) == (
        str(error),
        error.sentence,
        error.reason,
        error.index,
    )
    assert "sentence 3" in str(error)


def test_a_long_sentence_is_shortened_in_the_message() -> None:
    with pytest.raises(UnreadableError) as caught:
        read_sentence("A " * 10_000)
    assert len(str(caught.value)) < 500
