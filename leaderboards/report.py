"""A report: some runs as one file of HTML that needs nothing but itself, and its plots as SVG and PNG beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import stepgame
from leaderboards.markup import block, page, table, text
from leaderboards.parts import (
    KIND_KEY,
    answers,
    by_k_table,
    kinds_of_row,
    kinds_table,
    percent,
    points_of,
    settings_list,
)
from leaderboards.rankings import asked_how, describe_data, noise_pairs, system_of
from leaderboards.schema import row_of
from leaderboards.svg import Series, accuracy_figure
from stepgame.errors import InputError, require
from stepgame.files import write_text

if TYPE_CHECKING:
    from harness import Run
    from harness.compare import PairComparison, PairedTest

__all__ = ["Report", "write_report"]

_ALL_PAIRS = 5
"""Runs on the same stories up to which every pair is compared; of more, each with the first."""


class Report(NamedTuple):
    """What was written.

    Attributes:
        page: the HTML file.
        plots: the pictures beside it.
        notes: what the report lacks, and why.
    """

    page: Path
    plots: list[Path]
    notes: list[str]


class _Subject(NamedTuple):
    """A run as the report calls it."""

    name: str
    run: Run
    row: dict[str, str]

    @property
    def stories(self) -> tuple[str, str]:
        return self.row["task"], self.row["data_sha256"]


def write_report(runs: Sequence[str | Path], out: Path, *, examples: int = 5, plots: bool = True) -> Report:
    """Write a report on runs.

    Args:
        runs: folders of finished runs, or of probes, which hold a run and its variants.
        out: the HTML file if it ends in ``.html``, else a folder for ``index.html``.
        examples: answers shown of each run: so many of the first, and of the wrong.
        plots: write SVG and PNG as well; this needs matplotlib.

    Raises:
        InputError: if a folder holds no finished run, or ``out`` cannot be written.
        MissingExtraError: if ``plots`` is asked for and matplotlib is not installed; nothing is written then.
    """
    if examples < 0:
        raise InputError(f"--examples {examples}: expected a whole number of at least 0")
    target = out if out.suffix.lower() == ".html" else out / "index.html"
    if target.is_dir() or (target != out and out.is_file()):
        raise InputError(f"--out {out}: expected a file that ends in .html, or a folder")
    if plots:
        require("matplotlib", "report", "the plots; without them: --no-plots")
    subjects, probes = _subjects(runs)
    notes: list[str] = []
    body = [
        '<h2 id="asked">What was run</h2>',
        *_asked(subjects),
        '<h2 id="results">Results by k</h2>',
        *_results(subjects),
        '<h2 id="pairs">Paired comparisons</h2>',
        *_pairs(subjects, notes),
        '<h2 id="decay">Decay with k</h2>',
        _decay(subjects),
        '<h2 id="mistakes">Kinds of mistake</h2>',
        *_mistakes(subjects),
    ]
    if probes:
        try:
            body += ['<h2 id="probes">Invariance</h2>', *_probes(probes)]
        except (KeyError, TypeError) as error:
            raise InputError(f"probe.json is incomplete or was changed by hand ({error}); probe again") from None
    body += ['<h2 id="answers">Answers</h2>', *_examples(subjects, examples)]
    places = ["asked", "results", "pairs", "decay", "mistakes", *(["probes"] if probes else []), "answers"]
    nav = "".join(f'<li><a href="#{each}">{each}</a></li>' for each in places)
    title = f"Report on {len(subjects)} run{'s' if len(subjects) > 1 else ''}"
    header = f'<h1>{title}</h1><nav aria-label="Page"><ul>{nav}</ul></nav>'
    footer = f'<p class="soft">stepgame {stepgame.__version__}</p>'
    write_text(target, page(title, header, "\n".join(body), footer))
    stem = "" if target != out else f"{out.stem}-"
    return Report(target, _plots(subjects, target.parent, stem) if plots else [], notes)


def _subjects(paths: Sequence[str | Path]) -> tuple[list[_Subject], list[dict[str, Any]]]:
    """Read the runs, and what probes say."""
    from harness import load_run
    from harness.probes import PROBE, read_probe
    from harness.variants import ORIGINAL

    runs, probes = [], []
    for path in map(Path, paths):
        probed = (path / PROBE).is_file()
        if probed:
            probes.append(read_probe(path))
        runs.append(load_run(path / ORIGINAL if probed else path))
    names = [run.path.resolve().name if run.path.name != ORIGINAL else run.path.resolve().parent.name for run in runs]
    unique = [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]
    return [_Subject(name, run, row_of(run)) for name, run in zip(unique, runs, strict=True)], probes


def _groups(subjects: Sequence[_Subject]) -> list[list[_Subject]]:
    """Sort runs by the stories they asked."""
    groups: dict[tuple[str, str], list[_Subject]] = {}
    for each in subjects:
        groups.setdefault(each.stories, []).append(each)
    return list(groups.values())


def _heading(row: dict[str, str]) -> str:
    return row["data"] or f"{row['task']}: {describe_data(row)}"


def _asked(subjects: Sequence[_Subject]) -> Iterator[str]:
    from harness.pairing import differing_settings

    lines = [
        [
            text(each.name),
            text(system_of(each.row)),
            text(asked_how(each.row)),
            text(_heading(each.row)),
            each.row["n"],
            text(each.row["backend"]),
            f'<span class="nw">{text(each.row["date"][:10])}</span>',
            text(each.row["commit"][:12] + (" (dirty)" if each.row["dirty"] == "yes" else "")),
        ]
        for each in subjects
    ]
    headings = ["run", "model", "how it was asked", "stories", "n", "engine", "date", "commit"]
    yield table("The runs", headings, lines, words=4)
    if len(subjects) > 1:
        differ = differing_settings([each.run for each in subjects])
        shown = [
            [text(name), *(text(value if isinstance(value, str) else json.dumps(value), 60) for value in values)]
            for name, values in differ.items()
        ]
        if shown:
            yield "<details><summary>Settings that differ</summary>"
            yield table("Settings that differ", ["setting", *(each.name for each in subjects)], shown, words=99)
            yield "</details>"
    for each in subjects:
        yield f"<details><summary>{text(each.name)}: command, hashes and versions</summary>"
        yield block(each.row["command"])
        wanted = (
            "model_hash",
            "adapter_hash",
            "data_sha256",
            "prompt_sha256",
            "samples_sha256",
            "sampling",
            "hardware",
        )
        facts: dict[str, Any] = {name: each.row[name] for name in wanted if each.row[name]}
        yield settings_list(facts | {"versions": each.run.manifest.get("versions")})
        yield "</details>"


def _results(subjects: Sequence[_Subject]) -> Iterator[str]:
    for place, group in enumerate(_groups(subjects)):
        chances = {_chance(each) for each in group}
        chance = chances.pop() if len(chances) == 1 else None
        curves = [Series(each.name, points_of(each.row)) for each in group]
        yield accuracy_figure(f"r-{place}", _heading(group[0].row), "bars are 95 % Wilson intervals", curves, chance)
        yield by_k_table("Accuracy in per cent, with 95 % intervals", [(text(each.name), each.row) for each in group])


def _pairs(subjects: Sequence[_Subject], notes: list[str]) -> Iterator[str]:
    """Yield comparisons of runs on the same stories, and of noisy stories with their clean twins."""
    from harness.compare import compare

    found: list[tuple[str, list[PairComparison]]] = []

    def compared(those: Sequence[_Subject], **settings: Any) -> list[PairComparison]:
        """Compare runs, and call them as the report does."""
        done = compare([each.run for each in those], **settings)
        called = {summary.name: each.name for summary, each in zip(done.runs, those, strict=True)}
        return [replace(pair, first=called[pair.first], second=called[pair.second]) for pair in done.pairs]

    for group in _groups(subjects):
        if len(group) > 1:
            pairs = compared(group, all_pairs=len(group) <= _ALL_PAIRS)
            found.append((f"Same stories: {_heading(group[0].row)}", pairs))
    by_row = {id(each.row): each for each in subjects}
    for clean, noisy in noise_pairs([each.row for each in subjects]):
        try:
            pairs = compared([by_row[id(clean)], by_row[id(noisy)]], match="twins")
        except InputError as error:
            notes.append(str(error))
            continue
        found.append((f"Noise sensitivity: {system_of(noisy)}, {noisy['protocol']} protocol", pairs))
    if not found:
        yield '<p class="soft">No two of the runs asked the same stories, so there is nothing to compare.</p>'
        return
    yield (
        "<p>Differences are of the second run from the first, in percentage points, over the stories that both "
        "answered. p is exact and two-sided (McNemar); Holm is the same, adjusted for the tests of its table.</p>"
    )
    for title, pairs in found:
        yield table(title, _PAIR_HEADINGS, [_tested(f"{pair.second} − {pair.first}", pair.overall) for pair in pairs])
        for pair in pairs:
            yield f"<details><summary>{text(pair.second)} − {text(pair.first)}, by k</summary>"
            yield table("By k", _PAIR_HEADINGS, [_tested(f"k {test.k}", test) for test in pair.by_k])
            yield "</details>"


_PAIR_HEADINGS = [
    "pair",
    "n",
    "difference",
    "95 % interval",
    "only first right",
    "only second right",
    "p",
    "Holm",
    "verdict",
]


def _tested(name: str, test: PairedTest) -> list[str]:
    verdict = "they differ" if test.significant else "cannot be told apart"
    low, high = 100 * test.low, 100 * test.high
    counts = [str(test.first_only), str(test.second_only)]
    return [
        text(name),
        str(test.n),
        f"{100 * test.difference:+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        *counts,
        _p(test.p),
        _p(test.p_holm),
        verdict,
    ]


def _p(value: float) -> str:
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


def _chance(subject: _Subject) -> float:
    """Return the accuracy of guessing that a run's results state.

    Raises:
        InputError: if they state none.
    """
    found = (subject.run.results or {}).get("chance")
    if not isinstance(found, float) or not 0 <= found < 1:
        raise InputError(f"{subject.run.path / 'results.json'}: chance is {found!r}; run: stepgame rescore")
    return found


def _decay(subjects: Sequence[_Subject]) -> str:
    from harness.decay import fit_decay

    lines = []
    for each in subjects:
        # From the row, whose figures have been read already: a published accuracy is a whole number of answers.
        points = points_of(each.row)
        counts = [point.n or 0 for point in points]
        right = [round(point.accuracy * n) for point, n in zip(points, counts, strict=True)]
        fit = fit_decay([point.k for point in points], right, counts, _chance(each))
        if fit.reliability is None or fit.reliability_low is None or fit.reliability_high is None:
            lines.append([text(each.name), "", "", "", text(fit.reason)])
            continue
        reliability = f"{fit.reliability:.3f} ({fit.reliability_low:.3f} to {fit.reliability_high:.3f})"
        horizon = "unbounded" if fit.horizon is None else f"{fit.horizon:.1f}"
        fits = "" if fit.p_fit is None else _p(fit.p_fit)
        lines.append([text(each.name), reliability, horizon, fits, text(fit.reason)])
    headings = ["run", "share kept per hop", "half of it left at k", "fit, p", "remark"]
    return table("How accuracy above chance falls with each hop", headings, lines)


def _mistakes(subjects: Sequence[_Subject]) -> Iterator[str]:
    lines = [(text(each.name), kinds) for each in subjects if (kinds := kinds_of_row(each.row)) is not None]
    if not lines:
        yield '<p class="soft">Kinds of mistake are known for the nine spatial labels alone.</p>'
        return
    yield KIND_KEY
    yield kinds_table("Mistakes by kind", "run", lines)


def _probes(probes: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield (
        "<p>The same stories told otherwise. An answer is consistent when it stays the same, or for a reversed "
        "question turns into its inverse.</p>"
    )
    for probe in probes:
        lines = []
        for each in probe["probes"]:
            rates = (each["overall"], each["right"])
            shown = [
                ""
                if rate["share"] is None
                else f"{percent(rate['share'])}<small>{100 * rate['low']:.0f}–{100 * rate['high']:.0f}</small>"
                for rate in rates
            ]
            before, after = each["accuracy_original"], each["accuracy_variant"]
            lines.append(
                [
                    text(each["variant"]),
                    str(int(each["overall"]["n"])),
                    *shown,
                    percent(each["by_chance"]),
                    f"{percent(before)} → {percent(after)}",
                    _p(each["p"]),
                ]
            )
        headings = ["variant", "pairs", "consistent, %", "of the right ones, %", "by chance, %", "accuracy, %", "p"]
        yield table(f"{probe['model']}, seed {probe['seed']}", headings, lines)


def _examples(subjects: Sequence[_Subject], count: int) -> Iterator[str]:
    for each in subjects:
        yield f"<details><summary>{text(each.name)}</summary>{answers(each.run.samples(), count)}</details>"


def _plots(subjects: Sequence[_Subject], folder: Path, stem: str) -> list[Path]:
    """Write the plots beside the page, one of accuracy for each set of stories."""
    from leaderboards.plots import plot_accuracy, plot_mistakes

    written = []
    groups = _groups(subjects)
    for place, group in enumerate(groups, 1):
        name = f"{stem}accuracy" if len(groups) == 1 else f"{stem}accuracy-{place}"
        for suffix in (".svg", ".png"):
            written.append(plot_accuracy([each.run for each in group], folder / f"{name}{suffix}"))
    named = [(each.name, kinds) for each in subjects if (kinds := kinds_of_row(each.row)) is not None]
    if any(sum(kinds.values()) for _, kinds in named):
        written += [plot_mistakes(named, folder / f"{stem}mistakes{suffix}") for suffix in (".svg", ".png")]
    return written
