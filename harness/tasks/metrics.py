"""The metrics of tasks, from libraries: scikit-learn's, scipy's, and SQuAD's as transformers has it.

Every value is in [-1, 1]; papers print them times 100.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from stepgame.errors import require

__all__ = ["METRICS", "Answered", "check_metrics", "squad_exact"]

UNREAD = ""
"""Stands for a reply without an answer; no option has this text, so that it is never right."""
UNREAD_NUMBER = -1.0
"""Likewise on a scale, as T5 counts a reply that is no number (Raffel et al. 2020)."""


class Answered(NamedTuple):
    """What was answered, row by row.

    Attributes:
        predictions: the answers; None where none could be read.
        golds: for each row the accepted answers, the first being the one that is recorded.
        positive: the answer that F1 is about.
    """

    predictions: Sequence[str | None]
    golds: Sequence[tuple[str, ...]]
    positive: str


def _accuracy(given: Answered) -> float:
    return float(_sklearn().accuracy_score(*_texts(given)))


def _f1(given: Answered) -> float:
    golds, predictions = _texts(given)
    return float(_sklearn().f1_score(golds, predictions, labels=[given.positive], average="macro", zero_division=0))


def _f1_macro(given: Answered) -> float:
    golds, predictions = _texts(given)
    return float(_sklearn().f1_score(golds, predictions, labels=sorted(set(golds)), average="macro", zero_division=0))


def _matthews(given: Answered) -> float:
    return float(_sklearn().matthews_corrcoef(*_texts(given)))


def _pearson(given: Answered) -> float:
    return _correlation("pearsonr", given)


def _spearman(given: Answered) -> float:
    return _correlation("spearmanr", given)


def _squad_f1(given: Answered) -> float:
    return _squad(given, _squad_metrics().compute_f1)


def _squad_em(given: Answered) -> float:
    return _squad(given, _squad_metrics().compute_exact)


METRICS: Mapping[str, tuple[str, Callable[[Answered], float]]] = {
    "accuracy": ("accuracy", _accuracy),
    "f1": ("F1 of the positive class", _f1),
    "f1_macro": ("F1, mean over classes", _f1_macro),
    "matthews": ("Matthews correlation", _matthews),
    "pearson": ("Pearson correlation", _pearson),
    "spearman": ("Spearman correlation", _spearman),
    "squad_f1": ("F1 of an answer's words, as SQuAD counts it", _squad_f1),
    "squad_em": ("exact match, as SQuAD counts it", _squad_em),
}
"""What a metric is, and what computes it; NaN where it is not defined, as a correlation of constants is not."""


def check_metrics(names: Sequence[str]) -> None:
    """Check that the libraries of some metrics are there, before anything is asked.

    Raises:
        MissingExtraError: if one is not.
    """
    for name in names:
        if name.startswith("squad"):
            _squad_metrics()
        elif name not in ("pearson", "spearman"):
            _sklearn()


def squad_exact(text: str, accepted: Sequence[str]) -> bool:
    """Return whether a text is one of the accepted answers after SQuAD's normalisation."""
    same = _squad_metrics().compute_exact
    return any(same(answer, text) for answer in accepted)


def _texts(given: Answered) -> tuple[list[str], list[str]]:
    return [golds[0] for golds in given.golds], [UNREAD if each is None else each for each in given.predictions]


def _correlation(name: str, given: Answered) -> float:
    from scipy import stats

    golds = [float(golds[-1]) for golds in given.golds]
    predictions = [UNREAD_NUMBER if each is None else float(each) for each in given.predictions]
    if len(set(golds)) < 2 or len(set(predictions)) < 2:
        return math.nan
    return float(getattr(stats, name)(golds, predictions).statistic)


def _squad(given: Answered, score: Callable[[str, str], float]) -> float:
    pairs = zip(given.golds, given.predictions, strict=True)
    scores = [max(score(gold, prediction or UNREAD) for gold in golds) for golds, prediction in pairs]
    return math.fsum(scores) / len(scores)


def _sklearn() -> Any:
    return require("sklearn.metrics", "tasks", "the metrics of tasks")


def _squad_metrics() -> Any:
    return require("transformers.data.metrics.squad_metrics", "hf", "SQuAD's metrics")
