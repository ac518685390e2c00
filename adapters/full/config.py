"""The configuration of training all weights: nothing beyond what every method has."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FullConfig"]


@dataclass(frozen=True, kw_only=True)
class FullConfig:
    """No settings of its own."""
