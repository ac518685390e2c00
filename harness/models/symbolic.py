"""Models that are no language models: the ceiling, the floor, and the majority class.

They answer through the same two verbs as any other model. In `choose` they give a distribution over the options;
in `generate` a line in the form that the prompts ask for.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from harness.models.base import Completion, Failure, Identity, ModelRequest, Prompt, Sampling, Scores, chunks
from harness.task import Example
from stepgame.errors import InputError

__all__ = ["Majority", "Oracle", "Random"]

BATCH = 256
TRAINING_PER_HOP = 1000
"""Training stories of each hop count that `Majority` counts the labels of."""

_FLOOR = 1e-9
"""Probability that a sure model leaves to each option it rules out; zero has no logarithm."""


class _Symbolic:
    """What the three share: no text of their own to render, batches of any make-up."""

    def render(self, prompt: Prompt) -> str | None:
        """Return the last turn: there is no chat template."""
        return prompt.messages[-1].content

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Cut work into batches of 256, in order."""
        return chunks(len(prompts), BATCH)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Scores | Failure]:
        """Return the logarithms of the model's distribution over each prompt's options."""
        return [
            _scores(self._distribution(prompt.example, choices))
            for prompt, choices in zip(prompts, options, strict=True)
        ]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...] | Failure]:
        """Answer every prompt with one line, the same each time."""
        return [(Completion(self._say(prompt.example), 0, 0, "stop"),) * sampling.n for prompt in prompts]

    def _distribution(self, example: Example, options: Sequence[str]) -> list[float]:
        raise NotImplementedError

    def _say(self, example: Example) -> str:
        weights = self._distribution(example, example.options)
        return f"Answer: {example.options[weights.index(max(weights))]}"


class Oracle(_Symbolic):
    """Reads the story's sentences and solves them; says so when it cannot, which counts as unparsed."""

    @classmethod
    def load(cls, request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Self:
        """Make the model; nothing is loaded."""
        return cls()

    @property
    def identity(self) -> Identity:
        """The rule's name."""
        return Identity(_digest("oracle: reads and solves"))

    def _solve(self, example: Example) -> str | InputError:
        from stepgame.solve import solve

        try:
            return solve(list(example.story), example.question).label
        except InputError as error:
            return error

    def _distribution(self, example: Example, options: Sequence[str]) -> list[float]:
        answer = self._solve(example)
        # Equal weights are a tie, and a tie is no answer.
        return [1.0 if option == answer else _FLOOR for option in options]

    def _say(self, example: Example) -> str:
        answer = self._solve(example)
        return f"Answer: {answer}" if isinstance(answer, str) else f"I cannot tell. {answer}"


class Random(_Symbolic):
    """Any option with equal chance, decided by the seed and the sample's id alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @classmethod
    def load(cls, request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Self:
        """Make the model; nothing is loaded."""
        return cls(request.seed)

    @property
    def identity(self) -> Identity:
        """The rule's name and its seed."""
        return Identity(_digest(f"random: blake2b, seed {self._seed}"), args={"seed": self._seed})

    def _distribution(self, example: Example, options: Sequence[str]) -> list[float]:
        draws = [_uniform(self._seed, example.id, option) for option in options]
        total = sum(draws)
        return [draw / total for draw in draws]


class Majority(_Symbolic):
    """Always the most frequent label of the training split."""

    def __init__(self, counts: Counter[str], source: str) -> None:
        self._counts = counts
        self._source = source

    @classmethod
    def load(cls, request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Self:
        """Count the labels of the training split.

        Raises:
            InputError: if the task has no training split.
        """
        examples = training(TRAINING_PER_HOP)
        return cls(Counter(example.gold for example in examples), f"{len(examples)} examples of the training split")

    @property
    def identity(self) -> Identity:
        """The label and what it was counted on."""
        label, count = self._counts.most_common(1)[0]
        share = count / self._counts.total()
        args = {"label": label, "share": round(share, 6), "counted_on": self._source}
        return Identity(_digest(f"majority: {sorted(self._counts.items())}"), args=args)

    def _distribution(self, example: Example, options: Sequence[str]) -> list[float]:
        total = self._counts.total() + len(options)
        return [(self._counts[option] + 1) / total for option in options]


def _scores(weights: Sequence[float]) -> Scores:
    return Scores(tuple(math.log(weight) for weight in weights), (1,) * len(weights), 0, 0)


def _uniform(seed: int, sample: str, option: str) -> float:
    """Return a number in (0, 1) that is a pure function of its arguments."""
    digest = hashlib.blake2b(f"{seed}\0{sample}\0{option}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**64


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
