"""A sentence back to (head, relation, tail), literally: what it says, not what its author meant.

The reader is the independent judge of every phrase bank and of every data set, so it shares no table with the
banks. A reading depends on a sentence only through its *shape*, the sentence with its agents masked; shapes are
few, so each is parsed once and remembered.

Agents are names that begin with a capital letter: single letters ("A" and "I" too), letters with digits ("A1"),
doubled letters ("AB") and capitalised words ("Alder") that are not words of the grammar, see `is_agent_name`.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import NamedTuple

from stepgame.errors import InputError
from stepgame.read_grammar import GrammarError, parse_question, parse_sentence
from stepgame.read_lexicon import is_word
from stepgame.relations import Relation

__all__ = [
    "Fact",
    "Reading",
    "UnreadableError",
    "is_agent_name",
    "mask",
    "read_question",
    "read_question_shape",
    "read_sentence",
    "read_shape",
]

_SHOWN = 160
_SHAPES = 1 << 16


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement: ``head`` lies one step in direction ``relation`` as seen from ``tail``."""

    head: str
    relation: Relation
    tail: str

    def inverse(self) -> Fact:
        """Return the same statement told from the other agent."""
        return Fact(self.tail, self.relation.inverse, self.head)

    def canonical(self) -> Fact:
        """Return the orientation with ``head < tail``, so that equal statements compare equal."""
        return self if self.head <= self.tail else self.inverse()


class Reading(NamedTuple):
    """What a shape says; for a question the relation is None.

    Attributes:
        relation: of head to tail, or None.
        head: index of the head among the agents that `mask` returns, -1 where nothing could be read.
        tail: index of the tail, likewise.
        reason: why nothing could be read, or None.
    """

    relation: Relation | None
    head: int
    tail: int
    reason: str | None


class UnreadableError(InputError):
    """A sentence or a question that the grammar cannot read.

    Attributes:
        sentence: the text as given.
        reason: why, as the end of "because ...".
        index: its place in the story, counted from 0, or None.
    """

    def __init__(self, sentence: str, reason: str, index: int | None = None) -> None:
        where = "" if index is None else f" {index}"
        shown = sentence if len(sentence) <= _SHOWN else f"{sentence[:_SHOWN]}..."
        super().__init__(
            f"cannot read sentence{where} {shown!r}: {reason}; "
            "expected one statement or question about two agents, "
            "such as 'A is left of B.' or 'Where is A relative to B?'"
        )
        self.sentence = sentence
        self.reason = reason
        self.index = index

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str, int | None]]:
        return type(self), (self.sentence, self.reason, self.index)


_NAME = re.compile(r"\b[A-ZÀ-ÖØ-Þ]\w*")
_BRACES = str.maketrans("{}", "\ufffd\ufffd")
_COMPASS = {"N": "north", "E": "east", "S": "south", "W": "west"}
_COMPASS |= {a + b: f"{_COMPASS[a]} {_COMPASS[b]}" for a in "NS" for b in "EW"}
# "A step below B" begins with an article, "A is below B" with an agent.
_ARTICLE = re.compile(r"A(?= (?:step|cell|square|single|short|small|little|bit|move|glance)\b)")
_BEARING = re.compile(r" (?:(?:side|corner|direction) )?of\b")
_LONG = 3


def is_agent_name(name: str) -> bool:
    """Return whether the reader takes this name for an agent wherever it stands in a sentence."""
    match = _NAME.fullmatch(name)
    return match is not None and (not is_word(name) or (len(name) < _LONG and name.isupper()))


def mask(sentence: str) -> tuple[str, tuple[str, ...]]:
    """Split a sentence into its shape and its agents.

    Args:
        sentence: any text.

    Returns:
        The shape, with agents replaced by ``{0}``, ``{1}``, ... in order of first appearance, and the distinct
        agents in that order. Braces of the text itself become U+FFFD.
    """
    slots: dict[str, str] = {}
    if "{" in sentence or "}" in sentence:
        sentence = sentence.translate(_BRACES)
    shouted = sentence.isupper()

    def place(match: re.Match[str]) -> str:
        name = match.group()
        slot = slots.get(name)
        if slot is None:
            if len(name) > 1 and is_word(name) and (shouted or len(name) >= _LONG or not name.isupper()):
                return name
            if name == "A" and _ARTICLE.match(sentence, match.start()):
                return "one"
            slot = f"{{{len(slots)}}}"
        if name in _COMPASS and _BEARING.match(sentence, match.end()):
            return _COMPASS[name]
        slots[name] = slot
        return slot

    return _NAME.sub(place, sentence), tuple(slots)


@functools.lru_cache(maxsize=_SHAPES)
def read_shape(shape: str) -> Reading:
    """Read a masked sentence; never raises, the reason of a failure is in the result."""
    try:
        relation, head, tail = parse_sentence(shape)
    except GrammarError as error:
        return Reading(None, -1, -1, str(error))
    return Reading(relation, head, tail, None)


@functools.lru_cache(maxsize=_SHAPES)
def read_question_shape(shape: str) -> Reading:
    """Read a masked question; never raises, the reason of a failure is in the result."""
    try:
        head, tail = parse_question(shape)
    except GrammarError as error:
        return Reading(None, -1, -1, str(error))
    return Reading(None, head, tail, None)


def read_sentence(sentence: str) -> Fact:
    """Read one sentence literally.

    Args:
        sentence: a statement about two agents, for instance ``"K is at the 10 o'clock position of T."``.

    Returns:
        Where the head lies as seen from the tail; which of the two is called head follows the sentence.

    Raises:
        UnreadableError: if it does not say exactly one thing about exactly two agents.
    """
    shape, agents = mask(sentence)
    relation, head, tail, reason = read_shape(shape)
    if relation is None:
        raise UnreadableError(sentence, reason or "it says nothing")
    return Fact(agents[head], relation, agents[tail])


def read_question(question: str) -> tuple[str, str]:
    """Read one question.

    Args:
        question: for instance ``"What is the relation of the agent A to the agent B?"``.

    Returns:
        Head and tail: the question asks where head lies as seen from tail.

    Raises:
        UnreadableError: if it does not ask for the place of one agent as seen from another.
    """
    shape, agents = mask(question)
    _, head, tail, reason = read_question_shape(shape)
    if reason is not None:
        raise UnreadableError(question, reason)
    return agents[head], agents[tail]
