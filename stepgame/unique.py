"""Rows alike: counting them, and leaving them out.

Two rows are alike when they show the same sentences in the same order and ask the same. It happens where few
different rows exist: at one hop without noise. Every row has a content hash; `fresh_rows` gives each split its own
share of the hashes, so splits made so have no row in common, at any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepgame.bank import Bank
from stepgame.compiled import kernel
from stepgame.errors import InputError
from stepgame.layout import I64, SPLITS, Layout, Sampler, sample
from stepgame.philox import U64

__all__ = ["Repeats", "content_hashes", "count_repeats", "fresh_rows"]

_PRIME = np.uint64(0xFF51AFD7ED558CCD)
_SEED = np.uint64(0x9E3779B97F4A7C15)
_HIGH = np.uint64(32)

_SHARES = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}
"""Of ten equal parts of the hashes, those a split may use."""

_BLOCK = 16384
# A split is used up when over this many draws fewer than this share of its rows were new.
_WINDOW, _EXHAUSTED = 8, 0.005


class Repeats(NamedTuple):
    """How many of a split's rows are not its own.

    Attributes:
        within: rows that repeat an earlier row of the split.
        shared: rows that stand in another split of the same size and seed too.
    """

    within: int
    shared: int


@kernel
def _hash_rows(layout: Layout, starts: I64, texts: I64, out: U64) -> None:
    for row in range(len(out)):
        state = _SEED
        for at in range(layout.offsets[row], layout.offsets[row + 1]):
            code = starts[layout.relation[at]] + layout.phrase[at]
            one, two = np.int64(layout.head[at]), np.int64(layout.tail[at])
            if texts[code, 1]:
                one, two = two, one
            fact = (texts[code, 0] << 32) | (one << 16) | two
            state = (state ^ np.uint64(fact)) * _PRIME
            state ^= state >> _HIGH
        asked = (np.int64(layout.query[row, 0]) << 16) | np.int64(layout.query[row, 1])
        state = (state ^ np.uint64(asked)) * _PRIME
        state ^= state >> _HIGH
        state *= _SEED | np.uint64(1)
        out[row] = state ^ (state >> _HIGH)


def content_hashes(sampler: Sampler, bank: Bank, rows: I64) -> U64:
    """Return a 64-bit hash of what each of the rows shows and asks; equal for rows alike."""
    starts = np.cumsum([0, *(len(group) for group in bank.phrases)]).astype(np.int64)
    out = np.empty(len(rows), np.uint64)
    _hash_rows(sample(sampler, rows), starts, np.array(bank.texts(), np.int64), out)
    return out


def _blocks(first: int, count: int) -> Iterator[I64]:
    for start in range(first, first + count, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, first + count))


def _log10_rows(sampler: Sampler) -> float:
    """Return the order of magnitude of the different rows there can be, noise left out (so rather too small)."""
    wordings = float(np.log10(max(1, int(sampler.phrases.sum()))))
    agents = sampler.hops + 1
    naming = sum(math.log10(sampler.pool - taken) for taken in range(agents))
    order = math.lgamma(sampler.hops + 1) / math.log(10)
    noise = wordings * (sampler.noise.disconnected[0] // 2 + sampler.noise.irrelevant[0])
    return sampler.hops * wordings + naming + order + noise


def count_repeats(sampler: Sampler, bank: Bank, first: int, count: int) -> Repeats:
    """Count the rows of first..first+count-1 that are alike to others.

    Where so many different rows exist that not one in a thousand such sets would have a repeat, none is sampled.
    """
    if 2 * math.log10(len(SPLITS) * count) - math.log10(2) - _log10_rows(sampler) < -3:
        return Repeats(0, 0)

    def hashes(split: str) -> U64:
        own = replace(sampler, split=split)
        found = np.concatenate([content_hashes(own, bank, rows) for rows in _blocks(first, count)])
        found.sort()
        return found

    own = hashes(sampler.split)
    within = int((own[1:] == own[:-1]).sum())
    elsewhere: NDArray[np.bool_] = np.zeros(count, np.bool_)
    for split in SPLITS:
        if split != sampler.split:
            other = hashes(split)
            place = np.minimum(np.searchsorted(other, own), count - 1)
            elsewhere |= other[place] == own
    return Repeats(within, int(elsewhere.sum()))


def fresh_rows(sampler: Sampler, bank: Bank, first: int, count: int) -> Iterator[I64]:
    """Yield the numbers of rows unlike all before them and unlike any row of another split.

    A split takes only rows whose hash falls into its share (train 8, validation 1, test 1 of 10), from ``first``
    on, as many draws as it takes. The rows depend on the seed and on ``first`` only; asking for more keeps them.

    Raises:
        InputError: if there are not so many different rows.
    """
    low, high = _SHARES[sampler.split]
    seen: set[int] = set()
    recent: list[tuple[int, int]] = []
    start = first
    while len(seen) < count:
        rows = np.arange(start, start + _BLOCK)
        start += _BLOCK
        hashes = content_hashes(sampler, bank, rows)
        part = hashes % np.uint64(10)
        ours = np.flatnonzero((part >= low) & (part < high))
        kept = []
        for place in ours:
            if len(seen) == count:
                break
            value = int(hashes[place])
            if value not in seen:
                seen.add(value)
                kept.append(place)
        recent = [*recent[-_WINDOW + 1 :], (len(ours), len(kept))]
        offered, new = (sum(column) for column in zip(*recent, strict=True))
        if len(seen) < count and len(recent) == _WINDOW and new < _EXHAUSTED * offered:
            raise InputError(
                f"{sampler.split} at {sampler.hops} hops: only about {len(seen):,} different rows exist for this "
                f"split, {count:,} were asked for; ask for fewer, more hops, noise, or a larger phrase bank"
            )
        if kept:
            yield rows[kept]
