"""The transformers backend: any causal language model, on CPU or CUDA, both verbs, batched.

Conventions that decide what a number means:

- A model with a chat template is asked through it, with the header of the assistant's turn at the end. Options then
  follow that header directly, without a blank, because that is where a chat model begins its own answers.
- A model without one completes plain text: the turns' contents and the prompt's cue ("Answer:"), blank lines between
  them. Options follow the cue after one blank, as words do in running text.
- Decoding is plain: the penalties and temperatures that a checkpoint may suggest in its generation settings are left
  out, so that the manifest's sampling says everything.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

from harness.models.adapters import (
    Adapter,
    SoftPrompt,
    check_width,
    load_soft_prompt,
    model_source,
    say_beyond_reach,
)
from harness.models.architecture import positions_of
from harness.models.base import (
    BackendError,
    Completion,
    Failure,
    Identity,
    ModelRequest,
    Prompt,
    Sampling,
    Scores,
)
from harness.models.builtin import checkpoint_hash, quiet_transformers
from harness.models.chat import load_tokenizer, unloadable
from harness.models.local import Encoder
from harness.progress import say
from harness.task import Example
from harness.threads import wait_without_spinning
from harness.trie import build_trie
from stepgame.errors import InputError, require

wait_without_spinning()
require("torch", "hf", "the transformers backend")
require("transformers", "hf", "the transformers backend")

import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from harness.choice import PackedScorer, PromptInputs, packable, plain_scores  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["HFModel", "device_of"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Padded tokens of a batch: about a second's work for a small model on two cores; enough to fill a GPU."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference, in nats, between packed and plain scoring that rounding explains at each dtype."""


class HFModel:
    """A causal language model run by transformers.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: its tokenizer, a fast one.
        identity: what the manifest says of it; the settings found here are added to its args.
        batch_tokens: bound on a batch's padded tokens.
        soft: a soft prompt to stand before every prompt, on the model's device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        identity: Identity,
        batch_tokens: int,
        soft: SoftPrompt | None = None,
    ) -> None:
        # Any: the types that transformers gives its classes do not hold together.
        self._model: Any = model
        self._tokenizer = tokenizer
        self._batch_tokens = batch_tokens
        self._chat = tokenizer.chat_template is not None
        self._stops = _end_tokens(model, tokenizer)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self._stops, default=0)
        settings = {"do_sample": False, "eos_token_id": sorted(self._stops) or None, "pad_token_id": self._pad}
        self._model.generation_config = GenerationConfig.from_dict(settings)
        self._encoder = Encoder(tokenizer)
        self._soft = soft
        self._inputs = PromptInputs(model, soft)
        self._packed = self._find_scorer(TOLERANCE[identity.dtype or "float32"])
        template = tokenizer.chat_template
        found = {
            "batch_tokens": batch_tokens,
            "attention": model.config._attn_implementation,
            "option_scoring": "packed" if self._packed else "plain",
            "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if self._chat else None,
        }
        self._identity = replace(identity, args={**identity.args, **found})

    @classmethod
    def load(cls, request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Self:
        """Load weights and tokenizer from a folder, the hub, or the built-in model.

        Raises:
            InputError: if they are not to be had, or device and dtype do not fit.
        """
        quiet_transformers()
        device = device_of(request.device)
        dtype = request.dtype if request.dtype != "auto" else "bfloat16" if device.type == "cuda" else "float32"
        adapter = request.adapter
        source, digest = model_source(request)
        place = {"revision": request.revision} if request.revision else {}
        weights = str(adapter.folder) if adapter is not None and adapter.kind == "weights" else source
        try:
            config = AutoConfig.from_pretrained(source, **place)
            model = AutoModelForCausalLM.from_pretrained(
                weights, dtype=DTYPES[dtype], **({} if weights != source else place)
            )
        except (OSError, ValueError, KeyError) as error:
            raise unloadable(request, error) from None
        tokenizer = load_tokenizer(request)
        if digest is None:
            digest = checkpoint_hash(source, request.revision)
            if adapter is not None:
                adapter.check_base(digest, request.spec)
        if not tokenizer.is_fast:
            raise InputError(f"model {request.spec!r} has no fast tokenizer (tokenizer.json), which scoring needs")
        identity = Identity(
            content_hash=digest,
            revision=getattr(config, "_commit_hash", None),
            dtype=dtype,
            device=str(device),
            gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        )
        batch_tokens = request.batch_tokens or BATCH_TOKENS[device.type]
        placed: Any = model
        soft: Any = None
        if adapter is not None and adapter.kind == "lora":
            placed = _with_lora(model, adapter)
        elif adapter is not None and adapter.kind == "soft-prompt":
            soft = load_soft_prompt(adapter)
            check_width(soft, config.get_text_config(decoder=True).hidden_size, adapter)
            soft = soft.to(device)
        return cls(placed.to(device).eval(), tokenizer, identity, batch_tokens, soft)

    @property
    def identity(self) -> Identity:
        """Which model this is."""
        return self._identity

    def render(self, prompt: Prompt) -> str:
        """Return the exact text the model reads."""
        return self._encoder.encode([prompt])[0].text

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Cut work by length, longest first, so that padding is small and memory peaks at once."""
        self._encoder.forget()
        lengths = [len(each.ids) for each in self._encoder.encode(prompts)]
        if self._soft is not None:
            say_beyond_reach(self._soft, lengths)
        order = sorted(range(len(prompts)), key=lambda index: (-lengths[index], index))
        while order:
            count = max(1, self._batch_tokens // max(1, len(self._inputs.rows) + lengths[order[0]]))
            yield order[:count]
            order = order[count:]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Scores | Failure]:
        """Score the options exactly; see `harness.choice`."""
        encoded = self._encoder.encode(prompts)
        tokens = [self._encoder.options(each, tuple(texts)) for each, texts in zip(encoded, options, strict=True)]
        return self.score_tokens([each.ids for each in encoded], tokens)

    def score_tokens(
        self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[Scores | Failure]:
        """Score options exactly; see `TokenModel.score_tokens`."""
        room = [max(map(len, each)) for each in options]
        result: list[Scores | Failure] = list(self._too_long(prompts, room))
        asked = [index for index, failure in enumerate(result) if failure is None]
        logprobs = self._in_memory(
            lambda part: self._score([(*self._inputs.rows, *prompts[i]) for i in part], [options[i] for i in part]),
            asked,
        )
        for index, values in zip(asked, logprobs, strict=True):
            lengths = tuple(map(len, options[index]))
            scored = build_trie(options[index]).scored
            result[index] = Scores(tuple(values), lengths, len(prompts[index]), scored)
        return result

    @torch.inference_mode()
    def is_greedy(self, prompt: Sequence[int], option: Sequence[int]) -> bool:
        """Return whether greedy decoding from a prompt begins with an option; both are token ids."""
        ids = torch.tensor([[*self._inputs.rows, *prompt, *option]], device=self._model.device)
        places = torch.arange(ids.shape[1], device=ids.device)
        given = self._inputs(ids, torch.where(places < ids.shape[1] - len(option), places, -1)[None])
        logits = self._model(**given, logits_to_keep=len(option) + 1).logits[0, :-1]
        return bool((logits.argmax(dim=-1) == ids[0, -len(option) :]).all())

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...] | Failure]:
        """Complete the prompts; a draw depends on the seed and the sample's id, not on the batch."""
        ids = [each.ids for each in self._encoder.encode(prompts)]
        names = [f"{prompt.example.id}\0{copy}" for prompt in prompts for copy in range(sampling.n)]
        drawn = self.complete_tokens([each for each in ids for _ in range(sampling.n)], names, sampling)
        result: list[Any] = []
        for start in range(0, len(drawn), sampling.n):
            copies = drawn[start : start + sampling.n]
            failed = next((each for each in copies if isinstance(each, Failure)), None)
            result.append(failed or tuple(copies))
        return result

    def complete_tokens(
        self, prompts: Sequence[Sequence[int]], names: Sequence[str], sampling: Sampling
    ) -> list[Completion | Failure]:
        """Complete prompts given as tokens; see `TokenModel.complete_tokens`."""
        result: list[Any] = self._too_long(prompts, [sampling.max_tokens] * len(prompts))
        asked = [index for index, failure in enumerate(result) if failure is None]
        drawn = self._in_memory(
            lambda part: self._complete(
                [(*self._inputs.rows, *prompts[index]) for index in part], [names[index] for index in part], sampling
            ),
            asked,
        )
        for index, completion in zip(asked, drawn, strict=True):
            result[index] = completion
        return result

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def room(self) -> int:
        """Most tokens of a prompt and what follows it."""
        limit = self._positions
        return sys.maxsize if limit is None else limit - len(self._inputs.rows)

    @property
    def _positions(self) -> int | None:
        return positions_of(self._model.config)

    def _too_long(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> list[Any]:
        limit, rows = self._positions, len(self._inputs.rows)
        return [
            Failure(f"prompt of {len(each)} tokens and {rows + more} more exceed the model's {limit} positions")
            if limit is not None and len(each) + rows + more > limit
            else None
            for each, more in zip(prompts, room, strict=True)
        ]

    def _in_memory(self, work: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any]) -> list[Any]:
        """Do work on some items, in halves where memory does not hold them together."""
        if not items:
            return []
        try:
            return work(items)
        except torch.OutOfMemoryError as error:
            if len(items) == 1:
                raise BackendError(f"out of memory on a single prompt: {error}") from None
        torch.cuda.empty_cache()
        half = len(items) // 2
        return self._in_memory(work, items[:half]) + self._in_memory(work, items[half:])

    def _score(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        if self._packed is not None:
            return self._packed(prompts, options)
        pairs = zip(prompts, options, strict=True)
        return [plain_scores(self._model, prompt, each, self._inputs) for prompt, each in pairs]

    def _find_scorer(self, tolerance: float) -> PackedScorer | None:
        """Return the packed scorer if the model supports it and it agrees with the plain sum on a probe."""
        if not packable(self._model):
            return None
        scorer = PackedScorer(self._model, self._inputs)
        size = self._model.config.get_text_config(decoder=True).vocab_size
        # Prompts of two lengths with a common beginning, options that share tokens: every path of the scorer.
        ids = [(7919 * place + 13) % size for place in range(40)]
        rows = list(self._inputs.rows)
        prompts = [rows + ids[:24], rows + ids[:12] + ids[30:40]]
        options = [ids[24:27], ids[24:26] + ids[28:30], ids[29:30]]
        plain = [plain_scores(self._model, prompt, options, self._inputs) for prompt in prompts]
        try:
            packed = scorer(prompts, [options] * len(prompts))
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            say(f"options are scored one by one: this model takes no packed options ({error})")
            return None
        gap = max(
            abs(one - other) for pair in zip(plain, packed, strict=True) for one, other in zip(*pair, strict=True)
        )
        if not gap <= tolerance:
            say(f"options are scored one by one: packed scoring is off by {gap:.3g} nats for this model")
            return None
        return scorer

    @torch.inference_mode()
    def _complete(self, prompts: Sequence[Sequence[int]], names: Sequence[str], sampling: Sampling) -> list[Completion]:
        width = max(map(len, prompts))
        device = self._model.device
        ids = torch.tensor([[self._pad] * (width - len(each)) + list(each) for each in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts], device=device)
        extra: dict[str, Any] = {}
        if sampling.temperature > 0:
            extra["logits_processor"] = LogitsProcessorList([_Draw(names, sampling)])
        if sampling.stop:
            extra |= {"stop_strings": list(sampling.stop), "tokenizer": self._tokenizer}
        places = torch.where(mask.bool(), mask.cumsum(dim=1) - 1, -1)
        given = self._inputs(ids, places)
        output: Any = self._model.generate(**given, attention_mask=mask, max_new_tokens=sampling.max_tokens, **extra)
        # Where the prompt is given by embeddings, its tokens are not repeated.
        replies = output[:, width if "input_ids" in given else 0 :].tolist()
        rows = len(self._inputs.rows)
        pairs = zip(prompts, replies, strict=True)
        return [self._completion(len(each) - rows, reply, sampling) for each, reply in pairs]

    def _completion(self, tokens_in: int, reply: list[int], sampling: Sampling) -> Completion:
        end = next((place for place, token in enumerate(reply) if token in self._stops), None)
        kept = reply if end is None else reply[:end]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        cuts = [place for place in map(text.find, sampling.stop) if place >= 0]
        if cuts:
            padding = next((place for place, token in enumerate(kept) if token == self._pad), len(kept))
            return Completion(text[: min(cuts)], tokens_in, padding, "stop")
        if end is None:
            return Completion(text, tokens_in, len(reply), "length")
        return Completion(text, tokens_in, end + 1, "stop")


class _Draw(LogitsProcessor):
    """Turns greedy decoding into sampling whose draws belong to the sample, not to the batch.

    The largest of log-probability plus Gumbel noise is a draw from the distribution; each row's noise comes from a
    generator of its own.
    """

    def __init__(self, names: Sequence[str], sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._generators = []
        for name in names:
            digest = hashlib.blake2b(f"{sampling.seed}\0{name}".encode(), digest_size=8).digest()
            self._generators.append(torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True)))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        logprobs = torch.log_softmax(scores.float() / self._temperature, dim=-1)
        if self._top_p < 1:
            ordered, order = logprobs.sort(dim=-1, descending=True)
            before = ordered.exp().cumsum(dim=-1) - ordered.exp()
            drop = (before >= self._top_p).scatter(-1, order, before >= self._top_p)
            logprobs = logprobs.masked_fill(drop, -torch.inf)
        size = logprobs.shape[-1]
        noise = torch.stack([torch.empty(size).exponential_(generator=generator) for generator in self._generators])
        return cast("torch.FloatTensor", logprobs - noise.to(logprobs.device).log())


def _with_lora(model: PreTrainedModel, adapter: Adapter) -> Any:
    """Return the model with a LoRA adapter merged into its weights.

    Raises:
        InputError: if the adapter does not fit.
    """
    peft: Any = require("peft", "train", "LoRA adapters with transformers")
    try:
        return peft.PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise InputError(f"adapter {adapter.folder} does not fit the model: {reason}") from None


def _end_tokens(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end a turn: the tokenizer's and those of the checkpoint's generation settings."""
    config = model.generation_config
    known = None if config is None else config.eos_token_id
    ids = known if isinstance(known, list) else [known]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)


def device_of(wanted: str) -> torch.device:
    """Return the device that a name means.

    Args:
        wanted: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        InputError: if there is no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = wanted.partition(":")
    if kind not in BATCH_TOKENS or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise InputError(f"unknown device {wanted!r}; expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(f"device {wanted!r} is not there: torch sees {count} CUDA devices; use --device cpu")
    return torch.device(wanted)
