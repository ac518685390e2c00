"""The nine relations of StepGame as vectors on a grid.

A relation says where its *head* lies as seen from its *tail*: ``head left tail`` means that head is at
tail's position plus (-1, 0). x grows to the right, y grows upwards. One link of a story is one unit step
(diagonals step one unit on both axes), as in the published generator (Shi, Zhang & Lipani, AAAI 2022).
"""

from __future__ import annotations

from enum import IntEnum

from stepgame.errors import unknown_name

__all__ = ["DIRECTIONS", "NAMES", "VECTORS", "Relation", "compose"]

NAMES: tuple[str, ...] = (
    "left",
    "right",
    "above",
    "below",
    "upper-left",
    "upper-right",
    "lower-left",
    "lower-right",
    "overlap",
)
"""The nine labels, in code order: the position of a name is its integer code everywhere in the project."""

VECTORS: tuple[tuple[int, int], ...] = (
    (-1, 0),
    (1, 0),
    (0, 1),
    (0, -1),
    (-1, 1),
    (1, 1),
    (-1, -1),
    (1, -1),
    (0, 0),
)
"""Head minus tail, as (dx, dy), by code."""

_BY_SIGN = {vector: code for code, vector in enumerate(VECTORS)}
_BY_NAME = {name: code for code, name in enumerate(NAMES)}


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


class Relation(IntEnum):
    """One of the nine relations; its value is its code, the index into `NAMES` and `VECTORS`."""

    LEFT = 0
    RIGHT = 1
    ABOVE = 2
    BELOW = 3
    UPPER_LEFT = 4
    UPPER_RIGHT = 5
    LOWER_LEFT = 6
    LOWER_RIGHT = 7
    OVERLAP = 8

    @property
    def label(self) -> str:
        """The name that data files use, for instance ``"upper-left"``."""
        return NAMES[self]

    @property
    def vector(self) -> tuple[int, int]:
        """Head minus tail as (dx, dy), each in -1, 0, 1."""
        return VECTORS[self]

    @property
    def inverse(self) -> Relation:
        """The relation of the tail to the head."""
        dx, dy = self.vector
        return Relation.of(-dx, -dy)

    @classmethod
    def of(cls, dx: int, dy: int) -> Relation:
        """Return the relation of a head that lies (dx, dy) away from its tail, at any distance."""
        return cls(_BY_SIGN[_sign(dx), _sign(dy)])

    @classmethod
    def parse(cls, name: str) -> Relation:
        """Return the relation with this label.

        Raises:
            InputError: if it is none of the nine, with the nearest name.
        """
        code = _BY_NAME.get(name)
        if code is None:
            raise unknown_name("relation", name, NAMES)
        return cls(code)


DIRECTIONS: tuple[Relation, ...] = tuple(relation for relation in Relation if relation != Relation.OVERLAP)
"""The eight relations a single link can have; overlap only ever arises from several."""


def compose(*steps: Relation) -> Relation:
    """Return the relation of the first head to the last tail along a chain of unit steps.

    ``compose(a, b)`` answers: x is ``a`` of y, y is ``b`` of z; where is x as seen from z? Steps are added
    as vectors before the sign is taken, so ``compose(a, b, c)`` may differ from nesting two calls.
    """
    return Relation.of(sum(s.vector[0] for s in steps), sum(s.vector[1] for s in steps))
