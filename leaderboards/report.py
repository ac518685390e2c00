"""A report: some runs as one file of HTML that needs nothing but itself, and its plots as SVG and PNG beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import stepgame
from leaderboards.markup import block, page, table, text, visible
from leaderboards.parts import (
    KIND_KEY,
    answered_row,
    answers,
    by_k_table,
    kinds_of_row,
    kinds_table,
    percent,
    points_of,
    reading,
    settings_list,
)
from leaderboards.rankings import asked_how, describe_data, noise_pairs, system_of
from leaderboards.svg import Series, accuracy_figure
from stepgame.errors import InputError, require
from stepgame.files import write_text

if TYPE_CHECKING:
    from harness import Run
    from harness.compare import PairComparison, PairedTest
    from harness.decay import Decay

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
    """A run as the report calls it, and what is read from its files.

    Attributes:
        name: printable, and no other run's.
        run: the run.
        row: its row, of the answers alone.
        chance: accuracy of guessing.
        decay: how its accuracy falls with k.
        unanswered: for each k with stories that got no answer: k, how many, and of how many.
        answers: markup that shows some.
    """

    name: str
    run: Run
    row: dict[str, str]
    chance: float
    decay: Decay
    unanswered: list[tuple[int, int, int]]
    answers: str

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
        InputError: if a folder holds no finished run or cannot be read, or ``out`` cannot be written.
        MissingExtraError: if ``plots`` is asked for and matplotlib is not installed; nothing is written then.
    """
    if examples < 0:
        raise InputError(f"--examples {examples}: expected a whole number of at least 0")
    target = out if out.suffix.lower() == ".html" else out / "index.html"
    if target.is_dir() or (target != out and out.is_file()):
        raise InputError(f"--out {out}: expected a file that ends in .html, or a folder")
    if plots:
        require("matplotlib", "report", "the plots; without them: --no-plots")
    subjects, probes = _subjects(runs, examples)
    notes: list[str] = []
    with reading(*runs):
        sections = {
            "asked": ("What was run", [*_asked(subjects)]),
            "results": ("Results by k", [*_results(subjects)]),
            "pairs": ("Paired comparisons", [*_pairs(subjects, notes)]),
            "decay": ("Decay with k", [_decay(subjects)]),
            "mistakes": ("Kinds of mistake", [*_mistakes(subjects)]),
            "probes": ("Invariance", [_PROBES, *probes] if probes else []),
            "answers": ("Answers", [*_examples(subjects)] if examples else []),
        }
    shown = {name: section for name, section in sections.items() if section[1]}
    body = [f'<h2 id="{name}">{title}</h2>\n{"".join(parts)}' for name, (title, parts) in shown.items()]
    nav = "".join(f'<li><a href="#{name}">{name}</a></li>' for name in shown)
    title = f"Report on {len(subjects)} run{'s' if len(subjects) > 1 else ''}"
    header = f'<h1>{title}</h1><nav aria-label="Page"><ul>{nav}</ul></nav>'
    footer = f'<p class="soft">stepgame {stepgame.__version__}</p>'
    stem = "" if target != out else f"{out.stem}-"
    if plots and target.is_file():
        _remove_plots(target.parent, stem)
    write_text(target, page(title, header, "\n".join(body), footer))
    return Report(target, _plots(subjects, target.parent, stem) if plots else [], notes)


def _subjects(paths: Sequence[str | Path], examples: int) -> tuple[list[_Subject], list[str]]:
    """Read the runs, and what probes say, as tables."""
    from harness import load_run
    from harness.probes import PROBE, read_probe
    from harness.variants import ORIGINAL

    subjects, probes = [], []
    names: list[str] = []
    for path in map(Path, paths):
        with reading(path):
            probed = (path / PROBE).is_file()
            if probed:
                probes.append(_probe(read_probe(path)))
            run = load_run(path / ORIGINAL if probed else path)
            folder = run.path.resolve()
            names.append(visible(folder.parent.name if run.path.name == ORIGINAL else folder.name))
            subjects.append(_subject(names[-1], run, examples))
    unique = [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]
    return [each._replace(name=name) for each, name in zip(subjects, unique, strict=True)], probes


def _subject(name: str, run: Run, examples: int) -> _Subject:
    """Read everything that the report needs of one run.

    Raises:
        InputError: if the run is unfinished, or its results do not add up.
    """
    from harness.decay import fit_decay

    row = answered_row(run)
    results = run.results or {}
    chance, by_k = results.get("chance"), results["by_k"]
    if not isinstance(chance, float) or not 0 <= chance < 1:
        raise InputError(f"{run.path / 'results.json'}: chance is {chance!r}; run: stepgame rescore")
    counts = [(each["k"], each["correct"], each["n"] - each["errors"]) for each in by_k]
    answered = sum(n > 0 for _, _, n in counts)
    if answered != len(points_of(row)) or not all(0 <= correct <= n for _, correct, n in counts):
        raise InputError(f"{run.path / 'results.json'}: by_k does not add up; run: stepgame rescore")
    k, correct, n = zip(*counts, strict=True)
    decay = fit_decay(k, correct, n, chance)
    unanswered = [(each["k"], each["errors"], each["n"]) for each in by_k if each["errors"]]
    return _Subject(name, run, row, chance, decay, unanswered, answers(run.samples(), examples))


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
        chances = {each.chance for each in group}
        chance = chances.pop() if len(chances) == 1 else None
        curves = [Series(each.name, points_of(each.row)) for each in group]
        yield accuracy_figure(f"r-{place}", _heading(group[0].row), "bars are 95 % Wilson intervals", curves, chance)
        yield by_k_table("Accuracy in per cent, with 95 % intervals", [(text(each.name), each.row) for each in group])
        yield from (_unanswered(each) for each in group if each.unanswered)


def _unanswered(subject: _Subject) -> str:
    """Say which stories no accuracy of a run counts."""
    places = ", ".join(f"{errors:,} of {n:,} at k {k}" for k, errors, n in subject.unanswered)
    mean = " The mean is of the other k." if any(errors == n for _, errors, n in subject.unanswered) else ""
    total = sum(errors for _, errors, _ in subject.unanswered)
    said = f"{subject.name}: {total:,} stories ended in an error and are in no accuracy: {places}.{mean}"
    return f'<p class="bad">{text(said, 2000)}</p>'


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
        "answered. p is exact and two-sided (McNemar); Holm is the same, adjusted for several tests: in a table of "
        "pairs for all of them, in the tables by k below it for every k of all of these pairs.</p>"
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


def _decay(subjects: Sequence[_Subject]) -> str:
    lines = []
    for each in subjects:
        fit = each.decay
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


_PROBES = (
    "<p>The same stories told otherwise. An answer is consistent when it stays the same, or for a reversed "
    "question turns into its inverse.</p>"
)


def _probe(probe: dict[str, Any]) -> str:
    """Return the table of one ``probe.json``."""
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
    return table(f"{probe['model']}, seed {probe['seed']}", headings, lines)


def _examples(subjects: Sequence[_Subject]) -> Iterator[str]:
    for each in subjects:
        yield f"<details><summary>{text(each.name)}</summary>{each.answers}</details>"


def _remove_plots(folder: Path, stem: str) -> None:
    """Remove what an earlier report of the same name has plotted: it may have had more sets of stories."""
    for path in folder.iterdir():
        if re.fullmatch(rf"{re.escape(stem)}(accuracy(-\d+)?|mistakes)\.(svg|png)", path.name):
            path.unlink()


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
