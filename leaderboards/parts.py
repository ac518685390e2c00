"""Pieces that run pages, reports and the front page share: figures by k, kinds of mistake, answers."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboards.markup import block, facts, table, text
from leaderboards.schema import hops_of_header, row_of
from leaderboards.svg import Point, strip
from stepgame.errors import InputError, StepGameError
from stepgame.hops import format_hops

if TYPE_CHECKING:
    from harness import Run

__all__ = [
    "KIND_KEY",
    "answered_row",
    "answers",
    "by_k_table",
    "kinds_of_row",
    "kinds_table",
    "percent",
    "points_of",
    "reading",
    "settings_list",
]

_KINDS = (
    ("opposite", "opposite", 7),
    ("one_axis", "one axis wrong", 1),
    ("both_axes", "both axes wrong", 3),
    ("unparsed", "no label read", 6),
)

KIND_KEY = (
    '<ul class="key">' + "".join(f'<li class="c{colour}"><i></i>{said}</li>' for _, said, colour in _KINDS) + "</ul>"
)
"""What the colours of kinds of mistake mean."""


@contextmanager
def reading(*folders: str | Path) -> Iterator[None]:
    """Refuse, in one line, folders whose files hold what no run writes.

    Args:
        folders: what the block reads.

    Raises:
        InputError: naming the folders, for whatever the block stumbled over.
    """
    try:
        yield
    except StepGameError:
        raise
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        # Files of a stranger may hold anything anywhere, so what they make of the code that reads them is caught here.
        what = f"{type(error).__name__}: {error}"[:300]
        raise InputError(
            f"{', '.join(map(str, folders))} cannot be read as runs of this version, or were changed by hand ({what})"
        ) from error


def answered_row(run: Run) -> dict[str, str]:
    """Return the row of a run some of whose stories may have got no answer.

    Args:
        run: a run with results.

    Returns:
        The cells of `leaderboards.schema.row_of`, but for ``n`` at each k, which counts the answers that the accuracy
        is of, and not the stories. A k without any answer is among the ``hops`` and has no cells of its own.

    Raises:
        InputError: if the run is unfinished, nothing was answered, or its records lack a field the row needs.
    """
    from harness import Run

    asked = (run.results or {}).get("by_k") or []
    counted = [{**each, "n": each["n"] - each["errors"]} for each in asked if each["n"] > each["errors"]]
    if run.results is not None and not counted:
        where = shlex.quote(str(run.path))
        raise InputError(
            f"{run.path}: no k has an answer; to ask again what ended in an error: stepgame resume {where}"
        )
    results = run.results and {**run.results, "by_k": counted}
    return row_of(Run(run.path, run.manifest, results)) | {"hops": format_hops(each["k"] for each in asked)}


def percent(value: float | None) -> str:
    """Write a share in per cent with one decimal; nothing for None."""
    return "" if value is None else f"{100 * value:.1f}"


def points_of(cells: Mapping[str, str]) -> list[Point]:
    """Return a measured row's accuracies by k."""
    return [
        Point(
            k,
            float(cells[f"acc_k{k}"]),
            float(cells[f"low_k{k}"]),
            float(cells[f"high_k{k}"]),
            int(cells[f"n_k{k}"]),
        )
        for k in sorted(hops_of_header(list(cells)))
        if cells[f"n_k{k}"]
    ]


def by_k_table(caption: str, named: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """Return accuracies with their intervals, one line a run and one column a k.

    Args:
        caption: of the table.
        named: what to call each run, as markup, and its row.
    """
    found = [{point.k: point for point in points_of(cells)} for _, cells in named]
    hops = sorted({k for each in found for k in each})
    lines = []
    for (name, cells), by_k in zip(named, found, strict=True):
        line = [name, cells["n"], percent(float(cells["mean"]))]
        for k in hops:
            point = by_k.get(k)
            line.append(
                ""
                if point is None or point.low is None or point.high is None
                else f"{percent(point.accuracy)}<small>{100 * point.low:.0f}–{100 * point.high:.0f}</small>"
            )
        lines.append([*line, percent(float(cells["chance_centred"])), cells["unparsed"], cells["errors"]])
    headings = ["run", "n", "mean", *(f"k {k}" for k in hops), "above chance", "unparsed", "errors"]
    return table(caption, headings, lines)


def kinds_of_row(cells: Mapping[str, str]) -> dict[str, int] | None:
    """Return a row's counts by kind of mistake; None for tasks whose labels are not the nine."""
    if not any(cells[kind] for kind, *_ in _KINDS[:-1]):
        return None
    return {kind: int(cells[kind] or 0) for kind, *_ in _KINDS}


def kinds_table(caption: str, first: str, lines: Iterable[tuple[str, Mapping[str, int]]]) -> str:
    """Return kinds of mistake as bars and counts.

    Args:
        caption: of the table.
        first: heading of the first column.
        lines: what to call each line, as markup, and its counts: opposite, one_axis, both_axes and unparsed.
    """
    rows = []
    for name, counts in lines:
        wrong = sum(counts[kind] for kind, *_ in _KINDS)
        ends = [0.0, *itertools.accumulate(counts[kind] / wrong if wrong else 0.0 for kind, *_ in _KINDS)]
        parts = [(ends[i], ends[i + 1], colour) for i, (*_, colour) in enumerate(_KINDS)]
        said = ", ".join(f"{counts[kind]} {words}" for kind, words, _ in _KINDS)
        bar = strip(parts, said) if wrong else "no mistakes"
        rows.append([name, bar, str(wrong), *(str(counts[kind]) for kind, *_ in _KINDS)])
    return table(
        caption, [first, "share of the mistakes", "mistakes", *(words for _, words, _ in _KINDS)], rows, words=2
    )


def settings_list(settings: Mapping[str, Any]) -> str:
    """Return settings as a list; values that are no text as JSON."""
    pairs = [
        (name, text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 600))
        for name, value in settings.items()
    ]
    return facts(pairs)


def answers(samples: Iterable[Mapping[str, Any]], count: int) -> str:
    """Show the first answers of a run, and the first wrong ones; a story without an answer is none of the latter.

    Args:
        samples: the run's samples.
        count: how many of each; 0 shows nothing.
    """
    if not count:
        return ""
    first: list[str] = []
    wrong: list[str] = []
    for place, line in enumerate(samples):
        if place < count:
            first.append(_answer(line))
        elif len(wrong) >= count:
            break
        if not line.get("correct") and line.get("error") is None and len(wrong) < count:
            wrong.append(_answer(line))
    parts = [f"<h3>The first {len(first)}</h3>", *first]
    parts += [f"<h3>The first {len(wrong)} that are wrong</h3>", *wrong] if wrong else ["<p>No answer is wrong.</p>"]
    return "\n".join(parts)


def _answer(line: Mapping[str, Any]) -> str:
    if line.get("error") is not None:
        verdict = "no answer"
    elif line.get("prediction") is None:
        verdict = "not read"
    else:
        verdict = "right" if line.get("correct") else "wrong"
    said = "nothing" if line.get("prediction") is None else line["prediction"]
    head = f"k {text(line.get('k_hop'))}: {verdict}, answer {text(said, 60)}, gold {text(line.get('gold'), 60)}"
    style = "" if verdict == "right" else ' class="bad"'
    inner = "\n".join(f"<h3>{text(name)}</h3>{block(value)}" for name, value in _told(line))
    name = f"<small>{text(line.get('id'), 80)}</small>"
    return f"<details><summary><span{style}>{head}</span> {name}</summary>{inner}</details>"


def _told(line: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what a sample holds for people: the prompt, the reply or the options' scores, and an error."""
    prompt = line.get("prompt", line.get("messages"))
    yield "prompt", prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False, indent=1)
    # A line that was changed by hand may hold anything; what is not as the harness writes it is left out.
    raw, options, scores = line.get("raw"), line.get("options"), line.get("logprobs")
    texts = [raw] if isinstance(raw, str) else raw if isinstance(raw, list) else []
    for place, each in enumerate(texts, 1):
        yield ("reply" if len(texts) == 1 else f"reply {place}"), each
    if isinstance(scores, list) and isinstance(options, list) and all(isinstance(each, float | int) for each in scores):
        scored = sorted(zip(scores, map(str, options), strict=False), reverse=True)
        yield "log-likelihood of each option", "\n".join(f"{value:9.3f}  {option}" for value, option in scored)
    if line.get("error") is not None:
        yield "error", line["error"]
