"""What is asked: the protocol of a task, so that another task is one file in ``harness/tasks/``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = ["Example", "Extraction", "Measured", "Task"]


@dataclass(frozen=True, slots=True)
class Example:
    """One question with its right answer.

    Attributes:
        id: unique within the task; names the sample in a run's records.
        story: the sentences the question is about, in the order shown; empty for tasks without a context.
        question: the question itself.
        options: every answer that may be given; `gold` is one of them. Empty where the answer is free text.
        gold: the right answer.
        k_hop: the group that accuracy is reported by; 0 for tasks that know no hops.
    """

    id: str
    story: tuple[str, ...]
    question: str
    options: tuple[str, ...]
    gold: str
    k_hop: int = 0


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a free text was taken to answer.

    Attributes:
        strict: the option given in exactly the form that was asked for, else None.
        flexible: the option that the text commits to, in whatever words, else None.
        status: ``"answer"`` when `flexible` was found, else why not: ``"empty"``, ``"none"`` (no option is
            named), ``"several"`` (different ones are, and the text commits to none of them), ``"refusal"`` (it
            says that it cannot or will not answer), or a word of the task's own.
    """

    strict: str | None
    flexible: str | None
    status: str


class Task(Protocol):
    """A set of examples and the reading of free-text answers to them.

    ``README.md`` in ``harness/tasks/`` has a complete example of another task.
    """

    @property
    def name(self) -> str:
        """The task's plain name, as ``--task`` takes it."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Everything that makes the data again; JSON values only, and enough for `harness.tasks.make_task`."""

    @property
    def data_sha256(self) -> str:
        """Hash of the examples' content: two tasks with equal hashes ask the same questions."""

    @property
    def generator_version(self) -> str | None:
        """Version of the generator that made the examples; None for data from a file."""

    @property
    def extraction(self) -> str:
        """Name and version of the rule that `extract` follows."""

    @property
    def prompt(self) -> str:
        """Name of the prompt it is asked with unless another is chosen; one of `harness.prompts.known_prompts`."""

    @property
    def examples(self) -> Sequence[Example]:
        """What is asked, in the order of the record."""

    def training(self, per_hop: int, hops: Sequence[int] | None = None) -> Sequence[Example]:
        """Return examples that are never asked, for baselines and few-shot prompts.

        Args:
            per_hop: at most how many of each hop count.
            hops: which hop counts; those of the task when omitted.

        Raises:
            InputError: if the task has no training split.
        """

    def extract(self, text: str, example: Example) -> Extraction:
        """Read the answer to an example out of free text."""


@runtime_checkable
class Measured(Protocol):
    """A task with metrics of its own beside the accuracy."""

    def measure(self, lines: Iterable[Mapping[str, Any]]) -> Mapping[str, float | None]:
        """Return the metrics of what was answered, the one that is reported first; None where one is not defined.

        Args:
            lines: samples of a run, one of each id; those with an error are left out.
        """
