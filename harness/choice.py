"""Exact log-likelihoods of every option of a prompt from one pass over it.

The prompt is read once and its key-value cache kept. The options' tokens form a trie; all its inner tokens then go
through the model in one packed forward, each at its own position, and each seeing the prompt and its ancestors
only. This is the plain sum of token log-probabilities, computed once where options share a beginning; nothing is
approximated.
What the prompts of a batch have in common at their beginning is read once for all of them.

Cost for a batch of B prompts: the prompts' tokens, plus B x T tokens for T inner nodes. Logits exist for the last
position of each prompt and the inner nodes only, never for prompt length x vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from harness.trie import ROOT, Trie, build_trie

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from harness.models.adapters import SoftPrompt

__all__ = ["PackedScorer", "PromptInputs", "packable", "plain_scores"]

MIN_PREFIX = 8
"""Shortest common beginning, in tokens, that is worth a pass of its own."""

Tokens = Sequence[int]


def packable(model: PreTrainedModel) -> bool:
    """Whether a model's attention lets each token see any chosen set of earlier ones, at any distance.

    Sliding windows, recurrent layers and the like do not, and neither do attention kernels that take no mask. Rotary
    frequencies that change with the length of the input would differ between a prompt read at once and in parts. Such
    models are scored by `plain_scores`.
    """
    config = model.config.get_text_config(decoder=True)
    if config._attn_implementation not in ("sdpa", "eager"):
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") in ("dynamic", "longrope"):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


class PromptInputs:
    """Turns the tokens of prompts into what a model takes: the tokens, or with a soft prompt their embeddings.

    Args:
        model: whose embeddings are used.
        soft: what stands before every prompt; None for nothing.

    Attributes:
        rows: tokens that hold the places of the soft prompt's rows; they go before every prompt's own.
    """

    def __init__(self, model: PreTrainedModel, soft: SoftPrompt | None = None) -> None:
        self._table: Any = model.get_input_embeddings()
        self._soft = soft
        self.rows: tuple[int, ...] = () if soft is None else (0,) * soft.length

    def __call__(self, ids: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Return the model's keyword arguments for tokens [B, T] at some places [B, T]; see `SoftPrompt.embed`."""
        if self._soft is None:
            return {"input_ids": ids}
        return {"inputs_embeds": self._soft.embed(self._table, ids, places).to(self._table.weight.dtype)}


class PackedScorer:
    """Scores options from one pass over each prompt; keeps the cache of the last common beginning.

    Args:
        model: a causal language model for which `packable` holds, in evaluation mode.
        inputs: how its prompts become input; as plain tokens when omitted.
    """

    def __init__(self, model: PreTrainedModel, inputs: PromptInputs | None = None) -> None:
        self._model = model
        self._inputs = inputs or PromptInputs(model)
        self._prefix: tuple[int, ...] = ()
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._tries: dict[tuple[tuple[int, ...], ...], Trie] = {}

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Tokens], options: Sequence[Sequence[Tokens]]) -> list[list[float]]:
        """Return the log-likelihood of each option of each prompt.

        Args:
            prompts: token ids, those that stand for a soft prompt's rows included; none empty.
            options: for each prompt the token ids of its options.
        """
        tries = [self._trie(tuple(tuple(option) for option in each)) for each in options]
        cache, visible, first = self._read(prompts)
        rows = [first[:, None]]
        if any(trie.inner for trie in tries):
            rows.append(self._grow(prompts, tries, cache, visible))
        # Row 0 is the prompt's end, row 1 + i the inner node i.
        logits = torch.cat(rows, dim=1)
        log_norm = torch.logsumexp(logits, dim=-1)
        return [_sums(trie, logits[index], log_norm[index]) for index, trie in enumerate(tries)]

    def _trie(self, options: tuple[tuple[int, ...], ...]) -> Trie:
        if options not in self._tries:
            self._tries[options] = build_trie(options)
        return self._tries[options]

    def _read(self, prompts: Sequence[Tokens]) -> tuple[DynamicCache, Tensor, Tensor]:
        """Read the prompts.

        Returns:
            Their cache [B, P], which of its P places each prompt may see [B, P], and the float32 logits of what comes
            next [B, V].
        """
        shared = self._share(prompts)
        rests = [list(prompt[shared:]) for prompt in prompts]
        width = max(len(rest) for rest in rests)
        device = self._model.device
        ids = torch.tensor([[0] * (width - len(rest)) + rest for rest in rests], device=device)
        pad = torch.tensor([width - len(rest) for rest in rests], device=device)
        places = torch.arange(width, device=device) - pad[:, None]
        visible = torch.cat([places.new_ones(len(prompts), shared), (places >= 0).long()], dim=1)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._layers if shared else []):
            grow = (len(prompts), -1, -1, -1)
            cache.update(keys.expand(grow), values.expand(grow), layer)
        output = self._model(
            **self._inputs(ids, torch.where(places >= 0, places + shared, -1)),
            attention_mask=visible,
            position_ids=places.clamp(min=0) + shared,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cache, visible, output.logits[:, -1].float()

    def _share(self, prompts: Sequence[Tokens]) -> int:
        """Make sure the cache of the prompts' common beginning is at hand; return its length in tokens."""
        first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
        # At least one token of each prompt is left, to read the next one's logits from.
        limit = min(map(len, prompts)) - 1
        shared = next((i for i in range(limit) if first[i] != last[i]), max(limit, 0))
        held = len(self._prefix)
        if MIN_PREFIX <= held <= shared and self._prefix == first[:held] and 2 * held >= shared:
            return held
        if shared < MIN_PREFIX or len(prompts) == 1:
            return 0
        ids = torch.tensor([first[:shared]], device=self._model.device)
        given = self._inputs(ids, torch.arange(shared, device=ids.device)[None])
        output: Any = self._model(**given, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)
        self._layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        self._prefix = first[:shared]
        return shared

    def _grow(self, prompts: Sequence[Tokens], tries: Sequence[Trie], cache: DynamicCache, visible: Tensor) -> Tensor:
        """Run all inner nodes behind their prompts; return float32 logits [B, T, V]."""
        width = max(len(trie.inner) for trie in tries)
        device = self._model.device
        ids = torch.zeros(len(tries), width, dtype=torch.long)
        positions = torch.zeros(len(tries), width, dtype=torch.long)
        # Filling nodes see the prompt and themselves, so that no row of the mask is empty.
        tree = torch.eye(width, dtype=torch.bool).repeat(len(tries), 1, 1)
        for row, (prompt, trie) in enumerate(zip(prompts, tries, strict=True)):
            for node, (token, parent, depth) in enumerate(zip(trie.inner, trie.parent, trie.depth, strict=True)):
                ids[row, node] = token
                positions[row, node] = len(prompt) + depth - 1
                if parent != ROOT:
                    tree[row, node] |= tree[row, parent]
        seen = visible.bool()[:, None, :].expand(-1, width, -1)
        mask = torch.cat([seen, tree.to(device)], dim=2)[:, None]
        dtype = self._model.dtype
        bias = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, torch.finfo(dtype).min)
        logits: Tensor = self._model(
            input_ids=ids.to(device),
            attention_mask=bias,
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits.float()


@torch.inference_mode()
def plain_scores(
    model: PreTrainedModel, prompt: Tokens, options: Sequence[Tokens], inputs: PromptInputs | None = None
) -> list[float]:
    """Return the log-likelihood of each option, one full sequence at a time, for models of any architecture."""
    inputs = inputs or PromptInputs(model)
    result = []
    for option in options:
        ids = torch.tensor([[*prompt, *option]], device=model.device)
        places = torch.arange(ids.shape[1], device=model.device)
        given = inputs(ids, torch.where(places < len(prompt), places, -1)[None])
        logits = model(**given, logits_to_keep=len(option) + 1).logits[0, :-1].float()
        chosen = torch.log_softmax(logits, dim=-1).gather(1, ids[0, len(prompt) :, None])
        result.append(float(chosen.sum()))
    return result


def _sums(trie: Trie, logits: Tensor, log_norm: Tensor) -> list[float]:
    rows = torch.tensor([node + 1 for steps in trie.steps for node, _ in steps], device=logits.device)
    tokens = torch.tensor([token for steps in trie.steps for _, token in steps], device=logits.device)
    values = iter((logits[rows, tokens] - log_norm[rows]).tolist())
    return [math.fsum(next(values) for _ in steps) for steps in trie.steps]
