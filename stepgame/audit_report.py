"""An audit as text, for people."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepgame.audit_tally import FINDINGS, INFORMATION, Tally
from stepgame.terminal import printable

if TYPE_CHECKING:
    from stepgame.audit import AuditReport

__all__ = [
    "HEADINGS",
    "print_report",
    "short_names",
    "shown_information",
    "shown_kinds",
    "to_text",
    "verdict",
]

HEADINGS: dict[str, str] = {
    "unreadable_sentences": "unreadable\nsentences",
    "stories_unreadable": "stories\nwith one",
    "unreadable_questions": "unreadable\nquestions",
    "contradictory": "contra-\ndictory",
    "unconnected": "uncon-\nnected",
    "mislabelled": "mis-\nlabelled",
    "duplicates": "dupli-\ncates",
    "overlap": "\noverlap",
    "duplicates_reordered": "duplicates,\nany order",
    "repeated_layouts": "repeated\nlayouts",
    "in_earlier_files": "in earlier\nfiles",
}
"""Column headings of the counts, on two lines."""

_OPTIONAL = ("unreadable_questions", "overlap")
"""Columns that are left out where there is nothing in them."""


def short_names(files: list[str]) -> list[str]:
    """Leave out the folder that all files lie in."""
    folders = {Path(file).parent for file in files}
    return [Path(file).name for file in files] if len(folders) == 1 else files


def verdict(report: AuditReport) -> str:
    """Say in one line what was found."""
    audited = f"{report.all.stories:,} stories in {len(report.files)} file{'s' if len(report.files) > 1 else ''}"
    found = [f"{kind.replace('_', ' ')} {count:,}" for kind, count in report.findings.items()]
    return f"{audited}: {', '.join(found) or 'clean'}"


def shown_kinds(report: AuditReport) -> list[str]:
    """Return the kinds of findings that a table of this report has columns for."""
    counts = report.all.counts
    return [kind for kind in FINDINGS if kind in counts and (kind not in _OPTIONAL or counts[kind])]


def shown_information(report: AuditReport) -> list[str]:
    """Return the counts that make no finding and that a table of this report has columns for."""
    counts = report.all.counts
    told = {"duplicates_reordered": counts["duplicates"], "repeated_layouts": -1, "in_earlier_files": 0}
    return [kind for kind in INFORMATION if counts[kind] != told[kind]]


def _table(title: str, first: str, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(f"\n{first}", overflow="fold", justify="left")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _findings_table(report: AuditReport, title: str, first: str, rows: list[tuple[str, Tally]]) -> Table:
    kinds = shown_kinds(report)
    table = _table(title, first, ["\nstories", *(HEADINGS[kind] for kind in kinds)])
    for name, tally in rows:
        cells = [Text(f"{tally.counts[kind]:,}", "red" if tally.counts[kind] else "dim") for kind in kinds]
        table.add_row(Text(printable(name)), f"{tally.stories:,}", *cells)
    if len(rows) > 1:
        table.add_section()
        table.add_row("all", f"{report.all.stories:,}", *(f"{report.all.counts[kind]:,}" for kind in kinds))
    return table


def _information_table(report: AuditReport) -> Table:
    kinds = shown_information(report)
    headings = ["mean\nhops", "label\nentropy", "\nmajority", "first\nsentence", "last\nsentence", "asked\nhead"]
    headings += ["asked\npair", *(HEADINGS[kind] for kind in kinds)]
    table = _table("For information: balance, accuracy in % without reasoning, repeats", "k", headings)
    by_k = [(str(k), tally) for k, tally in report.by_k.items()]
    for name, tally in [*by_k, ("all", report.all)] if len(by_k) > 1 else by_k:
        if name == "all":
            table.add_section()
        cells = ["-" if tally.mean_hops is None else f"{tally.mean_hops:.2f}", f"{tally.label_entropy:.3f}"]
        cells += [f"{100 * accuracy:.1f}" for accuracy in tally.baselines.values()]
        table.add_row(name, *cells, *(f"{tally.counts[kind]:,}" for kind in kinds))
    return table


def _print_examples(console: Console, report: AuditReport, names: list[str]) -> None:
    """Show for each kind of finding a few rows, those of the first files that have it."""
    if any(file.examples for file in report.files):
        console.print(Text("Examples (rows and sentences count from 0)", "bold"))
    for kind, meaning in FINDINGS.items():
        few = [
            (name, example)
            for name, file in zip(names, report.files, strict=True)
            for example in file.examples.get(kind, ())
        ]
        most = max((len(file.examples.get(kind, ())) for file in report.files), default=0)
        if not few:
            continue
        console.print(Text.assemble((f"{kind.replace('_', ' ')}", "bold"), f": {meaning}"))
        for name, example in few[:most]:
            place = "" if example.sentence is None else f", sentence {example.sentence}"
            console.print(Text(printable(f"  {name} row {example.row} (k = {example.k_hop}){place}: {example.text}")))
            console.print(Text(printable(f"    {example.what}"), "dim"))


def print_report(console: Console, report: AuditReport) -> None:
    """Print tables by file and by k, examples and the verdict.

    Args:
        console: where to.
        report: what `stepgame.audit.audit` found.
    """
    names = short_names([file.file for file in report.files])
    files = list(zip(names, (file.all for file in report.files), strict=True))
    console.print(_findings_table(report, "By file", "file", files))
    by_k = [(str(k), tally) for k, tally in report.by_k.items()]
    if len(by_k) > 1:
        console.print(_findings_table(report, "By k", "k", by_k))
    console.print(_information_table(report))
    _print_examples(console, report, names)
    console.print(Text(verdict(report), "bold green" if report.clean else "bold red"))


def to_text(report: AuditReport, width: int = 100) -> str:
    """Return the report as text without colours.

    Args:
        report: what `stepgame.audit.audit` found.
        width: characters a line.
    """
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        print_report(console, report)
    return captured.get()
