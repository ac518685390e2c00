"""The harness's verbs on the command line: ``run``, ``resume``, ``rescore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.record import Run
from stepgame.errors import InputError

__all__ = ["rescore", "resume", "run"]

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]


def run(  # noqa: PLR0913, PLR0917  (a flag is a parameter)
    model: Annotated[
        str,
        typer.Option(
            help="smollm2, oracle, random, majority, a folder, or ORG/NAME on the hub; the last two with @REVISION.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to write.", show_default=False)],
    backend: Annotated[str | None, typer.Option(help="Engine: hf. [default: hf]")] = None,
    hops: Annotated[str | None, typer.Option(help="Chain lengths: 3, 1-10, 1-3,7. [default: 1-10]")] = None,
    per_hop: Annotated[int | None, typer.Option(help="Stories of each length. [default: 100]")] = None,
    noise: Annotated[
        bool | None, typer.Option("--noise/--clean", help="With distracting sentences or without. [default: clean]")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="official or exact. [default: official]")] = None,
    bank: Annotated[str | None, typer.Option(help="Phrase bank: name or TOML file. [default: core]")] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test. [default: test]")] = None,
    seed: Annotated[int, typer.Option(help="Of the stories, of sampling and of random models.")] = 0,
    data: Annotated[list[Path] | None, typer.Option(help="Ask the stories of a file instead; may be repeated.")] = None,
    prompt: Annotated[str, typer.Option(help="A prompt's name, or a TOML file.")] = "zero-shot",
    score: Annotated[
        str, typer.Option(help="choice (compare the options' log-likelihoods) or generate (read a text).")
    ] = "choice",
    dtype: Annotated[
        str, typer.Option(help="auto (float32 on CPU, bfloat16 on CUDA), float32, bfloat16, float16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    batch_tokens: Annotated[
        int | None, typer.Option(help="Bound on a batch's padded tokens. [default: the backend's]")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest generated text, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus mass when temperature is above 0.")] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Put this run in the place of the one there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run there.")] = False,
) -> None:
    """Ask a model, record every answer, judge it."""
    from harness.run import evaluate

    stories = {"hops": hops, "per_hop": per_hop, "noise": noise, "protocol": protocol, "bank": bank, "split": split}
    given: dict[str, Any] = {name: value for name, value in stories.items() if value is not None}
    if data and given:
        flag = next(iter(given)).replace("_", "-")
        raise InputError(f"--data and --{flag} exclude each other: a file's stories are asked as they are")
    done = evaluate(
        model,
        **given,
        out=out,
        seed=seed,
        data=data or None,
        prompt=prompt,
        score=score,
        backend=backend,
        dtype=dtype,
        device=device,
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        overwrite=overwrite,
        resume=resume,
    )
    _show(done)


def resume(path: RunArgument) -> None:
    """Go on with a run that was cut off: ask what is missing, and again what ended in an error."""
    from harness.run import resume

    _show(resume(path))


def rescore(path: RunArgument) -> None:
    """Judge a run's recorded answers again, without the model."""
    from harness.run import rescore

    _show(rescore(path))


def _show(run: Run) -> None:
    """Print accuracies by k and where the run lies."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
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
            str(row["unparsed"]),
            str(row["errors"]),
        )
    table.add_section()
    mean = _percent(results["mean_accuracy"])
    table.add_row("mean", str(results["n"]), mean, "", str(results["unparsed"]), str(results["errors"]))
    console.print(table)
    rate = results["examples_per_second"]
    console.print(
        f"chance {results['chance']:.1%}, {results['seconds']:.1f} s"
        + ("" if rate is None else f", {rate:.1f} stories a second")
    )
    console.print(f"run: {run.path}", soft_wrap=True)
    if results["errors"]:
        console.print(
            f"{results['errors']} stories got no answer; ask them again with: stepgame resume {run.path}",
            soft_wrap=True,
        )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
