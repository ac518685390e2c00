"""From a model's reply to a judged sample, and from judged samples to results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.models.base import Completion, Scores
from harness.stats import chance_centred, wilson
from harness.task import Example, Task

__all__ = ["judge_choice", "judge_text", "rejudge", "summarise"]

Line = dict[str, Any]


def judge_choice(scores: Scores, example: Example) -> Line:
    """Judge option scores: the prediction is the option with the highest log-likelihood.

    A tie at the top is no answer: taking its first option would favour whatever stands first in the list.

    Returns:
        The fields of a sample line that hold the reply and its judgement.
    """
    prediction = _top(scores.logprobs, example.options)
    normalised = _top(scores.normalised, example.options)
    return {
        "logprobs": list(scores.logprobs),
        "option_tokens": list(scores.tokens),
        "prediction": prediction,
        "prediction_normalised": normalised,
        "correct": prediction == example.gold,
        "correct_normalised": normalised == example.gold,
        "parse": "tie" if prediction is None else "answer",
        "tokens_in": scores.tokens_in,
        "tokens_out": scores.tokens_out,
    }


def judge_text(completion: Completion, example: Example, task: Task) -> Line:
    """Judge a completion by the task's extraction; the flexible reading decides.

    Returns:
        The fields of a sample line that hold the reply and its judgement.
    """
    return {
        "raw": completion.text,
        "finish": completion.finish,
        **_read(completion.text, example, task),
        "tokens_in": completion.tokens_in,
        "tokens_out": completion.tokens_out,
    }


def rejudge(line: Line, example: Example, task: Task) -> Line:
    """Return a recorded line judged by today's rules; its reply and its errors stay as they are."""
    if line["error"] is not None:
        return line
    if "raw" in line:
        return {**line, **_read(line["raw"], example, task)}
    scores = Scores(tuple(line["logprobs"]), tuple(line["option_tokens"]), line["tokens_in"], line["tokens_out"])
    return {**line, **judge_choice(scores, example)}


def summarise(lines: Iterable[Mapping[str, Any]], expected: Sequence[Example]) -> dict[str, Any]:
    """Count samples into results.

    Errors are counted, and left out of every accuracy; an unparsed answer is a wrong one.

    Args:
        lines: at most one line a sample.
        expected: what the run asks; decides n, chance and which k there are.

    Returns:
        The keys of results.json that follow from the answers alone. Accuracies are in [0, 1], and None where
        nothing was answered.
    """
    by_id = {line["id"]: line for line in lines}
    groups: dict[int, list[Mapping[str, Any]]] = {example.k_hop: [] for example in expected}
    for example in expected:
        if example.id in by_id:
            groups[example.k_hop].append(by_id[example.id])
    by_k = [{"k": k, **_count(groups[k])} for k in sorted(groups)]
    total = _count([line for group in groups.values() for line in group])
    chance = sum(1 / len(example.options) for example in expected) / len(expected)
    accuracies = [row["accuracy"] for row in by_k if row["accuracy"] is not None]
    mean = sum(accuracies) / len(accuracies) if accuracies else None
    answered = [line for line in by_id.values() if line["error"] is None]
    result = {
        "n": total["n"],
        "n_expected": len(expected),
        "answered": len(answered),
        "correct": total["correct"],
        "errors": total["errors"],
        "unparsed": total["unparsed"],
        "accuracy": total["accuracy"],
        "accuracy_strict": _share(answered, "correct_strict" if _is_text(answered) else "correct"),
        "chance": chance,
        "by_k": by_k,
        "mean_accuracy": mean,
        "chance_centred": None if mean is None else chance_centred(mean, chance),
        "tokens_in": sum(line["tokens_in"] or 0 for line in answered),
        "tokens_out": sum(line["tokens_out"] or 0 for line in answered),
    }
    if answered and not _is_text(answered):
        result["accuracy_normalised"] = _share(answered, "correct_normalised")
    return result


def _read(text: str, example: Example, task: Task) -> Line:
    extraction = task.extract(text, example)
    return {
        "prediction": extraction.flexible,
        "prediction_strict": extraction.strict,
        "correct": extraction.flexible == example.gold,
        "correct_strict": extraction.strict == example.gold,
        "parse": extraction.status,
    }


def _top(values: Sequence[float], options: Sequence[str]) -> str | None:
    best = max(values)
    first = values.index(best)
    return None if best in values[first + 1 :] else options[first]


def _is_text(answered: Sequence[Mapping[str, Any]]) -> bool:
    return bool(answered) and "raw" in answered[0]


def _share(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return sum(line[key] for line in lines) / len(lines) if lines else None


def _count(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    answered = [line for line in lines if line["error"] is None]
    correct = sum(line["correct"] for line in answered)
    interval = wilson(correct, len(answered))
    return {
        "n": len(lines),
        "correct": correct,
        "errors": len(lines) - len(answered),
        "unparsed": sum(line["prediction"] is None for line in answered),
        "accuracy": correct / len(answered) if answered else None,
        "low": interval.low,
        "high": interval.high,
    }
