"""Trainings one after the other in each process of a launch, which starts far more slowly than it learns."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from functools import partial

from adapters import train, train_pcp
from adapters import training as training_path
from adapters.processes import is_first, wait
from tests.cut_off import cut_off


def main() -> None:
    """Do what the one argument says: objects of ``method``, ``settings`` and perhaps ``stop`` or ``copy``."""
    for each in json.loads(sys.argv[1]):
        real = training_path.make_trainer
        if "copy" in each and is_first():
            shutil.copytree(each["copy"], each["settings"]["out"])
        if "copy" in each:
            wait()
        if "stop" in each:
            training_path.make_trainer = cut_off(real, each["stop"])
        learn = train_pcp if each["method"] == "pcp" else partial(train, each["method"])
        with suppress(KeyboardInterrupt):
            learn(**each["settings"])
            assert "stop" not in each
        training_path.make_trainer = real


if __name__ == "__main__":
    main()
