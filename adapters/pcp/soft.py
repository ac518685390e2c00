"""Soft templates: the words of a template, and the label words, as new tokens that begin as those words (DART).

Zhang et al. 2022, arXiv 2108.13161. The tokens are added to the vocabulary and belong to the checkpoint, so that every
engine reads a soft template as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from tokenizers import AddedToken

from adapters.pcp.tasks import ClozeTask
from harness.models.base import MASK

__all__ = ["soften"]

_PIECES = re.compile(r"(\{[ab]\}|" + re.escape(MASK) + ")")


def soften(task: ClozeTask, model: Any, tokenizer: Any, *, masked: bool) -> ClozeTask:
    """Add the tokens to a model and its tokenizer.

    Args:
        task: with the words that the tokens begin as.
        model: of transformers; its embeddings grow.
        tokenizer: its own; its vocabulary grows.
        masked: which of the task's templates is meant.

    Returns:
        The task in the new tokens.
    """
    origins: dict[str, Sequence[int]] = {}
    template = task.cloze if masked else task.causal
    parts = []
    for piece in _PIECES.split(template):
        if _PIECES.fullmatch(piece):
            parts.append(piece)
            continue
        ids = tokenizer(piece.strip(), add_special_tokens=False)["input_ids"] if piece.strip() else []
        names = [f"<soft-{len(origins) + place}>" for place in range(len(ids))]
        origins |= {name: [token] for name, token in zip(names, ids, strict=True)}
        parts.extend(names)
    labels = [f"<label-{place}>" for place in range(len(task.words))]
    for name, word in zip(labels, task.words, strict=True):
        origins[name] = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    _grow(model, tokenizer, origins, masked=masked)
    text = " ".join(parts)
    made = replace(task, words=tuple(labels))
    return replace(made, cloze=text) if masked else replace(made, causal=text)


def _grow(model: Any, tokenizer: Any, origins: dict[str, Sequence[int]], *, masked: bool) -> None:
    # A blank before a token is its own in masked models, as in words; behind a chat template's marks it is not.
    tokenizer.add_tokens([AddedToken(name, lstrip=masked, normalized=False) for name in origins])
    table = model.get_input_embeddings().weight
    if len(tokenizer) > len(table):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = {id(table): table for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    bias = getattr(model.get_output_embeddings(), "bias", None)
    with torch.no_grad():
        for name, ids in origins.items():
            new = tokenizer.convert_tokens_to_ids(name)
            for table in tables.values():
                table[new] = table[list(ids)].mean(dim=0)
            if bias is not None:
                bias[new] = bias[list(ids)].mean()
