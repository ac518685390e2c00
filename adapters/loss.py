"""Weighted cross-entropy over a language model's tokens, without the logits of the whole sequence in memory.

The model's body is run once; its output layer is applied to the positions that carry a weight only, a chunk at a time,
and each chunk's logits are made again in the backward pass instead of being kept. Peak memory for logits is
`CHUNK` x V numbers, whatever the sequence length.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from harness.models.positions import runs_apart
from stepgame.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Reference", "WeightedLoss"]

CHUNK = 1024
"""Positions whose logits are in memory at once."""


class Reference(NamedTuple):
    """A frozen model that the trained one is held to.

    Attributes:
        loss: of the frozen model; only its logits are used.
        frozen: makes a context in which that model computes what it computed before training.
        strength: factor of KL(trained || frozen), in nats, that is added to each token's negative log-likelihood.
    """

    loss: WeightedLoss
    frozen: Callable[[], AbstractContextManager[Any]]
    strength: float


class WeightedLoss:
    """Sums w_t * (-log p(token t | before) + strength * KL_t) over a batch; the KL with a reference only.

    Args:
        model: a causal language model of transformers.
        chunk: positions whose logits are computed at once.

    Attributes:
        chunked: whether the output layer can be applied on its own. Models that do more to their logits than that
            layer (a cap, a scale) are run whole instead.
        reference: a frozen model to stay near, or None.
    """

    def __init__(self, model: Any, chunk: int = CHUNK) -> None:
        self._model = model
        self._chunk = chunk
        self._body: Any = getattr(model, model.base_model_prefix, None)
        self._head: Any = model.get_output_embeddings()
        self._fused: Any = None
        self.chunked = runs_apart(model, self._body, self._head)
        self.reference: Reference | None = None

    def __call__(
        self, given: dict[str, Tensor], mask: Tensor | None, labels: Tensor, weights: Tensor, **more: Any
    ) -> Tensor:
        """Return the sum, a float32 scalar.

        Args:
            given: ``input_ids`` [B, T] or ``inputs_embeds`` [B, T, d].
            mask: which positions are real, [B, T]; None for packed rows, whose position ids tell examples apart.
            labels: the token at each position, [B, T].
            weights: weight of predicting each position's token from those before it, [B, T]; that of a row's first
                position is not used.
            more: further arguments of the model, such as ``position_ids``.
        """
        chosen = weights[:, 1:] != 0
        targets, wanted = labels[:, 1:][chosen], weights[:, 1:][chosen].float()
        states = self.states(given, mask, chosen, **more)
        base = None
        if self.reference is not None:
            with self.reference.frozen(), torch.no_grad():
                base = self.reference.loss.states(given, mask, chosen, **more)
        total: Tensor = states.new_zeros((), dtype=torch.float32)
        for start in range(0, len(targets), self._chunk):
            part = slice(start, start + self._chunk)
            pieces = (states[part], targets[part], wanted[part], None if base is None else base[part])
            if len(targets) <= self._chunk or not self.chunked or self._fused is not None:
                total = total + self._part(*pieces)
            else:
                total = total + checkpoint(self._part, *pieces, use_reentrant=False)
        if not len(targets):
            # Still a part of the graph, so that every process of several has gradients to share.
            total = total + 0.0 * states.sum()
        return total

    def states(self, given: dict[str, Tensor], mask: Tensor | None, chosen: Tensor, **more: Any) -> Tensor:
        """Return what the logits of some positions are made of: hidden states [N, d], or logits [N, V] unless chunked.

        Args:
            given: see `__call__`.
            mask: likewise.
            chosen: which positions, the last one aside, [B, T - 1].
            more: further arguments of the model.
        """
        if not self.chunked:
            logits: Tensor = self._model(**given, attention_mask=mask, use_cache=False, **more).logits
            return logits[:, :-1][chosen]
        hidden: Tensor = self._body(**given, attention_mask=mask, use_cache=False, **more).last_hidden_state
        return hidden[:, :-1][chosen]

    def fuse(self) -> None:
        """Compute the loss of chunks by Liger's fused kernel, which never has their logits in memory.

        The kernel knows no weights for single tokens, so tokens go through it in groups of equal weight.

        Raises:
            InputError: if the output layer cannot be applied on its own, or the model is not on a CUDA device.
            MissingExtraError: if liger-kernel is not installed.
        """
        kernels: Any = require("liger_kernel.transformers.functional", "liger", "--liger")
        if self._model.device.type != "cuda":
            raise InputError("--liger needs a CUDA device; leave it out elsewhere")
        if not self.chunked or getattr(self._head, "bias", None) is not None:
            raise InputError("--liger does not fit this model, whose logits are more than its output layer's product")
        self._fused = kernels.liger_fused_linear_cross_entropy

    def _project(self, states: Tensor) -> Tensor:
        logits: Tensor = self._head(states) if self.chunked else states
        return logits.float()

    def _part(self, states: Tensor, targets: Tensor, weights: Tensor, base: Tensor | None) -> Tensor:
        if self._fused is not None:
            total = states.new_zeros((), dtype=torch.float32)
            for value in torch.unique(weights):
                alike = weights == value
                total = total + value * self._fused(states[alike], self._head.weight, targets[alike], reduction="sum")
            return total
        logits = self._project(states)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        if self.reference is not None and base is not None:
            ours = logits.log_softmax(-1)
            with torch.no_grad():
                theirs = self.reference.loss._project(base).log_softmax(-1)
            losses = losses + self.reference.strength * (ours.exp() * (ours - theirs)).sum(-1)
        return (losses * weights).sum()
