"""Ask any model, record every answer, judge it, compare.

The names below are loaded on first use, so that ``import harness`` costs next to nothing and never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.record import Run, load_run
    from harness.run import evaluate

__all__ = ["Run", "evaluate", "load_run"]

_HOMES = {"Run": "harness.record", "evaluate": "harness.run", "load_run": "harness.record"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
