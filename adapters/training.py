"""The one training path that every method goes through: data in, checkpoints, resume, curves, manifest, adapter out.

The folder that is written holds the adapter at its top, and how it was trained under ``training/``: ``manifest.json``
(frozen before the first step), ``checkpoints/`` until it is done, ``curve.csv`` and ``curve.png``, and ``result.json``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, TrainerCallback, TrainingArguments

from adapters.curves import write_curves
from adapters.data import TrainingData, load_data
from adapters.describe import describe_model, load_fast_tokenizer
from adapters.method import BaseModel, Features, Group, Method
from adapters.prepare import PreparedData, prepare
from adapters.processes import check_launch, is_first, processes, shard
from adapters.settings import TrainSettings
from adapters.store import TRAINING, clear_adapter, write_adapter
from adapters.trainer import AdapterTrainer, MicroBatches, put_trainable, trainable
from harness.models.adapters import ADAPTER_FILE, Adapter, read_adapter
from harness.models.base import Identity, Prompt, Scores
from harness.models.builtin import checkpoint_hash, quiet_transformers
from harness.models.chat import unloadable
from harness.models.hf import DTYPES, HFModel
from harness.models.registry import parse_model
from harness.progress import say
from harness.provenance import git_state, hardware, versions
from stepgame.errors import InputError
from stepgame.files import write_text

__all__ = [
    "CHECKPOINTS",
    "MANIFEST",
    "RESULT",
    "check_start",
    "checkpoint_gradients",
    "chosen_checkpoint",
    "first_place",
    "last_checkpoint",
    "load_weights",
    "make_trainer",
    "only_writer",
    "perform_training",
    "place_of",
    "resumed_manifest",
    "train_to_end",
    "training_result",
]

MANIFEST, RESULT, CHECKPOINTS = "manifest.json", "result.json", "checkpoints"
KEEP = 2
"""Checkpoints kept of a training that is not done: the best and the last."""

_SAME = ("method", "config", "base", "data", "settings")
"""What of a manifest must be as it was when a training goes on."""
_FREE = ("out", "overwrite", "resume", "log_every", "micro_tokens", "device", "shard")
"""Settings that may differ when a training goes on: they decide neither the data nor the function that is learnt."""


def perform_training(method: Method, settings: TrainSettings, command: Sequence[str]) -> Adapter:
    """Train, and write the adapter.

    Args:
        method: how.
        settings: on what, and where to.
        command: the command line, for the record.

    Returns:
        The adapter, of the step that validated best.

    Raises:
        InputError: if anything about the request is wrong; before any weights are loaded where that can be known.
        TrainingStoppedError: if the loss is no longer finite; the last checkpoint is kept.
        KeyboardInterrupt: on Ctrl-C; the message says how to go on.
    """
    folder = check_start(settings)
    quiet_transformers()
    request = parse_model(settings.model, dtype=settings.dtype, device=settings.device)
    base = describe_model(request)
    if base.config.is_encoder_decoder and not method.encoder_decoders:
        raise InputError(f"model {settings.model!r} is an encoder-decoder, which method {method.name!r} cannot train")
    method.check(base)
    if settings.shard and method.whole is not None:
        raise InputError(f"--shard does not go with {method.whole}; leave one of them out")
    tokenizer = load_fast_tokenizer(request)
    data = load_data(settings)
    learnt, tested = (
        prepare(method, tokenizer, part, base, settings.max_tokens) for part in (data.training, data.validation)
    )
    device, dtype = place_of(settings)
    first = first_place(settings)
    with only_writer(folder) as training:
        model = None
        if not base.content_hash:
            # A hub model's files are all here only when its weights are.
            model = load_weights(base, request, dtype, first)
            base = replace(base, content_hash=checkpoint_hash(base.source, base.revision))
        manifest = _manifest(method, settings, base, data, learnt, tested, command)
        resumed = resumed_manifest(training, folder, manifest, settings, _SAME)
        if resumed and (folder / ADAPTER_FILE).exists():
            say(f"{folder}: done before")
            return read_adapter(folder)
        going_on = last_checkpoint(training) if resumed else None
        model = load_weights(base, request, dtype, first) if model is None else model
        module = method.build(base, model, tokenizer, settings.seed)
        if settings.shard:
            shard(module, method.scorable(module)[0], device)
        trainer = _trainer(method, settings, base, module, tokenizer, data, learnt.rows, tested.rows, training)
        seconds = train_to_end(trainer, going_on)
        # The first process removes the checkpoints, which every one reads the best of.
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            if settings.shard:
                # What is spread cannot be written by one process; the last checkpoint, or the best, can.
                module = method.build(base, load_weights(base, request, dtype, first), tokenizer, settings.seed)
                put_trainable(module, chosen_checkpoint(trainer))
            _finish(method, module, tokenizer, base, folder, trainer, seconds)
        trainer.accelerator.wait_for_everyone()
    return read_adapter(folder)


def train_to_end(trainer: AdapterTrainer, going_on: str | None) -> float:
    """Train, from a checkpoint if there is one; return the seconds it took.

    Raises:
        KeyboardInterrupt: on Ctrl-C; the message says how to go on.
    """
    started = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=going_on)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; checkpoints are kept in {trainer.args.output_dir}; go on with the same command and --resume"
        ) from None
    return time.perf_counter() - started


def check_start(settings: TrainSettings) -> Path:
    """Check that a training may be launched like this, and written where it is to be; return that folder.

    Raises:
        InputError: if the folder is not given or something else is in it, or a training that is neither to go on nor
            to be replaced; or if the launch does not fit.
    """
    if settings.out is None:
        raise InputError("--out is missing; give the folder to write")
    check_launch(settings.shard)
    folder = Path(settings.out).absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out takes a folder")
    if not folder.is_dir() or settings.overwrite or settings.resume:
        return folder
    if (folder / ADAPTER_FILE).exists() or (folder / TRAINING / MANIFEST).exists():
        raise InputError(
            f"{folder} holds a training already; go on with it by --resume, put this one in its place by --overwrite, "
            "or choose another --out"
        )
    # What another process of the same launch may have made.
    other = sorted(path.name for path in folder.iterdir() if path.name != TRAINING)
    if other:
        raise InputError(f"{folder} exists and is no adapter's (it holds {other[0]}); choose another --out")
    return folder


def load_weights(base: BaseModel, request: Any, dtype: str, device: torch.device, cls: Any = None, **more: Any) -> Any:
    """Load a model's weights.

    Args:
        base: what it is.
        request: what was asked for, for messages.
        dtype: of the weights.
        device: where they go.
        cls: transformers' class; the one for language models that write when omitted.
        more: further arguments of its ``from_pretrained``.

    Raises:
        InputError: if they cannot be loaded.
    """
    if cls is None:
        cls = AutoModelForSeq2SeqLM if base.config.is_encoder_decoder else AutoModelForCausalLM
    place = {"revision": base.revision} if base.revision else {}
    try:
        return cls.from_pretrained(base.source, dtype=DTYPES[dtype], **place, **more).to(device)
    except (OSError, ValueError, KeyError) as error:
        raise unloadable(request, error) from None


def place_of(settings: TrainSettings) -> tuple[torch.device, str]:
    """Return where the weights go, and their number format.

    Raises:
        InputError: if there is no such device.
    """
    kind = settings.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise InputError(
            f"device {settings.device!r} is not to be had; use auto, cpu or cuda (and CUDA_VISIBLE_DEVICES)"
        )
    number = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", number) if kind == "cuda" else torch.device("cpu")
    dtype = settings.dtype if settings.dtype != "auto" else "bfloat16" if kind == "cuda" else "float32"
    return device, dtype


def first_place(settings: TrainSettings) -> torch.device:
    """Return where weights are loaded to: main memory where they are spread later, for one device may not hold them."""
    return torch.device("cpu") if settings.shard else place_of(settings)[0]


def _manifest(
    method: Method,
    settings: TrainSettings,
    base: BaseModel,
    data: TrainingData,
    learnt: PreparedData,
    tested: PreparedData,
    command: Sequence[str],
) -> dict[str, Any]:
    given = {**asdict(settings), "data": data.name}
    plain = {key: value if isinstance(value, int | float | None) else str(value) for key, value in given.items()}
    return {
        "method": method.name,
        "kind": method.kind,
        "config": asdict(method.config),
        "loss": dict(method.loss()),
        "base": base.record(),
        "settings": plain,
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            **learnt.record(),
            "validation": len(tested.examples),
            "validation_left_out": tested.left_out,
            **method.count(learnt.rows),
        },
        "versions": versions(),
        "hardware": hardware(torch.cuda.get_device_name() if torch.cuda.is_available() else None),
        "git": git_state(),
        "command": list(command),
    }


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[Path]:
    """Keep a second training out of a folder; processes of one launch are one training.

    Yields:
        The folder for the training's record.

    Raises:
        InputError: if another training is writing there.
    """
    training = folder / TRAINING
    training.mkdir(parents=True, exist_ok=True)
    with (training / ".lock").open("w") as lock:
        if is_first():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"{folder} is being written by another training; choose another --out") from None
        yield training


def resumed_manifest(
    training: Path, folder: Path, manifest: dict[str, Any], settings: TrainSettings, keys: Sequence[str]
) -> bool:
    """Write the manifest of a new training, or check that of one that goes on.

    Args:
        training: folder of the record.
        folder: of the training, which is emptied for a new one.
        manifest: what is asked for now.
        settings: whether it goes on.
        keys: what of the manifest must be as it was.

    Returns:
        Whether it goes on.

    Raises:
        InputError: if it was begun with something else.
    """
    path = training / MANIFEST
    if settings.resume and path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            was, now = old[key], json.loads(json.dumps(manifest[key]))
            if key == "settings":
                was, now = ({name: value for name, value in each.items() if name not in _FREE} for each in (was, now))
            if was != now:
                changed = next(name for name in now if was.get(name) != now[name]) if isinstance(now, dict) else key
                raise InputError(
                    f"{folder}: {changed} is no longer what the training was started with; give the same settings, or "
                    "start anew with --overwrite"
                )
        return True
    if is_first():
        clear_adapter(folder)
        training.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(manifest, indent=2) + "\n")
    return False


def last_checkpoint(training: Path) -> str | None:
    """Return the last whole checkpoint of a training that goes on, and say which."""
    found = sorted((training / CHECKPOINTS).glob("checkpoint-*"), key=lambda each: int(each.name.partition("-")[2]))
    whole = [each for each in found if (each / "trainer_state.json").is_file()]
    say(f"going on from step {whole[-1].name.partition('-')[2]}" if whole else "no checkpoint yet; starting anew")
    return str(whole[-1]) if whole else None


def _trainer(
    method: Method,
    settings: TrainSettings,
    base: BaseModel,
    module: torch.nn.Module,
    tokenizer: Any,
    data: TrainingData,
    rows: Sequence[Features],
    held: Sequence[Features],
    training: Path,
) -> AdapterTrainer:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    model = method.scorable(module)[0]
    checkpoint_gradients(settings, model)
    return make_trainer(
        settings,
        training,
        name=method.name,
        module=module,
        groups=method.groups(module, settings.lr or method.lr),
        batches=MicroBatches(
            settings.micro_tokens, pad, encoder_decoder=base.config.is_encoder_decoder, packing=method.packing
        ),
        rows=rows,
        held=held,
        sample=rows[:: max(1, len(rows) // len(held))][: len(held)] if held else (),
        score=(lambda: _accuracy(method, module, tokenizer, base, data, settings)) if _asks(base, data) else None,
        full=method.kind == "weights",
    )


def checkpoint_gradients(settings: TrainSettings, model: Any) -> None:
    """Let a model of transformers compute activations again instead of keeping them, where that is asked for."""
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def make_trainer(
    settings: TrainSettings,
    training: Path,
    *,
    name: str,
    module: torch.nn.Module,
    groups: Sequence[Group],
    batches: Any,
    rows: Any,
    held: Sequence[Any],
    sample: Sequence[Any] = (),
    score: Callable[[], float] | None = None,
    full: bool = True,
) -> AdapterTrainer:
    """Return the loop over a module: checkpoints, the best of which is kept, validation, and what it says on the way.

    Args:
        settings: of the training.
        training: folder of its record.
        name: of what is trained, for messages.
        module: gives the summed weighted loss of a batch.
        groups: its trainable parameters by learning rate.
        batches: makes batches of rows; see `adapters.trainer.MicroBatches`.
        rows: what is learnt from.
        held: what is validated on; the last step is kept where there is none.
        sample: training rows on which the loss is measured too.
        score: gives the accuracy that decides which step is best; the loss decides without.
        full: whether weights themselves are trained.
    """
    lr = groups[0].lr
    arguments = _arguments(settings, len(rows), training, lr=lr, full=full, asks=score is not None, held=bool(held))
    trainer = AdapterTrainer(
        model=module,
        args=arguments,
        train_dataset=rows,
        eval_dataset=held or None,
        groups=groups,
        batches=batches,
        sample=sample,
        score=score or (lambda: None),
        callbacks=[_Spoken(name, training)],
    )
    trainer.remove_callback(_printer())
    return trainer


def _arguments(
    settings: TrainSettings, count: int, training: Path, *, lr: float, full: bool, asks: bool, held: bool
) -> TrainingArguments:
    """Return what transformers' Trainer is told."""
    a_pass = -(-count // (settings.batch * processes()))
    steps = settings.steps or max(1, round(settings.epochs * a_pass))
    every = settings.eval_every or max(1, steps // 5)
    return TrainingArguments(
        output_dir=str(training / CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=lr,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        logging_steps=settings.log_every or max(1, steps // 50),
        logging_nan_inf_filter=False,
        eval_strategy="steps" if held else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=KEEP,
        load_best_model_at_end=held,
        metric_for_best_model="eval_accuracy" if asks else "eval_loss",
        greater_is_better=asks,
        # Weights that are trained themselves stay in float32; only the arithmetic is shorter.
        bf16=full and place_of(settings)[1] == "bfloat16",
        use_cpu=place_of(settings)[0].type == "cpu",
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
        ddp_find_unused_parameters=False,
        dataloader_num_workers=0,
    )


def _asks(base: BaseModel, data: TrainingData) -> bool:
    return not base.config.is_encoder_decoder and any(each.asked is not None for each in data.validation)


def _accuracy(
    method: Method, module: Any, tokenizer: Any, base: BaseModel, data: TrainingData, settings: TrainSettings
) -> float:
    """Ask the validation questions by the harness's option scoring."""
    module.eval()
    model, soft = method.scorable(module)
    identity = Identity(base.content_hash, dtype=str(model.dtype).removeprefix("torch."))
    kept = model.generation_config
    asked = HFModel(model, tokenizer, identity, settings.micro_tokens, soft)
    prompts = [Prompt(each.messages[:-1], each.cue, each.asked) for each in data.validation if each.asked is not None]
    right = 0
    for batch in asked.batches(prompts):
        part = [prompts[place] for place in batch]
        for prompt, scores in zip(part, asked.choose(part, [each.example.options for each in part]), strict=True):
            if isinstance(scores, Scores):
                best = max(range(len(scores.logprobs)), key=scores.logprobs.__getitem__)
                right += prompt.example.options[best] == prompt.example.gold
    model.generation_config = kept
    return right / len(prompts)


def _finish(
    method: Method,
    module: Any,
    tokenizer: Any,
    base: BaseModel,
    folder: Path,
    trainer: AdapterTrainer,
    seconds: float,
) -> None:
    """Write the adapter of the best step; ``adapter.json`` last of it, so that an unfinished folder is none.

    The checkpoints go: their steps are all done, and with the optimiser's state they are three times the weights.
    """
    training = folder / TRAINING
    files = method.save(module, tokenizer, folder)
    write_curves(training, trainer.state.log_history, f"{method.name} on {base.spec}")
    write_text(training / RESULT, json.dumps(training_result(trainer, seconds), indent=2) + "\n")
    write_adapter(folder, kind=method.kind, method=method.name, config=method.record(), base=base.record(), files=files)
    shutil.rmtree(training / CHECKPOINTS, ignore_errors=True)


def chosen_checkpoint(trainer: AdapterTrainer) -> Path:
    """Return the best checkpoint, or the last where nothing is validated."""
    best = trainer.state.best_model_checkpoint
    return Path(best or f"{trainer.args.output_dir}/checkpoint-{trainer.state.global_step}")


def training_result(trainer: AdapterTrainer, seconds: float) -> dict[str, Any]:
    """Return what a training came to, as ``result.json`` holds it."""
    best = trainer.state.best_model_checkpoint
    module: Any = trainer.model
    return {
        "steps": trainer.state.global_step,
        "best_step": None if best is None else int(Path(best).name.partition("-")[2]),
        "best": trainer.state.best_metric,
        "parameters": sum(value.numel() for value in trainable(module).values()),
        "seconds": round(seconds, 3),
        "validation": [entry for entry in trainer.state.log_history if "eval_loss" in entry],
    }


def _printer() -> Any:
    from transformers import PrinterCallback

    return PrinterCallback


class _Spoken(TrainerCallback):
    """Says how a training goes, now and then, on stderr."""

    EVERY_SECONDS = 30.0

    def __init__(self, name: str, training: Path) -> None:
        self._name = name
        self._training = training
        self._first = 0
        self._start = self._spoken = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first, self._start = state.global_step, time.monotonic()
        self._spoken = self._start

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        now = time.monotonic()
        tested = "eval_loss" in logs
        if not tested and now - self._spoken < self.EVERY_SECONDS:
            return
        self._spoken = now
        rate = (state.global_step - self._first) / max(now - self._start, 1e-9)
        left = (state.max_steps - state.global_step) / rate if rate else math.inf
        shown = [key for key in ("loss", "eval_loss", "eval_accuracy") if key in logs]
        parts = [f"{key.removeprefix('eval_')} {logs[key]:.4g}" for key in shown]
        kind = "validation " if tested else ""
        say(
            f"{self._name}: step {state.global_step} of {state.max_steps}, {kind}{', '.join(parts)}, "
            f"{rate:.2f} steps a second, {left:.0f} s left"
        )
