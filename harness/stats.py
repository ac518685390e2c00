"""Intervals, standard errors and paired tests over right and wrong answers.

Everything here is a pure function of its arguments: the bootstrap draws from a seeded generator, and no result
depends on the order of the samples. Swapping two runs swaps the sign of every difference and changes no p-value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

__all__ = [
    "RESAMPLES",
    "Interval",
    "bootstrap_difference",
    "chance_centred",
    "chance_centred_interval",
    "holm",
    "mcnemar",
    "score_difference",
    "sign_flip",
    "standard_error",
    "wilson",
]

RESAMPLES = 9999
"""Bootstrap resamples; with them, an interval's end moves by about a hundredth of its width between seeds."""


class Interval(NamedTuple):
    """Lower and upper bound; of a proportion both in [0, 1], of a difference of proportions in [-1, 1]."""

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


def chance_centred_interval(correct: int, n: int, chance: float, confidence: float = 0.95) -> Interval:
    """Return the interval of a chance-centred accuracy: the Wilson interval, rescaled.

    The rescaling is linear and chance is known, so the coverage is Wilson's.

    Args:
        correct: successes, 0 to ``n``.
        n: trials.
        chance: accuracy of guessing, in [0, 1).
        confidence: coverage, in (0, 1).
    """
    bounds = wilson(correct, n, confidence)
    return Interval(chance_centred(bounds.low, chance), chance_centred(bounds.high, chance))


def standard_error(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> float | None:
    """Return the standard error of a mean, robust to dependence within clusters.

    The sum over clusters of the squared sums of residuals, with the small-sample factor G / (G - 1) for G clusters.
    With every value its own cluster this is the usual sample standard deviation over the square root of n; asking
    every story m times over leaves it as it was, because copies carry no information.

    Args:
        values: one number a sample.
        clusters: for each sample, what it shares its source with; each its own when omitted.

    Returns:
        The standard error, in the unit of the values; None for fewer than two clusters.

    Source: Liang & Zeger (1986), Biometrika 73; for evaluations, Miller (2024), "Adding error bars to evals".
    """
    keys = range(len(values)) if clusters is None else clusters
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    residuals: dict[Hashable, list[float]] = {}
    for key, value in zip(keys, values, strict=True):
        residuals.setdefault(key, []).append(value - mean)
    groups = len(residuals)
    if groups < 2:
        return None
    total = math.fsum(math.fsum(each) ** 2 for each in residuals.values())
    return math.sqrt(groups / (groups - 1) * total) / n


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Under the null hypothesis that both runs are equally accurate, each discordant pair is a fair coin.

    Args:
        first_only: pairs that only the first run has right.
        second_only: pairs that only the second run has right.

    Returns:
        The p-value; 1 where no pair is discordant.

    Source: McNemar (1947), Psychometrika 12, with the exact binomial null.
    """
    if first_only + second_only == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(first_only, first_only + second_only, 0.5).pvalue)


def sign_flip(sums: Iterable[int]) -> float:
    """Return the exact two-sided p-value of the sign-flip test on the clusters' differences.

    Under the null hypothesis each cluster's difference is as likely to have the other sign. Where every cluster is
    one pair this is `mcnemar`; where clusters hold several dependent pairs it stays valid, which McNemar's does not.

    Args:
        sums: for each cluster, pairs that only the second run has right minus those that only the first has.
    """
    import numpy as np
    from scipy.stats import binom

    values = [value for value in sums if value]
    observed = abs(sum(values))
    null = np.ones(1)
    # Clusters of one magnitude v add up to v (2 B - m), B binomial: every second v-th place of an array.
    for size, count in sorted(Counter(abs(value) for value in values).items()):
        part = np.zeros(2 * size * count + 1)
        part[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        null = np.asarray(np.convolve(null, part), dtype=np.float64)
    reach = len(null) // 2
    outside = null[: reach - observed + 1].sum() + null[reach + observed :].sum()
    return float(min(1.0, outside)) if observed else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down method, in the order given.

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection in the family at
    alpha, whatever the dependence between the tests.

    Args:
        p_values: the family, each in [0, 1].

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6.
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def score_difference(first_only: int, second_only: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the score interval of a paired difference of proportions, second minus first.

    Unlike the bootstrap it says something where all pairs agree.

    Args:
        first_only: pairs that only the first run has right.
        second_only: pairs that only the second run has right.
        n: pairs, at least 1.
        confidence: coverage, in (0, 1).

    Source: Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Stat. Med. 17.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf((1 + confidence) / 2))
    estimate = (second_only - first_only) / n

    def excess(delta: float) -> float:
        """Return how far the squared score statistic of a difference lies above its critical value."""
        # The restricted estimate of the probability that only the first is right.
        linear = -first_only - second_only + (2 * n - second_only + first_only) * delta
        root = math.sqrt(max(0.0, linear * linear + 8 * n * first_only * delta * (1 - delta)))
        first = (root - linear) / (4 * n)
        variance = n * (2 * first + delta * (1 - delta))
        return (second_only - first_only - n * delta) ** 2 - z * z * variance

    def bound(end: float) -> float:
        # At the estimate itself statistic and variance may both be 0; just beside it the statistic is the smaller.
        start = estimate + math.copysign(1e-9, end - estimate)
        if abs(estimate - end) < 1e-9 or excess(end) <= 0:
            return end
        return float(brentq(excess, start, end, xtol=1e-12))

    return Interval(bound(-1.0), bound(1.0))


def bootstrap_difference(
    differences: Sequence[int],
    clusters: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of the paired (cluster) bootstrap of a mean difference.

    Whole pairs, or whole clusters of them, are drawn with replacement. A resample depends on the data only through
    how often each distinct (sum, size) of a cluster was drawn, so these counts are drawn, from the multinomial that
    they follow: the same distribution as drawing indices, at a cost that does not grow with the pairs. Both
    orientations are drawn with one seed and averaged, so that swapping the runs negates the interval exactly.

    Args:
        differences: for each pair the second run's outcome minus the first's, such as -1, 0 or 1; not empty.
        clusters: for each pair, what it shares its source with; each its own when omitted.
        confidence: coverage, in (0, 1).
        resamples: how many resamples are drawn.
        seed: of the resampling.

    Returns:
        The interval. A point where all clusters are alike: such a sample cannot show how it varies; see
        `score_difference`.

    Source: Efron & Tibshirani (1993), "An introduction to the bootstrap", chapters 8 and 13.
    """
    keys = range(len(differences)) if clusters is None else clusters
    sums: dict[Hashable, tuple[int, int]] = {}
    for key, value in zip(keys, differences, strict=True):
        total, size = sums.get(key, (0, 0))
        sums[key] = (total + value, size + 1)
    forth = _percentiles(Counter(sums.values()), confidence, resamples, seed)
    back = _percentiles(Counter((-total, size) for total, size in sums.values()), confidence, resamples, seed)
    return Interval((forth.low - back.high) / 2, (forth.high - back.low) / 2)


def _percentiles(kinds: Counter[tuple[int, int]], confidence: float, resamples: int, seed: int) -> Interval:
    import numpy as np

    # Sorted, because equal data must meet equal random numbers.
    values = np.array(sorted(kinds), dtype=np.float64)
    counts = np.array([kinds[kind] for kind in sorted(kinds)], dtype=np.float64)
    drawn = np.random.default_rng(seed).multinomial(int(counts.sum()), counts / counts.sum(), size=resamples)
    means = (drawn @ values[:, 0]) / (drawn @ values[:, 1])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
