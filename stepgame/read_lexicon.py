"""The words the reader knows: cues of direction, of role and of doubt, and what may be passed over.

The lexer turns a masked sentence (agents written ``{0}``, ``{1}``, ...) into a list of `Token`; the grammar in
``read_grammar`` decides who lies where. Words are grouped by what they do, never by the sentences they occur
in. A word in no group is refused unless its form and place make it a verb or an adverb of manner.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

__all__ = ["Kind", "Token", "is_word", "lex", "words_of"]


class Kind(Enum):
    """What a token does in its sentence."""

    AGENT = "agent"
    POSSESSIVE = "'s"
    DIRECTION = "direction"
    AXIS = "axis"
    PREPOSITION = "preposition"
    IT = "it"
    AND = "and"
    BREAK = "break"
    STOP = "stop"
    WITH = "with"
    HAVE = "have"
    NEAR = "near"
    CONTACT = "contact"
    BY = "by"
    THING = "thing"
    PLACE = "place"
    NEIGHBOUR = "neighbour"
    CENTRE = "centre"
    VERB = "verb"
    STRANGE_VERB = "strange verb"
    WHERE = "where"
    RESPECTIVELY = "respectively"
    BAD = "bad"


class Token(NamedTuple):
    """One meaningful piece of a sentence.

    Attributes:
        kind: what it does.
        word: its text, in lower case; for `Kind.BAD` the reason why the sentence cannot be read.
        vector: for a direction, figure minus ground as (dx, dy).
        slot: for an agent, its number in the mask.
        bare: for a direction, whether it takes its ground without "of", as in "above B".
        exact: for a direction, whether it is a full bearing, so that other cues may only repeat a part of it.
        source: for a direction, whether it says where its figure acts from, as in "touches B from below".
    """

    kind: Kind
    word: str
    vector: tuple[int, int] = (0, 0)
    slot: int = -1
    bare: bool = False
    exact: bool = False
    source: bool = False


_LEFT, _RIGHT, _UP, _DOWN, _SAME = (-1, 0), (1, 0), (0, 1), (0, -1), (0, 0)

_SIDES = {
    _LEFT: "left lefthand leftmost leftward leftwards leftside west western westward westwards westernmost",
    _RIGHT: "right righthand rightmost rightward rightwards rightside east eastern eastward eastwards easternmost",
    _UP: "top upper up upward upwards uppermost topmost higher highest overhead north northern northward "
    "northwards northernmost upstairs topside",
    _DOWN: "bottom lower down downward downwards lowermost bottommost lowest south southern southward "
    "southwards southernmost downstairs",
}
_BARE = {
    _UP: "above over atop tops topping overtops crowns surmounts",
    _DOWN: "below under underneath beneath underlies",
    _SAME: "overlaps overlap overlapping overlapped coincides coincide coinciding",
}
_COMPOUNDS = {
    (_UP, _LEFT): "upperleft upleft topleft northwest northwestern nw",
    (_UP, _RIGHT): "upperright upright topright northeast northeastern ne",
    (_DOWN, _LEFT): "lowerleft downleft bottomleft southwest southwestern sw",
    (_DOWN, _RIGHT): "lowerright bottomright southeast southeastern se",
}
_HOURS = {0: _UP, 3: _RIGHT, 6: _DOWN, 9: _LEFT}

_NEGATION = "not never no neither nor none nowhere without cannot cant isnt except instead unlike false wrong rather"
_HEDGE = (
    "or either maybe perhaps possibly probably might may could should if when seemingly supposedly allegedly "
    "presumably apparently likely unlikely unless whether almost nearly hardly barely scarcely sometimes often usually "
    "unsure guess believe think less"
)
_DISTANCE = (
    "far several few couple many distance half twice double thrice well way two three four five six seven eight "
    "nine ten eleven twelve dozen hundred some"
)
_OFF_PLANE = "behind inside within among outside opposite across ahead through toward towards facing beyond between"
_REASONS = {
    "negation": "it says where an agent is not ({word!r})",
    "hedge": "it leaves the relation open ({word!r})",
    "distance": "it gives a distance other than one step ({word!r})",
    "off-plane": "{word!r} is no direction on the grid",
    "movement": "it tells of a wish or a movement, not of a place ({word!r})",
    "view": "it names the side from which one looks, not who stands there ({word!r})",
    "by": "it may mean done by an agent or lying by it ('{word} by')",
    "word": "the word {word!r} is not known here",
    "angle": "the angle of {word} degrees is none of the eight directions",
    "hour": "{word!r} is no hour of a clock face",
}

_FILLER = (
    "a an the this that these those there here both in on into onto upon same labeled labelled named called marked "
    "directly immediately exactly exact just slightly somewhat simply also too then now still always currently indeed "
    "approximately about roughly around due straight precisely squarely clearly certainly definitely only quite very "
    "bit little tad small short single ones another whole together so thus hence therefore further farther more "
    "closer nearer close off gap gaps them their they he she you your we us our someone anyone who whose "
    "row rows column columns step steps move moves apart away aside pair itself own such each adjacent neighbouring "
    "neighboring immediate direct next degree degrees letter marker symbol clock dial face scene grid map board "
    "picture plane line stack stacked parallel relation please spatially spatial relationship describe tell me name "
    "state determine most because since given 'd 'll 've"
)
_FILLER_PHRASES = (
    "how|which way|"
    "over there|over here|each other|one another|next to each other|next to one another|side by side|of the two|"
    "the two|the two of them|of them|between them|off center|off centre|as well|a clock face|relative to each other|"
    "of each other|it is|it 's|to each other|with each other|of a clock|of the clock|from each other|"
    "the relation of|the position of|the location of|the place of"
)
_VERBS = (
    "is are was were be been being am lies lie lying lay stands stand standing stood sits sit sitting sat "
    "located placed positioned situated set found seen put arranged aligned drawn shown appears appear remains "
    "remain stays stay rests rest waits wait hangs hang hanging resides lives floats presents comes come goes go "
    "going gone moving walk walking look looking looks turn turning head heading reach reaches reaching get gets "
    "getting arrive arrives leads lead leading brings bring takes take taken taking starting start starts share "
    "shares sharing form forms forming make makes making occupies occupy occupied fills can will would do does did "
    "kept belongs viewed viewing observed spotted visible glance glancing travel travelling climb climbing drop "
    "dropping stepping perched parked laid fixed relate relates lined let imagine suppose reached followed flanked "
    "bordered met joined"
)
_HAVE = (
    "has have had having finds find sees see holds hold keeps keep spots notices notice meets meet hosts "
    "encounters observes observe carries bears houses contains watches watch"
)
_THINGS = (
    "object objects agent agents node nodes item items thing things entity entities block square squares one what which"
)
_PLACES = (
    "side sides corner corners position positions direction directions hand location place spot cell tile area part "
    "edge border end point quadrant portion region zone angle"
)
_NEAR = "beside|near|by the side of|next to|adjacent to|close to|alongside"
_CONTACT = "touching|touches|touch|borders|bordering|adjoins|adjoining|joins|neighbours|neighbors"
_RELATIVE = (
    "relative to|with respect to|in respect to|with regard to|with reference to|in reference to|in relation to|"
    "with relation to|compared to|compared with|as compared to|as compared with|in comparison to|"
    "in comparison with|from the point of view of|from the viewpoint of|from the perspective of|"
    "from the standpoint of|from the position of|as seen from|seen from|viewed from|as viewed from"
)
_SAME_PLACES = ("spot", "place", "position", "cell", "square", "point", "location", "tile")
_SAME_LEADS = "same|share a|shares a|share one|shares its|sharing a|share their|identical"
_LINE_LEADS = (
    "same|common|in a|in one|in a single|share a|shares a|share one|share the|shares the|sharing a|form a|forming a|"
    "share their|shares its"
)
_LINES = {"row": "horizontal", "level": "horizontal", "height": "horizontal", "column": "vertical"}

_GROUPS: tuple[tuple[Kind, list[str]], ...] = (
    (Kind.VERB, _VERBS.split()),
    (Kind.HAVE, _HAVE.split()),
    (Kind.PLACE, _PLACES.split()),
    (Kind.THING, _THINGS.split()),
    (Kind.NEIGHBOUR, "neighbour neighbor".split()),
    (Kind.NEAR, _NEAR.split("|")),
    (Kind.CONTACT, _CONTACT.split("|")),
    (Kind.PREPOSITION, "of to from than at for as".split()),
    (Kind.CENTRE, "center centre middle origin reference centered centred".split()),
    (Kind.IT, "it its other".split()),
    (Kind.BREAK, "while whereas but".split()),
    (Kind.AND, ["and"]),
    (Kind.WITH, ["with"]),
    (Kind.WHERE, ["where"]),
    (Kind.RESPECTIVELY, ["respectively"]),
)
_REFUSED: tuple[tuple[str, list[str]], ...] = (
    ("negation", _NEGATION.split()),
    ("hedge", [*_HEDGE.split(), "on top of each other"]),
    ("distance", [*_DISTANCE.split(), "more than", "at least", "at most"]),
    ("off-plane", [*_OFF_PLANE.split(), "in front of"]),
)


def _table() -> dict[tuple[str, ...], Token | None]:
    """Map every known word or phrase to its token, or to None where it is passed over."""
    table: dict[tuple[str, ...], Token | None] = {}
    for phrase in [*_FILLER.split(), *_FILLER_PHRASES.split("|")]:
        table[tuple(phrase.split())] = None
    for kind, phrases in _GROUPS:
        for phrase in phrases:
            table[tuple(phrase.split())] = Token(kind, phrase)
    for phrase in _RELATIVE.split("|"):
        table[tuple(phrase.split())] = Token(Kind.PREPOSITION, "relative to")
    for name, phrases in _REFUSED:
        for phrase in phrases:
            table[tuple(phrase.split())] = _bad(name, phrase)
    for axis in ("horizontal", "vertical", "diagonal"):
        table[axis,] = table[f"{axis}ly",] = Token(Kind.AXIS, axis)
    for noun, axis in _LINES.items():
        for lead in _LINE_LEADS.split("|"):
            table[*lead.split(), noun] = Token(Kind.AXIS, axis)
    for place in _SAME_PLACES:
        for lead in _SAME_LEADS.split("|"):
            table[*lead.split(), place] = Token(Kind.DIRECTION, f"{lead} {place}", _SAME)
    _put_directions(table)
    return table


def _put_directions(table: dict[tuple[str, ...], Token | None]) -> None:
    for vector, words in _SIDES.items():
        for word in words.split():
            table[word,] = Token(Kind.DIRECTION, word, vector)
    for vector, words in _BARE.items():
        for word in words.split():
            table[word,] = Token(Kind.DIRECTION, word, vector, bare=True)
    for (vertical, horizontal), words in _COMPOUNDS.items():
        for word in words.split():
            table[word,] = Token(Kind.DIRECTION, word, (horizontal[0], vertical[1]))
    # In a plan seen from above, the front is the far edge: "the front right corner" is the upper right one.
    for side in (_LEFT, _RIGHT):
        word = _SIDES[side].split()[0]
        table["front", word] = Token(Kind.DIRECTION, f"front {word}", (side[0], 1))


def _bad(name: str, word: str) -> Token:
    return Token(Kind.BAD, _REASONS[name].format(word=word))


_TABLE = _table()
_LONGEST = max(map(len, _TABLE))
_VOCABULARY = frozenset(word for phrase in _TABLE for word in phrase) | frozenset(
    "clock o'clock former latter first second by between".split()
)
_NUMBERS = {
    word: value
    for value, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())
}
_ORDINALS = {"former": 0, "first": 0, "latter": 1, "second": 1}
_PIECES = re.compile(r"\{\d{1,4}\}|\d{1,2}:\d\d|\d+|o'clock|(?:[^\W\d_]+n't)|[^\W\d_]+|'[a-z]*|[.,;:!?()]|\S")
_DASHES = str.maketrans(
    {"’": "'", "‘": "'", "`": "'", "´": "'", "‐": "-", "‑": "-", "–": ",", "—": ",", "°": " degrees "}
)
_OVER_TAIL = frozenset("to on at in by".split())
_RIGHT_STRONG = frozenset("above below over under underneath beneath atop where next beside".split())
_RIGHT_TAIL = _RIGHT_STRONG | frozenset("on at to by in".split())
_RIGHT_HEAD = frozenset("the its 's and up down top bottom upper lower far diagonally".split())
_COPULAS = frozenset("is are was were stands sits lies rests stays waits ,".split())
_VIEWERS = frozenset("you one we someone looking standing seen viewed going moving starting".split())
_CENTRES = frozenset("center centre middle origin reference".split())
_AGENTIVE = frozenset("placed located positioned situated set put found seen observed spotted viewed".split())
# After these, "it is A" tells where A is as seen from "it", and no new clause begins.
_BEFORE_GROUND = frozenset("above below over under underneath beneath of from atop".split())
_SEEING = frozenset("seen viewed looking observed looked".split())


def is_word(word: str) -> bool:
    """Return whether the grammar owns this word, in any case, so that it cannot name an agent."""
    return word.lower() in _VOCABULARY


def words_of(shape: str) -> list[str]:
    """Split a masked sentence into lower-case words, placeholders and punctuation."""
    text = shape.lower().translate(_DASHES)
    text = re.sub(r"(?<=\w)-(?=\w)", " ", text)
    return _PIECES.findall(text)


def lex(shape: str) -> list[Token]:
    """Turn a masked sentence into its meaningful tokens, in order; what may be passed over is left out."""
    words = words_of(shape)
    clock = any(word in {"clock", "o'clock", "dial"} or ":" in word[1:] for word in words)
    return list(_lex(words, clock))


def _lex(words: list[str], clock: bool) -> Iterator[Token]:
    at = 0
    while at < len(words):
        token, used = _special(words, at, clock)
        if not used:
            token, used = _known(words, at)
        if not used:
            token, used = _unknown(words, at), 1
        if token is not None:
            yield token
        at += used


def _known(words: list[str], at: int) -> tuple[Token | None, int]:
    for length in range(min(_LONGEST, len(words) - at), 0, -1):
        phrase = tuple(words[at : at + length])
        if phrase in _TABLE:
            return _TABLE[phrase], length
    return None, 0


def _special(words: list[str], at: int, clock: bool) -> tuple[Token | None, int]:
    """Read what one table cannot: agents, punctuation, numbers, and words whose neighbours decide."""
    word = words[at]
    after = words[at + 1] if at + 1 < len(words) else ""
    before = words[at - 1] if at else ""
    token: Token | None = None
    used = 1
    if word[0] == "{" and len(word) > 1:
        token = Token(Kind.AGENT, word, slot=int(word[1:-1]))
    elif word in ".!?;:":
        token = Token(Kind.STOP, word)
    elif word in ",()":
        token = Token(Kind.BREAK, word)
    elif word in _ORDINALS and before in {"the", "first", ","}:
        token = Token(Kind.AGENT, word, slot=_ORDINALS[word])
    elif word[0] == "'":
        token = _apostrophe(word, before, after)
    elif word.endswith("n't"):
        token = _bad("negation", word)
    elif _is_idle(words, at):
        pass
    elif word in {"steps", "moves"} and before.startswith("{"):
        token = Token(Kind.STRANGE_VERB, word)
    elif word == "it" and after in {"is", "'s"} and before in _BEFORE_GROUND:
        token = Token(Kind.IT, word)
    elif word == "by":
        token = Token(Kind.NEAR if before in _COPULAS else Kind.BY, word)
    elif (reason := _refusal(words, at)) is not None:
        token = _bad(reason, word)
    elif word == "between" and clock and _hour(after) is not None:
        token, used = _between_hours(words, at)
    elif _hour(word) is not None and (clock or word not in _NUMBERS):
        token, used = _number(words, at, clock)
    else:
        used = 0
    return token, used


def _apostrophe(word: str, before: str, after: str) -> Token | None:
    """Read "'s" as a genitive after an agent, unless what follows shows that it is short for "is"."""
    if not before.startswith("{") or word not in {"'s", "'"}:
        return None
    if after in {"on", "to", "at", "in", "the", "a", "there", "over", "located", "placed", "positioned"}:
        return Token(Kind.VERB, "is")
    return Token(Kind.POSSESSIVE, "'s")


def _is_idle(words: list[str], at: int) -> bool:
    """Tell words that carry no meaning here from the cues that they are elsewhere."""
    word, after = words[at], words[at + 1] if at + 1 < len(words) else ""
    before = words[at - 1] if at else ""
    if word == "over":
        return after in _OVER_TAIL
    if word == "right":
        return after in _RIGHT_TAIL and before not in _RIGHT_HEAD and _is_adverb(words, at)
    if word == "between":
        return after.startswith("{") and words[at + 2 : at + 3] == ["and"] and before in {"", ",", "gap"}
    if word in {"if", "when"}:
        return after in _VIEWERS or any(word in _CENTRES for word in words)
    return False


def _is_adverb(words: list[str], at: int) -> bool:
    """Tell "right above B" and "right to the left of B" from "right to B"."""
    if words[at + 1] in _RIGHT_STRONG:
        return True
    for word in words[at + 2 :]:
        if (word,) not in _TABLE:
            return False
        token = _TABLE[word,]
        if token is not None:
            return token.kind is Kind.DIRECTION
    return False


def _refusal(words: list[str], at: int) -> str | None:
    """Name the reason why a word spoils its sentence here, though it may be harmless elsewhere."""
    word, after = words[at], words[at + 1] if at + 1 < len(words) else ""
    later = words[at + 2 : at + 4]
    before = words[at - 1] if at else ""
    if before.startswith("{"):
        if word in {"will", "would"} or (word == "can" and after == "be" and not _is_passive(later)):
            return "hedge"
        if word.endswith(("s", "ed")) and (
            after in {"that", "being"} or (after == "to" and later[:1] in (["be"], ["stand"]))
        ):
            return "movement" if word not in {"is", "was"} else None
    if word in _AGENTIVE and after == "by" and "{" in "".join(later):
        return "by"
    if word in _SEEING and after == "from":
        sides = [_TABLE.get((next_word,)) for next_word in later if next_word != "the"]
        if sides and sides[0] is not None and sides[0].kind is Kind.DIRECTION:
            return "view"
    return None


def _is_passive(words: list[str]) -> bool:
    return any(word in {"found", "seen", "reached", "spotted", "located", "placed"} for word in words)


def _hour(word: str) -> int | None:
    """Return the number a word writes ("9", "nine", "9:00"), or None; "one" counts."""
    if word in _NUMBERS:
        return _NUMBERS[word]
    digits = word.split(":", maxsplit=1)[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else None


def _number(words: list[str], at: int, clock: bool) -> tuple[Token | None, int]:
    word = words[at]
    after = words[at + 1] if at + 1 < len(words) else ""
    value = _hour(word)
    if after in {"degree", "degrees"}:
        return (Token(Kind.AXIS, "diagonal") if value == 45 else _bad("angle", word)), 2
    if clock and value is not None and (value != 1 or after not in {"step", "cell", "row", "column"}):
        if not 1 <= value <= 12:
            return _bad("hour", word), 1
        past = ":" in word and not word.endswith(":00")
        return Token(Kind.DIRECTION, word, _clock_vector(value, past), exact=True), 1 + (after == "o'clock")
    return (None if value == 1 else _bad("distance", word)), 1


def _between_hours(words: list[str], at: int) -> tuple[Token, int]:
    """Read "between 10 and 11": strictly between two hours in a row lies one open quadrant."""
    rest = [(i, word) for i, word in enumerate(words[at + 1 : at + 7], at + 1) if word not in {"o'clock", "the"}]
    first = _hour(rest[0][1])
    second = _hour(rest[2][1]) if len(rest) > 2 and rest[1][1] == "and" else None
    if first is None or second is None or {first, second} - set(range(1, 13)) or (second - first) % 12 not in {1, 11}:
        return _bad("hour", "between"), 1
    start = first if (second - first) % 12 == 1 else second
    return Token(Kind.DIRECTION, "between hours", _clock_vector(start, True), exact=True), rest[2][0] - at + 1


def _clock_vector(hour: int, past: bool) -> tuple[int, int]:
    hour %= 12
    if not past and hour in _HOURS:
        return _HOURS[hour]
    quarter = hour // 3
    return ((1, 1), (1, -1), (-1, -1), (-1, 1))[quarter]


def _unknown(words: list[str], at: int) -> Token | None:
    """Accept an unknown word as a verb or an adverb by its form and place, or refuse it."""
    word = words[at]
    before = words[at - 1] if at else ""
    if word.isalpha():
        if word.endswith("ly"):
            return None
        after_agent = before.startswith("{") or (
            before.endswith("ly") and words[at - 2 : at - 1] != [] and words[at - 2][0] == "{"
        )
        verbal = word.endswith(("ed", "ing")) and (before in _BEFORE_PARTICIPLE or after_agent)
        if verbal or (word.endswith("s") and after_agent):
            return Token(Kind.STRANGE_VERB, word)
    return _bad("word", word)


_BEFORE_PARTICIPLE = frozenset({"", "is", "are", "was", "were", "be", "been", "being", ",", "'s", "."})
