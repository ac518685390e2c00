"""Judge whole data sets: what in them is unreadable, contradictory, mislabelled, repeated, leaked or unbalanced.

A story is judged by what its readable sentences literally say. Every story is exactly one of contradictory,
unconnected or connected, whether or not it also has a sentence that cannot be read:

- *contradictory*: two parts of it place an agent differently, on the way between the asked agents or off it;
- *unconnected*: free of contradiction, but no chain of readable sentences joins the agents of its question, the
  story does not name them, or the question itself cannot be read;
- *connected*: the rest. It is *mislabelled* if its label is not the literal answer. A connected story with an
  unreadable sentence has an answer all the same, since another sentence could only repeat or contradict it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stepgame.audit_examples import Example, explain
from stepgame.audit_keys import layout_keys, text_keys
from stepgame.audit_tally import FINDINGS, Tally
from stepgame.bulk import Verdicts, judge_all, read_questions
from stepgame.errors import InputError
from stepgame.formats import load
from stepgame.layout import I16, I64
from stepgame.philox import U64
from stepgame.relations import NAMES, Relation
from stepgame.stories import Stories

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMAT", "AuditReport", "FileAudit", "Rows", "audit", "examine", "mark_repeats"]

FORMAT = 1
"""Version of the JSON that `AuditReport.to_dict` gives."""

IN_MEMORY = "stories in memory"
"""What a report calls stories that came from no file."""

_BLOCK = 1 << 17
"""Rows judged at a time; it bounds memory."""

Mask = NDArray[np.bool_]
Source = str | Path | Stories

_INVERSE = np.array([relation.inverse for relation in Relation], np.int8)


class Rows(NamedTuple):
    """What the audit knows about each of n rows.

    Attributes:
        k: [n] int16, the ``k_hop`` that the data says.
        label: [n] int8, relation code of the label that the data says.
        answer: [n] int8, relation code of the literal answer; -1 where there is none.
        sentences: [n] int64, how many there are.
        unreadable: [n] int64, how many of them cannot be read.
        first_unreadable: [n] int64, place of the first of those; -1 if there is none.
        contradiction: [n] int64, place of the sentence that closes the first contradiction; -1 if there is none.
        asked: [n] bool, whether the question can be read.
        hops: [n] int64, links of the shortest chain between the asked agents; -1 where there is none or the
            story contradicts itself.
        guesses: [n, 4] int8, what the surface baselines answer, in the order of `stepgame.audit_tally.SURFACE`;
            -1 where one has nothing to go by.
        exact: [n] uint64, key of the sentences in order and the question.
        unordered: [n] uint64, key of the sentences in any order and the question.
        layout: [n] uint64, key of what is said and asked, whatever the names, the wording and the order.
    """

    k: I16
    label: NDArray[np.int8]
    answer: NDArray[np.int8]
    sentences: I64
    unreadable: I64
    first_unreadable: I64
    contradiction: I64
    asked: Mask
    hops: I64
    guesses: NDArray[np.int8]
    exact: U64
    unordered: U64
    layout: U64

    @property
    def contradictory(self) -> Mask:
        """[n] bool, whether the story contradicts itself."""
        return self.contradiction >= 0

    @property
    def unconnected(self) -> Mask:
        """[n] bool, whether a story free of contradiction leaves its question without an answer."""
        return (self.contradiction < 0) & (self.answer < 0)

    @property
    def mislabelled(self) -> Mask:
        """[n] bool, whether the label is not the literal answer of a connected story."""
        wrong: Mask = (self.answer >= 0) & (self.answer != self.label)
        return wrong

    @property
    def readable(self) -> Mask:
        """[n] bool, whether every sentence and the question can be read."""
        whole: Mask = (self.unreadable == 0) & self.asked
        return whole


def _first_of(story: I64, chosen: Mask, count: int) -> I64:
    """Return for each story its first chosen sentence, counted over all stories; -1 if there is none."""
    first = np.full(count, -1, np.int64)
    places = np.flatnonzero(chosen)[::-1]
    first[story[places]] = places
    return first


def _guesses(verdicts: Verdicts, bounds: NDArray[np.int32], asked_head: U64, asked_tail: U64) -> NDArray[np.int8]:
    """Answer n stories by their surface; see `stepgame.audit_tally.BASELINES`."""
    count = len(verdicts.status)
    relation, head, tail = verdicts.readings
    story = np.repeat(np.arange(count), np.diff(bounds))
    told, asked = np.append(relation, np.int8(-1)), verdicts.asked
    read = (relation >= 0) & asked[story]
    of_head, of_tail = asked_head[story], asked_tail[story]
    pair = _first_of(
        story, read & (((head == of_head) & (tail == of_tail)) | ((head == of_tail) & (tail == of_head))), count
    )
    near = _first_of(story, read & ((head == of_head) | (tail == of_head)), count)

    def seen_from_asked_head(places: I64) -> NDArray[np.int8]:
        codes, turned = told[places], np.append(head, np.uint64(0))[places] != asked_head
        return np.where(turned & (places >= 0), _INVERSE[codes], codes).astype(np.int8)

    columns = [told[bounds[:-1]], told[bounds[1:] - 1], seen_from_asked_head(near), seen_from_asked_head(pair)]
    return np.stack(columns, axis=1).astype(np.int8)


def _examine_block(table: pa.Table) -> Rows:
    stories, questions = (table[name].combine_chunks() for name in ("story", "question"))
    bounds = np.asarray(stories.offsets).astype(np.int32)
    bounds -= bounds[0]
    verdicts = judge_all(table)
    _, asked_head, asked_tail = read_questions(questions)
    layout, hops = layout_keys(bounds, verdicts.readings, asked_head, asked_tail)
    exact, unordered = text_keys(bounds, stories.flatten(), questions)
    labels = pc.index_in(table["label"], value_set=pa.array(NAMES)).to_numpy()
    return Rows(
        k=table["k_hop"].to_numpy().astype(np.int16),
        label=labels.astype(np.int8),
        answer=verdicts.label,
        sentences=np.diff(bounds).astype(np.int64),
        unreadable=verdicts.unreadable.astype(np.int64),
        first_unreadable=verdicts.first_unreadable.astype(np.int64),
        contradiction=verdicts.contradiction.astype(np.int64),
        asked=verdicts.asked,
        hops=np.where(verdicts.label >= 0, hops, -1),
        guesses=_guesses(verdicts, bounds, asked_head, asked_tail),
        exact=exact,
        unordered=unordered,
        layout=layout,
    )


def examine(stories: Stories) -> Rows:
    """Read, solve and hash every story.

    Args:
        stories: n of them, at least one.

    Returns:
        What the audit knows about each.

    Raises:
        InputError: if there is no story.
    """
    if not len(stories):
        raise InputError("no stories to audit; expected at least one")
    blocks = [_examine_block(stories.table.slice(at, _BLOCK)) for at in range(0, len(stories), _BLOCK)]
    return Rows(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def mark_repeats(keys: U64) -> tuple[Mask, I64]:
    """Mark the rows that repeat an earlier one.

    Args:
        keys: [n] uint64, equal for rows that count as the same.

    Returns:
        [n] bool, whether an earlier row has the same key, and [n] int64, the first row that has it.
    """
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    origin = first[which].astype(np.int64)
    return origin != np.arange(len(keys)), origin


class _Known:
    """Rows of other files: which keys they have, and where."""

    def __init__(self) -> None:
        self.keys = np.empty(0, np.uint64)
        self.rows = np.empty(0, np.int64)
        self.files = np.empty(0, np.int32)
        self.names: list[str] = []

    def add(self, name: str, keys: U64) -> None:
        """Take note of a file's rows; the first row with a key is the one that is told of."""
        joined = np.concatenate([self.keys, keys])
        rows = np.concatenate([self.rows, np.arange(len(keys), dtype=np.int64)])
        files = np.concatenate([self.files, np.full(len(keys), len(self.names), np.int32)])
        self.keys, first = np.unique(joined, return_index=True)
        self.rows, self.files = rows[first], files[first]
        self.names.append(name)

    def find(self, keys: U64) -> I64:
        """Return [n] int64, the place of each key among those known; -1 if it is not."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1).astype(np.int64)

    def where(self, place: int) -> str:
        """Say which row of which file it is."""
        return f"row {self.rows[place]} of {self.names[self.files[place]]}"


@dataclass(frozen=True)
class FileAudit:
    """What is wrong with one file.

    Attributes:
        file: its path as given.
        all: over all its rows.
        by_k: over the rows of each ``k_hop``, ascending.
        examples: for each kind of finding that there is, a few rows that have it.
    """

    file: str
    all: Tally
    by_k: dict[int, Tally]
    examples: dict[str, list[Example]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {
            "file": self.file,
            **self.all.to_dict(),
            "by_k": {str(k): tally.to_dict() for k, tally in self.by_k.items()},
            "examples": {kind: [example._asdict() for example in few] for kind, few in self.examples.items()},
        }


@dataclass(frozen=True)
class AuditReport:
    """What is wrong with a data set, by kind, by file and by k; `audit` makes it.

    Attributes:
        files: one entry a file, in the order given.
        all: over all rows of all files.
        by_k: over all rows of each ``k_hop``, ascending.
        against: the files that rows must not share; empty if none was given.
    """

    files: tuple[FileAudit, ...]
    all: Tally
    by_k: dict[int, Tally]
    against: tuple[str, ...]

    @property
    def findings(self) -> dict[str, int]:
        """How often each kind of finding occurs, without those that do not."""
        return {kind: self.all.counts[kind] for kind in FINDINGS if self.all.counts.get(kind)}

    @property
    def clean(self) -> bool:
        """Whether there is no finding of any kind."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON; `stepgame.audit_tally` says what each count means."""
        totals = {**self.all.to_dict(), "by_k": {str(k): tally.to_dict() for k, tally in self.by_k.items()}}
        return {
            "format": FORMAT,
            "clean": self.clean,
            "against": list(self.against) or None,
            "files": [file.to_dict() for file in self.files],
            "totals": totals,
        }

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_pandas(self) -> pd.DataFrame:
        """Return the counts as a DataFrame, one row for each file and ``k_hop``."""
        import pandas as pd

        rows = [{"file": f.file, "k_hop": k} | tally.counts for f in self.files for k, tally in f.by_k.items()]
        return pd.DataFrame(rows)

    def to_text(self, width: int = 100) -> str:
        """Return the report as text, with tables, for people."""
        from stepgame.audit_report import to_text

        return to_text(self, width)

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page with plots; needs the extra ``report``."""
        from stepgame.audit_html import to_html

        return to_html(self)


def _columns(rows: Rows, against: _Known | None, earlier: _Known) -> dict[str, I64]:
    """Count for each row everything that a tally sums up."""
    columns: dict[str, NDArray[Any]] = {
        "stories": np.ones(len(rows.k)),
        "sentences": rows.sentences,
        "unreadable_sentences": rows.unreadable,
        "stories_unreadable": rows.unreadable > 0,
        "unreadable_questions": ~rows.asked,
        "contradictory": rows.contradictory,
        "unconnected": rows.unconnected,
        "mislabelled": rows.mislabelled,
        "duplicates": mark_repeats(rows.exact)[0],
        "duplicates_reordered": mark_repeats(rows.unordered)[0],
    }
    layouts = np.zeros(len(rows.k), np.bool_)
    layouts[rows.readable] = mark_repeats(rows.layout[rows.readable])[0]
    columns["repeated_layouts"] = layouts
    columns["in_earlier_files"] = earlier.find(rows.exact) >= 0
    if against is not None:
        columns["overlap"] = against.find(rows.exact) >= 0
    return {name: values.astype(np.int64) for name, values in columns.items()}


def _tallies(rows: Rows, columns: dict[str, I64]) -> dict[int, Tally]:
    """Sum up the rows of each k."""
    ks, group = np.unique(rows.k, return_inverse=True)
    size = len(ks)

    def by_code(chosen: Mask, codes: NDArray[Any], most: int) -> I64:
        flat = np.bincount(group[chosen] * most + codes[chosen], minlength=size * most)
        return flat.reshape(size, most).astype(np.int64)

    everything = np.ones(len(rows.k), np.bool_)
    counts = {name: np.bincount(group, weights=values, minlength=size) for name, values in columns.items()}
    labels = by_code(everything, rows.label, len(NAMES))
    unguided = by_code(rows.guesses[:, -1] < 0, rows.label, len(NAMES))
    right = [np.bincount(group, weights=guess == rows.label, minlength=size) for guess in rows.guesses.T]
    hops = by_code(rows.hops >= 0, rows.hops, int(rows.hops.max(initial=0)) + 1)
    return {
        int(k): Tally(
            counts={name: int(sums[i]) for name, sums in counts.items()},
            labels=tuple(labels[i].tolist()),
            hops={int(length): int(hops[i, length]) for length in np.flatnonzero(hops[i])},
            right=tuple(int(sums[i]) for sums in right),
            unguided=tuple(unguided[i].tolist()),
        )
        for i, k in enumerate(ks)
    }


def _examples(
    stories: Stories, rows: Rows, columns: dict[str, I64], against: _Known | None, most: int
) -> dict[str, list[Example]]:
    """Explain the first few rows of each kind of finding."""
    origin = mark_repeats(rows.exact)[1]
    found: dict[str, list[Example]] = {}
    # A story with an unreadable sentence is shown once, by its first such sentence.
    for kind in FINDINGS:
        if kind == "stories_unreadable" or kind not in columns:
            continue
        few = []
        for number in np.flatnonzero(columns[kind])[:most].tolist():
            place = rows.first_unreadable if kind == "unreadable_sentences" else rows.contradiction
            twin = f"row {origin[number]}"
            if kind == "overlap" and against is not None:
                twin = against.where(int(against.find(rows.exact[number : number + 1])[0]))
            few.append(explain(kind, stories[number], number, int(place[number]), twin))
        if few:
            found[kind] = few
    return found


def _named(source: Source) -> tuple[str, Stories]:
    if isinstance(source, Stories):
        return IN_MEMORY, source
    if isinstance(source, str | Path):
        return str(source), load(source)
    raise InputError(f"cannot audit {type(source).__name__}; expected a path, several, or Stories")


def _as_sources(given: Source | Iterable[Source], purpose: str) -> Sequence[Source]:
    sources = [given] if isinstance(given, str | Path | Stories) else list(given)
    if not sources:
        raise InputError(f"no files {purpose}; expected at least one")
    return sources


def audit(
    source: Source | Iterable[Source], *, against: Source | Iterable[Source] | None = None, examples: int = 3
) -> AuditReport:
    """Find what is wrong with a data set; the module's docstring says what counts as what.

    Unreadable sentences and questions, contradictory, unconnected and mislabelled stories, duplicates and overlap
    are findings. Everything else in the report is information: how labels and hops are spread, what baselines
    reach that do not reason, which rows say the same in other words.

    Args:
        source: a file in any known format, `Stories`, or several of these; files are loaded one at a time.
        against: data that must share no row with it, for instance the training set of a test set.
        examples: at most this many rows are shown for each kind and file.

    Returns:
        The report.

    Raises:
        InputError: if there is nothing to audit, or a file cannot be loaded; says which and why.
    """
    if examples < 0:
        raise InputError(f"{examples} examples; expected 0 or more")
    forbidden = None
    if against is not None:
        forbidden = _Known()
        for other in _as_sources(against, "to audit against"):
            name, stories = _named(other)
            forbidden.add(name, examine(stories).exact)
    earlier, files = _Known(), []
    by_k: dict[int, Tally] = {}
    for one in _as_sources(source, "to audit"):
        name, stories = _named(one)
        rows = examine(stories)
        columns = _columns(rows, forbidden, earlier)
        tallies = _tallies(rows, columns)
        shown = _examples(stories, rows, columns, forbidden, examples)
        files.append(FileAudit(name, Tally.total(tallies.values()), tallies, shown))
        earlier.add(name, rows.exact)
        for k, tally in tallies.items():
            by_k[k] = by_k[k] + tally if k in by_k else tally
    everything = Tally.total(file.all for file in files)
    return AuditReport(
        tuple(files), everything, dict(sorted(by_k.items())), tuple(forbidden.names if forbidden else ())
    )
