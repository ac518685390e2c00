"""From layouts to text: sentences assembled as bytes, straight into Arrow buffers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepgame.bank import TAIL, Bank, split_slots
from stepgame.compiled import COPIED, copy_block, kernel
from stepgame.layout import I8, I16, I32, I64

__all__ = ["Renderer"]

U8 = NDArray[np.uint8]


def _pack(texts: list[str]) -> tuple[U8, I64, I64]:
    """Lay texts out for copying by blocks: the bytes, where each text begins, how long it is."""
    raw = [text.encode("utf-8") for text in texts]
    room = [max(1, -(-len(part) // COPIED)) * COPIED for part in raw]
    data = b"".join(part.ljust(width, b" ") for part, width in zip(raw, room, strict=True))
    starts = np.cumsum([0, *room])[:-1].astype(np.int64)
    return np.frombuffer(data, np.uint8), starts, np.array([len(part) for part in raw], np.int64)


class _Patterns(NamedTuple):
    """Patterns cut at their slots: literal, slot, literal, slot, ..., literal; literals may be empty.

    Attributes:
        slots: [patterns + 1] where each pattern's slots begin.
        tail: [slots] 0 for the head, 1 for the tail.
        data, starts, lengths: the literals, as `_pack` gives them: pattern p has those from slots[p] + p on.
        fixed, heads, tails: [patterns] bytes of literals, and how often each agent is named.
    """

    slots: I64
    tail: I64
    data: U8
    starts: I64
    lengths: I64
    fixed: I64
    heads: I64
    tails: I64

    @classmethod
    def cut(cls, patterns: list[str]) -> _Patterns:
        """Cut patterns at their slots."""
        cuts = [split_slots(pattern) for pattern in patterns]
        named = [[int(slot == TAIL) for slot in pieces[1::2]] for pieces in cuts]
        data, starts, lengths = _pack([literal for pieces in cuts for literal in pieces[::2]])
        slots = np.cumsum([0, *map(len, named)]).astype(np.int64)
        fixed = np.add.reduceat(lengths, slots[:-1] + np.arange(len(patterns)))
        heads, tails = (np.array([each.count(which) for each in named], np.int64) for which in (0, 1))
        flat = np.array([which for each in named for which in each], np.int64)
        return cls(slots, flat, data, starts, lengths, fixed, heads, tails)


class _Names(NamedTuple):
    """Agents' names, as `_pack` gives them."""

    data: U8
    starts: I64
    lengths: I64


@kernel
def _number(first: I64, relation: I8, phrase: I16, out: I16) -> None:
    """Write each phrase's place among all phrases of the bank."""
    for row in range(len(phrase)):
        out[row] = first[relation[row]] + phrase[row]


@kernel
def _measure(patterns: _Patterns, names: _Names, codes: I16, head: I16, tail: I16, offsets: I32) -> int:
    """Write where each sentence begins to ``offsets``; return the bytes that all of them need."""
    total = 0
    for row in range(len(codes)):
        offsets[row] = total
        code = np.int64(codes[row])
        total += patterns.fixed[code]
        total += patterns.heads[code] * names.lengths[head[row]] + patterns.tails[code] * names.lengths[tail[row]]
    offsets[len(codes)] = total
    return int(total)


@kernel
def _put(source: U8, start: int, length: int, out: U8, at: int) -> int:
    """Copy a text by blocks, at least one; return the place behind it."""
    copy_block(out, at, source, start)
    for done in range(COPIED, length, COPIED):
        copy_block(out, at + done, source, start + done)
    return at + length


@kernel
def _write(patterns: _Patterns, names: _Names, codes: I16, head: I16, tail: I16, out: U8) -> None:
    """Write every sentence's bytes one after the other; each block may write over what comes behind it."""
    at = 0
    for row in range(len(codes)):
        code = np.int64(codes[row])
        slot = patterns.slots[code]
        literal = slot + code
        at = _put(patterns.data, patterns.starts[literal], patterns.lengths[literal], out, at)
        while slot < patterns.slots[code + 1]:
            agent = head[row] + patterns.tail[slot] * (tail[row] - head[row])
            at = _put(names.data, names.starts[agent], names.lengths[agent], out, at)
            slot += 1
            literal += 1
            at = _put(patterns.data, patterns.starts[literal], patterns.lengths[literal], out, at)


class Renderer:
    """Writes sentences and questions of one bank over one list of names.

    Args:
        bank: the phrases.
        names: the agents' names; layouts hold indices into it.
    """

    def __init__(self, bank: Bank, names: list[str]) -> None:
        self._phrases = _Patterns.cut([phrase.pattern for phrase in bank])
        self._first = np.cumsum([0, *(len(group) for group in bank.phrases)])[:-1].astype(np.int64)
        self._question = _Patterns.cut([bank.question])
        self._names = _Names(*_pack(names))

    def codes(self, relation: I8, phrase: I16) -> I16:
        """Number each (relation, phrase) by its place among all phrases of the bank."""
        numbers = np.empty(len(phrase), np.int16)
        _number(self._first, relation, phrase, numbers)
        return numbers

    def sentences(self, codes: I16, head: I16, tail: I16) -> pa.StringArray:
        """Return one sentence for each [n] phrase code, head and tail."""
        return self._assemble(self._phrases, codes, head, tail)

    def questions(self, head: I16, tail: I16) -> pa.StringArray:
        """Return one question for each [n] head and tail."""
        return self._assemble(self._question, np.zeros(len(head), np.int16), head, tail)

    def _assemble(self, patterns: _Patterns, codes: I16, head: I16, tail: I16) -> pa.StringArray:
        offsets = np.empty(len(codes) + 1, np.int32)
        size = _measure(patterns, self._names, codes, head, tail, offsets)
        data = np.empty(size + COPIED, np.uint8)
        _write(patterns, self._names, codes, head, tail, data)
        return pa.StringArray.from_buffers(len(codes), pa.py_buffer(offsets), pa.py_buffer(data[:size]))
