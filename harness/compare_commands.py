"""The verbs ``compare`` and ``probe`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.flags import with_flags
from harness.provenance import command_line
from harness.settings import RunSettings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from harness.compare import Accuracy, Comparison, PairComparison, PairedTest, RunSummary
    from harness.probes import ProbeReport, Rate

__all__ = ["compare", "probe"]


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.", show_default=False)],
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write everything as JSON.", envvar="STEPGAME_JSON", show_default=False
        ),
    ] = None,
    match: Annotated[
        str,
        typer.Option(
            help="same (refuse runs of different stories), shared (the stories that both answered), "
            "twins (clean stories with their noisy versions)."
        ),
    ] = "same",
    alpha: Annotated[float, typer.Option(help="Level of the tests; intervals cover 1 - alpha.")] = 0.05,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Every run with every other, not only with the first.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Compare runs on the same stories, in pairs: differences with intervals and exact p-values."""
    from harness.compare import compare

    result = compare(runs, match=match, alpha=alpha, all_pairs=all_pairs, seed=seed)
    # Written before it is shown, so that a pager that is closed early costs nothing.
    if json_out is not None:
        result.write(json_out)
    _show_comparison(result)
    if json_out is not None:
        _console().print(f"written: {json_out}", soft_wrap=True)


def _show_comparison(result: Comparison) -> None:
    console = _console()
    if result.settings:
        _show_settings(console, result)
    else:
        console.print("The runs have the same settings.")
    _show_accuracies(console, result)
    for pair in result.pairs:
        _show_pair(console, pair, result.alpha)
    _show_decay(console, result)
    _show_kinds(console, result.runs)


def _show_settings(console: Console, result: Comparison) -> None:
    table = _table("settings that differ", "setting", *(run.name for run in result.runs))
    for setting, values in result.settings.items():
        table.add_row(setting, *(_cut(value) for value in values))
    console.print(table)


def _show_accuracies(console: Console, result: Comparison) -> None:
    coverage = f"{100 * (1 - result.alpha):.6g} %"
    table = _table(f"accuracy, with {coverage} Wilson intervals", "k", *(run.name for run in result.runs))
    by_run = [{row.k: row for row in run.by_k} for run in result.runs]
    for k in sorted({k for rows in by_run for k in rows if k is not None}):
        table.add_row(str(k), *(_accuracy(rows.get(k)) for rows in by_run))
    table.add_section()
    overall = [run.overall for run in result.runs]
    table.add_row("all", *(_accuracy(row) for row in overall))
    table.add_row("above chance", *(_centred(row) for row in overall))
    table.add_row("standard error", *(_percent(row.standard_error) for row in overall))
    table.add_row("stories", *(_story_count(row) for row in overall))
    for name in ("unparsed", "errors"):
        if any(getattr(row, name) for row in overall):
            table.add_row(name, *(str(getattr(row, name)) for row in overall))
    console.print(table)


def _show_pair(console: Console, pair: PairComparison, alpha: float) -> None:
    title = f"{pair.second} minus {pair.first}"
    if pair.clean is not None:
        title += f" (noise sensitivity; {pair.clean} is clean)"
    table = _table(title, "k", "pairs", "difference", "interval", "only first", "only second", "changed", "p", "Holm")
    for test in pair.by_k:
        table.add_row(*_tested(test))
    table.add_section()
    table.add_row(*_tested(pair.overall))
    console.print(table)
    left_out = {
        "errors": pair.errors,
        "not asked yet": pair.missing,
        "asked by one run only or in other words": pair.unshared,
    }
    shown = "; ".join(f"{reason}: {count}" for reason, count in left_out.items() if count)
    if shown:
        console.print(f"left out of the pairs: {shown}", soft_wrap=True)
    verdict = "differ" if pair.overall.significant else "cannot be told apart"
    console.print(
        f"{pair.first} and {pair.second} {verdict} at alpha {alpha:g} over {pair.overall.n} pairs "
        f"(p {_p(pair.overall.p_holm)}, {_TESTS[pair.overall.test]})",
        soft_wrap=True,
    )


_TESTS = {"mcnemar": "McNemar, exact", "sign-flip": "sign flips of clusters, exact"}


def _tested(test: PairedTest) -> list[str]:
    return [
        "all" if test.k is None else str(test.k),
        str(test.n),
        _points(test.difference),
        f"{_points(test.low)} to {_points(test.high)}" + (" (score)" if test.interval == "score" else ""),
        str(test.first_only),
        str(test.second_only),
        _percent(test.changed),
        _p(test.p),
        _p(test.p_holm) + (" *" if test.significant else ""),
    ]


def _show_decay(console: Console, result: Comparison) -> None:
    table = _table(
        "decay with k", "run", "per-hop reliability", "at no hops", "half of it left at k", "fit, p", "remark"
    )
    for run in result.runs:
        fit = run.decay
        if fit.reliability is None:
            table.add_row(run.name, "", "", "", "", fit.reason or "")
            continue
        reliability = f"{fit.reliability:.3f} ({fit.reliability_low:.3f} to {fit.reliability_high:.3f})"
        ceiling = f"{fit.ceiling:.3f}" + ("" if fit.ceiling_free else " (fixed)")
        horizon = f"{_hops(fit.horizon)} ({_hops(fit.horizon_low)} to {_hops(fit.horizon_high)})"
        table.add_row(
            run.name, reliability, ceiling, horizon, "" if fit.p_fit is None else _p(fit.p_fit), fit.reason or ""
        )
    console.print(table)


def _show_kinds(console: Console, runs: Sequence[RunSummary]) -> None:
    shown = [run for run in runs if run.error_kinds is not None]
    if not shown:
        return
    columns = ("run", "k", "wrong", "opposite", "one axis", "both axes", "unparsed")
    table = _table("wrong answers by kind, of those that could be read (by guessing in brackets)", *columns)
    for run in shown:
        for group in run.error_kinds or ():
            wrong = sum(kind.count for kind in group.kinds)
            cells = [f"{_percent(kind.share)} ({_percent(kind.expected)})" if wrong else "" for kind in group.kinds]
            k = "all" if group.k is None else str(group.k)
            table.add_row(run.name if group.k is None else "", k, str(wrong), *cells, str(group.unparsed))
        table.add_section()
    console.print(table)


def _console() -> Console:
    from stepgame.terminal import PlainConsole

    return PlainConsole()


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in ("setting", "run", "remark") else "right")
    return table


def _accuracy(row: Accuracy | None) -> str:
    if row is None or row.accuracy is None:
        return ""
    return f"{row.accuracy:.1%} ({row.low:.1%} to {row.high:.1%})"


def _centred(row: Accuracy) -> str:
    if row.centred is None:
        return ""
    return f"{row.centred:.1%} ({row.centred_low:.1%} to {row.centred_high:.1%})"


def _story_count(row: Accuracy) -> str:
    return str(row.n) if row.clusters == row.n else f"{row.n} from {row.clusters} sources"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _points(value: float) -> str:
    """Return a difference in percentage points."""
    return f"{100 * value:+.1f}"


def _hops(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.1f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


@with_flags(RunSettings.flags())
def probe(
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="renamed, shuffled or reversed; may be repeated. [default: all]", rich_help_panel="What is asked"
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Ask stories and the same told in another way, and see whether answers change as they should."""
    from harness.probes import perform_probe
    from harness.settings import RunSettings
    from harness.variants import VARIANTS

    command = command_line()
    _show_probes(perform_probe(RunSettings.of(**settings), variant or VARIANTS, command))


def _show_probes(report: ProbeReport) -> None:
    console = _console()
    columns = ("variant", "answer should be", "pairs", "consistent", "of the right ones", "by chance", "accuracy", "p")
    table = _table(f"{report.model}: answers that change as they should", *columns)
    for each in report.probes:
        table.add_row(
            each.variant,
            f"the {each.expected}" if each.expected == "same" else f"its {each.expected}",
            str(each.overall.n),
            _rate(each.overall),
            _rate(each.right),
            _percent(each.by_chance),
            f"{_percent(each.accuracy_original)} -> {_percent(each.accuracy_variant)}",
            _p(each.p),
        )
    console.print(table)
    for each in report.probes:
        left_out = {"errors": each.errors, "originals not read": each.unparsed, "no such variant": each.without}
        shown = "; ".join(f"{reason}: {count}" for reason, count in left_out.items() if count)
        if shown:
            console.print(f"{each.variant}, left out: {shown}", soft_wrap=True)
    console.print(f"probes: {report.path}", soft_wrap=True)


def _rate(rate: Rate) -> str:
    return "" if rate.share is None else f"{rate.share:.1%} ({rate.low:.1%} to {rate.high:.1%})"
