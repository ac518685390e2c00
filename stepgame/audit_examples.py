"""Why one row is a finding, in words: the scalar reader and solver, for the few rows that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from stepgame.read import Fact, UnreadableError, read_question, read_sentence
from stepgame.solve import Answer, ContradictionError, SolveError, solve_facts

__all__ = ["Example", "explain"]

_LINKS_SHOWN = 12


class Example(NamedTuple):
    """One row that has a finding.

    Attributes:
        row: its number in the file, from 0.
        id: its id.
        k_hop: its chain's length, as the data has it.
        what: what is wrong with it.
        sentence: number of the sentence in question, from 0; None where no single one is.
        text: that sentence, or the question.
    """

    row: int
    id: str
    k_hop: int
    what: str
    sentence: int | None
    text: str


def _reason(text: str, question: bool) -> str:
    try:
        read_question(text) if question else read_sentence(text)
    except UnreadableError as error:
        return error.reason
    return "it cannot be read"


def _facts(story: Sequence[str]) -> tuple[list[Fact], list[int]]:
    """Read what can be read; the second value is where each fact stands in the story."""
    facts, places = [], []
    for place, sentence in enumerate(story):
        try:
            facts.append(read_sentence(sentence))
        except UnreadableError:
            continue
        places.append(place)
    return facts, places


def _told(fact: Fact) -> str:
    return f"{fact.head} {fact.relation.label} {fact.tail}"


def _why_contradictory(story: Sequence[str], sentence: int) -> str:
    facts, _ = _facts(story[: sentence + 1])
    closing = facts[-1]
    try:
        solve_facts(facts, closing.head, closing.tail)
    except ContradictionError as error:
        dx, dy = error.implied
        return (
            f"it says {_told(error.fact)}, one step, but the sentences before it put {closing.head} "
            f"({dx:+d}, {dy:+d}) from {closing.tail}"
        )
    return "it closes a contradiction"


def _solved(row: dict[str, Any]) -> Answer | str:
    """Return the literal answer, or why there is none."""
    facts, places = _facts(row["story"])
    try:
        return solve_facts(facts, *read_question(row["question"]))
    except UnreadableError as error:
        return f"the question cannot be read: {error.reason}"
    except SolveError as error:
        left_out = len(row["story"]) - len(places)
        return f"{error} ({left_out} unreadable left out)" if left_out else str(error)


def _why_mislabelled(row: dict[str, Any]) -> str:
    answer = _solved(row)
    if isinstance(answer, str):
        return answer
    chain = [_told(fact) for fact in answer.path[:_LINKS_SHOWN]]
    if len(answer.path) > _LINKS_SHOWN:
        chain.append(f"... ({len(answer.path)} links)")
    return f"label {row['label']}, literally {answer.label}: {', '.join(chain)}"


def explain(kind: str, row: dict[str, Any], number: int, sentence: int, twin: str) -> Example:
    """Say why a row is a finding.

    Args:
        kind: one of `stepgame.audit_tally.FINDINGS`.
        row: the story as a dict.
        number: its number in the file, from 0.
        sentence: for unreadable sentences and contradictions, the place of the sentence in question, from 0.
        twin: for duplicates and overlap, where the same row stands.

    Returns:
        The row with its reason.
    """
    place: int | None = None
    text = row["question"]
    if kind == "unreadable_sentences":
        place, text = sentence, row["story"][sentence]
        what = _reason(text, question=False)
    elif kind == "unreadable_questions":
        what = _reason(text, question=True)
    elif kind == "contradictory":
        place, text = sentence, row["story"][sentence]
        what = _why_contradictory(row["story"], sentence)
    elif kind == "unconnected":
        answer = _solved(row)
        what = answer if isinstance(answer, str) else "no answer"
    elif kind == "mislabelled":
        what = _why_mislabelled(row)
    else:
        what = f"the same as {twin}"
    return Example(number, row["id"], row["k_hop"], what, place, text)
