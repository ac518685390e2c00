"""Logits of some positions of a language model, without those of the others."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["PositionReader", "runs_apart"]

TOLERANCE = 1e-3
"""Largest difference between a model's own logits and those of its parts that rounding explains, in float32, as a share
of the largest logit."""


class PositionReader:
    """Reads a language model's logits at some positions, without making those of the others.

    Args:
        model: of transformers. The body and what stands behind it are run apart if that gives the model's own logits;
            the whole model is run otherwise.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._body: Any = getattr(model, model.base_model_prefix, None)
        heads = [child for name, child in model.named_children() if name != model.base_model_prefix]
        self._head: Any = heads[0] if len(heads) == 1 else None
        self.apart = runs_apart(model, self._body, self._head)

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor, chosen: torch.Tensor, **more: Any) -> torch.Tensor:
        """Return the logits of some positions, [N, V].

        Args:
            ids: tokens, [B, T].
            mask: which positions are real, [B, T].
            chosen: which are read, [B, T], N of them.
            more: further arguments of the model.
        """
        if not self.apart:
            whole: torch.Tensor = self._model(input_ids=ids, attention_mask=mask, **more).logits
            return whole[chosen]
        states = self._body(input_ids=ids, attention_mask=mask, **more).last_hidden_state
        logits: torch.Tensor = self._head(states[chosen])
        return logits


@torch.no_grad()
def runs_apart(model: Any, body: Any, head: Any) -> bool:
    """Return whether a model's body and what stands behind it, run one after the other, give the model's own logits.

    Args:
        model: of transformers.
        body: of it; None where it has no such part.
        head: what makes logits of the body's last hidden states, [N, d]; likewise.
    """
    if body is None or head is None:
        return False
    was_training = model.training
    model.eval()
    ids = torch.arange(1, 9, device=model.device)[None] % model.config.vocab_size
    try:
        whole = model(input_ids=ids).logits[0].float()
        parts = head(body(input_ids=ids).last_hidden_state[0]).float()
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False
    finally:
        model.train(was_training)
    limit = TOLERANCE if model.dtype == torch.float32 else 2e-2
    return whole.shape == parts.shape and bool((whole - parts).abs().max() <= limit * whole.abs().max())
