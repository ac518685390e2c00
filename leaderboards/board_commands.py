"""The verb ``board``: ``check``, ``verify``, ``page`` and ``data``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from stepgame.terminal import echo

__all__ = ["board"]

BOARD, PUBLISHED = Path("leaderboards/stepgame.csv"), Path("leaderboards/published.csv")

BoardOption = Annotated[Path, typer.Option(help="The leaderboard's CSV.")]
PublishedOption = Annotated[Path, typer.Option(help="The CSV of the literature's figures.")]


def check(board: BoardOption = BOARD, published: PublishedOption = PUBLISHED) -> None:
    """Hold both boards to their schema: ranges, hashes, data versions, doubles, and figures that follow."""
    from leaderboards.check import check_board, check_published

    done = [check_board(board), check_published(published)]
    findings = [finding for each in done for finding in each.findings]
    for finding in findings:
        echo(f"{finding.where}: {finding.what}")
    for note in (note for each in done for note in each.notes):
        echo(note)
    rows = f"{done[0].rows} measured and {done[1].rows} published rows"
    echo(f"{rows}: {len(findings)} findings")
    if findings:
        sys.exit(1)


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.", show_default=False)],
    board: BoardOption = BOARD,
    allow_files: Annotated[
        bool,
        typer.Option("--allow-files", help="Open the files that the run names: a bank, names, stories of a file."),
    ] = False,
) -> None:
    """Make a run's row again from its answers, and say whether it is the board's."""
    from leaderboards.verify import verify

    found = verify(run, board, allow_files=allow_files)
    if found.line is None:
        echo(f"{board} has no row of this measurement: {found.row}, data {found.row.cells['data_sha256'][:12]}")
    elif found.holds:
        echo(
            f"{board}, line {found.line}: is this run's row ({found.row}, n {found.row.cells['n']}, "
            f"mean {found.row.cells['mean']}); every prompt was checked and every answer judged again"
        )
    else:
        for name, (there, here) in found.differences.items():
            echo(f"{board}, line {found.line}: {name} is {there or 'empty'}, but the run gives {here or 'none'}")
    if not found.holds:
        sys.exit(1)


def page(
    out: Annotated[Path, typer.Option(help="Folder for the site; what an earlier call wrote there is replaced.")],
    board: BoardOption = BOARD,
    published: PublishedOption = PUBLISHED,
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of runs whose answers are shown; may be repeated. [default: leaderboards/runs, runs]"
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option(help="Answers shown of each run: the first ones, and as many wrong ones.")
    ] = 10,
) -> None:
    """Write the boards as a site that needs no network: table, plots, and a page for each run."""
    from leaderboards.page import write_site

    site = write_site(out, board, published, runs, examples)
    echo(f"{site.pages} pages, {site.rows} measured and {site.figures} published rows: {out / 'index.html'}")
    for note in site.notes:
        echo(note)


def data(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A set of leaderboards/data.toml: stepgame-v1-official, ...")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the file NAME.jsonl.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Make a named set of stories again, check its hash, and write it as JSON lines."""
    from leaderboards.data import write_set

    path, stories = write_set(name, out, overwrite=overwrite)
    echo(f"{name}: {stories:,} stories, of the hash that data.toml has: {path}")


board: dict[str, Callable[..., None]] = {"check": check, "verify": verify, "page": page, "data": data}
"""What ``stepgame board`` can do, by name."""
