"""Compare runs: what each one scores, and what differs between two that asked the same stories.

Comparisons are paired, story by story, because two runs on the same stories share what makes a story hard; taking
their accuracies for independent throws that away and often misses a real difference.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from harness.decay import Decay, fit_decay
from harness.error_kinds import ErrorKinds, count_kinds
from harness.pairing import Pairing, Sample, differing_settings, pair_samples, read_samples, setting
from harness.record import Run, load_run
from harness.stats import (
    RESAMPLES,
    Interval,
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
from stepgame.errors import InputError
from stepgame.files import write_text
from stepgame.relations import NAMES

__all__ = ["FORMAT", "Accuracy", "Comparison", "PairComparison", "PairedTest", "RunSummary", "compare", "source_of"]

FORMAT = 1
"""Version of the record that `Comparison.record` returns."""

_FEW = 10
"""With fewer discordant pairs the percentile bootstrap covers too little: 91 % instead of 95 % at about 4 of 30."""

_VARIANT = re.compile(r"~[a-z0-9-]+\Z")

Source = Callable[[str], Hashable]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy of a run on one group of stories.

    Attributes:
        k: the group's k; None for all stories.
        n: answers, errors left out.
        correct: right ones.
        errors: stories without an answer.
        unparsed: answers that could not be read; they count as wrong.
        accuracy: in [0, 1]; None without answers.
        low: lower bound of the Wilson interval.
        high: its upper bound.
        standard_error: of the accuracy, clustered by source; None for fewer than two sources.
        clusters: sources that the answered stories come from.
        chance: accuracy of guessing among the options; None without answers.
        centred: accuracy rescaled so that guessing is 0; None without answers.
        centred_low: lower bound of its interval.
        centred_high: its upper bound.
    """

    k: int | None
    n: int
    correct: int
    errors: int
    unparsed: int
    accuracy: float | None
    low: float
    high: float
    standard_error: float | None
    clusters: int
    chance: float | None
    centred: float | None
    centred_low: float | None
    centred_high: float | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run by itself.

    Attributes:
        name: how tables call it.
        path: its folder.
        model: the model's spec.
        prompt: the prompt's name.
        score: ``"choice"`` or ``"generate"``.
        data_sha256: hash of the stories asked.
        overall: accuracy over all stories.
        by_k: accuracy at each k, ascending.
        decay: how accuracy falls with k.
        error_kinds: mistakes by kind, over all stories first and then at each k; None for tasks whose answers are
            not the nine labels.
    """

    name: str
    path: str
    model: str
    prompt: str
    score: str
    data_sha256: str
    overall: Accuracy
    by_k: tuple[Accuracy, ...]
    decay: Decay
    error_kinds: tuple[ErrorKinds, ...] | None


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two runs on the same stories.

    Attributes:
        k: the group's k; None for all stories.
        n: pairs.
        both: pairs that both have right.
        first_only: pairs that only the first has right.
        second_only: pairs that only the second has right.
        neither: pairs that both have wrong.
        changed: share of pairs with different answers, right or wrong; in [0, 1].
        first: accuracy of the first run on the pairs.
        second: accuracy of the second.
        difference: second minus first.
        low: lower bound of the difference's interval.
        high: its upper bound.
        interval: ``"bootstrap"``, or ``"score"`` where fewer than 10 pairs are discordant, or all sources differ
            alike: resampling so few falls short of its coverage.
        standard_error: of the difference, clustered by source; None for fewer than two sources.
        clusters: sources that the pairs come from.
        test: ``"mcnemar"``, or ``"sign-flip"`` where sources have several stories.
        p: two-sided p-value of equal accuracy, exact.
        p_holm: the same, adjusted for the number of tests; see `compare`.
        significant: whether `p_holm` is at most alpha.
    """

    k: int | None
    n: int
    both: int
    first_only: int
    second_only: int
    neither: int
    changed: float
    first: float
    second: float
    difference: float
    low: float
    high: float
    interval: str
    standard_error: float | None
    clusters: int
    test: str
    p: float
    p_holm: float
    significant: bool


@dataclass(frozen=True, slots=True)
class PairComparison:
    """A pair of runs, overall and by k.

    Attributes:
        first: name of the first run.
        second: name of the second.
        errors: pairs left out because one of the two got no answer.
        missing: stories that one of the two has not asked yet.
        unshared: stories of one run that have no partner in the other.
        clean: for twins, name of the run that asked the clean stories; else None.
        overall: all pairs.
        by_k: the pairs at each k, ascending.
    """

    first: str
    second: str
    errors: int
    missing: int
    unshared: int
    clean: str | None
    overall: PairedTest
    by_k: tuple[PairedTest, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side and in pairs.

    Attributes:
        alpha: level of the tests; intervals cover 1 - alpha.
        match: how samples were paired.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        runs: the runs by themselves, in the order given.
        settings: settings in which they differ, with each run's value.
        pairs: the comparisons.
    """

    alpha: float
    match: str
    resamples: int
    seed: int
    runs: tuple[RunSummary, ...]
    settings: dict[str, list[Any]]
    pairs: tuple[PairComparison, ...]

    def record(self) -> dict[str, Any]:
        """Return all of it as plain data, as JSON reads it back."""
        plain: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(self)}, allow_nan=False))
        return plain

    def write(self, path: str | Path) -> Path:
        """Write it as JSON, atomically."""
        text = json.dumps(self.record(), ensure_ascii=False, indent=2)
        write_text(Path(path), text + "\n")
        return Path(path)


def source_of(sample: str) -> str:
    """Return the id of the story that a sample was made from: its own, without the variant behind a ``~``."""
    return _VARIANT.sub("", sample)


def compare(
    runs: Sequence[Run | str | Path],
    *,
    match: str = "same",
    alpha: float = 0.05,
    all_pairs: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: Source = source_of,
) -> Comparison:
    """Compare runs in pairs.

    The p-values are adjusted by Holm's method in two families: the overall tests of all pairs of runs, and the
    tests at each k of all pairs of runs.

    Args:
        runs: at least two runs or run folders.
        match: ``"same"``, ``"shared"`` or ``"twins"``; see `harness.pairing.pair_samples`. With twins, the
            difference is the noise sensitivity: what accuracy changes, and how many answers.
        alpha: level of the tests, in (0, 1); intervals cover 1 - alpha.
        all_pairs: compare every run with every other instead of each with the first.
        resamples: of the bootstrap, at least 100.
        seed: of the bootstrap.
        source: names what a sample was made from; samples of one source are one cluster.

    Returns:
        The comparison; a pure function of the runs' records and the arguments.

    Raises:
        InputError: if fewer than two runs are given, one cannot be read, or two asked different stories.
    """
    if len(runs) < 2:
        raise InputError(f"{len(runs)} run given; a comparison needs at least two")
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha} is out of range; expected a number between 0 and 1, such as 0.05")
    if resamples < 100:
        raise InputError(f"{resamples} resamples are too few for an interval; expected at least 100")
    loaded = [run if isinstance(run, Run) else load_run(run) for run in runs]
    samples = [read_samples(run) for run in loaded]
    ends = [(i, j) for i in range(len(runs) if all_pairs else 1) for j in range(i + 1, len(runs))]
    # Paired first, so that runs that do not belong together are refused before anything is computed.
    pairings = [pair_samples(loaded[i], loaded[j], (samples[i], samples[j]), match) for i, j in ends]
    names = _names(loaded)
    tester = _Tester(alpha, resamples, seed, source)
    pairs = [tester.compare(names[i], names[j], pairing) for (i, j), pairing in zip(ends, pairings, strict=True)]
    summaries = [
        _summarise(name, run, list(known.values()), source, 1 - alpha)
        for name, run, known in zip(names, loaded, samples, strict=True)
    ]
    settings = differing_settings(loaded)
    return Comparison(alpha, match, resamples, seed, tuple(summaries), settings, tuple(_adjust(pairs, alpha)))


@dataclass(frozen=True, slots=True)
class _Tester:
    """The settings that every paired test shares."""

    alpha: float
    resamples: int
    seed: int
    source: Source

    def compare(self, first: str, second: str, pairing: Pairing) -> PairComparison:
        groups = _by_k(pairing.pairs, lambda pair: pair[0].k)
        by_k = tuple(self.test(k, group) for k, group in groups.items())
        clean = None if pairing.clean is None else (first, second)[pairing.clean]
        overall = self.test(None, pairing.pairs)
        return PairComparison(first, second, pairing.errors, pairing.missing, pairing.unshared, clean, overall, by_k)

    def test(self, k: int | None, pairs: Sequence[tuple[Sample, Sample]]) -> PairedTest:
        n = len(pairs)
        both = sum(one.correct and other.correct for one, other in pairs)
        first_only = sum(one.correct and not other.correct for one, other in pairs)
        second_only = sum(other.correct and not one.correct for one, other in pairs)
        differences = [int(other.correct) - int(one.correct) for one, other in pairs]
        sources = [self.source(one.id) for one, _ in pairs]
        sums: dict[Hashable, int] = {}
        for key, difference in zip(sources, differences, strict=True):
            sums[key] = sums.get(key, 0) + difference
        clustered = len(sums) < n
        p = sign_flip(sums.values()) if clustered else mcnemar(first_only, second_only)
        bounds, interval = self._interval(differences, sources, (first_only, second_only, n), len(sums))
        return PairedTest(
            k=k,
            n=n,
            both=both,
            first_only=first_only,
            second_only=second_only,
            neither=n - both - first_only - second_only,
            changed=sum(one.prediction != other.prediction for one, other in pairs) / n,
            first=(both + first_only) / n,
            second=(both + second_only) / n,
            difference=(second_only - first_only) / n,
            low=bounds.low,
            high=bounds.high,
            interval=interval,
            standard_error=standard_error(differences, sources),
            clusters=len(sums),
            test="sign-flip" if clustered else "mcnemar",
            p=p,
            p_holm=p,
            significant=p <= self.alpha,
        )

    def _interval(
        self, differences: Sequence[int], sources: Sequence[Hashable], counts: tuple[int, int, int], clusters: int
    ) -> tuple[Interval, str]:
        confidence = 1 - self.alpha
        bounds = bootstrap_difference(
            differences, sources, confidence=confidence, resamples=self.resamples, seed=self.seed
        )
        first_only, second_only, n = counts
        few = clusters == n and first_only + second_only < _FEW
        if bounds.low < bounds.high and not few:
            return bounds, "bootstrap"
        # Stories of one source are worth one between them: alike as all of these are, no more can be claimed.
        scale = clusters / n
        return score_difference(round(first_only * scale), round(second_only * scale), clusters, confidence), "score"


def _adjust(pairs: Sequence[PairComparison], alpha: float) -> list[PairComparison]:
    """Put the adjusted p-values in."""
    overall = iter(holm([pair.overall.p for pair in pairs]))
    by_k = iter(holm([test.p for pair in pairs for test in pair.by_k]))

    def adjusted(test: PairedTest, p: float) -> PairedTest:
        return replace(test, p_holm=p, significant=p <= alpha)

    return [
        replace(
            pair,
            overall=adjusted(pair.overall, next(overall)),
            by_k=tuple(adjusted(test, next(by_k)) for test in pair.by_k),
        )
        for pair in pairs
    ]


def _summarise(name: str, run: Run, samples: Sequence[Sample], source: Source, confidence: float) -> RunSummary:
    groups = _by_k(samples, lambda sample: sample.k)
    by_k = tuple(_accuracy(k, group, source, confidence) for k, group in groups.items())
    overall = _accuracy(None, samples, source, confidence)
    counts = [(row.k or 0, row.correct, row.n) for row in by_k]
    if overall.chance is None or overall.chance >= 1:
        decay = Decay(reason="no answers that could be told from guessing")
    else:
        k, correct, n = ([row[place] for row in counts] for place in range(3))
        decay = fit_decay(k, correct, n, overall.chance, confidence)
    kinds = None
    if all(sample.gold in NAMES and sample.prediction in (None, *NAMES) for sample in samples):
        answers: list[tuple[int | None, Sequence[Sample]]] = [(None, samples), *groups.items()]
        kinds = tuple(
            count_kinds(((each.gold, each.prediction) for each in group if not each.error), k) for k, group in answers
        )
    return RunSummary(
        name=name,
        path=str(run.path),
        model=setting(run, "model.spec"),
        prompt=setting(run, "prompt.name"),
        score=setting(run, "score"),
        data_sha256=setting(run, "task.data_sha256"),
        overall=overall,
        by_k=by_k,
        decay=decay,
        error_kinds=kinds,
    )


def _accuracy(k: int | None, samples: Sequence[Sample], source: Source, confidence: float) -> Accuracy:
    answered = [sample for sample in samples if not sample.error]
    n, correct = len(answered), sum(sample.correct for sample in answered)
    sources = [source(sample.id) for sample in answered]
    bounds = wilson(correct, n, confidence)
    chance = math.fsum(1 / sample.options for sample in answered if sample.options) / n if n else None
    accuracy = correct / n if n else None
    centred: tuple[float | None, float | None, float | None] = (None, None, None)
    if accuracy is not None and chance is not None and chance < 1:
        centred = (chance_centred(accuracy, chance), *chance_centred_interval(correct, n, chance, confidence))
    return Accuracy(
        k=k,
        n=n,
        correct=correct,
        errors=len(samples) - n,
        unparsed=sum(sample.prediction is None for sample in answered),
        accuracy=accuracy,
        low=bounds.low,
        high=bounds.high,
        standard_error=standard_error([float(sample.correct) for sample in answered], sources),
        clusters=len(set(sources)),
        chance=chance,
        centred=centred[0],
        centred_low=centred[1],
        centred_high=centred[2],
    )


def _by_k(items: Iterable[T], k_of: Callable[[T], int]) -> dict[int, list[T]]:
    groups: dict[int, list[T]] = {}
    for item in items:
        groups.setdefault(k_of(item), []).append(item)
    return dict(sorted(groups.items()))


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the folders' names, or their paths where a name occurs twice; numbered where a path does."""
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({names[:place].count(name) + 1})"
        for place, name in enumerate(names)
    ]
