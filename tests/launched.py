"""Trainings one after the other in each process of a launch, which starts far more slowly than it learns."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from functools import partial
from typing import Any

from adapters import train, train_pcp
from adapters import training as training_path
from adapters.processes import is_first, wait


def stop_at(step: int) -> None:
    """Cut off every training of this process behind a step, as Ctrl-C does."""
    begun = training_path.make_trainer

    def stopping(*args: Any, **named: Any) -> Any:
        trainer = begun(*args, **named)
        learn = trainer.training_step

        def learn_or_stop(*each: Any, **others: Any) -> Any:
            if trainer.state.global_step == step:
                raise KeyboardInterrupt
            return learn(*each, **others)

        trainer.training_step = learn_or_stop
        return trainer

    training_path.make_trainer = stopping


def main() -> None:
    """Do what the one argument says: objects of ``method``, ``settings`` and perhaps ``stop`` or ``copy``."""
    for each in json.loads(sys.argv[1]):
        real = training_path.make_trainer
        if "copy" in each and is_first():
            shutil.copytree(each["copy"], each["settings"]["out"])
        if "copy" in each:
            wait()
        if "stop" in each:
            stop_at(each["stop"])
        learn = train_pcp if each["method"] == "pcp" else partial(train, each["method"])
        with suppress(KeyboardInterrupt):
            learn(**each["settings"])
            assert "stop" not in each
        training_path.make_trainer = real


if __name__ == "__main__":
    main()
