"""From a model's reply to a judged sample, and from judged samples to results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.models.base import Completion, Scores
from harness.stats import chance_centred, wilson
from harness.task import Example, Extraction
from stepgame.errors import InputError

__all__ = ["judge_choice", "judge_text", "rejudge", "summarise"]

Line = dict[str, Any]
_SCORED = ("logprobs", "option_tokens", "tokens_in", "tokens_out")
"""What a sample of scored options is judged by."""

Reader = Callable[[str, Example], Extraction]


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


def judge_text(completions: Sequence[Completion], example: Example, read: Reader) -> Line:
    """Judge what was written by what can be read out of it; the flexible reading decides.

    Several completions vote (self-consistency: Wang et al., ICLR 2023). Those without an answer have no vote, and of
    labels with equally many the one that was voted for first wins: draws come in no particular order, so that
    favours none.

    Args:
        completions: one, or several drawn for the same prompt.
        example: what was asked.
        read: how a text is read.

    Returns:
        The fields of a sample line that hold the reply and its judgement. For one completion ``raw`` and ``finish``
        are its text and why it ended; for several they are lists, and ``votes`` and ``votes_strict`` hold what each
        was taken to answer. ``tokens_out`` counts all of them, ``tokens_in`` the prompt once.
    """
    texts, finish = [each.text for each in completions], [each.finish for each in completions]
    one = len(completions) == 1
    return {
        "raw": texts[0] if one else texts,
        "finish": finish[0] if one else finish,
        **_read(texts, example, read),
        "tokens_in": completions[0].tokens_in,
        "tokens_out": sum(each.tokens_out for each in completions),
    }


def rejudge(line: Line, example: Example, read: Reader) -> Line:
    """Return a recorded line judged by today's rules; its reply and its errors stay as they are.

    Raises:
        InputError: if it holds no reply that can be judged.
    """
    if line["error"] is not None:
        return line
    if "raw" in line:
        raw = line["raw"]
        return {**line, **_read([raw] if isinstance(raw, str) else raw, example, read)}
    if missing := [name for name in _SCORED if name not in line]:
        raise InputError(f"sample {line['id']!r} has no {' and no '.join(missing)}; the file was changed by hand")
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
    chance = sum(1 / len(example.options) for example in expected if example.options) / len(expected)
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
        "unparsed_share": total["unparsed"] / len(answered) if answered else None,
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


def _read(texts: Sequence[str], example: Example, read: Reader) -> Line:
    found = [read(text, example) for text in texts]
    flexible, strict = [each.flexible for each in found], [each.strict for each in found]
    answer, answer_strict = _majority(flexible), _majority(strict)
    line: Line = {
        "prediction": answer,
        "prediction_strict": answer_strict,
        "correct": answer == example.gold,
        "correct_strict": answer_strict == example.gold,
        "parse": "answer" if answer is not None else found[0].status,
    }
    return line if len(texts) == 1 else line | {"votes": flexible, "votes_strict": strict}


def _majority(votes: Sequence[str | None]) -> str | None:
    # Counter keeps the order of first occurrence, and most_common keeps it among equals.
    counts = Counter(vote for vote in votes if vote is not None)
    return counts.most_common(1)[0][0] if counts else None


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
