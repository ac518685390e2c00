"""The settings of the pipeline beyond those that every training has."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from adapters.pcp.tasks import STEPGAME
from adapters.settings import TrainSettings
from harness.flags import flag
from stepgame.errors import InputError, unknown_name

__all__ = ["METHODS", "NAME", "SEPARATORS", "STAGES", "PipelineSettings", "split_pipeline_settings"]

NAME = "pcp"
"""What the pipeline is called where a training method is named."""

METHODS = {
    "ft": "fine-tuning with a classification head",
    "prompt-ft": "prompt-based fine-tuning",
    "tapt": "continued pre-training on the raw texts, then fine-tuning",
    "pcp": "prompt-based continued pre-training, then prompt-based fine-tuning",
    "self-training": "prompt-based fine-tuning that labels the other texts as it goes (FixMatch)",
}
STAGES = ("label-ft", "pseudo-label", "pretrain", "fine-tune")
"""What a pipeline consists of, in order; a method has some of them."""
STEPS = 1000
"""Steps of a stage where none are given, as in the paper."""
TEMPLATES = ("hard", "soft")
HEADS = ("prompt", "cls")
SEPARATORS = ("model", "blank", "line", "apart")

_TASK, _STAGES = "Few-shot tasks (pcp)", "Stages (pcp)"
_OWNERS = {
    "threshold": "pcp",
    "mask_label": "pcp",
    "pseudo_labels": "pcp",
    "head": "tapt",
    "pair_separator": "tapt",
    "cutoff": "self-training",
    "flex": "self-training",
}
"""Settings that one method alone listens to."""
_UNUSED = ("data", "n", "score", "epochs")
"""Settings of trainings on conversations, which mean nothing here."""


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """Everything that may be said about a pipeline; the metadata says what it means.

    Raises:
        InputError: if a value is out of range or unknown, or two do not go together.
    """

    train: TrainSettings
    method: str = NAME
    task: str = field(
        default=STEPGAME,
        metadata=flag(
            _TASK,
            "stepgame, the name of a task such as sst2, or a TOML file.",
            str | None,
        ),
    )
    labelled: str | int | None = field(
        default=None,
        metadata=flag(
            _TASK,
            "Labelled texts: a .tsv, .csv, .json or .jsonl file, hf-dataset:ID, or a folder with train, dev and test "
            "files; for stepgame how many stories.",
            str | None,
        ),
    )
    unlabelled: str | int | None = field(
        default=None, metadata=flag(_TASK, "Unlabelled texts, likewise. Labels in them are never learnt.", str | None)
    )
    dev: str | None = field(
        default=None, metadata=flag(_TASK, "Labelled texts that choose the best step, likewise.", str | None)
    )
    test: str | int | None = field(
        default=None,
        metadata=flag(
            _TASK, "Labelled texts that the result is measured on; for stepgame how many stories a k.", str | None
        ),
    )
    shots: int | None = field(
        default=None,
        metadata=flag(_TASK, "Labelled texts of each class, drawn by --seed. [default: all]", int | None),
    )
    template: str = field(
        default="hard",
        metadata=flag(
            _STAGES, "hard: the template's words; soft: trainable tokens that begin as them (DART).", str | None
        ),
    )
    head: str = field(
        default="prompt",
        metadata=flag(_STAGES, "What tapt fine-tunes with: prompt, or cls for a classification head.", str | None),
    )
    threshold: float = field(
        default=0.0, metadata=flag(_STAGES, "Least confidence of a pseudo-label that is kept.", float | None)
    )
    pretrain_steps: int | None = field(
        default=None, metadata=flag(_STAGES, "Steps of pre-training. [default: as --steps]", int | None)
    )
    pretrain_batch: int | None = field(
        default=None, metadata=flag(_STAGES, "Texts of a step of it. [default: as --batch]", int | None)
    )
    pretrain_lr: float | None = field(
        default=None,
        metadata=flag(_STAGES, "Learning rate of it. [default: 1e-4, decoders 2e-5]", float | None),
    )
    mask_rate: float = field(
        default=0.15, metadata=flag(_STAGES, "Share of tokens that it masks; not for decoders.", float | None)
    )
    mask_label: bool = field(
        default=False,
        metadata=flag(_STAGES, "Always mask the label word as well.", bool | None, "--mask-label"),
    )
    pair_separator: str = field(
        default="model",
        metadata=flag(
            _STAGES,
            "What stands between raw texts of a pair in tapt: the model's own separator (of a decoder the end of "
            "sequence), a blank, a line, or apart: each is a text by itself.",
            str | None,
        ),
    )
    pseudo_labels: str | None = field(
        default=None,
        metadata=flag(_STAGES, "Pseudo-labels of an earlier pipeline, in place of the first two stages.", str | None),
    )
    skip: Sequence[str] = field(
        default=(),
        metadata=flag(
            _STAGES,
            "A stage to leave out: label-ft (the model as it is labels), pretrain, fine-tune; may be repeated.",
            list[str] | None,
        ),
    )
    cutoff: float = field(
        default=0.95, metadata=flag(_STAGES, "Confidence from which self-training believes a label.", float | None)
    )
    flex: bool = field(
        default=False,
        metadata=flag(
            _STAGES,
            "Self-training with a cut-off for each class, by how far it is learnt (FlexMatch).",
            bool | None,
            "--flex",
        ),
    )

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, METHODS),
            ("template", self.template, TEMPLATES),
            ("head", self.head, HEADS),
            ("pair separator", self.pair_separator, SEPARATORS),
            *(("stage", stage, STAGES) for stage in self.skip),
        ):
            if value not in known:
                raise unknown_name(name, value, known)
        for name in ("threshold", "mask_rate", "cutoff"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"--{name.replace('_', '-')} must be at least 0 and below 1, got {getattr(self, name)}"
                )
        if self.pretrain_lr is not None and not 0 < self.pretrain_lr < math.inf:
            raise InputError(f"--pretrain-lr must be above 0, got {self.pretrain_lr}")
        for name in ("shots", "pretrain_steps", "pretrain_batch"):
            least = getattr(self, name)
            if least is not None and least < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {least}")
        if "pseudo-label" in self.skip:
            raise InputError("--skip pseudo-label leaves nothing to pre-train on; give the labels by --pseudo-labels")
        self._check_owners()
        if not set(self.stages) - {"pseudo-label"}:
            raise InputError(f"--skip {' --skip '.join(self.skip)} leaves nothing of --method {self.method}")
        if self.template == "soft" and self.head_of_last == "cls":
            raise InputError(
                "--template soft belongs to prompt-based fine-tuning; a classification head has no template"
            )

    def _check_owners(self) -> None:
        """Check that nothing is said that only other methods listen to."""
        for each in fields(self):
            owner = _OWNERS.get(each.name)
            if owner is not None and owner != self.method and getattr(self, each.name) != each.default:
                flag_name = f"--{each.name.replace('_', '-')}"
                raise InputError(f"{flag_name} belongs to --method {owner}, not to {self.method}")
        for stage in self.skip:
            if stage not in self._own_stages:
                raise InputError(f"--skip {stage}: --method {self.method} has no such stage")

    @property
    def _own_stages(self) -> tuple[str, ...]:
        return {"tapt": ("pretrain", "fine-tune"), "pcp": STAGES}.get(self.method, ("fine-tune",))

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this pipeline, in order."""
        given = ("label-ft", "pseudo-label") if self.pseudo_labels is not None else ()
        return tuple(stage for stage in self._own_stages if stage not in (*self.skip, *given))

    @property
    def last(self) -> str:
        """The stage whose model is handed out: the last one that trains."""
        return next(stage for stage in reversed(self.stages) if stage != "pseudo-label")

    @property
    def head_of_last(self) -> str:
        """What the last stage fine-tunes with."""
        return "cls" if self.method == "ft" else self.head if self.method == "tapt" else "prompt"

    @property
    def asks(self) -> bool:
        """Whether any stage puts texts into a template."""
        raw = self.method == "tapt" and "fine-tune" not in self.stages
        return not raw and self.head_of_last == "prompt"

    @property
    def needs_unlabelled(self) -> bool:
        """Whether any stage reads unlabelled texts."""
        return self.method == "self-training" or any(stage in self.stages for stage in ("pseudo-label", "pretrain"))

    def steps(self, stage: str) -> int:
        """Return the optimiser steps of a stage."""
        own = self.pretrain_steps if stage == "pretrain" else None
        return own or self.train.steps or STEPS

    def batch(self, stage: str) -> int:
        """Return the examples of one step of a stage."""
        own = self.pretrain_batch if stage == "pretrain" else None
        return own or self.train.batch

    def record(self) -> dict[str, Any]:
        """Return the pipeline's own settings, as the manifest holds them."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "train"}
        plain = {**own, "skip": list(self.skip)}
        return {
            key: value if isinstance(value, int | float | list | None) else str(value) for key, value in plain.items()
        }

    @classmethod
    def flags(cls) -> list[Field[Any]]:
        """Return the fields that are flags of their own, for the command line to offer; None stands for "not given"."""
        found = []
        shared = {each.name for each in fields(TrainSettings)}
        for each in fields(cls):
            if each.metadata and each.name not in shared:
                offered = copy.copy(each)
                offered.default = None
                found.append(offered)
        return found


def split_pipeline_settings(given: Mapping[str, Any]) -> PipelineSettings:
    """Divide settings into the pipeline's own and those that every training has.

    Args:
        given: by name; with ``model``; those that are None were not given.

    Raises:
        InputError: if one is unknown, means nothing here, or is out of range.
    """
    own = {each.name for each in fields(PipelineSettings)} - {"train"}
    shared = {each.name: each for each in fields(TrainSettings)}
    for key, value in given.items():
        if key not in own and key not in shared:
            raise InputError(f"{NAME} does not take --{key.replace('_', '-')}")
        if key in _UNUSED and value != shared[key].default:
            raise InputError(
                f"{NAME} does not take --{key.replace('_', '-')}; its texts are --labelled and --unlabelled"
            )
    train = TrainSettings(**{key: value for key, value in given.items() if key in shared and key not in own})
    return PipelineSettings(
        train=train, **{key: value for key, value in given.items() if key in own and value is not None}
    )
