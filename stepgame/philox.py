"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror & Shaw, SC 2011).

A stream is named by a 64-bit key, a row number and a purpose; its draws are a pure function of these, so any
row can be made alone, in any order, by any number of workers. The state is an array of `STATE` unsigned
64-bit words, made once and pointed at one stream after the other with `seek`.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from stepgame.compiled import kernel

__all__ = ["STATE", "below", "derive_key", "philox", "seek", "word"]

BLOCKS = 8
"""Blocks made at once: independent of each other, so the compiler computes them in vector registers."""

DRAWN = 4 * BLOCKS
STATE = 6 + DRAWN
"""Words of state: the counter (4), the key (2) and the words of the current blocks (4 each)."""

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)
_TWO, _THREE, _FIRST, _BLOCKS = np.uint64(2), np.uint64(3), np.uint64(6), np.uint64(BLOCKS)

U64 = NDArray[np.uint64]


def derive_key(*parts: object) -> np.uint64:
    """Hash the parts into a 64-bit key; different parts give independent streams."""
    text = "\x1f".join(str(part) for part in parts)
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


@kernel
def philox(state: U64, base: int = 0) -> None:
    """Make `BLOCKS` blocks: of the counter in words 0-3 under the key in 4-5, of the counter 4 draws on, and so on.

    Word w of block b goes to place 6 + w * `BLOCKS` + b: side by side for all blocks, so that the compiler works on
    them in vector registers.
    """
    draws, first, second, third = (
        state[base + 0],
        state[base + 1] & _MASK,
        state[base + 2] & _MASK,
        state[base + 3] & _MASK,
    )
    low, high = state[base + 4] & _MASK, state[base + 5] & _MASK
    for block in range(BLOCKS):
        c0, c1, c2, c3 = (draws + np.uint64(4) * np.uint64(block)) & _MASK, first, second, third
        k0, k1 = low, high
        for _ in range(10):
            p0 = _M0 * c0
            p1 = _M1 * c2
            c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _MASK
            k0 = (k0 + _W0) & _MASK
            k1 = (k1 + _W1) & _MASK
        state[base + 6 + block], state[base + 6 + BLOCKS + block] = c0, c1
        state[base + 6 + 2 * BLOCKS + block], state[base + 6 + 3 * BLOCKS + block] = c2, c3


@kernel
def seek(state: U64, key: np.uint64, row: int, purpose: int) -> None:
    """Point the state at the first draw of a stream.

    The counter's words are: draws so far (a new block is made at every fourth), purpose, row low, row high.
    """
    state[0] = np.uint64(0)
    state[1] = np.uint64(purpose)
    state[2] = np.uint64(row) & _MASK
    state[3] = np.uint64(row) >> _SHIFT
    state[4] = key & _MASK
    state[5] = key >> _SHIFT


@kernel
def word(state: U64, base: int = 0) -> np.uint64:
    """Return the next 32-bit word of the stream whose state begins at ``base``."""
    draws = state[base]
    place = draws & np.uint64(DRAWN - 1)
    if place == 0:
        philox(state, base)
    state[base] = draws + np.uint64(1)
    drawn: np.uint64 = state[base + np.int64(_FIRST + (place >> _TWO) + (place & _THREE) * _BLOCKS)]
    return drawn


@kernel
def below(state: U64, bound: int) -> int:
    """Return a whole number in 0..bound-1, uniform to within bound / 2**32."""
    # Compiled, an np.int64 is an int; int() would leave it unsigned there.
    return np.int64((word(state) * np.uint64(bound)) >> _SHIFT)  # type: ignore[return-value]
