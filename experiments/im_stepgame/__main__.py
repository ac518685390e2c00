"""Train IT and IM on n StepGame stories and compare their accuracy by k, on the same stories, in pairs.

``python -m experiments.im_stepgame --scale cpu`` writes ``results/SCALE/``: ``accuracy.csv`` (a row a run and k),
``tests.csv`` (IM minus IT by n, seed and k, with intervals and p-values), ``accuracy.png`` and ``setting.json``. It
goes on where it was cut off. ``--scale paper`` only prints the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.common import PROMPT, Planned, ask, draw_lines, parse_experiment, write_rows, write_setting
from harness.compare import compare
from stepgame.errors import InputError


@dataclass(frozen=True)
class Scale:
    """One size of the experiment.

    Attributes:
        model: what is trained.
        counts: numbers of clean training stories.
        hops: chain lengths of these.
        steps: optimiser steps at most; fewer where `epochs` passes are done before.
        epochs: passes over the stories at most.
        batch: stories of a step.
        lr: learning rate.
        per_hop: noisy stories asked of each k, 1 to 10.
        seeds: trainings of each kind.
        backend: engine that is asked.
    """

    model: str
    counts: tuple[int, ...]
    hops: str
    steps: int
    epochs: int
    batch: int
    lr: float
    per_hop: int
    seeds: int
    backend: str = "vllm"


SCALES = {
    "quick": Scale("smollm2", (16,), "1-5", 4, 1, 4, 1e-4, 2, 1, "hf"),
    "cpu": Scale("smollm2", (100, 1000), "1-2", 120, 3, 8, 1e-4, 30, 1),
    "gpu": Scale("HuggingFaceTB/SmolLM2-1.7B-Instruct", (100, 1000, 10_000), "1-5", 1000, 3, 64, 2e-5, 500, 3),
    "paper": Scale("meta-llama/Llama-2-7b-hf", (100, 1000, 10_000), "1-5", 1000, 2, 128, 2e-5, 1000, 3),
}


def plan(scale: Scale) -> list[tuple[int, int, dict[str, Planned]]]:
    """Return number, seed, and the trainings by method."""
    found = []
    for n in scale.counts:
        steps = min(scale.steps, scale.epochs * -(-n // scale.batch))
        for seed in range(scale.seeds):
            settings = {
                "model": scale.model,
                "data": "stepgame",
                "hops": scale.hops,
                "prompt": PROMPT,
                "n": n,
                "steps": steps,
                "batch": scale.batch,
                "lr": scale.lr,
                "warmup": 0.03,
                "validation": 5,
                "eval_every": max(1, steps // 3),
                "seed": seed,
            }
            found.append((n, seed, {each: Planned(f"{each}-{n}-{seed}", each, settings) for each in ("it", "im")}))
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    options = parse_experiment("im_stepgame", __doc__, list(SCALES), words, files=False)
    scale, work = SCALES[options.scale], options.work
    planned = plan(scale)
    if options.dry_run:
        for *_, trainings in planned:
            print(*(training.command(work, options.processes) for training in trainings.values()), sep="\n")
        return 0
    # The base model is asked in full words, and what was trained in the words that it was trained with.
    runs = {"base": (0, 0, ask(work / "runs/base", scale.model, scale.backend, None, scale.per_hop))}
    tests: list[dict[str, Any]] = []
    for n, seed, trainings in planned:
        for training in trainings.values():
            training.done(work)
            name = training.name
            run = ask(work / "runs" / name, scale.model, scale.backend, work / name, scale.per_hop, prompt=PROMPT)
            runs[name] = (n, seed, run)
        pair = compare([runs[trainings[each].name][2] for each in ("it", "im")]).pairs[0]
        tests += [
            {"n": n, "seed": seed, "k": "all" if each.k is None else each.k, "stories": each.n, "it": each.first}
            | {"im": each.second, "difference": each.difference, "low": each.low, "high": each.high}
            | {"p": each.p, "p_holm": each.p_holm}
            for each in (pair.overall, *pair.by_k)
        ]
    rows: list[dict[str, Any]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, (n, seed, run) in runs.items():
        for row in (run.results or {})["by_k"]:
            values = {key: float(row[key]) for key in ("accuracy", "low", "high")}
            rows.append({"run": name, "trained_on": n, "seed": seed, "k": row["k"], "n": row["n"], **values})
            if seed == 0:
                lines.setdefault(name, []).append((row["k"], values["accuracy"]))
    write_rows(options.results / "accuracy.csv", rows)
    write_rows(options.results / "tests.csv", tests)
    draw_lines(options.results / "accuracy.png", {"Asked noisy stories": lines}, "k", "accuracy")
    write_setting(options.results, scale)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
