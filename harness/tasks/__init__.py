"""The tasks: a table from a task's name to the module that holds it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from harness.task import Task
from stepgame.errors import unknown_name

__all__ = ["TASKS", "make_task"]

TASKS: dict[str, str] = {"stepgame": "harness.tasks.stepgame:StepGame"}


def make_task(name: str, parameters: Mapping[str, Any]) -> Task:
    """Build a task from its name and parameters, as a manifest records them.

    Args:
        name: one of `TASKS`.
        parameters: keyword arguments of the task's class.

    Raises:
        InputError: if there is no such task, or a parameter is wrong.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    module, _, cls = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), cls)(**parameters)
    return task
