"""Train IT, IM and IM with weight 0.25 for several epochs, and follow the outputs' loss in training and held out.

``python -m experiments.im_overfitting --data lima=lima_data.jsonl --data dolly=alpagasus_3k_dolly.jsonl`` writes
``results/SCALE/``: ``losses.csv`` (a row an epoch), ``losses.png`` and ``setting.json``. It goes on where it was cut
off. ``--scale paper`` only prints the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.common import Planned, draw_lines, named_files, parse_experiment, write_rows, write_setting
from stepgame.errors import InputError


@dataclass(frozen=True)
class Scale:
    """One size of the experiment.

    Attributes:
        model: what is trained.
        n: examples, the first of each file behind those held out.
        held: examples held out.
        epochs: passes over them.
        batch: examples of a step.
        max_tokens: where long ones are cut off.
        lr: learning rate.
        seeds: trainings of each kind.
    """

    model: str
    n: int
    held: int
    epochs: int
    batch: int
    max_tokens: int
    lr: float
    seeds: int = 1


SCALES = {
    "quick": Scale("smollm2", 8, 8, 3, 4, 96, 1e-4),
    "cpu": Scale("smollm2", 24, 16, 4, 4, 128, 1e-4),
    "gpu": Scale("HuggingFaceTB/SmolLM2-1.7B", 800, 200, 5, 32, 1024, 2e-5, 3),
    "paper": Scale("meta-llama/Llama-2-7b-hf", 1000, 30, 2, 128, 2048, 2e-5),
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "IT": ("it", {}),
    "IM, w = 0.25": ("im", {"prompt_weight": 0.25}),
    "IM": ("im", {}),
}


def plan(scale: Scale, data: dict[str, str]) -> list[tuple[str, str, Planned]]:
    """Return data set, kind and training, one after the other."""
    steps_of_epoch = -(-scale.n // scale.batch)
    shared = {
        "model": scale.model,
        "n": scale.n,
        "validation": scale.held,
        "epochs": scale.epochs,
        "batch": scale.batch,
        "max_tokens": scale.max_tokens,
        "lr": scale.lr,
        "warmup": 0.03,
        "eval_every": steps_of_epoch,
    }
    return [
        (name, kind, Planned(f"{name}-{method}{more.get('prompt_weight', '')}-{seed}", method, settings))
        for name, file in data.items()
        for kind, (method, more) in KINDS.items()
        for seed in range(scale.seeds)
        for settings in [{**shared, "data": file, "seed": seed, **more}]
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    options = parse_experiment("im_overfitting", __doc__, list(SCALES), words, files=True)
    scale = SCALES[options.scale]
    planned = plan(scale, named_files(options.data))
    if options.dry_run:
        print(*(training.command(options.work, options.processes) for *_, training in planned), sep="\n")
        return 0
    rows: list[dict[str, Any]] = []
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, kind, training in planned:
        manifest, result = training.done(options.work)
        for entry in result["validation"]:
            epoch, seen, held = round(entry["epoch"], 3), entry["eval_train_loss"], entry["eval_loss"]
            ratio, seed = manifest["data"]["length_ratio"], manifest["settings"]["seed"]
            rows.append(
                {
                    "data": name,
                    "length_ratio": ratio,
                    "kind": kind,
                    "seed": seed,
                    "epoch": epoch,
                    "train": seen,
                    "held_out": held,
                }
            )
            if seed == 0:
                lines = panels.setdefault(f"{name} (ratio {ratio:.2f})", {})
                lines.setdefault(f"{kind}, training", []).append((epoch, seen))
                lines.setdefault(f"{kind} (held out)", []).append((epoch, held))
    write_rows(options.results / "losses.csv", rows)
    draw_lines(options.results / "losses.png", panels, "epoch", "loss over outputs, nats a token")
    write_setting(options.results, scale)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
