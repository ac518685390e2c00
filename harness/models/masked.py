"""Masked language models on the transformers backend: options scored where the prompt has its mask.

A prompt says by ``[MASK]`` where its answer belongs; without one the answer belongs at its end. An option of n tokens
is scored in the place of n masks, from left to right: the sum of log p(t_i | the prompt, t_1 ... t_(i-1), n - i masks
behind), over the whole vocabulary. For options of one token that is the usual probability of a word in a gap. A longer
option is compared with a shorter one by sums of different length; keep to options of equal length, or normalise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from harness.models.adapters import model_source
from harness.models.architecture import positions_of
from harness.models.base import MASK, Completion, Failure, Identity, ModelRequest, Prompt, Sampling, Scores
from harness.models.builtin import checkpoint_hash, quiet_transformers
from harness.models.chat import load_tokenizer, plain_text, unloadable
from harness.models.hf import BATCH_TOKENS, DTYPES, device_of
from harness.models.positions import PositionReader
from harness.task import Example
from stepgame.errors import InputError

__all__ = ["MaskedModel", "gap_positions", "option_ids", "with_masks"]


class _Probe(NamedTuple):
    """One token that is asked for.

    Attributes:
        ids: the prompt with the option's first tokens and masks in their places.
        place: which position is read.
        token: whose log-probability.
    """

    ids: tuple[int, ...]
    place: int
    token: int


class MaskedModel:
    """A masked language model; it has the verb `choose` only.

    Args:
        model: of transformers, in evaluation mode, on its device.
        tokenizer: its tokenizer.
        identity: what the manifest says of it.
        batch_tokens: bound on a batch's padded tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, identity: Identity, batch_tokens: int) -> None:
        self._model = model
        self._read = PositionReader(model)
        self._tokenizer = tokenizer
        self._identity = identity
        self._batch_tokens = batch_tokens
        self._encoded: dict[tuple[Prompt, int], list[int]] = {}

    @classmethod
    def load(cls, request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Self:
        """Load weights and tokenizer from a folder or the hub.

        Raises:
            InputError: if they are not to be had, or the adapter is not a whole checkpoint.
        """
        quiet_transformers()
        device, adapter = device_of(request.device), request.adapter
        if adapter is not None and adapter.kind != "weights":
            raise InputError(f"a masked language model takes whole checkpoints only; adapter is a {adapter.kind}")
        dtype = request.dtype if request.dtype != "auto" else "bfloat16" if device.type == "cuda" else "float32"
        source, digest = model_source(request)
        place = {"revision": request.revision} if request.revision else {}
        weights, at = (source, place) if adapter is None else (str(adapter.folder), {})
        try:
            config = AutoConfig.from_pretrained(source, **place)
            model: Any = AutoModelForMaskedLM.from_pretrained(weights, dtype=DTYPES[dtype], **at)
        except (OSError, ValueError, KeyError) as error:
            raise unloadable(request, error) from None
        identity = Identity(
            content_hash=digest or checkpoint_hash(source, request.revision),
            revision=getattr(config, "_commit_hash", None),
            dtype=dtype,
            device=str(device),
            gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            args={"option_scoring": "masked"},
        )
        batch_tokens = request.batch_tokens or BATCH_TOKENS[device.type]
        return cls(model.to(device).eval(), load_tokenizer(request), identity, batch_tokens)

    @property
    def identity(self) -> Identity:
        """Which model this is."""
        return self._identity

    def render(self, prompt: Prompt) -> str:
        """Return the text the model reads, with one mask."""
        return with_masks(self._tokenizer, plain_text(prompt), 1, prompt.example.id)

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Cut work by length, longest first, so that padding is small."""
        self._encoded.clear()
        lengths = [len(self._ids(prompt, 1)) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda index: (-lengths[index], index))
        while order:
            count = max(1, self._batch_tokens // lengths[order[0]])
            yield order[:count]
            order = order[count:]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Scores | Failure]:
        """Score the options in the mask's place; see this module's description."""
        limit = positions_of(self._model.config)
        asked: list[list[list[_Probe]] | Failure] = []
        for prompt, texts in zip(prompts, options, strict=True):
            tokens = option_ids(self._tokenizer, texts)
            gaps = {count: self._ids(prompt, count) for count in set(map(len, tokens))}
            length = max(map(len, gaps.values()))
            if limit is not None and length > limit:
                asked.append(Failure(f"prompt of {length} tokens exceeds the model's {limit} positions"))
            else:
                asked.append([list(self._probes(prompt, gaps[len(each)], each)) for each in tokens])
        probes = {probe for each in asked if not isinstance(each, Failure) for option in each for probe in option}
        values = self._values(sorted(probes, key=lambda probe: (-len(probe.ids), probe)))
        return [
            each
            if isinstance(each, Failure)
            else Scores(
                tuple(math.fsum(values[probe] for probe in option) for option in each),
                tuple(map(len, each)),
                len(self._ids(prompt, 1)),
                len({probe for option in each for probe in option}),
            )
            for prompt, each in zip(prompts, asked, strict=True)
        ]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...] | Failure]:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError("a masked language model writes no text; use --score choice")

    def _ids(self, prompt: Prompt, count: int) -> list[int]:
        if (prompt, count) not in self._encoded:
            text = with_masks(self._tokenizer, plain_text(prompt), count, prompt.example.id)
            self._encoded[prompt, count] = self._tokenizer(text)["input_ids"]
        return self._encoded[prompt, count]

    def _probes(self, prompt: Prompt, gaps: Sequence[int], option: Sequence[int]) -> Iterator[_Probe]:
        ids = list(gaps)
        first, *_ = gap_positions(self._tokenizer, ids, len(option), prompt.example.id)
        for place, token in enumerate(option):
            yield _Probe(tuple(ids), first + place, token)
            ids[first + place] = token

    @torch.inference_mode()
    def _values(self, probes: Sequence[_Probe]) -> dict[_Probe, float]:
        """Return the log-probability of each probe's token; probes of the same masked text share a pass."""
        texts: dict[tuple[int, ...], list[_Probe]] = {}
        for probe in probes:
            texts.setdefault(probe.ids, []).append(probe)
        found: dict[_Probe, float] = {}
        order = list(texts)
        pad = self._tokenizer.pad_token_id or 0
        while order:
            width = len(order[0])
            part = order[: max(1, self._batch_tokens // width)]
            order = order[len(part) :]
            ids = torch.tensor([[*each, *[pad] * (width - len(each))] for each in part], device=self._model.device)
            mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in part], device=ids.device)
            asked = [(row, probe) for row, each in enumerate(part) for probe in texts[each]]
            chosen = torch.zeros_like(ids, dtype=torch.bool)
            chosen[[row for row, _ in asked], [probe.place for _, probe in asked]] = True
            # Positions are read in the order of the rows, and each text has one.
            logits = self._read(ids, mask, chosen).float().log_softmax(-1)
            for row, probe in asked:
                found[probe] = float(logits[row, probe.token])
        return found


def with_masks(tokenizer: Any, text: str, count: int, name: str) -> str:
    """Return a text with a model's own masks where its gap is, or at its end.

    Args:
        tokenizer: the model's.
        text: with `MASK` once, or without.
        count: how many masks.
        name: of the example, for messages.

    Raises:
        InputError: if it has several gaps.
    """
    masks = "".join([tokenizer.mask_token] * count)
    if text.count(MASK) > 1:
        raise InputError(f"example {name}: its prompt has {MASK} {text.count(MASK)} times; expected one")
    return text.replace(MASK, masks) if MASK in text else f"{text} {masks}"


def option_ids(tokenizer: Any, options: Sequence[str]) -> list[tuple[int, ...]]:
    """Return each option's tokens as a word in running text.

    Raises:
        InputError: if one has no tokens, only unknown ones, or those of another.
    """
    found: dict[tuple[int, ...], str] = {}
    for option in options:
        ids = tuple(tokenizer(f" {option}", add_special_tokens=False)["input_ids"])
        if not ids or tokenizer.unk_token_id in ids:
            raise InputError(f"option {option!r} is not in this model's vocabulary; choose another word")
        if ids in found:
            raise InputError(f"options {found[ids]!r} and {option!r} have the same tokens in this model's vocabulary")
        found[ids] = option
    return list(found)


def gap_positions(tokenizer: Any, ids: Sequence[int], count: int, name: str) -> list[int]:
    """Return where a text's masks are.

    Args:
        tokenizer: the model's.
        ids: the text's tokens.
        count: how many masks it must have.
        name: of the example, for messages.

    Raises:
        InputError: if it has more, because its text holds the model's own mask.
    """
    mask = tokenizer.mask_token_id
    places = [place for place, token in enumerate(ids) if token == mask]
    if len(places) != count:
        raise InputError(f"example {name}: its text holds {tokenizer.mask_token}, the mask of this model; leave it out")
    return places
