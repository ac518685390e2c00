"""Train PT, DePT and LoRA on clean stories of k = 1 to 5, and ask them noisy ones of k = 1 to 10 through vLLM.

``python -m experiments.dept_stepgame --scale cpu`` trains and asks, goes on where it was cut off, and writes
``results/SCALE/``: ``accuracy.csv``, ``accuracy.png`` and ``setting.json``. PT and DePT have the parameters of as many
rows; LoRA has its own number, which is in the table. ``--publish BOARD`` adds the runs to a leaderboard.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters import train
from adapters.dept.config import plan
from harness import Run, evaluate
from harness.provenance import git_state, hardware
from harness.record import load_run
from stepgame.errors import InputError
from stepgame.files import write_text

HERE = Path(__file__).resolve().parent
PROMPT = str(HERE / "prompt.toml")
REACH = 384
"""s: tokens of a prompt that have an offset; noisy stories of k = 10 have about as many."""


@dataclass(frozen=True)
class Scale:
    """One size of the experiment.

    Attributes:
        model: what is trained.
        n: training stories.
        steps: optimiser steps.
        batch: examples of one.
        rows: parameters of a soft prompt, as rows of a vanilla one.
        per_hop: stories asked of each k.
        seeds: trainings of each method.
        backend: engine that is asked.
    """

    model: str
    n: int
    steps: int
    batch: int
    rows: int
    per_hop: int
    seeds: int
    backend: str


SCALES = {
    "quick": Scale("smollm2", 64, 4, 8, 40, 2, 1, "hf"),
    "cpu": Scale("smollm2", 3000, 400, 8, 100, 200, 1, "vllm"),
    "gpu": Scale("smollm2", 50_000, 6000, 64, 100, 1000, 3, "vllm"),
}

METHODS = ("pt", "dept", "lora")
LR = {"pt": 5e-3, "dept": 5e-3, "lora": 2e-3}
"""Learning rates, chosen on validation stories with other seeds."""


def settings_of(method: str, scale: Scale, width: int) -> dict[str, Any]:
    """Return a method's own settings; PT and DePT have the same number of parameters."""
    if method == "pt":
        return {"prompt_length": scale.rows}
    if method == "dept":
        rows = 2 * scale.rows // 5
        _, rank = plan(scale.rows, REACH, width, prompt_length=rows)
        return {"prompt_length": rows, "rank": rank, "max_length": REACH}
    return {"lora_rank": 8}


def train_all(scale: Scale, folder: Path, width: int) -> dict[str, Path]:
    """Train what is not there yet; return the adapters by name."""
    found = {}
    for method in METHODS:
        for seed in range(scale.seeds):
            name = f"{method}-{seed}"
            out = folder / "adapters" / name
            found[name] = out
            if (out / "adapter.json").exists():
                continue
            train(
                method,
                model=scale.model,
                out=out,
                resume=(out / "training/manifest.json").exists(),
                hops="1-5",
                n=scale.n,
                steps=scale.steps,
                batch=scale.batch,
                prompt=PROMPT,
                lr=LR[method],
                seed=seed,
                validation=10,
                **settings_of(method, scale, width),
            )
    return found


def ask_all(scale: Scale, folder: Path, adapters: dict[str, Path]) -> dict[str, Run]:
    """Ask the base model in full words, and every adapter in the words that it was trained with."""
    stories: dict[str, Any] = {"hops": "1-10", "per_hop": scale.per_hop, "noise": True, "seed": 0}
    asked: dict[str, tuple[Path | None, str]] = {"zero-shot": (None, "zero-shot")}
    asked |= {name: (path, PROMPT) for name, path in adapters.items()}
    runs = {}
    for name, (adapter, prompt) in asked.items():
        out = folder / "runs" / name
        if (out / "results.json").exists():
            runs[name] = load_run(out)
            continue
        runs[name] = evaluate(
            scale.model,
            backend=scale.backend,
            adapter=adapter,
            prompt=prompt,
            out=out,
            resume=(out / "manifest.json").exists(),
            **stories,
        )
    return runs


def write_results(folder: Path, scale: Scale, runs: dict[str, Run], adapters: dict[str, Path]) -> None:
    """Write the table, the plot and how they were made."""
    from leaderboards.plots import plot_accuracy

    parameters = {
        name: json.loads((path / "training/result.json").read_text(encoding="utf-8"))["parameters"]
        for name, path in adapters.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "parameters", "k", "n", "accuracy", "low", "high"])
        for name, run in runs.items():
            for row in (run.results or {})["by_k"]:
                values = [f"{row[key]:.4f}" for key in ("accuracy", "low", "high")]
                writer.writerow([name, parameters.get(name, 0), row["k"], row["n"], *values])
    shown = [run for name, run in runs.items() if name == "zero-shot" or name.endswith("-0")]
    plot_accuracy(shown, folder / "accuracy.png", title="Trained on clean stories of k = 1 to 5, asked noisy ones")
    first = next(iter(runs.values())).manifest
    record = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "scale": asdict(scale),
        "git": git_state(),
        "hardware": hardware(first["hardware"]["gpu"]),
        "versions": first["versions"],
    }
    write_text(folder / "setting.json", json.dumps(record, indent=2) + "\n")


def embedding_size(model: str) -> int:
    """Return d without loading the weights."""
    from transformers import AutoConfig

    from harness.models.adapters import model_source
    from harness.models.registry import parse_model

    config: Any = AutoConfig.from_pretrained(model_source(parse_model(model))[0])
    return int(config.hidden_size)


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.dept_stepgame", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--scale", choices=list(SCALES), default="cpu", help="size of the experiment")
    parser.add_argument("--work", type=Path, help="where adapters and runs lie (default: work/ beside this file)")
    parser.add_argument("--publish", type=Path, help="leaderboard to add the runs to")
    options = parser.parse_args(words)
    scale = SCALES[options.scale]
    work = options.work or HERE / "work" / options.scale
    adapters = train_all(scale, work, embedding_size(scale.model))
    runs = ask_all(scale, work, adapters)
    write_results(HERE / "results" / options.scale, scale, runs, adapters)
    if options.publish:
        from leaderboards.board import publish

        publish([run.path for run in runs.values()], options.publish)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
