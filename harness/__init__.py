"""Ask any model, record every answer, judge it, compare.

The names below are loaded on first use, so that ``import harness`` costs next to nothing and never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepgame.lazy import lazy_names

if TYPE_CHECKING:
    from harness.record import Run, load_run
    from harness.run import evaluate

__all__ = ["Run", "evaluate", "load_run"]

_HOMES = {"Run": "harness.record", "evaluate": "harness.run", "load_run": "harness.record"}


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
