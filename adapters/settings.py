"""The settings of a training that every method has: one list that the command line and Python share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.flags import flag
from stepgame.errors import InputError, unknown_name

__all__ = ["SCHEDULES", "TrainSettings"]

_MODEL, _DATA, _OPT, _RUN = "Model", "What is learnt", "Optimisation", "Record"

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
"""Learning-rate schedules, by transformers' names."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that may be said about a training besides the method's own; the metadata says what it means.

    Raises:
        InputError: if a value is out of range or unknown.
    """

    model: str = field(metadata=flag(_MODEL, "smollm2, a folder, or ORG/NAME on the hub, with @REVISION.", str))
    dtype: str = field(
        default="auto",
        metadata=flag(_MODEL, "Of frozen weights: auto (float32 on CPU, bfloat16 on CUDA), float32, ...", str),
    )
    device: str = field(default="auto", metadata=flag(_MODEL, "auto, cpu or cuda.", str))
    data: Any = field(
        default="stepgame",
        metadata=flag(
            _DATA,
            "stepgame, a file of stories, JSON lines of prompt and answer or of messages, or hf-dataset:ID[@REVISION].",
            str,
        ),
    )
    task: str | None = field(
        default=None,
        metadata=flag(
            _DATA,
            "A task of `stepgame tasks`, whose files are in the folder --data. pcp: its own tasks, or a TOML file.",
            str | None,
        ),
    )
    hops: int | str | Iterable[int] = field(default="1-5", metadata=flag(_DATA, "Chain lengths of the stories.", str))
    n: int | None = field(
        default=None,
        metadata=flag(_DATA, "Examples in all. [default: 1000 stories, or the whole file]", int | None),
    )
    noise: bool = field(
        default=False, metadata=flag(_DATA, "With distracting sentences or without.", bool, "--noise/--clean")
    )
    protocol: str = field(default="official", metadata=flag(_DATA, "official or exact.", str))
    bank: str = field(default="core", metadata=flag(_DATA, "Phrase bank: name or TOML file.", str))
    prompt: str | None = field(
        default=None,
        metadata=flag(
            _DATA, "The prompt that questions are asked in. [default: the task's, zero-shot for stories]", str | None
        ),
    )
    score: str = field(
        default="choice",
        metadata=flag(_DATA, "The form of the answer: choice (the label itself) or generate (a line).", str),
    )
    validation: int = field(
        default=20, metadata=flag(_DATA, "Stories of each length, or lines of a file, kept for validation.", int)
    )
    skip_bad: bool = field(
        default=False,
        metadata=flag(
            _DATA,
            "Leave out conversations that cannot be read, and say how many, instead of stopping.",
            bool,
            "--skip-bad",
        ),
    )
    max_tokens: int | None = field(
        default=None,
        metadata=flag(
            _DATA,
            "Longest example in tokens; the end of longer ones is cut off. [default: as many as the model has "
            "positions, and longer ones are an error]",
            int | None,
        ),
    )
    steps: int | None = field(
        default=None, metadata=flag(_OPT, "Optimiser steps. [default: as --epochs says]", int | None)
    )
    epochs: float = field(default=1.0, metadata=flag(_OPT, "Passes over the examples.", float))
    batch: int = field(default=8, metadata=flag(_OPT, "Examples of one step, on each device.", int))
    micro_tokens: int = field(
        default=4096,
        metadata=flag(_OPT, "Most padded tokens that go through the model at once; the batch is cut up by it.", int),
    )
    lr: float | None = field(default=None, metadata=flag(_OPT, "Learning rate. [default: the method's]", float | None))
    schedule: str = field(
        default="linear", metadata=flag(_OPT, f"Learning rate over time: {', '.join(SCHEDULES)}.", str)
    )
    warmup: float = field(default=0.06, metadata=flag(_OPT, "Share of the steps with a rising learning rate.", float))
    weight_decay: float = field(default=0.0, metadata=flag(_OPT, "Of AdamW.", float))
    clip: float = field(default=1.0, metadata=flag(_OPT, "Largest norm of a gradient; 0 for no bound.", float))
    gradient_checkpointing: bool = field(
        default=False,
        metadata=flag(_OPT, "Compute activations again instead of keeping them.", bool, "--gradient-checkpointing"),
    )
    shard: bool = field(
        default=False,
        metadata=flag(_OPT, "Spread the model over the processes of the launch (FSDP).", bool, "--shard"),
    )
    seed: int = field(default=0, metadata=flag(_OPT, "Of the stories, the order and what starts at random.", int))
    eval_every: int | None = field(
        default=None, metadata=flag(_RUN, "Steps between validations. [default: a fifth of all]", int | None)
    )
    log_every: int | None = field(
        default=None,
        metadata=flag(_RUN, "Steps between points of the loss curve. [default: a fiftieth of all]", int | None),
    )
    out: str | Path | None = field(
        default=None, metadata=flag(_RUN, "Folder of the adapter to write. [default: none; required]", Path | None)
    )
    overwrite: bool = field(
        default=False, metadata=flag(_RUN, "Put this adapter in the place of the one there.", bool, "--overwrite")
    )
    resume: bool = field(default=False, metadata=flag(_RUN, "Go on from the last checkpoint there.", bool, "--resume"))

    def __post_init__(self) -> None:
        least: dict[str, float] = {
            "n": 1,
            "validation": 0,
            "steps": 1,
            "batch": 1,
            "micro_tokens": 1,
            "log_every": 1,
            "max_tokens": 2,
        }
        for name, bound in {**least, "eval_every": 1, "warmup": 0, "weight_decay": 0, "clip": 0}.items():
            value = getattr(self, name)
            if value is not None and not bound <= value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} must be at least {bound:g}, got {value}")
        for name in ("lr", "epochs"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name} must be above 0, got {value}")
        if self.warmup >= 1:
            raise InputError(f"--warmup is a share of the steps, below 1; got {self.warmup}")
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if self.overwrite and self.resume:
            raise InputError("--overwrite and --resume exclude each other; give one")

    @classmethod
    def flags(cls) -> list[Field[Any]]:
        """Return the fields, for the command line to offer."""
        return list(fields(cls))
