"""Accuracy over the number of hops, for several runs in one picture.

matplotlib is imported when a plot is asked for, and without pyplot: no window, no global state, and the same
bytes for the same runs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leaderboards.markup import visible
from leaderboards.parts import answered_row
from leaderboards.schema import hops_of_header
from stepgame.errors import InputError, require
from stepgame.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness import Run

__all__ = ["SUFFIXES", "plot_accuracy", "plot_mistakes"]

SUFFIXES = (".png", ".svg", ".pdf")
"""The formats a plot can be written in, by the file's suffix."""

# Okabe and Ito's palette, told apart with any common colour blindness, without its yellow, which is too pale
# for thin lines on white. Markers and dashes tell the same series apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ("-", "--", "-.", ":")
_STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Model names are untrusted text: a dollar sign in one is no formula.
    "text.parse_math": False,
    "svg.hashsalt": "stepgame",
}
_LABEL_WIDTH = 26
_LABEL_LINES = 3
_MANY_TICKS = 20


_TEXTS = {
    "adapter": "{}",
    "score": "{}",
    "prompt": "{}",
    "task": "{}",
    "protocol": "{} protocol",
    "noise": "{}",
    "bank": "bank {}",
    "split": "{} split",
    "seed": "seed {}",
}
"""How a setting is said in the title or in a label, by its column."""

_STORIES = ("task", "protocol", "noise", "bank", "split", "seed")
"""Settings that decide which stories were asked: a difference in one of them is said in every label."""

_ASKING = ("adapter", "score", "prompt")
"""Settings that are only worth a word where they tell two runs of one model apart."""

_IN_TITLE = ("protocol", "noise", "split", "prompt")


class _Series(NamedTuple):
    label: str
    hops: list[int]
    accuracy: list[float]
    low: list[float]
    high: list[float]


def _said(row: dict[str, str], column: str) -> str:
    value = row[column]
    if column == "noise":
        return {"yes": "with noise", "no": "without noise"}.get(value, "")
    return _TEXTS[column].format(value) if value else ""


def _varies(rows: Sequence[dict[str, str]], column: str) -> bool:
    return len({row[column] for row in rows}) > 1


def _wrapped(text: str, width: int, lines: int) -> str:
    """Break a text into at most ``lines`` lines of ``width`` characters, names without blanks included.

    What does not print is written as an escape: an SVG with control characters is no XML.
    """
    text = visible(text)
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …")) or text[:width]


def _labels(rows: Sequence[dict[str, str]]) -> list[str]:
    """Name each series by its model and by whatever else tells it from the others."""
    names = []
    for row in rows:
        alike = [other for other in rows if other["model"] == row["model"]]
        told = [_said(row, column) for column in _ASKING if _varies(alike, column)]
        told += [_said(row, column) for column in _STORIES if _varies(rows, column)]
        extra = ", ".join(part for part in told if part)
        name = f"{row['model']} ({extra})" if extra else row["model"]
        names.append(_wrapped(name, _LABEL_WIDTH, _LABEL_LINES))
    return [name if names.count(name) == 1 else f"{name} [{i + 1}]" for i, name in enumerate(names)]


def _per_k(rows: Sequence[dict[str, str]]) -> str:
    counts = [int(row[f"n_k{k}"]) for row in rows for k in hops_of_header(list(row))]
    low, high = min(counts), max(counts)
    return f"{low:,} stories per k" if low == high else f"{low:,} to {high:,} stories per k"


def _subtitle(rows: Sequence[dict[str, str]]) -> str:
    parts = [_said(rows[0], column) for column in _IN_TITLE if not _varies(rows, column)]
    settings = ", ".join(part for part in parts if part)
    counts = f"{_per_k(rows)}; bars are 95 % Wilson intervals"
    return "\n".join(_wrapped(line, 80, 2) for line in (settings, counts) if line)


def _series(label: str, row: dict[str, str]) -> _Series:
    hops = hops_of_header(list(row))
    values = {name: [float(row[f"{name}_k{k}"]) for k in hops] for name in ("acc", "low", "high")}
    return _Series(label, hops, values["acc"], values["low"], values["high"])


def _draw(axes: Axes, series: Sequence[_Series]) -> list[Any]:
    """Draw the series side by side at each k, so that no interval hides another; return their handles."""
    spread = min(0.5, 0.11 * (len(series) - 1))
    handles = []
    for index, one in enumerate(series):
        shift = spread * (index / (len(series) - 1) - 0.5) if len(series) > 1 else 0.0
        below = [acc - low for acc, low in zip(one.accuracy, one.low, strict=True)]
        above = [high - acc for acc, high in zip(one.accuracy, one.high, strict=True)]
        bars = axes.errorbar(
            [k + shift for k in one.hops],
            one.accuracy,
            yerr=[[max(0.0, gap) for gap in below], [max(0.0, gap) for gap in above]],
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            linestyle=_DASHES[index // len(_COLOURS) % len(_DASHES)],
            linewidth=1.4,
            markersize=5,
            elinewidth=1.0,
            capsize=2,
        )
        for piece in (*bars.lines[1], *bars.lines[2]):
            piece.set_alpha(0.55)
        handles.append(bars)
    return handles


def _dress(axes: Axes, hops: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

    axes.set_xlabel("k, hops in the chain")
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(hops[0] - 0.5, hops[-1] + 0.5)
    many = len(hops) > _MANY_TICKS
    axes.xaxis.set_major_locator(MaxNLocator(integer=True) if many else FixedLocator(list(hops)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _checked(out: str | Path) -> Path:
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"{out}: no plot can be written to it; expected a suffix of {', '.join(SUFFIXES)}")
    return out


def _save(figure: Figure, out: Path) -> None:
    """Write a figure, without what would make the bytes differ from one time to the next."""
    kind = out.suffix.lower().removeprefix(".")
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with atomic_path(out) as part:
        figure.savefig(part, format=kind, dpi=200, metadata=metadata)


def plot_mistakes(named: Sequence[tuple[str, Mapping[str, int]]], out: str | Path) -> Path:
    """Plot which share of each run's mistakes is of which kind, one bar a run.

    Args:
        named: the runs' names, and for each how many mistakes are of which kind; at least one run.
        out: the file to write; its suffix, one of `SUFFIXES`, gives the format.

    Returns:
        ``out`` as a path.

    Raises:
        InputError: if the suffix is another.
        MissingExtraError: if matplotlib is not installed.
    """
    out = _checked(out)
    require("matplotlib", "report", "plots")
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 1.7 + 0.42 * len(named)), layout="constrained")
        axes = figure.add_subplot()
        wrong = [sum(counts.values()) for _, counts in named]
        begins = [0.0] * len(named)
        for place, kind in enumerate(named[0][1]):
            shares = [counts[kind] / total if total else 0.0 for (_, counts), total in zip(named, wrong, strict=True)]
            axes.barh(range(len(named)), shares, left=begins, color=_COLOURS[place], label=kind.replace("_", " "))
            begins = [begin + share for begin, share in zip(begins, shares, strict=True)]
        names = [f"{name} ({total:,})" for (name, _), total in zip(named, wrong, strict=True)]
        axes.set_yticks(range(len(named)), [_wrapped(name, _LABEL_WIDTH, _LABEL_LINES) for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_title("Kinds of mistake", loc="left", fontsize=13, fontweight="bold")
        axes.set_xlabel("share of a run's mistakes (their number in brackets)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
        _save(figure, out)
    return out


def plot_accuracy(runs: Sequence[Run], out: str | Path, *, title: str | None = None) -> Path:
    """Plot accuracy over k with 95 % intervals and the chance line, one series a run.

    What all runs share (protocol, noise, prompt, stories per k) stands under the title; what tells runs apart
    stands in the legend, which lies outside of the axes.

    Args:
        runs: finished runs.
        out: the file to write; its suffix, one of `SUFFIXES`, gives the format.
        title: the title's first line; the task's name when omitted.

    Returns:
        ``out`` as a path.

    Raises:
        InputError: if there are no runs, one is unfinished, or the suffix is another.
        MissingExtraError: if matplotlib is not installed.
    """
    out = _checked(out)
    if not runs:
        raise InputError("there is no run to plot; expected at least one")
    rows = [answered_row(run) for run in runs]
    series = [_series(label, row) for label, row in zip(_labels(rows), rows, strict=True)]
    require("matplotlib", "report", "plots")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.0, max(4.6, 1.6 + 0.34 * len(series))), layout="constrained")
        axes = figure.add_subplot()
        handles = _draw(axes, series)
        chances = sorted({float((run.results or {})["chance"]) for run in runs})
        handles += [axes.axhline(chance, color="#777777", linestyle=(0, (1, 2)), linewidth=1.4) for chance in chances]
        _dress(axes, sorted({k for one in series for k in one.hops}))
        heading = title or f"Accuracy over the number of hops: {rows[0]['task']}"
        below = _subtitle(rows)
        axes.set_title(
            _wrapped(heading, 60, 2), loc="left", fontsize=13, fontweight="bold", pad=12 + 14 * len(below.split("\n"))
        )
        axes.annotate(
            below, (0, 1), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points", color="#444444"
        )
        labels = [one.label for one in series] + [f"chance ({100 * chance:.1f} %)" for chance in chances]
        # matplotlib drops entries whose label begins with an underscore, so the texts are set afterwards.
        legend = axes.legend(handles, ["-"] * len(handles), loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
        for text, label in zip(legend.get_texts(), labels, strict=True):
            text.set_text(label)
        _save(figure, out)
    return out
