"""Where work is done: in this process, or on a Ray cluster."""

from __future__ import annotations

__all__ = ["LOCAL", "is_engine"]

LOCAL = "local"
"""The engine that is no cluster."""


def is_engine(name: str) -> bool:
    """Whether a text names an engine: ``local``, ``ray`` or ``ray://HOST:PORT``."""
    return name in (LOCAL, "ray") or name.startswith("ray://")
