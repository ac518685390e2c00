"""A causal language model as the training path's module: its weighted loss, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from adapters.loss import WeightedLoss

__all__ = ["CausalModule"]


class CausalModule(nn.Module):
    """A model whose own weights, or updates of them, are trained.

    Args:
        model: of transformers, or a PEFT model around one.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._loss = WeightedLoss(model.get_base_model() if hasattr(model, "get_base_model") else model)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of weighted negative log-likelihoods, a float32 scalar.

        Args:
            batch: ``input_ids``, ``attention_mask`` and ``weights``, each [B, T], padded on the right.
        """
        ids = batch["input_ids"]
        more = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
        return self._loss({"input_ids": ids}, batch["attention_mask"], ids, batch["weights"], **more)
