"""The harness's verbs on the command line: ``run``, ``resume``, ``rescore``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.flags import with_flags
from harness.provenance import command_line
from harness.record import Run
from harness.settings import RunSettings
from stepgame.errors import InputError
from stepgame.terminal import PlainConsole, echo

if TYPE_CHECKING:
    from harness.suite import SuiteRow

__all__ = ["rescore", "resume", "run"]

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]


@with_flags(RunSettings.flags())
def run(
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be asked, with two prompts, and stop.", rich_help_panel="Run"),
    ] = False,
    suite: Annotated[
        str | None,
        typer.Option(help="Ask every task of a suite that `stepgame tasks` lists.", rich_help_panel="What is asked"),
    ] = None,
    **settings: Any,
) -> None:
    """Ask a model, record every answer, judge it."""
    from harness.run import perform

    given = RunSettings.of(**settings)
    command = command_line()
    if suite is not None:
        if dry_run or given.task != "stepgame":
            raise InputError("--suite names the tasks; leave out --task and --dry-run")
        from harness.suite import perform_suite

        _show_suite(suite, perform_suite(given, suite, command))
        return
    if dry_run:
        from harness.preview import preview

        echo(preview(given))
        return
    _show(perform(given, None, command))


def resume(
    path: RunArgument,
    max_errors: Annotated[
        int | None, typer.Option(help="Stop when more questions than this got no answer. [default: ask all]")
    ] = None,
) -> None:
    """Go on with a run that was cut off: ask what is missing, and again what ended in an error."""
    from harness.run import resume

    _show(resume(path, max_errors=max_errors))


def rescore(path: RunArgument) -> None:
    """Judge a run's recorded answers again, without the model."""
    from harness.run import rescore

    _show(rescore(path))


def _show(run: Run) -> None:
    """Print accuracies by k and where the run lies."""
    from rich.table import Table

    console = PlainConsole()
    if run.results is None:
        console.print(f"{run.path} is unfinished; go on with: stepgame resume {run.path}", soft_wrap=True)
        return
    results = run.results
    manifest = run.manifest
    table = Table(title=f"{manifest['model']['spec']}, {manifest['prompt']['name']}, {manifest['score']}")
    for column in ("k", "n", "accuracy", "95 % interval", "unparsed", "errors"):
        table.add_column(column, justify="right")
    for row in results["by_k"]:
        table.add_row(
            str(row["k"]),
            str(row["n"]),
            _percent(row["accuracy"]),
            f"{row['low']:.1%} to {row['high']:.1%}",
            _unparsed(row["unparsed"], row["n"] - row["errors"]),
            str(row["errors"]),
        )
    table.add_section()
    mean = _percent(results["mean_accuracy"])
    unparsed = _unparsed(results["unparsed"], results["answered"])
    table.add_row("mean", str(results["n"]), mean, "", unparsed, str(results["errors"]))
    console.print(table)
    for line in _remarks(run, results):
        console.print(line, soft_wrap=True)


def _show_suite(name: str, rows: Sequence[SuiteRow]) -> None:
    """Print the figures of a suite's tasks, and their mean."""
    from rich.table import Table

    from harness.suite import mean_value

    table = Table("task", "metric", "value", "n", "errors", title=name)
    for row in rows:
        table.add_row(row.task, row.metric, _number(row.value), str(row.n), str(row.errors))
    mean = mean_value(rows)
    if mean is not None:
        table.add_section()
        table.add_row("mean", "", _number(mean))
    PlainConsole().print(table)


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def _remarks(run: Run, results: dict[str, Any]) -> list[str]:
    """Return the lines below the table."""
    rate = results["examples_per_second"]
    parts = [f"chance {results['chance']:.1%}"]
    if run.manifest["score"] == "generate" and results["accuracy_strict"] is not None:
        parts.append(f"{results['accuracy_strict']:.1%} right in exactly the form asked for")
    parts += [f"{results['seconds']:.1f} s"] + ([] if rate is None else [f"{rate:.1f} questions a second"])
    if "cache_hits" in results:
        parts.append(f"{results['cache_hits']} answers from the cache")
    lines = [", ".join(parts), f"run: {run.path}"]
    if "metrics" in results:
        lines.insert(0, ", ".join(f"{name} {_number(value)}" for name, value in results["metrics"].items()))
    if results["errors"]:
        lines.append(f"{results['errors']} questions got no answer; ask them again with: stepgame resume {run.path}")
    return lines


def _unparsed(count: int, answered: int) -> str:
    return f"{count} ({count / answered:.0%})" if count else "0"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
