"""Adapters in vLLM's own terms: engine arguments, LoRA requests, and prompts as embeddings.

A soft prompt needs the model's token embeddings in this process; they are read from the checkpoint's files alone.
Some architectures treat embeddings that are given otherwise than tokens that they look up themselves (a scale, say);
the engine is therefore asked once, when it has started, whether plain tokens and their embeddings get the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import safe_open
from vllm.lora.request import LoRARequest

from harness.models.adapters import Adapter, SoftPrompt, check_width, load_soft_prompt, say_beyond_reach
from harness.models.vllm_engine import Engine, sampling_params
from stepgame.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EmbeddedPrompts", "engine_settings", "lora_request", "token_table"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference, in nats, between a prompt's tokens and their embeddings that rounding explains."""
KEPT = 256
"""Prompts whose embeddings are kept: those of one batch, so that a prompt's requests share them."""

_TABLES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""How checkpoints end the name of their token embeddings."""


def engine_settings(adapter: Adapter) -> dict[str, Any]:
    """Return the engine arguments that an adapter needs."""
    if adapter.kind == "soft-prompt":
        return {"enable_prompt_embeds": True}
    if adapter.kind == "lora":
        return {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": _rank_bound(int(adapter.config.get("rank") or 16)),
        }
    return {}


def lora_request(adapter: Adapter) -> LoRARequest | None:
    """Return what goes with every request of a LoRA adapter; None for other kinds."""
    if adapter.kind != "lora":
        return None
    return LoRARequest(adapter.content_hash[:12], 1, str(adapter.folder))


class EmbeddedPrompts:
    """Turns the tokens of prompts into embeddings with a soft prompt before them.

    Args:
        soft: the soft prompt.
        table: the model's token embeddings [V, d], on the CPU.
        dtype: of the engine.
    """

    def __init__(self, soft: SoftPrompt, table: Tensor, dtype: str) -> None:
        self._soft = soft
        self._table = table
        self._dtype = dtype
        self._kept: dict[tuple[int, ...], Tensor] = {}

    @classmethod
    def load(cls, adapter: Adapter, source: str, revision: str | None, dtype: str) -> Self:
        """Load the soft prompt, and the embeddings of the model it belongs to.

        Args:
            adapter: a soft prompt.
            source: folder or hub id of the model.
            revision: of a hub model.
            dtype: of the engine.

        Raises:
            InputError: if the two do not fit together.
        """
        soft = load_soft_prompt(adapter)
        table = token_table(source, revision)
        check_width(soft, table.shape[1], adapter)
        return cls(soft, table, dtype)

    @property
    def rows(self) -> int:
        """Positions that the soft prompt takes up before each prompt."""
        return self._soft.length

    def say_beyond_reach(self, lengths: Sequence[int]) -> None:
        """Say how many prompts are longer than the offsets reach."""
        say_beyond_reach(self._soft, lengths)

    def embed(self, ids: Sequence[int], path: Sequence[int] = ()) -> Tensor:
        """Return what the engine is given for a prompt.

        Args:
            ids: the prompt's tokens.
            path: tokens behind it that belong to an answer, which get no offsets.

        Returns:
            [rows + prompt + path, d], in the engine's dtype.
        """
        key = tuple(ids)
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = self._prompt(key)
        if not path:
            return self._kept[key]
        return torch.cat([self._kept[key], self._table[list(path)].to(DTYPES[self._dtype])])

    def check(self, engine: Engine, size: int) -> None:
        """Ask a started engine whether it takes embeddings for the tokens that they are the embeddings of.

        Args:
            engine: started.
            size: of the vocabulary.

        Raises:
            InputError: if its answers differ.
        """
        ids = [(7919 * place + 13) % size for place in range(24)]
        wanted = [(104729 * place + 7) % size for place in range(8)]
        params = sampling_params(max_tokens=1, temperature=0.0, logprob_token_ids=wanted, detokenize=False)
        plain = self._table[ids].to(DTYPES[self._dtype])
        names = [engine.submit(each, params) for each in ({"prompt_token_ids": ids}, {"prompt_embeds": plain})]
        one, other = (output.outputs[0].logprobs[0] for output in engine.collect(names))
        gap = max(abs(one[token].logprob - other[token].logprob) for token in wanted)
        if not gap <= TOLERANCE[self._dtype]:
            raise InputError(
                f"vLLM answers otherwise to this model's embeddings than to its tokens (by {gap:.3g} nats), so a soft "
                "prompt would not mean there what it was trained to; use --backend hf"
            )

    @torch.inference_mode()
    def _prompt(self, ids: tuple[int, ...]) -> Tensor:
        count = self.rows + len(ids)
        padded = torch.tensor([[0] * self.rows + list(ids)])
        places = torch.arange(count)[None]
        embedded = self._soft.embed(lambda each: self._table[each].float(), padded, places)[0]
        return embedded.to(DTYPES[self._dtype])


def token_table(source: str, revision: str | None = None) -> Tensor:
    """Read a checkpoint's token embeddings, and nothing else of it.

    Args:
        source: a folder, or a model of the hub.
        revision: of a hub model.

    Returns:
        [V, d], as stored.

    Raises:
        InputError: if its files are no safetensors or name the embeddings in none of the known ways.
    """
    hub: Any = require("transformers.utils.hub", "hf", "soft prompts")
    place = {"revision": revision} if revision else {}
    index = hub.cached_file(
        source, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False, **place
    )
    if index is None:
        names = {}
        files = ["model.safetensors"]
    else:
        names = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        files = sorted({file for name, file in names.items() if name.endswith(_TABLES)})
    for file in files:
        path = hub.cached_file(source, file, _raise_exceptions_for_missing_entries=False, **place)
        if path is None:
            break
        with safe_open(path, framework="pt") as tensors:
            found = [name for name in tensors.keys() if name.endswith(_TABLES)]  # noqa: SIM118
            if len(found) == 1:
                table: Tensor = tensors.get_tensor(found[0])
                return table
    raise InputError(f"the token embeddings of {source!r} were not found in its safetensors files; use --backend hf")


def _rank_bound(rank: int) -> int:
    """Return the smallest bound on LoRA ranks, of those that vLLM takes, that holds a rank."""
    for bound in (8, 16, 32, 64, 128, 256, 320, 512):
        if rank <= bound:
            return bound
    raise InputError(f"LoRA rank {rank} is more than vLLM takes (512); use --backend hf")
