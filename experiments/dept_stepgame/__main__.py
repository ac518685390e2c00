"""Train LoRA, DePT and PT on clean stories of few hops, and ask them noisy ones of k = 1 to 10 through vLLM.

``python -m experiments.dept_stepgame --scale cpu`` trains and asks, goes on where it was cut off, and writes
``results/SCALE/``: ``accuracy.csv`` (a row a run and k), ``tests.csv`` (each against zero-shot by k, in pairs),
``accuracy.png`` and ``setting.json``. PT and DePT have the parameters of as many rows; LoRA has its own number, which
is in the table. ``stepgame publish`` adds the runs under the work folder to a leaderboard.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.dept.config import plan
from experiments.common import PROMPT, Planned, ask, parse_experiment, write_rows, write_setting
from harness import Run
from harness.compare import compare
from stepgame.errors import InputError

REACH = 384
"""s: tokens of a prompt that have an offset; noisy stories of k = 10 have about as many."""


@dataclass(frozen=True)
class Scale:
    """One size of the experiment.

    Attributes:
        model: what is trained.
        hops: k of the training stories.
        n: training stories.
        steps: optimiser steps.
        batch: examples of one.
        micro_tokens: that go through the model at once; small on a CPU, where it saves padding.
        validation: stories of each k that choose the best step.
        rows: parameters of a soft prompt, as rows of a vanilla one.
        per_hop: stories asked of each k.
        seeds: trainings of each method.
        backend: engine that is asked.
    """

    model: str
    hops: str
    n: int
    steps: int
    batch: int
    micro_tokens: int
    validation: int
    rows: int
    per_hop: int
    seeds: int
    backend: str


SCALES = {
    "quick": Scale("smollm2", "1-5", 64, 4, 8, 512, 10, 40, 2, 1, "hf"),
    "cpu": Scale("smollm2", "1-2", 2560, 160, 16, 512, 20, 40, 200, 1, "vllm"),
    "gpu": Scale("smollm2", "1-5", 50_000, 6000, 64, 16_384, 100, 100, 1000, 3, "vllm"),
}

METHODS = ("lora", "dept", "pt")
LR = {"pt": 1e-2, "dept": 1e-2, "lora": 1e-3}
"""Learning rates. LoRA at 2e-3 and k = 1 to 5 learnt the form of answers only; these two began to learn k = 1 within 60
steps. Nothing else was searched."""


def plan_trainings(scale: Scale) -> list[Planned]:
    """Return every training; PT and DePT have the same number of parameters."""
    rows = 2 * scale.rows // 5
    _, rank = plan(scale.rows, REACH, embedding_size(scale.model), prompt_length=rows)
    own: dict[str, dict[str, Any]] = {
        "lora": {"lora_rank": 8},
        "dept": {"prompt_length": rows, "rank": rank, "max_length": REACH},
        "pt": {"prompt_length": scale.rows},
    }
    shared = {
        "model": scale.model,
        "hops": scale.hops,
        "n": scale.n,
        "steps": scale.steps,
        "batch": scale.batch,
        "micro_tokens": scale.micro_tokens,
        "prompt": PROMPT,
        "validation": scale.validation,
        "eval_every": max(1, scale.steps // 2),
    }
    return [
        Planned(f"{method}-{seed}", method, {**shared, **own[method], "lr": LR[method], "seed": seed})
        for seed in range(scale.seeds)
        for method in METHODS
    ]


def embedding_size(model: str) -> int:
    """Return d without loading the weights."""
    from transformers import AutoConfig

    from harness.models.adapters import model_source
    from harness.models.registry import parse_model

    config: Any = AutoConfig.from_pretrained(model_source(parse_model(model))[0])
    return int(config.hidden_size)


def write_results(folder: Path, scale: Scale, runs: dict[str, Run], parameters: dict[str, int]) -> None:
    """Write the tables, the plot and how they were made."""
    from leaderboards.plots import plot_accuracy

    rows: list[dict[str, Any]] = []
    for name, run in runs.items():
        for row in (run.results or {})["by_k"]:
            values = {key: float(row[key]) for key in ("accuracy", "low", "high")}
            rows.append({"run": name, "parameters": parameters.get(name, 0), "k": row["k"], "n": row["n"], **values})
    write_rows(folder / "accuracy.csv", rows)
    tests: list[dict[str, Any]] = []
    for name in parameters:
        pair = compare([runs["zero-shot"], runs[name]]).pairs[0]
        tests += [
            {"run": name, "k": "all" if each.k is None else each.k, "n": each.n, "zero_shot": each.first}
            | {"trained": each.second, "difference": each.difference, "low": each.low, "high": each.high}
            | {"p": each.p, "p_holm": each.p_holm}
            for each in (pair.overall, *pair.by_k)
        ]
    write_rows(folder / "tests.csv", tests)
    shown = [run for name, run in runs.items() if name == "zero-shot" or name.endswith("-0")]
    plot_accuracy(
        shown, folder / "accuracy.png", title=f"Trained on clean stories of k = {scale.hops}, asked noisy ones"
    )
    write_setting(folder, scale)


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    options = parse_experiment("dept_stepgame", __doc__, list(SCALES), words, files=False)
    scale, work = SCALES[options.scale], options.work
    planned = plan_trainings(scale)
    if options.dry_run:
        print(*(training.command(work) for training in planned), sep="\n")
        return 0
    # The base model is asked in full words, and every adapter in the words that it was trained with.
    runs = {"zero-shot": ask(work / "runs/zero-shot", scale.model, scale.backend, None, scale.per_hop)}
    parameters: dict[str, int] = {}
    for training in planned:
        name = training.name
        parameters[name] = int(training.done(work)[1]["parameters"])
        folder = work / "runs" / name
        runs[name] = ask(folder, scale.model, scale.backend, work / name, scale.per_hop, prompt=PROMPT)
    # Only now: files of the repository that no commit holds would mark the runs after them as dirty.
    write_results(options.results, scale, runs, parameters)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
