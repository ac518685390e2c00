"""The configuration of instruction tuning and instruction modelling; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from adapters.lora.config import LoRAConfig
from harness.flags import flag
from stepgame.errors import InputError, unknown_name

__all__ = ["InstructionConfig", "Reduction", "TemplateTokens", "Trained"]

Trained = Literal["full", "lora"]
TemplateTokens = Literal["mask", "train"]
Reduction = Literal["token", "example"]

_PANEL = "Instruction tuning and modelling (it, im)"


@dataclass(frozen=True, kw_only=True)
class InstructionConfig(LoRAConfig):
    """What the loss is over, and what is trained; each field's metadata says what it means, under ``help``.

    With prompt weight 0 this is instruction tuning (IT), with 1 instruction modelling (IM; Shi et al. 2024, Eq. 4),
    between them the prompt-loss weight of Huerta-Enochian & Ko (2024); with the template's tokens trained as well it is
    the language model's own loss over everything. `train` says whether the weights themselves or LoRA's updates are
    trained.

    Raises:
        InputError: if a value is out of range, unknown, or has no effect beside the others.
    """

    prompt_weight: float = field(
        default=1.0,
        metadata=flag(
            _PANEL, "Weight of the instruction's tokens, 0 to 1 (im; it is the same with 0). [default: 1]", float | None
        ),
    )
    response_weight: float = field(
        default=1.0, metadata=flag(_PANEL, "Weight of the outputs' tokens, 0 to 1 (im). [default: 1]", float | None)
    )
    template_tokens: str = field(
        default="mask",
        metadata=flag(
            _PANEL,
            "Tokens of the chat template, such as role markers: mask leaves them out, train weighs them as the "
            "instruction (im). [default: mask]",
            str | None,
        ),
    )
    reduction: str = field(
        default="token",
        metadata=flag(
            _PANEL,
            "The mean is over all tokens of a batch (token), or each example counts alike. [default: token]",
            str | None,
        ),
    )
    train: str = field(
        default="full", metadata=flag(_PANEL, "What is trained: full weights or lora. [default: full]", str | None)
    )
    packing: bool = field(
        default=False,
        metadata=flag(
            _PANEL,
            "Put several examples in a row, which do not see each other. [default: off]",
            bool | None,
            "--packing",
        ),
    )
    neftune: float = field(
        default=0.0,
        metadata=flag(_PANEL, "Alpha of NEFTune's noise on embeddings; 0 for none. [default: 0]", float | None),
    )
    kl: float = field(
        default=0.0,
        metadata=flag(
            _PANEL,
            "Factor of the KL divergence from the base model, on the tokens of the loss. [default: 0]",
            float | None,
        ),
    )
    liger: bool = field(
        default=False,
        metadata=flag(_PANEL, "Liger's fused loss (CUDA). [default: off]", bool | None, "--liger"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompt_weight", "response_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} is between 0 and 1, got {getattr(self, name)}")
        for name in ("neftune", "kl"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"--{name} must be at least 0, got {getattr(self, name)}")
        for name, known in (("template_tokens", TemplateTokens), ("reduction", Reduction), ("train", Trained)):
            if getattr(self, name) not in get_args(known):
                raise unknown_name(f"value of --{name.replace('_', '-')}", getattr(self, name), get_args(known))
        if self.prompt_weight == self.response_weight == 0:
            raise InputError("--prompt-weight 0 with --response-weight 0 leaves nothing to learn; raise one of them")
        if self.template_tokens == "train" and self.prompt_weight == 0:
            raise InputError("--template-tokens train with --prompt-weight 0 has no effect; raise the weight")
        if self.liger and (self.kl or self.reduction == "example"):
            raise InputError("--liger knows neither --kl nor --reduction example; leave it out")
        if self.train == "full":
            self._check_no_lora()

    def _check_no_lora(self) -> None:
        given: list[Any] = [each for each in fields(LoRAConfig) if getattr(self, each.name) != each.default]
        if given:
            name = given[0].name.replace("_", "-")
            raise InputError(f"--{name} has no effect on full weights; give --train lora too")

    def loss(self) -> dict[str, Any]:
        """Return what the training loss is, as the manifest holds it."""
        template = self.prompt_weight if self.template_tokens == "train" else 0.0
        weights = (self.prompt_weight, template, self.response_weight)
        names = {
            (0.0, 0.0, 1.0): "instruction tuning",
            (1.0, 0.0, 1.0): "instruction modelling",
            (1.0, 1.0, 1.0): "language modelling of everything",
        }
        return {
            "name": names.get(weights, "weighted instruction tuning"),
            "instruction": self.prompt_weight,
            "template": template,
            "output": self.response_weight,
            "reduction": self.reduction,
            "kl": self.kl,
            "neftune": self.neftune,
        }
