"""Make a row again from the answers of its run, and hold it against the board.

The recorded judgements are not trusted: every reply is judged again, against stories made again from the manifest.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from leaderboards.board import Board, Row, sha256_of
from leaderboards.schema import row_of
from stepgame.errors import InputError

__all__ = ["Verified", "verify"]


class Verified(NamedTuple):
    """What verifying showed.

    Attributes:
        row: the run's row, made again.
        line: the line of the board that holds this measurement; None if there is none.
        differences: for each column that differs, what the board has and what the run gives.
    """

    row: Row
    line: int | None
    differences: dict[str, tuple[str, str]]

    @property
    def holds(self) -> bool:
        """Whether the board has exactly this row."""
        return self.line is not None and not self.differences


def verify(run: str | Path, board: str | Path) -> Verified:
    """Recompute a run's row from its samples, and compare it with the board's row of the same measurement.

    The run's folder is only read: it is judged again in a copy.

    Args:
        run: the folder of a finished run.
        board: the CSV file.

    Raises:
        InputError: if the run cannot be read or judged again, or the board cannot be read.
    """
    from harness.record import MANIFEST, RESULTS, SAMPLES, Run, load_run
    from harness.run import rescore

    folder = Path(run)
    if load_run(folder).results is None:
        raise InputError(f"{folder}: the run is unfinished; there is no row to verify")
    if not Path(board).is_file():
        raise InputError(f"{board} is no file; expected a leaderboard's CSV")
    book = Board.read(board)
    samples = sha256_of(folder / SAMPLES)
    with tempfile.TemporaryDirectory(prefix="stepgame-verify-") as name:
        copy = Path(name) / "run"
        copy.mkdir()
        for part in (MANIFEST, SAMPLES, RESULTS):
            shutil.copyfile(folder / part, copy / part)
        judged = rescore(copy)
        # Judging rewrites the file; the hash that the board promises is of the answers as they were recorded.
        results = {**(judged.results or {}), "samples_sha256": samples}
        cells = row_of(Run(copy, load_run(folder).manifest, results))
    row = Row(cells)
    for place, other in enumerate(book.rows):
        if other.identity == row.identity:
            names = [name for name in other.cells if other.cells[name] != cells.get(name, "")]
            differences = {name: (other.cells[name], cells.get(name, "")) for name in names}
            return Verified(row, book.line(place), differences)
    return Verified(row, None, {})
