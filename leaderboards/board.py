"""A leaderboard file: reading it, and publishing finished runs into it.

A board is a CSV file (UTF-8, RFC 4180 quoting) with the columns of `leaderboards.schema`. Rows stand in the
order in which they were published. Publishing appends rows and leaves every line that is there as it is, byte
for byte; only ``replace`` rewrites a row, in its place, and only a run that asks a k the board has no columns
for widens the others, by empty cells.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import math
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leaderboards.rules import row_faults
from leaderboards.schema import SCHEMA, header, hops_of_header, measured, row_of
from stepgame.errors import InputError
from stepgame.files import atomic_path
from stepgame.terminal import printable

if TYPE_CHECKING:
    from harness import Run

__all__ = ["Board", "Published", "Row", "check_publishable", "publish", "sha256_of"]

LOCK_SECONDS = 60.0
"""How long a writer waits for another one; publishing takes well under a second."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a board.

    Attributes:
        cells: what it holds, by column name; columns it has nothing for may be missing.
        raw: its bytes in the file as text, line ending included; ``None`` for a row not written yet.
    """

    cells: dict[str, str]
    raw: str | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """What was measured; see `leaderboards.schema.IDENTITY`."""
        named = () if self.cells["model_hash"] else (self.cells["model"], self.cells["revision"])
        return (*named, *measured(self.cells))

    def __str__(self) -> str:
        """Name the row for people, in one line."""
        what = (self.cells.get(name, "") for name in ("model", "adapter", "prompt", "score", "protocol"))
        return printable(", ".join(part for part in what if part))


class Published(NamedTuple):
    """What `publish` did.

    Attributes:
        board: the file.
        rows: the new rows' cells by column name, in the order of the runs.
        lines: the line of each in the file, counted from 1.
        replaced: whether each took the place of an earlier row.
    """

    board: Path
    rows: tuple[dict[str, str], ...]
    lines: tuple[int, ...]
    replaced: tuple[bool, ...]


@dataclass(slots=True)
class Board:
    """A leaderboard in memory.

    Attributes:
        path: the file it was read from and goes to.
        hops: the k its header has columns for.
        rows: its rows, in the file's order.
        head: the header as it stands in the file, line ending included; empty for a new board.

    Rows change by `put` alone, which keeps track of the lines that they begin on.
    """

    path: Path
    hops: tuple[int, ...] = ()
    rows: list[Row] = field(default_factory=list)
    head: str = ""
    _begins: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def read(cls, path: str | Path, *, strict: bool = True) -> Board:
        """Read a board; a file that does not exist or is empty is a board without rows.

        Args:
            path: the CSV file.
            strict: refuse rows that `leaderboards.rules` finds fault with; `faults` lists them otherwise.

        Raises:
            InputError: if it is not a board of this schema, with the line and what was expected there.
        """
        path = Path(path)
        if path.is_dir():
            raise InputError(f"{path} is a folder; a board is a CSV file, for instance {path / 'stepgame.csv'}")
        try:
            text = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            return cls(path)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text (byte {error.start}); expected a board's CSV") from None
        if not text:
            return cls(path)
        records = _records(path, text)
        _, head, names = next(records)
        hops = _check_header(path, names)
        board = cls(path, hops, head=head)
        for line, raw, cells in records:
            board.rows.append(_check_row(path, line, raw, names, cells))
        if strict:
            for found, fault in board.faults():
                raise InputError(f"{path}, line {found}: {fault}")
        return board

    def faults(self) -> Iterator[tuple[int, str]]:
        """Yield what is wrong with the rows, as (line, what)."""
        seen: dict[tuple[str, ...], int] = {}
        for position, row in enumerate(self.rows):
            line = self.line(position)
            yield from ((line, fault) for fault in row_faults(row.cells))
            first = seen.setdefault(row.identity, line)
            if first != line:
                yield line, f"holds the same measurement as line {first} ({row}); delete one of them"

    def line(self, position: int) -> int:
        """Return the line, counted from 1, on which the row at ``position`` begins."""
        if not self._begins:
            self._begins.append(1 + _count_lines(self.head or "\n"))
        for place in range(len(self._begins) - 1, position):
            self._begins.append(self._begins[place] + _count_lines(self.rows[place].raw or "\n"))
        return self._begins[position]

    def put(self, cells: dict[str, str], *, replace: bool) -> tuple[int, bool]:
        """Add a row at the end, or put it in the place of the same measurement's.

        Args:
            cells: the row, as `leaderboards.schema.row_of` makes it.
            replace: whether an earlier row of the same measurement may give way.

        Returns:
            The position of the row, and whether it replaced one.

        Raises:
            InputError: if the measurement is there already and ``replace`` is false.
        """
        row = Row(cells)
        for position, earlier in enumerate(self.rows):
            if earlier.identity == row.identity:
                if not replace:
                    raise InputError(
                        f"{self.path}, line {self.line(position)}: this measurement is there already ({row}; "
                        f"same model, stories, prompt and scoring, of {earlier.cells['date']}); "
                        "to put the new run in its place, add --replace"
                    )
                self.rows[position] = row
                del self._begins[position + 1 :]
                return position, True
        self.rows.append(row)
        return len(self.rows) - 1, False

    def text(self) -> str:
        """Return the file's text: old lines as they were, new ones in the board's columns."""
        asked = {k for row in self.rows for k in hops_of_header([name for name in row.cells if row.cells[name]])}
        names = header({*self.hops, *asked})
        widened = names != header(self.hops) or not self.head
        ending = "\r\n" if self.head.endswith("\r\n") else "\n"
        lines = [_line(names, ending) if widened else _ended(self.head, ending)]
        for row in self.rows:
            fresh = row.raw is None or widened
            cells = [row.cells.get(name, "") for name in names]
            lines.append(_line(cells, ending) if fresh else _ended(row.raw or "", ending))
        return "".join(lines)

    def write(self) -> None:
        """Write the board to its file, by an atomic rename."""
        # A link to a board stays a link: the rename happens beside the file it points to.
        with atomic_path(self.path.resolve()) as part:
            part.write_bytes(self.text().encode("utf-8"))


def _count_lines(raw: str) -> int:
    return len(io.StringIO(raw, newline=None).readlines())


def _ended(raw: str, ending: str) -> str:
    return raw if raw.endswith(("\n", "\r")) else raw + ending


def _line(cells: Sequence[str], ending: str) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=ending).writerow(cells)
    return text.getvalue()


def _records(path: Path, text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (line, raw text, cells) of every record of a CSV text; a record may span lines."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    reader = csv.reader(lines(), strict=True)
    while True:
        begins = reader.line_num + 1
        taken.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path}, line {begins}: not a CSV record ({error})") from None
        if cells is None:
            return
        yield begins, "".join(taken), cells


def _check_header(path: Path, names: list[str]) -> tuple[int, ...]:
    # A byte order mark, as spreadsheets write it, stays in the file but is no part of the first name.
    if names:
        names[0] = names[0].removeprefix("\ufeff")
    hops = tuple(hops_of_header(names))
    expected = header(hops)
    if names == expected:
        return hops
    for position, wanted in enumerate(expected):
        found = names[position] if position < len(names) else None
        if found != wanted:
            said = "missing" if found is None else repr(found[:40])
            raise InputError(
                f"{path} is not a board of schema {SCHEMA}: column {position + 1} is {said}, "
                f"expected {wanted!r}; publish to another file, or move this one away"
            )
    extra = ", ".join(repr(name[:40]) for name in names[len(expected) :][:10])
    raise InputError(f"{path} is not a board of schema {SCHEMA}: it has the columns {extra} besides")


def _check_row(path: Path, line: int, raw: str, names: list[str], cells: list[str]) -> Row:
    if len(cells) != len(names):
        raise InputError(f"{path}, line {line}: {len(cells)} cells; the header has {len(names)} columns")
    return Row(dict(zip(names, cells, strict=True)), raw)


def _try_lock(lock: Path) -> int | None:
    """Return the descriptor of the locked file, or ``None`` while another writer holds it.

    The writer before may have removed the file between our opening and our locking it; whoever holds the lock
    of a removed file holds nothing.
    """
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    held = False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.path.samestat(os.fstat(handle), lock.stat())
    except (BlockingIOError, FileNotFoundError):
        return None
    finally:
        if not held:
            os.close(handle)
    return handle if held else None


@contextlib.contextmanager
def _locked(board: Path) -> Iterator[None]:
    """Hold the board's lock, a file beside it that exists only while somebody writes.

    Raises:
        InputError: if another process holds it for longer than `LOCK_SECONDS`.
    """
    board = board.resolve()
    board.parent.mkdir(parents=True, exist_ok=True)
    lock = board.with_name(f".{board.name}.lock")
    give_up = time.monotonic() + LOCK_SECONDS
    while (handle := _try_lock(lock)) is None:
        if time.monotonic() > give_up:
            raise InputError(f"{board} is being written by another process; try again when that has ended")
        time.sleep(0.02)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a run's file.

    Raises:
        InputError: if there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; a run without its answers cannot be published") from None


def _follows(run: Run, results: dict[str, Any]) -> bool:
    """Say whether results are what counting the run's samples gives."""
    counted = run.accuracy(by="k_hop")
    by_k = {entry["k"]: entry for entry in results["by_k"]}
    if set(counted.index) != set(by_k) or results["n"] != counted["n"].sum():
        return False
    exact = ("n", "correct", "errors", "unparsed")
    close = ("accuracy", "low", "high")
    for k, row in counted.iterrows():
        if any(row[name] != by_k[k][name] for name in exact):
            return False
        if any(not math.isclose(row[name], by_k[k][name], abs_tol=1e-9) for name in close):
            return False
    return math.isclose(counted["accuracy"].mean(), results["mean_accuracy"], abs_tol=1e-9)


def check_publishable(run: Run, *, allow_dirty: bool = False) -> dict[str, str]:
    """Say whether a run may stand on a board, and give its row.

    Args:
        run: the run.
        allow_dirty: whether the code that made it may have had changes that no commit holds.

    Returns:
        The row, as `leaderboards.schema.row_of` makes it.

    Raises:
        InputError: with the reason, if the run is unfinished, has errors, was made by code that no commit
            holds, or has results that do not follow from its samples.
    """
    where = shlex.quote(str(run.path))
    results = run.results
    if results is None:
        raise InputError(f"{run.path}: the run is unfinished; run: stepgame resume {where}")
    if results.get("errors"):
        raise InputError(
            f"{run.path}: {results['errors']} stories ended in an error and were not answered; "
            f"run: stepgame resume {where}"
        )
    samples = run.path / "samples.jsonl"
    if sha256_of(samples) != results.get("samples_sha256"):
        raise InputError(f"{samples} changed after the results were computed; run: stepgame rescore {where}")
    cells = row_of(run)
    if results["n"] != results.get("n_expected"):
        raise InputError(
            f"{run.path}: {results['n']} of {results.get('n_expected')} stories were asked; "
            f"run: stepgame resume {where}"
        )
    if not _follows(run, results):
        raise InputError(f"{run.path / 'results.json'} is not what its samples give; run: stepgame rescore {where}")
    if cells["dirty"] == "yes" and not allow_dirty:
        why = "had uncommitted changes" if cells["commit"] else "lay outside a git checkout"
        raise InputError(
            f"{run.path}: the code that made this run {why}, so nobody could make it again; commit and run "
            "again, or publish it marked as dirty with --allow-dirty"
        )
    for fault in row_faults(dict.fromkeys(header([]), "") | cells):
        raise InputError(f"{run.path} makes no row that the board takes: {fault}")
    return cells


def publish(
    runs: Iterable[Run | str | Path],
    board: str | Path,
    *,
    allow_dirty: bool = False,
    replace: bool = False,
) -> Published:
    """Append finished runs to a board: all of them, or none.

    Args:
        runs: the runs, or their folders.
        board: the CSV file; it is made if it does not exist.
        allow_dirty: publish runs whose code no commit holds, marked in the column ``dirty``.
        replace: put a run in the place of an earlier row of the same measurement.

    Returns:
        What was written where.

    Raises:
        InputError: with the reason, if a run is not publishable (`check_publishable`), is there already, is
            named twice, or if the file is not a board of this schema. The file is then as it was.
    """
    from harness import Run, load_run

    loaded = [run if isinstance(run, Run) else load_run(run) for run in runs]
    rows = [check_publishable(run, allow_dirty=allow_dirty) for run in loaded]
    by_identity: dict[tuple[str, ...], Run] = {}
    for run, cells in zip(loaded, rows, strict=True):
        twin = by_identity.setdefault(Row(cells).identity, run)
        if twin is not run:
            raise InputError(f"{twin.path} and {run.path} are the same measurement ({Row(cells)}); publish one of them")
    with _locked(Path(board)):
        book = Board.read(board)
        placed = [book.put(cells, replace=replace) for cells in rows]
        book.write()
    return Published(
        board=Path(board),
        rows=tuple(rows),
        lines=tuple(book.line(position) for position, _ in placed),
        replaced=tuple(replaced for _, replaced in placed),
    )
