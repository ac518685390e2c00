"""Which rows may stand beside one another: a ranking is the rows on one set of stories, and nothing else.

Measured rows share a ranking when the hash of their stories is the same. Published figures have no hashes; they share
one when data version, noise and split are the same words. Original, regenerated and corrected data, clean and noisy
stories, measured and published rows thereby never meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from leaderboards.data import published_data, story_sets
from leaderboards.published import Figure
from leaderboards.schema import IDENTITY, hops_of_header
from leaderboards.svg import Point

__all__ = [
    "Entry",
    "Ranking",
    "asked_how",
    "describe_data",
    "measured_rankings",
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


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Add to rows of one name the settings in which they differ."""
    further = ("model_args", "dtype", "backend", "sampling", "revision", "adapter_hash", "model_hash", "n")
    labels = [entry.label for entry in entries]
    told = []
    for entry in entries:
        twins = [other for other in entries if other.label == entry.label]
        differ = [name for name in further if len({other.cells.get(name, "") for other in twins}) > 1]
        extra = [("n " if name == "n" else "") + entry.cells[name][:40] for name in differ if entry.cells[name]]
        alike = labels.count(entry.label) > 1
        told.append(replace(entry, how=", ".join([entry.how, *filter(None, extra)])) if alike else entry)
    return told


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
    for (task, sha256), members in groups.items():
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
        rankings.append(Ranking(f"m-{sha256[:12]}", title, title, about, True, True, _sorted(_told_apart(entries))))
    names = list(story_sets())
    rankings.sort(key=lambda each: names.index(each.data) if each.data in names else len(names))
    return rankings


def published_rankings(figures: Sequence[Figure]) -> list[Ranking]:
    """Sort published figures into rankings, in the order of the file."""
    groups: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        groups.setdefault((figure.cells["data"], figure.cells["noise"], figure.cells["split"]), []).append(figure)
    rankings = []
    for place, ((data, noise, split), members) in enumerate(groups.items()):
        version = published_data()[data]
        noise_said = NOISE.get(noise, "" if data == "unknown" else "noise not stated")
        title = ", ".join(part for part in (version.title, noise_said, split) if part)
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
    """Pair rows that differ in nothing but noise, the clean one first.

    Stories without noise are those with noise less their noise sentences, so the two were asked the same questions.
    """
    asked = [name for name in IDENTITY if name != "data_sha256"]
    same = ("model", "task", "protocol", "bank", "split", "seed", "hops", "n", *asked)
    clean = {tuple(row[name] for name in same): row for row in rows if row["noise"] == "no" and row["protocol"]}
    noisy = [row for row in rows if row["noise"] == "yes" and row["protocol"]]
    keys = [tuple(row[name] for name in same) for row in noisy]
    return [(clean[key], row) for key, row in zip(keys, noisy, strict=True) if key in clean]
