"""The verb ``tasks``: what can be asked, with size, metric and source."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["lm_eval_tasks", "tasks"]


def tasks(
    suite: Annotated[str | None, typer.Option(help="Only the tasks of this suite.")] = None,
) -> None:
    """List tasks with their sizes, metrics and sources, and the suites of them."""
    from harness.plugins import plugin_names
    from harness.tasks import FILE_TASKS, GROUP
    from harness.tasks.catalogue import load_suite, load_suites, load_task_spec, load_task_specs

    names = list(load_task_specs()) if suite is None else load_suite(suite).tasks
    if suite is not None and load_suite(suite).by_lm_eval:
        typer.echo("\n".join(names))
        return
    rows: list[tuple[str, ...]] = [("task", "train", "validation", "test", "metrics", "data set", "asks")]
    for spec in map(load_task_spec, names):
        sizes = [f"{size:,}" if size else "-" for size in spec.sizes]
        rows.append((spec.name, *sizes, ", ".join(spec.metrics), spec.source, spec.about))
    _print(rows, right=(1, 2, 3))
    if suite is not None:
        return
    typer.echo()
    _print([("suite", "tasks", "what"), *((s.name, ", ".join(s.tasks), s.about) for s in load_suites().values())])
    installed = ", ".join(plugin_names(GROUP))
    typer.echo(
        f"\nOther tasks: stepgame; {' and '.join(FILE_TASKS)}, from a file" + (f"; {installed}" * bool(installed))
    )


def lm_eval_tasks(
    hops: Annotated[str, typer.Option(help="Chain lengths: 3, 1-10, 1-3,7.")] = "1-10",
    per_hop: Annotated[int, typer.Option(help="Stories of each length, noisy and clean.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the stories.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to write. [default: one in the cache]")] = None,
) -> None:
    """Write StepGame as tasks of lm-evaluation-harness and print the folder, for its --include_path."""
    from harness.lm_eval.tasks import write_tasks
    from stepgame.hops import parse_hops

    typer.echo(write_tasks(out, hops=parse_hops(hops), per_hop=per_hop, seed=seed))


def _print(rows: Sequence[tuple[str, ...]], right: Collection[int] = ()) -> None:
    """Print columns, each as wide as its widest cell, so that a line is one row for other programs too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        texts = [
            cell.rjust(width) if place in right else cell.ljust(width) for place, (cell, width) in enumerate(cells)
        ]
        typer.echo("  ".join(texts).rstrip())
