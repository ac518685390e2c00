"""Pre-train on raw pairs with different separators, and on pairs of different likeness, and fine-tune from there.

``python -m experiments.tapt_pairs --data kshot=FOLDER --data text=FILE`` writes ``results/SCALE/``:
``accuracy.csv`` (a row a task, seed and variant), ``summary.csv`` (mean and spread, and the difference to no
pre-training in pairs) and ``setting.json``. It goes on where it was cut off. ``--quick`` needs no data, and ``--scale
paper`` only prints the commands.

Variants: no pre-training; the model's own separator, a blank, a line, and texts apart; and with the model's own
separator only the half of the pairs that are most alike (by the share of words in common), or least.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

from experiments.common import Planned, named_files, parse_experiment, write_rows, write_setting
from experiments.few_shot import (
    FOLDERS,
    SENTENCES,
    FewShot,
    Scale,
    base_model,
    few_shot_data,
    measure,
    paired,
    scales,
    spread,
)
from stepgame.errors import InputError

TASKS = ("mrpc", "rte")
SCALES = scales(TASKS, cpu_seeds=(13, 21))
NONE = "none"
SEPARATORS = ("model", "blank", "line", "apart")
LIKENESS = ("alike", "unlike")


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    options = parse_experiment("tapt_pairs", __doc__, list(SCALES), words, files=True)
    scale: Scale = SCALES[options.scale]
    files = {} if scale.tasks == (SENTENCES,) else named_files(options.data)
    variants = [NONE, *(SEPARATORS[1:3] if not files else (*SEPARATORS, *LIKENESS))]
    model = base_model(options, scale, files)
    rows: list[dict[str, Any]] = []
    for task in scale.tasks:
        for seed in scale.seeds:
            for variant in variants:
                data = _data(options, scale, files, task, seed, variant)
                more: dict[str, Any] = {"method": "ft"} if variant == NONE else {"method": "tapt", "head": "cls"}
                if variant in SEPARATORS:
                    more["pair_separator"] = variant
                settings = {**scale.settings(seed, model), **data.settings(), **more}
                training = Planned(f"{task}-{seed}-{variant}", "pcp", settings)
                if options.dry_run:
                    print(training.command(options.work))
                    continue
                accuracy = measure(training, options.work)["test_accuracy"]
                rows.append({"task": task, "seed": seed, "variant": variant, "accuracy": accuracy})
    if options.dry_run:
        return 0
    write_rows(options.results / "accuracy.csv", rows)
    write_rows(options.results / "summary.csv", summary(rows, scale.tasks, variants))
    write_setting(options.results, scale)
    return 0


def overlap(texts: Sequence[str]) -> float:
    """Return how alike the texts of a pair are: words in common as a share of all their words (Jaccard 1901)."""
    one, other = (set(text.lower().split()) for text in texts)
    return len(one & other) / len(one | other)


def summary(rows: Sequence[dict[str, Any]], tasks: Sequence[str], variants: Sequence[str]) -> list[dict[str, Any]]:
    """Return mean, spread and the paired difference to no pre-training, by task and variant, and over all tasks."""
    found = []
    for task in [*tasks, *(["all"] if len(tasks) > 1 else [])]:
        own = {
            variant: [row["accuracy"] for row in rows if task in (row["task"], "all") and row["variant"] == variant]
            for variant in variants
        }
        for variant, values in own.items():
            centre, deviation = spread(values)
            line = {"task": task, "variant": variant, "runs": len(values), "mean": centre, "sd": deviation}
            found.append({**line, **paired(values, own[NONE])})
    return found


def _data(options: Any, scale: Scale, files: dict[str, str], task: str, seed: int, variant: str) -> FewShot:
    """Write the files of a variant: all pairs, or the half that is most or least alike."""
    folder = options.work / "data"
    if variant not in LIKENESS:
        return few_shot_data(folder, scale, files, task, seed, dry_run=options.dry_run)
    from adapters.pcp.readers import read_texts
    from adapters.pcp.tasks import load_task

    source = f"{files['kshot']}/{FOLDERS[task]}/unlabelled.json"
    middle = 0.0
    if not options.dry_run:
        middle = median(overlap(each.texts) for each in read_texts(source, load_task(task), labelled=False))

    def fits(texts: Sequence[str]) -> bool:
        return (overlap(texts) >= middle) == (variant == "alike")

    return few_shot_data(folder / variant, scale, files, task, seed, fits, dry_run=options.dry_run)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
