"""Answers from facts that a model wrote: the model reads the story, the solver does the reasoning."""

from __future__ import annotations

import re

from harness.mentions import mentions
from harness.task import Example, Extraction
from stepgame.errors import InputError
from stepgame.read import Fact, UnreadableError, read_question, read_sentence
from stepgame.relations import NAMES, Relation
from stepgame.solve import ContradictionError, SolveError, solve_facts

__all__ = ["FACTS_EXTRACTION", "read_facts"]

FACTS_EXTRACTION = "facts-1"
"""Name and version of the rule; raised whenever a text could be read differently."""

_FORM = re.compile(r"([\w-]+(?: [\w-]+){0,3})\s*\(\s*([^\s(),]+)\s*,\s*([^\s(),]+)\s*\)")
_LEAD = re.compile(r"\s*(?:[-*•]|\d+[.)])?\s*")
_FENCE = "```"


def read_facts(text: str, example: Example) -> Extraction:
    """Answer an example's question from the facts in a text.

    *Strict* takes a text whose lines all read ``relation(head, tail)`` with one of the nine names. *Flexible* also
    takes numbered lines, other names of the relations, sentences that the grammar reads, and prose around them; a
    line that has the form of a fact but names no relation is not guessed at, and leaves the text without an answer.

    Args:
        text: what a model wrote.
        example: gives the question; it is read by the grammar, not by the model.

    Returns:
        Both readings, by the solver. The status tells apart ``"unreadable"``, ``"contradictory"`` and
        ``"unconnected"``, next to ``"empty"`` and ``"none"`` for a text without facts.
    """
    if not text.strip():
        return Extraction(None, None, "empty")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(_FENCE)]
    forms = [_FORM.fullmatch(line) for line in lines]
    stated = [Fact(m[2], Relation.parse(m[1]), m[3]) for m in forms if m is not None and m[1] in NAMES]
    strict = _answer(stated, example)[0] if lines and len(stated) == len(lines) else None
    facts: list[Fact] = []
    for line in lines:
        found = _loosely(line)
        if found is None:
            return Extraction(strict, None, "unreadable")
        facts += found
    if not facts:
        return Extraction(strict, None, "none")
    label, status = _answer(facts, example)
    return Extraction(strict, label, status)


def _loosely(line: str) -> list[Fact] | None:
    """Return the facts of a line, none for prose; None where something like a fact names no relation."""
    facts = []
    for match in _FORM.finditer(line):
        named = {mention.relation for mention in mentions(match[1].replace("_", " "))}
        if len(named) != 1:
            return None
        facts.append(Fact(match[2], named.pop(), match[3]))
    if facts:
        return facts
    try:
        return [read_sentence(_LEAD.sub("", line, count=1))]
    except UnreadableError:
        return []


def _answer(facts: list[Fact], example: Example) -> tuple[str | None, str]:
    try:
        head, tail = read_question(example.question)
        return solve_facts(facts, head, tail).label, "answer"
    except ContradictionError:
        return None, "contradictory"
    except SolveError:
        return None, "unconnected"
    except InputError:
        return None, "unreadable"
