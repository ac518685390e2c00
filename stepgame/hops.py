"""The hops of a command line: ``3``, ``1-10``, ``1-3,7``."""

from __future__ import annotations

from collections.abc import Iterable

from stepgame.errors import InputError

__all__ = ["MAX_HOPS", "format_hops", "parse_hops"]

MAX_HOPS = 1000
"""The longest chain the generator makes: a story is then already about 1,700 sentences with noise."""


def _one(text: str, whole: str) -> int:
    if not text.strip().isdecimal():
        raise InputError(
            f"hops {whole!r}: {text.strip()!r} is not a whole number; expected forms like 3, 1-10 or 1-3,7"
        )
    value = int(text)
    if not 1 <= value <= MAX_HOPS:
        raise InputError(f"hops {whole!r}: {value} is out of range; expected 1 to {MAX_HOPS}")
    return value


def parse_hops(hops: int | str | Iterable[int]) -> tuple[int, ...]:
    """Return the hops as ascending numbers without repeats.

    Args:
        hops: one number, several numbers, or text such as ``"1-3,7"``.

    Raises:
        InputError: if nothing is named, a range runs backwards, or a number is not in 1..`MAX_HOPS`.
    """
    if isinstance(hops, str):
        found: set[int] = set()
        for part in hops.split(","):
            first, dash, last = part.partition("-")
            low = _one(first, hops)
            high = _one(last, hops) if dash else low
            if high < low:
                raise InputError(
                    f"hops {hops!r}: the range {part.strip()!r} runs backwards; did you mean {high}-{low}?"
                )
            found.update(range(low, high + 1))
        return tuple(sorted(found))
    if isinstance(hops, int):
        numbers = [hops]
    else:
        numbers = list(hops)
        if not numbers:
            raise InputError("hops: none given; expected forms like 3, range(1, 11) or '1-10'")
    return tuple(sorted({_one(str(number), str(hops)) for number in numbers}))


def format_hops(hops: Iterable[int]) -> str:
    """Write hops the short way, the inverse of `parse_hops`: ``(1, 2, 3, 7)`` is ``"1-3,7"``."""
    ranges: list[list[int]] = []
    for number in sorted(set(hops)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
