"""A causal language model as the training path's module: its weighted loss, and what may be added to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from adapters.loss import Reference, WeightedLoss
from stepgame.errors import InputError

__all__ = ["CausalModule"]


class CausalModule(nn.Module):
    """A model whose own weights, or updates of them, are trained.

    Args:
        model: of transformers, or a PEFT model around one.

    Attributes:
        noise: NEFTune's alpha (Jain et al. 2024): in training each token's embedding gets uniform noise of size
            alpha / sqrt(L d), where L is its example's length; 0 for none.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.noise = 0.0
        # In a list, so that it is not registered a second time.
        self._inner = [model.get_base_model() if hasattr(model, "get_base_model") else model]
        self.loss = WeightedLoss(self._inner[0])

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of weighted negative log-likelihoods, a float32 scalar.

        Args:
            batch: ``input_ids`` and ``weights``, each [B, T]; and ``attention_mask`` [B, T], padded on the right, or
                ``position_ids`` [B, T], which start at 0 with each example of a packed row.
        """
        ids, mask, places = batch["input_ids"], batch.get("attention_mask"), batch.get("position_ids")
        more = {} if places is None else {"position_ids": places}
        with self._noisy(mask, places) if self.training and self.noise else nullcontext():
            return self.loss({"input_ids": ids}, mask, ids, batch["weights"], **more)

    def stay_near_base(self, strength: float) -> None:
        """Add strength x KL(trained || base) to the loss of each token that has a weight.

        The base is the model without its updates where it is PEFT's, and a frozen copy of it otherwise, which takes
        the memory of a second model.
        """
        if self.model is self._inner[0]:
            frozen = copy.deepcopy(self.model).requires_grad_(False).eval()
            self.loss.reference = Reference(WeightedLoss(frozen), nullcontext, strength)
        else:
            self.loss.reference = Reference(WeightedLoss(self._inner[0]), self._as_base, strength)

    @torch.no_grad()
    def check_packing(self) -> None:
        """Check that examples which share a row do not see each other in this model.

        Raises:
            InputError: if they do, because the model makes nothing of position ids, or carries a state along.
        """
        model, device = self._inner[0], self._inner[0].device
        ids = torch.arange(1, 9, device=device)[None] % model.config.vocab_size
        places = torch.arange(4, device=device).repeat(2)[None]
        was_training = model.training
        model.eval()
        try:
            packed = model(input_ids=ids, position_ids=places, use_cache=False).logits[:, 4:].float()
            alone = model(input_ids=ids[:, 4:], use_cache=False).logits.float()
            same = bool((packed - alone).abs().max() <= 2e-2 * alone.abs().max())
        except (TypeError, ValueError, RuntimeError):
            same = False
        finally:
            model.train(was_training)
        if not same:
            raise InputError("in this model examples that share a row would see each other; leave --packing out")

    @contextmanager
    def _as_base(self) -> Iterator[None]:
        """Make PEFT's model what it was before training: no updates, no noise, no dropout."""
        noise, training, self.noise = self.noise, self.training, 0.0
        self.model.eval()
        try:
            with self.model.disable_adapter():
                yield
        finally:
            self.noise = noise
            self.model.train(training)

    @contextmanager
    def _noisy(self, mask: Tensor | None, places: Tensor | None) -> Iterator[None]:
        """Add noise to the embeddings of one pass through the model."""
        lengths = _lengths(places) if places is not None else mask.sum(dim=1, keepdim=True)  # type: ignore[union-attr]

        def add(_module: nn.Module, _given: Any, found: Tensor) -> Tensor:
            # Read here, because the base model that a KL is measured to gets none.
            size = self.noise / (lengths * found.shape[-1]).clamp(min=1).sqrt()
            return found + (torch.rand_like(found) * 2 - 1) * size[..., None].to(found.dtype)

        handle = self._inner[0].get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()


def _lengths(places: Tensor) -> Tensor:
    """Return the length of each token's own example in packed rows, [B, T]."""
    examples = (places == 0).cumsum(dim=1)
    counts = torch.zeros(len(places), places.shape[1] + 1, dtype=places.dtype, device=places.device)
    counts.scatter_add_(1, examples, torch.ones_like(places))
    return counts.gather(1, examples)
