"""Place the agents of a story, answer its question, and say when that cannot be done.

A fact is one unit step (diagonals one on both axes), so a story is a graph whose links carry offsets. It has an
answer when its question's agents are connected and no cycle of links disagrees with itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stepgame.errors import InputError, did_you_mean
from stepgame.read import (
    Fact,
    UnreadableError,
    mask,
    read_question,
    read_question_shape,
    read_sentence,
    read_shape,
)
from stepgame.relations import NAMES, VECTORS, Relation

__all__ = [
    "Answer",
    "ContradictionError",
    "Outcome",
    "SolveError",
    "UnconnectedError",
    "UnknownAgentError",
    "judge",
    "solve",
    "solve_facts",
]

Outcome = Literal["answered", "unreadable", "contradictory", "unconnected"]
"""What became of a story; see `judge`."""

_AGENTS_SHOWN = 30


@dataclass(frozen=True)
class Answer:
    """The answer to a story's question, with what shows that it is right.

    Attributes:
        label: one of the nine relation names, head as seen from tail.
        path: a shortest chain of links from head to tail: the first link's head is the question's head, each
            link's tail the next one's head, the last link's tail the question's tail.
        positions: (x, y) of every agent connected to the question, in steps, the question's tail at (0, 0).
    """

    label: str
    path: tuple[Fact, ...]
    positions: dict[str, tuple[int, int]]


class SolveError(InputError):
    """A story that can be read but not answered."""


class ContradictionError(SolveError):
    """Two parts of the story place an agent differently.

    Attributes:
        sentence_index: the sentence that closes the contradiction, counted from 0.
        fact: what that sentence says.
        implied: (dx, dy) of its head as seen from its tail by the sentences before it, in steps.
    """

    def __init__(self, sentence_index: int, fact: Fact, implied: tuple[int, int]) -> None:
        super().__init__(
            f"sentence {sentence_index} says that {fact.head} is {fact.relation.label} of {fact.tail} "
            f"(offset {fact.relation.vector}), but the sentences before it imply {Relation.of(*implied).label} "
            f"(offset {implied}); a story must be free of contradiction, correct or remove one of them"
        )
        self.sentence_index = sentence_index
        self.fact = fact
        self.implied = implied

    def __reduce__(self) -> tuple[type[ContradictionError], tuple[int, Fact, tuple[int, int]]]:
        return type(self), (self.sentence_index, self.fact, self.implied)


class UnconnectedError(SolveError):
    """No chain of links joins the two agents of the question."""


class UnknownAgentError(SolveError):
    """The question names an agent that the story does not."""


def solve(story: Sequence[str], question: str) -> Answer:
    """Read a story and answer its question.

    Args:
        story: the sentences, one fact each.
        question: asks where one agent lies as seen from another.

    Returns:
        The label, the shortest path and the positions.

    Raises:
        UnreadableError: if a sentence or the question cannot be read.
        ContradictionError: if the story contradicts itself anywhere, on the path or off it.
        UnknownAgentError: if the question names an agent that the story does not.
        UnconnectedError: if the story does not connect the two agents.
        InputError: if the story is one string instead of a sequence of sentences.
    """
    if isinstance(story, str):
        raise InputError("the story is one string; expected a sequence of sentences, one string each")
    facts = []
    for index, sentence in enumerate(story):
        try:
            facts.append(read_sentence(sentence))
        except UnreadableError as error:
            raise UnreadableError(sentence, error.reason, index) from None
    head, tail = read_question(question)
    return solve_facts(facts, head, tail)


def solve_facts(facts: Sequence[Fact], head: str, tail: str) -> Answer:
    """Answer where ``head`` lies as seen from ``tail``.

    Args:
        facts: the links, each one unit step, in any order and orientation.
        head: the agent asked about.
        tail: the agent it is seen from.

    Returns:
        The label, the shortest path and the positions.

    Raises:
        ContradictionError: if the facts contradict each other; its index counts facts.
        UnknownAgentError: if no fact names ``head`` or ``tail``.
        UnconnectedError: if no chain of links joins them.
    """
    _check_consistent(facts)
    links: dict[str, list[tuple[str, Fact]]] = {}
    for fact in facts:
        links.setdefault(fact.head, []).append((fact.tail, fact))
        links.setdefault(fact.tail, []).append((fact.head, fact))
    for agent in (head, tail):
        if agent not in links:
            raise _unknown_agent(agent, links)
    positions = {tail: (0, 0)}
    toward: dict[str, Fact] = {}
    queue = deque([tail])
    while queue:
        near = queue.popleft()
        x, y = positions[near]
        for far, fact in links[near]:
            if far in positions:
                continue
            step = fact if fact.head == far else fact.inverse()
            dx, dy = step.relation.vector
            positions[far] = (x + dx, y + dy)
            toward[far] = step
            queue.append(far)
    if head not in positions:
        raise UnconnectedError(
            f"no chain of sentences connects {head} with {tail}; {tail} is connected with "
            f"{_listing([agent for agent in positions if agent != tail])}"
        )
    path = []
    agent = head
    while agent != tail:
        path.append(toward[agent])
        agent = toward[agent].tail
    return Answer(Relation.of(*positions[head]).label, tuple(path), positions)


def _unknown_agent(agent: str, known: dict[str, list[tuple[str, Fact]]]) -> UnknownAgentError:
    return UnknownAgentError(
        f"the question names {agent!r}, which the story does not{did_you_mean(agent, known)}; "
        f"its agents: {_listing(sorted(known))}"
    )


def _listing(agents: list[str]) -> str:
    shown = ", ".join(agents[:_AGENTS_SHOWN])
    return f"{shown}, ... ({len(agents)} in all)" if len(agents) > _AGENTS_SHOWN else shown or "none"


def _check_consistent(facts: Sequence[Fact]) -> None:
    """Raise at the first fact that disagrees with those before it, by weighted union-find."""
    parent: dict[str, str] = {}
    offset: dict[str, tuple[int, int]] = {}
    members: dict[str, list[str]] = {}
    for index, fact in enumerate(facts):
        dx, dy = fact.relation.vector
        for agent in (fact.head, fact.tail):
            if agent not in parent:
                parent[agent] = agent
                offset[agent] = (0, 0)
                members[agent] = [agent]
        (hx, hy), (tx, ty) = offset[fact.head], offset[fact.tail]
        root, other = parent[fact.tail], parent[fact.head]
        if root == other:
            implied = (hx - tx, hy - ty)
            if implied != (dx, dy):
                raise ContradictionError(index, fact, implied)
            continue
        shift_x, shift_y = tx + dx - hx, ty + dy - hy
        if len(members[other]) > len(members[root]):
            root, other, shift_x, shift_y = other, root, -shift_x, -shift_y
        for agent in members.pop(other):
            x, y = offset[agent]
            offset[agent] = (x + shift_x, y + shift_y)
            parent[agent] = root
            members[root].append(agent)


def judge(story: Sequence[str], question: str) -> tuple[Outcome, str | None]:
    """Answer one story of many, without exceptions.

    Args:
        story: the sentences, one fact each.
        question: asks where one agent lies as seen from another.

    Returns:
        ``("answered", label)``, or the first of these that applies and None: ``"unreadable"`` (a sentence or the
        question), ``"contradictory"`` (anywhere in the story), ``"unconnected"`` (the question's agents, also
        where the story does not name them).
    """
    place: dict[str, tuple[int, int]] = {}
    group: dict[str, list[str]] = {}
    contradictory = False
    for sentence in story:
        shape, agents = mask(sentence)
        relation, head_slot, tail_slot, _ = read_shape(shape)
        if relation is None:
            return "unreadable", None
        if not contradictory:
            contradictory = not _link(place, group, agents[head_slot], VECTORS[relation], agents[tail_slot])
    shape, agents = mask(question)
    _, head_slot, tail_slot, reason = read_question_shape(shape)
    if reason is not None:
        return "unreadable", None
    if contradictory:
        return "contradictory", None
    head, tail = agents[head_slot], agents[tail_slot]
    if head not in group or tail not in group or group[head] is not group[tail]:
        return "unconnected", None
    (hx, hy), (tx, ty) = place[head], place[tail]
    return "answered", NAMES[Relation.of(hx - tx, hy - ty)]


def _link(
    place: dict[str, tuple[int, int]], group: dict[str, list[str]], head: str, step: tuple[int, int], tail: str
) -> bool:
    """Add one link, head at tail plus step; False if it contradicts those before it.

    Agents in one group share one frame; the smaller group moves into the frame of the larger.
    """
    dx, dy = step
    known, other = group.get(tail), group.get(head)
    if known is None:
        if other is None:
            group[tail] = group[head] = [tail, head]
            place[tail], place[head] = (0, 0), step
            return True
        hx, hy = place[head]
        place[tail] = (hx - dx, hy - dy)
        other.append(tail)
        group[tail] = other
        return True
    tx, ty = place[tail]
    if other is None:
        place[head] = (tx + dx, ty + dy)
        known.append(head)
        group[head] = known
        return True
    hx, hy = place[head]
    shift_x, shift_y = tx + dx - hx, ty + dy - hy
    if known is other:
        return not (shift_x or shift_y)
    if len(other) > len(known):
        known, other, shift_x, shift_y = other, known, -shift_x, -shift_y
    for agent in other:
        x, y = place[agent]
        place[agent] = (x + shift_x, y + shift_y)
        group[agent] = known
    known.extend(other)
    return True
