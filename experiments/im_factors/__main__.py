"""Measure the gain of IM over IT in held-out output loss against length ratio and number of examples.

``python -m experiments.im_factors --data lima=lima_data.jsonl --data alpaca=alpagasus_claude_t45_alpaca.jsonl`` trains
on each file and on StepGame, clean and noisy, whose instructions are long and whose answers are a word. It writes
``results/SCALE/``: ``gains.csv``, ``gains.png`` and ``setting.json``, and goes on where it was cut off. A gain is IT's
held-out loss minus IM's, each at the end of training. ``--scale paper`` only prints the commands.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.common import PROMPT, Planned, draw_lines, named_files, parse_experiment, write_rows, write_setting
from stepgame.errors import InputError


@dataclass(frozen=True)
class Scale:
    """One size of the experiment.

    Attributes:
        model: what is trained.
        counts: numbers of examples.
        held: examples held out; of StepGame, about as many over all k.
        epochs: passes over them.
        batch: examples of a step.
        max_tokens: where long ones of files are cut off; stories end in their answer, so none of them is.
        lr: learning rate.
        seeds: trainings of each kind.
    """

    model: str
    counts: tuple[int, ...]
    held: int
    epochs: int
    batch: int
    max_tokens: int
    lr: float
    seeds: int = 1


SCALES = {
    "quick": Scale("smollm2", (4, 8), 6, 1, 4, 192, 1e-4),
    "cpu": Scale("smollm2", (16, 64), 20, 2, 4, 128, 1e-4),
    "gpu": Scale("HuggingFaceTB/SmolLM2-1.7B", (100, 300, 800), 200, 3, 32, 1024, 2e-5, 3),
    "paper": Scale("meta-llama/Llama-2-7b-hf", (1000, 3000, 10_000, 35_000), 100, 2, 128, 2048, 2e-5),
}
STEPGAME = {"stepgame": {"noise": False}, "stepgame-noise": {"noise": True}}
HOPS = (1, 2, 3, 4, 5)


def plan(scale: Scale, data: dict[str, str]) -> list[tuple[str, int, int, dict[str, Planned]]]:
    """Return data set, number, seed, and the trainings by method."""
    shared = {
        "model": scale.model,
        "epochs": scale.epochs,
        "batch": scale.batch,
        "lr": scale.lr,
        "warmup": 0.03,
    }
    sources: dict[str, dict[str, Any]] = {
        # The AlpaGasus selection of Alpaca has an empty answer.
        name: {"data": file, "skip_bad": True, "validation": scale.held, "max_tokens": scale.max_tokens}
        for name, file in data.items()
    }
    stories = {
        "data": "stepgame",
        "prompt": PROMPT,
        "hops": f"1-{HOPS[-1]}",
        "validation": max(1, scale.held // len(HOPS)),
    }
    sources |= {name: {**stories, **more} for name, more in STEPGAME.items()}
    found = []
    for name, source in sources.items():
        for n in scale.counts:
            # One validation, at the end.
            steps = max(1, round(scale.epochs * -(-n // scale.batch)))
            for seed in range(scale.seeds):
                settings = {**shared, **source, "n": n, "seed": seed, "eval_every": steps}
                trainings = {
                    method: Planned(f"{name}-{n}-{method}-{seed}", method, settings) for method in ("it", "im")
                }
                found.append((name, n, seed, trainings))
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    options = parse_experiment("im_factors", __doc__, list(SCALES), words, files=True)
    scale = SCALES[options.scale]
    planned = plan(scale, named_files(options.data))
    if options.dry_run:
        for *_, trainings in planned:
            print(*(training.command(options.work, options.processes) for training in trainings.values()), sep="\n")
        return 0
    rows: list[dict[str, Any]] = []
    for name, n, seed, trainings in planned:
        losses, ratio = {}, math.nan
        for method, training in trainings.items():
            manifest, result = training.done(options.work)
            losses[method] = result["validation"][-1]["eval_loss"]
            ratio = manifest["data"]["length_ratio"]
        gain = losses["it"] - losses["im"]
        rows.append({"data": name, "length_ratio": ratio, "n": n, "seed": seed, **losses, "gain": gain})
    write_rows(options.results / "gains.csv", rows)
    by_ratio: dict[str, list[tuple[float, float]]] = {}
    by_count: dict[str, list[tuple[float, float]]] = {}
    for name, n in dict.fromkeys((row["data"], row["n"]) for row in rows):
        some = [row for row in rows if (row["data"], row["n"]) == (name, n)]
        gain = statistics.fmean(row["gain"] for row in some)
        by_ratio.setdefault(f"n = {n}", []).append((some[0]["length_ratio"], gain))
        by_count.setdefault(name, []).append((n, gain))
    panels = {"by instruction / output length": by_ratio, "by number of examples": by_count}
    axes = ("instruction tokens for each of the output", "examples")
    draw_lines(options.results / "gains.png", panels, axes, "IT's held-out loss minus IM's, nats")
    write_setting(options.results, scale)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
