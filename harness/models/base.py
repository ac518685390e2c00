"""The protocol of a model: two verbs over batches, `choose` and `generate`, and an identity.

A backend is one module with one class that satisfies `Model`, and one line in `harness.models.registry`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, runtime_checkable

from harness.models.adapters import Adapter
from harness.task import Example

__all__ = [
    "MASK",
    "BackendError",
    "Closing",
    "Completion",
    "Failure",
    "Identity",
    "Message",
    "Model",
    "ModelRequest",
    "Prompt",
    "Role",
    "Sampling",
    "Scores",
    "TokenModel",
    "Verb",
    "chunks",
]

Verb = Literal["choose", "generate"]
Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]

MASK = "[MASK]"
"""Where in a prompt a masked language model has to fill in the answer, whatever its own mask is called; at the end of a
prompt that does not say."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked, before its own chat template.

    Attributes:
        messages: the conversation so far; the last turn is the user's.
        cue: how a plain completion begins, for models without a chat template; for instance ``"Answer:"``.
        example: what the prompt was made from, for models that are not language models. A model must not
            look at its `gold`.
    """

    messages: tuple[Message, ...]
    cue: str
    example: Example


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        max_tokens: longest completion, in tokens, the end token included.
        temperature: 0 is greedy decoding.
        top_p: nucleus mass, in (0, 1]; 1 keeps every token.
        seed: with the sample's id, decides the draw, whatever the batch.
        stop: texts that end a completion; they are cut off it.
        n: completions a prompt.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    n: int = 1


@dataclass(frozen=True, slots=True)
class Completion:
    """One text that a model wrote.

    Attributes:
        text: without the prompt, the end token and the stop text.
        tokens_in: tokens of the prompt.
        tokens_out: tokens generated, the end token included.
        finish: ``"stop"`` at an end token or stop text, ``"length"`` when `Sampling.max_tokens` cut it.
    """

    text: str
    tokens_in: int
    tokens_out: int
    finish: FinishReason


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-likelihoods of the options of one prompt.

    Attributes:
        logprobs: natural logarithm of each option's probability as a continuation: the sum over its tokens.
        tokens: how many tokens each option has.
        tokens_in: tokens of the prompt.
        tokens_out: option tokens that were scored, shared ones once.
    """

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    tokens_in: int
    tokens_out: int

    @property
    def normalised(self) -> tuple[float, ...]:
        """Log-likelihood per token of each option."""
        return tuple(value / count for value, count in zip(self.logprobs, self.tokens, strict=True))

    @property
    def finite(self) -> bool:
        """Whether every log-likelihood is a number."""
        return all(math.isfinite(value) for value in self.logprobs)


@dataclass(frozen=True, slots=True)
class Failure:
    """A prompt that got no answer for reasons of infrastructure; recorded as an error, never as a wrong answer."""

    error: str


class BackendError(RuntimeError):
    """A whole batch got no answer for reasons of infrastructure."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Everything needed to load a model; made by `harness.models.registry.parse_model`.

    Attributes:
        spec: what the user wrote.
        backend: key of the backend table.
        target: the spec without prefix and revision: a folder, a hub id or a built-in name.
        revision: branch, tag or commit on the hub; None for its default.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        batch_tokens: upper bound on the padded tokens of one batch; None leaves it to the backend.
        seed: for models that draw at random.
        args: further settings of the backend, as ``--model-arg key=value`` gives them.
        verb: what it will be asked to do, where that is known; lets a backend refuse before anything is recorded.
        adapter: what was trained on top of it; None for the model as it is.
    """

    spec: str
    backend: str
    target: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    batch_tokens: int | None = None
    seed: int = 0
    args: Mapping[str, str] = field(default_factory=dict)
    verb: Verb | None = None
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Which model answered, as the manifest records it.

    Attributes:
        revision: commit of the weights, where they come from a hub.
        content_hash: hash of what decides the answers: weights, configuration and tokenizer of a model, the
            rule of a baseline.
        dtype: what the weights are computed in; None for baselines.
        device: where; None for baselines.
        gpu: name of the accelerator, if one is used.
        args: settings in force that another run would need to give the same answers.
    """

    content_hash: str
    revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    gpu: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


class Model(Protocol):
    """A model that is loaded and can be asked.

    The two verbs answer a batch in its own order. `harness.models.registry` knows which verbs a backend has,
    so that asking for the other is an error before anything is loaded. A verb raises `BackendError` when the
    batch failed as a whole, and returns a `Failure` in the place of a single prompt that did.
    """

    @classmethod
    def load(cls, request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Self:
        """Load the model.

        Args:
            request: which one and how.
            training: gives that many training examples a hop count, for baselines that are fitted.

        Raises:
            InputError: if the model cannot be found or does not fit the request.
        """

    @property
    def identity(self) -> Identity:
        """Which model this is."""

    def render(self, prompt: Prompt) -> str | None:
        """Return the exact text the model reads for a prompt; None where a server renders it."""

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Cut work into batches, as indices into ``prompts``; every index occurs once."""

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Scores | Failure]:
        """Score every option of every prompt as the continuation of the prompt."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...] | Failure]:
        """Complete every prompt ``sampling.n`` times."""


@runtime_checkable
class Closing(Protocol):
    """A model that holds something beyond memory, such as an engine's process; it is closed after the last question."""

    def close(self) -> None:
        """Let go of it."""


@runtime_checkable
class TokenModel(Protocol):
    """A model whose tokens are at hand, to be asked in tokens instead of prompts."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, of transformers."""

    @property
    def room(self) -> int:
        """Most tokens of a prompt and what follows it; a soft prompt's rows are taken off already."""

    def score_tokens(
        self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[Scores | Failure]:
        """Score every option of every prompt as the continuation of the prompt.

        Args:
            prompts: token ids; none empty.
            options: for each prompt the token ids of its options; none empty, no two of a prompt alike.
        """

    def complete_tokens(
        self, prompts: Sequence[Sequence[int]], names: Sequence[str], sampling: Sampling
    ) -> list[Completion | Failure]:
        """Complete every prompt once.

        Args:
            prompts: token ids; none empty.
            names: with the sampling's seed, decide the draws.
            sampling: how; its ``n`` is not looked at.
        """


def chunks(count: int, size: int) -> Iterator[list[int]]:
    """Cut ``range(count)`` into lists of at most ``size``, in order."""
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))
