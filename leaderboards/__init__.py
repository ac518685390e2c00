"""Leaderboards: finished runs become rows of a CSV, and plots of accuracy over the number of hops.

The names below are loaded on first use; nothing here imports matplotlib until a plot is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepgame.lazy import lazy_names

if TYPE_CHECKING:
    from leaderboards.board import Board, Published, publish
    from leaderboards.plots import plot_accuracy
    from leaderboards.schema import COLUMNS, row_of

__all__ = ["COLUMNS", "Board", "Published", "plot_accuracy", "publish", "row_of"]

_HOMES = {
    "COLUMNS": "leaderboards.schema",
    "Board": "leaderboards.board",
    "Published": "leaderboards.board",
    "plot_accuracy": "leaderboards.plots",
    "publish": "leaderboards.board",
    "row_of": "leaderboards.schema",
}


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
