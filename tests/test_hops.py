import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgame.errors import InputError
from stepgame.hops import MAX_HOPS, format_hops, parse_hops


@pytest.mark.parametrize(
    ("text", "hops"),
    [("3", (3,)), ("1-3", (1, 2, 3)), ("7,1-3", (1, 2, 3, 7)), (" 2 - 3 , 2", (2, 3)), ("1000", (MAX_HOPS,))],
)
def test_parse(text, hops):
    assert parse_hops(text) == hops


@pytest.mark.parametrize(
    ("hops", "message"),
    [
        ("0", "out of range"),
        ("3-1", "did you mean 1-3"),
        ("1000000000", "out of range"),
        (10**9, "out of range"),
        (0, "out of range"),
        ("", "not a whole number"),
        ("1-", "not a whole number"),
        ("a", "not a whole number"),
        ("-3", "not a whole number"),
        ("1.5", "not a whole number"),
        ([], "none given"),
    ],
)
def test_bad_hops(hops, message):
    with pytest.raises(InputError, match=message):
        parse_hops(hops)


@given(st.sets(st.integers(1, MAX_HOPS), min_size=1))
def test_format_is_the_inverse(hops):
    assert set(parse_hops(format_hops(hops))) == hops
    assert parse_hops(hops) == parse_hops(format_hops(hops))
