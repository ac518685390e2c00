"""Trainings one after the other in each process of a launch, which starts far more slowly than it learns."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from adapters import train, train_pcp
from adapters.processes import is_first, wait


def cut(whole: Path, out: Path, checkpoint: str) -> None:
    """Make of a finished training one that was cut off behind its last checkpoint but one."""
    shutil.copytree(whole, out)
    for name in ("adapter.json", "model.safetensors", "training/result.json"):
        (out / name).unlink()
    shutil.rmtree(out / "training/checkpoints" / checkpoint)


def main() -> None:
    """Do what the one argument says: a list of objects of ``method``, ``settings`` and perhaps ``cut``."""
    for each in json.loads(sys.argv[1]):
        out = Path(each["settings"]["out"])
        if "cut" in each and is_first():
            cut(Path(each["cut"]), out, "checkpoint-3")
        if "cut" in each:
            wait()
        if each["method"] == "pcp":
            train_pcp(**each["settings"])
        else:
            train(each["method"], **each["settings"])


if __name__ == "__main__":
    main()
