"""A table of stories, with its schema."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from stepgame.errors import InputError, require
from stepgame.hops import MAX_HOPS
from stepgame.relations import NAMES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SCHEMA", "Stories", "are_texts", "as_ours", "is_text"]


def _name_in(width: pa.DataType) -> pa.DataType:
    return pa.dictionary(width, pa.string())


FACT = pa.struct(
    [
        pa.field("head", _name_in(pa.int16())),
        pa.field("relation", _name_in(pa.int8())),
        pa.field("tail", _name_in(pa.int16())),
        pa.field("role", _name_in(pa.int8())),
        pa.field("phrase", _name_in(pa.int16())),
    ]
)
"""What a sentence says, its role (chain, supporting, irrelevant, disconnected) and the bank's phrase it uses."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("story", pa.list_(pa.string()), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("k_hop", pa.int16(), nullable=False),
        pa.field("hops", pa.int16()),
        pa.field("facts", pa.list_(FACT)),
        pa.field("split", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("index", pa.int64(), nullable=False),
    ]
)
"""The columns of `Stories`, in order.

``id`` is ``"{bank}-{protocol}-{split}-k{k}-s{seed}-{index}"``, ``k_hop`` the chain's length and ``hops`` the
links between the two agents asked about. ``hops``, ``facts``, ``split`` and ``seed`` are null in data that came
from elsewhere and does not say.
"""

_METADATA_KEY = b"stepgame"


_SURROGATE = re.compile("[\ud800-\udfff]")


def is_text(value: object) -> bool:
    """Whether a value is text that says something and can be written: JSON may hold half of a surrogate pair."""
    return isinstance(value, str) and are_texts([value])


def are_texts(values: list[Any]) -> bool:
    """Whether each of some values is text, as `is_text` says; looked at together, which is several times faster."""
    try:
        whole = "".join(values)
    except TypeError:
        return False
    return all(map(str.strip, values)) and (whole.isascii() or _SURROGATE.search(whole) is None)


def as_ours(table: pa.Table) -> pa.Table | None:
    """Return a table from outside under `SCHEMA`, its metadata kept.

    Args:
        table: any columns, in any order.

    Returns:
        The table; None if a column is missing, has a type that does not fit or a value that no story has: an empty
        story, a sentence or a question that says nothing, a k out of range, an unknown label, facts that do not match.
    """
    if not set(SCHEMA.names) <= set(table.schema.names):
        return None
    try:
        ours = table.select(SCHEMA.names).cast(SCHEMA).replace_schema_metadata(table.schema.metadata)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
        return None
    return ours if all(map(_fits, ours.to_batches())) else None


def _fits(batch: pa.RecordBatch) -> bool:
    """Whether every row could be a story's."""
    story, question, facts = (batch.column(name) for name in ("story", "question", "facts"))
    sentences, told = story.flatten(), facts.flatten()
    lengths = pc.list_value_length(story)
    whole = sentences.null_count == 0 and told.null_count == 0
    return bool(
        whole
        and all(part.null_count == 0 for part in told.flatten())
        and _all(pc.greater(lengths, 0))
        and _all(pc.equal(pc.list_value_length(facts), lengths))
        and not any(_blank(texts) for texts in (sentences, question))
        and all(
            _all(pc.and_(pc.greater_equal(batch.column(name), least), pc.less_equal(batch.column(name), MAX_HOPS)))
            for name, least in (("k_hop", 1), ("hops", 0))
        )
        and _all(pc.greater_equal(batch.column("index"), 0))
        and _all(pc.is_in(batch.column("label"), value_set=pa.array(NAMES)))
    )


def _all(holds: pa.BooleanArray) -> bool:
    """Whether it holds wherever there is a value."""
    return pc.all(holds, min_count=0).as_py() is not False


def _blank(texts: pa.StringArray) -> bool:
    return bool(pc.any(pc.equal(pc.utf8_trim_whitespace(texts), ""), min_count=0).as_py())


class Stories:
    """Stories with their questions, labels and facts: a thin wrapper around one Arrow table.

    Indexing with a number gives a row as a dict, with a slice gives `Stories`; iterating gives rows.

    Args:
        table: columns as in `SCHEMA`.
        metadata: how the stories were made; taken from the table's schema when omitted.

    Raises:
        InputError: if the columns are not those of `SCHEMA`.
    """

    def __init__(self, table: pa.Table, metadata: dict[str, Any] | None = None) -> None:
        if table.schema.names != SCHEMA.names:
            raise InputError(f"not a table of stories: columns are {table.schema.names}, expected {SCHEMA.names}")
        known = (table.schema.metadata or {}).get(_METADATA_KEY)
        self.metadata: dict[str, Any] = metadata if metadata is not None else json.loads(known) if known else {}
        text = json.dumps(self.metadata, sort_keys=True)
        self.table = table.replace_schema_metadata({_METADATA_KEY: text.encode()})

    def __len__(self) -> int:
        """Return the number of stories."""
        return int(self.table.num_rows)

    def __getitem__(self, key: int | slice) -> Any:
        """Return one row as a dict, or the stories of a slice."""
        if isinstance(key, slice):
            return Stories(self.table.take(pa.array(range(*key.indices(len(self))), pa.int64())), self.metadata)
        if not -len(self) <= key < len(self):
            raise IndexError(f"story {key} of {len(self)}")
        return self.table.slice(key % len(self), 1).to_pylist()[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the rows as dicts."""
        return self.rows(SCHEMA.names)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Iterate over the rows as dicts with some of the columns only, which is faster than all."""
        for batch in self.table.select(list(columns)).to_batches(max_chunksize=1024):
            yield from batch.to_pylist()

    def __repr__(self) -> str:
        return f"Stories({len(self)} rows, {self.metadata})"

    def column(self, name: str) -> list[Any]:
        """Return one column as a list of Python values."""
        values: list[Any] = self.table[name].to_pylist()
        return values

    def to_pandas(self) -> pd.DataFrame:
        """Return the stories as a DataFrame; lists of sentences and facts become object columns."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def to_dataset(self) -> Any:
        """Return a Hugging Face ``datasets.Dataset``; needs the extra ``train``."""
        return require("datasets", "train", "to_dataset()").Dataset(self.table.replace_schema_metadata(None))

    def write(self, path: str | Path, format: str | None = None) -> Path:
        """Write one file; see `stepgame.formats.write` for formats and errors."""
        from stepgame.formats import write

        return write(self, path, format)

    def sha256(self) -> str:
        """Return a hash of what is asked: stories, questions, labels and lengths, in order.

        It is the same whichever format the data lay in, and whatever the rows are called.
        """
        digest = hashlib.sha256()
        asked = self.table.select(["story", "question", "label", "k_hop"])
        for batch in asked.to_batches(max_chunksize=4096):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                digest.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode())
                digest.update(b"\n")
        return digest.hexdigest()

    @staticmethod
    def concat(parts: Iterable[Stories]) -> Stories:
        """Join stories end to end; metadata that differs between the parts is dropped.

        Raises:
            InputError: if there is nothing to join.
        """
        tables = list(parts)
        if not tables:
            raise InputError("no stories to join")
        metadata = tables[0].metadata
        shared = {key: value for key, value in metadata.items() if all(t.metadata.get(key) == value for t in tables)}
        joined = pa.concat_tables([stories.table.replace_schema_metadata(None) for stories in tables])
        return Stories(joined.unify_dictionaries(), shared)
