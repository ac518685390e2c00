"""A frozen transformers model behind a soft prompt: loss, generation, for decoders and encoder-decoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters.dept.soft_prompt import TrainedPrompt
from adapters.loss import WeightedLoss

__all__ = ["SoftPromptModel"]


class SoftPromptModel(nn.Module):
    """A model whose weights stay as they are, and the soft prompt before it.

    Rows and offsets go to the prompt's tokens, counted from the first real one. Tokens of an answer get none, whether
    they are given (the loss) or being generated.

    Args:
        base: a causal or encoder-decoder language model of transformers; it is frozen.
        soft: the soft prompt.
    """

    def __init__(self, base: Any, soft: TrainedPrompt) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.soft = soft
        self._decoder = not base.config.is_encoder_decoder
        self._loss = WeightedLoss(base) if self._decoder else None

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of weighted negative log-likelihoods, a float32 scalar.

        Args:
            batch: ``input_ids`` and ``attention_mask`` [B, T], padded on either side; for a decoder ``weights`` [B, T]
                of predicting each token, and ``prompt`` [B], how many of a row's real tokens are its prompt; for an
                encoder-decoder ``labels`` [B, L] and ``label_weights`` [B, L].
        """
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if self._loss is None:
            return self._encoder_loss(batch)
        weights = functional.pad(batch["weights"], (self.soft.length, 0))
        ids, mask, places, weights = self._lay_out(ids, mask, batch["prompt"], extra=weights)
        embeddings = self._embed(ids, places)
        return self._loss({"inputs_embeds": embeddings}, mask, ids, weights)

    @torch.inference_mode()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **settings: Any) -> Tensor:
        """Generate behind prompts.

        Args:
            input_ids: the prompts [B, T], padded on either side.
            attention_mask: [B, T]; all ones when omitted.
            settings: of ``transformers``' generate.

        Returns:
            New tokens only [B, N]; for an encoder-decoder with its start token.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ids, mask, places, _ = self._lay_out(input_ids, mask, mask.sum(dim=1), left=self._decoder)
        output: Tensor = self.base.generate(inputs_embeds=self._embed(ids, places), attention_mask=mask, **settings)
        return output

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None, prompt: Tensor | None = None) -> Tensor:
        """Return a decoder's logits of the tokens' own positions, [B, T, V], in the order of ``input_ids``.

        Args:
            input_ids: [B, T], padded on either side.
            attention_mask: [B, T]; all ones when omitted.
            prompt: how many of a row's real tokens are its prompt, [B]; all of them when omitted.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ids, whole, places, back = self._lay_out(
            input_ids,
            mask,
            mask.sum(dim=1) if prompt is None else prompt,
            extra=torch.arange(-self.soft.length, input_ids.shape[1], device=input_ids.device).expand(
                len(input_ids), -1
            ),
        )
        logits = self.base(inputs_embeds=self._embed(ids, places), attention_mask=whole).logits
        order = back.argsort(dim=1)[:, self.soft.length :]
        found: Tensor = logits.gather(1, order[..., None].expand(-1, -1, logits.shape[-1]))
        return found

    def _encoder_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        mask = batch["attention_mask"]
        ids, mask, places, _ = self._lay_out(batch["input_ids"], mask, mask.sum(dim=1))
        labels, weights = batch["labels"], batch["label_weights"]
        shifted = self.base.prepare_decoder_input_ids_from_labels(labels)
        given = {"inputs_embeds": self._embed(ids, places), "decoder_input_ids": shifted}
        logits = self.base(**given, attention_mask=mask).logits
        losses = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        return (losses * weights.flatten()).sum()

    def _embed(self, ids: Tensor, places: Tensor) -> Tensor:
        table = self.base.get_input_embeddings()
        return self.soft.embed(table, ids, places).to(table.weight.dtype)

    def _lay_out(
        self, ids: Tensor, mask: Tensor, prompt: Tensor, *, left: bool = False, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Put the soft prompt's places before each row's real tokens, with the padding on one side.

        Padding between the two would change relative positions, which some models (T5) measure by index.

        Args:
            ids: [B, T].
            mask: [B, T].
            prompt: how many real tokens are the prompt, [B].
            left: padding on the left instead of the right.
            extra: [B, m + T], brought into the same order.

        Returns:
            Ids, mask, places (see `SoftPrompt.embed`) and ``extra``, each [B, m + T].
        """
        rows = self.soft.length
        ids, mask = functional.pad(ids, (rows, 0)), functional.pad(mask, (rows, 0), value=1)
        order = torch.argsort(mask.bool() if left else ~mask.bool(), dim=1, stable=True)
        ids, mask = ids.gather(1, order), mask.gather(1, order)
        count = mask.cumsum(dim=1) - 1
        places = torch.where(mask.bool() & (count < rows + prompt[:, None]), count, -1)
        moved = ids.new_zeros(ids.shape) if extra is None else extra.gather(1, order)
        return ids, mask, places, moved
