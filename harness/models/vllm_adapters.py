"""Adapters in vLLM's own terms: engine arguments, LoRA requests, and prompts as embeddings.

A soft prompt needs the model's token embeddings in this process; they are read from the checkpoint's files alone.
Some architectures treat embeddings that are given otherwise than tokens that they look up themselves (a scale, say);
the engine is therefore asked once, when it has started, whether plain tokens and their embeddings get the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError, safe_open
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from harness.models.adapters import Adapter, SoftPrompt, check_width, load_soft_prompt, say_beyond_reach
from harness.models.vllm_engine import Engine, sampling_params
from stepgame.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EmbeddedPrompts", "EmbeddingProbe", "engine_settings", "lora_request", "token_table"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference, in nats, between a prompt's tokens and their embeddings that rounding explains."""
KEPT = 256
"""Prompts whose embeddings are kept: those of one batch, so that a prompt's requests share them."""
MAX_LORAS = 8
"""Most LoRA adapters of one batch on a GPU, unless the engine's argument ``max_loras`` says otherwise."""

LORA_FILE = "adapter_model.safetensors"
"""PEFT's name for the tensors of a LoRA adapter."""

_TABLES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""How checkpoints end the name of their token embeddings."""


def engine_settings(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Return the engine arguments that some adapters need, to be used in one batch.

    Raises:
        InputError: if a LoRA's rank is more than vLLM takes, or soft prompts go with one that changes the embeddings.
    """
    settings: dict[str, Any] = {}
    soft = [adapter for adapter in adapters if adapter.kind == "soft-prompt"]
    loras = [adapter for adapter in adapters if adapter.kind == "lora"]
    if soft:
        settings["enable_prompt_embeds"] = True
    if loras:
        ranks = [int(adapter.config.get("rank") or 16) for adapter in loras]
        settings |= {
            "enable_lora": True,
            "max_loras": (slots := _lora_slots(len(loras))),
            "max_cpu_loras": max(slots, len(loras)),
            "max_lora_rank": _rank_bound(max(ranks)),
        }
    if soft and loras:
        # Where LoRA is on, vLLM (0.32) puts it around the token embeddings too. That part of it expects all of a
        # batch's tokens, but is given those of the requests without embeddings alone, and stops the engine
        # (vllm#51122); so it is put around those layers only that the adapters have.
        settings["lora_target_modules"] = sorted(set().union(*map(_lora_layers, loras)))
    return settings


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
        kept: how many prompts' embeddings are kept, for the next time that they are asked for.
    """

    def __init__(self, soft: SoftPrompt, table: Tensor, dtype: str, kept: int = KEPT) -> None:
        self._soft = soft
        self._table = table
        self._dtype = dtype
        self._most = kept
        self._kept: dict[tuple[int, ...], Tensor] = {}

    @classmethod
    def load(cls, adapter: Adapter, table: Tensor, dtype: str, kept: int = KEPT) -> Self:
        """Load the soft prompt; see the class for the arguments.

        Raises:
            InputError: if it cannot be read, or does not fit the embeddings.
        """
        soft = load_soft_prompt(adapter)
        check_width(soft, table.shape[1], adapter)
        return cls(soft, table, dtype, kept)

    @property
    def rows(self) -> int:
        """Positions that the soft prompt takes up before each prompt."""
        return self._soft.length

    @property
    def reach(self) -> int | None:
        """Longest prompt all of whose tokens get an offset; see `SoftPrompt.reach`."""
        return self._soft.reach

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
        embedded = self._kept.get(key)
        if embedded is None:
            embedded = self._prompt(key)
            if self._most:
                if len(self._kept) >= self._most:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[key] = embedded
        if not path:
            return embedded
        return torch.cat([embedded, self._table[list(path)].to(DTYPES[self._dtype])])

    @torch.inference_mode()
    def _prompt(self, ids: tuple[int, ...]) -> Tensor:
        count = self.rows + len(ids)
        padded = torch.tensor([[0] * self.rows + list(ids)])
        places = torch.arange(count)[None]
        embedded = self._soft.embed(lambda each: self._table[each].float(), padded, places)[0]
        return embedded.to(DTYPES[self._dtype])


class EmbeddingProbe:
    """Finds out whether a started engine takes embeddings for the tokens that they are the embeddings of.

    Args:
        table: the model's token embeddings [V, d].
        dtype: of the engine.
        size: tokens of the vocabulary that may be asked for.

    Attributes:
        prompts: the same prompt as tokens and as embeddings, in vLLM's form, to be asked with ``params``.
        params: vLLM's sampling parameters.
    """

    def __init__(self, table: Tensor, dtype: str, size: int) -> None:
        ids = [(7919 * place + 13) % size for place in range(24)]
        self._wanted = [(104729 * place + 7) % size for place in range(8)]
        self._dtype = dtype
        self.prompts: tuple[Mapping[str, Any], Mapping[str, Any]] = (
            {"prompt_token_ids": ids},
            {"prompt_embeds": table[ids].to(DTYPES[dtype])},
        )
        self.params = sampling_params(max_tokens=1, temperature=0.0, logprob_token_ids=self._wanted, detokenize=False)

    def ask(self, engine: Engine) -> None:
        """Ask an offline engine and judge its answers.

        Raises:
            InputError: as `judge` says.
        """
        self.judge(engine.collect([engine.submit(each, self.params) for each in self.prompts]))

    def judge(self, outputs: Sequence[Any]) -> None:
        """Compare the two answers.

        Args:
            outputs: vLLM's ``RequestOutput`` for each of ``prompts``.

        Raises:
            InputError: if they differ by more than rounding explains.
        """
        one, other = (output.outputs[0].logprobs[0] for output in outputs)
        gap = max(abs(one[token].logprob - other[token].logprob) for token in self._wanted)
        if not gap <= TOLERANCE[self._dtype]:
            raise InputError(
                f"vLLM answers otherwise to this model's embeddings than to its tokens (by {gap:.3g} nats), so a soft "
                "prompt would not mean there what it was trained to; use --backend hf"
            )


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


def _lora_slots(count: int) -> int:
    """Return how many LoRA adapters a batch has room for.

    Each takes up memory of the device; those beyond wait on the host until a batch has room for them.
    """
    if current_platform.is_cpu():
        # On CPUs, vLLM (0.32) counts a batch's requests without LoRA to its last slot (vllm#48421), which must
        # therefore stay empty.
        return count + 1
    return min(count, MAX_LORAS)


def _lora_layers(adapter: Adapter) -> set[str]:
    """Return the last names of the layers that a LoRA adapter has updates of, such as ``q_proj``.

    Raises:
        InputError: if the token embeddings are among them, or it cannot be read.
    """
    try:
        with safe_open(adapter.folder / LORA_FILE, framework="pt") as tensors:
            names = [name.partition(".lora_") for name in tensors.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"adapter {adapter.folder} cannot be read: {error}") from None
    found = {name.rpartition(".")[2] for name, _, _ in names}
    if any(kind.startswith("embedding_") for _, _, kind in names) or any(f"{each}.weight" in _TABLES for each in found):
        raise InputError(
            f"adapter {adapter.folder} is a LoRA of the token embeddings too, which vLLM cannot serve beside soft "
            "prompts; serve it by itself"
        )
    return found


def _rank_bound(rank: int) -> int:
    """Return the smallest bound on LoRA ranks, of those that vLLM takes, that holds a rank."""
    for bound in (8, 16, 32, 64, 128, 256, 320, 512):
        if rank <= bound:
            return bound
    raise InputError(f"LoRA rank {rank} is more than vLLM takes (512); use --backend hf")
