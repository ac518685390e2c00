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

STATE = 10
"""Words of state: the counter (4), the key (2) and the words of the current block (4)."""

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)

U64 = NDArray[np.uint64]


def derive_key(*parts: object) -> np.uint64:
    """Hash the parts into a 64-bit key; different parts give independent streams."""
    text = "\x1f".join(str(part) for part in parts)
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


@kernel
def philox(state: U64) -> None:
    """Fill words 6-9 of the state from the counter in 0-3 and the key in 4-5."""
    c0, c1, c2, c3 = state[0], state[1], state[2], state[3]
    k0, k1 = state[4], state[5]
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _MASK
        k0 = (k0 + _W0) & _MASK
        k1 = (k1 + _W1) & _MASK
    state[6], state[7], state[8], state[9] = c0, c1, c2, c3


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
def word(state: U64) -> np.uint64:
    """Return the next 32-bit word of the stream."""
    place = state[0] & np.uint64(3)
    if place == 0:
        philox(state)
    state[0] += np.uint64(1)
    drawn: np.uint64 = state[np.uint64(6) + place]
    return drawn


@kernel
def below(state: U64, bound: int) -> int:
    """Return a whole number in 0..bound-1, uniform to within bound / 2**32."""
    # Compiled, an np.int64 is an int; int() would leave it unsigned there.
    return np.int64((word(state) * np.uint64(bound)) >> _SHIFT)  # type: ignore[return-value]
