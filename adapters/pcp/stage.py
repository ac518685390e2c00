"""One stage of a pipeline: a training on the one training path, which leaves a model and a mark that it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.curves import write_curves
from adapters.full.method import save_checkpoint
from adapters.method import BaseModel, Group
from adapters.pcp.learners import Bench, Learner
from adapters.pcp.readers import Text
from adapters.processes import is_first, shard, wait
from adapters.settings import TrainSettings
from adapters.trainer import put_trainable, trainable
from adapters.training import (
    CHECKPOINTS,
    checkpoint_gradients,
    chosen_checkpoint,
    last_checkpoint,
    make_trainer,
    place_of,
    train_to_end,
    training_result,
)
from harness.progress import say
from stepgame.files import atomic_folder, write_text

__all__ = ["MODEL", "accuracy", "finished", "model_of", "perform_stage", "write_mark"]

MODEL, DONE = "model", "stage.json"
LR = 2e-5
"""Learning rate of fine-tuning where none is given."""
PRETRAIN_LR = (2e-5, 1e-4)
"""Those of pre-training, of decoders and of masked language models; the latter is the paper's."""


def perform_stage(
    bench: Bench,
    folder: Path,
    name: str,
    build: Callable[[], Learner],
    then: Callable[[Learner], Mapping[str, Any]] = lambda _: {},
) -> dict[str, Any]:
    """Train a stage unless that was done before; go on where it was cut off.

    Args:
        bench: of the pipeline.
        folder: of the stage.
        name: one of `adapters.pcp.config.STAGES`.
        build: makes what is trained.
        then: what is to be done with the trained model; what it returns goes into the mark.

    Returns:
        The stage's mark, ``stage.json``: the training's result, and what ``then`` returned.
    """
    done = finished(folder)
    if done is not None:
        say(f"{name}: done before")
        return done
    folder.mkdir(parents=True, exist_ok=True)
    learner = build()
    own, dev = _settings(bench, name), bench.corpus.dev
    going_on = last_checkpoint(folder) if (folder / CHECKPOINTS).exists() else None
    predict = learner.predict
    checkpoint_gradients(own, learner.model)
    if own.shard:
        shard(learner.module, learner.model, place_of(own)[0])
    trainer = make_trainer(
        own,
        folder,
        name=name,
        module=learner.module,
        groups=[Group(list(trainable(learner.module).values()), own.lr or LR)],
        batches=learner.batches,
        rows=learner.rows,
        held=learner.held,
        score=(lambda: accuracy(predict(dev), dev)) if predict is not None and dev else None,
    )
    seconds = train_to_end(trainer, going_on)
    learner.model.eval()
    more = then(learner)
    wait()
    if is_first():
        # A picture takes longer than many a stage.
        write_curves(folder, trainer.state.log_history, None)
        if own.shard:
            learner = build()
            put_trainable(learner.module, chosen_checkpoint(trainer))
        with atomic_folder(folder / MODEL) as made:
            files = save_checkpoint(learner.model, learner.tokenizer, made)
        mark = {**training_result(trainer, seconds), "files": files, **more}
        write_mark(folder, mark)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    wait()
    return finished(folder) or {}


def finished(folder: Path) -> dict[str, Any] | None:
    """Return a stage's mark; None if it is not done."""
    path = folder / DONE
    if not path.is_file():
        return None
    mark: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return mark


def write_mark(folder: Path, mark: Mapping[str, Any]) -> None:
    """Write a stage's mark, which says that it is done."""
    write_text(folder / DONE, json.dumps(mark, indent=2) + "\n")


def model_of(base: BaseModel, folder: Path) -> BaseModel:
    """Return the model that a stage left, to go on with."""
    return replace(base, source=str(folder / MODEL), revision=None)


def accuracy(found: list[list[float]], texts: tuple[Text, ...]) -> float:
    """Return the share of texts whose most probable class is theirs; the first of equals counts."""
    pairs = zip(found, texts, strict=True)
    return sum(max(range(len(each)), key=each.__getitem__) == text.label for each, text in pairs) / len(texts)


def _settings(bench: Bench, name: str) -> TrainSettings:
    """Return the settings of a stage's own training."""
    settings, train = bench.settings, bench.settings.train
    if name != "pretrain":
        return replace(train, steps=settings.steps(name), lr=train.lr or LR)
    lr = settings.pretrain_lr or PRETRAIN_LR[bench.masked]
    return replace(train, steps=settings.steps(name), batch=settings.batch(name), lr=lr)
