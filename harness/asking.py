"""How a run gets its answers: from one model in this process, or from replicas of it on a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from harness.models.base import BackendError, Completion, Failure, Identity, Model, Prompt, Sampling, Scores

__all__ = ["Answers", "Asked", "OneModel", "Replicas", "Reply", "answer"]

Reply = Scores | tuple[Completion, ...] | Failure


class Answers(NamedTuple):
    """What a model answered to one batch.

    Attributes:
        texts: what it read; None where a server renders prompts.
        replies: its answers.
        seconds: how long it took.
        cached: whether a cache answered; empty where there is none.
    """

    texts: Sequence[str | None]
    replies: Sequence[Reply]
    seconds: float
    cached: Sequence[bool] = ()


class Asked(Protocol):
    """Whoever is asked."""

    @property
    def identity(self) -> Identity:
        """Which model answers."""

    def answers(self, prompts: Sequence[Prompt], sampling: Sampling | None) -> Iterator[tuple[list[int], Answers]]:
        """Answer prompts in batches, every prompt once, in any order.

        Args:
            prompts: what is asked.
            sampling: how texts are drawn; None to score options.

        Yields:
            The places of a batch's prompts, and their answers.
        """


@dataclass(frozen=True, slots=True)
class Replicas:
    """Copies of a model on a cluster.

    Attributes:
        engine: ``ray`` or ``ray://HOST:PORT``.
        count: how many.
        gpus: of each.
    """

    engine: str
    count: int = 1
    gpus: float = 0.0


class OneModel:
    """A model in this process.

    Args:
        model: loaded.
        was_cached: tells for each prompt of the last batch whether a cache answered it.
    """

    def __init__(self, model: Model, was_cached: Callable[[], Sequence[bool]] = tuple) -> None:
        self._model = model
        self._was_cached = was_cached

    @property
    def identity(self) -> Identity:
        """Which model answers."""
        return self._model.identity

    def answers(self, prompts: Sequence[Prompt], sampling: Sampling | None) -> Iterator[tuple[list[int], Answers]]:
        """Answer prompts in the model's own batches; see `Asked.answers`."""
        for batch in self._model.batches(prompts):
            answers = answer(self._model, [prompts[place] for place in batch], sampling)
            yield batch, answers._replace(cached=self._was_cached())


def answer(model: Model, prompts: Sequence[Prompt], sampling: Sampling | None) -> Answers:
    """Ask one batch; a batch that failed as a whole is a failure of each."""
    start = time.perf_counter()
    replies: Sequence[Reply]
    try:
        if sampling is None:
            replies = model.choose(prompts, [prompt.example.options for prompt in prompts])
        else:
            replies = model.generate(prompts, sampling)
    except BackendError as error:
        replies = [Failure(str(error))] * len(prompts)
    seconds = time.perf_counter() - start
    return Answers([model.render(prompt) for prompt in prompts], replies, seconds)
