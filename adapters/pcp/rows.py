"""What the stages learn from, a row an example: gaps, masked texts, classified texts, and pairs for self-training.

Whatever is drawn at random for a row, such as its masks, is a function of the seed and the row's place among all that
are visited in a training. So it is the same after an interruption, whatever was fetched ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from adapters.method import Features

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IGNORED", "Masker", "Row", "RowBatches", "Visits", "as_features"]

IGNORED = -100
"""Target of a position that is not predicted, as in PyTorch."""
KEPT, RANDOM = 0.1, 0.1
"""Shares of the chosen tokens that stay as they are, and that a random token replaces; the others become masks
(Devlin et al. 2019, section 3.1)."""


class Row(NamedTuple):
    """One example.

    Attributes:
        ids: its tokens.
        targets: for each position what is to be predicted there (a token, or a class), or `IGNORED`.
        segments: which text of a pair each token is of; empty for models that do not tell.
    """

    ids: tuple[int, ...]
    targets: tuple[int, ...]
    segments: tuple[int, ...] = ()

    @property
    def weight(self) -> float:
        """How many positions are predicted."""
        return float(sum(target != IGNORED for target in self.targets))

    @property
    def response(self) -> tuple[float, float]:
        """Its weight in a validation loss, in the form of `adapters.method.Features`."""
        return (0.0, self.weight)


@dataclass(frozen=True, slots=True)
class Masker:
    """Masks the tokens of a text for masked language modelling.

    Args:
        rate: share of tokens that are chosen.
        mask: id of the mask.
        size: of the vocabulary, from which random tokens are drawn.
        special: ids that are never chosen.
        seed: of the draws.
    """

    rate: float
    mask: int
    size: int
    special: frozenset[int]
    seed: int

    def __call__(self, row: Row, visit: int, always: int | None = None) -> Row:
        """Return a row with masks, whose targets are the tokens that were chosen.

        Args:
            row: a text; its targets are not looked at.
            visit: which visit of all; decides the draw.
            always: a position that is masked besides.
        """
        draw = np.random.default_rng([self.seed, visit])
        ids = np.array(row.ids)
        chosen = draw.random(len(ids)) < self.rate
        chosen &= ~np.isin(ids, list(self.special))
        kind = draw.random(len(ids))
        drawn = draw.integers(0, self.size, len(ids))
        if always is not None:
            chosen[always], kind[always] = True, 1.0
        masked = np.where(chosen & (kind >= KEPT + RANDOM), self.mask, ids)
        masked = np.where(chosen & (kind >= KEPT) & (kind < KEPT + RANDOM), drawn, masked)
        targets = np.where(chosen, ids, IGNORED)
        return row._replace(ids=tuple(masked.tolist()), targets=tuple(targets.tolist()))


class Visits:
    """All visits of a training to its examples, in passes that each go through all of them in an order of their own.

    Args:
        count: examples.
        visits: how many visits; the steps times the batch.
        seed: of the orders.
        make: makes a row of an example's number and the visit's.
    """

    def __init__(self, count: int, visits: int, seed: int, make: Callable[[int, int], Any]) -> None:
        self._count = count
        self._visits = visits
        self._seed = seed
        self._make = make
        self._orders: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._visits

    def __getitem__(self, visit: int) -> Any:
        if not 0 <= visit < self._visits:
            raise IndexError(visit)
        number, place = divmod(visit, self._count)
        if number not in self._orders:
            self._orders[number] = np.random.default_rng([self._seed, number]).permutation(self._count)
        return self._make(int(self._orders[number][place]), visit)


class RowBatches:
    """Puts rows into padded tensors, each of at most so many tokens; see `adapters.trainer.MicroBatches`.

    Args:
        micro_tokens: the bound; a single row may be longer.
        pad: id that fills rows up.
    """

    def __init__(self, micro_tokens: int, pad: int) -> None:
        self._bound = micro_tokens
        self._pad = pad

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return ``micro``, a list of batches, and ``weight``, how many positions are predicted, a scalar."""
        import torch

        order = sorted(rows, key=lambda row: -len(row.ids))
        micro = []
        while order:
            part = order[: max(1, self._bound // len(order[0].ids))]
            micro.append(self.tensors(part))
            order = order[len(part) :]
        return {"micro": micro, "weight": torch.tensor(float(sum(row.weight for row in rows)))}

    def tensors(self, rows: Sequence[Any], *, response: bool = False) -> dict[str, Any]:
        """Return one padded batch: ``input_ids``, ``attention_mask`` and ``targets``, [B, T] each.

        Args:
            rows: the examples.
            response: not used; rows are the same in validation.
        """
        batch = {
            "input_ids": self._padded([row.ids for row in rows], self._pad),
            "attention_mask": self._padded([(1,) * len(row.ids) for row in rows], 0),
            "targets": self._padded([row.targets for row in rows], IGNORED),
        }
        if rows[0].segments:
            batch["token_type_ids"] = self._padded([row.segments for row in rows], 0)
        return batch

    @staticmethod
    def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        import torch

        width = max(map(len, rows))
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def as_features(ids: Sequence[int]) -> Features:
    """Return a text of which a decoder learns every token."""
    weights = (1.0,) * len(ids)
    return Features(tuple(ids), weights, weights, 0)
