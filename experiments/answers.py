"""What a model answers, whatever it is asked: ``python -m experiments.answers [--against RUN] RUN...``.

A model that gives one label more often than others is right on that label's share of the stories. The accuracy that its
answers would have on shuffled stories, the sum over labels of (share of the answers) x (share of the stories), stands
beside the one that it has: what is above it was read off the story. With ``--against``, the difference to a run on the
same stories follows, with McNemar's exact p; ``majority`` is such a run, which gives one label to all.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import load_run
from harness.stats import mcnemar
from stepgame.errors import InputError
from stepgame.terminal import printable

__all__ = ["Answers", "answers_of"]

GROUPS = {"k = 1": (1, 1), "k = 1 and 2": (1, 2), "k from 3": (3, sys.maxsize)}
"""First and last k of what is reported together."""

Lines = dict[str, dict[str, Any]]
"""The samples of a run by id."""


class Answers(NamedTuple):
    """What one run answered to some of its stories.

    Attributes:
        common: the two most frequent labels with their shares, 0 to 1.
        accuracy: 0 to 1.
        shuffled: accuracy that the same answers would have on shuffled stories, 0 to 1.
    """

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
    return Answers(common, sum(bool(line["correct"]) for line in lines) / n, shuffled)


def main(words: Sequence[str]) -> int:
    """Print a table of the runs in Markdown; figures are per cent and percentage points."""
    parser = argparse.ArgumentParser(prog="python -m experiments.answers", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--against", metavar="RUN", help="run on the same stories, from which the others differ")
    given = parser.parse_args(words)
    other = None if given.against is None else _read(given.against)
    print("| run | most frequent answers |", " | ".join(f"{name}: accuracy, shuffled" for name in GROUPS), "|")
    print("| --- " * (2 + len(GROUPS)) + "|")
    for path in given.runs:
        lines = _read(path)
        common = ", ".join(f"{label} {share:.0%}" for label, share in answers_of([*lines.values()]).common)
        cells = [_cell(lines, other, group) for group in GROUPS.values()]
        print("|", " | ".join([printable(Path(path).resolve().name), printable(common), *cells]), "|")
    return 0


def _read(path: str) -> Lines:
    lines = {line["id"]: line for line in load_run(path).samples() if line["error"] is None}
    if not lines:
        raise InputError(f"{path} has no answers")
    return lines


def _cell(lines: Lines, other: Lines | None, group: tuple[int, int]) -> str:
    part = [line for line in lines.values() if group[0] <= line["k_hop"] <= group[1]]
    if not part:
        return ""
    found = answers_of(part)
    shown = f"{100 * found.accuracy:.1f}, {100 * found.shuffled:.1f}"
    if other is None:
        return shown
    if any(line["id"] not in other or line["gold"] != other[line["id"]]["gold"] for line in part):
        raise InputError("--against: that run was not asked the same stories")
    here, there = ([bool(run[line["id"]]["correct"]) for line in part] for run in (lines, other))
    ours = sum(a and not b for a, b in zip(here, there, strict=True))
    theirs = sum(b and not a for a, b in zip(here, there, strict=True))
    return f"{shown}; {100 * (ours - theirs) / len(part):+.1f} (p = {mcnemar(theirs, ours):.2g})"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
