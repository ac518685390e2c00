"""Keep the rows of a data set that pass its audit, or give them the label that their sentences say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stepgame.audit import examine, mark_repeats
from stepgame.relations import NAMES
from stepgame.stories import Stories

__all__ = ["REASONS", "FixReport", "fix"]

REASONS = ("unreadable", "contradictory", "unconnected", "mislabelled", "duplicate")
"""Why a row is dropped, in the order they are tried; a row counts under the first that applies."""


@dataclass(frozen=True, slots=True)
class FixReport:
    """What became of the rows.

    Attributes:
        rows: how many there were.
        dropped: rows left out, by `REASONS`.
        relabelled: rows kept under another label.
        kept: rows kept as they were.
    """

    rows: int
    dropped: dict[str, int]
    relabelled: int
    kept: int

    def to_text(self) -> str:
        """Say it in one line."""
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return (
            f"{self.rows:,} rows: {self.kept:,} kept as they were, {self.relabelled:,} relabelled, "
            f"{sum(self.dropped.values()):,} dropped{f' ({left_out})' if left_out else ''}"
        )


def fix(stories: Stories, *, relabel: bool = False) -> tuple[Stories, FixReport]:
    """Leave out the rows that an audit finds fault with; what is left audits clean.

    Of rows that repeat each other the first that passes otherwise is kept.

    Args:
        stories: what to fix, at least one row.
        relabel: give mislabelled rows the label that their sentences say, instead of dropping them.

    Returns:
        The rows that pass, in order, possibly none; and what became of the others.

    Raises:
        InputError: if there is no story.
    """
    rows = examine(stories)
    faults = [~rows.readable, rows.contradictory, rows.unconnected]
    faults.append(np.zeros(len(stories), np.bool_) if relabel else rows.mislabelled)
    passing = np.flatnonzero(~np.logical_or.reduce(faults))
    repeated = np.zeros(len(stories), np.bool_)
    repeated[passing] = mark_repeats(rows.exact[passing])[0]
    faults.append(repeated)
    dropped, left = {}, np.ones(len(stories), np.bool_)
    for reason, fault in zip(REASONS, faults, strict=True):
        dropped[reason] = int((left & fault).sum())
        left &= ~fault
    changed = int((left & rows.mislabelled).sum())
    table = stories.table
    if changed:
        literal = np.where(left & rows.mislabelled, rows.answer, rows.label)
        place = table.schema.get_field_index("label")
        table = table.set_column(place, table.schema.field("label"), pa.array(NAMES).take(pa.array(literal)))
    report = FixReport(len(stories), dropped, changed, int(left.sum()) - changed)
    return Stories(table.filter(pa.array(left)), stories.metadata), report
