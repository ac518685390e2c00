"""Figures of the literature: ``published.csv``, one row a system, way of asking and data version.

Nothing here was measured by this project. What makes a row usable is that it says where the figure stands, on which
version of the data, how many stories were asked and how far the figure could be checked.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leaderboards.data import published_data
from leaderboards.rules import DIGITS, count_faults, fraction_faults, hash_faults, k_faults, text_faults
from leaderboards.schema import PER_K, STANDARD_HOPS, Column
from stepgame.errors import InputError

__all__ = ["CONFIDENCE", "PUBLISHED_COLUMNS", "Figure", "published_faults", "published_header", "read_published"]

PUBLISHED_COLUMNS: tuple[Column, ...] = (
    Column("system", "what was asked, as its source calls it"),
    Column("method", "how it was asked or trained"),
    Column("data", "version of the data, a name under `published` in leaderboards/data.toml"),
    Column("noise", "yes or no; empty where the source does not say"),
    Column("split", "train, validation, test, or held-out where the source says no more"),
    Column("scoring", "exact; lenient where any of several answers may be right; empty where it is not said"),
    Column("n", "stories asked in all; empty where the source does not say"),
    Column("overall", "mean over k 1 to 10 where all are known, else the total the source gives, 0 to 1; or empty"),
    Column("source", "who published it"),
    Column("url", "where; empty where there is no address"),
    Column("table", "where in the source"),
    Column("confidence", "how far the figure could be checked; see the words below"),
    Column("note", "what a reader must know besides"),
)
"""Columns before those of single k, in order."""

CONFIDENCE: dict[str, tuple[bool, str]] = {
    "verified": (True, "read in the paper's full text or in the authors' own log"),
    "recount": (True, "counted from answers that the authors released"),
    "self-reported": (True, "read in a README, a model card or slides; reviewed by nobody"),
    "medium": (False, "read, but where it comes from is not fully certain"),
    "secondary": (False, "read in a document that quotes the source"),
    "approximate": (False, "read off a plot"),
    "unverified": (False, "recalled; the source could not be opened"),
}
"""For each word whether plots show the figure without being asked to, and what it means; best first."""

_KEY = ("system", "method", "data", "noise", "split", "source", "table")
_REQUIRED = ("system", "method", "data", "split", "source", "table", "confidence")
_NOISE = ("no", "yes", "")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the literature.

    Attributes:
        line: where it begins in the file, counted from 1.
        cells: what it holds, by column name.
    """

    line: int
    cells: dict[str, str]

    @property
    def plotted(self) -> bool:
        """Whether plots show it without being asked to."""
        return CONFIDENCE[self.cells["confidence"]][0]

    @property
    def hops(self) -> list[int]:
        """The k it has figures for, ascending."""
        return [k for k in STANDARD_HOPS if self.cells[f"acc_k{k}"]]

    @property
    def order(self) -> tuple[object, ...]:
        """Its place in the file: by data version, noise, split, then by name."""
        cells = self.cells
        place = list(published_data()).index(cells["data"]), _NOISE.index(cells["noise"]), cells["split"]
        return (*place, cells["system"].casefold(), cells["method"], cells["source"], cells["table"])

    def faults(self) -> list[str]:
        """Return what is wrong with the row."""
        cells = self.cells
        faults = [*text_faults(cells), *hash_faults(cells)]
        faults += [f"{name} is empty" for name in _REQUIRED if not cells[name]]
        words: dict[str, Sequence[str]] = {
            "data": list(published_data()),
            "noise": _NOISE,
            "split": ("train", "validation", "test", "held-out"),
            "scoring": ("exact", "lenient", ""),
            "confidence": list(CONFIDENCE),
        }
        for name, known in words.items():
            if cells[name] not in known:
                faults.append(
                    f"{name} is {cells[name]!r}; expected one of {', '.join(word or 'nothing' for word in known)}"
                )
        if cells["url"] and not cells["url"].startswith("https://"):
            faults.append(f"url is {cells['url']!r}; expected an address that begins with https://")
        broken = [fault for k in STANDARD_HOPS for fault in k_faults(cells, k, counted=False)]
        if cells["overall"]:
            broken += fraction_faults("overall", cells["overall"])
        if cells["n"]:
            broken += count_faults("n", cells["n"], 1)
        return faults + (broken or list(self._total_faults()))

    def _total_faults(self) -> Iterator[str]:
        cells, hops = self.cells, self.hops
        if not hops and not cells["overall"]:
            yield "it holds no figure: neither overall nor any acc_k"
        counts = [cells[f"n_k{k}"] for k in hops]
        if hops and all(counts) and cells["n"] != str(sum(map(int, counts))):
            yield f"n is {cells['n']!r}, but the single k have {sum(map(int, counts))}"
        if len(hops) == len(STANDARD_HOPS):
            mean = math.fsum(float(cells[f"acc_k{k}"]) for k in hops) / len(hops)
            if cells["overall"] != f"{mean:.{DIGITS}f}":
                yield f"overall is {cells['overall']!r}, but the mean over k is {mean:.{DIGITS}f}"


def published_header() -> list[str]:
    """Return the column names of ``published.csv``, in order."""
    names = [column.name for column in PUBLISHED_COLUMNS]
    return names + [f"{column.name}_k{k}" for k in STANDARD_HOPS for column in PER_K]


def read_published(path: str | Path, *, strict: bool = True) -> list[Figure]:
    """Read published figures.

    Args:
        path: the CSV file.
        strict: refuse rows with faults; `published_faults` lists them otherwise.

    Raises:
        InputError: if it is no such file, with the line and what was expected there.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames is None or list(reader.fieldnames) != published_header():
                raise InputError(f"{path} has other columns than published figures; see leaderboards/README.md")
            figures, line = [], 2
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(f"{path}, line {line}: it has another number of cells than the header")
                figures.append(Figure(line, row))
                line = reader.line_num + 1
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected the file of published figures") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV in UTF-8: {error}") from None
    if strict:
        for found, fault in published_faults(figures):
            raise InputError(f"{path}, line {found}: {fault}")
    return figures


def published_faults(figures: Sequence[Figure]) -> Iterator[tuple[int, str]]:
    """Yield what is wrong with published figures, as (line, what); their order is part of the format."""
    seen: dict[tuple[str, ...], int] = {}
    last: Figure | None = None
    for figure in figures:
        faults = figure.faults()
        yield from ((figure.line, fault) for fault in faults)
        key = tuple(figure.cells[name] for name in _KEY)
        if seen.setdefault(key, figure.line) != figure.line:
            yield figure.line, f"is the figure of line {seen[key]} once more; delete one of them"
        if not faults:
            if last is not None and figure.order < last.order:
                yield figure.line, f"belongs before line {last.line}: rows stand by data, noise, split and system"
            last = figure
