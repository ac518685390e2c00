"""One run on one page: its row, accuracy over k, kinds of mistake, manifest and answers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.record import TRAINING, read_json
from leaderboards.markup import block, facts, page, text
from leaderboards.parts import KIND_KEY, answers, by_k_table, kinds_of_row, kinds_table, points_of
from leaderboards.rankings import asked_how, describe_data, system_of
from leaderboards.schema import CHANCE, COLUMNS, row_of
from leaderboards.svg import Series, accuracy_figure

if TYPE_CHECKING:
    from harness import Run

__all__ = ["kinds_by_k", "run_page"]


def kinds_by_k(run: Run) -> list[tuple[int, dict[str, int]]]:
    """Count a run's mistakes by kind at each k, from its samples.

    Raises:
        InputError: if a sample is incomplete, or a label is none of the nine.
    """
    from harness.error_kinds import count_kinds
    from harness.pairing import read_samples

    samples = sorted(read_samples(run).values(), key=lambda each: each.k)
    found = []
    for k, group in itertools.groupby(samples, key=lambda each: each.k):
        counted = count_kinds(((each.gold, each.prediction) for each in group if not each.error), k)
        found.append((k, {each.kind: each.count for each in counted.kinds} | {"unparsed": counted.unparsed}))
    return found


def _differing(cells: Mapping[str, str], run: Run) -> list[str]:
    """Return the columns in which a row is not what a run's records give; only its answers are known to be the row's.

    Raises:
        InputError: if its records give no row.
    """
    made = row_of(run)
    return [name for name, value in cells.items() if value != made.get(name, "")]


def _record(name: str, record: Mapping[str, Any]) -> str:
    shown = json.dumps(record, ensure_ascii=False, indent=2)
    return f"<details><summary>{name}</summary>{block(shown, 20_000)}</details>"


def run_page(cells: Mapping[str, str], run: Run | None, count: int) -> str:
    """Return the page of one measured row.

    Args:
        cells: the row.
        run: a folder with the row's answers, if one is at hand.
        count: answers shown: so many of the first, and of the wrong.

    Raises:
        InputError: if the folder's records cannot be read.
    """
    row = dict(cells)
    name = system_of(row)
    about = f"{asked_how(row)}; {describe_data(row)}"
    chance = CHANCE if row["task"] == "stepgame" else None
    kinds = kinds_of_row(row)
    body = [
        accuracy_figure(
            "k", "Accuracy over k", "bars are 95 % Wilson intervals", [Series(name, points_of(row))], chance
        ),
        by_k_table("Accuracy by k, in per cent, with 95 % intervals", [(text(name), row)]),
    ]
    if kinds is not None:
        by_k = [] if run is None else [(f"k {k}", counts) for k, counts in kinds_by_k(run)]
        body += ["<h2>Kinds of mistake</h2>", KIND_KEY, kinds_table("Mistakes by kind", "k", [*by_k, ("all", kinds)])]
    if run is None:
        body.append(
            '<h2>Answers</h2><p class="soft">No folder of this run that can be read was at hand when the page was '
            "made, so its answers are not shown.</p>"
        )
    elif count:
        body.append(f"<h2>Answers</h2>{answers(run.samples(), count)}")
    body.append("<h2>The row, and what made it</h2>")
    meanings = {column.name: column.meaning for column in COLUMNS}
    body.append(
        facts(
            (column, f'<span title="{text(meaning)}">{text(row[column], 2000)}</span>')
            for column, meaning in meanings.items()
            if row[column]
        )
    )
    if run is not None:
        if differing := _differing(cells, run):
            body.append(
                '<p class="bad">The folder with these answers gives another row than this one, so its records may be '
                f"of another run. They differ in: {text(', '.join(differing), 2000)}.</p>"
            )
        body.append(_record("manifest.json", run.manifest))
        if (run.path / TRAINING).is_file():
            body.append(_record(TRAINING, read_json(run.path / TRAINING)))
    nav = '<nav aria-label="Site"><ul><li><a href="../index.html">All rows</a></li></ul></nav>'
    header = f"{nav}<h1>{text(name)}</h1><p>{text(about)}</p>"
    return page(f"{name}: {about}", header, "\n".join(body), f'<p class="soft">stepgame {text(row["version"])}</p>')
