"""Read and solve whole columns of stories at once.

The scalar reader and solver (`stepgame.read`, `stepgame.solve`) define what is right; this module gives the same
answers for many stories. Sentences are masked and hashed as bytes, each distinct shape is given to the scalar
reader once, and stories are solved by a compiled weighted union-find. A sentence whose masking
depends on more than its own capitals (compass letters, sentences in capitals, accents) goes the scalar way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepgame.compiled import kernel
from stepgame.layout import I8, I32, I64
from stepgame.philox import U64
from stepgame.read import Reading, is_agent_name, mask, read_question_shape, read_shape
from stepgame.relations import VECTORS, Relation
from stepgame.render import U8

__all__ = ["STATUSES", "Readings", "Verdicts", "judge_all", "read_all", "read_questions"]

STATUSES = ("answered", "unreadable", "contradictory", "unconnected")
"""What can become of a story, as `stepgame.solve.judge` has it; the position is the code."""

_ANSWERED, _UNREADABLE, _CONTRADICTORY, _UNCONNECTED = range(4)

_SEED = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0xFF51AFD7ED558CCD)
_LONG_NAME = np.uint64(1) << np.uint64(63)
_HIGH = np.uint64(32)

# Instead of a number of agents: this sentence goes the scalar way; it has a word that is not in the vocabulary.
_SCALAR, _NEW_WORD = -1, -2

# Classes of bytes: 0 other, 1 digit or underscore, 2 lower case, 3 upper case, 4 beyond ASCII.
_CLASS = np.zeros(256, np.int8)
for _byte in range(256):
    _character = chr(_byte)
    _CLASS[_byte] = (
        4 if _byte > 127 else 2 if _character.islower() else 3 if _character.isupper() else _character in "0123456789_"
    )


def _prefixes(words: list[str]) -> tuple[U8, I64]:
    raw = [word.encode() for word in words]
    return np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)]).astype(np.int64)


# After a compass letter, or after "A", these can mean that it is no agent; the scalar reader decides.
_AFTER_COMPASS = _prefixes([" of", " from", " side", " corner", " direction"])
_AFTER_ARTICLE = _prefixes(
    [" step", " cell", " square", " single", " short", " small", " little", " bit", " mo", " gl"]
)
_CURLY = np.frombuffer("’".encode(), np.uint8)


class Readings(NamedTuple):
    """What n sentences say.

    Attributes:
        relation: [n] int8, code of head as seen from tail; -1 where the sentence cannot be read.
        head: [n] uint64, the head's name as a number; equal names have equal numbers.
        tail: [n] uint64, likewise.
    """

    relation: I8
    head: U64
    tail: U64


class Verdicts(NamedTuple):
    """What became of n stories.

    Attributes:
        status: [n] int8, index into `STATUSES`, the first of unreadable, contradictory, unconnected that applies.
        label: [n] int8, relation code of the literal answer from the sentences that can be read; -1 if there is none.
        unreadable: [n] int32, how many sentences of the story cannot be read.
        first_unreadable: [n] int32, place in the story of the first of them; -1 if there is none.
        contradiction: [n] int32, place of the sentence that closes the first contradiction; -1 if there is none.
        asked: [n] bool, whether the question can be read.
        readings: of all sentences, story after story.
    """

    status: I8
    label: I8
    unreadable: I32
    first_unreadable: I32
    contradiction: I32
    asked: NDArray[np.bool_]
    readings: Readings


@kernel
def _mix(state: np.uint64, byte: int) -> np.uint64:
    value: np.uint64 = (state ^ np.uint64(byte)) * _PRIME
    return value ^ (value >> _HIGH)


@kernel
def _name_number(data: U8, start: int, stop: int) -> np.uint64:
    """Number a name: its bytes for up to eight, a hash beyond."""
    number = np.uint64(0)
    if stop - start <= 8:
        for i in range(start, stop):
            number = (number << np.uint64(8)) | np.uint64(data[i])
        return number
    number = _SEED
    for i in range(start, stop):
        number = _mix(number, data[i])
    return number | _LONG_NAME


@kernel
def _word_end(data: U8, at: int, stop: int) -> int:
    while at < stop and 1 <= _CLASS[data[at]] <= 3:
        at += 1
    return at


@kernel
def _is_plain(data: U8, start: int, stop: int) -> bool:
    """Whether a capitalised word is an agent whatever the vocabulary: one or two characters, no lower case."""
    if stop - start > 2:
        return False
    return stop - start == 1 or _CLASS[data[start + 1]] != 2


@kernel
def _follows(data: U8, at: int, stop: int, words: U8, offsets: I64) -> bool:
    """Whether the text goes on with one of the words."""
    for word in range(len(offsets) - 1):
        length = offsets[word + 1] - offsets[word]
        if at + length <= stop:
            same = True
            for i in range(length):
                same = same and data[at + i] == words[offsets[word] + i]
            if same:
                return True
    return False


@kernel
def _is_compass(data: U8, start: int, stop: int) -> bool:
    first = data[start]
    if stop - start == 1:
        return first in (69, 78, 83, 87)  # E N S W
    return stop - start == 2 and first in (78, 83) and data[start + 1] in (69, 87)


@kernel
def _is_doubtful(data: U8, start: int, end: int, stop: int) -> bool:
    """Whether a name may be a compass letter or the article, by what follows it."""
    if _is_compass(data, start, end) and _follows(data, end, stop, _AFTER_COMPASS[0], _AFTER_COMPASS[1]):
        return True
    return data[start] == 65 and end - start == 1 and _follows(data, end, stop, _AFTER_ARTICLE[0], _AFTER_ARTICLE[1])


@kernel
def _capitals(data: U8, offsets: I32, rows: I64, keys: U64, starts: I64, lengths: I64) -> int:
    """Collect the capitalised words that the vocabulary must decide about, as many as fit; return their number."""
    found = 0
    for row in rows:
        at, stop = offsets[row], offsets[row + 1]
        while at < stop:
            kind = _CLASS[data[at]]
            if 1 <= kind <= 3:
                end = _word_end(data, at, stop)
                if kind == 3 and not _is_plain(data, at, end):
                    if found < len(keys):
                        keys[found], starts[found], lengths[found] = _name_number(data, at, end), at, end - at
                    found += 1
                at = end
            else:
                at += 1
    return found


@kernel
def _find(table: U64, ids: I32, key: np.uint64) -> int:
    """Return the slot of a key in an open-addressed table, or of the free place for it (``ids`` < 0)."""
    slot = np.int64((key * _PRIME) >> _HIGH) & (len(table) - 1)
    while ids[slot] >= 0 and table[slot] != key:
        slot = (slot + 1) & (len(table) - 1)
    return slot  # type: ignore[return-value]  # an int, compiled


@kernel
def _intern(keys: U64, table: U64, ids: I32, out: I32, first: I64) -> int:
    """Number the distinct keys in order of appearance: ``out`` per key, ``first`` where each appears."""
    count = 0
    for i in range(len(keys)):
        slot = _find(table, ids, keys[i])
        if ids[slot] < 0:
            table[slot], ids[slot], first[count] = keys[i], count, i
            count += 1
        out[i] = ids[slot]
    return count


@kernel
def _mask_row(
    data: U8, at: int, stop: int, table: U64, ids: I32, agent: I8, names: U64, row: int
) -> tuple[np.uint64, int]:
    """Hash one sentence with its agents masked; the second value is the number of agents, or why there is none."""
    shape, agents, lower = _SEED, 0, False
    while at < stop:
        byte = data[at]
        kind = _CLASS[byte]
        lower = lower or kind == 2
        if kind == 4:
            if at + 2 >= stop or data[at] != _CURLY[0] or data[at + 1] != _CURLY[1] or data[at + 2] != _CURLY[2]:
                return shape, _SCALAR
            shape, at = _mix(shape, 39), at + 3
            continue
        if byte in (123, 125):  # braces mark agents in shapes
            return shape, _SCALAR
        if not 1 <= kind <= 3:
            shape, at = _mix(shape, byte), at + 1
            continue
        end = _word_end(data, at, stop)
        is_agent = kind == 3
        if is_agent and not _is_plain(data, at, end):
            word = ids[_find(table, ids, _name_number(data, at, end))]
            if word < 0:
                return shape, _NEW_WORD
            is_agent = agent[word] == 1
        if not is_agent:
            for i in range(at, end):
                lower = lower or _CLASS[data[i]] == 2
                shape = _mix(shape, data[i])
            at = end
            continue
        if _is_doubtful(data, at, end, stop):
            return shape, _SCALAR
        name, slot = _name_number(data, at, end), 0
        while slot < agents and names[row, slot] != name:
            slot += 1
        if slot == agents:
            if agents == names.shape[1]:
                return shape, _SCALAR
            names[row, slot] = name
            agents += 1
        shape, at = _mix(shape, 256 + slot), end
    return shape, agents if lower else _SCALAR


@kernel
def _mask_rows(
    data: U8, offsets: I32, rows: I64, table: U64, ids: I32, agent: I8, shapes: U64, names: U64, counts: I8
) -> None:
    for row in rows:
        shapes[row], counts[row] = _mask_row(data, offsets[row], offsets[row + 1], table, ids, agent, names, row)


def _table(size: int) -> tuple[U64, I32]:
    """Make an empty open-addressed table with room for ``size`` keys."""
    slots = 1 << max(4, (2 * size).bit_length())
    return np.zeros(slots, np.uint64), np.full(slots, -1, np.int32)


def _distinct(keys: U64) -> tuple[I32, I64, U64, I32]:
    """Number distinct keys: [n] number of each, where each first appears, and the table that finds them."""
    out, first = np.empty(len(keys), np.int32), np.empty(len(keys), np.int64)
    table, ids = _table(len(keys))
    count = _intern(keys, table, ids, out, first)
    return out, first[:count], table, ids


def _buffers(texts: pa.StringArray) -> tuple[U8, I32]:
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    return np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), bounds


class _Vocabulary:
    """The capitalised words met so far, and which of them are agents."""

    def __init__(self) -> None:
        self._words: dict[int, bool] = {}
        self.tables: tuple[U64, I32, I8] = (*_table(0), np.zeros(0, np.int8))

    def learn(self, data: U8, offsets: I32, rows: I64) -> None:
        """Decide about every capitalised word of some rows."""
        found = _capitals(data, offsets, rows, np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
        keys, starts, lengths = np.empty(found, np.uint64), np.empty(found, np.int64), np.empty(found, np.int64)
        _capitals(data, offsets, rows, keys, starts, lengths)
        for place in _distinct(keys)[1]:
            word = bytes(data[starts[place] : starts[place] + lengths[place]]).decode()
            self._words[int(keys[place])] = is_agent_name(word)
        table, ids = _table(len(self._words))
        known = np.array(list(self._words), np.uint64)
        _intern(known, table, ids, np.empty(len(known), np.int32), np.empty(len(known), np.int64))
        self.tables = table, ids, np.array(list(self._words.values()), np.int8)


def _number(name: str) -> int:
    raw = np.frombuffer(name.encode(), np.uint8)
    return int(_name_number(raw, 0, len(raw)))


_SAMPLED = 4096
_AGENTS = 3
"""Agents followed in one sentence; one with more goes the scalar way (and turns out unreadable)."""


def _read_column(texts: pa.StringArray, question: bool) -> tuple[I8, U64, U64]:
    """Read all texts: [n] code (0 for a question, -1 unreadable), head and tail."""
    data, offsets = _buffers(texts)
    count = len(texts)
    shapes, names = np.zeros(count, np.uint64), np.zeros((count, _AGENTS), np.uint64)
    agents = np.zeros(count, np.int8)
    vocabulary, rows = _Vocabulary(), np.arange(count)
    # A few thousand rows hold nearly all words there are; the rows with others are masked once more.
    unknown = rows[:_SAMPLED]
    while len(unknown):
        vocabulary.learn(data, offsets, unknown)
        _mask_rows(data, offsets, rows, *vocabulary.tables, shapes, names, agents)
        rows = unknown = np.flatnonzero(agents == _NEW_WORD)
    shapes[agents == _SCALAR] = 0
    read = read_question_shape if question else read_shape

    def code(reading: Reading) -> int:
        return -1 if reading.reason is not None else int(reading.relation or 0)

    numbers, first, _, _ = _distinct(shapes)
    known = np.full((len(first), 3), -1, np.int16)
    slow = agents == _SCALAR
    for number, row in enumerate(first):
        if slow[row]:
            continue
        shape, found = mask(texts[int(row)].as_py())
        if [_number(name) for name in found] != names[row, : agents[row]].tolist():
            slow |= numbers == number
            continue
        reading = read(shape)
        known[number] = (code(reading), reading.head, reading.tail)
    codes = known[numbers, 0].astype(np.int8)
    rows = np.arange(count)
    head, tail = names[rows, known[numbers, 1]], names[rows, known[numbers, 2]]
    for row in np.flatnonzero(slow):
        shape, found = mask(texts[int(row)].as_py())
        reading = read(shape)
        codes[row] = code(reading)
        if reading.reason is None:
            head[row], tail[row] = _number(found[reading.head]), _number(found[reading.tail])
    return codes, head, tail


def read_all(sentences: pa.StringArray) -> Readings:
    """Read n sentences, as `stepgame.read.read_sentence` reads each.

    Args:
        sentences: one statement each.

    Returns:
        What they say.
    """
    return Readings(*_read_column(sentences, question=False))


def read_questions(questions: pa.StringArray) -> tuple[NDArray[np.bool_], U64, U64]:
    """Read n questions, as `stepgame.read.read_question` reads each.

    Returns:
        [n] whether it can be read, and the head's and the tail's name as numbers like those of `Readings`.
    """
    codes, head, tail = _read_column(questions, question=True)
    return codes >= 0, head, tail


_DX = np.array([dx for dx, _ in VECTORS], np.int64)
_DY = np.array([dy for _, dy in VECTORS], np.int64)
_OF = np.array([[Relation.of(dx, dy) for dy in (-1, 0, 1)] for dx in (-1, 0, 1)], np.int8)


@kernel
def _agent(key: np.uint64, table: U64, stamps: I64, ids: I32, stamp: int, forest: I64, count: int) -> int:
    """Return an agent's number within its story; a new one (``count``) is a tree of its own."""
    slot = np.int64((key * _PRIME) >> _HIGH) & (len(table) - 1)
    while stamps[slot] == stamp and table[slot] != key:
        slot = (slot + 1) & (len(table) - 1)
    if stamps[slot] != stamp:
        table[slot], stamps[slot], ids[slot] = key, stamp, count
        forest[count, 0], forest[count, 1], forest[count, 2] = count, 0, 0
    number: int = ids[slot]
    return number


@kernel
def _root(forest: I64, agent: int) -> int:
    """Hang an agent directly under its root, with its offset from it, and return the root."""
    while forest[forest[agent, 0], 0] != forest[agent, 0]:
        parent = forest[agent, 0]
        forest[agent, 1] += forest[parent, 1]
        forest[agent, 2] += forest[parent, 2]
        forest[agent, 0] = forest[parent, 0]
    top: int = forest[agent, 0]
    return top


class _Desk(NamedTuple):
    """Working memory for one story: a table that numbers its agents, and the forest of their links.

    table, stamps, ids: [slots] name, story it was seen in, number. forest: [agents, 3] parent, and the
    offset (dx, dy) from it.
    """

    table: U64
    stamps: I64
    ids: I32
    forest: I64

    @classmethod
    def lay(cls, sentences: int) -> _Desk:
        """Make room for stories of at most that many sentences."""
        slots = 1 << max(4, (6 * sentences).bit_length())
        forest = np.zeros((2 * sentences + 2, 3), np.int64)
        return cls(np.zeros(slots, np.uint64), np.full(slots, -1, np.int64), np.zeros(slots, np.int32), forest)


@kernel
def _solve_all(
    bounds: I32, relation: I8, head: U64, tail: U64, ask_head: U64, ask_tail: U64, desk: _Desk, out: I32
) -> None:
    """Solve story by story; ``out`` is [n, 4]: label, unreadable sentences, the first of them, contradiction."""
    table, stamps, ids, forest = desk
    for story in range(len(bounds) - 1):
        count = 0
        out[story, 0], out[story, 1], out[story, 2], out[story, 3] = -1, 0, -1, -1
        for row in range(bounds[story], bounds[story + 1]):
            code = relation[row]
            if code < 0:
                if out[story, 1] == 0:
                    out[story, 2] = row - bounds[story]
                out[story, 1] += 1
                continue
            a = _agent(head[row], table, stamps, ids, story, forest, count)
            count = max(count, a + 1)
            b = _agent(tail[row], table, stamps, ids, story, forest, count)
            count = max(count, b + 1)
            top, other = _root(forest, b), _root(forest, a)
            dx = forest[b, 1] + _DX[code] - forest[a, 1]
            dy = forest[b, 2] + _DY[code] - forest[a, 2]
            if top != other:
                forest[other, 0], forest[other, 1], forest[other, 2] = top, dx, dy
            elif (dx != 0 or dy != 0) and out[story, 3] < 0:
                out[story, 3] = row - bounds[story]
        known = count
        a = _agent(ask_head[story], table, stamps, ids, story, forest, count)
        count = max(count, a + 1)
        b = _agent(ask_tail[story], table, stamps, ids, story, forest, count)
        if a < known and b < known and _root(forest, a) == _root(forest, b):
            dx, dy = forest[a, 1] - forest[b, 1], forest[a, 2] - forest[b, 2]
            out[story, 0] = _OF[np.sign(dx) + 1, np.sign(dy) + 1]


_BATCH = 32768
"""Stories judged at a time, so that the text of a batch fits the 2 GiB that Arrow's strings can address."""


def _judge_batch(stories: pa.ListArray, questions: pa.StringArray) -> Verdicts:
    bounds = np.asarray(stories.offsets).astype(np.int32)
    bounds = bounds - bounds[0]
    readings = read_all(stories.flatten())
    asked, head, tail = read_questions(questions)
    out = np.empty((len(stories), 4), np.int32)
    _solve_all(bounds, *readings, head, tail, _Desk.lay(int(np.diff(bounds).max(initial=0))), out)
    label = np.where(asked & (out[:, 3] < 0), out[:, 0], -1).astype(np.int8)
    status = np.full(len(stories), _ANSWERED, np.int8)
    status[out[:, 0] < 0] = _UNCONNECTED
    status[out[:, 3] >= 0] = _CONTRADICTORY
    status[(out[:, 1] > 0) | ~asked] = _UNREADABLE
    return Verdicts(status, label, out[:, 1], out[:, 2], out[:, 3], asked, readings)


def judge_all(table: pa.Table) -> Verdicts:
    """Read and solve every story of a table, as `stepgame.solve.judge` does one by one.

    Args:
        table: with the columns ``story`` and ``question`` of `stepgame.stories.SCHEMA`.

    Returns:
        One verdict a story. Where a story has sentences that cannot be read, its label is what the others say.
    """
    batches = table.select(["story", "question"]).to_batches(max_chunksize=_BATCH)
    if not batches:
        batches = [
            pa.record_batch([pa.array([], table.schema.field(n).type) for n in ("story", "question")], ["", " "])
        ]
    parts = [_judge_batch(batch.column(0), batch.column(1)) for batch in batches]
    readings = Readings(*map(np.concatenate, zip(*(part.readings for part in parts), strict=True)))
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Verdicts._fields[:-1]}
    return Verdicts(**columns, readings=readings)
