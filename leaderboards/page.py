"""The site: every row of both boards on one page, and a page for each run.

Only cells and records reach a page, as escaped text. Nothing that a row names is opened: file names are made of the
hash of a run's answers, and run folders are found by that hash in the folders that the user names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import stepgame
from leaderboards.board import Board, sha256_of
from leaderboards.markup import facts, page, region, table, text
from leaderboards.parts import KIND_KEY, kinds_of_row, kinds_table, percent, reading
from leaderboards.published import CONFIDENCE, read_published
from leaderboards.rankings import (
    Entry,
    Ranking,
    asked_how,
    measured_rankings,
    named_twins,
    noise_pairs,
    published_rankings,
    system_of,
)
from leaderboards.run_page import run_page
from leaderboards.schema import CHANCE, STANDARD_HOPS
from leaderboards.svg import Series, accuracy_figure, strip
from stepgame.errors import InputError
from stepgame.files import atomic_folder

if TYPE_CHECKING:
    from harness import Run

__all__ = ["MARKER", "RUN_FOLDERS", "Site", "write_site"]

RUN_FOLDERS = (Path("leaderboards/runs"), Path("runs"))
"""Where run folders are looked for when nobody names any."""

MARKER = ".stepgame-site"
"""A file by which a later call knows that a folder is a site, and may be replaced."""

T = TypeVar("T")


class Site(NamedTuple):
    """What was written.

    Attributes:
        pages: HTML files.
        rows: measured rows.
        figures: published rows.
        notes: what a reader of the site will miss, and why.
    """

    pages: int
    rows: int
    figures: int
    notes: list[str]


def write_site(out: Path, board: Path, published: Path, runs: Sequence[Path] | None = None, examples: int = 10) -> Site:
    """Write the site; a site that is there is replaced as a whole.

    Args:
        out: its folder.
        board: the CSV of measured rows.
        published: the CSV of published figures.
        runs: run folders, or folders of such; `RUN_FOLDERS` when omitted.
        examples: answers shown of each run: so many of the first, and of the wrong.

    Raises:
        InputError: if a board is not right, or ``out`` holds something that is no site, or is the working folder.
    """
    for source, expected in ((board, "a leaderboard's CSV"), (published, "the CSV of published figures")):
        if not source.is_file():
            raise InputError(f"{source} is no file; expected {expected}")
    if examples < 0:
        raise InputError(f"--examples {examples}: expected a whole number of at least 0")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file())):
        raise InputError(f"--out {out}: holds something that is no site of this command; choose another folder")
    target = out.resolve()
    if Path.cwd().is_relative_to(target):
        raise InputError(
            f"--out {out}: a site takes the place of its folder, which the working folder cannot give up; name "
            f"another, for instance --out {out / 'site'}"
        )
    for folder in runs or ():
        if not folder.is_dir():
            raise InputError(f"--runs {folder}: is no folder; expected runs, or a folder of them")
    book, board_bytes = _read_whole(board, Board.read)
    figures, published_bytes = _read_whole(published, read_published)
    rows = [row.cells for row in book.rows]
    found, notes = _find_runs({row["samples_sha256"] for row in rows}, runs)
    names = _page_names(rows)
    with atomic_folder(target) as made:
        (made / MARKER).touch()
        (made / "runs").mkdir()
        # Their own bytes, under a name that is ours.
        (made / "stepgame.csv").write_bytes(board_bytes)
        (made / "published.csv").write_bytes(published_bytes)
        for row, name in zip(rows, names, strict=True):
            shown = _run_page(row, found.get(row["samples_sha256"]), examples, notes)
            (made / "runs" / name).write_text(shown, encoding="utf-8")
        rankings = [*measured_rankings(rows), *published_rankings(figures)]
        links = {id(row): f"runs/{name}" for row, name in zip(rows, names, strict=True)}
        (made / "index.html").write_text(_index(rankings, rows, links), encoding="utf-8")
    missing = sum(row["samples_sha256"] not in found for row in rows)
    if missing:
        notes.append(f"answers of {missing} rows are not shown: no folder of their run was found; name it by --runs")
    return Site(1 + len(rows), len(rows), len(figures), notes)


def _read_whole(source: Path, read: Callable[[Path], T]) -> tuple[T, bytes]:
    """Return what a file says and its bytes.

    Raises:
        InputError: if another process has written it in between.
    """
    before = source.read_bytes()
    found = read(source)
    if source.read_bytes() != before:
        raise InputError(f"{source} was written by another process while it was read; try again")
    return found, before


def _run_page(row: dict[str, str], run: Run | None, examples: int, notes: list[str]) -> str:
    """Return a row's page; a folder that cannot be read is left out of it, with a note."""
    if run is not None:
        try:
            with reading(run.path):
                return run_page(row, run, examples)
        except InputError as error:
            notes.append(f"left out: {error}")
    return run_page(row, None, examples)


def _page_names(rows: Sequence[dict[str, str]]) -> list[str]:
    """Name each row's page by the hash of its answers, which the board has checked to be one."""
    taken: dict[str, int] = {}
    names = []
    for row in rows:
        stem = row["samples_sha256"][:16]
        taken[stem] = taken.get(stem, 0) + 1
        names.append(f"{stem}.html" if taken[stem] == 1 else f"{stem}-{taken[stem]}.html")
    return names


def _find_runs(wanted: set[str], folders: Sequence[Path] | None) -> tuple[dict[str, Run], list[str]]:
    """Find run folders by the hash of their answers."""
    from harness import load_run

    found: dict[str, Run] = {}
    notes: list[str] = []
    for folder in folders or [each for each in RUN_FOLDERS if each.is_dir()]:
        places = [folder] if (folder / "manifest.json").is_file() else sorted(folder.glob("*/"))
        for place in places:
            try:
                with reading(place):
                    if not (place / "results.json").is_file() or not (place / "manifest.json").is_file():
                        continue
                    digest = sha256_of(place / "samples.jsonl")
                    if digest in wanted:
                        found.setdefault(digest, load_run(place))
            except InputError as error:
                notes.append(f"left out: {error}")
    return found, notes


def _index(rankings: Sequence[Ranking], rows: Sequence[dict[str, str]], links: dict[int, str]) -> str:
    """Lay out the front page."""
    measured, published = len(rows), sum(len(each.entries) for each in rankings if not each.measured)
    header = (
        "<h1>StepGame leaderboard</h1>"
        "<p>Multi-hop spatial reasoning in text: the share of questions answered right, by the number of hops. "
        f"{measured} rows were measured by this project's runs, each with its answers; {published} were published by "
        "others, each with its source. Rows are compared only with rows on the same stories.</p>"
        '<nav aria-label="Page"><ul><li><a href="#table">Table</a></li><li><a href="#curves">Curves</a></li>'
        '<li><a href="#mistakes">Mistakes</a></li><li><a href="#noise">Noise</a></li>'
        '<li><a href="#words">Words</a></li>'
        '<li><a href="stepgame.csv" download>stepgame.csv</a></li>'
        '<li><a href="published.csv" download>published.csv</a></li></ul></nav>'
    )
    body = [
        '<h2 id="table">All rows</h2>',
        _filters(rankings),
        _board_table(rankings, links),
        '<h2 id="curves">Accuracy over k</h2>',
        "<p>One plot for each version of the data. Bars are 95 % Wilson intervals; a point without one comes from a "
        "source that does not say how many stories were asked. Press a name to hide its curve or to show it; "
        f"of more than {_MANY} curves a plot begins with the best of each system. Figures that are unverified or "
        "cannot be ranked are drawn on request, by the box above the table.</p>",
        f'<div class="panels">{"".join(_curves(rankings)) or "<p>No curve yet.</p>"}</div>',
        '<h2 id="mistakes">Kinds of mistake</h2>',
        *_mistakes(rankings, links),
        '<h2 id="noise">Noise sensitivity</h2>',
        *_noise(rows, links),
        '<h2 id="words">Words</h2>',
        _words(),
    ]
    return page("StepGame leaderboard", header, "\n".join(body), f'<p class="soft">stepgame {stepgame.__version__}</p>')


def _filters(rankings: Sequence[Ranking]) -> str:
    versions = dict.fromkeys(each.data for each in rankings)
    options = "".join(f'<option value="{text(name)}">{text(name)}</option>' for name in versions)
    return (
        '<div class="filters" role="search" aria-label="Filter the rows">'
        '<label>Search<input type="search" id="search" placeholder="gpt-4 chain" autocomplete="off"></label>'
        f'<label>Data<select id="data"><option value="">all versions</option>{options}</select></label>'
        '<label>Origin<select id="origin"><option value="">all</option><option value="measured">measured here</option>'
        '<option value="published">published by others</option></select></label>'
        '<label class="check"><input type="checkbox" id="unsure">Plot unverified and unranked figures too</label>'
        '<p id="count" role="status" class="soft"></p></div>'
    )


_MANY = 8
"""Curves beyond which a plot begins with the best of each system."""

_UNRANKED = "these rows need not be about the same stories"


def _board_table(rankings: Sequence[Ranking], links: dict[int, str]) -> str:
    hops = sorted({*STANDARD_HOPS, *(p.k for each in rankings for entry in each.entries for p in entry.points)})
    headings = [("system", "word"), ("how it was asked", "word"), ("mean", "number")]
    headings += [(f"k {k}", "number") for k in hops]
    headings += [("n", "number"), ("unparsed", "number"), ("source", "word")]
    head = "".join(
        f'<th scope="col" data-kind="{kind}" aria-sort="none"{" class=t" if kind == "word" else ""}>'
        f'<button type="button">{name}</button></th>'
        for name, kind in headings
    )
    groups = []
    for each in rankings:
        origin = "measured" if each.measured else "published"
        said = "" if each.ranked else f" Not ranked: {_UNRANKED}."
        who = "measured here" if each.measured else "published"
        title = f"{text(each.title)}, {who} <small>{text(each.about)}.{said}</small>"
        ranked = "yes" if each.ranked else "no"
        lines = "".join(_line(entry, each, hops, links) for entry in each.entries)
        groups.append(
            f'<tbody data-data="{text(each.data)}" data-origin="{origin}" data-ranked="{ranked}"><tr class="group">'
            f'<th colspan="{len(headings)}" scope="rowgroup"><span>{title}</span></th></tr>{lines}</tbody>'
        )
    inner = (
        '<table id="board"><caption>Accuracy in per cent. Columns sort within each version of the data, never across.'
        "</caption>"
        f"<thead><tr>{head}</tr></thead>{''.join(groups)}</table>"
    )
    return region("All rows", inner, kind="board")


def _line(entry: Entry, ranking: Ranking, hops: Sequence[int], links: dict[int, str]) -> str:
    points = {point.k: point for point in entry.points}
    name = text(entry.system)
    if ranking.measured:
        name = f'<a href="{links[id(entry.cells)]}">{name}</a>'
        commit = entry.cells["commit"][:12] + (" (dirty)" if entry.cells["dirty"] == "yes" else "")
        source = f"{text(entry.cells['date'][:10])}<small>{text(commit)}</small>"
    else:
        source = _source(entry.cells)
        if not entry.sure:
            # Beside the name, because the column of sources may lie outside of the window.
            name += f'<small class="bad">{text(entry.cells["confidence"])}</small>'
    how = text(entry.how)
    if entry.cells.get("note"):
        how += f"<small>{text(entry.cells['note'])}</small>"
    cells = [
        f'<th scope="row" class="t">{name}</th><td class="t wide">{how}</td>',
        _number(entry.mean, percent(entry.mean)),
    ]
    for k in hops:
        point = points.get(k)
        if point is None:
            cells.append('<td data-v=""></td>')
            continue
        interval = (
            ""
            if point.low is None or point.high is None
            else f"<small>{100 * point.low:.0f}–{100 * point.high:.0f}</small>"
        )
        cells.append(_number(point.accuracy, percent(point.accuracy) + interval))
    unparsed = int(entry.cells["unparsed"]) if ranking.measured else None
    cells += [_number(value, "" if value is None else f"{value:,}") for value in (entry.n, unparsed)]
    cells.append(f'<td class="t wide">{source}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _number(value: float | None, shown: str) -> str:
    return f'<td data-v="{"" if value is None else value}">{shown}</td>'


def _source(cells: dict[str, str]) -> str:
    """Name a published row's source; only addresses that begin with https become links."""
    name = text(cells["source"])
    if cells["url"].startswith("https://"):
        name = f'<a href="{text(cells["url"])}" rel="noreferrer noopener">{name}</a>'
    style = "" if CONFIDENCE[cells["confidence"]][0] else ' class="bad"'
    scoring = f"; {text(cells['scoring'])} scoring" if cells["scoring"] else ""
    return f"{name}<small>{text(cells['table'])}{scoring}</small><small{style}>{text(cells['confidence'])}</small>"


def _curves(rankings: Sequence[Ranking]) -> Iterator[str]:
    """Yield one plot a ranking that has a curve; those of unsure figures alone, or unranked, appear on request."""
    for each in rankings:
        shown = [entry for entry in each.entries if len(entry.points) > 1]
        if not shown:
            continue
        best: dict[str, Entry] = {}
        for entry in sorted(shown, key=_average, reverse=True):
            best.setdefault(entry.system, entry)
        few = sum(entry.sure for entry in shown) <= _MANY
        curves = [
            Series(entry.label, entry.points, entry.sure, few or not entry.sure or best[entry.system] is entry)
            for entry in shown
        ]
        # Colours go by place, and those that are seen at first shall differ most.
        curves.sort(key=lambda one: (not one.drawn, not one.sure))
        chance = CHANCE if not each.measured or each.entries[0].cells["task"] == "stepgame" else None
        origin = "measured here" if each.measured else "published"
        about = each.about if each.ranked else f"{each.about}; {_UNRANKED}, and curves cannot be compared"
        drawn = accuracy_figure(each.name, f"{each.title} ({origin})", about, curves, chance)
        wanted = each.ranked and any(one.sure for one in curves)
        yield drawn if wanted else f'<div class="unsure">{drawn}</div>'


def _average(entry: Entry) -> float:
    return sum(point.accuracy for point in entry.points) / len(entry.points)


def _linked(cells: dict[str, str], links: dict[int, str], label: str) -> str:
    return f'<a href="{links[id(cells)]}">{text(label)}</a>'


def _mistakes(rankings: Sequence[Ranking], links: dict[int, str]) -> Iterator[str]:
    shown = False
    for each in rankings:
        lines = [
            (_linked(entry.cells, links, entry.label), kinds)
            for entry in each.entries
            if each.measured and (kinds := kinds_of_row(entry.cells)) is not None
        ]
        if lines:
            if not shown:
                yield KIND_KEY
            shown = True
            yield kinds_table(each.title, "run", lines)
    if not shown:
        yield '<p class="soft">No measured row yet.</p>'


def _noise(rows: Sequence[dict[str, str]], links: dict[int, str]) -> Iterator[str]:
    """Yield mean accuracy with and without noise, for runs on named stories that differ in nothing else."""
    yield (
        "<p>The same questions with and without distracting sentences, everything else alike. The bar spans from one "
        "mean accuracy to the other; what noise costs is in percentage points.</p>"
    )
    lines = []
    for clean, noisy in noise_pairs(rows):
        if not named_twins(clean, noisy):
            continue
        before, after = float(clean["mean"]), float(noisy["mean"])
        low, high = sorted((before, after))
        said = f"{percent(before)} without noise, {percent(after)} with noise"
        bar = strip([(low, max(high, low + 0.004), 0 if after >= before else 1)], said)
        name = f"{system_of(noisy)} ({asked_how(noisy)})"
        cells = [_linked(noisy, links, name), text(noisy["protocol"]), bar, percent(before), percent(after)]
        lines.append([*cells, f"{100 * (after - before):+.1f}"])
    if lines:
        headings = ["run", "protocol", "0 to 100 %", "without noise", "with noise", "difference"]
        yield table("Mean accuracy with and without noise, in per cent", headings, lines, words=3)
    else:
        yield '<p class="soft">No two measured rows on named stories differ in noise alone yet.</p>'


def _words() -> str:
    pairs = [
        ("k", "links in the chain of a story; under the exact protocol its two ends are asked about"),
        (
            "mean",
            "the unweighted mean of the accuracies at each k; of a published row that does not give all ten, the total "
            "that its source gives",
        ),
        ("small numbers", "the 95 % Wilson interval, in per cent"),
        ("unparsed", "answers from which no label could be read; they count as wrong"),
        ("chance", "one in nine: the labels are the eight directions and overlap"),
        ("lenient scoring", "right if any of several answers is; such figures are too high by an unknown amount"),
        *(
            (word, about + ("" if plotted else "; plotted only on request"))
            for word, (plotted, about) in CONFIDENCE.items()
        ),
    ]
    return facts((name, text(about)) for name, about in pairs)
