"""Files of stories: the official JSON, JSON lines, CSV, bAbI text, Parquet, Arrow and `datasets`, in and out.

Reading goes by content, never by suffix. Parquet, Arrow, `datasets`, JSON lines and CSV keep every column; the
official JSON and bAbI text keep what they have room for, and the rest is filled in on reading.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from stepgame.errors import InputError, did_you_mean, require, unknown_name
from stepgame.files import atomic_folder, atomic_path
from stepgame.hops import MAX_HOPS, format_hops
from stepgame.relations import NAMES
from stepgame.stories import SCHEMA, Stories, are_texts, as_ours, is_text

__all__ = ["FORMATS", "load", "suffix_of", "write", "write_stream"]

Row = dict[str, Any]

_SUFFIXES = {
    "parquet": ".parquet",
    "jsonl": ".jsonl",
    "json": ".json",
    "babi": ".txt",
    "arrow": ".arrow",
    "csv": ".csv",
    "datasets": "",
}
FORMATS = tuple(_SUFFIXES)
"""The names that ``--format`` takes."""

_ASKED = ("story", "question", "label")
_K_IN_NAME = re.compile(r"(?:qa|k)_?(\d{1,4})(?!\d)")
_BABI_LINE = re.compile(r"(\d+) (.*)")


def suffix_of(format: str) -> str:
    """Return the file suffix of a format.

    Raises:
        InputError: if there is no such format.
    """
    if format not in _SUFFIXES:
        raise unknown_name("format", format, FORMATS)
    return _SUFFIXES[format]


# Writing


def _write_parquet(parts: Iterator[Stories], path: Path) -> None:
    first = next(parts)
    with pq.ParquetWriter(path, first.table.schema, compression="zstd") as writer:
        writer.write_table(first.table)
        for part in parts:
            writer.write_table(part.table)


def _write_arrow(parts: Iterator[Stories], path: Path) -> None:
    # The file format wants one dictionary for the whole file, so the tables are joined first.
    table = Stories.concat(parts).table
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _write_lines(parts: Iterator[Stories], file: IO[str]) -> None:
    for part in parts:
        for row in part:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_official(parts: Iterator[Stories], file: IO[str]) -> None:
    number = 0
    for part in parts:
        for row in part.rows(_ASKED):
            file.write(f'{", " if number else "{"}"{number}": {json.dumps(row, ensure_ascii=False)}')
            number += 1
    file.write("}\n")


def _write_csv(parts: Iterator[Stories], file: IO[str]) -> None:
    # Lists are JSON in their cells, so that every column comes back as it was.
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(SCHEMA.names)
    for part in parts:
        for row in part:
            cells = (json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in row.values())
            writer.writerow(cells)


def _write_datasets(parts: Iterator[Stories], folder: Path) -> None:
    stories = Stories.concat(parts)
    stories.to_dataset().save_to_disk(str(folder))
    (folder / "README.md").write_text(dataset_card(stories), encoding="utf-8")


def dataset_card(stories: Stories) -> str:
    """Return the text of a dataset card: the header that `datasets` reads, what is in it, how to make it again."""
    made = json.dumps(stories.metadata, indent=2)
    ks = format_hops(stories.column("k_hop"))
    columns = "\n".join(f"| `{field.name}` | {_plain_type(field.type)} |" for field in SCHEMA)
    return f"""---
language: [en]
license: mit
task_categories: [question-answering]
tags: [stepgame, spatial-reasoning, multi-hop, synthetic]
size_categories: [{_size_category(len(stories))}]
---

# StepGame stories, k = {ks}

{len(stories):,} stories about agents on a grid. Each asks where one agent is relative to another; the label is one of
{", ".join(NAMES)}. Made by the package `stepgame`, version of the generator and settings below; the same settings
make the same rows.

| column | type |
| --- | --- |
{columns}

```json
{made}
```
"""


def _plain_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_plain_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "(" + ", ".join(field.name for field in kind) + ")"
    return str(kind)


def _size_category(rows: int) -> str:
    bounds = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
    return next((name for most, name in bounds if rows < most), "n>10M")


def _write_babi(parts: Iterator[Stories], file: IO[str]) -> None:
    # The third field of a bAbI question names a supporting line; the official files always say 1.
    for part in parts:
        for row in part.rows(_ASKED):
            for number, sentence in enumerate(row["story"], start=1):
                file.write(f"{number} {sentence}\n")
            file.write(f"{len(row['story']) + 1} {row['question']}\t{row['label']}\t1\n")


_TEXT_WRITERS: dict[str, Callable[[Iterator[Stories], IO[str]], None]] = {
    "jsonl": _write_lines,
    "json": _write_official,
    "babi": _write_babi,
    "csv": _write_csv,
}


def write_stream(parts: Iterable[Stories], path: str | Path, format: str) -> Path:
    """Write stories to one file as they come; the file appears only when it is whole.

    Args:
        parts: at least one batch of stories.
        path: the file to write.
        format: one of `FORMATS`.

    Returns:
        The path.

    Raises:
        InputError: if there is no such format.
        OSError: if the disk is full or the folder cannot be written; nothing is left behind then.
    """
    suffix_of(format)
    target, batches = Path(path), iter(parts)
    if format == "datasets":
        with atomic_folder(target) as folder:
            _write_datasets(batches, folder)
        return target
    with atomic_path(target) as part:
        if format == "parquet":
            _write_parquet(batches, part)
        elif format == "arrow":
            _write_arrow(batches, part)
        else:
            with part.open("w", encoding="utf-8", newline="\n") as file:
                _TEXT_WRITERS[format](batches, file)
    return target


def write(stories: Stories, path: str | Path, format: str | None = None) -> Path:
    """Write stories to one file, in the format its suffix says unless one is named.

    Args:
        stories: what to write.
        path: the file to write.
        format: one of `FORMATS`.

    Raises:
        InputError: if there is no such format, or the suffix is not one of a format.
    """
    if format is None:
        by_suffix = {suffix: name for name, suffix in _SUFFIXES.items()}
        suffix = Path(path).suffix
        if suffix not in by_suffix:
            raise InputError(f"{path}: the suffix {suffix!r} names no format; use one of {', '.join(by_suffix)}")
        format = by_suffix[suffix]
    return write_stream([stories], path, format)


# Reading


def _fail(path: Path, problem: str) -> InputError:
    return InputError(f"{path}: {problem}")


def _decode(path: Path, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fail(path, f"not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    if "\0" in text:
        raise _fail(path, f"NUL byte at character {text.index(chr(0))}; this is no text file of stories")
    return text


def _parse_json(path: Path, text: str, where: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) < len(pairs):
            # json alone would keep the last and say nothing.
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise _fail(path, f"{where}the key {twice[:60]!r} occurs twice in one object; expected each key once")
        return row

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        cut = "; the file seems cut off" if error.pos >= len(text.rstrip()) - 1 else ""
        raise _fail(
            path, f"{where}not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}){cut}"
        ) from None
    except RecursionError:
        raise _fail(path, f"{where}not valid JSON: nested too deeply") from None


def _looks_like_lines(text: str) -> bool:
    """Tell JSON lines from one JSON document by the first line alone."""
    first = text.lstrip().partition("\n")[0]
    try:
        row = json.loads(first)
    except (json.JSONDecodeError, RecursionError):
        return first.startswith("{") and '"story"' in first and not re.match(r'\{\s*"\d+"\s*:', first)
    return isinstance(row, dict) and not all(key.isdecimal() for key in row)


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    if _looks_like_lines(text):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"line {number}", _parse_json(path, line, f"line {number}: ")
        return
    data = _parse_json(path, text, "")
    pairs = data.items() if isinstance(data, dict) else enumerate(data)
    for key, row in pairs:
        yield f"row {key!r}", row


def _babi_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    story: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        match = _BABI_LINE.fullmatch(line.rstrip("\r"))
        if match is None or int(match[1]) != len(story) + 1:
            raise _fail(
                path,
                f"line {number}: expected {len(story) + 1!r}, a blank and a sentence, found {line[:60]!r}",
            )
        if "\t" not in match[2]:
            story.append(match[2])
            continue
        fields = match[2].split("\t")
        yield f"line {number}", {"story": story, "question": fields[0], "label": fields[1]}
        story = []
    if story:
        raise _fail(path, f"line {number}: the last story has no question; the file seems cut off")


def _is_csv(text: str) -> bool:
    first = next(csv.reader([text.partition("\n")[0]]), [])
    return {"story", "question", "label"} <= set(first)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(text.split("\n"), strict=True)
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise _fail(path, f"{where}: expected {len(reader.fieldnames or ())} cells, as in the header")
            filled: Row = {name: cell for name, cell in row.items() if cell != ""}
            for name in ("story", "facts"):
                if name in filled:
                    filled[name] = _parse_json(path, filled[name], f"{where}: field {name!r}: ")
            yield where, filled
    except csv.Error as error:
        raise _fail(path, f"line {reader.line_num}: not valid CSV: {error}") from None


def _text_rows(path: Path, raw: bytes) -> Iterator[tuple[str, Any]]:
    text = _decode(path, raw)
    start = text.lstrip()[:1]
    if not start:
        raise _fail(path, "is empty; expected stories")
    if start in "{[":
        return _json_rows(path, text)
    if _BABI_LINE.match(text.lstrip()):
        return _babi_rows(path, text)
    if _is_csv(text):
        return _csv_rows(path, text)
    found = text.strip()[:40]
    raise _fail(path, f"unknown format: begins with {found!r}; expected one of {', '.join(FORMATS)}")


def _text_field(path: Path, where: str, row: Row, name: str) -> str:
    value = row.get(name)
    if not is_text(value):
        found = "is missing" if name not in row else f"is {str(value)[:60]!r}"
        raise _fail(path, f"{where}: field {name!r} {found}; expected text")
    return str(value)


def _whole_field(path: Path, where: str, row: Row, name: str, low: int, high: int) -> int | None:
    value = row.get(name)
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value) else value
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise _fail(path, f"{where}: field {name!r} is {str(value)[:60]!r}; expected a whole number {low} to {high}")
    return number


def _facts_field(path: Path, where: str, row: Row) -> list[dict[str, str]] | None:
    facts, names = row.get("facts"), ("head", "relation", "tail", "role", "phrase")
    if facts is None:
        return None
    if isinstance(facts, list) and len(facts) == len(row["story"]):
        good = [fact for fact in facts if isinstance(fact, dict) and all(is_text(fact.get(n)) for n in names)]
        if len(good) == len(facts):
            return good
    raise _fail(path, f"{where}: field 'facts': expected one object a sentence, with text for {', '.join(names)}")


def _check_row(path: Path, where: str, row: Any, index: int, named_k: int | None) -> Row:
    if not isinstance(row, dict):
        raise _fail(path, f"{where}: {str(row)[:60]!r} is no object; expected story, question and label")
    story = row.get("story")
    if not isinstance(story, list) or not story or not are_texts(story):
        found = "is missing" if "story" not in row else f"is {str(story)[:60]!r}"
        raise _fail(path, f"{where}: field 'story' {found}; expected a list of sentences")
    label = _text_field(path, where, row, "label")
    if label not in NAMES:
        hint = did_you_mean(label, NAMES)
        raise _fail(path, f"{where}: field 'label' is {label[:60]!r}{hint}; expected one of {', '.join(NAMES)}")
    k_hop = _whole_field(path, where, row, "k_hop", 1, MAX_HOPS) or named_k or min(len(story), MAX_HOPS)
    split, name = row.get("split"), row.get("id")
    return {
        "id": str(name) if name and is_text(str(name)) else f"{path.stem}-{index}",
        "story": story,
        "question": _text_field(path, where, row, "question"),
        "label": label,
        "k_hop": k_hop,
        "hops": _whole_field(path, where, row, "hops", 0, MAX_HOPS),
        "facts": _facts_field(path, where, row),
        "split": split if is_text(split) else None,
        "seed": _whole_field(path, where, row, "seed", -(2**63), 2**63 - 1),
        "index": index if row.get("index") is None else _whole_field(path, where, row, "index", 0, 2**63 - 1),
    }


def _named_k(path: Path) -> int | None:
    in_name = _K_IN_NAME.search(path.stem)
    return int(in_name[1]) if in_name and 1 <= int(in_name[1]) <= MAX_HOPS else None


def _load_text(path: Path, raw: bytes) -> Stories:
    return _from_rows(path, _text_rows(path, raw), _named_k(path))


def _from_rows(path: Path, rows: Iterator[tuple[str, Any]], named_k: int | None) -> Stories:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for index, (where, row) in enumerate(rows):
        for name, value in _check_row(path, where, row, index, named_k).items():
            columns[name].append(value)
    if not columns["id"]:
        raise _fail(path, "holds no stories")
    arrays = []
    for field in SCHEMA:
        try:
            arrays.append(pa.array(columns[field.name], field.type))
        except pa.ArrowInvalid:
            # Over 2**15 different names or phrases: wider codes than the schema's.
            raise _fail(
                path, f"column {field.name!r} has more different names than a table of stories can hold"
            ) from None
    return Stories(pa.Table.from_arrays(arrays, schema=SCHEMA))


def _plain_rows(table: pa.Table) -> Iterator[Row]:
    for batch in table.select([name for name in SCHEMA.names if name in table.schema.names]).to_batches():
        yield from batch.to_pylist()


def _load_binary(path: Path, reader: Callable[[Path], pa.Table], kind: str) -> Stories:
    try:
        table = reader(path)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        raise _fail(path, f"broken {kind} file: {str(error).splitlines()[0]}") from None
    try:
        table.validate(full=True)
        # Names in a damaged file need not be text.
        missing = [name for name in _ASKED if name not in table.schema.names]
        if missing:
            raise _fail(path, f"{kind} file without the columns {', '.join(missing)}; found {table.schema.names}")
        ours = as_ours(table)
        if ours is None:
            # Other columns or types, or something wrong: row by row, which fills in what is missing or says what it is.
            rows = ((f"row {i}", row) for i, row in enumerate(_plain_rows(table)))
            return _from_rows(path, rows, _named_k(path))
    except (pa.ArrowException, UnicodeDecodeError, OverflowError) as error:
        raise _fail(path, f"broken {kind} file: {str(error).splitlines()[0]}") from None
    try:
        return Stories(ours)
    except ValueError:
        raise _fail(path, f"{kind} file whose metadata is damaged; write it again") from None


def _read_ipc(path: Path) -> pa.Table:
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all()


def _read_saved(path: Path) -> pa.Table:
    dataset = require("datasets", "train", f"the saved dataset {path}").load_from_disk(str(path))
    return dataset.with_format("arrow")[:]


HUB_PREFIX = "hf-dataset:"
"""Before the id of a dataset on the Hugging Face hub: ``hf-dataset:OWNER/NAME[@REVISION][:SPLIT]``."""


def _load_hub(name: str) -> Stories:
    datasets = require("datasets", "train", f"{HUB_PREFIX}{name}")
    rest, _, split = name.partition(":")
    identity, _, revision = rest.partition("@")
    try:
        # Whatever goes wrong between here and the hub (no network, no such dataset, a broken one) is one kind of
        # failure to the user, and the library raises it under many types.
        data = datasets.load_dataset(identity, split=split or "test", revision=revision or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{HUB_PREFIX}{name}: cannot be loaded: {told}") from None
    path = Path(identity.replace("/", "-"))
    return _from_rows(path, ((f"row {i}", row) for i, row in enumerate(data)), None)


def load(path: str | Path | Iterable[str | Path]) -> Stories:
    """Load stories from one file or several, in any known format, found by content.

    A folder that `datasets` saved counts as a file, and so does ``hf-dataset:OWNER/NAME[@REVISION][:SPLIT]``, which
    is fetched by `datasets` (split ``test`` unless one is named).

    Columns that a file lacks are filled: ``id`` from the file's name and the row number, ``k_hop`` from a
    ``qa5`` or ``k5`` in the file's name and else from the number of sentences, the others with nulls.

    Args:
        path: a file, or several.

    Raises:
        InputError: if a file is missing, of no known format, cut off, or has a bad row; says which.
    """
    if not isinstance(path, str | Path):
        return Stories.concat([load(one) for one in path])
    if str(path).startswith(HUB_PREFIX):
        return _load_hub(str(path).removeprefix(HUB_PREFIX))
    file = Path(path)
    if (file / "dataset_info.json").is_file():
        return _load_binary(file, _read_saved, "saved datasets")
    if not file.exists():
        near = did_you_mean(file.name, [p.name for p in file.parent.iterdir()]) if file.parent.is_dir() else ""
        raise _fail(file, f"no such file{near}")
    if not file.is_file():
        kind = "folder" if file.is_dir() else "special file"
        raise _fail(file, f"is a {kind}; expected a file of stories (several files: name them all)")
    with file.open("rb") as opened:
        magic = opened.read(6)
    if magic.startswith(b"PAR1"):
        return _load_binary(file, pq.read_table, "Parquet")
    if magic == b"ARROW1":
        return _load_binary(file, _read_ipc, "Arrow")
    return _load_text(file, file.read_bytes())
