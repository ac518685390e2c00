"""The catalogue: tasks of the literature and suites of them as data, one TOML file a benchmark.

``README.md`` in the folder above describes the format.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from stepgame.errors import InputError, unknown_name

__all__ = ["SPLITS", "Suite", "TaskSpec", "load_suite", "load_suites", "load_task_spec", "load_task_specs"]

Kind = Literal["options", "number", "span"]

SPLITS = ("train", "validation", "test")

_FOLDER = Path(__file__).parent
_SUITES = "suites"


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task of the catalogue.

    Attributes:
        name: as ``--task`` takes it.
        about: what it asks, and who published it.
        metrics: keys of `harness.tasks.metrics.METRICS`, the one that papers report first.
        sizes: examples of training, validation and test.
        text: what the question is about, with ``{column}`` in the place of a column's value.
        question: likewise.
        kind: ``"options"``: the answer is one of several texts; ``"number"``: one of a scale; ``"span"``: words of the
            text.
        options: the answers, in the order of the labels' numbers; may name columns.
        labels: how data write the labels, in the same order, where they do not write numbers.
        file_labels: likewise in tables of files, where numbers there mean something else.
        unlabelled: labels of rows that nobody agreed on; they are left out.
        positive: the option that F1 is about.
        range: lowest and highest number of a scale, and its step.
        label: the column that holds the answer.
        dataset: id on the hub; empty where the data come from files only.
        subset: configuration of it.
        revision: branch, tag or commit of it.
        hub_splits: its splits that are not named as ours are.
        where: column and value of the rows that belong to the task.
        held_out: where a split that is missing comes from: ``"validation"`` is cut in halves, the second being the
            test; or validation is 1,000 rows of ``"training"`` and what was validation is the test.
        files: names of a split's files, where they are not the usual ones.
        columns: of tables without a header.
        rename: columns that files name otherwise.
    """

    name: str
    about: str
    metrics: tuple[str, ...]
    sizes: tuple[int, int, int]
    text: str
    question: str
    kind: Kind = "options"
    options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    file_labels: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    positive: str = ""
    range: tuple[float, float, float] | None = None
    label: str = "label"
    dataset: str = ""
    subset: str | None = None
    revision: str = "main"
    hub_splits: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    held_out: Literal["", "validation", "training"] = ""
    files: Mapping[str, list[str]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The data set as people name it."""
        if not self.dataset:
            return "files only"
        return self.dataset + (f" ({self.subset})" if self.subset else "")

    @property
    def scale(self) -> tuple[str, ...]:
        """The answers of a task of kind ``"number"``."""
        if self.range is None:
            return ()
        low, high, step = self.range
        return tuple(f"{low + place * step:.1f}" for place in range(round((high - low) / step) + 1))


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks that are reported together.

    Attributes:
        name: as ``--suite`` takes it.
        about: whose they are.
        tasks: their names.
        headline: the metric that is reported of a task, where it is not its first.
    """

    name: str
    about: str
    tasks: tuple[str, ...]
    headline: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_lm_eval(self) -> bool:
        """Whether its tasks are lm-eval's, which asks all of them in one run."""
        return all(task.startswith("lm-eval:") for task in self.tasks)

    def metric(self, task: str) -> str:
        """Return the metric that is reported of a task."""
        return self.headline.get(task) or load_task_spec(task).metrics[0]


@cache
def load_task_specs() -> Mapping[str, TaskSpec]:
    """Return all tasks of the catalogue by name, in the order of the files."""
    known = {each.name for each in fields(TaskSpec)}
    found = {}
    for path in sorted(_FOLDER.glob("*.toml")):
        if path.stem == _SUITES:
            continue
        for name, table in _read(path).items():
            if not table.keys() <= known:
                raise InputError(f"{path.name}, {name}: {unknown_name('key', min(table.keys() - known), known)}")
            found[name] = TaskSpec(name=name, **_frozen(table))
    return found


def load_task_spec(name: str) -> TaskSpec:
    """Return a task of the catalogue.

    Raises:
        InputError: if there is none of this name.
    """
    specs = load_task_specs()
    if name not in specs:
        raise unknown_name("task", name, specs)
    return specs[name]


@cache
def load_suites() -> Mapping[str, Suite]:
    """Return all suites by name."""
    tables = _read(_FOLDER / f"{_SUITES}.toml")
    return {name: Suite(name=name, **_frozen(table)) for name, table in tables.items()}


def load_suite(name: str) -> Suite:
    """Return a suite.

    Raises:
        InputError: if there is none of this name.
    """
    suites = load_suites()
    if name not in suites:
        raise unknown_name("suite", name, suites)
    return suites[name]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    with path.open("rb") as file:
        return tomllib.load(file)


def _frozen(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
