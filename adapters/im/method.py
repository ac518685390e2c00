"""Instruction tuning and instruction modelling as a training method, on all weights or on LoRA's updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.encode import TEMPLATE, TokenisedConversation
from adapters.full.config import FullConfig
from adapters.full.method import FullMethod
from adapters.im.config import InstructionConfig
from adapters.lora.method import LoRAMethod
from adapters.method import BaseModel, Features, Group, Method
from harness.models.base import Message
from stepgame.errors import InputError, require

if TYPE_CHECKING:
    from torch import nn

    from harness.models.adapters import SoftPrompt

__all__ = ["InstructionMethod"]


class InstructionMethod(Method):
    """Trains all weights, or updates of them, with a weight for each token by whose it is.

    Every turn of the assistant's is output, every other turn is instruction; what the chat template puts around them is
    neither. The token that ends an assistant's turn belongs to it.
    """

    config: InstructionConfig

    def __init__(self, name: str, config: InstructionConfig) -> None:
        super().__init__(name, config)
        trains_lora = config.train == "lora"
        self._trained: Method = LoRAMethod("lora", config) if trains_lora else FullMethod("full", FullConfig())
        self.kind = self._trained.kind
        self.lr = self._trained.lr
        self.packing = config.packing
        # The kernel takes the output layer by itself; the copy that --kl keeps is no part of the module.
        self.whole = "--liger" if config.liger else "--kl with full weights" if config.kl and not trains_lora else None

    def check(self, base: BaseModel) -> None:
        """Check that what the configuration needs is installed.

        Raises:
            MissingExtraError: if it is not.
        """
        if self.config.liger:
            require("liger_kernel", "liger", "--liger")

    def build(self, base: BaseModel, model: Any, tokenizer: Any, seed: int) -> nn.Module:
        """Return the model with the loss that the configuration describes.

        Raises:
            InputError: if the model cannot be packed, or Liger's loss does not fit it.
        """
        module: Any = self._trained.build(base, model, tokenizer, seed)
        module.noise = self.config.neftune
        if self.config.packing:
            module.check_packing()
        if self.config.liger:
            module.loss.fuse()
        if self.config.kl:
            module.stay_near_base(self.config.kl)
        made: nn.Module = module
        return made

    def features(self, tokens: TokenisedConversation, messages: Sequence[Message]) -> Features | None:
        """Weigh a conversation's tokens by whose they are; None if no token of an output is left."""
        config = self.config
        if all(message.role == "assistant" for message in messages):
            raise InputError("there is no instruction, only turns of the assistant")
        outputs = {place for place, message in enumerate(messages) if message.role == "assistant"}
        template = config.prompt_weight if config.template_tokens == "train" else 0.0
        by_owner = {
            TEMPLATE: template,
            **{
                place: config.response_weight if place in outputs else config.prompt_weight
                for place in range(len(messages))
            },
        }
        # Nothing stands before the first token that it could be predicted from.
        weights = (0.0, *(by_owner[owner] for owner in tokens.owners[1:]))
        response = (0.0, *(float(owner in outputs) for owner in tokens.owners[1:]))
        if not any(response) or not any(weights):
            return None
        if config.reduction == "example":
            total = math.fsum(weights)
            weights = tuple(weight / total for weight in weights)
        return Features(tokens.ids, weights, response, tokens.answer)

    def loss(self) -> Mapping[str, Any]:
        """Return the weights, the reduction and what is added."""
        return self.config.loss()

    def groups(self, module: nn.Module, lr: float) -> list[Group]:
        """Return the weights or the updates."""
        return self._trained.groups(module, lr)

    def save(self, module: nn.Module, tokenizer: Any, folder: Path) -> list[str]:
        """Write a checkpoint or PEFT's files."""
        return self._trained.save(module, tokenizer, folder)

    def scorable(self, module: nn.Module) -> tuple[Any, SoftPrompt | None]:
        """Return the model."""
        return self._trained.scorable(module)

    def record(self) -> Mapping[str, Any]:
        """Return what the files hold; the loss is no part of what is computed afterwards."""
        return self._trained.record()
