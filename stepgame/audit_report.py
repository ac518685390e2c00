"""An audit as text, for people."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepgame.audit_tally import BASELINES, FINDINGS, INFORMATION, Tally

if TYPE_CHECKING:
    from stepgame.audit import AuditReport

__all__ = ["HEADINGS", "percent", "print_report", "printable", "short_names", "shown_kinds", "to_text", "verdict"]

HEADINGS: dict[str, str] = {
    "unreadable_sentences": "unreadable sentences",
    "stories_unreadable": "stories with one",
    "unreadable_questions": "unreadable questions",
    "contradictory": "contra- dictory",
    "unconnected": "uncon- nected",
    "mislabelled": "mis- labelled",
    "duplicates": "dupli- cates",
    "overlap": "overlap",
    "duplicates_reordered": "duplicates in any order",
    "repeated_layouts": "repeated layouts",
    "in_earlier_files": "in earlier files",
}
"""Column headings; ``- `` is where a narrow column may break."""

_OPTIONAL = ("unreadable_questions", "overlap")
"""Columns that are left out where there is nothing in them."""


def printable(text: str) -> str:
    """Replace control characters, which could steer a terminal, by U+FFFD."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def percent(share: float) -> str:
    """Write a share of 0 to 1 as per cent."""
    return f"{100 * share:.1f} %"


def short_names(files: list[str]) -> list[str]:
    """Leave out the folder that all files lie in."""
    folder = os.path.dirname(files[0])
    if folder and all(os.path.dirname(file) == folder for file in files):
        return [os.path.basename(file) for file in files]
    return files


def verdict(report: AuditReport) -> str:
    """Say in one line what was found."""
    audited = f"{report.all.stories:,} stories in {len(report.files)} file{'s' if len(report.files) > 1 else ''}"
    found = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in report.findings.items()]
    return f"{audited}: {', '.join(found) or 'clean'}"


def shown_kinds(report: AuditReport) -> list[str]:
    """Return the kinds of findings that a table of this report has columns for."""
    counts = report.all.counts
    return [kind for kind in FINDINGS if kind in counts and (kind not in _OPTIONAL or counts[kind])]


def _table(title: str, first: str, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_footer=False)
    table.add_column(first, overflow="fold", justify="left")
    for heading in headings:
        table.add_column(heading.replace("- ", "-\n" if " " not in heading.replace("- ", "") else ""), justify="right")
    return table


def _findings_table(report: AuditReport, title: str, first: str, rows: list[tuple[str, Tally]]) -> Table:
    kinds = shown_kinds(report)
    table = _table(title, first, ["stories", *(HEADINGS[kind] for kind in kinds)])
    for name, tally in rows:
        cells = [Text(f"{tally.counts[kind]:,}", "bold red" if tally.counts[kind] else "dim") for kind in kinds]
        table.add_row(Text(printable(name)), f"{tally.stories:,}", *cells)
    if len(rows) > 1:
        table.add_section()
        table.add_row("all", f"{report.all.stories:,}", *(f"{report.all.counts[kind]:,}" for kind in kinds))
    return table


def _information_table(report: AuditReport) -> Table:
    headings = ["mean hops", "label entropy", *(name.replace("_", " ") for name in BASELINES)]
    headings += [HEADINGS[kind] for kind in INFORMATION]
    table = _table("Balance, what baselines reach without reasoning, and repeats (no findings)", "k", headings)
    rows = [(str(k), tally) for k, tally in report.by_k.items()]
    for name, tally in [*rows, ("all", report.all)]:
        if name == "all":
            table.add_section()
        mean = tally.mean_hops
        cells = ["-" if mean is None else f"{mean:.2f}", f"{tally.label_entropy:.3f}"]
        cells += [percent(accuracy) for accuracy in tally.baselines.values()]
        table.add_row(name, *cells, *(f"{tally.counts[kind]:,}" for kind in INFORMATION))
    return table


def _print_examples(console: Console, report: AuditReport, names: list[str]) -> None:
    """Show for each kind of finding a few rows, those of the first files that have it."""
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
