"""The tasks: a table from a task's name to the class that holds it, the catalogue, and others' tasks by entry point.

``README.md`` beside this file shows how to write a task, in this folder or in a distribution of one's own.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness.plugins import find_plugin, plugin_names
from harness.task import Task
from harness.tasks.catalogue import load_task_specs
from stepgame.errors import InputError, unknown_name

__all__ = ["FILE_TASKS", "GROUP", "TASKS", "known_tasks", "make_task", "task_of_file"]

TASKS: dict[str, str] = {
    "stepgame": "harness.tasks.stepgame:StepGame",
    "stepgame-variant": "harness.variants:StepGameVariant",
    "jsonl": "harness.tasks.files:JsonLines",
    "babi": "harness.tasks.files:Babi",
}

FILE_TASKS = ("jsonl", "babi")
"""Those that only ask files."""

GROUP = "stepgame.tasks"
"""Entry points of this group are tasks too: the name is the task's, the object its class."""


def known_tasks() -> list[str]:
    """Return the names of the tasks that come with the harness or are installed beside it."""
    return sorted({*TASKS, *load_task_specs(), *plugin_names(GROUP)})


def make_task(name: str, parameters: Mapping[str, Any]) -> Task:
    """Build a task from its name and parameters, as a manifest records them.

    Args:
        name: one of `known_tasks`.
        parameters: keyword arguments of the task's class.

    Raises:
        InputError: if there is no such task, or a parameter is wrong.
    """
    if name in TASKS:
        module, _, attribute = TASKS[name].partition(":")
        cls = getattr(importlib.import_module(module), attribute)
    elif name in load_task_specs():
        from harness.tasks.labelled import LabelledTask

        cls = partial(LabelledTask, name)
    else:
        plugin = find_plugin(GROUP, name)
        if plugin is None:
            raise unknown_name("task", name, known_tasks())
        cls = plugin.load()
    try:
        inspect.signature(cls).bind(**parameters)
    except TypeError as error:
        raise InputError(f"task {name!r} does not take these settings: {error}") from None
    task: Task = cls(**parameters)
    return task


def task_of_file(path: str) -> str | None:
    """Return the name of the task that asks a file's questions; None if the text is not the path of a file.

    Raises:
        InputError: if it looks like a path and is no file, or the file is of neither kind.
    """
    file = Path(path)
    if file.parent.name in {name.partition("/")[0] for name in load_task_specs() if "/" in name} and not file.exists():
        raise unknown_name("task", path, known_tasks())
    looks = "/" in path or file.suffix in (".jsonl", ".json", ".txt")
    if not looks and not file.is_file():
        return None
    if not file.is_file():
        raise InputError(f"task file {path!r} does not exist")
    with file.open("rb") as content:
        start = content.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"{"):
        return "jsonl"
    if start[:1].isdigit():
        return "babi"
    raise InputError(
        f"task file {path!r}: expected JSON lines with question, options and answer, or numbered lines as in bAbI"
    )
