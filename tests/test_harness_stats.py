"""Statistics against independent computations: closed forms, enumeration, simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.special import xlogy

from harness.decay import fit_decay
from harness.error_kinds import KINDS, count_kinds, expected_shares, kind_of
from harness.stats import (
    bootstrap_difference,
    chance_centred,
    chance_centred_interval,
    holm,
    mcnemar,
    score_difference,
    sign_flip,
    standard_error,
    wilson,
)
from stepgame.relations import NAMES, VECTORS

COUNT = st.integers(0, 60)
OUTCOMES = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60)


@given(COUNT, COUNT)
def test_mcnemar_is_the_direct_binomial_sum(b: int, c: int) -> None:
    n = b + c
    tail = sum(math.comb(n, i) for i in range(min(b, c) + 1)) / 2**n
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)
    assert mcnemar(b, c) == mcnemar(c, b)


@given(st.lists(st.integers(-4, 4), max_size=10))
def test_sign_flip_is_the_enumeration_of_all_signs(sums: list[int]) -> None:
    observed = abs(sum(sums))
    flips = [abs(sum(s * v for s, v in zip(signs, sums, strict=True))) for signs in product((-1, 1), repeat=len(sums))]
    expected = sum(flip >= observed for flip in flips) / len(flips)
    assert sign_flip(sums) == pytest.approx(expected, rel=1e-12)
    assert sign_flip(-value for value in sums) == pytest.approx(expected, rel=1e-12)


@given(COUNT, COUNT)
def test_sign_flip_of_single_pairs_is_mcnemar(b: int, c: int) -> None:
    assert sign_flip([-1] * b + [1] * c + [0] * 3) == pytest.approx(mcnemar(b, c), rel=1e-9)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if (len(p_values) - rank) * p_values[place] > alpha:
                break
            rejected.add(place)
        assert {i for i, a in enumerate(adjusted) if a <= alpha} == rejected


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=40))
def test_standard_error_of_single_samples_is_the_usual_one(values: list[float]) -> None:
    expected = np.std(values, ddof=1) / math.sqrt(len(values))
    assert standard_error(values) == pytest.approx(expected, abs=1e-9)
    assert standard_error(values, list(range(len(values)))) == standard_error(values)


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(1, 6))
def test_copies_carry_no_information(outcomes: list[bool], copies: int) -> None:
    values = [float(value) for value in outcomes]
    clusters = [place for place in range(len(values)) for _ in range(copies)]
    repeated = [values[place] for place in clusters]
    assert standard_error(repeated, clusters) == pytest.approx(standard_error(values), abs=1e-12)
    # Uncorrected for small samples, the naive error of m copies is too small by the root of m.
    naive = float(np.std(repeated)) / math.sqrt(len(repeated))
    groups = len(values)
    clustered = standard_error(repeated, clusters)
    assert clustered is not None
    assert clustered * math.sqrt((groups - 1) / groups) == pytest.approx(naive * math.sqrt(copies), abs=1e-12)


def test_no_standard_error_without_two_clusters() -> None:
    assert standard_error([1.0]) is None
    assert standard_error([1.0, 0.0, 1.0], ["a", "a", "a"]) is None


def test_clustered_error_covers_where_the_naive_one_does_not() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 5)
    hits = {"clustered": 0, "naive": 0}
    for _ in range(400):
        values = (rng.random(300) < np.repeat(rng.beta(1, 1, 60), 5)).astype(float)
        for name, keys in (("clustered", clusters.tolist()), ("naive", None)):
            error = standard_error(values.tolist(), keys)
            assert error is not None
            hits[name] += abs(values.mean() - 0.5) <= 1.96 * error
    assert 0.92 <= hits["clustered"] / 400 <= 0.98
    assert hits["naive"] / 400 < 0.88


@settings(max_examples=25, deadline=None)
@given(OUTCOMES, st.integers(0, 3), st.randoms())
def test_bootstrap_negates_under_swapping_and_knows_no_order(differences: list[int], seed: int, random: object) -> None:
    bounds = bootstrap_difference(differences, resamples=400, seed=seed)
    swapped = bootstrap_difference([-value for value in differences], resamples=400, seed=seed)
    assert (swapped.low, swapped.high) == pytest.approx((-bounds.high, -bounds.low), abs=1e-12)
    shuffled = differences.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert bootstrap_difference(shuffled, resamples=400, seed=seed) == bounds
    assert bounds.low - 1e-9 <= bounds.high
    assert bounds.low >= -1 and bounds.high <= 1


def test_bootstrap_is_the_paired_bootstrap_of_scipy() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.random(150) < 0.5).astype(int), (rng.random(150) < 0.65).astype(int)
    theirs = scipy_stats.bootstrap(
        (first, second),
        lambda a, b, axis: b.mean(axis) - a.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(2),
    ).confidence_interval
    ours = bootstrap_difference((second - first).tolist())
    # Ends of both are quantiles of 9,999 draws; two stories' worth is several of their standard errors.
    assert ours.low == pytest.approx(theirs.low, abs=2 / 150)
    assert ours.high == pytest.approx(theirs.high, abs=2 / 150)


def test_clustered_bootstrap_of_copies_is_that_of_the_originals() -> None:
    differences = [1, 1, 0, -1, 0, 1, 0, 0, 1, -1]
    clusters = [place for place in range(10) for _ in range(4)]
    bounds = bootstrap_difference([differences[place] for place in clusters], clusters)
    assert bounds == pytest.approx(bootstrap_difference(differences))


@pytest.mark.parametrize(("n", "p", "q"), [(60, 0.30, 0.15), (100, 0.10, 0.10), (300, 0.05, 0.20)])
def test_intervals_of_a_difference_cover(n: int, p: float, q: float) -> None:
    """``p`` and ``q``: probability that only the first and only the second run is right."""
    rng = np.random.default_rng(n)
    hits = {"bootstrap": 0, "score": 0}
    rounds = 500
    for b, c, _ in rng.multinomial(n, [p, q, 1 - p - q], size=rounds):
        differences = [-1] * int(b) + [1] * int(c) + [0] * (n - int(b) - int(c))
        boot = bootstrap_difference(differences, resamples=999)
        score = score_difference(int(b), int(c), n)
        hits["bootstrap"] += boot.low <= q - p <= boot.high
        hits["score"] += score.low <= q - p <= score.high
    assert 0.92 <= hits["bootstrap"] / rounds <= 0.98
    assert 0.93 <= hits["score"] / rounds <= 0.98


@given(COUNT, COUNT, COUNT)
def test_score_interval_solves_its_equation(b: int, c: int, rest: int) -> None:
    n = b + c + rest
    if n == 0:
        return
    bounds, swapped = score_difference(b, c, n), score_difference(c, b, n)
    assert bounds.low <= (c - b) / n <= bounds.high
    assert (swapped.low, swapped.high) == pytest.approx((-bounds.high, -bounds.low), abs=1e-6)
    z = scipy_stats.norm.ppf(0.975)
    for end in bounds:
        if abs(end) > 1 - 1e-9:
            continue

        # The restricted maximum of the likelihood by search instead of by formula.
        grid = np.linspace(max(0.0, -end), (1 - end) / 2, 20001)
        cells = np.maximum([grid, grid + end, 1 - 2 * grid - end], 0)
        restricted = grid[np.argmax(xlogy([[b], [c], [rest]], cells).sum(0))]
        variance = n * (2 * restricted + end - end**2)
        assert (c - b - n * end) ** 2 == pytest.approx(z**2 * variance, rel=0.02, abs=0.05)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 0.9))
def test_chance_centred_interval_is_the_rescaled_wilson(correct: int, extra: int, chance: float) -> None:
    n = correct + extra
    bounds = chance_centred_interval(correct, n, chance)
    plain = wilson(correct, n)
    assert bounds.low <= chance_centred(correct / n, chance) + 1e-12
    assert bounds.high >= chance_centred(correct / n, chance) - 1e-12
    assert bounds.low * (1 - chance) + chance == pytest.approx(plain.low, abs=1e-12)
    assert bounds.high * (1 - chance) + chance == pytest.approx(plain.high, abs=1e-12)


KS = list(range(1, 11))


def _planted(ceiling: float, reliability: float, n: int) -> list[int]:
    return [round(n * (1 / 9 + 8 / 9 * ceiling * reliability**k)) for k in KS]


@pytest.mark.parametrize(("ceiling", "reliability"), [(1.0, 0.9), (1.0, 0.5), (0.8, 0.85), (0.6, 0.99), (0.3, 0.7)])
def test_decay_recovers_what_was_planted(ceiling: float, reliability: float) -> None:
    n = 10**6
    fit = fit_decay(KS, _planted(ceiling, reliability, n), [n] * 10, 1 / 9)
    assert fit.reliability == pytest.approx(reliability, abs=2e-3)
    assert fit.ceiling == pytest.approx(ceiling, abs=2e-3)
    assert fit.ceiling_free == (ceiling < 1)
    expected = max(0.0, math.log(0.5 / ceiling) / math.log(reliability))
    assert fit.horizon == pytest.approx(expected, rel=5e-3)
    assert fit.reliability_low is not None and fit.reliability_high is not None
    assert fit.reliability_low <= reliability <= fit.reliability_high
    assert fit.p_fit is not None and fit.p_fit > 0.5


@pytest.mark.parametrize(("ceiling", "reliability"), [(1.0, 0.9), (0.8, 0.85)])
def test_decay_intervals_cover(ceiling: float, reliability: float) -> None:
    rng = np.random.default_rng(3)
    truth = 1 / 9 + 8 / 9 * ceiling * reliability ** np.array(KS)
    horizon = math.log(0.5 / ceiling) / math.log(reliability)
    rounds, inside, horizons = 120, 0, 0
    for _ in range(rounds):
        fit = fit_decay(KS, rng.binomial(100, truth).tolist(), [100] * 10, 1 / 9)
        assert fit.reliability_low is not None and fit.reliability_high is not None
        assert fit.horizon_low is not None and fit.horizon_high is not None
        inside += fit.reliability_low <= reliability <= fit.reliability_high
        horizons += fit.horizon_low <= horizon <= fit.horizon_high
    assert 0.88 <= inside / rounds <= 0.995
    assert 0.88 <= horizons / rounds <= 0.995


def test_decay_bounds_lie_where_the_profile_falls_by_the_critical_value() -> None:
    right = [80, 60, 51, 33, 31, 26, 20, 18]
    k, n = list(range(1, 9)), [100] * 8

    def likelihood(r: float, a: float) -> float:
        p = 1 / 9 + 8 / 9 * a * r ** np.array(k)
        return float(scipy_stats.binom.logpmf(right, n, p).sum())

    fit = fit_decay(k, right, n, 1 / 9)
    assert not fit.ceiling_free and fit.reliability is not None
    assert fit.reliability_low is not None and fit.reliability_high is not None
    top = likelihood(fit.reliability, 1.0)
    assert all(top >= likelihood(r, 1.0) for r in np.linspace(0.01, 0.999, 300))
    for bound in (fit.reliability_low, fit.reliability_high):
        assert 2 * (top - likelihood(bound, 1.0)) == pytest.approx(scipy_stats.chi2.ppf(0.95, 1), abs=1e-3)


def test_decay_says_why_there_is_none() -> None:
    assert "fewer than two k" in str(fit_decay([3], [5], [10], 1 / 9).reason)
    assert "fewer than two k" in str(fit_decay([3, 4], [5, 0], [10, 0], 1 / 9).reason)
    assert "guessing" in str(fit_decay(KS, [11] * 10, [100] * 10, 1 / 9).reason)
    assert "guessing" in str(fit_decay(KS, [0] * 10, [100] * 10, 1 / 9).reason)
    assert "hops" in str(fit_decay([0, 1], [5, 5], [10, 10], 1 / 9).reason)
    perfect = fit_decay(KS, [100] * 10, [100] * 10, 1 / 9)
    assert perfect.reliability == 1 and perfect.horizon is None and "right" in str(perfect.reason)
    assert perfect.reliability_low is not None and 0.99 < perfect.reliability_low < 1
    flat = fit_decay(KS, [70] * 10, [100] * 10, 1 / 9)
    assert flat.reliability == 1 and flat.horizon is None and "does not fall" in str(flat.reason)
    assert flat.horizon_low is not None and flat.horizon_low > 10 and flat.horizon_high is None
    weak = fit_decay(KS, [33] * 10, [100] * 10, 1 / 9)
    assert weak.horizon == 0 and weak.reason is not None


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(1, 30), st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=8),
    st.sampled_from([0.0, 1 / 9, 0.5]),
)
def test_decay_takes_any_counts(counts: dict[int, tuple[int, int]], chance: float) -> None:
    k, right, n = list(counts), [c for c, _ in counts.values()], [c + w for c, w in counts.values()]
    fit = fit_decay(k, right, n, chance)
    backwards = fit_decay(k[::-1], right[::-1], n[::-1], chance)
    if fit.reliability is None:
        assert fit.reason is not None
        assert backwards.reliability is None
        return
    assert fit.reliability_low is not None and fit.reliability_high is not None
    assert 0 <= fit.reliability_low <= fit.reliability + 1e-6
    assert fit.reliability - 1e-6 <= fit.reliability_high <= 1
    assert fit.ceiling is not None and 0 <= fit.ceiling <= 1
    assert (fit.horizon_low or 0) <= (math.inf if fit.horizon is None else fit.horizon) + 1e-3
    assert backwards.reliability == pytest.approx(fit.reliability, abs=1e-5)


@pytest.mark.parametrize("gold", NAMES)
def test_kinds_of_mistakes_follow_the_signs(gold: str) -> None:
    vectors = dict(zip(NAMES, VECTORS, strict=True))
    (x, y), kinds = vectors[gold], {}
    for name, (dx, dy) in vectors.items():
        kind = kind_of(gold, name)
        kinds[name] = kind
        if (dx, dy) == (x, y):
            assert kind is None
        elif (dx, dy) == (-x, -y):
            assert kind == "opposite"
        else:
            assert kind == ("one_axis" if (dx == x) + (dy == y) == 1 else "both_axes")
    shares = expected_shares(gold)
    assert sum(shares.values()) == 1
    for kind in KINDS:
        assert shares[kind] == sum(each == kind for each in kinds.values()) / 8


def test_even_guesses_have_the_expected_kinds() -> None:
    answers = [(gold, name) for gold in NAMES for name in (*NAMES, None)]
    counted = count_kinds(answers, k=4)
    assert (counted.k, counted.answered, counted.correct, counted.unparsed) == (4, 90, 9, 9)
    assert sum(kind.count for kind in counted.kinds) == 72
    for kind in counted.kinds:
        assert kind.share == kind.expected
        assert kind.low < kind.count / 72 < kind.high
    nothing = count_kinds([("left", "left"), ("above", None)])
    assert [kind.share for kind in nothing.kinds] == [None] * 3
