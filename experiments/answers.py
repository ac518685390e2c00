"""What a model answers, whatever it is asked: ``python -m experiments.answers RUN...``.

A model that gives one label more often than others is right on that label's share of the stories. The accuracy that its
answers would have on shuffled stories, the sum over labels of (share of the answers) x (share of the stories), stands
beside the one that it has: what is above it was read off the story.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness import load_run
from stepgame.errors import InputError
from stepgame.terminal import printable

__all__ = ["Answers", "answers_of"]

GROUPS = ((1, 1), (2, 2), (3, sys.maxsize))
"""First and last k of what is reported together."""


class Answers(NamedTuple):
    """What one run answered to some of its stories.

    Attributes:
        n: stories with an answer.
        common: the two most frequent labels with their shares, 0 to 1.
        accuracy: 0 to 1.
        shuffled: accuracy that the same answers would have on shuffled stories, 0 to 1.
    """

    n: int
    common: tuple[tuple[str, float], ...]
    accuracy: float
    shuffled: float


def answers_of(lines: Sequence[dict[str, Any]]) -> Answers:
    """Count the answers of samples; one that could not be read is an answer that is never right.

    Args:
        lines: samples without errors, at least one.
    """
    n = len(lines)
    given, gold = (Counter(line[key] for line in lines) for key in ("prediction", "gold"))
    common = tuple((str(label or "unread"), count / n) for label, count in given.most_common(2))
    shuffled = sum(count * gold[label] for label, count in given.items() if label is not None) / n**2
    return Answers(n, common, sum(bool(line["correct"]) for line in lines) / n, shuffled)


def main(runs: Sequence[str]) -> int:
    """Print a table of the runs in Markdown."""
    names = [f"k = {first}" if first == last else f"k from {first}" for first, last in GROUPS]
    print("| run | most frequent answers |", " | ".join(f"{name}: accuracy, shuffled" for name in names), "|")
    print("| --- " * (2 + len(names)) + "|")
    for path in runs:
        run = load_run(path)
        lines = [line for line in run.samples() if line["error"] is None]
        if not lines:
            raise InputError(f"{path} has no answers")
        common = ", ".join(f"{label} {share:.0%}" for label, share in answers_of(lines).common)
        cells = []
        for first, last in GROUPS:
            part = [line for line in lines if first <= line["k_hop"] <= last]
            found = answers_of(part) if part else None
            cells.append("" if found is None else f"{100 * found.accuracy:.1f}, {100 * found.shuffled:.1f}")
        print("|", " | ".join([printable(run.path.name), printable(common), *cells]), "|")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
