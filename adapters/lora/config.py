"""The configuration of LoRA adapters; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.flags import flag
from stepgame.errors import InputError

__all__ = ["LoRAConfig"]

_PANEL = "LoRA (lora)"


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """What a LoRA adapter is (Hu et al. 2022); each field's metadata says what it means, under ``help``.

    Raises:
        InputError: if a number is out of range.
    """

    lora_rank: int = field(default=8, metadata=flag(_PANEL, "Rank of the updates. [default: 8]", int | None))
    lora_alpha: float = field(
        default=16.0, metadata=flag(_PANEL, "Updates are scaled by alpha / rank. [default: 16]", float | None)
    )
    lora_targets: str = field(
        default="all-linear",
        metadata=flag(_PANEL, "Layers that are updated, by commas, or all-linear. [default: all-linear]", str | None),
    )
    lora_dropout: float = field(
        default=0.0, metadata=flag(_PANEL, "Dropout before the updates. [default: 0]", float | None)
    )

    def __post_init__(self) -> None:
        if self.lora_rank < 1:
            raise InputError(f"--lora-rank must be at least 1, got {self.lora_rank}")
        if not self.lora_alpha > 0:
            raise InputError(f"--lora-alpha must be above 0, got {self.lora_alpha}")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"--lora-dropout must be at least 0 and below 1, got {self.lora_dropout}")

    @property
    def targets(self) -> str | list[str]:
        """The layers, as PEFT takes them."""
        if self.lora_targets == "all-linear":
            return self.lora_targets
        return [each.strip() for each in self.lora_targets.split(",") if each.strip()]
