"""The configuration of soft prompts (PT, DePT, ADePT), and how a budget of parameters is divided; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from harness.flags import flag
from stepgame.errors import InputError, unknown_name

__all__ = ["INITS", "OFFSETS", "SoftPromptConfig", "parameters", "plan"]

Offset = Literal["none", "position", "token"]
Init = Literal["vocabulary", "text", "random"]
OFFSETS: tuple[str, ...] = get_args(Offset)
INITS: tuple[str, ...] = get_args(Init)

ALPHA = 8.0
"""Numerator of the authors' scaling of the low-rank product, alpha / sqrt(r), which the paper's formula leaves out."""

_PANEL = "Soft prompts (pt, dept, adept)"


@dataclass(frozen=True, kw_only=True)
class SoftPromptConfig:
    """What a soft prompt is; each field's metadata says what it means, under ``help``.

    Offsets (`offset` is the method's own): ``none`` is vanilla prompt tuning (Lester et al. 2021), ``position`` is DePT
    (Shi & Lipani 2024, section 2.2: row i of A B is added to the prompt's token i), ``token`` is ADePT (arXiv
    2501.03291: ReLU(x A + a) B + b is added to every token's embedding x).

    Raises:
        InputError: if a number is out of range.
    """

    prompt_length: int = field(
        default=20, metadata=flag(_PANEL, "Rows of the soft prompt, m. [default: 20]", int | None)
    )
    rank: int = field(
        default=0, metadata=flag(_PANEL, "Rank of the offsets, r. [default: 30 with dept and adept]", int | None)
    )
    max_length: int = field(
        default=256,
        metadata=flag(_PANEL, "Prompt tokens that have an offset of their own, s (dept). [default: 256]", int | None),
    )
    init: str = field(
        default="vocabulary",
        metadata=flag(_PANEL, "Rows start as vocabulary, text or random. [default: vocabulary]", str | None),
    )
    init_text: str = field(
        default="", metadata=flag(_PANEL, "The text whose tokens the rows start as (--init text).", str | None)
    )
    scaling: float | None = field(
        default=None,
        metadata=flag(_PANEL, "Factor of the low-rank product. [default: 8 / sqrt(rank), the authors']", float | None),
    )
    low_rank_lr: float = field(
        default=1e-3, metadata=flag(_PANEL, "Learning rate of the low-rank pair. [default: 0.001]", float | None)
    )
    offset: str = "none"

    def __post_init__(self) -> None:
        for name, least in (("prompt_length", 0), ("rank", 0), ("max_length", 1)):
            if getattr(self, name) < least:
                said = f"--{name.replace('_', '-')}"
                raise InputError(f"{said} must be at least {least}, got {getattr(self, name)}")
        if self.offset not in OFFSETS:
            raise unknown_name("offset", self.offset, OFFSETS)
        if self.init not in INITS:
            raise unknown_name("initialisation", self.init, INITS)
        if (self.init == "text") != bool(self.init_text.strip()):
            raise InputError("--init text and --init-text belong together; give both or neither")
        if self.offset == "none" and self.rank:
            raise InputError(
                f"vanilla prompt tuning has no offsets, so --rank {self.rank} has no use; train dept instead"
            )
        if self.prompt_length == 0 and self.rank == 0:
            raise InputError("--prompt-length 0 with --rank 0 leaves nothing to train; raise one of them")
        for name in ("scaling", "low_rank_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} must be above 0, got {value}")

    @property
    def scale(self) -> float:
        """The factor of the low-rank product in force."""
        if self.offset == "token":
            return 1.0 if self.scaling is None else self.scaling
        return self.scaling if self.scaling is not None else ALPHA / math.sqrt(max(self.rank, 1))

    def record(self) -> dict[str, Any]:
        """Return what decides the function that is computed, as ``adapter.json`` holds it."""
        return {
            "prompt_length": self.prompt_length,
            "rank": self.rank,
            "max_length": self.max_length,
            "offset": self.offset,
            "scaling": self.scale,
        }


def parameters(prompt_length: int, rank: int, max_length: int, width: int) -> int:
    """Return the trainable numbers of DePT, m d + (s + d) r."""
    return prompt_length * width + (max_length + width) * rank


def plan(
    budget: int, max_length: int, width: int, *, prompt_length: int | None = None, rank: int | None = None
) -> tuple[int, int]:
    """Divide the parameters of a vanilla prompt between a shorter prompt and a low-rank pair.

    Solves m d + (s + d) r <= l d for the larger m or r (Shi & Lipani 2024, section 2.2).

    Args:
        budget: rows of the vanilla prompt, l.
        max_length: s.
        width: embedding size, d.
        prompt_length: m, to find r for.
        rank: r, to find m for.

    Returns:
        m and r.

    Raises:
        InputError: if neither or both are given, or what is given is more than the budget.
    """
    if (prompt_length is None) == (rank is None):
        raise InputError("to divide a budget give one of --prompt-length and --rank, and it finds the other")
    if budget < 1:
        raise InputError(f"the budget must be at least 1 row, got {budget}")
    total = budget * width
    if prompt_length is not None:
        left = total - prompt_length * width
        found = (prompt_length, left // (max_length + width))
    else:
        assert rank is not None
        left = total - (max_length + width) * rank
        found = (left // width, rank)
    if left < 0 or min(found) < 0:
        given = f"--prompt-length {prompt_length}" if prompt_length is not None else f"--rank {rank}"
        raise InputError(
            f"{given} takes {total - left:,} parameters, more than the {total:,} of {budget} rows of {width}; lower it"
        )
    return found
