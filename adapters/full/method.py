"""All weights of a model, saved as a checkpoint of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.full.config import FullConfig
from adapters.method import BaseModel, Group, Method
from harness.models.adapters import Kind

if TYPE_CHECKING:
    from torch import nn

    from harness.models.adapters import SoftPrompt

__all__ = ["FullMethod", "save_checkpoint"]


class FullMethod(Method):
    """Every weight is trained."""

    kind: Kind = "weights"
    lr: float = 2e-5
    config: FullConfig

    def build(self, base: BaseModel, model: Any, tokenizer: Any, seed: int) -> nn.Module:
        """Return the model as it is, in float32."""
        from adapters.causal import CausalModule

        return CausalModule(model.float())

    def groups(self, module: Any, lr: float) -> list[Group]:
        """Return all weights."""
        return [Group(list(module.parameters()), lr)]

    def save(self, module: Any, tokenizer: Any, folder: Path) -> list[str]:
        """Write a checkpoint with its tokenizer."""
        return save_checkpoint(module.model, tokenizer, folder)

    def scorable(self, module: Any) -> tuple[Any, SoftPrompt | None]:
        """Return the model."""
        return module.model, None


def save_checkpoint(model: Any, tokenizer: Any, folder: Path) -> list[str]:
    """Write a model and its tokenizer as transformers does; return the names of the files."""
    before = {path.name for path in folder.iterdir()}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in before)
