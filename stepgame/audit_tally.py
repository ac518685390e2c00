"""What an audit counts, for any group of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stepgame.errors import InputError
from stepgame.relations import NAMES

__all__ = ["BASELINES", "FINDINGS", "INFORMATION", "SURFACE", "Tally"]

FINDINGS: dict[str, str] = {
    "unreadable_sentences": "sentences that do not say exactly one thing about exactly two agents",
    "stories_unreadable": "stories with such a sentence",
    "unreadable_questions": "questions that do not ask where one agent lies as seen from another",
    "contradictory": "stories that place an agent in two ways",
    "unconnected": "stories free of contradiction that leave their question without an answer",
    "mislabelled": "connected stories free of contradiction whose label is not the literal answer",
    "duplicates": "rows whose sentences, in order, and question repeat an earlier row of the file",
    "overlap": "rows whose sentences, in order, and question are in the file audited against",
}
"""The kinds that make a data set unclean, in the order they are reported, each with what it counts."""

INFORMATION: dict[str, str] = {
    "duplicates_reordered": "rows whose sentences, in any order, and question repeat an earlier row of the file",
    "repeated_layouts": "readable rows that say and ask the same as an earlier one of the file, under whatever "
    "names, in whatever words and order",
    "in_earlier_files": "rows whose sentences, in order, and question are in a file audited before it",
}
"""Counts that make no finding."""

SURFACE = ("first_sentence", "last_sentence", "asked_head", "asked_pair")
"""The baselines that look at one sentence, in the order of `Tally.right`."""

BASELINES: dict[str, str] = {
    "majority": "the most frequent label of the group itself",
    "first_sentence": "the relation that the first sentence states, of its own two agents",
    "last_sentence": "the relation that the last sentence states, of its own two agents",
    "asked_head": "the relation of the question's head in the first sentence that names it",
    "asked_pair": "the relation in the first sentence that names both asked agents; majority where none does",
}
"""Accuracies that need no reasoning, each with what it answers; guessing reaches about 1/9."""


def _most(labels: tuple[int, ...]) -> int:
    """Return the code of the most frequent label, the lowest of several."""
    return labels.index(max(labels))


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over a group of rows; two of disjoint groups add up with ``+``.

    Attributes:
        counts: ``stories``, ``sentences`` and the kinds of `FINDINGS` and `INFORMATION`; ``overlap`` only where
            there was something to compare with.
        labels: [9] rows with each label, by relation code.
        hops: rows by the links of the shortest chain of sentences between their two asked agents; those without
            an answer are left out.
        right: [4] rows that each of the baselines of `SURFACE` gets right, ``asked_pair`` without its fallback.
        unguided: [9] rows with each label that have no sentence for ``asked_pair``.
    """

    counts: dict[str, int]
    labels: tuple[int, ...]
    hops: dict[int, int]
    right: tuple[int, ...]
    unguided: tuple[int, ...]

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of both groups together."""
        lengths = sorted({*self.hops, *other.hops})
        return Tally(
            {name: count + other.counts[name] for name, count in self.counts.items()},
            tuple(a + b for a, b in zip(self.labels, other.labels, strict=True)),
            {length: self.hops.get(length, 0) + other.hops.get(length, 0) for length in lengths},
            tuple(a + b for a, b in zip(self.right, other.right, strict=True)),
            tuple(a + b for a, b in zip(self.unguided, other.unguided, strict=True)),
        )

    @staticmethod
    def total(parts: Iterable[Tally]) -> Tally:
        """Return the tally of several disjoint groups together.

        Raises:
            InputError: if there is none.
        """
        tallies = list(parts)
        if not tallies:
            raise InputError("nothing to add up; expected at least one group of rows")
        whole = tallies[0]
        for tally in tallies[1:]:
            whole = whole + tally
        return whole

    @property
    def stories(self) -> int:
        """How many rows there are."""
        return self.counts["stories"]

    @property
    def majority_share(self) -> float:
        """Share of the rows that have the most frequent label, 0 to 1; balanced labels have 1/9."""
        return max(self.labels) / self.stories

    @property
    def label_entropy(self) -> float:
        """Entropy of the labels over that of nine equally frequent ones, 0 to 1; 1 is balanced."""
        shares = [count / self.stories for count in self.labels if count]
        return -sum(share * math.log(share) for share in shares) / math.log(len(NAMES)) + 0.0

    @property
    def mean_hops(self) -> float | None:
        """Mean links of the shortest chain between the asked agents, over the rows that have one."""
        answered = sum(self.hops.values())
        return sum(length * count for length, count in self.hops.items()) / answered if answered else None

    @property
    def baselines(self) -> dict[str, float]:
        """Accuracy of each of `BASELINES`, 0 to 1, measured against the labels as they are."""
        accuracy = {"majority": self.majority_share}
        for name, right in zip(SURFACE, self.right, strict=True):
            fallback = self.unguided[_most(self.labels)] if name == "asked_pair" else 0
            accuracy[name] = (right + fallback) / self.stories
        return accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: the counts, then ``labels``, ``hops`` and ``baselines`` with their measures."""
        mean = self.mean_hops
        return {
            **self.counts,
            "labels": dict(zip(NAMES, self.labels, strict=True)),
            "label_entropy": round(self.label_entropy, 6),
            "majority_share": round(self.majority_share, 6),
            "hops": {str(length): count for length, count in self.hops.items()},
            "mean_hops": None if mean is None else round(mean, 6),
            "baselines": {name: round(accuracy, 6) for name, accuracy in self.baselines.items()},
        }
