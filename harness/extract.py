"""One of the nine labels out of free text, by two rules side by side.

*Strict* takes only the form the prompts ask for: the last line that is not blank reads ``Answer: LABEL``.
*Flexible* takes what the text commits to, in whatever words: what follows the last "answer" if that names a
relation, else the whole text. It is a grammar over words: a word of height (above, top, north, ...), one of side (left,
west, ...) or both, joined by nothing but blanks, hyphens and small words, make one mention; a text whose mentions
disagree answers nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.task import Extraction
from stepgame.relations import NAMES, Relation

__all__ = ["EXTRACTION", "extract"]

EXTRACTION = "flexible-1"
"""Name and version of the judging rule; raised whenever a text could be read differently."""

_STRICT = re.compile(rf"Answer: ({'|'.join(NAMES)})\.?")

_UP = "above over atop upper top up upward upwards north northern higher".split()
_DOWN = "below under underneath beneath lower bottom down downward downwards south southern".split()
_LEFT = "left west western leftward leftwards lefthand".split()
_RIGHT = "right east eastern rightward rightwards righthand".split()
_SAME = "overlap overlaps overlapping overlapped coincide coincides coincident".split()

_WORDS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(_UP, (0, 1)),
    **dict.fromkeys(_DOWN, (0, -1)),
    **dict.fromkeys(_LEFT, (-1, 0)),
    **dict.fromkeys(_RIGHT, (1, 0)),
    **dict.fromkeys(_SAME, (0, 0)),
    "nw": (-1, 1),
    "ne": (1, 1),
    "sw": (-1, -1),
    "se": (1, -1),
}
# Two directions written as one word: northwest, topleft, upperleft.
_WORDS |= {
    high + side: (dx, dy)
    for high, dy in (("north", 1), ("south", -1), ("top", 1), ("upper", 1), ("bottom", -1), ("lower", -1))
    for side, dx in (("left", -1), ("right", 1), ("west", -1), ("east", 1))
}

# Small words that may stand between the two halves of a diagonal.
_GLUE = frozenset("and also to the on of a hand side".split())
_MAX_GLUE = 5

_NOT = frozenset("not never neither nor isn't cannot".split())
# "right" that names no side.
_IDIOM = re.compile(
    r"\b(?:all right|(?:that's|that is|this is|you're|you are) right(?=[.,!]|$)|"
    r"right (?:answer|choice|option|now|away)|over (?:there|here)|top of (?:each other|one another)|"
    r"right(?= (?:above|below|over|under|beneath|on top)))\b"
)
_SAME_PLACE = re.compile(
    r"\b(?:in |at |on )?the (?:very |exact )?same (?:place|position|spot|location|point|cell|square)\b"
)
_CUE = re.compile(r"\banswer\b(?:\s+is)?\s*[:=-]?\s*")
_TOKEN = re.compile(r"[a-z']+|[.,;:!?\n]")


def extract(text: str) -> Extraction:
    """Read the answer out of free text.

    Args:
        text: what a model wrote, without its prompt.

    Returns:
        Both readings; see the module's description.
    """
    if not text.strip():
        return Extraction(None, None, "empty")
    strict = _STRICT.fullmatch(text.rstrip().rpartition("\n")[2].strip())
    found = _committed(_normalise(text))
    if len(found) == 1:
        return Extraction(strict[1] if strict else None, found.pop().label, "answer")
    return Extraction(strict[1] if strict else None, None, "several" if found else "none")


def _normalise(text: str) -> str:
    plain = re.sub(r"[*_`\"“”#]+", "", text.lower().replace("’", "'"))
    plain = _SAME_PLACE.sub("overlap", plain)
    return _IDIOM.sub(" ", plain)


def _committed(text: str) -> set[Relation]:
    """Return the relations that the text names where it commits itself; more than one is no commitment."""
    cues = list(_CUE.finditer(text))
    if cues:
        # The sentence right after the last cue; the answer may also stand on the line below it.
        rest = text[cues[-1].end() :].lstrip()
        first = re.split(r"\n|\.(?:\s|$)", rest, maxsplit=1)[0]
        found = set(_mentions(first))
        if found:
            return found
    return set(_mentions(text))


def _mentions(text: str) -> Iterator[Relation]:
    """Yield the relations named, in order; a negated one is left out."""
    tokens = _TOKEN.findall(text)
    position = 0
    while position < len(tokens):
        vector = _WORDS.get(tokens[position])
        if vector is None:
            position += 1
            continue
        negated = any(token in _NOT for token in tokens[max(0, position - 4) : position])
        other = _other_half(tokens, position + 1, vector)
        if other is not None:
            end, (dx, dy) = other
            vector, position = (vector[0] + dx, vector[1] + dy), end
        if not negated:
            yield Relation.of(*vector)
        position += 1


def _other_half(tokens: list[str], start: int, vector: tuple[int, int]) -> tuple[int, tuple[int, int]] | None:
    """Find the word that makes a diagonal of a direction: its position and vector."""
    if 0 not in vector or vector == (0, 0):
        return None
    for position in range(start, min(start + _MAX_GLUE + 1, len(tokens))):
        token = tokens[position]
        other = _WORDS.get(token)
        if other is not None:
            crossing = 0 in other and other != (0, 0) and (vector[0] == 0) != (other[0] == 0)
            return (position, other) if crossing else None
        if token not in _GLUE:
            return None
    return None
