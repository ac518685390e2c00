"""The StepGame task: where is one agent as seen from another, from generated stories or a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.extract import EXTRACTION, extract
from harness.task import Example, Extraction
from stepgame.errors import InputError, unknown_name
from stepgame.relations import NAMES

if TYPE_CHECKING:
    from stepgame.stories import Stories

__all__ = ["StepGame"]

_FURTHER: dict[str, Any] = {
    "names": "letters",
    "noise_counts": "",
    "balance": False,
    "phrases": "all",
    "unique": False,
}
"""Settings of the generator that came after the first runs, and what they are unless given."""


class StepGame:
    """Stories with nine possible answers.

    Args:
        hops: which chain lengths to generate.
        per_hop: how many stories of each.
        noise: with distracting sentences or without.
        protocol: see `stepgame.generate`.
        bank: see `stepgame.generate`.
        split: see `stepgame.generate`.
        seed: see `stepgame.generate`.
        file: a data file, or several, to ask instead of generated stories; no other parameter is used then.
        further: other arguments of `stepgame.generate` that make rows different: ``names``, ``noise_counts``,
            ``balance``, ``phrases`` and ``unique``.

    Raises:
        InputError: if a parameter is out of range or a file cannot be read.
    """

    name = "stepgame"
    prompt = "zero-shot"
    extraction = EXTRACTION

    def __init__(
        self,
        *,
        hops: int | str | Iterable[int] = range(1, 11),
        per_hop: int = 100,
        noise: bool = False,
        protocol: str = "official",
        bank: str = "core",
        split: str = "test",
        seed: int = 0,
        file: str | Sequence[str] | None = None,
        **further: Any,
    ) -> None:
        if file is None:
            named = {"noise": noise, "protocol": protocol, "bank": bank, "split": split, "seed": seed}
            # Defaults are left out, so that a manifest names only what was asked for.
            other = {key: value for key, value in further.items() if key not in _FURTHER or value != _FURTHER[key]}
            self._stories = _generate(hops, per_hop, **named, **_checked(other))
            ks = sorted(set(self._stories.table["k_hop"].to_pylist()))
            self._parameters: dict[str, Any] = {"hops": ks, "per_hop": per_hop, **named, **other}
        else:
            files = [file] if isinstance(file, str) else list(file)
            self._stories = _load(files)
            # Absolute, so that a run can be resumed from anywhere.
            self._parameters = {"file": [str(Path(each).absolute()) for each in files]}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Keyword arguments that make this task again."""
        return self._parameters

    @cached_property
    def data_sha256(self) -> str:
        """Hash of the stories' content."""
        return self._stories.sha256()

    @property
    def generator_version(self) -> str | None:
        """Version of the generator; None for data from a file."""
        version = self._stories.metadata.get("generator_version")
        return None if version is None else str(version)

    @cached_property
    def examples(self) -> Sequence[Example]:
        """The stories, in their order."""
        return examples_of(self._stories)

    def training(self, per_hop: int, hops: Sequence[int] | None = None) -> Sequence[Example]:
        """Return stories of the training split, otherwise made with the same parameters.

        Raises:
            InputError: for data from a file, which has no training split.
        """
        if "file" in self._parameters:
            raise InputError(
                "data from a file has no training split, which this model or prompt needs; give a prompt's examples "
                "by --few-shot-data FILE, or ask generated stories instead (--hops, --per-hop)"
            )
        other = {"per_hop": per_hop, "split": "train"} | ({} if hops is None else {"hops": list(hops)})
        return examples_of(_generate(**{**self._parameters, **other}))

    def extract(self, text: str, example: Example) -> Extraction:
        """Read one of the nine labels out of free text."""
        return extract(text, example.question, example.story)


def _checked(further: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in further:
        if key not in _FURTHER:
            raise unknown_name("setting of the task 'stepgame'", key, _FURTHER)
    return further


def _generate(hops: int | str | Iterable[int], per_hop: int, **settings: Any) -> Stories:
    from stepgame.generate import generate

    return generate(hops, per_hop, **settings)


def _load(files: Sequence[str]) -> Stories:
    from stepgame.formats import load

    stories = load([Path(each) for each in files])
    if len(stories) == 0:
        raise InputError(f"{', '.join(files)}: no stories to ask")
    return stories


def examples_of(stories: Stories) -> list[Example]:
    columns = ("id", "story", "question", "label", "k_hop")
    rows = zip(*(stories.table[column].to_pylist() for column in columns), strict=True)
    examples = [
        Example(identifier, tuple(story), question, NAMES, label, int(k))
        for identifier, story, question, label, k in rows
    ]
    seen: set[str] = set()
    for position, example in enumerate(examples):
        if example.id in seen:
            raise InputError(f"row {position}: the id {example.id!r} occurs twice; ids must be unique in a run")
        seen.add(example.id)
    return examples
