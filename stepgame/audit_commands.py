"""The verbs ``audit`` and ``fix``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stepgame.audit import audit as judge
from stepgame.audit_report import print_report
from stepgame.errors import InputError, require
from stepgame.files import write_text
from stepgame.fix import fix as repair
from stepgame.formats import FORMATS, load, suffix_of, write

__all__ = ["audit", "fix"]

_PLAIN_WIDTH = 110
_NO_K = ("json", "babi")
"""Formats that have no room for ``k_hop``."""


def _check_report(flag: str, target: Path | None, inputs: list[Path]) -> None:
    """Refuse, before any work is done, what would fail or destroy data."""
    if target is None:
        return
    if target.is_dir():
        raise InputError(f"{flag} {target}: is a folder; expected the file to write")
    if any(target.resolve() == path.resolve() for path in inputs):
        raise InputError(f"{flag} {target}: is one of the files of stories; name another file")


def audit(
    files: Annotated[list[Path], typer.Argument(help="Files of stories in any known format.")],
    json: Annotated[Path | None, typer.Option("--json", help="Write the whole report to this file as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report to this file as a page with plots.")] = None,
    against: Annotated[Path | None, typer.Option(help="A file that must share no row with these.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Rows to show for each kind of finding.")] = 3,
) -> None:
    """Find what is wrong with a data set, by kind and by hops; exits with 1 if there are findings."""
    inputs = [*files, *([against] if against else [])]
    for flag, target in (("--json", json), ("--html", html)):
        _check_report(flag, target, inputs)
    if html is not None:
        require("matplotlib", "report", "--html")
    report = judge(files, against=against, examples=examples)
    # Without a terminal there is no width to fit, and the tables are read better whole.
    print_report(Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PLAIN_WIDTH), report)
    if json is not None:
        write_text(json, report.to_json())
    if html is not None:
        write_text(html, report.to_html())
    if not report.clean:
        raise SystemExit(1)


def fix(
    file: Annotated[Path, typer.Argument(help="A file of stories in any known format.")],
    out: Annotated[
        Path, typer.Option(help="The file to write; its suffix says the format, none the folder of `datasets`.")
    ],
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Give mislabelled rows the literal label instead of dropping them.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Write the rows of a data set that pass its audit, or relabel them; says how many of each."""
    formats = {suffix_of(name): name for name in FORMATS}
    if out.suffix not in formats:
        known = ", ".join(suffix for suffix in formats if suffix)
        raise InputError(f"--out {out}: the suffix {out.suffix!r} names no format; use one of {known}")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: is there already; use --overwrite to replace it")
    if out.is_dir() and not (formats[out.suffix] == "datasets" and (out / "dataset_info.json").is_file()):
        raise InputError(f"--out {out}: is a folder that holds other things; name a file or a new folder")
    stories = load(file)
    fixed, report = repair(stories, relabel=relabel)
    if not len(fixed):
        raise InputError(f"{file}: no row passes; nothing was written. {report.to_text()}")
    write(fixed, out)
    typer.echo(f"{report.to_text()}: {out}")
    if formats[out.suffix] in _NO_K and load(out).column("k_hop") != fixed.column("k_hop"):
        typer.echo(
            f"note: {out.suffix} files have no room for k_hop, and it cannot be told from this one's name; "
            "use .jsonl or .parquet, or name it like qa5_test" + out.suffix,
            err=True,
        )
