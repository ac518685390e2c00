"""The verbs of this package: ``generate`` and ``solve``."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from stepgame.bulk import STATUSES, judge_all
from stepgame.errors import InputError
from stepgame.files import write_text
from stepgame.formats import FORMATS, load, suffix_of, write_stream
from stepgame.generate import Recipe, repeats, stream
from stepgame.hops import parse_hops
from stepgame.maps import draw_map
from stepgame.read import UnreadableError
from stepgame.relations import NAMES
from stepgame.solve import SolveError
from stepgame.solve import solve as answer_of
from stepgame.stories import Stories
from stepgame.terminal import printable

__all__ = ["generate", "solve"]

RECIPE_FILE = ".stepgame.json"
"""Beside the data, hidden so that ``DIR/*`` names data only: the recipe, and which format it was written in."""


class _Rate(TextColumn):
    """Stories a second, in the progress bar."""

    def __init__(self) -> None:
        super().__init__("{task.speed}")

    def render(self, task: object) -> str:  # type: ignore[override]
        speed = getattr(task, "speed", None)
        return f"{speed:,.0f} stories/s" if speed else ""


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = ("[bold]{task.description}", BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _read_recipe(out: Path) -> dict[str, object] | None:
    """Return the recipe in a folder; None if there is none, or none that can be read."""
    try:
        there = json.loads((out / RECIPE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return there if isinstance(there, dict) else None


def _remove_files_of(out: Path, recipe: dict[str, object]) -> None:
    """Remove the files that a recipe wrote; whatever else lies in the folder is not ours to touch."""
    try:
        suffix = suffix_of(str(recipe["format"]))
        names = [f"qa{k}_{recipe['split']}{suffix}" for k in parse_hops(str(recipe["hops"]))]
    except (KeyError, InputError):
        return
    for path in (out / name for name in names):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _prepared_folder(out: Path, wanted: dict[str, object], overwrite: bool, resume: bool) -> Iterator[None]:
    """Put the recipe into the folder, and take it away again if not one file was made.

    Raises:
        InputError: if the folder holds something that the user did not say to write over.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; expected a folder")
    made = not out.exists()
    if not made and any(out.iterdir()) and not overwrite:
        if not resume:
            raise InputError(f"--out {out}: is not empty; use --overwrite to replace what is there, or --resume")
        if _read_recipe(out) != json.loads(json.dumps(wanted)):
            raise InputError(f"--out {out}: was made with other settings (see {out / RECIPE_FILE}); use --overwrite")
    if overwrite:
        # What stayed would be taken for this recipe's: by whoever reads the folder, and by --resume.
        _remove_files_of(out, _read_recipe(out) or {})
        _remove_files_of(out, wanted)
    write_text(out / RECIPE_FILE, json.dumps(wanted, indent=2) + "\n")
    try:
        yield
    finally:
        if [path.name for path in out.iterdir()] == [RECIPE_FILE]:
            (out / RECIPE_FILE).unlink()
            if made:
                out.rmdir()


def _counted(parts: Iterator[Stories], progress: Progress, task: object) -> Iterator[Stories]:
    for part in parts:
        yield part
        progress.advance(task, len(part))  # type: ignore[arg-type]


def _source(engine: str, workers: int, opened: contextlib.ExitStack) -> Callable[[Recipe], Iterator[Stories]]:
    """Return what makes stories: threads of this process, or a cluster, which is let go of with ``opened``."""
    if engine == "local":
        return partial(stream, workers=workers)
    from stepgame.cluster import BlockMaker, connected

    maker = BlockMaker(opened.enter_context(connected(engine)))
    return partial(stream, submit=maker, ahead=maker.ahead)


def generate(
    hops: Annotated[str, typer.Option(help="Links of the chain: 3, 1-10 or 1-3,7.")] = "1-10",
    per_hop: Annotated[int, typer.Option(help="Stories for each number of hops.")] = 1000,
    noise: Annotated[bool, typer.Option("--noise/--clean", help="Add distractors, or leave them out.")] = False,
    protocol: Annotated[str, typer.Option(help="official: any two agents asked; exact: the ends.")] = "official",
    bank: Annotated[str, typer.Option(help="Phrase bank: a name or a TOML file.")] = "core",
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Any whole number.")] = 0,
    noise_counts: Annotated[
        str, typer.Option(help="Agents of each kind of noise: disconnected=2,irrelevant=0-3,supporting=1.")
    ] = "",
    balance: Annotated[bool, typer.Option("--balance", help="The same share for every label (exact).")] = False,
    names: Annotated[str, typer.Option(help="letters, words, or a file with one name a line.")] = "letters",
    phrases: Annotated[str, typer.Option(help="train, heldout or all of the bank's phrases.")] = "all",
    unique: Annotated[bool, typer.Option("--unique", help="Leave out rows alike, also to other splits.")] = False,
    workers: Annotated[int, typer.Option(help="Threads; the bytes are the same for any number.")] = 1,
    engine: Annotated[str, typer.Option(help="local, ray, or ray://HOST:PORT; the bytes are the same.")] = "local",
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}.")] = "parquet",
    out: Annotated[Path, typer.Option(help="Folder for one file a hop: qa1_test.parquet, ...")] = Path("data"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Keep finished files, make the others.")] = False,
) -> None:
    """Make stories with true labels, for any number of hops."""
    suffix = suffix_of(format)
    recipe = Recipe(
        parse_hops(hops),
        per_hop,
        noise,
        protocol,
        bank,
        split,
        seed,
        names=names,
        noise_counts=noise_counts,
        balance=balance,
        phrases=phrases,
        unique=unique,
    )
    wanted = {**recipe.describe(), "format": format}
    started, made, kept = time.perf_counter(), 0, 0
    with contextlib.ExitStack() as opened:
        source = _source(engine, workers, opened)
        opened.enter_context(_prepared_folder(out, wanted, overwrite, resume))
        progress = opened.enter_context(_progress())
        task = progress.add_task("generating", total=per_hop * len(recipe.hops))
        for k in recipe.hops:
            target = out / f"qa{k}_{split}{suffix}"
            if resume and target.exists():
                kept += 1
                progress.advance(task, per_hop)
                continue
            parts = source(replace(recipe, hops=(k,)))
            write_stream(_counted(parts, progress, task), target, format)
            made += per_hop
    seconds = time.perf_counter() - started
    kept_note = f", {kept} finished files kept" if kept else ""
    rate = f"{made / seconds:,.0f} a second" if made else "nothing to do"
    typer.echo(f"{made:,} stories in {seconds:.1f} s ({rate}{kept_note}): {out}")
    _say_repeats(recipe)


def _say_repeats(recipe: Recipe) -> None:
    for k, alike in repeats(recipe).items():
        if any(alike):
            typer.echo(
                f"k = {k}: {alike.within:,} rows repeat an earlier one, {alike.shared:,} stand in another split of "
                "this seed and size too; --unique leaves them out"
            )


_OUTCOMES = ("right", "wrong", *STATUSES[1:])


def _solve_counts(stories: Stories) -> dict[int, Counter[str]]:
    """Count the outcomes of the stories of each k."""
    verdicts = judge_all(stories.table)
    counts: dict[int, Counter[str]] = {}
    labels, ks = stories.column("label"), stories.column("k_hop")
    for status, answer, label, k in zip(verdicts.status.tolist(), verdicts.label.tolist(), labels, ks, strict=True):
        outcome = STATUSES[status] if status else "right" if NAMES[answer] == label else "wrong"
        counts.setdefault(k, Counter())[outcome] += 1
    return counts


def _show(stories: Stories, number: int) -> None:
    """Print one story with its map."""
    if not 0 <= number < len(stories):
        raise InputError(f"--show {number}: there are {len(stories)} stories; expected 0 to {len(stories) - 1}")
    row = stories[number]
    lines = [f"{row['id']}  (k = {row['k_hop']})", *row["story"], row["question"], f"label: {row['label']}"]
    try:
        answer = answer_of(row["story"], row["question"])
    except SolveError as error:
        lines.append(f"no answer: {error}")
    except UnreadableError as error:
        lines.append(f"unreadable: {error}")
    else:
        chain = "; ".join(f"{fact.head} {fact.relation.label} {fact.tail}" for fact in answer.path)
        lines += [f"answer: {answer.label}, by {chain}", "", *draw_map(answer.positions).split("\n")]
    typer.echo("\n".join(map(printable, lines)))


def solve(
    files: Annotated[list[Path], typer.Argument(help="Files of stories in any known format.")],
    show: Annotated[int | None, typer.Option(help="Print this story (from 0) with its map, and nothing else.")] = None,
) -> None:
    """Answer stories with the symbolic reader and solver; prints its accuracy and speed."""
    stories = load(files)
    if show is not None:
        _show(stories, show)
        return
    started = time.perf_counter()
    counts = _solve_counts(stories)
    seconds = time.perf_counter() - started
    table = Table(title=f"symbolic solver, {len(files)} file(s)")
    for heading in ("k", "stories", "accuracy", *_OUTCOMES):
        table.add_column(heading, justify="right")
    for k, tally in sorted(counts.items()):
        total = tally.total()
        shown = (f"{tally[outcome]:,}" for outcome in _OUTCOMES)
        table.add_row(str(k), f"{total:,}", f"{100 * tally['right'] / total:.2f} %", *shown)
    Console(file=sys.stdout).print(table)
    right = sum(tally["right"] for tally in counts.values())
    share = 100 * right / len(stories)
    typer.echo(f"{right:,} of {len(stories):,} right ({share:.2f} %), {len(stories) / seconds:,.0f} stories a second")
