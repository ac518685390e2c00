import numpy as np
import pytest

from stepgame.philox import BLOCKS, STATE, below, derive_key, philox, seek, word

# Known answers of Philox4x32-10, from the test vectors published with Random123 (Salmon et al., SC 2011).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(key, row, purpose, count):
    state = np.zeros(STATE, np.uint64)
    seek(state, np.uint64(key), row, purpose)
    return [int(word(state)) for _ in range(count)]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    state = np.zeros(STATE, np.uint64)
    state[:6] = *counter, *key
    philox(state)
    assert tuple(int(value) for value in state[6::BLOCKS]) == expected


def test_streams_differ_in_key_row_and_purpose_and_repeat():
    base = words(1, 2, 3, 64)
    assert words(1, 2, 3, 64) == base
    assert len(set(base)) == 64
    for other in (words(2, 2, 3, 64), words(1, 3, 3, 64), words(1, 2, 0, 64), words(1, 2 + 2**32, 3, 64)):
        assert not set(base) & set(other)


def test_below_is_uniform():
    state = np.zeros(STATE, np.uint64)
    seek(state, np.uint64(7), 0, 0)
    counts = np.bincount([below(state, 9) for _ in range(90_000)], minlength=9)
    # 8 degrees of freedom: chi-square above 26.1 has probability 0.001, and the stream is fixed.
    assert len(counts) == 9
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 26.1


def test_keys_depend_on_every_part_and_its_place():
    assert len({derive_key("a", 1), derive_key("a", 2), derive_key("b", 1), derive_key("a1"), derive_key(1, "a")}) == 5
