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
from stepgame.masking import HIGH, PRIME, TextReader
from stepgame.philox import U64
from stepgame.relations import VECTORS, Relation

__all__ = ["STATUSES", "Readings", "Verdicts", "judge_all", "read_all", "read_questions"]

STATUSES = ("answered", "unreadable", "contradictory", "unconnected")
"""What can become of a story, as `stepgame.solve.judge` has it; the position is the code."""

_ANSWERED, _UNREADABLE, _CONTRADICTORY, _UNCONNECTED = range(4)


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


def read_all(sentences: pa.StringArray) -> Readings:
    """Read n sentences, as `stepgame.read.read_sentence` reads each.

    Args:
        sentences: one statement each.

    Returns:
        What they say.
    """
    return Readings(*TextReader(question=False).read(sentences))


def read_questions(questions: pa.StringArray) -> tuple[NDArray[np.bool_], U64, U64]:
    """Read n questions, as `stepgame.read.read_question` reads each.

    Returns:
        [n] whether it can be read, and the head's and the tail's name as numbers like those of `Readings`.
    """
    return _as_questions(*TextReader(question=True).read(questions))


def _as_questions(codes: I8, head: U64, tail: U64) -> tuple[NDArray[np.bool_], U64, U64]:
    return codes >= 0, head, tail


_DX = np.array([dx for dx, _ in VECTORS], np.int64)
_DY = np.array([dy for _, dy in VECTORS], np.int64)
_OF = np.array([[Relation.of(dx, dy) for dy in (-1, 0, 1)] for dx in (-1, 0, 1)], np.int8)


@kernel
def _agent(key: np.uint64, table: U64, stamps: I64, ids: I32, stamp: int, forest: I64, count: int) -> int:
    """Return an agent's number within its story; a new one (``count``) is a tree of its own."""
    slot = np.int64((key * PRIME) >> HIGH) & (len(table) - 1)
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


def _judge_batch(stories: pa.ListArray, questions: pa.StringArray, reader: TextReader, asker: TextReader) -> Verdicts:
    bounds = np.asarray(stories.offsets).astype(np.int32)
    bounds = bounds - bounds[0]
    readings = Readings(*reader.read(stories.flatten()))
    asked, head, tail = _as_questions(*asker.read(questions))
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
    reader, asker = TextReader(question=False), TextReader(question=True)
    parts = [_judge_batch(batch.column(0), batch.column(1), reader, asker) for batch in batches]
    readings = Readings(*map(np.concatenate, zip(*(part.readings for part in parts), strict=True)))
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Verdicts._fields[:-1]}
    return Verdicts(**columns, readings=readings)
