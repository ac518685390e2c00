"""Trainings that are cut off where a test wants them to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any


def cut_off(make_trainer: Callable[..., Any], step: int, name: str | None = None) -> Callable[..., Any]:
    """Return a maker of trainers that are interrupted behind a step, as Ctrl-C does.

    Args:
        make_trainer: `adapters.training.make_trainer`.
        step: that is done before.
        name: of the training; any when omitted.
    """

    def stopping(*args: Any, **named: Any) -> Any:
        trainer = make_trainer(*args, **named)
        if name is None or named["name"] == name:
            learn = trainer.training_step

            def learn_or_stop(*each: Any, **others: Any) -> Any:
                if trainer.state.global_step == step:
                    raise KeyboardInterrupt
                return learn(*each, **others)

            trainer.training_step = learn_or_stop
        return trainer

    return stopping


def counted(make_trainer: Callable[..., Any], steps: Counter[str]) -> Callable[..., Any]:
    """Return a maker of trainers whose steps are counted by name.

    Args:
        make_trainer: `adapters.training.make_trainer`.
        steps: what is counted in.
    """

    def counting(*args: Any, **named: Any) -> Any:
        trainer = make_trainer(*args, **named)
        learn = trainer.training_step

        def learn_and_count(*each: Any, **others: Any) -> Any:
            steps[named["name"]] += 1
            return learn(*each, **others)

        trainer.training_step = learn_and_count
        return trainer

    return counting
