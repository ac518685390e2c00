"""Invariance probes: does an answer change when, and only when, the question's meaning does?

A model that works its answers out gives the same one when agents are renamed or sentences stand in another order,
and the inverse one when the question is turned round. Accuracy alone cannot show that: a right answer that does not
survive a change of names was not worked out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from harness.pairing import Sample, read_samples, setting
from harness.provenance import command_line
from harness.record import MANIFEST, Run, read_json
from harness.run import perform
from harness.settings import RunSettings, Settings
from harness.stats import mcnemar, wilson
from harness.task import Task
from harness.tasks.stepgame import StepGame
from harness.variants import ORIGINAL, VARIANTS, StepGameVariant, expected_answer
from stepgame.errors import InputError, unknown_name
from stepgame.files import write_text

__all__ = ["FORMAT", "PROBE", "Consistency", "ProbeReport", "Rate", "measure", "perform_probe", "probe", "read_probe"]

FORMAT = 1
"""Version of what ``probe.json`` holds."""

PROBE = "probe.json"
"""File name of the report, beside the folders of the runs, which have the variants' names."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often answers changed as they should.

    Attributes:
        n: pairs of an original answer and one to its variant.
        consistent: pairs that agree; an unparsed answer to the variant does not.
        share: of the pairs, in [0, 1]; None without pairs.
        low: lower bound of the share's 95 % Wilson interval.
        high: its upper bound.
    """

    n: int
    consistent: int
    share: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Consistency:
    """One probe's result.

    Attributes:
        variant: one of `harness.variants.VARIANTS`.
        expected: ``"same"`` or ``"inverse"``: what the answer should do.
        overall: all pairs.
        right: the pairs whose original answer is right.
        by_k: all pairs by k, as (k, rate), ascending.
        by_chance: share of consistent pairs to be expected from how often each answer is given alone, in [0, 1];
            a model that always says the same is consistent under renaming, and by chance.
        accuracy_original: on the pairs, in [0, 1]; None without pairs.
        accuracy_variant: likewise.
        p: two-sided exact McNemar p-value of equal accuracy.
        errors: pairs left out because one of the two got no answer.
        unparsed: pairs left out because the original answer could not be read.
        without: stories left out because they have no such variant.
    """

    variant: str
    expected: str
    overall: Rate
    right: Rate
    by_k: tuple[tuple[int, Rate], ...]
    by_chance: float | None
    accuracy_original: float | None
    accuracy_variant: float | None
    p: float
    errors: int
    unparsed: int
    without: int


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What probing a model showed.

    Attributes:
        path: the folder.
        model: the model's spec.
        seed: of new names and orders.
        probes: one result a variant.
    """

    path: Path
    model: str
    seed: int
    probes: tuple[Consistency, ...]

    def record(self) -> dict[str, Any]:
        """Return what ``probe.json`` holds, as JSON reads it back."""
        probes = []
        for each in self.probes:
            by_k = [{"k": k, **asdict(rate)} for k, rate in each.by_k]
            probes.append({**asdict(each), "by_k": by_k})
        record = {"format": FORMAT, "model": self.model, "seed": self.seed, "probes": probes}
        plain: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))
        return plain


def probe(
    model: str,
    *,
    out: str | Path,
    variants: Sequence[str] = VARIANTS,
    command: Sequence[str] | None = None,
    **settings: Unpack[Settings],
) -> ProbeReport:
    """Ask a model stories and their variants, and report how consistent its answers are.

    Writes one run folder for the originals and one a variant below ``out``, and ``probe.json`` beside them when all
    have been asked.

    Args:
        model: a model spec; see `harness.evaluate`.
        out: the folder to write.
        variants: which of `harness.variants.VARIANTS` to ask.
        command: what to record as the command line; the process's own when omitted.
        settings: as for `harness.evaluate`; ``seed`` is also that of new names and orders.

    Raises:
        InputError: if anything about the request is wrong; nothing has been asked then.
        TooManyErrorsError: if a run has more than ``max_errors``; every answer so far is kept.
        KeyboardInterrupt: on Ctrl-C; every answer so far is kept.
    """
    words = command_line() if command is None else command
    return perform_probe(RunSettings.of(model=model, out=out, **settings), variants, words)


def perform_probe(settings: RunSettings, variants: Sequence[str], command: Sequence[str]) -> ProbeReport:
    """Make the probes that settings describe; see `probe`.

    Args:
        settings: with ``out``, for the task ``stepgame``.
        variants: which of `harness.variants.VARIANTS` to ask.
        command: the command line; secrets in it are not recorded.
    """
    if settings.out is None:
        raise InputError("--out is missing; give the folder to write")
    if settings.task != StepGame.name:
        raise InputError(f"--task {settings.task}: probes know what the task {StepGame.name!r} asks; leave it out")
    for variant in variants:
        if variant not in VARIANTS:
            raise unknown_name("variant", variant, VARIANTS)
    if not variants or len(set(variants)) < len(variants):
        given = ", ".join(variants) or "none"
        raise InputError(f"variants must be some of {', '.join(VARIANTS)}, each once; got {given}")
    folder = Path(settings.out)
    _check_folder(folder, settings.resume or settings.overwrite)
    tasks = _tasks(settings, variants)
    # What it says follows from runs that are about to change.
    (folder / PROBE).unlink(missing_ok=True)
    runs = {name: perform(replace(settings, out=folder / name), task, command) for name, task in tasks.items()}
    original = runs.pop(ORIGINAL)
    results = tuple(measure(original, run, variant) for variant, run in runs.items())
    report = ProbeReport(folder, str(setting(original, "model.spec")), settings.seed, results)
    write_text(folder / PROBE, json.dumps(report.record(), ensure_ascii=False, indent=2) + "\n")
    return report


def read_probe(folder: Path) -> dict[str, Any]:
    """Read what probing a model showed, as `ProbeReport.record` gives it.

    Args:
        folder: what `probe` wrote.

    Raises:
        InputError: if there is no report in it, or one of another version.
    """
    record = read_json(folder / PROBE)
    if record.get("format") != FORMAT:
        raise InputError(f"{folder / PROBE}: format {record.get('format')!r}; this version reads format {FORMAT}")
    return record


def measure(original: Run, varied: Run, variant: str) -> Consistency:
    """Hold a model's answers to a variant against those to the originals.

    Args:
        original: a run on stories as they are.
        varied: a run of the same model on their variants.
        variant: which.

    Raises:
        InputError: if the second run does not ask variants of the first one's stories.
    """
    before, after = read_samples(original), read_samples(varied)
    pairs, errors, unparsed = [], 0, 0
    suffix = f"~{variant}"
    for name, told in after.items():
        asked = before.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
        if asked is None or expected_answer(variant, asked.gold) != told.gold:
            raise InputError(f"{varied.path}: {name!r} is no {variant} version of a story of {original.path}")
        if asked.error or told.error:
            errors += 1
        elif asked.prediction is None:
            unparsed += 1
        else:
            pairs.append((asked, told, told.prediction == expected_answer(variant, asked.prediction)))
    n = len(pairs)
    lost = sum(asked.correct and not told.correct for asked, told, _ in pairs)
    gained = sum(told.correct and not asked.correct for asked, told, _ in pairs)
    return Consistency(
        variant=variant,
        expected="inverse" if variant == "reversed" else "same",
        overall=_rate([agree for *_, agree in pairs]),
        right=_rate([agree for asked, _, agree in pairs if asked.correct]),
        by_k=tuple(
            (k, _rate([agree for asked, _, agree in pairs if asked.k == k])) for k in sorted({a.k for a, *_ in pairs})
        ),
        by_chance=_by_chance([(asked, told) for asked, told, _ in pairs], variant),
        accuracy_original=sum(asked.correct for asked, *_ in pairs) / n if n else None,
        accuracy_variant=sum(told.correct for _, told, _ in pairs) / n if n else None,
        p=mcnemar(lost, gained),
        errors=errors,
        unparsed=unparsed,
        without=len(before) - len(after),
    )


def _tasks(settings: RunSettings, variants: Sequence[str]) -> dict[str, Task]:
    # Read first: it refuses files and settings of stories together.
    stories = {**settings.stories, "seed": settings.seed}
    parameters: dict[str, Any] = {"file": settings.files} if settings.files else stories
    tasks: dict[str, Task] = {ORIGINAL: StepGame(**parameters)}
    for variant in variants:
        tasks[variant] = StepGameVariant(variant=variant, variant_seed=settings.seed, **parameters)
    return tasks


def _check_folder(folder: Path, known: bool) -> None:
    """Refuse to write where something other than probes lies."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out takes a folder")
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder} holds a run; probes need a folder of their own, choose another --out")
    if (folder / PROBE).exists() and not known:
        raise InputError(
            f"{folder} holds probes already; put new ones in their place by --overwrite, or choose another"
        )


def _rate(agreements: Sequence[bool]) -> Rate:
    n, consistent = len(agreements), sum(agreements)
    bounds = wilson(consistent, n)
    return Rate(n, consistent, consistent / n if n else None, bounds.low, bounds.high)


def _by_chance(pairs: Sequence[tuple[Sample, Sample]], variant: str) -> float | None:
    if not pairs:
        return None
    wanted = Counter(expected_answer(variant, asked.prediction) for asked, _ in pairs if asked.prediction is not None)
    given = Counter(told.prediction for _, told in pairs)
    return sum(count * given[answer] for answer, count in wanted.items()) / len(pairs) ** 2
