"""Soft prompts as tensors: rows before a prompt, and offsets added to its tokens' embeddings.

One class computes them everywhere: in training, in generation by transformers, in the harness and in what vLLM is
given, so that these cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from adapters.dept.config import SoftPromptConfig
from harness.models.adapters import Adapter
from stepgame.errors import InputError

__all__ = ["FILE", "TrainedPrompt", "load_trained_prompt"]

FILE = "adapter.safetensors"


class TrainedPrompt(nn.Module):
    """A soft prompt and its offsets; satisfies `harness.models.adapters.SoftPrompt`.

    Args:
        config: sizes and kind.
        width: embedding size, d.

    Attributes:
        prompt: rows before the prompt, [m, d].
        low_a: [s, r] with offsets by position, [d, r] with offsets by token; missing where there are no offsets.
        low_b: [r, d].
        bias_a: [r], with offsets by token only.
        bias_b: [d], likewise.
    """

    def __init__(self, config: SoftPromptConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self._width = width
        self._table: Tensor | None
        self.register_buffer("_table", None, persistent=False)
        self.prompt = nn.Parameter(torch.zeros(config.prompt_length, width))
        if config.rank:
            by_token = config.offset == "token"
            self.low_a = nn.Parameter(torch.empty(width if by_token else config.max_length, config.rank))
            # As the authors have it: A uniform, B zero, so that training starts from the model as it is.
            nn.init.kaiming_uniform_(self.low_a, a=5**0.5)
            self.low_b = nn.Parameter(torch.zeros(config.rank, width))
            if by_token:
                self.bias_a = nn.Parameter(torch.zeros(config.rank))
                self.bias_b = nn.Parameter(torch.zeros(width))

    @property
    def length(self) -> int:
        """Rows before the prompt, m."""
        return self.config.prompt_length

    @property
    def width(self) -> int:
        """Size of an embedding, d."""
        return self._width

    @property
    def reach(self) -> int | None:
        """Longest prompt whose tokens all get an offset; None where that has no bound."""
        return self.config.max_length if self.config.offset == "position" and self.config.rank else None

    def freeze(self) -> Self:
        """Give up training: nothing needs gradients, and the offsets by position are computed once.

        At the sizes of large models their product takes longer than all else that is done for a prompt.
        """
        self.eval().requires_grad_(False)
        if self.reach is not None:
            self._table = (self.low_a @ self.low_b) * self.config.scale
        return self

    def start_from(self, table: Tensor, ids: Tensor | None, generator: torch.Generator) -> None:
        """Give the rows their first values.

        Args:
            table: the model's token embeddings, [V, d].
            ids: tokens whose embeddings the rows start as, repeated or cut to m; None for random rows of the table's
                own spread.
            generator: of random rows.
        """
        with torch.no_grad():
            if ids is None:
                spread = table.float().std()
                self.prompt.copy_(torch.randn(self.prompt.shape, generator=generator) * spread.cpu())
            elif self.length:
                rows = ids.repeat(-(-self.length // len(ids)))[: self.length]
                self.prompt.copy_(table[rows.to(table.device)].float())

    def offsets(self, embeddings: Tensor, places: Tensor) -> Tensor:
        """Return what is added to the embeddings of a prompt's tokens.

        Args:
            embeddings: [B, T, d], before anything is added.
            places: which token of the prompt each is, [B, T]; negative for none.

        Returns:
            [B, T, d]; zero where the place is negative or beyond s.
        """
        scale = self.config.scale
        if self.config.offset == "token":
            inner = functional.relu(embeddings.to(self.low_a.dtype) @ self.low_a + self.bias_a)
            added = (inner @ self.low_b + self.bias_b) * scale
            return added * (places >= 0)[..., None]
        reached = (places >= 0) & (places < self.config.max_length)
        # [s, d] once, then looked up: cheaper than a product for each of the batch's tokens.
        table = (self.low_a @ self.low_b) * scale if self._table is None else self._table
        return functional.embedding(places.clamp(0, self.config.max_length - 1), table) * reached[..., None]

    def embed(self, table: Callable[[Tensor], Tensor], ids: Tensor, places: Tensor) -> Tensor:
        """Return the embeddings of positions of prompts; see `harness.models.adapters.SoftPrompt.embed`."""
        embeddings = table(ids)
        if self.config.rank:
            tokens = torch.where(places >= self.length, places - self.length, -1)
            embeddings = embeddings + self.offsets(embeddings, tokens).to(embeddings.dtype)
        if not self.length:
            return embeddings
        is_row = (places >= 0) & (places < self.length)
        rows = functional.embedding(places.clamp(0, self.length - 1), self.prompt).to(embeddings.dtype)
        return torch.where(is_row[..., None], rows, embeddings)

    def save(self, path: Any) -> None:
        """Write the tensors to a safetensors file."""
        save_file({name: value.detach().float().cpu().contiguous() for name, value in self.named_parameters()}, path)


def load_trained_prompt(adapter: Adapter) -> TrainedPrompt:
    """Load a soft prompt from an adapter's folder, on the CPU, for use.

    Raises:
        InputError: if its tensors are missing, of other shapes than its configuration says, or not finite.
    """
    path = adapter.folder / FILE
    try:
        known = dict(adapter.config)
        config = replace(SoftPromptConfig(prompt_length=1), **known)
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError) as error:
        raise InputError(f"adapter {adapter.folder} cannot be read: {error}") from None
    width = tensors["prompt"].shape[-1] if "prompt" in tensors else 0
    made = TrainedPrompt(config, width)
    wanted = {name: tuple(value.shape) for name, value in made.named_parameters()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        raise InputError(f"{path}: expected tensors of the shapes {wanted}, found {found}")
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise InputError(f"{path} holds numbers that are not finite; train the adapter again")
    made.load_state_dict(tensors)
    return made.freeze()
