"""What the experiments share: trainings that are planned, shown or done once, and results with how they were made."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import Run, evaluate
from harness.provenance import command_line, git_state, hardware, versions
from harness.record import load_run
from stepgame.errors import InputError
from stepgame.files import write_text

__all__ = ["PROMPT", "Planned", "ask", "draw_lines", "named_files", "parse_experiment", "write_rows", "write_setting"]

PROMPT = os.path.relpath(Path(__file__).resolve().parent / "bare.toml")
"""Story and question alone, for models that are trained on StepGame: small ones learn sooner from short prompts."""
PAPER, DEVICES = "paper", 8
"""The scale that is only ever shown, and the devices of one machine that its models are spread over."""
CODE = git_state()
"""State of the code as it was loaded: results that are written over committed ones are no change of it."""


@dataclass(frozen=True)
class Planned:
    """One training.

    Attributes:
        name: of its folder.
        method: as ``stepgame train`` calls it.
        settings: of the training, by name.
    """

    name: str
    method: str
    settings: Mapping[str, Any]

    def command(self, folder: Path, processes: int = 1) -> str:
        """Return the command line that does it.

        Args:
            folder: that the training's own lies in.
            processes: over which the model is spread, and the batch divided.
        """
        words, more = ["stepgame"], {"out": folder / self.name}
        if processes > 1:
            launch = f"accelerate launch --config_file adapters/launch/ddp.yaml --num_processes {processes}"
            words = [*launch.split(), "-m", "stepgame.cli"]
            more |= {"batch": self.settings["batch"] // processes, "shard": True}
        words += ["train", self.method]
        for key, value in {**self.settings, **more}.items():
            flag = "--" + key.replace("_", "-")
            if isinstance(value, bool) or value is None:
                words += [flag] if value else []
                continue
            for each in value if isinstance(value, tuple) else (value,):
                words += [flag, str(each)]
        return shlex.join(words)

    def done(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train unless that was done before; go on where it was cut off; return manifest and result."""
        from adapters import train, train_pcp

        out = folder / self.name
        if not (out / "adapter.json").exists():
            given = {**self.settings, "out": out, "resume": (out / "training/manifest.json").exists()}
            if self.method == "pcp":
                train_pcp(**given)
            else:
                train(self.method, **given)
        manifest, result = (
            json.loads((out / "training" / name).read_text(encoding="utf-8"))
            for name in ("manifest.json", "result.json")
        )
        return manifest, result


def parse_experiment(
    name: str, doc: str | None, scales: Sequence[str], words: Sequence[str] | None, files: bool
) -> Any:
    """Read an experiment's command line.

    Args:
        name: of its package.
        doc: its docstring.
        scales: known sizes; ``quick`` is one of them.
        words: the command line; the process's own when omitted.
        files: whether it takes data files.

    Returns:
        With ``scale``, ``work``, ``results``, ``dry_run``, ``processes`` and, where asked for, ``data``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=(doc or "").split("\n")[0])
    parser.add_argument("--scale", choices=[each for each in scales if each != "quick"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="the smallest size, to see that everything works")
    parser.add_argument("--dry-run", action="store_true", help="print the trainings' commands and do nothing")
    parser.add_argument("--work", type=Path, help="where adapters and runs lie (default: work/ beside the experiment)")
    parser.add_argument("--results", type=Path, help="where the results go (default: results/ beside the experiment)")
    if files:
        parser.add_argument(
            "--data",
            action="append",
            default=[],
            metavar="NAME=FILE",
            help="conversations to train on, such as lima=lima_data.jsonl; may be repeated",
        )
    options = parser.parse_args(words)
    options.scale = "quick" if options.quick else options.scale
    options.dry_run = options.dry_run or options.scale == PAPER
    options.processes = DEVICES if options.scale == PAPER else 1
    # Relative where it can be: these paths stand in what a published row says of its run.
    here = Path(os.path.relpath(Path(__file__).resolve().parent)) / name
    options.work = options.work or here / "work" / options.scale
    options.results = options.results or here / "results" / options.scale
    return options


def ask(out: Path, model: str, backend: str, adapter: Path | None, per_hop: int, **settings: Any) -> Run:
    """Ask a model noisy stories of k = 1 to 10, unless that was done before; go on where it was cut off.

    Args:
        out: folder of the run.
        model: that is asked.
        backend: engine that it runs on.
        adapter: in front of it; None for the model alone.
        per_hop: stories of each k.
        settings: of the run beyond these.

    Raises:
        InputError: if some stories got no answer; they are asked again by the next start.
    """
    run = load_run(out) if (out / "results.json").exists() else None
    if run is None or not _whole(run):
        run = evaluate(
            model,
            backend=backend,
            adapter=adapter,
            hops="1-10",
            per_hop=per_hop,
            noise=True,
            seed=0,
            out=out,
            resume=(out / "manifest.json").exists(),
            **settings,
        )
    if not _whole(run):
        raise InputError(f"{out}: not every story was answered; start again to ask the others")
    return run


def _whole(run: Run) -> bool:
    return run.results is not None and not run.results["errors"]


def named_files(given: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=FILE`` words.

    Raises:
        InputError: if there is none, or one is of another form.
    """
    if not given:
        raise InputError("--data is missing; give the conversations to train on, as in --data lima=lima_data.jsonl")
    found = {}
    for word in given:
        name, mark, file = word.partition("=")
        if not mark or not name or not file:
            raise InputError(f"--data {word!r}: expected NAME=FILE, as in lima=lima_data.jsonl")
        found[name] = file
    return found


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV whose columns are the first row's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.5f}" if isinstance(value, float) else value for key, value in row.items()})


def write_setting(folder: Path, scale: Any) -> None:
    """Write how results were made: command, size, commit, hardware, versions."""
    import torch

    record = {
        "command": command_line(),
        "scale": asdict(scale),
        "git": CODE,
        "hardware": hardware(torch.cuda.get_device_name() if torch.cuda.is_available() else None),
        "versions": versions(),
    }
    write_text(folder / "setting.json", json.dumps(record, indent=2) + "\n")


def draw_lines(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], x: str | Sequence[str], y: str
) -> None:
    """Draw lines in panels side by side.

    Args:
        path: of the PNG.
        panels: by title, the lines by label; a label that ends in ``(held out)`` is drawn dashed, in the colour of the
            line before it.
        x: what the horizontal axis is; one for all panels, or one each.
        y: what the vertical one is.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(1.5 + 4.5 * len(panels), 4), squeeze=False, layout="constrained"
    )
    names = [x] * len(panels) if isinstance(x, str) else x
    for axis, name, (title, lines) in zip(axes[0], names, panels.items(), strict=True):
        colour = None
        for label, points in lines.items():
            dashed = label.endswith("(held out)")
            style = {"linestyle": "--", "color": colour} if dashed else {"linestyle": "-"}
            colour = axis.plot(*zip(*sorted(points), strict=True), marker="o", **style, markersize=4, label=label)[
                0
            ].get_color()
        axis.set(title=title, xlabel=name, ylabel=y)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
