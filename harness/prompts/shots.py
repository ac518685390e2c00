"""Worked examples for a prompt: which ones stand before which question."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from harness.task import Example
from stepgame.errors import InputError
from stepgame.hops import parse_hops
from stepgame.read import mask

__all__ = ["SAME", "Shots", "draw_shots", "shots_of"]

SAME = "same"
"""The mix in which every example has the k of the question."""

_SPARE = 4
"""Candidates for each example, so that those alike to a question can be passed over and labels be mixed."""


@dataclass(frozen=True)
class Shots:
    """Worked examples.

    Attributes:
        count: how many stand before each question.
        mix: `SAME`, or the ks to spread them over, such as ``"1-5"``; ascending, the same for every question.
        seed: decides which candidates come first.
        source: where they come from, for people.
        pool: the candidates, in the order in which they are taken.
    """

    count: int
    mix: str
    seed: int
    source: str
    pool: tuple[Example, ...]

    def before(self, example: Example) -> tuple[Example, ...]:
        """Return the examples to show before a question: never the question itself, nor one alike.

        Two are alike when one's text is the other's with agents renamed, or with sentences in another order. Labels
        that are not shown yet go first, because models lean to the answer they were shown most often.

        Raises:
            InputError: if there are too few.
        """
        asked = self._keys(example)
        chosen: list[Example] = []
        for k in _spread(self.mix, self.count, example.k_hop):
            shown = {each.gold for each in chosen}
            fit = [each for each in self._by_k.get(k, ()) if each not in chosen and not asked & self._keys(each)]
            if not fit:
                raise InputError(
                    f"only {len(chosen)} of {self.count} examples with k = {k} that are not alike to {example.id!r} in "
                    f"{self.source}; ask for fewer (--shots), another mix (--shots-mix), or give more (--few-shot-data)"
                )
            chosen.append(next((each for each in fit if each.gold not in shown), fit[0]))
        return tuple(chosen)

    def used(self, examples: Sequence[Example]) -> Shots:
        """Return these shots with a pool of only those that stand before some of the examples; nothing else changes.

        Raises:
            InputError: if there are too few for one of them.
        """
        needed = {shown.id for example in examples for shown in self.before(example)}
        return replace(self, pool=tuple(each for each in self.pool if each.id in needed))

    def record(self) -> dict[str, Any]:
        """Return what the manifest holds of them; `shots_of` reads it back."""
        pool = [
            {
                "id": each.id,
                "k_hop": each.k_hop,
                "story": list(each.story),
                "question": each.question,
                "options": list(each.options),
                "gold": each.gold,
            }
            for each in self.pool
        ]
        return {"count": self.count, "mix": self.mix, "seed": self.seed, "source": self.source, "pool": pool}

    @cached_property
    def _by_k(self) -> dict[int, list[Example]]:
        groups: dict[int, list[Example]] = {}
        for example in self.pool:
            groups.setdefault(example.k_hop, []).append(example)
        return groups

    @cached_property
    def _known(self) -> dict[str, frozenset[Any]]:
        return {each.id: _text_keys(each) for each in self.pool}

    def _keys(self, example: Example) -> frozenset[Any]:
        """Return what two alike examples have one of in common."""
        return self._known.get(example.id) or _text_keys(example)


def draw_shots(
    examples: Sequence[Example],
    count: int,
    mix: str,
    seed: int,
    training: Callable[[int, Sequence[int]], Sequence[Example]],
    *,
    source: str = "the training split",
    fits: Callable[[Example], bool] | None = None,
) -> Shots:
    """Draw the worked examples of a run.

    Args:
        examples: what will be asked.
        count: examples before each question.
        mix: `SAME`, or ks such as ``"1-5"``.
        seed: decides which.
        training: gives that many candidates of each of some ks.
        source: where they come from, for messages.
        fits: whether a candidate can be shown; None for every one.

    Raises:
        InputError: if the mix is no range of k, or there are too few candidates.
    """
    ks = sorted({k for example in examples for k in _spread(mix, count, example.k_hop)})
    pool = [example for example in training(_SPARE * count + _SPARE, ks) if fits is None or fits(example)]
    # A hash for an order, so that a file's own order has no part in it.
    pool.sort(key=lambda each: hashlib.blake2b(f"{seed}\0{each.id}".encode(), digest_size=16).digest())
    return Shots(count, mix, seed, source, tuple(pool)).used(examples)


def shots_of(record: dict[str, Any]) -> Shots:
    """Rebuild the worked examples of a manifest.

    Raises:
        KeyError: if a field is missing, so for TypeError.
    """
    pool = tuple(
        Example(
            each["id"],
            tuple(each["story"]),
            each["question"],
            tuple(each["options"]),
            each["gold"],
            each["k_hop"],
        )
        for each in record["pool"]
    )
    return Shots(record["count"], record["mix"], record["seed"], record["source"], pool)


def _spread(mix: str, count: int, k_hop: int) -> list[int]:
    """Return the k of each example."""
    if mix == SAME:
        return [k_hop] * count
    try:
        ks = sorted(parse_hops(mix))
    except InputError as error:
        raise InputError(f"--shots-mix {mix!r}: expected {SAME!r} or chain lengths such as 1-5; {error}") from None
    return [ks[place * len(ks) // count] for place in range(count)]


def _text_keys(example: Example) -> frozenset[Any]:
    renamed, _ = mask("\n".join([example.question, *example.story]))
    return frozenset({example.id, renamed, (example.question, *sorted(example.story))})
