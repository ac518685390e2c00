"""Relations that a piece of text mentions, with the agents that stand beside them, for text that no grammar reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from stepgame.relations import Relation

__all__ = ["Mention", "mentions"]


class Mention(NamedTuple):
    """One relation named in a text.

    Attributes:
        relation: what is named.
        figure: the slot of the agent that stands before it as the one that is located; empty for none.
        ground: the slot of the agent it is seen from; empty for none.
    """

    relation: Relation
    figure: str
    ground: str


_UP = (
    "above over atop upper top topmost up upward upwards north northern northward northwards northerly higher overhead"
).split()
_DOWN = (
    "below under underneath beneath lower bottom down downward downwards south southern southward southwards southerly"
).split()
_LEFT = "left leftward leftwards leftmost lefthand west western westward westwards westerly".split()
_RIGHT = "right rightward rightwards rightmost righthand east eastern eastward eastwards easterly".split()
_SAME = (
    "overlap overlaps overlapping overlapped coincide coincides coincident coinciding colocated collocated superimposed"
).split()

_WORDS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(_UP, (0, 1)),
    **dict.fromkeys(_DOWN, (0, -1)),
    **dict.fromkeys(_LEFT, (-1, 0)),
    **dict.fromkeys(_RIGHT, (1, 0)),
    **dict.fromkeys(_SAME, (0, 0)),
    **dict.fromkeys(("nw", "ul", "tl"), (-1, 1)),
    **dict.fromkeys(("ne", "ur", "tr"), (1, 1)),
    **dict.fromkeys(("sw", "ll", "bl"), (-1, -1)),
    **dict.fromkeys(("se", "lr", "br"), (1, -1)),
}
# Two directions written as one word: northwest, topleft, upperleft.
_WORDS |= {
    high + side + ending: (dx, dy)
    for high, dy in (("north", 1), ("south", -1), ("top", 1), ("upper", 1), ("bottom", -1), ("lower", -1))
    for side, dx in (("left", -1), ("right", 1), ("west", -1), ("east", 1))
    for ending in ("", "ern", "erly", "ward", "wards")
}

_HOURS = {
    name: hour for hour, name in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)
}
_AXES = {0: (0, 1), 3: (1, 0), 6: (0, -1), 9: (-1, 0)}
_QUARTERS = ((1, 1), (1, -1), (-1, -1), (-1, 1))

# Small words that may stand between the two halves of a diagonal.
_GLUE = frozenset("and but also to the on of a its hand side slightly directly diagonally somewhat bit in".split())
_MAX_GLUE = 5
# What may stand between a direction and the agent it is seen from, and before an agent that something is seen from.
_LINK = frozenset("of to from than the agent side hand relative with respect as seen corner position direction".split())
_FROM = frozenset("of to from than by for at".split())
_MAX_LINK = 5

_NOT = frozenset("not never neither nor isn't cannot can't no aren't doesn't wasn't rather".split())
_SCOPE = frozenset("but , ; : . ! ? instead so it".split())
_REACH = 6

_IDIOM = re.compile(
    r"\b(?:(?:none|any|all|one|each) of the above|(?:from|on|given) the above(?=\s*,)|above[- ]mentioned|"
    r"the above (?=information|steps|story|facts|statements|options|sentences|reasoning|analysis|calculations?)|"
    r"right (?:answer|choice|option|now|away|order)|over (?:there|here|time|all)|"
    r"on top of (?=each other|one another)|top of (?=each other|one another)|set up|end up|ends up|add up|adds up|"
    r"sum up|based upon|left (?=with\b)|step down|break(?:ing)? down|broken down|not (?=only|just|merely)|"
    r"right(?= (?:above|below|over|under|underneath|beneath|on top|next)))"
)
_SAME_PLACE = re.compile(
    r"\b(?:in |at |on |share |shares |occupy |occupies )?(?:the |an )?(?:very |exact |exactly )?(?:same|identical) "
    r"(?:place|position|spot|location|point|cell|square|coordinates?)\b|\bon top of (?:each other|one another)|"
    r"\bco-located\b"
)
_TOKEN = re.compile(r"\{\d+\}|o'clock|[a-z']+|\d{1,2}:\d\d|\d+|[.,;:!?/()]")


def mentions(shape: str) -> Iterator[Mention]:
    """Yield the relations that a text names, in order; negated ones are left out.

    Args:
        shape: text whose agents are written ``{0}``, ``{1}``, ...; see `stepgame.read.mask`.
    """
    lowered = _IDIOM.sub(" ", _SAME_PLACE.sub("overlap", shape.lower()))
    tokens = _TOKEN.findall(lowered)
    position = 0
    while position < len(tokens):
        start = position
        found = _direction(tokens, position)
        if found is None:
            position += 1
            continue
        vector, position = found
        other = _other_half(tokens, position, vector)
        if other is not None:
            vector, position = other
        if not _negated(tokens, start):
            yield Mention(Relation.of(*vector), _figure(tokens, start), _ground(tokens, position))


def _direction(tokens: list[str], at: int) -> tuple[tuple[int, int], int] | None:
    """Return the direction that stands at a place and the place behind it."""
    token = tokens[at]
    vector = _WORDS.get(token)
    if vector is not None:
        return vector, at + 1
    after = tokens[at + 1] if at + 1 < len(tokens) else ""
    hour, _, minutes = token.partition(":")
    if after != "o'clock" and not (minutes and after in ("position", "direction")):
        return None
    number = _HOURS.get(hour) or (int(hour) if hour.isdecimal() and len(hour) <= 2 else 0)
    if not 1 <= number <= 12:
        return None
    number %= 12
    exact = not minutes.strip("0")
    return (_AXES[number] if exact and number in _AXES else _QUARTERS[number // 3]), at + 2


def _other_half(tokens: list[str], start: int, vector: tuple[int, int]) -> tuple[tuple[int, int], int] | None:
    """Return the diagonal that a direction is one half of, and the place behind the other half."""
    if 0 not in vector or vector == (0, 0):
        return None
    for position in range(start, min(start + _MAX_GLUE + 1, len(tokens))):
        token = tokens[position]
        other = _WORDS.get(token)
        if other is not None:
            crossing = 0 in other and other != (0, 0) and (vector[0] == 0) != (other[0] == 0)
            return ((vector[0] + other[0], vector[1] + other[1]), position + 1) if crossing else None
        if token not in _GLUE:
            return None
    return None


def _negated(tokens: list[str], at: int) -> bool:
    for token in reversed(tokens[max(0, at - _REACH) : at]):
        if token in _SCOPE:
            return False
        if token in _NOT:
            return True
    return False


def _figure(tokens: list[str], at: int) -> str:
    """Return the nearest agent before a place, unless it is one that something is seen from."""
    for position in range(at - 1, -1, -1):
        if tokens[position].startswith("{"):
            before = [token for token in tokens[max(0, position - 3) : position] if token not in ("the", "agent")]
            return "" if before and before[-1] in _FROM else tokens[position]
    return ""


def _ground(tokens: list[str], at: int) -> str:
    """Return the agent that a direction is seen from, where its own words say so."""
    for token in tokens[at : at + _MAX_LINK + 1]:
        if token.startswith("{"):
            return token
        if token not in _LINK:
            return ""
    return ""
