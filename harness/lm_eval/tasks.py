"""StepGame as tasks of lm-evaluation-harness: a folder of YAML files and stories for its ``--include_path``.

``stepgame_noise_k5`` and ``stepgame_clean_k5`` ask stories of one k, ``stepgame_noise`` and ``stepgame_clean`` are
groups of all of them with their mean. The folder needs nothing of this project to be used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.models.builtin import cache_root
from harness.models.chat import plain_text
from harness.prompts import load_prompt
from harness.tasks import make_task
from stepgame.files import atomic_folder
from stepgame.layout import GENERATOR_VERSION
from stepgame.relations import NAMES

__all__ = ["FORMAT", "write_tasks"]

FORMAT = 1
"""Version of the tasks, raised when they would ask otherwise; with the generator's it is lm-eval's task version."""

SPLITS = ("test", "train")


def write_tasks(out: str | Path | None, *, hops: Sequence[int], per_hop: int, seed: int) -> Path:
    """Write the tasks, unless the same ones are there.

    Args:
        out: the folder; one in the cache, named by what is in it, when omitted.
        hops: chain lengths.
        per_hop: stories of each, and as many training stories for examples in prompts.
        seed: of the stories.

    Returns:
        The folder.
    """
    prompt = load_prompt("zero-shot", "choice")
    recipe = {"format": FORMAT, "hops": list(hops), "per_hop": per_hop, "seed": seed, "prompt": prompt.sha256}
    recipe["generator"] = GENERATOR_VERSION
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_root() / f"lm-eval-tasks-{digest}" if out is None else Path(out).absolute()
    mark = folder / "stepgame.json"
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == recipe:
        return folder
    with atomic_folder(folder) as made:
        for kind in ("clean", "noise"):
            names = [_write_task(made, folder, kind, k, per_hop, seed) for k in hops]
            _write(made / f"stepgame_{kind}.yaml", _group(kind, names))
        _write(made / mark.name, recipe)
    return folder


def _write_task(made: Path, folder: Path, kind: str, k: int, per_hop: int, seed: int) -> str:
    """Write the stories of one k and the task that asks them; return its name."""
    name = f"stepgame_{kind}_k{k}"
    prompt = load_prompt("zero-shot", "choice")
    for split in SPLITS:
        settings = {"hops": [k], "per_hop": per_hop, "noise": kind == "noise", "split": split, "seed": seed}
        rows = [
            {"id": each.id, "text": plain_text(prompt.render(each)), "label": NAMES.index(each.gold)}
            for each in make_task("stepgame", settings).examples
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (made / f"{name}_{split}.jsonl").write_text(lines, encoding="utf-8")
    _write(made / f"{name}.yaml", _task(name, folder))
    return name


def _task(name: str, folder: Path) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder / f"{name}_{split}.jsonl") for split in SPLITS}},
        "test_split": "test",
        "training_split": "train",
        "fewshot_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": list(NAMES),
        "doc_to_target": "label",
        "target_delimiter": " ",
        "metric_list": [
            {"metric": each, "aggregation": "mean", "higher_is_better": True} for each in ("acc", "acc_norm")
        ],
        "metadata": {"version": _version()},
    }


def _group(kind: str, names: Sequence[str]) -> dict[str, Any]:
    return {
        "group": f"stepgame_{kind}",
        "task": list(names),
        "aggregate_metric_list": [
            {"metric": each, "aggregation": "mean", "weight_by_size": False} for each in ("acc", "acc_norm")
        ],
        "metadata": {"version": _version()},
    }


def _version() -> str:
    return f"{GENERATOR_VERSION}.{FORMAT}"


def _write(path: Path, record: dict[str, Any]) -> None:
    # JSON is YAML, and needs no library here.
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
