"""LoRA through PEFT, saved in PEFT's own files, which both engines read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.lora.config import LoRAConfig
from adapters.method import BaseModel, Group, Method
from harness.models.adapters import Kind
from stepgame.errors import InputError, require

if TYPE_CHECKING:
    from torch import nn

    from harness.models.adapters import SoftPrompt

__all__ = ["LoRAMethod", "wrap_with_lora"]


class LoRAMethod(Method):
    """Low-rank updates of a frozen model's layers."""

    kind: Kind = "lora"
    lr: float = 1e-3
    config: LoRAConfig

    def build(self, base: BaseModel, model: Any, tokenizer: Any, seed: int) -> nn.Module:
        """Wrap the model in fresh updates, which start as zero."""
        from adapters.causal import CausalModule

        return CausalModule(wrap_with_lora(self.config, model, seed))

    def groups(self, module: Any, lr: float) -> list[Group]:
        """Return the updates."""
        return [Group([value for value in module.parameters() if value.requires_grad], lr)]

    def save(self, module: Any, tokenizer: Any, folder: Path) -> list[str]:
        """Write PEFT's files."""
        module.model.save_pretrained(folder)
        # PEFT adds a model card that says nothing of this adapter.
        (folder / "README.md").unlink(missing_ok=True)
        return ["adapter_config.json", "adapter_model.safetensors"]

    def scorable(self, module: Any) -> tuple[Any, SoftPrompt | None]:
        """Return the model with its updates in place."""
        return module.model.get_base_model(), None

    def record(self) -> dict[str, Any]:
        """Return what ``adapter_config.json`` holds too, for the engines to read without PEFT."""
        return {"rank": self.config.lora_rank, "alpha": self.config.lora_alpha, "targets": self.config.targets}


def wrap_with_lora(config: LoRAConfig, model: Any, seed: int) -> Any:
    """Return a PEFT model with fresh updates.

    Raises:
        InputError: if the model has no layers of the names that were given.
    """
    import torch

    peft: Any = require("peft", "train", "LoRA")
    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, settings)
        except ValueError as error:
            raise InputError(f"--lora-targets {config.lora_targets!r} does not fit this model: {error}") from None
