"""The loop: ask a model every example of a task, record each answer as it comes, judge at the end.

Everything that can be wrong with a request is checked before a model is loaded, and everything that defines a run is
frozen in its manifest before the first question.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

from harness.asking import Answers, Asked, OneModel, Reply
from harness.judge import judge_choice, judge_text, rejudge, summarise
from harness.models.base import Closing, Failure, Prompt, Scores
from harness.models.registry import load_model
from harness.plan import Plan, check_same, make_plan, manifest_of, plan_of, training_record, warn_of_versions
from harness.progress import Progress
from harness.provenance import command_line, redacted
from harness.record import MANIFEST, SAMPLES, Run, RunFolder, hash_of_prompt, load_run
from harness.settings import RunSettings, Settings
from harness.task import Example, Measured, Task
from stepgame.errors import InputError, StepGameError

__all__ = ["TooManyErrorsError", "evaluate", "perform", "plan_to_judge", "rescore", "resume"]

LM_EVAL = "lm-eval:"
"""What the name of a task of lm-evaluation-harness begins with."""

# What must be the same for answers of two sessions to belong to one run, and how a message names it.
_SAME_BEFORE = {
    "model.backend": "the backend",
    "adapter.content_hash": "the adapter",
    "task.name": "the task",
    "task.data_sha256": "the data",
    "prompt.sha256": "the prompt",
    "score": "the scoring",
    "sampling": "the sampling",
    "extraction": "the extraction rule",
    "seed": "the seed",
}
_SAME_LOADED = {"model.content_hash": "the model", "model.dtype": "the dtype"}


class TooManyErrorsError(StepGameError):
    """More questions got no answer than the run was told to bear; what was answered is kept."""


def evaluate(
    model: str,
    task: str | Task = "stepgame",
    *,
    out: str | Path,
    command: Sequence[str] | None = None,
    **settings: Unpack[Settings],
) -> Run:
    """Ask a model every question of a task and record the run.

    Args:
        model: a model spec; see `harness.models.registry.parse_model`.
        task: a task's name, the path of a file of questions, or a task.
        out: the run folder to write.
        command: what to record as the command line; the process's own when omitted.
        settings: any field of `harness.settings.RunSettings`, such as ``hops``, ``noise``, ``prompt`` or ``score``.

    Returns:
        The finished run.

    Raises:
        InputError: if anything about the request is wrong; nothing has been asked or written then.
        TooManyErrorsError: if more than ``max_errors`` questions got no answer; every answer so far is kept.
        KeyboardInterrupt: on Ctrl-C; every answer so far is kept, and the message says how to go on.
    """
    words = command_line() if command is None else command
    named: dict[str, Any] = {"task": task} if isinstance(task, str) else {}
    given = RunSettings.of(model=model, out=out, **named, **settings)
    return perform(given, None if isinstance(task, str) else task, words)


def perform(settings: RunSettings, task: Task | None, command: Sequence[str]) -> Run:
    """Make the run that settings describe; see `evaluate`.

    Args:
        settings: with ``out``.
        task: a task given as an object; None where the settings name it.
        command: the command line; secrets in it are not recorded.
    """
    if settings.out is None:
        raise InputError("--out is missing; give the run folder to write, or --dry-run to only look at the prompts")
    folder = Path(settings.out)
    _check_folder(folder, settings.overwrite, settings.resume)
    if settings.task.startswith(LM_EVAL):
        from harness.lm_eval.run import perform_lm_eval

        with RunFolder(folder) as record:
            _check_folder(folder, settings.overwrite, settings.resume)
            return perform_lm_eval(settings, record, redacted(command))
    plan = make_plan(settings, task, redacted(command))
    with RunFolder(folder) as record:
        # Looked at again now that nobody else can change it.
        _check_folder(folder, settings.overwrite, settings.resume)
        return _execute(plan, record, keep=settings.resume)


def resume(path: str | Path, *, max_errors: int | None = None) -> Run:
    """Go on with an unfinished run: ask what is missing, and again what ended in an error.

    Args:
        path: the run folder.
        max_errors: stop when more questions than this got no answer; None for any number.

    Returns:
        The finished run.

    Raises:
        InputError: if it is no run folder, or data, model or prompt are no longer those of the run.
        TooManyErrorsError: see `evaluate`.
    """
    frozen = load_run(path).manifest
    if frozen["task"]["name"].startswith(LM_EVAL):
        from harness.lm_eval.run import settings_of

        return perform(settings_of(frozen, Path(path)), None, frozen["command"])
    plan = replace(plan_of(frozen), max_errors=max_errors)
    with RunFolder(Path(path)) as record:
        return _execute(plan, record, keep=True)


def plan_to_judge(run: Run) -> Plan:
    """Rebuild a run's plan to judge its recorded replies; the model and its adapter may be gone.

    Raises:
        InputError: if the run is lm-eval's, its manifest is incomplete, or its data can no longer be made.
    """
    if run.manifest["task"]["name"].startswith(LM_EVAL):
        raise InputError(f"{run.path}: lm-eval judges the answers to its own tasks; there is nothing to judge again")
    plan = plan_of(run.manifest, to_ask=False)
    check_same(run.manifest, plan.record(), {"task.data_sha256": "the data"}, run.path)
    return plan


def rescore(path: str | Path) -> Run:
    """Judge a run's recorded replies again by the present rules, without a model.

    Samples and results are rewritten; the manifest's ``extraction`` is the one field that follows.

    Args:
        path: the run folder.

    Returns:
        The run, judged again; still unfinished if it was.

    Raises:
        InputError: if it is no run folder, or its data can no longer be made.
    """
    old = load_run(path)
    plan = plan_to_judge(old)
    examples = {example.id: example for example in plan.task.examples}
    with RunFolder(Path(path)) as record:
        was_finished = load_run(path).results is not None
        seconds = record.seconds()
        recorded = [*record.recorded()]
        if strange := next((line["id"] for line in recorded if line["id"] not in examples), None):
            raise InputError(f"{path}: sample {strange!r} is none of the stories that were asked; it cannot be judged")
        lines = [rejudge(line, examples[line["id"]], plan.read) for line in recorded]
        # A replaced line's time is part of the run's, and only one line a sample is left to hold it.
        lost = seconds - math.fsum(line["seconds"] for line in lines)
        if lines and lost > 0:
            lines[-1]["seconds"] += lost
        record.unfinish()
        record.replace_samples(lines)
        record.write_manifest({**old.manifest, "extraction": plan.extraction})
        if was_finished:
            record.finish(_results(plan, record))
    return load_run(path)


def _execute(plan: Plan, record: RunFolder, *, keep: bool) -> Run:
    """Load the model, freeze or check the manifest, ask what is missing, write the results."""
    old = load_run(record.path).manifest if keep and (record.path / MANIFEST).exists() else None
    done: set[str] = set()
    if old is not None:
        check_same(old, plan.record(), _SAME_BEFORE, record.path)
        done = {line["id"] for line in record.recorded() if line["error"] is None}
    missing = [plan.prompt.render(example) for example in plan.task.examples if example.id not in done]
    if missing or old is None:
        with _loaded(plan) as asked:
            manifest = manifest_of(plan, asked.identity)
            if old is None:
                record.clear()
                record.write_manifest(manifest, training_record(plan.request))
            else:
                check_same(old, manifest, _SAME_LOADED, record.path)
                warn_of_versions(old, manifest)
            record.unfinish()
            _ask_all(plan, asked, missing, len(done), record)
    record.finish(_results(plan, record))
    return load_run(record.path)


@contextlib.contextmanager
def _loaded(plan: Plan) -> Iterator[Asked]:
    """Load the model, behind the cache if there is one, or its replicas on a cluster."""
    with contextlib.ExitStack() as opened:
        if plan.replicas is not None:
            from harness.replicas import replicas_on

            yield opened.enter_context(replicas_on(plan.replicas, plan.request))
            return
        model = load_model(plan.request, plan.task.training)
        if isinstance(model, Closing):
            opened.callback(model.close)
        if plan.cache is None:
            yield OneModel(model)
            return
        from harness.cache import CachedModel, ResponseCache

        responses = opened.enter_context(ResponseCache(plan.cache))
        adapter = plan.request.adapter
        digest = None if adapter is None else adapter.content_hash
        cached = CachedModel(model, plan.request, responses, adapter_hash=digest, sampling=plan.sampling)
        yield OneModel(cached, lambda: cached.from_cache)


def _ask_all(
    plan: Plan,
    asked: Asked,
    prompts: Sequence[Prompt],
    done: int,
    record: RunFolder,
) -> None:
    total, failed = done + len(prompts), 0
    try:
        with Progress(total, done, plan.request.spec) as progress:
            for batch, answers in asked.answers(prompts, plan.sampling):
                lines = _lines(plan, [prompts[index] for index in batch], answers)
                record.append(lines)
                done += len(lines)
                errors = sum(line["error"] is not None for line in lines)
                failed += errors
                progress.advance(len(lines), sum(line["correct"] for line in lines), errors)
                if plan.max_errors is not None and failed > plan.max_errors:
                    raise _too_many(plan, record, lines, failed, done, total)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; {done} of {total} answers are kept in {record.path}; "
            f"go on with: stepgame resume {record.path}"
        ) from None


def _too_many(
    plan: Plan, record: RunFolder, lines: Sequence[dict[str, Any]], failed: int, done: int, total: int
) -> TooManyErrorsError:
    last = next(line["error"] for line in reversed(lines) if line["error"] is not None)
    return TooManyErrorsError(
        f"{failed} questions got no answer, more than --max-errors {plan.max_errors}; the last: {last}; "
        f"{done} of {total} were asked and are kept in {record.path}; go on with: stepgame resume {record.path}"
    )


def _lines(plan: Plan, prompts: Sequence[Prompt], answers: Answers) -> list[dict[str, Any]]:
    """Judge the answers to one batch."""
    # A sample's time is its share of its batch.
    seconds = round(answers.seconds / len(prompts), 6)
    lines = []
    for place, (prompt, text, reply) in enumerate(zip(prompts, answers.texts, answers.replies, strict=True)):
        line = _line(plan, prompt, text, reply) | {"seconds": seconds}
        lines.append(line | {"cached": True} if answers.cached and answers.cached[place] else line)
    return lines


def _line(plan: Plan, prompt: Prompt, rendered: str | None, reply: Reply) -> dict[str, Any]:
    example = prompt.example
    text: Any = rendered
    if text is None:
        text = [asdict(message) for message in prompt.messages]
    line: dict[str, Any] = {
        "id": example.id,
        "k_hop": example.k_hop,
        "prompt_sha256": hash_of_prompt(text),
        "prompt": text,
        "options": list(example.options),
        "gold": example.gold,
    }
    if isinstance(reply, Scores) and not reply.finite:
        reply = Failure("an option's log-likelihood is not a number; the model's weights or dtype overflow")
    if isinstance(reply, Failure):
        empty = dict.fromkeys(("prediction", "parse", "tokens_in", "tokens_out"))
        return line | empty | {"correct": False, "error": reply.error}
    if isinstance(reply, Scores):
        return line | judge_choice(reply, example) | {"error": None}
    return line | judge_text(reply, example, plan.read) | {"error": None}


def _results(plan: Plan, record: RunFolder) -> dict[str, Any]:
    examples: Sequence[Example] = plan.task.examples
    results = summarise(record.recorded(), examples)
    seconds = record.seconds()
    rate = results["answered"] / seconds if seconds > 0 else None
    if isinstance(plan.task, Measured):
        results["metrics"] = dict(plan.task.measure(record.recorded()))
    if plan.cache is not None:
        results["cache_hits"] = sum(line.get("cached", False) for line in record.recorded())
    return {**results, "seconds": round(seconds, 3), "examples_per_second": rate}


def _check_folder(folder: Path, overwrite: bool, resume: bool) -> None:
    """Refuse to touch anything that was not asked for.

    Raises:
        InputError: if the folder holds a run and neither flag is given, or something other than a run.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out takes a folder")
    if not folder.is_dir():
        return
    if (folder / MANIFEST).exists():
        if not (overwrite or resume):
            raise InputError(
                f"{folder} holds a run already; go on with it by --resume, put this one in its place by --overwrite, "
                "or choose another --out"
            )
        return
    # What a process that died before its manifest may have left.
    harmless = {SAMPLES} if not _has_bytes(folder / SAMPLES) else set()
    other = sorted(entry.name for entry in folder.iterdir() if entry.name not in harmless)
    other = [name for name in other if not name.endswith(".part")]
    if other:
        raise InputError(f"{folder} exists and is no run folder (it holds {other[0]}); choose another --out")


def _has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
