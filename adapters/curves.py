"""The course of a training: a CSV of what was logged, and its picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.progress import say
from stepgame.errors import MissingExtraError, require
from stepgame.files import atomic_path, write_text

__all__ = ["COLUMNS", "write_curves"]

COLUMNS = ("step", "epoch", "loss", "eval_loss", "eval_train_loss", "eval_accuracy", "learning_rate", "grad_norm")


def write_curves(folder: Path, log: Sequence[Mapping[str, Any]], title: str | None) -> None:
    """Write ``curve.csv``, and ``curve.png`` where matplotlib is installed.

    Args:
        folder: where they go.
        log: what was logged, one mapping a point, with ``step``.
        title: of the picture; None for no picture.
    """
    rows = [[entry.get(column, "") for column in COLUMNS] for entry in log if "loss" in entry or "eval_loss" in entry]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_text(folder / "curve.csv", text.getvalue())
    if title is None:
        return
    try:
        matplotlib: Any = require("matplotlib", "report", "the loss curve's picture")
    except MissingExtraError as error:
        # What was trained is worth more than its picture.
        say(str(error))
        return
    matplotlib.use("agg")
    _draw(folder / "curve.png", log, title)


def _draw(path: Path, log: Sequence[Mapping[str, Any]], title: str) -> None:
    pyplot: Any = require("matplotlib.pyplot", "report", "the loss curve's picture")
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for key, label, style in (
        ("loss", "training loss", "-"),
        ("eval_loss", "validation loss over answers", "o-"),
        ("eval_train_loss", "training examples' loss over answers", ".--"),
    ):
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, markersize=4, label=label)
    axes.set(xlabel="step", ylabel="loss, nats a token", title=title)
    accuracy = [(entry["step"], entry["eval_accuracy"]) for entry in log if "eval_accuracy" in entry]
    handles, labels = axes.get_legend_handles_labels()
    if accuracy:
        other = axes.twinx()
        other.plot(*zip(*accuracy, strict=True), "s--", color="tab:green", markersize=4, label="validation accuracy")
        other.set(ylabel="accuracy", ylim=(0, 1))
        more = other.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    if handles:
        axes.legend(handles, labels, loc="upper right")
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=120)
    pyplot.close(figure)
