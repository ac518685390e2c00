"""Intervals and scores over counts."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Interval", "chance_centred", "wilson"]


class Interval(NamedTuple):
    """Lower and upper bound of a proportion, both in [0, 1]."""

    low: float
    high: float


def wilson(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the Wilson score interval of a proportion.

    Args:
        correct: successes, 0 to ``n``.
        n: trials; with none the interval is all of [0, 1].
        confidence: coverage, in (0, 1).

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    if n == 0:
        return Interval(0.0, 1.0)
    from scipy.stats import binomtest

    bounds = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return Interval(float(bounds.low), float(bounds.high))


def chance_centred(accuracy: float, chance: float) -> float:
    """Rescale an accuracy so that guessing is 0 and perfection 1; worse than guessing is negative.

    Args:
        accuracy: in [0, 1].
        chance: accuracy of guessing, in [0, 1).
    """
    return (accuracy - chance) / (1 - chance)
