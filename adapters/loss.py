"""Weighted cross-entropy over a language model's tokens, without the logits of the whole sequence in memory.

The model's body is run once; its output layer is applied to the positions that carry a weight only, a chunk at a time,
and each chunk's logits are made again in the backward pass instead of being kept. Peak memory for logits is
`CHUNK` x V numbers, whatever the sequence length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["WeightedLoss"]

CHUNK = 1024
"""Positions whose logits stand in memory at once."""
TOLERANCE = 1e-3
"""Largest difference between the output layer's logits and the model's own that rounding explains, in float32."""


class WeightedLoss:
    """Sums w_t * -log p(token t | before) over a batch.

    Args:
        model: a causal language model of transformers.
        chunk: positions whose logits are computed at once.

    Attributes:
        chunked: whether the output layer can be applied on its own. Models that do more to their logits than that
            layer (a cap, a scale) are run whole instead.
    """

    def __init__(self, model: Any, chunk: int = CHUNK) -> None:
        self._model = model
        self._chunk = chunk
        self._body: Any = getattr(model, model.base_model_prefix, None)
        self._head: Any = model.get_output_embeddings()
        self.chunked = self._body is not None and self._head is not None and self._agrees()

    def __call__(self, given: dict[str, Tensor], mask: Tensor, labels: Tensor, weights: Tensor, **more: Any) -> Tensor:
        """Return the sum, a float32 scalar.

        Args:
            given: ``input_ids`` [B, T] or ``inputs_embeds`` [B, T, d].
            mask: which positions are real, [B, T].
            labels: the token at each position, [B, T].
            weights: weight of predicting each position's token from those before it, [B, T]; that of a row's first
                position is not used.
            more: further arguments of the model, such as ``position_ids``.
        """
        chosen = weights[:, 1:] != 0
        targets, wanted = labels[:, 1:][chosen], weights[:, 1:][chosen].float()
        if not self.chunked:
            logits = self._model(**given, attention_mask=mask, use_cache=False, **more).logits
            return _weigh(logits[:, :-1][chosen], targets, wanted)
        hidden = self._body(**given, attention_mask=mask, use_cache=False, **more).last_hidden_state[:, :-1][chosen]
        total: Tensor = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(targets), self._chunk):
            part = slice(start, start + self._chunk)
            if len(targets) <= self._chunk:
                total = total + self._part(hidden, targets, wanted)
            else:
                again = checkpoint(self._part, hidden[part], targets[part], wanted[part], use_reentrant=False)
                total = total + again
        if not len(targets):
            # Still a part of the graph, so that every process of several has gradients to share.
            total = total + 0.0 * hidden.sum()
        return total

    def _part(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return _weigh(self._head(hidden), targets, weights)

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Whether body and output layer by themselves give the model's own logits."""
        was_training = self._model.training
        self._model.eval()
        ids = torch.arange(1, 9, device=self._model.device)[None] % self._model.config.vocab_size
        try:
            whole = self._model(input_ids=ids, use_cache=False).logits.float()
            parts = self._head(self._body(input_ids=ids, use_cache=False).last_hidden_state).float()
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return False
        finally:
            self._model.train(was_training)
        scale = float(whole.abs().max()) or 1.0
        limit = TOLERANCE if self._model.dtype == torch.float32 else 2e-2
        return whole.shape == parts.shape and bool(((whole - parts).abs().max() / scale) <= limit)


def _weigh(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    losses: Tensor = functional.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum()
