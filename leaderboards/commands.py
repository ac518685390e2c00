"""The verbs ``report``, ``publish`` and ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepgame.terminal import echo

__all__ = ["demo", "publish", "report"]


def publish(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    board: Annotated[Path, typer.Option(help="The leaderboard's CSV; it is made if it does not exist.")] = Path(
        "leaderboards/stepgame.csv"
    ),
    allow_dirty: Annotated[
        bool,
        typer.Option("--allow-dirty", help="Publish runs of code that no commit holds, marked in the column 'dirty'."),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put a run in the place of its earlier row, if there is one.")
    ] = False,
) -> None:
    """Append finished runs to a leaderboard CSV: all of them, or none."""
    from leaderboards.board import Row
    from leaderboards.board import publish as publish_runs

    done = publish_runs(runs, board, allow_dirty=allow_dirty, replace=replace)
    for cells, line, replaced in zip(done.rows, done.lines, done.replaced, strict=True):
        verb = "replaced" if replaced else "appended"
        marked = ", marked dirty" if cells["dirty"] == "yes" else ""
        echo(
            f"{verb} {done.board}, line {line}: {Row(cells)}: n {cells['n']}, k {cells['hops']}, "
            f"mean accuracy {cells['mean']}, unparsed {cells['unparsed']}{marked}"
        )


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, or of probes.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The file, ending in .html, or a folder for index.html.")] = Path(
        "report.html"
    ),
    examples: Annotated[
        int, typer.Option(help="Answers shown of each run: the first ones, and as many wrong ones.")
    ] = 5,
    plots: Annotated[bool, typer.Option(help="Write the plots as SVG and PNG too, beside the page.")] = True,
) -> None:
    """Write runs as one HTML file: results by k, paired comparisons, kinds of mistake, answers."""
    from leaderboards.report import write_report

    done = write_report(runs, out, examples=examples, plots=plots)
    for path in (done.page, *done.plots):
        echo(f"written: {path}")
    for note in done.notes:
        echo(f"left out: {note}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs, the CSV and the plot.")] = Path("demo"),
    hops: Annotated[str, typer.Option(help="The k to ask.")] = "1-10",
    per_hop: Annotated[int, typer.Option(help="Stories of each k.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the stories.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Ask everything again, even what is finished.")
    ] = False,
) -> None:
    """Generate, ask, judge and publish: the whole path on the built-in model, in minutes.

    Asked again, it reuses what is finished and goes on with what was cut off.
    """
    from leaderboards.demo import run_demo

    run_demo(out, hops=hops, per_hop=per_hop, seed=seed, overwrite=overwrite)
