"""Which rows may stand beside one another: a ranking is the rows on one set of stories, and nothing else.

Measured rows share a ranking when the hash of their stories is the same. Published figures have no hashes; they share
one when data version, noise and split are the same words, and where noise is not stated only within one source, which
may be trusted to have asked all of its systems the same. Original, regenerated and corrected data, clean and noisy
stories, measured and published rows thereby never meet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leaderboards.data import published_data, story_sets
from leaderboards.published import Figure
from leaderboards.schema import IDENTITY, deciding, hops_of_header, measured, settings_of
from leaderboards.svg import Point

__all__ = [
    "Entry",
    "Ranking",
    "asked_how",
    "describe_data",
    "measured_rankings",
    "named_twins",
    "noise_pairs",
    "published_rankings",
    "system_of",
]

NOISE = {"yes": "with noise", "no": "without noise"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a ranking, whatever file it comes from.

    Attributes:
        system: what was asked.
        how: how it was asked.
        n: stories asked; None where nobody says.
        mean: mean accuracy over k, or the source's total; None where there is neither.
        points: accuracy at each k.
        cells: the row it was read from.
        sure: false for figures that plots leave out unless asked.
    """

    system: str
    how: str
    n: int | None
    mean: float | None
    points: tuple[Point, ...]
    cells: dict[str, str]
    sure: bool = True

    @property
    def label(self) -> str:
        """Its name in a legend."""
        return f"{self.system} ({self.how})" if self.how else self.system


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows on the same stories.

    Attributes:
        name: makes ids: letters, digits and dashes.
        data: short name of the data version, for a filter.
        title: its heading.
        about: what the stories are.
        measured: whether the rows are of this project's own runs.
        ranked: whether order by accuracy means something.
        entries: the rows, the best mean first.
    """

    name: str
    data: str
    title: str
    about: str
    measured: bool
    ranked: bool
    entries: tuple[Entry, ...]


def system_of(cells: dict[str, str]) -> str:
    """Name what a measured row asked: the model, and the adapter upon it."""
    return " + ".join(part for part in (cells["model"], cells["adapter"]) if part)


def asked_how(cells: dict[str, str]) -> str:
    """Say how a measured row was asked: prompt and scoring."""
    return f"{cells['prompt']}, {cells['score']}"


_FURTHER = (
    "model_args",
    "dtype",
    "backend",
    "sampling",
    "revision",
    "adapter_hash",
    "model_hash",
    "extraction",
    "prompt_sha256",
    "n",
)
"""What may tell rows of one name apart; of a ``backend``'s arguments only those that decide answers."""


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Add to rows of one name the settings in which they differ."""
    told = []
    for entry in entries:
        twins = [other for other in entries if other.label == entry.label]
        extra = [said for name in _FURTHER for said in _differing(name, entry, twins)]
        told.append(replace(entry, how=", ".join(filter(None, [entry.how, *extra]))) if len(twins) > 1 else entry)
    return told


def _differing(name: str, entry: Entry, twins: Sequence[Entry]) -> Iterator[str]:
    """Yield what a row has in a column and some twin has not; of a block of settings those settings alone."""
    found = [_settings(name, other.cells) for other in twins]
    for key, value in _settings(name, entry.cells).items():
        if any(other.get(key) != value for other in found):
            shown = value if isinstance(value, str) else json.dumps(value)
            yield f"{key} {shown[:40]}".strip()


def _settings(name: str, cells: dict[str, str]) -> dict[str, Any]:
    """Return what a column holds, by the name that a label has for it; most say enough without one."""
    text = cells.get(name, "")
    if not text:
        return {}
    if name == "model_args":
        return deciding(cells)
    return settings_of(text) if name == "sampling" else {"n" if name == "n" else "": text}


def describe_data(cells: dict[str, str]) -> str:
    """Say in words which stories a measured row was asked."""
    parts = (
        f"{cells['protocol']} protocol" if cells["protocol"] else "stories of a file",
        NOISE.get(cells["noise"], ""),
        f"k {cells['hops']}",
        f"{cells['split']} split" if cells["split"] else "",
        f"seed {cells['seed']}" if cells["seed"] else "",
        f"bank {cells['bank']}" if cells["bank"] not in ("", "core") else "",
    )
    return ", ".join(part for part in parts if part)


def _points(cells: dict[str, str], hops: Iterable[int]) -> tuple[Point, ...]:
    def number(name: str) -> float | None:
        return float(cells[name]) if cells[name] else None

    return tuple(
        Point(
            k, float(cells[f"acc_k{k}"]), number(f"low_k{k}"), number(f"high_k{k}"), int(cells[f"n_k{k}"] or 0) or None
        )
        for k in hops
        if cells.get(f"acc_k{k}")
    )


def _sorted(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda each: (each.mean is None, -(each.mean or 0), each.label)))


def measured_rankings(rows: Sequence[dict[str, str]]) -> list[Ranking]:
    """Sort a board's rows into rankings, named sets of stories first.

    Args:
        rows: cells by column name.
    """
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for cells in rows:
        groups.setdefault((cells["task"], cells["data_sha256"]), []).append(cells)
    rankings = []
    for place, ((task, sha256), members) in enumerate(groups.items()):
        first = members[0]
        entries = [
            Entry(
                system_of(cells),
                asked_how(cells),
                int(cells["n"]),
                float(cells["mean"]),
                _points(cells, hops_of_header(list(cells))),
                cells,
            )
            for cells in members
        ]
        title = first["data"] or f"{task}, stories {sha256[:12]}"
        about = story_sets()[title].about if first["data"] else describe_data(first)
        rankings.append(Ranking(f"m-{place}", title, title, about, True, True, _sorted(_told_apart(entries))))
    names = list(story_sets())
    rankings.sort(key=lambda each: names.index(each.data) if each.data in names else len(names))
    return rankings


def published_rankings(figures: Sequence[Figure]) -> list[Ranking]:
    """Sort published figures into rankings, in the order of the file."""
    groups: dict[tuple[str, str, str, str], list[Figure]] = {}
    for figure in figures:
        data, noise, split = (figure.cells[name] for name in ("data", "noise", "split"))
        # Where order means nothing anyway, sources need not be kept apart.
        alone = figure.cells["source"] if published_data()[data].ranked and not noise else ""
        groups.setdefault((data, noise, split, alone), []).append(figure)
    rankings = []
    for place, ((data, noise, split, alone), members) in enumerate(groups.items()):
        version = published_data()[data]
        noise_said = NOISE.get(noise, "" if data == "unknown" else "noise not stated")
        title = ", ".join(part for part in (version.title, noise_said, split, alone) if part)
        entries = [
            Entry(
                each.cells["system"],
                each.cells["method"],
                int(each.cells["n"]) if each.cells["n"] else None,
                float(each.cells["overall"]) if each.cells["overall"] else None,
                _points(each.cells, each.hops),
                each.cells,
                each.plotted,
            )
            for each in members
        ]
        rankings.append(
            Ranking(f"p-{place}", data, title, version.about, False, version.ranked, _sorted(_told_apart(entries)))
        )
    return rankings


def noise_pairs(rows: Sequence[dict[str, str]]) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Pair rows that differ in nothing but noise, as far as a row says; the clean one first.

    A row does not say everything that decides which stories were asked, such as the agents' names. Whether two asked
    the same questions is for `named_twins` to say, or for the stories themselves.
    """
    asked = [name for name in IDENTITY if name != "data_sha256"]
    same = ("model", "task", "protocol", "bank", "split", "seed", "hops", "n", *asked)
    clean: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        if row["noise"] == "no" and row["protocol"]:
            clean.setdefault(measured(row, same), []).append(row)
    noisy = [row for row in rows if row["noise"] == "yes" and row["protocol"]]
    return [(twin, row) for row in noisy for twin in clean.get(measured(row, same), ())]


def named_twins(clean: dict[str, str], noisy: dict[str, str]) -> bool:
    """Say whether two rows are on named sets of stories that are made alike but for noise.

    Stories without noise are those with noise less their noise sentences, so the two were asked the same questions.
    """
    sets = story_sets()
    if not (clean["data"] and noisy["data"]):
        return False
    made, twin = sets[clean["data"]].settings, sets[noisy["data"]].settings
    return made != twin and made | {"noise": True} == twin
