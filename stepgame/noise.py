"""Noise counts as text: ``disconnected=2,irrelevant=0-3,supporting=1``."""

from __future__ import annotations

import re

from stepgame.errors import InputError, unknown_name
from stepgame.layout import NoiseCounts

__all__ = ["parse_noise_counts"]

KINDS = ("disconnected", "irrelevant", "supporting")
_MOST = 200
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def _range(kind: str, text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"noise counts: {kind}={text!r}; expected a number or a range, such as 2 or 0-3")
    low, high = int(match[1]), int(match[2] or match[1])
    if high < low:
        raise InputError(f"noise counts: {kind}={text!r} runs backwards; did you mean {high}-{low}?")
    if high > _MOST:
        raise InputError(f"noise counts: {kind}={text!r}; expected at most {_MOST} agents of a kind")
    if kind == "disconnected" and low < 2 and (low, high) != (0, 0):
        raise InputError(f"noise counts: {kind}={text!r}; a chain of strangers has none (0) or at least 2 agents")
    return low, high


def parse_noise_counts(text: str) -> NoiseCounts:
    """Read how many agents each kind of noise shall add; a kind that is not named adds none.

    Args:
        text: comma-separated ``KIND=N`` or ``KIND=LOW-HIGH``.

    Raises:
        InputError: on an unknown kind, one named twice, or a range that makes no sense.
    """
    counts = dict.fromkeys(KINDS, (0, 0))
    seen: set[str] = set()
    for part in text.split(","):
        kind, equals, amount = (piece.strip() for piece in part.partition("="))
        if kind not in counts:
            raise unknown_name("kind of noise", kind, KINDS)
        if not equals or kind in seen:
            raise InputError(f"noise counts {text!r}: expected each kind once, as {kind}=N")
        seen.add(kind)
        counts[kind] = _range(kind, amount)
    return NoiseCounts(counts["disconnected"], counts["irrelevant"], counts["supporting"])
