"""Learn one task with templates of rising complexity, and with wrong ones.

``python -m experiments.pcp_templates --data kshot=FOLDER --data text=FILE`` writes ``results/SCALE/``:
``accuracy.csv`` (a row a template, seed and method), ``summary.csv`` (mean and spread, and PCP minus prompt-based
fine-tuning in pairs) and ``setting.json``. It goes on where it was cut off. ``--quick`` needs no data, and ``--scale
paper`` only prints the commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common import Planned, named_files, parse_experiment, write_rows, write_setting
from experiments.few_shot import SENTENCES, Scale, base_model, few_shot_data, figures, measure, paired, scales, spread
from stepgame.errors import InputError

SCALES = scales(("sst2",))
WORDS = {"terrible": ["0"], "great": ["1"]}
OPINIONS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "bare": ("{a} [MASK]", WORDS),
    "short": ("{a} Overall it was [MASK].", WORDS),
    "long": ("A critic wrote: {a} All in all the critic thought that the film was [MASK].", WORDS),
    "unrelated": ("{a} The train to the coast was [MASK].", WORDS),
    "swapped words": ("{a} Overall it was [MASK].", {"great": ["0"], "terrible": ["1"]}),
    "strange words": ("{a} Overall it was [MASK].", {"seven": ["0"], "paper": ["1"]}),
}
SIDES = {name: [name] for name in ("left", "right", "above", "below")}
SENTENCE_TEMPLATES = {
    "bare": ("{a} {b} [MASK]", SIDES),
    "swapped words": (
        "{a} {b} It is [MASK]",
        {word: [label] for word, label in zip(SIDES, reversed(SIDES), strict=True)},
    ),
}
METHODS = {"prompt FT": "prompt-ft", "PCP": "pcp"}


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    options = parse_experiment("pcp_templates", __doc__, list(SCALES), words, files=True)
    scale: Scale = SCALES[options.scale]
    quick = scale.tasks == (SENTENCES,)
    files = {} if quick else named_files(options.data)
    templates = SENTENCE_TEMPLATES if quick else OPINIONS
    model = base_model(options, scale, files)
    rows: list[dict[str, Any]] = []
    for seed in scale.seeds:
        task = scale.tasks[0]
        data = few_shot_data(options.work / "data", scale, files, task, seed, dry_run=options.dry_run)
        for name, (template, meanings) in templates.items():
            file = options.work / f"{name.replace(' ', '-')}.toml"
            # Where commands are only shown as well: they name it.
            write_task(file, template, meanings)
            for method, key in METHODS.items():
                settings = {**scale.settings(seed, model), **data.settings(), "task": file, "method": key}
                training = Planned(f"{file.stem}-{seed}-{key}", "pcp", settings)
                if options.dry_run:
                    print(training.command(options.work))
                    continue
                result = measure(training, options.work)
                rows.append({"template": name, "seed": seed, "method": method, **figures(result)})
    if options.dry_run:
        return 0
    write_rows(options.results / "accuracy.csv", rows)
    write_rows(options.results / "summary.csv", summary(rows, list(templates)))
    write_setting(options.results, scale)
    return 0


def summary(rows: Sequence[dict[str, Any]], templates: Sequence[str]) -> list[dict[str, Any]]:
    """Return by template the mean and spread of both methods, and their difference in pairs over seeds."""
    found = []
    for template in templates:
        own = {
            method: [row["accuracy"] for row in rows if row["template"] == template and row["method"] == method]
            for method in METHODS
        }
        line: dict[str, Any] = {"template": template, "runs": len(own["PCP"])}
        for method, values in own.items():
            line[f"{method}, mean"], line[f"{method}, sd"] = spread(values)
        found.append({**line, **paired(own["PCP"], own["prompt FT"])})
    return found


def write_task(path: Path, template: str, meanings: dict[str, list[str]]) -> None:
    """Write a task file; JSON's texts and lists are TOML's too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    causal = template[: template.index("[MASK]") + len("[MASK]")]
    lines = [f"cloze = {json.dumps(template)}", f"causal = {json.dumps(causal)}", "[words]"]
    path.write_text("\n".join([*lines, *(f"{word} = {json.dumps(each)}" for word, each in meanings.items())]) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
