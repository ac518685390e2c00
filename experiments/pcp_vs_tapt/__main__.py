"""Learn few-shot tasks by five methods, and compare them in pairs over tasks and seeds.

``python -m experiments.pcp_vs_tapt --data kshot=FOLDER --data text=FILE`` writes ``results/SCALE/``:
``accuracy.csv`` (a row a task, seed and method), ``summary.csv`` (mean and spread), ``paired.csv`` (PCP minus each
other method, over all tasks and seeds, with interval and p-value) and ``setting.json``. It goes on where it was cut
off. ``--quick`` needs no data, and ``--scale paper`` only prints the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from experiments.common import Planned, named_files, parse_experiment, write_rows, write_setting
from experiments.few_shot import SENTENCES, Scale, base_model, few_shot_data, figures, measure, paired, scales, spread
from stepgame.errors import InputError

TASKS = ("sst2", "subj", "trec", "mrpc", "rte")
SCALES = scales(TASKS)
METHODS: dict[str, dict[str, Any]] = {
    "FT": {"method": "ft"},
    "prompt FT": {"method": "prompt-ft"},
    "TAPT + FT": {"method": "tapt", "head": "cls"},
    "TAPT + prompt FT": {"method": "tapt"},
    "PCP": {"method": "pcp"},
    "self-training": {"method": "self-training"},
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    options = parse_experiment("pcp_vs_tapt", __doc__, list(SCALES), words, files=True)
    scale: Scale = SCALES[options.scale]
    files = {} if scale.tasks == (SENTENCES,) else named_files(options.data)
    model = base_model(options, scale, files)
    rows: list[dict[str, Any]] = []
    for task in scale.tasks:
        for seed in scale.seeds:
            data = few_shot_data(options.work / "data", scale, files, task, seed, dry_run=options.dry_run)
            for name, more in METHODS.items():
                slug = name.lower().replace(" ", "-").replace("-+-", "-")
                settings = {**scale.settings(seed, model), **data.settings(), **more}
                training = Planned(f"{task}-{seed}-{slug}", "pcp", settings)
                if options.dry_run:
                    print(training.command(options.work))
                    continue
                result = measure(training, options.work)
                rows.append(
                    {
                        "task": task,
                        "seed": seed,
                        "method": name,
                        **figures(result),
                        "training_seconds": result["training_seconds"],
                        "seconds": "" if result["seconds"] is None else result["seconds"],
                    }
                )
    if options.dry_run:
        return 0
    write_rows(options.results / "accuracy.csv", rows)
    write_rows(options.results / "summary.csv", summary(rows, scale.tasks))
    write_rows(options.results / "paired.csv", against(rows, "PCP"))
    write_setting(options.results, scale)
    return 0


def summary(rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over seeds, by task and method; and over all tasks."""
    found = []
    for task in [*tasks, "all"]:
        for name in METHODS:
            own = [row["accuracy"] for row in rows if row["method"] == name and task in (row["task"], "all")]
            centre, deviation = spread(own)
            found.append({"task": task, "method": name, "runs": len(own), "mean": centre, "sd": deviation})
    return found


def against(rows: Sequence[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """Return one method minus each other one, in pairs over tasks and seeds."""
    by_method = {name: [row["accuracy"] for row in rows if row["method"] == name] for name in METHODS}
    others = [name for name in METHODS if name != method]
    return [
        {"method": method, "minus": name, "pairs": len(by_method[name]), **paired(by_method[method], by_method[name])}
        for name in others
    ]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
