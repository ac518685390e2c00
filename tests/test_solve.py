"""The solver: right answers, shortest paths, contradictions found where they close, disconnection told."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stepgame.errors import InputError
from stepgame.read import Fact, UnreadableError
from stepgame.relations import VECTORS, Relation
from stepgame.solve import (
    ContradictionError,
    SolveError,
    UnconnectedError,
    UnknownAgentError,
    judge,
    solve,
    solve_facts,
)

Places = dict[str, tuple[int, int]]


@st.composite
def worlds(draw: st.DrawFn, least: int = 2, most: int = 12) -> tuple[Places, list[Fact]]:
    """Agents grown step by step into a connected plan, every link said from either end, with some cycles."""
    size = draw(st.integers(least, most))
    places: Places = {"A0": (0, 0)}
    facts = []
    for number in range(1, size):
        anchor = draw(st.sampled_from(sorted(places)))
        relation = draw(st.sampled_from(Relation))
        x, y = places[anchor]
        places[f"A{number}"] = (x + relation.vector[0], y + relation.vector[1])
        facts.append(Fact(f"A{number}", relation, anchor))
    said = {(fact.head, fact.tail) for fact in facts}
    near = [
        Fact(a, Relation.of(places[a][0] - places[b][0], places[a][1] - places[b][1]), b)
        for a in places
        for b in places
        if a < b
        and (a, b) not in said
        and (b, a) not in said
        and (places[a][0] - places[b][0], places[a][1] - places[b][1]) in VECTORS
    ]
    if near:
        facts += draw(st.lists(st.sampled_from(near), max_size=4, unique=True))
    facts = draw(st.permutations(facts))
    return places, [fact.inverse() if draw(st.booleans()) else fact for fact in facts]


def story_of(facts: list[Fact]) -> list[str]:
    return [
        f"{fact.head} overlaps {fact.tail}."
        if fact.relation is Relation.OVERLAP
        else f"{fact.head} is {fact.relation.label} of {fact.tail}."
        if fact.relation.label not in {"above", "below"}
        else f"{fact.head} is {fact.relation.label} {fact.tail}."
        for fact in facts
    ]


def ask(head: str, tail: str) -> str:
    return f"Where is {head} relative to {tail}?"


@given(worlds(), st.data())
def test_the_answer_is_where_the_agents_are(world: tuple[Places, list[Fact]], data: st.DataObject) -> None:
    places, facts = world
    head, tail = data.draw(st.permutations(sorted(places)).map(lambda order: order[:2]))
    expected = Relation.of(places[head][0] - places[tail][0], places[head][1] - places[tail][1])
    answer = solve_facts(facts, head, tail)
    assert answer.label == expected.label
    tail_x, tail_y = places[tail]
    assert answer.positions == {agent: (x - tail_x, y - tail_y) for agent, (x, y) in places.items()}
    assert solve_facts(facts, tail, head).label == expected.inverse.label
    assert solve(story_of(facts), ask(head, tail)) == answer
    assert judge(story_of(facts), ask(head, tail)) == ("answered", expected.label)


@given(worlds(), st.data())
def test_the_path_is_a_shortest_chain_of_stated_links(world: tuple[Places, list[Fact]], data: st.DataObject) -> None:
    places, facts = world
    head, tail = data.draw(st.permutations(sorted(places)).map(lambda order: order[:2]))
    path = solve_facts(facts, head, tail).path
    stated = {fact.canonical() for fact in facts}
    assert path[0].head == head and path[-1].tail == tail
    assert all(a.tail == b.head for a, b in pairwise(path))
    assert all(link.canonical() in stated for link in path)
    reached, distance = {head}, 0
    while tail not in reached:
        reached |= {f.tail for f in facts if f.head in reached} | {f.head for f in facts if f.tail in reached}
        distance += 1
    assert len(path) == distance


@given(worlds(), st.data())
def test_the_order_of_the_sentences_does_not_matter(world: tuple[Places, list[Fact]], data: st.DataObject) -> None:
    places, facts = world
    head, tail = sorted(places)[:2]
    shuffled = data.draw(st.permutations(facts))
    first, second = solve_facts(facts, head, tail), solve_facts(shuffled, head, tail)
    assert (first.label, first.positions, len(first.path)) == (second.label, second.positions, len(second.path))


@given(worlds(least=3), st.data())
def test_a_false_link_is_a_contradiction(world: tuple[Places, list[Fact]], data: st.DataObject) -> None:
    places, facts = world
    head, tail = data.draw(st.permutations(sorted(places)).map(lambda order: order[:2]))
    true = (places[head][0] - places[tail][0], places[head][1] - places[tail][1])
    relation = data.draw(st.sampled_from([relation for relation in Relation if relation.vector != true]))
    false = Fact(head, relation, tail)
    with pytest.raises(ContradictionError) as caught:
        solve_facts([*facts, false], *sorted(places)[:2])
    assert caught.value.sentence_index == len(facts)
    assert caught.value.fact == false
    assert caught.value.implied == true
    at = data.draw(st.integers(0, len(facts)))
    mixed = [*facts[:at], false, *facts[at:]]
    with pytest.raises(ContradictionError) as caught:
        solve(story_of(mixed), ask(*sorted(places)[:2]))
    assert caught.value.sentence_index >= at
    assert judge(story_of(mixed), ask(*sorted(places)[:2])) == ("contradictory", None)
    # Without the sentence that closes it, the part before it is free of contradiction.
    before = mixed[: caught.value.sentence_index]
    assert before
    solve_facts(before, before[0].head, before[0].tail)


@given(worlds(), worlds())
def test_strangers_change_nothing_and_connect_nothing(
    world: tuple[Places, list[Fact]], other: tuple[Places, list[Fact]]
) -> None:
    places, facts = world
    strangers = [Fact(f.head.replace("A", "Z"), f.relation, f.tail.replace("A", "Z")) for f in other[1]]
    head, tail = sorted(places)[:2]
    assert solve_facts([*strangers, *facts], head, tail) == solve_facts(facts, head, tail)
    with pytest.raises(UnconnectedError):
        solve_facts([*strangers, *facts], head, "Z0")
    assert judge(story_of([*strangers, *facts]), ask(head, "Z0")) == ("unconnected", None)


@given(worlds(), worlds(least=3), st.data())
def test_a_contradiction_off_the_path_counts(
    world: tuple[Places, list[Fact]], other: tuple[Places, list[Fact]], data: st.DataObject
) -> None:
    places, facts = world
    strangers = [Fact(f.head.replace("A", "Z"), f.relation, f.tail.replace("A", "Z")) for f in other[1]]
    wrong = data.draw(st.sampled_from(strangers))
    flipped = Fact(wrong.head, wrong.relation.inverse, wrong.tail)
    assume(flipped != wrong)
    with pytest.raises(ContradictionError):
        solve_facts([*facts, *strangers, flipped], *sorted(places)[:2])


def test_steps_count_so_one_and_two_to_the_left_contradict() -> None:
    story = ["A is left of B.", "B is left of C.", "A is left of C."]
    with pytest.raises(ContradictionError) as caught:
        solve(story, ask("A", "C"))
    assert caught.value.sentence_index == 2
    assert caught.value.implied == (-2, 0)
    assert solve(story[:2], ask("A", "C")).label == "left"


def test_a_long_chain_is_placed_step_by_step() -> None:
    facts = [Fact(f"N{i + 1}", Relation.UPPER_RIGHT, f"N{i}") for i in range(5000)]
    answer = solve_facts(facts, "N5000", "N0")
    assert answer.label == "upper-right"
    assert answer.positions["N5000"] == (5000, 5000)
    assert len(answer.path) == 5000


def test_an_unknown_agent_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownAgentError, match=r"'C'.*its agents: A, B"):
        solve(["A is left of B."], ask("A", "C"))
    with pytest.raises(UnknownAgentError, match="did you mean 'Alder'"):
        solve(["Alder is left of Birch."], ask("Birch", "Aldar"))
    assert judge(["A is left of B."], ask("A", "C")) == ("unconnected", None)
    with pytest.raises(UnknownAgentError, match="its agents: none"):
        solve([], ask("A", "B"))


def test_an_unreadable_sentence_is_told_with_its_place() -> None:
    story = ["A is left of B.", "A is beside B."]
    with pytest.raises(UnreadableError, match=r"sentence 1 .*says nothing about direction") as caught:
        solve(story, ask("A", "B"))
    assert caught.value.index == 1
    assert judge(story, ask("A", "B")) == ("unreadable", None)
    assert judge(story[:1], "Is A left of B?") == ("unreadable", None)
    with pytest.raises(UnreadableError, match="does not ask"):
        solve(story[:1], "Is A left of B?")


def test_unreadable_comes_before_contradictory() -> None:
    story = ["A is left of B.", "A is right of B.", "A is beside B."]
    assert judge(story, ask("A", "B")) == ("unreadable", None)
    assert judge(story[:2], ask("A", "B")) == ("contradictory", None)


def test_a_string_is_no_story() -> None:
    with pytest.raises(InputError, match="sequence of sentences"):
        solve("A is left of B.", ask("A", "B"))


def test_errors_survive_pickling() -> None:
    error = ContradictionError(4, Fact("A", Relation.LEFT, "B"), (2, 0))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.sentence_index, copy.fact, copy.implied) == (str(error), 4, error.fact, (2, 0))
    assert isinstance(error, SolveError)
    assert "\n" not in str(error)
