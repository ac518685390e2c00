"""What a row must be to be believed: ranges, hashes, and figures that follow from one another.

Every function returns what is wrong as sentences, and nothing for a row that is right; who calls it decides whether
the first of them is an error or all of them are findings.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from leaderboards.data import StorySet, name_of, story_sets
from leaderboards.schema import CHANCE, SCHEMA, cell, hops_of_header, is_formula
from stepgame.hops import format_hops, parse_hops

__all__ = [
    "DIGITS",
    "count_faults",
    "fraction_faults",
    "hash_faults",
    "interval_of",
    "k_faults",
    "row_faults",
    "text_faults",
]

DIGITS = 4
"""Decimals of accuracies and of their intervals."""

_HALF = 0.5 * 10**-DIGITS + 1e-9
"""What rounding to so many decimals may take away."""

_EXACT = 10_000
"""Stories of one k up to which a rounded accuracy still says how many answers were right."""

_REQUIRED = (
    "model backend task hops data_sha256 prompt prompt_sha256 score n mean chance_centred errors unparsed seconds "
    "version dirty date command samples_sha256"
).split()
_WORDS = {
    "protocol": ("", "official", "exact"),
    "noise": ("", "yes", "no"),
    "score": ("choice", "generate"),
    "dirty": ("yes", "no"),
    "errors": ("0",),
}
_COUNTS = ("n", "unparsed", "opposite", "one_axis", "both_axes")
_KINDS = ("opposite", "one_axis", "both_axes")
_SHA256, _COMMIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COUNT = re.compile(r"0|[1-9][0-9]{0,11}")
_FRACTION = re.compile(rf"[0-9]\.[0-9]{{{DIGITS}}}")
_NUMBERS = {
    "chance_centred": (re.compile(rf"-?[0-9]{{1,12}}\.[0-9]{{{DIGITS}}}"), f"a number with {DIGITS} decimals"),
    "seconds": (re.compile(r"[0-9]{1,12}\.[0-9]{3}"), "a number of at least 0 with 3 decimals"),
    "examples_per_second": (re.compile(r"[0-9]{1,12}\.[0-9]{2}"), "a number of at least 0 with 2 decimals"),
}
"""How further numbers are written; as everywhere here with the digits of ASCII, which every reader takes for such."""


@cache
def interval_of(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a proportion, from `harness.stats`, which is loaded when first needed."""
    from harness.stats import wilson

    return tuple(wilson(correct, n))  # type: ignore[return-value]


def text_faults(cells: Mapping[str, str]) -> Iterator[str]:
    """Yield cells that a spreadsheet would execute or a terminal would act on; see `leaderboards.schema.cell`."""
    for name, text in cells.items():
        if is_formula(text):
            yield f"{name} holds what spreadsheets take for a formula; on a board an apostrophe stands before it"
        elif not text.replace("\n", "").isprintable():
            yield f"{name} holds characters that do not print; they are written as escapes such as \\u202e"


def hash_faults(cells: Mapping[str, str]) -> Iterator[str]:
    """Yield hashes and commits that are not of the form of one; empty ones pass."""
    for name, text in cells.items():
        if not text:
            continue
        if (name.endswith("_sha256") or name.endswith("_hash")) and not _SHA256.fullmatch(text):
            yield f"{name} is {_short(text)}; expected 64 hexadecimal digits"
        elif name == "commit" and not _COMMIT.fullmatch(text):
            yield f"commit is {_short(text)}; expected the 40 hexadecimal digits of a git commit"


def fraction_faults(name: str, text: str) -> Iterator[str]:
    """Yield what is wrong with a cell that must hold a fraction from 0 to 1."""
    if not _FRACTION.fullmatch(text) or float(text) > 1:
        yield f"{name} is {_short(text)}; expected a fraction from 0 to 1 with {DIGITS} decimals, such as 0.4500"


def count_faults(name: str, text: str, least: int) -> Iterator[str]:
    """Yield what is wrong with a cell that must hold a whole number of at least ``least``."""
    if not _COUNT.fullmatch(text) or int(text) < least:
        yield f"{name} is {_short(text)}; expected a whole number of at least {least}"


def k_faults(cells: Mapping[str, str], k: int, *, counted: bool) -> Iterator[str]:
    """Yield what is wrong with the four cells of one k.

    Args:
        cells: the row.
        k: which.
        counted: whether n must be known; published figures may lack it, and then have no interval.
    """
    n, acc, low, high = (cells.get(f"{name}_k{k}", "") for name in ("n", "acc", "low", "high"))
    if not (n or acc or low or high):
        return
    broken = [*fraction_faults(f"acc_k{k}", acc)]
    if n or counted:
        broken += count_faults(f"n_k{k}", n, 1)
    elif low or high:
        broken.append(f"low_k{k} and high_k{k} are given without n_k{k}; an interval follows from both")
    yield from broken
    if broken or not n:
        return
    # Of more than 10,000 stories several numbers of right answers have the same four decimals.
    accuracy = float(acc)
    least = max(0, math.ceil((accuracy - _HALF) * int(n)))
    most = min(int(n), math.floor((accuracy + _HALF) * int(n)))
    if least > most:
        yield f"acc_k{k} is {acc}, which no number of right answers out of {n} gives"
        return
    ends = zip(("low", "high"), (low, high), interval_of(least, int(n)), interval_of(most, int(n)), strict=True)
    for name, text, lowest, highest in ends:
        if not (_FRACTION.fullmatch(text) and lowest - _HALF <= float(text) <= highest + _HALF):
            yield f"{name}_k{k} is {_short(text)}; the 95 % Wilson interval of {most} of {n} has {highest:.{DIGITS}f}"


def row_faults(cells: Mapping[str, str]) -> list[str]:
    """Return everything that is wrong with one row of a board of our own.

    Args:
        cells: the row by column name, as it stands in the file.
    """
    faults = [*text_faults(cells), *hash_faults(cells)]
    if cells["schema"] != str(SCHEMA):
        return [f"schema is {_short(cells['schema'])}; this version writes schema {SCHEMA}"]
    faults += [f"{name} is empty" for name in _REQUIRED if not cells[name]]
    for name, known in _WORDS.items():
        if cells[name] not in known and cells[name]:
            faults.append(f"{name} is {_short(cells[name])}; expected {' or '.join(word for word in known if word)}")
    for name in _COUNTS:
        if cells[name]:
            faults += count_faults(name, cells[name], 0)
    if not cells["commit"] and cells["dirty"] == "no":
        faults.append("commit is empty though dirty says no")
    if cells["mean"]:
        faults += fraction_faults("mean", cells["mean"])
    for name, (form, said) in _NUMBERS.items():
        if cells[name] and not form.fullmatch(cells[name]):
            faults.append(f"{name} is {_short(cells[name])}; expected {said}")
    faults += [*_date_faults(cells["date"]), *_data_faults(cells)]
    hops = [k for k in hops_of_header(list(cells)) if any(cells.get(f"{c}_k{k}") for c in ("n", "acc", "low", "high"))]
    broken = [fault for k in hops for fault in k_faults(cells, k, counted=True)]
    # What the figures of all k give can only be said of a row whose parts are right.
    return faults + (broken or ([] if faults else [*_sum_faults(cells, hops), *_rate_faults(cells)]))


def _sum_faults(cells: Mapping[str, str], hops: Sequence[int]) -> Iterator[str]:
    """Yield totals that do not follow from the figures of single k."""
    if not hops:
        yield "no k has figures"
        return
    if cells["hops"] != format_hops(hops):
        yield f"hops is {_short(cells['hops'])}, but the figures are of k {format_hops(hops)}"
    counts = {k: int(cells[f"n_k{k}"]) for k in hops}
    accuracies = {k: float(cells[f"acc_k{k}"]) for k in hops}
    n, mean, centred = int(cells["n"]), float(cells["mean"]), float(cells["chance_centred"])
    if sum(counts.values()) != n:
        yield f"n is {n}, but the single k have {sum(counts.values())}"
    slack = _HALF if max(counts.values()) <= _EXACT else 4 * _HALF
    exact = math.fsum(round(accuracies[k] * counts[k]) / counts[k] for k in hops) / len(hops)
    if abs(exact - mean) > slack:
        yield f"mean is {mean}, but the single k give {exact:.{DIGITS}f}"
    if cells["task"] == "stepgame" and abs((exact - CHANCE) / (1 - CHANCE) - centred) > slack:
        yield f"chance_centred is {centred}; a mean of {exact:.{DIGITS}f} over nine labels gives another"
    wrong = n - sum(round(accuracies[k] * counts[k]) for k in hops)
    yield from _kind_faults(cells, wrong, sum(int(n_k * _HALF + 0.5) for n_k in counts.values()))


def _kind_faults(cells: Mapping[str, str], wrong: int, slack: int) -> Iterator[str]:
    """Yield what is wrong with the kinds of mistake.

    Args:
        cells: the row.
        wrong: how many answers are wrong.
        slack: by how much that may be off, because accuracies are rounded.
    """
    empty = [name for name in _KINDS if not cells[name]]
    if empty and (cells["task"] == "stepgame" or len(empty) < len(_KINDS)):
        yield f"{empty[0]} is empty; give all three kinds of mistake, or none where labels are not the nine"
        return
    if empty:
        if int(cells["unparsed"]) > int(cells["n"]):
            yield f"unparsed is {cells['unparsed']}, but n is {cells['n']}"
        return
    told = sum(int(cells[name]) for name in (*_KINDS, "unparsed"))
    if abs(wrong - told) > slack:
        yield f"{wrong} answers are wrong, but kinds of mistake and unparsed add up to {told}"


def _rate_faults(cells: Mapping[str, str]) -> Iterator[str]:
    """Yield a rate that is not n over the seconds."""
    n, seconds, rate = int(cells["n"]), float(cells["seconds"]), cells["examples_per_second"]
    if not rate:
        if seconds:
            yield f"examples_per_second is empty, but {n} stories took {cells['seconds']} seconds"
        return
    # The seconds are rounded to three decimals, the rate to two.
    lowest = n / (seconds + 0.00051) - 0.0051
    highest = n / (seconds - 0.00051) + 0.0051 if seconds else math.inf
    if not lowest <= float(rate) <= highest:
        yield f"examples_per_second is {rate}, but {n} stories took {cells['seconds']} seconds"


def _date_faults(text: str) -> Iterator[str]:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() != datetime.timedelta(0):
        yield f"date is {_short(text)}; expected ISO 8601 in UTC, such as 2026-01-31T12:00:00+00:00"


def _data_faults(cells: Mapping[str, str]) -> Iterator[str]:
    """Yield a name of stories that is not theirs, and what is not as in the set of that name."""
    sets = story_sets()
    name, sha256 = cells["data"], cells["data_sha256"]
    if name and name not in sets:
        yield f"data is {_short(name)}, which data.toml does not list; known: {', '.join(sets)}"
        return
    rightful = name_of(sha256)
    if name != (rightful or ""):
        yield f"data is {_short(name)}, but the stories of this data_sha256 are {rightful or 'without a name'}"
    elif name:
        yield from _set_faults(cells, sets[name])


def _set_faults(cells: Mapping[str, str], wanted: StorySet) -> Iterator[str]:
    """Yield cells of a row that are not as its named set of stories; what a file did not say may be empty."""
    settings = wanted.settings
    for name, value in settings.items():
        if cells.get(name) and cells[name] != cell(value):
            yield f"{name} is {_short(cells[name])}, but {wanted.name} has {cell(value)}"
    for k in parse_hops(settings["hops"]):
        if cells[f"n_k{k}"] != str(settings["per_hop"]):
            yield f"n_k{k} is {_short(cells[f'n_k{k}'])}, but {wanted.name} has {settings['per_hop']} stories of each k"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
