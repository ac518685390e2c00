"""Answers out of free text."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.extract import extract, extract_option
from stepgame.relations import NAMES, Relation

ASKED = "Where is A relative to B?"
GROUPS: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "data" / "extract_cases.toml").read_text())[
    "group"
]


def _cases() -> list[Any]:
    found = []
    for group in GROUPS:
        asked, story = group.get("asked", ASKED), tuple(group.get("story", ()))
        for text, flexible, strict in group.get("answers", ()):
            found.append(pytest.param(asked, story, text, strict or None, flexible, "answer", id=text or "(empty)"))
        for text, status, strict in group.get("no_answers", ()):
            found.append(pytest.param(asked, story, text, strict or None, None, status, id=text or "(empty)"))
    return found


def test_there_are_many_cases_and_each_group_has_a_reason() -> None:
    assert len(_cases()) >= 150
    assert all(group["why"] for group in GROUPS)


@pytest.mark.parametrize(("asked", "story", "text", "strict", "flexible", "status"), _cases())
def test_cases(
    asked: str, story: tuple[str, ...], text: str, strict: str | None, flexible: str | None, status: str
) -> None:
    found = extract(text, asked, story)
    assert (found.strict, found.flexible, found.status) == (strict, flexible, status)


@given(st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_the_last_answer_counts_for_every_pair_of_labels(first: str, last: str) -> None:
    found = extract(f"Answer: {first}\nAnswer: {last}", ASKED)
    assert (found.strict, found.flexible) == (last, last)


@given(st.text(), st.sampled_from(NAMES))
def test_the_form_that_is_asked_for_is_always_found(before: str, label: str) -> None:
    found = extract(f"{before}\nAnswer: {label}", ASKED)
    assert (found.strict, found.flexible) == (label, label)


@given(st.sampled_from(NAMES))
def test_a_statement_and_its_reverse_answer_the_same(label: str) -> None:
    inverse = Relation.parse(label).inverse.label
    assert extract(f"A is {label} of B.", ASKED).flexible == label
    assert extract(f"B is {inverse} of A.", ASKED).flexible == label


WORDS = "A B C is not left right above upper-left o'clock 3 10:30 Answer: so ; . , of the and {0} { } \n cannot tell ↖"


@given(st.text() | st.lists(st.sampled_from(WORDS.split(" "))).map(" ".join), st.sampled_from([None, ASKED, "Who?"]))
def test_any_text_has_a_reading(text: str, question: str | None) -> None:
    found = extract(text, question)
    assert found.flexible is None or found.flexible in NAMES
    assert (found.status == "answer") == (found.flexible is not None)


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "status"),
    [
        ("Answer: kitchen", "kitchen", "kitchen", "answer"),
        ("Answer: Kitchen", None, "kitchen", "answer"),
        ("She is in the kitchen, I think.", None, "kitchen", "answer"),
        ("Kitchen garden", None, "kitchen garden", "answer"),
        ("kitchen or hall", None, None, "several"),
        ("kitchens", None, None, "none"),
        ("The hall first.\nAnswer: kitchen", "kitchen", "kitchen", "answer"),
        ("Answer: unknown", None, None, "refusal"),
        ("", None, None, "empty"),
    ],
)
def test_options_of_any_wording(text: str, strict: str | None, flexible: str | None, status: str) -> None:
    found = extract_option(text, ("kitchen", "kitchen garden", "hall"))
    assert (found.strict, found.flexible, found.status) == (strict, flexible, status)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True), st.text())
def test_options_of_any_text_have_a_reading(options: list[str], text: str) -> None:
    found = extract_option(text, options)
    assert found.flexible is None or found.flexible in options
    assert (found.status == "answer") == (found.flexible is not None)
