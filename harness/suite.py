"""A suite: several tasks of the catalogue asked one after the other, and their figures together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.plan import make_plan
from harness.record import Run
from harness.run import LM_EVAL, perform
from harness.settings import RunSettings
from harness.tasks.catalogue import Suite, load_suite
from stepgame.errors import InputError
from stepgame.files import write_text

__all__ = ["SUITE_FILE", "SuiteRow", "mean_value", "perform_suite"]

SUITE_FILE = "suite.json"


@dataclass(frozen=True, slots=True)
class SuiteRow:
    """A task's figure.

    Attributes:
        task: its name.
        metric: what is reported of it.
        value: of the metric, in [-1, 1]; None where it is not defined.
        n: questions that were answered.
        errors: questions that got no answer.
        run: folder of the run, within the suite's.
    """

    task: str
    metric: str
    value: float | None
    n: int
    errors: int
    run: str


def perform_suite(settings: RunSettings, name: str, command: Sequence[str]) -> list[SuiteRow]:
    """Ask every task of a suite; each is a run of its own below ``out``.

    Args:
        settings: of every run. ``data`` is a folder with one for each task, named as the task is.
        name: of the suite.
        command: the command line, for the record.

    Returns:
        One row a task; they are written to ``suite.json`` too.

    Raises:
        InputError: if anything about a task is wrong; nothing has been asked then.
    """
    suite = load_suite(name)
    if settings.out is None:
        raise InputError("--out is missing; give the folder of the suite's runs")
    if suite.by_lm_eval:
        names = ",".join(task.removeprefix(LM_EVAL) for task in suite.tasks)
        return _lm_eval_rows(perform(replace(settings, task=LM_EVAL + names), None, command))
    out = Path(settings.out)
    runs = [_of_task(settings, suite, task, out) for task in suite.tasks]
    # Data and model of every task are looked at before the first question.
    for each in runs:
        make_plan(each, None, command)
    rows = [_row(suite, task, perform(each, None, command)) for task, each in zip(suite.tasks, runs, strict=True)]
    record = {"suite": suite.name, "mean": mean_value(rows), "tasks": [asdict(row) for row in rows]}
    write_text(out / SUITE_FILE, json.dumps(record, indent=2) + "\n")
    return rows


def mean_value(rows: Sequence[SuiteRow]) -> float | None:
    """Return the mean of the tasks' figures; None where one of them is not defined."""
    values = [row.value for row in rows if row.value is not None]
    return sum(values) / len(values) if values and len(values) == len(rows) else None


def _of_task(settings: RunSettings, suite: Suite, task: str, out: Path) -> RunSettings:
    files = settings.files
    if len(files) > 1:
        raise InputError(f"suite {suite.name!r} takes one folder by --data, got {len(files)}")
    data = _folder_of(Path(files[0]), task) if files else None
    return replace(settings, task=task, data=data, out=out / task.replace("/", "-"))


def _folder_of(root: Path, task: str) -> Path:
    """Return the folder of a task's data: ``SST-2`` is ``glue/sst2``'s."""
    if not root.is_dir():
        raise InputError(f"--data {str(root)!r} is no folder; a suite wants one with a folder for each task")
    wanted = _plain(task.rpartition("/")[2])
    found = next((path for path in sorted(root.iterdir()) if path.is_dir() and _plain(path.name) == wanted), None)
    if found is None:
        raise InputError(f"--data {str(root)!r} holds no folder for task {task!r}; expected {task.rpartition('/')[2]}/")
    return found


def _plain(name: str) -> str:
    return "".join(each for each in name.lower() if each.isalnum())


def _lm_eval_rows(run: Run) -> list[SuiteRow]:
    """Return lm-eval's figures of a suite of its tasks, which are one run."""
    metrics, n = (run.results or {})["metrics"], (run.results or {})["answered"]
    pairs = ((key.partition("/"), value) for key, value in metrics.items())
    return [SuiteRow(task, metric, value, n, 0, ".") for (task, _, metric), value in pairs]


def _row(suite: Suite, task: str, run: Run) -> SuiteRow:
    results = run.results or {}
    metric = suite.metric(task)
    value = results["metrics"][metric]
    return SuiteRow(task, metric, value, results["answered"], results["errors"], run.path.name)
