"""The demo: generate, ask, judge, publish and plot, on the built-in model and three baselines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leaderboards.board import Board, check_publishable
from leaderboards.plots import plot_accuracy
from stepgame.errors import InputError, require
from stepgame.hops import format_hops, parse_hops

if TYPE_CHECKING:
    from rich.table import Table

    from harness import Run

__all__ = ["ANSWER_TOKENS", "CONTESTANTS", "Contestant", "Demo", "accuracy_table", "run_demo"]

ANSWER_TOKENS = 32
"""Longest text a contestant may write; the form asked for takes about eight tokens, a full sentence twenty."""


class Contestant(NamedTuple):
    """One run of the demo.

    Attributes:
        name: its folder under ``runs/``.
        model: the model's spec.
        score: ``choice`` or ``generate``.
        about: one line for people.
    """

    name: str
    model: str
    score: str
    about: str


CONTESTANTS: tuple[Contestant, ...] = (
    Contestant("random", "random", "choice", "any of the nine labels, all alike"),
    Contestant("majority", "majority", "choice", "the training stories' most frequent label"),
    Contestant("oracle", "oracle", "choice", "reads and solves the story, without a language model"),
    Contestant("smollm2-choice", "smollm2", "choice", "the likeliest of the nine labels"),
    Contestant("smollm2-generate", "smollm2", "generate", "the label read from what the model writes"),
)
"""What the demo asks, in this order: the floor, the ceiling, and the built-in model in both ways."""


class Demo(NamedTuple):
    """What the demo left on disk.

    Attributes:
        runs: the finished runs, in the order of the contestants.
        board: the leaderboard.
        plot: accuracy over k.
    """

    runs: tuple[Run, ...]
    board: Path
    plot: Path


def accuracy_table(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """Lay out accuracies in percent, one row a run and one column a k.

    Args:
        runs: finished runs.
        names: what to call them.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    by_run = [{entry["k"]: entry["accuracy"] for entry in (run.results or {}).get("by_k", [])} for run in runs]
    hops = sorted({k for accuracies in by_run for k in accuracies})
    table = Table(
        title="accuracy in percent, by k", box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title_justify="left"
    )
    table.add_column("model", no_wrap=True)
    for title in (*(f"k={k}" for k in hops), "mean", "unparsed"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, run, accuracies in zip(names, runs, by_run, strict=True):
        results = run.results or {}
        cells = [f"{100 * accuracies[k]:.0f}" if k in accuracies else "" for k in hops]
        table.add_row(Text(name), *cells, f"{100 * results['mean_accuracy']:.1f}", str(results["unparsed"]))
    return table


def _refuse_other_stories(folder: Path, asked: dict[str, object]) -> None:
    """Refuse to go on in a folder whose run asked other stories.

    Raises:
        InputError: naming both, if they differ.
    """
    from harness import load_run

    if not (folder / "manifest.json").is_file():
        return
    params = load_run(folder).manifest["task"]["params"]
    found = {name: params.get(name) for name in asked}
    if json.dumps(found) != json.dumps(asked):
        raise InputError(
            f"{folder} was asked other stories ({_stories(found)}) than are wanted now ({_stories(asked)}); "
            "ask again with --overwrite, or choose another --out"
        )


def _stories(params: dict[str, object]) -> str:
    hops = params["hops"]
    shown = format_hops(hops) if isinstance(hops, list) else hops
    return f"k {shown}, {params['per_hop']} each, seed {params['seed']}"


def run_demo(
    out: str | Path = "demo",
    *,
    hops: int | str | Sequence[int] = "1-10",
    per_hop: int = 20,
    seed: int = 0,
    overwrite: bool = False,
    contestants: Sequence[Contestant] = CONTESTANTS,
    say: Callable[[object], None] | None = None,
) -> Demo:
    """Ask every contestant the same noisy stories of the official protocol; publish and plot the results.

    A run that is finished is reused, one that was cut off is gone on with. The board and the plot are made anew
    each time, from the runs; the board takes runs of a dirty tree, and marks them.

    Args:
        out: folder for ``runs/``, ``leaderboard.csv`` and ``accuracy.png``.
        hops: the k to ask; see `stepgame.hops.parse_hops`.
        per_hop: stories of each k.
        seed: seed of the stories.
        overwrite: ask everything again.
        contestants: who is asked.
        say: takes what is to be shown, text or a table; the terminal when omitted.

    Returns:
        Where everything lies.

    Raises:
        InputError: if an argument is out of range, or ``out`` holds runs of other stories and ``overwrite`` is
            not set. Nothing has been asked then.
        MissingExtraError: if the built-in model's or the plot's libraries are not installed.
    """
    out = Path(out)
    asked: dict[str, object] = {"hops": list(parse_hops(hops)), "per_hop": per_hop, "seed": seed}
    if per_hop < 1:
        raise InputError(f"per-hop {per_hop}: expected at least 1 story of each k")
    _require_libraries(contestants)
    folders = [out / "runs" / contestant.name for contestant in contestants]
    if not overwrite:
        for folder in folders:
            _refuse_other_stories(folder, asked)
    say = say or _terminal()
    say(f"{_stories(asked)}, official protocol, with noise: {len(parse_hops(hops)) * per_hop} stories for each model")
    stories: dict[str, Any] = {**asked, "noise": True, "protocol": "official", "split": "test"}
    runs = []
    for contestant, folder in zip(contestants, folders, strict=True):
        known = not overwrite and (folder / "results.json").is_file()
        say(f"{contestant.name}: {contestant.about}" + (" (finished before, reused)" if known else ""))
        runs.append(_ask(contestant, folder, stories, overwrite))
    again = f"--hops {format_hops(parse_hops(hops))} --per-hop {per_hop} --noise --seed {seed}"
    return _show(out, runs, [contestant.name for contestant in contestants], again, say)


def _ask(contestant: Contestant, folder: Path, stories: dict[str, Any], overwrite: bool) -> Run:
    """Make one run, or go on with the one that is there."""
    from harness import evaluate

    begun = (folder / "manifest.json").is_file()
    try:
        return evaluate(
            contestant.model,
            task="stepgame",
            **stories,
            prompt="zero-shot",
            score=contestant.score,
            max_tokens=ANSWER_TOKENS,
            dtype=_writing_dtype() if contestant.score == "generate" else "auto",
            out=folder,
            overwrite=overwrite,
            resume=not overwrite,
        )
    except InputError as error:
        if overwrite or not begun:
            raise
        # The prompt, the model or the stories may have changed with the version since the demo was begun.
        raise InputError(f"{error}; for the demo: ask again with --overwrite, or choose another --out") from None


def _writing_dtype() -> str:
    """Return bfloat16 where the processor multiplies it in hardware (AMX), else the backend's own choice.

    Writing is several times faster in it there; without such hardware bfloat16 is the slower of the two. Options
    are never scored in it: its few digits make the best two equal in every tenth story or so, and a tie is no
    answer.
    """
    from harness.threads import wait_without_spinning

    # Before torch is loaded, or it would have no effect.
    wait_without_spinning()
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if capabilities.get("amx_bf16") else "auto"


def _require_libraries(contestants: Sequence[Contestant]) -> None:
    require("matplotlib", "report", "the demo's plot")
    if any(contestant.model == "smollm2" for contestant in contestants):
        require("torch", "hf", "the built-in model")
        require("transformers", "hf", "the built-in model")


def _terminal() -> Callable[[object], None]:
    from stepgame.terminal import PlainConsole

    console = PlainConsole()
    if not console.is_terminal:
        # A log has no width of its own; the default would cut the table.
        console.width = 120

    def show(what: object) -> None:
        for each in what.split("\n") if isinstance(what, str) else (what,):
            console.print(each, soft_wrap=isinstance(each, str))

    return show


def _show(out: Path, runs: Sequence[Run], names: Sequence[str], again: str, say: Callable[[object], None]) -> Demo:
    """Write board and plot, print the table and what to look at."""
    board = Board(out / "leaderboard.csv")
    for run in runs:
        board.put(check_publishable(run, allow_dirty=True), replace=False)
    board.write()
    plot = plot_accuracy(runs, out / "accuracy.png")
    say(accuracy_table(runs, names))
    chance = 100 * (runs[0].results or {})["chance"]
    first, last = (shlex.quote(str(runs[index].path)) for index in (0, -1))
    say(
        f"Chance is {chance:.1f}. What lies where:\n"
        f"  {board.path}  one row a run, with intervals, hashes and the command\n"
        f"  {plot}  accuracy over k\n"
        f"  {out / 'runs'}  every prompt, answer and judgement, in samples.jsonl\n"
        "What to try next:\n"
        f"  head -n 1 {last}/samples.jsonl\n"
        "  stepgame generate --hops 1-10 --per-hop 100 --noise --out stories\n"
        f"  stepgame run --model ORG/NAME {again} --score choice --out runs/mine\n"
        f"  stepgame publish runs/mine {first} --board mine.csv --allow-dirty"
    )
    return Demo(tuple(runs), board.path, plot)
