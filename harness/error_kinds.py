"""What kind of mistake a wrong answer is, for the nine spatial labels.

A label is a pair of signs (dx, dy). A wrong answer is the ``opposite`` when it is the inverse of the gold label,
``one_axis`` when exactly one of the two signs is wrong (and it is not the opposite: of ``left`` that is ``right``),
and ``both_axes`` otherwise. An answer that could not be read is ``unparsed``. ``overlap`` has no opposite but itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from harness.stats import wilson
from stepgame.relations import NAMES, Relation

__all__ = ["KINDS", "ErrorKinds", "KindShare", "count_kinds", "expected_shares", "kind_of"]

KINDS = ("opposite", "one_axis", "both_axes")
"""The kinds of a wrong answer that could be read."""


@dataclass(frozen=True, slots=True)
class KindShare:
    """One kind among the wrong answers that could be read.

    Attributes:
        kind: one of `KINDS`.
        count: answers of this kind.
        share: of the wrong, parsed answers; in [0, 1], None where there are none.
        low: lower bound of the share's 95 % Wilson interval.
        high: its upper bound.
        expected: the share that guessing evenly among the wrong labels would give on the same gold labels.
    """

    kind: str
    count: int
    share: float | None
    low: float
    high: float
    expected: float | None


@dataclass(frozen=True, slots=True)
class ErrorKinds:
    """The answers of one group of stories by kind of mistake.

    Attributes:
        k: the group's k; None for all stories.
        answered: answers, right ones and unparsed ones included.
        correct: right answers.
        unparsed: answers that could not be read.
        kinds: the wrong ones that could, by kind, in the order of `KINDS`.
    """

    k: int | None
    answered: int
    correct: int
    unparsed: int
    kinds: tuple[KindShare, ...]


@cache
def kind_of(gold: str, prediction: str) -> str | None:
    """Return the kind of mistake, or None if the prediction is right.

    Raises:
        InputError: if either is none of the nine labels.
    """
    if gold == prediction:
        return None
    truth, answer = Relation.parse(gold), Relation.parse(prediction)
    if answer == truth.inverse:
        return "opposite"
    wrong = sum(a != b for a, b in zip(truth.vector, answer.vector, strict=True))
    return "one_axis" if wrong == 1 else "both_axes"


@cache
def expected_shares(gold: str) -> dict[str, float]:
    """Return the share of each kind when one of the eight wrong labels is drawn with equal chance."""
    counts = Counter(kind_of(gold, name) for name in NAMES if name != gold)
    return {kind: counts[kind] / (len(NAMES) - 1) for kind in KINDS}


def count_kinds(answers: Iterable[tuple[str, str | None]], k: int | None = None) -> ErrorKinds:
    """Count one group's answers by kind of mistake.

    Args:
        answers: gold label and prediction of every answer, errors left out; the prediction None where unparsed.
        k: what to call the group.

    Raises:
        InputError: if a gold label or a prediction is none of the nine labels.
    """
    pairs = Counter(answers)
    counts: Counter[str] = Counter()
    expected = dict.fromkeys(KINDS, 0.0)
    correct = unparsed = 0
    for (gold, prediction), n in pairs.items():
        if prediction is None:
            unparsed += n
            continue
        kind = kind_of(gold, prediction)
        if kind is None:
            correct += n
            continue
        counts[kind] += n
        for each, share in expected_shares(gold).items():
            expected[each] += n * share
    wrong = counts.total()
    kinds = []
    for kind in KINDS:
        bounds = wilson(counts[kind], wrong)
        observed = counts[kind] / wrong if wrong else None
        guessed = expected[kind] / wrong if wrong else None
        kinds.append(KindShare(kind, counts[kind], observed, bounds.low, bounds.high, guessed))
    return ErrorKinds(k, pairs.total(), correct, unparsed, tuple(kinds))
