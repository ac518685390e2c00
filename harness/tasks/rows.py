"""Rows of a catalogue's task: from files in a folder, or by the ``datasets`` library.

The splits are the papers': where a data set keeps its test labels to itself, small ones cut their validation split in
halves and large ones hold 1,000 training rows out (Mahabadi et al. 2021, whom DePT follows). Which rows those are is
decided by a hash of their number, so that every machine agrees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.tasks.catalogue import SPLITS, TaskSpec
from stepgame.errors import InputError, require, unknown_name

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Row", "hash_order", "load_rows"]

HELD_OUT = 1000
"""Rows of a large training split that are held out for validation."""

_ENDINGS = (".jsonl", ".parquet", ".tsv", ".csv")
_NAMES = {"train": ["train"], "validation": ["validation", "dev", "valid"], "test": ["test"]}


class Row(NamedTuple):
    """One row.

    Attributes:
        id: the split it stands in and its number there.
        where: its place, for messages.
        values: by column.
        table: whether it is from a table of a file, whose labels may have other numbers.
    """

    id: str
    where: str
    values: Mapping[str, Any]
    table: bool = False


Loader = Callable[[], list[Row]]


def load_rows(spec: TaskSpec, split: str, folder: str | Path | None) -> list[Row]:
    """Return the rows of a task's split.

    Args:
        spec: the task.
        split: one of `SPLITS`.
        folder: a folder with a file for each split, ``.tsv``, ``.csv``, ``.jsonl`` or ``.parquet``; None to ask the
            ``datasets`` library.

    Raises:
        InputError: if there is no such split, a file cannot be read, or the data set is not to be had.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    labelled = _on_hub(spec) if folder is None else _in_folder(spec, Path(folder))
    loaders = labelled if "test" in labelled else _as_published(spec, labelled)
    if split not in loaders:
        has = ", ".join(loaders) or "none"
        raise InputError(f"task {spec.name!r}: {folder or spec.source} has no {split} split; it has {has}")
    return loaders[split]()


def hash_order(names: Sequence[str], seed: int = 0) -> list[int]:
    """Return places of names in an order that depends on the names and the seed alone."""
    keys = [hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest() for name in names]
    return sorted(range(len(names)), key=keys.__getitem__)


def _as_published(spec: TaskSpec, labelled: Mapping[str, Loader]) -> dict[str, Loader]:
    """Make the splits of the papers of training and validation."""
    loaders = dict(labelled)
    if spec.held_out and "validation" in labelled:
        whole = labelled["validation"]
        if spec.held_out == "training":
            loaders["test"] = whole
            del loaders["validation"]
            if "train" in labelled:
                train = labelled["train"]
                loaders["validation"] = lambda: _drawn(train(), lambda rows: slice(HELD_OUT))
                loaders["train"] = lambda: _drawn(train(), lambda rows: slice(HELD_OUT, None))
        else:
            loaders["validation"] = lambda: _drawn(whole(), lambda rows: slice(len(rows) // 2))
            loaders["test"] = lambda: _drawn(whole(), lambda rows: slice(len(rows) // 2, None))
    return loaders


def _drawn(rows: list[Row], part: Callable[[list[Row]], slice]) -> list[Row]:
    """Return a part of the rows in their hash's order, in their own."""
    return [rows[place] for place in sorted(hash_order([row.id for row in rows])[part(rows)])]


def _on_hub(spec: TaskSpec) -> dict[str, Loader]:
    """Return what loads each split of the hub's data set that has labels."""
    if not spec.dataset:
        raise _no_data(spec, "no copy of it on the hub is known")
    names = {split: spec.hub_splits.get(split, split) for split in SPLITS}
    if spec.held_out:
        del names["test"]
    if not spec.sizes[1]:
        del names["validation"]
    return {split: lambda name=name: _hub_rows(spec, name) for split, name in names.items()}  # type: ignore[misc]


def _hub_rows(spec: TaskSpec, split: str) -> list[Row]:
    datasets: Any = require("datasets", "tasks", f"the data of task {spec.name!r}")
    # What its client says of every retry ends up in the one line of an error.
    logging: Any = require("huggingface_hub.utils.logging", "tasks", f"the data of task {spec.name!r}")
    logging.set_verbosity_error()
    try:
        found = datasets.load_dataset(spec.dataset, spec.subset, split=split, revision=spec.revision)
    # The library raises errors of its own, of requests, of pyarrow and plain ones for what cannot be had.
    except Exception as error:  # noqa: BLE001
        raise _no_data(spec, f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    rows = [Row(f"{split}-{number}", f"{spec.source}, {split} row {number}", row) for number, row in enumerate(found)]
    return _chosen(spec, rows)


def _no_data(spec: TaskSpec, reason: str) -> InputError:
    return InputError(
        f"task {spec.name!r} asks the data set {spec.source}, which is not to be had here ({reason}); give its files "
        "by --data DIR, a folder with train, validation and test as .tsv, .csv, .jsonl or .parquet"
    )


def _in_folder(spec: TaskSpec, folder: Path) -> dict[str, Loader]:
    """Return what loads each split that a folder has a file of."""
    if not folder.is_dir():
        raise InputError(
            f"--data {str(folder)!r} is no folder; task {spec.name!r} wants one with a file for each split"
        )
    loaders: dict[str, Loader] = {}
    for split in SPLITS:
        names = [*spec.files.get(split, ()), *_NAMES[split]]
        paths = [folder / f"{name}{ending}" for name in names for ending in _ENDINGS]
        found = next((path for path in paths if path.is_file()), None)
        if found is not None:
            loaders[split] = lambda path=found, split=split: _file_rows(spec, path, split)  # type: ignore[misc]
    if not loaders:
        raise InputError(
            f"--data {str(folder)!r}: no train, validation or test with the ending {', '.join(_ENDINGS)}; "
            f"task {spec.name!r} wants a file for each split"
        )
    return loaders


def _file_rows(spec: TaskSpec, path: Path, split: str) -> list[Row]:
    try:
        records, first = _records(spec, path)
    except (UnicodeDecodeError, ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    table = path.suffix in (".tsv", ".csv")
    renamed = [{spec.rename.get(key, key): value for key, value in record.items()} for record in records]
    rows = [
        Row(f"{split}-{number}", f"{path}, row {number + first}", record, table)
        for number, record in enumerate(renamed)
    ]
    return _chosen(spec, rows)


def _records(spec: TaskSpec, path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return a file's rows, and the number of the first for people."""
    if path.suffix == ".jsonl":
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        records = [json.loads(line) for line in lines]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("expected one JSON object a line")
        return records, 1
    import pandas as pd

    if path.suffix == ".parquet":
        return _of_frame(pd.read_parquet(path)), 1
    # The tables of GLUE quote nothing: a quotation mark is part of the text.
    form: Any = {"sep": "\t", "quoting": 3} if path.suffix == ".tsv" else {}
    header: Any = {"header": None, "names": list(spec.columns)} if spec.columns else {}
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", **form, **header)
    return _of_frame(frame), 1 if spec.columns else 2


def _of_frame(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def _chosen(spec: TaskSpec, rows: list[Row]) -> list[Row]:
    """Leave out rows of other tasks in the same data set, and those without a label."""
    return [
        row
        for row in rows
        if str(row.values.get(spec.label)) not in spec.unlabelled
        and all(str(row.values.get(column, value)) == value for column, value in spec.where.items())
    ]
