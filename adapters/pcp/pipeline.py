"""Prompt-based continued pre-training as a pipeline of stages, and its baselines (Shi & Lipani 2023, arXiv 2305.01711).

The folder that is written holds the model at its top, as a checkpoint of transformers, and how it came about under
``training/``: ``manifest.json``, frozen before the first stage; a folder for each stage, with its model, its curve and
``stage.json``, written last; and ``result.json``. With a test file, ``questions.jsonl`` and ``prompt.toml`` beside the
model ask its questions by ``stepgame run``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from adapters.describe import describe_model, load_fast_tokenizer
from adapters.pcp.config import NAME, PipelineSettings
from adapters.pcp.data import load_corpus
from adapters.pcp.learners import (
    Bench,
    Labelled,
    Learner,
    classifier,
    first_tokens,
    gap_filler,
    predictor,
    pretrainer,
    self_trainer,
)
from adapters.pcp.stage import MODEL, accuracy, finished, model_of, perform_stage, write_mark
from adapters.pcp.tasks import STEPGAME, load_task
from adapters.processes import is_first, join, processes, share, wait
from adapters.store import write_adapter
from adapters.training import RESULT, check_start, only_writer, place_of, resumed_manifest
from harness.models.adapters import ADAPTER_FILE, Adapter, read_adapter
from harness.models.architecture import kind_of
from harness.models.builtin import checkpoint_hash, quiet_transformers
from harness.models.masked import option_ids
from harness.models.registry import parse_model
from harness.progress import say
from harness.provenance import git_state, hardware, versions
from stepgame.errors import InputError
from stepgame.files import write_text

__all__ = ["PSEUDO_LABELS", "QUESTIONS", "make_bench", "perform_pipeline"]

PSEUDO_LABELS = "pseudo_labels.jsonl"
QUESTIONS, PROMPT = "questions.jsonl", "prompt.toml"
_SAME = ("method", "task", "base", "data", "pipeline", "settings")
_PROMPT = """\
name = "{name}"
version = 1
description = "The questions of the task {task}, each already in its template."

[choice]
user = "{{question}}"
"""


def perform_pipeline(settings: PipelineSettings, command: Sequence[str]) -> Adapter:
    """Run a pipeline, and write its model.

    Args:
        settings: which one, on what, and where to.
        command: the command line, for the record.

    Returns:
        The model that was written; as an adapter it takes its base model's place.

    Raises:
        InputError: if anything about the request is wrong; before any weights are loaded where that can be known.
        adapters.trainer.TrainingStoppedError: if a loss is no longer finite.
        KeyboardInterrupt: on Ctrl-C; the message says how to go on.
    """
    train = settings.train
    folder = check_start(train)
    if processes() > 1 and settings.method == "self-training":
        raise InputError("self-training keeps what it is sure of in one process; start it without a launcher")
    quiet_transformers()
    bench = make_bench(settings)
    join(place_of(train)[0])
    with only_writer(folder) as training:
        if not bench.base.content_hash:
            # A hub model's files are all here only when its weights are.
            bench.load(bench.base)
            digest = checkpoint_hash(bench.base.source, bench.base.revision)
            bench = replace(bench, base=replace(bench.base, content_hash=digest))
        going_on = resumed_manifest(training, folder, _manifest(bench, command), train, _SAME)
        if is_first() and not going_on:
            # Questions of an earlier task, which a pipeline without a test file would not write over.
            for name in (QUESTIONS, PROMPT):
                (folder / name).unlink(missing_ok=True)
        # The first process may be clearing the folder.
        wait()
        if going_on and (folder / ADAPTER_FILE).exists():
            return read_adapter(folder)
        started = time.perf_counter()
        marks = _perform(bench, training)
        if is_first():
            _finish(bench, folder, training, marks, None if going_on else started)
        wait()
    return read_adapter(folder)


def make_bench(settings: PipelineSettings) -> Bench:
    """Read everything that a pipeline begins with but weights, and check that it fits together.

    Args:
        settings: of the pipeline.

    Raises:
        InputError: if it does not.
    """
    train = settings.train
    task = load_task(settings.task)
    request = parse_model(train.model, dtype=train.dtype, device=train.device)
    base = describe_model(request, masked=True)
    if base.config.is_encoder_decoder:
        raise InputError(f"model {train.model!r} is an encoder-decoder; {NAME} trains masked models and decoders")
    masked = kind_of(getattr(base.config, "architectures", None) or []) == "masked"
    place_of(train)
    tokenizer = load_fast_tokenizer(request)
    if masked and tokenizer.mask_token_id is None:
        raise InputError(f"model {train.model!r} is a masked language model whose tokenizer has no mask")
    if settings.mask_label and not masked:
        raise InputError("--mask-label belongs to masked language models; a decoder has no masks")
    if settings.template == "soft" and task.name == STEPGAME and not masked:
        raise InputError(f"decoders are asked {STEPGAME} by --prompt; `stepgame train pt` makes that soft")
    if train.max_tokens is not None and base.positions is not None and train.max_tokens > base.positions:
        raise InputError(f"--max-tokens {train.max_tokens} is more than the {base.positions} positions of the model")
    bench = Bench(settings, task, base, request, tokenizer, load_corpus(settings, task), masked)
    if settings.asks:
        _check_words(bench)
    return bench


def _check_words(bench: Bench) -> None:
    """Check that the model can tell the label words apart, and that every text can be asked."""
    asker = bench.asker
    if bench.masked:
        for word, ids in zip(asker.options, option_ids(bench.tokenizer, asker.options), strict=True):
            if len(ids) > 1:
                pieces = " ".join(bench.tokenizer.convert_ids_to_tokens(ids))
                raise InputError(
                    f"label word {word!r} is {len(ids)} tokens in this model's vocabulary ({pieces}), and a mask "
                    "stands for one; choose another word in a task file"
                )
    corpus = bench.corpus
    for text in (*corpus.labelled, *corpus.dev, *corpus.test, *corpus.unlabelled):
        asker.prompt(text)
    if bench.settings.method == "self-training" and bench.settings.template == "hard":
        first_tokens(bench, bench.tokenizer, asker)


def _manifest(bench: Bench, command: Sequence[str]) -> dict[str, Any]:
    settings = asdict(bench.settings.train)
    plain = {key: value if isinstance(value, int | float | None) else str(value) for key, value in settings.items()}
    return {
        "method": NAME,
        "pipeline": bench.settings.record(),
        "task": bench.task_record(),
        "base": bench.base.record(),
        "settings": plain,
        "data": {**bench.corpus.record(), "pseudo_labels_sha256": _given_labels(bench.settings)},
        "versions": versions(),
        "hardware": hardware(torch.cuda.get_device_name() if torch.cuda.is_available() else None),
        "git": git_state(),
        "command": list(command),
    }


def _given_labels(settings: PipelineSettings) -> str | None:
    """Return the hash of pseudo-labels that are given; None where none are."""
    if settings.pseudo_labels is None:
        return None
    try:
        return hashlib.sha256(Path(settings.pseudo_labels).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"--pseudo-labels {settings.pseudo_labels!r} cannot be read: {error.strerror}") from None


def _perform(bench: Bench, training: Path) -> dict[str, dict[str, Any]]:
    """Perform the stages in order; return their marks."""
    settings, source = bench.settings, bench.base
    marks: dict[str, dict[str, Any]] = {}
    labelled: list[Labelled] | None = None
    folders = {stage: training / stage for stage in settings.stages}
    if "label-ft" in folders:
        marks["label-ft"] = perform_stage(
            bench,
            folders["label-ft"],
            "label-ft",
            lambda: gap_filler(bench, source),
            lambda learner: _write_labels(bench, learner, training),
        )
    if "pseudo-label" in folders and "label-ft" not in folders:
        marks["pseudo-label"] = finished(folders["pseudo-label"]) or _label_as_it_is(bench, folders["pseudo-label"])
        wait()
    if settings.method == "pcp" and "pretrain" in folders:
        labelled = _read_labels(bench, Path(settings.pseudo_labels or training / PSEUDO_LABELS))
    if "pretrain" in folders:
        marks["pretrain"] = perform_stage(
            bench, folders["pretrain"], "pretrain", lambda: pretrainer(bench, source, labelled)
        )
    if "fine-tune" in folders:
        begun = model_of(bench.base, folders["pretrain"]) if "pretrain" in folders else bench.base
        last = {"cls": classifier, "prompt": gap_filler}[settings.head_of_last]
        build = self_trainer if settings.method == "self-training" else last
        marks["fine-tune"] = perform_stage(
            bench,
            folders["fine-tune"],
            "fine-tune",
            lambda: build(bench, begun),
            lambda learner: _measure(bench, learner, training.parent),
        )
    return marks


def _write_labels(bench: Bench, learner: Learner, training: Path) -> dict[str, Any]:
    """Label the unlabelled texts; return what is to be said of the labels."""
    if learner.predict is None or learner.asker is None:
        raise TypeError("a model that predicts nothing cannot label")
    corpus, options = bench.corpus, learner.asker.options
    started = time.perf_counter()
    say(f"labelling {len(corpus.unlabelled)} texts")
    found = share(learner.predict, corpus.unlabelled, learner.module)
    lines: list[dict[str, Any]] = []
    for text, each in zip(corpus.unlabelled, found, strict=True):
        best = max(range(len(each)), key=each.__getitem__)
        confidence = round(each[best], 6)
        label = {"id": text.id, "class": best, "word": options[best], "confidence": confidence}
        lines.append({**label, "text_sha256": text.sha256})
    if is_first():
        write_text(training / PSEUDO_LABELS, "".join(json.dumps(line) + "\n" for line in lines))
    least = bench.settings.threshold
    kept = [pair for pair in zip(lines, corpus.hidden, strict=True) if pair[0]["confidence"] >= least]
    known = [line["class"] == gold for line, gold in kept if gold is not None]
    return {
        "labels": {
            "texts": len(lines),
            "kept": len(kept),
            "classes": dict(Counter(line["word"] for line, _ in kept)),
            "accuracy": round(sum(known) / len(known), 5) if known else None,
            "seconds": round(time.perf_counter() - started, 3),
        }
    }


def _label_as_it_is(bench: Bench, folder: Path) -> dict[str, Any]:
    """Label by the model before any training."""
    model, asker = bench.load(bench.base), bench.asker
    predict = predictor(model, bench.tokenizer, asker, bench)
    learner = Learner(None, model, bench.tokenizer, (), (), None, predict, asker)
    mark = _write_labels(bench, learner, folder.parent)
    if is_first():
        folder.mkdir(exist_ok=True)
        write_mark(folder, mark)
    return mark


def _read_labels(bench: Bench, path: Path) -> list[Labelled]:
    """Read pseudo-labels, those that are confident enough.

    Raises:
        InputError: if they are not of these texts, or none is left.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        # By what a text says, for files of different tasks name and number their texts alike.
        labels = {str(line["text_sha256"]): (int(line["class"]), float(line["confidence"])) for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected JSON lines with class, confidence and text_sha256, as a pipeline writes them: {error!r}"
        ) from None
    unlabelled = bench.corpus.unlabelled
    missing = sum(text.sha256 not in labels for text in unlabelled)
    if missing:
        raise InputError(f"{path} has no label for {missing} of the {len(unlabelled)} texts of --unlabelled")
    wrong = next((label for label, _ in labels.values() if not 0 <= label < len(bench.task.words)), None)
    if wrong is not None:
        raise InputError(f"{path}: class {wrong} is none of the task {bench.task.name!r}")
    least = bench.settings.threshold
    kept = [Labelled(text, labels[text.sha256][0]) for text in unlabelled if labels[text.sha256][1] >= least]
    if not kept:
        raise InputError(f"no pseudo-label is as confident as --threshold {least}; lower it")
    return kept


def _measure(bench: Bench, learner: Learner, folder: Path) -> dict[str, Any]:
    """Measure the finished model, and write what asks it the same."""
    corpus = bench.corpus
    if learner.predict is None or not corpus.test:
        return {}
    found = share(learner.predict, corpus.test, learner.module)
    # A decoder is asked stories by a prompt of the harness; everything else has a template of its own.
    if is_first() and learner.asker is not None and (bench.masked or not corpus.stories):
        asker = learner.asker
        lines = [
            {
                "id": text.id,
                "question": asker.prompt(text).messages[0].content,
                "options": list(asker.options),
                "answer": asker.options[text.label or 0],
            }
            for text in corpus.test
        ]
        write_text(folder / QUESTIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        write_text(folder / PROMPT, _PROMPT.format(name=f"cloze-{bench.task.name}", task=bench.task.name))
    return {"test_accuracy": accuracy(found, corpus.test), "test": len(corpus.test)}


def _finish(
    bench: Bench, folder: Path, training: Path, marks: Mapping[str, Mapping[str, Any]], started: float | None
) -> None:
    """Put the last stage's model at the top of the folder; ``adapter.json`` last, or the folder is no adapter."""
    last = training / bench.settings.last
    files = [str(name) for name in marks[last.name]["files"]]
    for name in files:
        # What a stage before was cut off at may have been moved already.
        if (last / MODEL / name).exists():
            (last / MODEL / name).replace(folder / name)
    shutil.rmtree(last / MODEL, ignore_errors=True)
    trained = sum(mark.get("seconds", 0.0) for mark in marks.values())
    result = {
        "method": bench.settings.method,
        "test_accuracy": marks[last.name].get("test_accuracy"),
        "dev_accuracy": marks[last.name].get("best") if last.name == "fine-tune" else None,
        "training_seconds": round(trained, 3),
        "seconds": None if started is None else round(time.perf_counter() - started, 3),
        "stages": dict(marks),
    }
    write_text(training / RESULT, json.dumps(result, indent=2) + "\n")
    write_adapter(
        folder,
        kind="weights",
        method=bench.settings.method,
        config={"task": bench.task_record(), "template": bench.settings.template},
        base=bench.base.record(),
        files=files,
    )
