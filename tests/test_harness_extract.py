"""Answers out of free text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.extract import extract
from stepgame.relations import NAMES

# (text, strict, flexible, status)
CASES = [
    ("Answer: upper-left", "upper-left", "upper-left", "answer"),
    ("Answer: left.", "left", "left", "answer"),
    ("A is near B.\nAnswer: overlap\n", "overlap", "overlap", "answer"),
    ("answer: LEFT", None, "left", "answer"),
    ("**Answer:** top-left", None, "upper-left", "answer"),
    ("The answer is north-west.", None, "upper-left", "answer"),
    ("Final answer: southeast", None, "lower-right", "answer"),
    ("A is above and to the left of B.", None, "upper-left", "answer"),
    ("A is to the left and below B", None, "lower-left", "answer"),
    ("It stands down and to the right.", None, "lower-right", "answer"),
    ("They are at the same place.", None, "overlap", "answer"),
    ("A overlaps B", None, "overlap", "answer"),
    ('The answer is "right".', None, "right", "answer"),
    ("You're right. A is below B.", None, "below", "answer"),
    ("A is right above B.", None, "above", "answer"),
    ("A is left of C and C is above B. Answer: upper-left", None, "upper-left", "answer"),
    ("Answer: left\nNo, wait.\nAnswer: right", "right", "right", "answer"),
    ("First I go left, then up. The answer is lower-right.", None, "lower-right", "answer"),
    ("A is not above B; it is below B.", None, "below", "answer"),
    ("left, right, above or below", None, None, "several"),
    ("Answer: left or right", None, None, "several"),
    ("I cannot tell.", None, None, "none"),
    ("The answer is: R.", None, None, "none"),
    ("", None, None, "empty"),
    (" \n ", None, None, "empty"),
]


@pytest.mark.parametrize(("text", "strict", "flexible", "status"), CASES)
def test_cases(text: str, strict: str | None, flexible: str | None, status: str) -> None:
    found = extract(text)
    assert (found.strict, found.flexible, found.status) == (strict, flexible, status)


@given(st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_the_last_answer_counts_for_every_pair_of_labels(first: str, last: str) -> None:
    found = extract(f"Answer: {first}\nAnswer: {last}")
    assert (found.strict, found.flexible) == (last, last)


@given(st.text())
def test_any_text_has_a_reading(text: str) -> None:
    found = extract(text)
    assert found.flexible is None or found.flexible in NAMES
    assert (found.status == "answer") == (found.flexible is not None)
