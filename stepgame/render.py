"""From layouts to text: sentences assembled as bytes, straight into Arrow buffers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepgame.bank import HEAD, TAIL, Bank, split_slots
from stepgame.compiled import compiled
from stepgame.layout import I8, I16, I32, I64

__all__ = ["Renderer"]

U8 = NDArray[np.uint8]
_LITERAL, _HEAD, _TAIL = 0, 1, 2


def _pack(texts: list[str]) -> tuple[U8, I64]:
    """Join texts into one byte array and its offsets."""
    raw = [text.encode("utf-8") for text in texts]
    offsets = np.zeros(len(raw) + 1, np.int64)
    np.cumsum([len(part) for part in raw], out=offsets[1:])
    return np.frombuffer(b"".join(raw) or b"\0", np.uint8), offsets


@compiled
def _copy(source: U8, start: int, stop: int, target: U8, at: int) -> int:
    for i in range(start, stop):
        target[at] = source[i]
        at += 1
    return at


@compiled
def _measure(starts: I64, kinds: I8, literals: I64, names: I64, pattern: I64, head: I16, tail: I16, out: I32) -> int:
    """Write where each sentence begins to ``out``; return the bytes that all of them need."""
    total = 0
    for row in range(len(pattern)):
        out[row] = total
        for piece in range(starts[pattern[row]], starts[pattern[row] + 1]):
            if kinds[piece] == _LITERAL:
                total += literals[piece + 1] - literals[piece]
            else:
                agent = head[row] if kinds[piece] == _HEAD else tail[row]
                total += names[agent + 1] - names[agent]
    out[len(pattern)] = total
    return total


@compiled
def _write(
    starts: I64,
    kinds: I8,
    literals: I64,
    names: I64,
    pattern: I64,
    head: I16,
    tail: I16,
    literal_bytes: U8,
    name_bytes: U8,
    out: U8,
) -> None:
    """Write every sentence's bytes one after the other."""
    at = 0
    for row in range(len(pattern)):
        for piece in range(starts[pattern[row]], starts[pattern[row] + 1]):
            if kinds[piece] == _LITERAL:
                at = _copy(literal_bytes, literals[piece], literals[piece + 1], out, at)
            else:
                agent = head[row] if kinds[piece] == _HEAD else tail[row]
                at = _copy(name_bytes, names[agent], names[agent + 1], out, at)


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Patterns cut into pieces: ``starts[p]`` to ``starts[p + 1]`` are the pieces of pattern p."""

    starts: I64
    kinds: I8
    offsets: I64
    bytes: U8

    @classmethod
    def cut(cls, pieces: list[tuple[str, ...]]) -> _Patterns:
        flat = [piece for group in pieces for piece in group]
        kinds = np.array([{HEAD: _HEAD, TAIL: _TAIL}.get(piece, _LITERAL) for piece in flat], np.int8)
        literal_bytes, offsets = _pack([p if kind == _LITERAL else "" for p, kind in zip(flat, kinds, strict=True)])
        starts = np.cumsum([0, *map(len, pieces)]).astype(np.int64)
        return cls(starts, kinds, offsets, literal_bytes)


class Renderer:
    """Writes sentences and questions of one bank over one list of names.

    Args:
        bank: the phrases.
        names: the agents' names; layouts hold indices into it.
    """

    def __init__(self, bank: Bank, names: list[str]) -> None:
        self._phrases = _Patterns.cut([split_slots(phrase.pattern) for phrase in bank])
        self._first = np.cumsum([0, *(len(group) for group in bank.phrases)])[:-1].astype(np.int64)
        self._question = _Patterns.cut([split_slots(bank.question)])
        self._name_bytes, self._name_offsets = _pack(names)

    def codes(self, relation: I8, phrase: I16) -> I64:
        """Number each (relation, phrase) by its place among all phrases of the bank."""
        numbers: I64 = self._first[relation] + phrase
        return numbers

    def sentences(self, codes: I64, head: I16, tail: I16) -> pa.StringArray:
        """Return one sentence for each [n] phrase code, head and tail."""
        return self._assemble(self._phrases, codes, head, tail)

    def questions(self, head: I16, tail: I16) -> pa.StringArray:
        """Return one question for each [n] head and tail."""
        return self._assemble(self._question, np.zeros(len(head), np.int64), head, tail)

    def _assemble(self, patterns: _Patterns, codes: I64, head: I16, tail: I16) -> pa.StringArray:
        offsets = np.empty(len(codes) + 1, np.int32)
        where = (patterns.starts, patterns.kinds, patterns.offsets, self._name_offsets, codes, head, tail)
        data = np.empty(_measure(*where, offsets), np.uint8)
        _write(*where, patterns.bytes, self._name_bytes, data)
        return pa.StringArray.from_buffers(len(codes), pa.py_buffer(offsets), pa.py_buffer(data))
