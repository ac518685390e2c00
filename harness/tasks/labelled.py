"""A task of the catalogue: questions with one of several answers, on a scale, or with a span of a text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.extract import OPTION_EXTRACTION, extract_option
from harness.task import Example, Extraction
from harness.tasks.catalogue import TaskSpec, load_task_spec
from harness.tasks.files import hash_of_examples
from harness.tasks.metrics import METRICS, Answered, check_metrics, squad_exact
from harness.tasks.rows import Row, hash_order, load_rows
from stepgame.errors import InputError

__all__ = ["SPAN_EXTRACTION", "LabelledTask"]

SPAN_EXTRACTION = "span-1"
"""Name and version of the rule for spans."""

_COLUMN = re.compile(r"\{([A-Za-z0-9_]+)\}")
_CUE = re.compile(r"answer:", re.IGNORECASE)


class LabelledTask:
    """A task of the catalogue.

    Args:
        name: of the task.
        file: folder with its files; the ``datasets`` library is asked when omitted.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        limit: at most how many questions, drawn by the seed; None for all.
        seed: decides which.

    Raises:
        InputError: if the data are not to be had or are damaged; with the file, the row and the column.
        MissingExtraError: if the library of a metric is not installed.
    """

    generator_version = None

    def __init__(
        self,
        name: str,
        *,
        file: str | Path | Sequence[str | Path] | None = None,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self._spec = load_task_spec(name)
        check_metrics(self._spec.metrics)
        files = [] if file is None else [file] if isinstance(file, str | Path) else list(file)
        if len(files) > 1:
            raise InputError(f"task {name!r} takes one folder by --data, got {len(files)}")
        # Absolute, so that a run can be resumed from anywhere.
        self._folder = str(Path(files[0]).absolute()) if files else None
        self._seed = seed
        rows = load_rows(self._spec, split, self._folder)
        if not rows:
            raise InputError(f"task {name!r}: the {split} split holds no rows")
        self._accepted: dict[str, tuple[str, ...]] = {}
        self.examples: Sequence[Example] = self._drawn(self._examples(rows), limit)
        given = {"file": None if self._folder is None else [self._folder], "split": split, "limit": limit}
        self.parameters: Mapping[str, Any] = {
            key: value for key, value in {**given, "seed": seed or None}.items() if value is not None
        }

    @property
    def prompt(self) -> str:
        """The prompt that fits the kind of answer."""
        return "span" if self._spec.kind == "span" else "question"

    @property
    def extraction(self) -> str:
        """The rule that fits the kind of answer."""
        return SPAN_EXTRACTION if self._spec.kind == "span" else OPTION_EXTRACTION

    @cached_property
    def data_sha256(self) -> str:
        """Hash of the questions and their accepted answers, in order."""
        return hash_of_examples(self.examples, [self._accepted[each.id] for each in self.examples])

    def training(self, per_hop: int, hops: Sequence[int] | None = None) -> Sequence[Example]:
        """Return rows of the training split, drawn by the seed."""
        return self._drawn(self._examples(load_rows(self._spec, "train", self._folder)), per_hop)

    def extract(self, text: str, example: Example) -> Extraction:
        """Read the answer: an option, or the words behind the last "Answer:", else those of the first line.

        Words that SQuAD's normalisation makes the same as an accepted answer count as that answer.
        """
        if self._spec.kind != "span":
            return extract_option(text, example.options)
        *before, rest = _CUE.split(text)
        found = next((line.strip() for line in rest.splitlines() if line.strip()), "")
        if not found:
            return Extraction(None, None, "empty")
        if squad_exact(found, self._accepted[example.id]):
            found = example.gold
        return Extraction(found if before else None, found, "answer")

    def measure(self, lines: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
        """Return the task's metrics; see `harness.task.Measured`."""
        answered = [line for line in lines if line["error"] is None]
        if not answered:
            return dict.fromkeys(self._spec.metrics)
        golds = [self._accepted[line["id"]] for line in answered]
        given = Answered([line["prediction"] for line in answered], golds, self._spec.positive)
        values = {name: METRICS[name][1](given) for name in self._spec.metrics}
        return {name: None if math.isnan(value) else value for name, value in values.items()}

    def _drawn(self, examples: Sequence[Example], count: int | None) -> list[Example]:
        if count is None:
            return list(examples)
        order = hash_order([each.id for each in examples], self._seed)
        return [examples[place] for place in sorted(order[:count])]

    def _examples(self, rows: Sequence[Row]) -> list[Example]:
        return [self._example(row) for row in rows]

    def _example(self, row: Row) -> Example:
        spec = self._spec
        story, question = _filled(spec.text, row), _filled(spec.question, row)
        accepted, options = _answers(spec, row)
        example = Example(f"{spec.name}-{row.id}", (story,), question, options, accepted[0])
        self._accepted[example.id] = accepted
        return example


def _answers(spec: TaskSpec, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a row's accepted answers, the recorded one first, and its options."""
    if spec.kind == "span":
        found = row.values.get("answers")
        answers = tuple(str(each) for each in found) if found is not None and not isinstance(found, str) else ()
        if not answers:
            raise InputError(f"{row.where}: answers is {_short(found)}; expected a list of texts")
        return answers, ()
    value = _value(spec.label, row)
    if spec.range is not None:
        low, high, step = spec.range
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise InputError(f"{row.where}: {spec.label} is {_short(value)}; expected a number from {low} to {high}")
        # Rounded for the options, and as it is for the correlation.
        return (spec.scale[round((number - low) / step)], str(number)), spec.scale
    options = tuple(_filled(each, row) for each in spec.options)
    return (options[_place(spec, row, str(value))],), options


def _place(spec: TaskSpec, row: Row, label: str) -> int:
    """Return which option a label means."""
    if label in spec.labels:
        return spec.labels.index(label)
    place = int(label) if label.isascii() and label.isdigit() else -1
    if not 0 <= place < len(spec.options):
        known = ", ".join(spec.labels) or f"0 to {len(spec.options) - 1}"
        raise InputError(f"{row.where}: {spec.label} is {_short(label)}; expected one of {known}")
    return spec.labels.index(spec.file_labels[place]) if row.table and spec.file_labels else place


def _filled(text: str, row: Row) -> str:
    return _COLUMN.sub(lambda slot: str(_value(slot[1], row)), text).strip()


def _value(column: str, row: Row) -> Any:
    if column not in row.values:
        raise InputError(f"{row.where}: there is no column {column!r}; it has {', '.join(map(str, row.values))}")
    return row.values[column]


def _short(value: Any) -> str:
    return repr(value)[:80]
