"""Labelled and unlabelled texts from files and data sets: TSV, CSV, JSON, JSON lines and the ``datasets`` library."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adapters.data import HF, load_hub_rows
from adapters.pcp.tasks import ClozeTask
from harness.progress import say
from stepgame.errors import InputError

__all__ = ["Text", "find_split", "read_texts"]

ENDINGS = (".tsv", ".csv", ".json", ".jsonl", ".txt")
"""Kinds of files; of plain text, which has no labels, each line is a text."""
_PAIRS = (
    ("text_a", "text_b"),
    ("a", "b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("#1 String", "#2 String"),
    ("question", "sentence"),
)
_SINGLE = ("text_a", "a", "sentence", "sentence1", "text", "premise", "question1", "#1 String", "question", "content")
_LABEL = ("label", "Quality", "gold_label", "is_duplicate", "score", "answer")
"""Names of columns, as the public files of the tasks have them; the first that is there is taken."""
_SECOND = frozenset(second for _, second in _PAIRS) - {"sentence"}
"""Columns that only pairs have."""
_KNOWN = {name for names in (*_PAIRS, _SINGLE, _LABEL) for name in names}
_HEADERLESS = {2: {"label": "0", "a": "1"}, 3: {"label": "0", "a": "1", "b": "2"}}
"""Columns of files without a header, by their number."""

Row = tuple[str, Mapping[str, Any] | InputError]
"""Where something stands, and what stands there, or why it cannot be read."""


class Text(NamedTuple):
    """One text, or pair of texts.

    Attributes:
        id: unique within its file.
        texts: one, or two.
        label: its class; None where the file does not say, or must not.
    """

    id: str
    texts: tuple[str, ...]
    label: int | None

    @property
    def sha256(self) -> str:
        """Hash of what it says."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def without_label(self) -> Text:
        """Return it as something whose class is not known."""
        return self._replace(label=None)


def find_split(folder: Path, name: str) -> Path | None:
    """Return the file of a folder that holds a split, such as ``train.tsv``; None if there is none."""
    return next((folder / f"{name}{ending}" for ending in ENDINGS if (folder / f"{name}{ending}").is_file()), None)


def read_texts(
    source: str | Path, task: ClozeTask, *, labelled: bool, skip_bad: bool = False, split: str = "train"
) -> list[Text]:
    """Read the texts of a task.

    Args:
        source: a file, or ``hf-dataset:`` and a name as `adapters.data.load_hub_rows` takes it.
        task: says which columns, and what the labels mean.
        labelled: whether each text must have a label; without, a label that is there is read too, for measuring.
        skip_bad: leave out rows that cannot be read, and say how many, instead of stopping at the first.
        split: that is read of a data set that does not say which.

    Raises:
        InputError: naming file, row and field; or if there is nothing in it.
    """
    name = str(source)
    rows: Iterator[Row] = _hub(name.removeprefix(HF), split) if name.startswith(HF) else _file(Path(source))
    found: list[Text] = []
    bad: list[str] = []
    columns: dict[str, str] = {}
    for number, (where, row) in enumerate(rows):
        try:
            if isinstance(row, InputError):
                raise row
            columns = columns or _columns(where, row, task, labelled=labelled)
            found.append(_text(where, row, columns, task, f"{Path(name).stem}-{number}", labelled=labelled))
        except InputError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
    if bad:
        say(f"{len(bad)} of {len(bad) + len(found)} texts of {name} are left out by --skip-bad; first: {bad[0]}")
    if not found:
        raise InputError(f"{name} holds no texts" + (f" that can be read; first: {bad[0]}" if bad else ""))
    return found


def _columns(where: str, row: Mapping[str, Any], task: ClozeTask, *, labelled: bool) -> dict[str, str]:
    """Decide which columns hold what, from the first row."""
    # Numbers are for files without a header.
    given = {key: name for key, name in task.fields.items() if name in row or not name.isdecimal()}
    for key, name in given.items():
        if name not in row and (key != "label" or labelled):
            raise InputError(
                f"{where}: no field {name!r}, which the task {task.name!r} has {key} in (it has "
                f"{', '.join(map(repr, row))})"
            )
    wanted = ["a", *(["b"] if task.pair else []), "label"]
    pair = next((pair for pair in _PAIRS if pair[0] in row and pair[1] in row), ())
    single = [name for name in _SINGLE if name in row]
    guessed = dict(zip("ab", pair if task.pair else single, strict=False))
    guessed |= dict(zip(["label"], (name for name in _LABEL if name in row), strict=False))
    guessed = {key: name for key, name in guessed.items() if name not in given.values()}
    plain = _HEADERLESS.get(len(row), {}) if "0" in row and not given else {}
    found = {key: name for key, name in (guessed | plain | given).items() if key in wanted and name in row}
    missing = [key for key in wanted if key not in found and (key != "label" or labelled)]
    if missing:
        what = {"a": "the text", "b": "the second text", "label": "the label"}[missing[0]]
        raise InputError(
            f"{where}: no field for {what} of the task {task.name!r} (it has {', '.join(map(repr, row))}); name it in "
            f'a task file, as in fields = {{ {missing[0]} = "..." }}'
        )
    return found


def _text(
    where: str, row: Mapping[str, Any], columns: Mapping[str, str], task: ClozeTask, name: str, *, labelled: bool
) -> Text:
    for column in columns.values():
        if column not in row:
            raise InputError(f"{where}: no field {column!r}, which the first row has")
    second = next((name for name in row if name in _SECOND and row[name]), None)
    if not task.pair and columns["a"] not in task.fields.values() and second is not None:
        raise InputError(f"{where}: it holds a second text in {second!r}, but the task {task.name!r} has one")
    texts = tuple(" ".join(str(row[columns[key]] or "").split()) for key in "ab" if key in columns)
    for key, text in zip("ab", texts, strict=False):
        if not text:
            raise InputError(f"{where}: the text in {columns[key]!r} is empty")
    value = row[columns["label"]] if "label" in columns else None
    if value is None and labelled:
        raise InputError(f"{where}: the label in {columns['label']!r} is empty")
    if not labelled and not task.knows(value):
        # Public data mark unknown labels in many ways; what is not learnt need not be understood.
        return Text(name, texts, None)
    return Text(name, texts, task.class_of(where, str(value).strip()))


def _file(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise InputError(f"{str(path)!r} does not exist; expected a file ({', '.join(ENDINGS)}) or {HF}ID")
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: unknown kind of file; expected {', '.join(ENDINGS)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if path.suffix == ".txt":
        lines = enumerate(text.split("\n"), 1)
        return ((f"{path}, line {number}", {"text": line}) for number, line in lines if line.strip())
    return _table(path, text) if path.suffix in (".tsv", ".csv") else _json(path, text)


def _table(path: Path, text: str) -> Iterator[Row]:
    lines = io.StringIO(text, newline="")
    tabs = path.suffix == ".tsv"
    # The module's own bound is below what whole documents have.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    # The tab-separated files of GLUE quote nothing, and hold single quotation marks.
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
    rows = (row for row in reader if row)
    first = next(rows, [])
    header = [each.strip() for each in first] if _KNOWN & {each.strip() for each in first} else None
    names = header or [str(place) for place in range(len(first))]
    for row in [] if header or not first else [first]:
        yield f"{path}, line 1", dict(zip(names, row, strict=True))
    for row in rows:
        where = f"{path}, line {reader.line_num}"
        if len(row) != len(names):
            yield where, InputError(f"{where}: {len(row)} columns, but the first line has {len(names)}")
        else:
            yield where, dict(zip(names, row, strict=True))


def _json(path: Path, text: str) -> Iterator[Row]:
    if path.suffix == ".json":
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON: {error}") from None
        named = data.items() if isinstance(data, dict) else enumerate(data if isinstance(data, list) else [data])
        for key, row in named:
            yield _object(f"{path}, entry {key}", row)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                yield where, InputError(f"{where}: not valid JSON: {error}")
            else:
                yield _object(where, row)


def _object(where: str, row: Any) -> Row:
    return where, row if isinstance(row, dict) else InputError(f"{where}: expected an object with a text and a label")


def _hub(name: str, split: str) -> Iterator[Row]:
    for number, row in enumerate(load_hub_rows(name, split)):
        yield f"{name}, row {number}", row
