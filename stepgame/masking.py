"""Columns of sentences to facts: masked and hashed eight bytes at a time, each distinct shape parsed once.

The scalar reader (`stepgame.read`) defines what is right. A sentence is cut at its agents; the hash of what is between
them stands for its shape, and the first sentence of a shape is given to the scalar reader. A sentence
whose masking depends on more than its own capitals (compass letters, sentences in capitals, accents) goes
the scalar way altogether.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stepgame.compiled import LANE, bytes_within, hash_bytes, kernel, load_word, trailing_zeros
from stepgame.layout import I8, I32, I64
from stepgame.philox import U64
from stepgame.read import is_agent_name, mask, read_question_shape, read_shape
from stepgame.render import U8

__all__ = ["HIGH", "PRIME", "TextReader"]

PRIME = np.uint64(0xFF51AFD7ED558CCD)
HIGH = np.uint64(32)
_SEED = np.uint64(0x9E3779B97F4A7C15)
_LONG_NAME = np.uint64(1) << np.uint64(63)

# What became of a row: read; the scalar way; a word that is not in the vocabulary; a shape that is not known.
_DONE, _SCALAR, _NEW_WORD, _NEW_SHAPE = range(4)

_AGENTS = 3
"""Agents followed in one sentence; one with more goes the scalar way (and turns out unreadable)."""

_ONES = 0x0101010101010101
_TOPS = np.uint64(0x80 * _ONES)
_LOWS = np.uint64(0x7F * _ONES)
# Added to seven-bit bytes, these raise the top bit of those from that character on.
_FROM_A, _BEYOND_Z, _FROM_BRACE, _FROM_SMALL_A = (np.uint64((0x80 - ord(c)) * _ONES) for c in "A[{a")
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_U1, _U2, _U3, _U8, _U16, _LAST = (np.uint64(n) for n in (1, 2, 3, 8, 16, 1 << 63))
_AGENT, _END = np.uint64(256), np.uint64(512)

# Bytes of words, \w as far as ASCII goes; the letters of compass points and the article.
_WORD, _LOWER, _LETTERED = np.zeros(256, np.bool_), np.zeros(256, np.bool_), np.zeros(256, np.bool_)
for _byte in range(128):
    _WORD[_byte] = chr(_byte).isalnum() or _byte == ord("_")
    _LOWER[_byte] = chr(_byte).islower()
    _LETTERED[_byte] = chr(_byte) in "AENSW"


def _prefixes(words: list[str]) -> tuple[U8, I64]:
    raw = [word.encode() for word in words]
    return np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)]).astype(np.int64)


# After a compass letter, or after "A", these can mean that it is no agent; the scalar reader decides.
_AFTER_COMPASS = _prefixes([" of", " side", " corner", " direction"])
_AFTER_ARTICLE = _prefixes(
    [" step", " cell", " square", " single", " short", " small", " little", " bit", " move", " glance"]
)


class _Known(NamedTuple):
    """Words and shapes met so far, in open-addressed tables from number to place.

    Attributes:
        words, word_ids: capitalised words; an id below 0 marks a free slot.
        agent: [words] 1 for an agent.
        shapes, shape_ids: hashes of shapes.
        meanings: [shapes, 3] int8: relation (0 for a question, -1 unreadable, -2 for the scalar way), which of the
            agents is the head, which the tail.
    """

    words: U64
    word_ids: I32
    agent: I8
    shapes: U64
    shape_ids: I32
    meanings: I8


@kernel
def _mix(state: np.uint64, value: np.uint64) -> np.uint64:
    mixed: np.uint64 = (state ^ value) * PRIME
    return mixed ^ (mixed >> HIGH)


@kernel
def _load(data: U8, at: int, stop: int) -> np.uint64:
    """Load up to eight bytes of a text that ends at ``stop``; zeros beyond."""
    left = stop - at
    if at + 8 <= len(data):
        loaded: np.uint64 = load_word(data, at)
        return loaded if left >= 8 else loaded & ((_U1 << np.uint64(8 * left)) - _U1)
    loaded = np.uint64(0)
    for place in range(min(left, 8)):
        loaded |= np.uint64(data[at + place]) << np.uint64(8 * place)
    return loaded


@kernel
def name_number(data: U8, start: int, stop: int) -> np.uint64:
    """Number a name: its bytes for up to eight, a hash beyond."""
    if stop - start <= 8:
        return _load(data, start, stop)
    number = _SEED
    for i in range(start, stop):
        number = _mix(number, np.uint64(data[i]))
    return number | _LONG_NAME


@kernel
def _word_end(data: U8, at: int, stop: int) -> int:
    while at < stop and _WORD[data[at]]:
        at += 1
    return at


@kernel
def _is_plain(data: U8, start: int, stop: int) -> bool:
    """Whether a capitalised word is an agent whatever the vocabulary: one or two characters, no lower case."""
    return stop - start == 1 or (stop - start == 2 and not _LOWER[data[start + 1]])


@kernel
def _follows(data: U8, at: int, stop: int, words: U8, offsets: I64) -> bool:
    """Whether the text goes on with one of the words, whole."""
    for word in range(len(offsets) - 1):
        first, length = offsets[word], offsets[word + 1] - offsets[word]
        same = 0
        while same < length and at + same < stop and data[at + same] == words[first + same]:
            same += 1
        if same == length and (at + same == stop or not _WORD[data[at + same]]):
            return True
    return False


@kernel
def _is_doubtful(data: U8, start: int, end: int, stop: int) -> bool:
    """Whether a name may be a compass letter or the article, by what follows it."""
    first = data[start]
    if not _LETTERED[first] or end >= stop or data[end] != 32 or end - start > 2:
        return False
    if end - start == 1:
        if first == 65:
            return _follows(data, end, stop, _AFTER_ARTICLE[0], _AFTER_ARTICLE[1])
    elif first not in (78, 83) or data[start + 1] not in (69, 87):
        return False
    return _follows(data, end, stop, _AFTER_COMPASS[0], _AFTER_COMPASS[1])


@kernel
def _find(table: U64, ids: I32, key: np.uint64) -> int:
    """Return the slot of a key in an open-addressed table, or of the free place for it (``ids`` < 0)."""
    slot = np.int64((key * PRIME) >> HIGH) & (len(table) - 1)
    while ids[slot] >= 0 and table[slot] != key:
        slot = (slot + 1) & (len(table) - 1)
    return slot  # type: ignore[return-value]  # an int, compiled


@kernel
def _is_apostrophe(data: U8, at: int, start: int, stop: int) -> bool:
    """Whether the byte belongs to a curly apostrophe (E2 80 99)."""
    byte = data[at]
    if byte == 0xE2:
        return at + 2 < stop and data[at + 1] == 0x80 and data[at + 2] == 0x99
    if byte == 0x80:
        return at > start and data[at - 1] == 0xE2
    return byte == 0x99 and at > start + 1 and data[at - 1] == 0x80 and data[at - 2] == 0xE2


@kernel
def _judge_byte(data: U8, at: int, start: int, stop: int, known: _Known) -> int:
    """Judge a capital or a byte beyond Z: the end of the agent that begins here, 0 for plain text, or -1, -2.

    -1 sends the sentence the scalar way, -2 says that the word is not in the vocabulary.
    """
    byte = data[at]
    if byte >= 123:
        plain = byte in (124, 126, 127) or (byte > 127 and _is_apostrophe(data, at, start, stop))
        return 0 if plain else -1
    if at > start and _WORD[data[at - 1]]:
        return 0
    end = _word_end(data, at + 1, stop)
    if not _is_plain(data, at, end):
        word = known.word_ids[_find(known.words, known.word_ids, name_number(data, at, end))]
        if word < 0:
            return -2
        return end if known.agent[word] else 0
    return -1 if _is_doubtful(data, at, end, stop) else end


@kernel
def _mask(data: U8, start: int, stop: int, known: _Known, names: U64) -> tuple[int, np.uint64]:
    """Hash a sentence with its agents masked, and write their numbers to ``names``.

    Returns:
        What became of it (`_DONE` and the number of agents above the lowest two bits), and the hash.
    """
    shape, agents, lower, at = _SEED, 0, np.uint64(0), start
    while True:
        text = _load(data, at, stop)
        low = text & _LOWS
        special = (((low + _FROM_A) & ~(low + _BEYOND_Z)) | (low + _FROM_BRACE) | text) & _TOPS
        small = (low + _FROM_SMALL_A) & ~special & _TOPS
        end = 0
        while special:
            place = trailing_zeros(special) >> 3
            end = _judge_byte(data, at + place, start, stop, known)
            if end:
                break
            special &= special - _U1
        if end == 0:
            if stop - at > 8:
                shape, lower, at = _mix(shape, text), lower | small, at + 8
                continue
            shape = _mix(_mix(shape, text), _END + (np.uint64(stop - at) << _U16))
            return (_DONE + 4 * agents if lower | small else _SCALAR), shape
        if end < 0:
            return (_SCALAR if end == -1 else _NEW_WORD), shape
        before = (_U1 << np.uint64(8 * place)) - _U1
        lower |= small & before
        name, slot = name_number(data, at + place, end), 0
        while slot < agents and names[slot] != name:
            slot += 1
        if slot == agents:
            if agents == len(names):
                return _SCALAR, shape
            names[slot] = name
            agents += 1
        shape = _mix(_mix(shape, text & before), _AGENT + np.uint64(slot) + (np.uint64(place) << _U16))
        at = end


@kernel
def _mask_short(data: U8, start: int, stop: int, known: _Known, names: U64) -> tuple[int, np.uint64]:
    """Do what `_mask` does for a sentence of at most `LANE` bytes whose agents have at most two each.

    Here the hash is of the bytes beside the agents in their places, and of the agents' places. The longer way is
    left to decide where this one cannot (`_NEW_SHAPE`).
    """
    inside = _ALL >> np.uint64(LANE - (stop - start))
    capital, small = bytes_within(data, start, 65, 26) & inside, bytes_within(data, start, 97, 26) & inside
    if bytes_within(data, start, 123, 133) & inside:
        return _NEW_SHAPE, inside
    word = capital | small | ((bytes_within(data, start, 48, 10) | bytes_within(data, start, 95, 1)) & inside)
    starts = capital & ~(word << _U1)
    agents, first, second, third = 0, np.uint64(0), np.uint64(0), np.uint64(0)
    while starts:
        begin = start + trailing_zeros(starts)
        place = np.uint64(begin - start)
        starts &= starts - _U1
        length = trailing_zeros(~(word >> place) | _LAST)
        if length > 2 or (length == 2 and (small >> place) & _U2):
            entry = known.word_ids[_find(known.words, known.word_ids, name_number(data, begin, begin + length))]
            if entry < 0:
                return _NEW_WORD, inside
            if known.agent[entry]:
                return _NEW_SHAPE, inside
            continue
        if _is_doubtful(data, begin, begin + length, stop):
            return _SCALAR, inside
        name, covered = np.uint64(data[begin]), _U1 << place
        if length == 2:
            name, covered = name | (np.uint64(data[begin + 1]) << _U8), _U3 << place
        if first == 0 or name == names[0]:
            names[0], first, agents = name, first | covered, max(agents, 1)
        elif second == 0 or name == names[1]:
            names[1], second, agents = name, second | covered, max(agents, 2)
        elif third == 0 or name == names[2]:
            names[2], third, agents = name, third | covered, 3
        else:
            return _SCALAR, inside
    kept = inside & ~(first | second | third)
    if not small & kept:
        return _SCALAR, inside
    shape = hash_bytes(data, start, kept)
    return _DONE + 4 * agents, _mix(_mix(_mix(_mix(shape, first), second), third), inside)


@kernel
def _mask_any(data: U8, start: int, stop: int, known: _Known, names: U64) -> tuple[int, np.uint64]:
    """Mask a sentence in the quickest way that can."""
    if 0 < stop - start <= LANE and start + LANE <= len(data):
        state, shape = _mask_short(data, start, stop, known, names)
        if state != _NEW_SHAPE:
            return state, shape
    return _mask(data, start, stop, known, names)


@kernel
def _read_rows(
    data: U8,
    offsets: I32,
    rows: I32,
    known: _Known,
    names: U64,
    code: I8,
    head: U64,
    tail: U64,
    states: I8,
    shapes: U64,
) -> int:
    """Read rows of known words and shapes; move the others to the front of ``rows`` and return how many there are.

    These keep their state, and their shape if that is what is new.
    """
    left = 0
    for row in rows:
        state, shape = _mask_any(data, offsets[row], offsets[row + 1], known, names)
        states[row] = state & 3
        if states[row] == _DONE:
            place = known.shape_ids[_find(known.shapes, known.shape_ids, shape)]
            code[row] = known.meanings[place, 0] if place >= 0 else 0
            if place < 0:
                states[row], shapes[row] = _NEW_SHAPE, shape
            elif code[row] >= 0:
                head[row], tail[row] = names[known.meanings[place, 1]], names[known.meanings[place, 2]]
            elif code[row] < -1:
                states[row] = _SCALAR
        if states[row] > _SCALAR:
            rows[left] = row
            left += 1
    return left


@kernel
def _capitals(data: U8, offsets: I32, rows: I32, keys: U64, starts: I64, lengths: I64) -> int:
    """Collect the capitalised words that the vocabulary must decide about, as many as fit; return their number."""
    found = 0
    for row in rows:
        at, stop = offsets[row], offsets[row + 1]
        while at < stop:
            end = _word_end(data, at, stop)
            if 65 <= data[at] <= 90 and not _is_plain(data, at, end):
                if found < len(keys):
                    keys[found], starts[found], lengths[found] = name_number(data, at, end), at, end - at
                found += 1
            at = max(end, at + 1)
    return found


@kernel
def _enter(keys: U64, table: U64, ids: I32) -> None:
    """Enter distinct keys into an empty table under their places."""
    for place in range(len(keys)):
        slot = _find(table, ids, keys[place])
        table[slot], ids[slot] = keys[place], place


def _table(numbers: dict[int, object]) -> tuple[U64, I32]:
    """Make an open-addressed table of a dictionary's keys, in their order."""
    slots = 1 << max(4, (4 * len(numbers)).bit_length())
    table, ids = np.zeros(slots, np.uint64), np.full(slots, -1, np.int32)
    _enter(np.array(list(numbers), np.uint64), table, ids)
    return table, ids


def _number(name: str) -> int:
    raw = np.frombuffer(name.encode(), np.uint8)
    return int(name_number(raw, 0, len(raw)))


_FIRST_ROWS = 2048


class TextReader:
    """Reads columns of sentences, or of questions, and remembers their words and shapes from one to the next.

    Args:
        question: whether the texts are questions.
    """

    def __init__(self, question: bool) -> None:
        self._read = read_question_shape if question else read_shape
        self._words: dict[int, object] = {}
        self._shapes: dict[int, tuple[int, int, int]] = {}
        self._names = np.zeros(_AGENTS, np.uint64)
        self._learnt()

    def read(self, texts: pa.StringArray) -> tuple[I8, U64, U64]:
        """Return [n] code (0 for a question, -1 unreadable), head and tail of every text."""
        _, raw_offsets, raw = texts.buffers()
        count = len(texts)
        offsets = np.frombuffer(raw_offsets, np.int32, count + 1, texts.offset * 4)
        data = np.frombuffer(raw, np.uint8) if raw is not None and raw.size else np.zeros(1, np.uint8)
        code, head, tail = np.empty(count, np.int8), np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        states, shapes = np.zeros(count, np.int8), np.zeros(count, np.uint64)
        # A few thousand rows hold nearly all words and shapes there are; rows with new ones are read once more.
        for first, last in ((0, min(count, _FIRST_ROWS)), (min(count, _FIRST_ROWS), count)):
            rows = np.arange(first, last, dtype=np.int32)
            while len(rows):
                out = (code, head, tail, states, shapes)
                rows = rows[: _read_rows(data, offsets, rows, self._known, self._names, *out)]
                self._learn(texts, data, offsets, rows, states, shapes)
        for row in np.flatnonzero(states == _SCALAR):
            code[row], head[row], tail[row] = self._read_alone(texts[int(row)].as_py())
        return code, head, tail

    def _read_alone(self, text: str) -> tuple[int, int, int]:
        shape, found = mask(text)
        reading = self._read(shape)
        if reading.reason is not None:
            return -1, 0, 0
        return int(reading.relation or 0), _number(found[reading.head]), _number(found[reading.tail])

    def _learn(self, texts: pa.StringArray, data: U8, offsets: I32, rows: I32, states: I8, shapes: U64) -> None:
        """Learn the words, then the shapes, that rows were left for."""
        if not len(rows):
            return
        unknown = rows[states[rows] == _NEW_WORD]
        found = _capitals(data, offsets, unknown, np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
        keys, starts, lengths = np.empty(found, np.uint64), np.empty(found, np.int64), np.empty(found, np.int64)
        _capitals(data, offsets, unknown, keys, starts, lengths)
        for key, place in zip(*np.unique(keys, return_index=True), strict=True):
            word = bytes(data[starts[place] : starts[place] + lengths[place]]).decode()
            self._words[int(key)] = is_agent_name(word)
        unknown = rows[states[rows] == _NEW_SHAPE]
        for shape, place in zip(*np.unique(shapes[unknown], return_index=True), strict=True):
            row = int(unknown[place])
            _mask_any(data, offsets[row], offsets[row + 1], self._known, self._names)
            self._shapes[int(shape)] = self._meaning(texts[row].as_py())
        self._learnt()

    def _meaning(self, text: str) -> tuple[int, int, int]:
        """Return what the shape of a text means, given that its agents, as the kernel masks them, are at hand."""
        shape, found = mask(text)
        if [_number(name) for name in found] != self._names[: len(found)].tolist():
            return -2, 0, 0
        reading = self._read(shape)
        return (-1, 0, 0) if reading.reason is not None else (int(reading.relation or 0), reading.head, reading.tail)

    def _learnt(self) -> None:
        agent = np.array(list(self._words.values()), np.int8)
        meanings = np.array(list(self._shapes.values()), np.int8).reshape(-1, 3)
        self._known = _Known(*_table(self._words), agent, *_table(dict(self._shapes)), meanings)
