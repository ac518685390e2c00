"""The StepGame task: where is one agent as seen from another, from generated stories or a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.extract import EXTRACTION, extract
from harness.task import Example, Extraction
from stepgame.errors import InputError
from stepgame.relations import NAMES

if TYPE_CHECKING:
    from stepgame.stories import Stories

__all__ = ["StepGame"]


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
        file: a data file, or several, to ask instead of generated stories; the parameters above are then not used.

    Raises:
        InputError: if a parameter is out of range or a file cannot be read.
    """

    name = "stepgame"
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
    ) -> None:
        if file is None:
            self._stories = _generate(hops, per_hop, noise, protocol, bank, split, seed)
            self._parameters: dict[str, Any] = {
                "hops": sorted(set(self._stories.table["k_hop"].to_pylist())),
                "per_hop": per_hop,
                "noise": noise,
                "protocol": protocol,
                "bank": bank,
                "split": split,
                "seed": seed,
            }
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
        return _examples(self._stories)

    def training(self, per_hop: int) -> Sequence[Example]:
        """Return stories of the training split, otherwise made with the same parameters.

        Raises:
            InputError: for data from a file, which has no training split.
        """
        if "file" in self._parameters:
            raise InputError(
                "data from a file has no training split, which this model or prompt needs; "
                "ask generated stories instead (--hops, --per-hop)"
            )
        same = {key: value for key, value in self._parameters.items() if key not in ("per_hop", "split")}
        return _examples(_generate(**same, per_hop=per_hop, split="train"))

    def extract(self, text: str, example: Example) -> Extraction:
        """Read one of the nine labels out of free text."""
        return extract(text)


def _generate(
    hops: int | str | Iterable[int],
    per_hop: int,
    noise: bool,
    protocol: str,
    bank: str,
    split: str,
    seed: int,
) -> Stories:
    from stepgame.generate import generate

    return generate(hops, per_hop, noise=noise, protocol=protocol, bank=bank, split=split, seed=seed)


def _load(files: Sequence[str]) -> Stories:
    from stepgame.formats import load

    stories = load([Path(each) for each in files])
    if len(stories) == 0:
        raise InputError(f"{', '.join(files)}: no stories to ask")
    return stories


def _examples(stories: Stories) -> list[Example]:
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
