"""Small boards with the runs behind them."""

from __future__ import annotations

import csv
from pathlib import Path

from harness import evaluate
from leaderboards import publish


def small_board(folder: Path) -> Path:
    """Make three runs, with and without noise, choosing and writing, and publish them to ``board.csv`` beside them."""
    stories = {"hops": "1-3", "per_hop": 5}
    evaluate("random", out=folder / "random", noise=True, **stories)
    evaluate("random", out=folder / "clean", noise=False, **stories)
    evaluate("oracle", out=folder / "oracle", noise=True, score="generate", **stories)
    publish([folder / "random", folder / "clean", folder / "oracle"], folder / "board.csv", allow_dirty=True)
    return folder


def rows_of(board: Path) -> list[dict[str, str]]:
    """Return a CSV's rows by column."""
    with board.open(newline="") as file:
        return list(csv.DictReader(file))
