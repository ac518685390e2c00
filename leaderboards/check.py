"""Everything that can be wrong with the committed boards, as a list rather than as the first error."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from leaderboards.board import Board, sha256_of
from leaderboards.published import published_faults, read_published
from stepgame.errors import InputError
from stepgame.terminal import printable

__all__ = ["Checked", "Finding", "check_board", "check_published"]


class Finding(NamedTuple):
    """Something wrong with a file.

    Attributes:
        where: the file, and the line if one is to blame.
        what: what is wrong there.
    """

    where: str
    what: str


class Checked(NamedTuple):
    """What a check saw.

    Attributes:
        rows: how many rows it read.
        findings: what is wrong.
        notes: what could not be checked here, and why.
    """

    rows: int
    findings: list[Finding]
    notes: list[str]


def check_board(path: Path) -> Checked:
    """Check a board of our own: its form, every row's figures, and that the commits and answers it names are there.

    Answers are looked for in the folder ``runs`` beside the file; a board without such a folder keeps them elsewhere.

    Args:
        path: the CSV file.

    Raises:
        InputError: if there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; expected a leaderboard's CSV")
    try:
        board = Board.read(path, strict=False)
    except InputError as error:
        return Checked(0, [Finding(str(path), str(error).removeprefix(f"{path}, "))], [])
    found = [Finding(f"{path}, line {line}", fault) for line, fault in board.faults()]
    commits = {row.cells["commit"]: board.line(place) for place, row in reversed(list(enumerate(board.rows)))}
    commits.pop("", None)
    notes = []
    if commits and (reason := _no_history(path.resolve().parent)):
        notes.append(f"{path}: whether its commits exist was not checked ({reason})")
    else:
        for commit, line in commits.items():
            if not _has_commit(path.resolve().parent, commit):
                what = f"commit {printable(commit[:12])} is not in this repository"
                found.append(Finding(f"{path}, line {line}", what))
    return Checked(len(board.rows), found + list(_without_answers(path, board)), notes)


def _without_answers(path: Path, board: Board) -> Iterator[Finding]:
    """Yield rows whose answers no run folder beside the board holds."""
    runs = path.resolve().parent / "runs"
    if not runs.is_dir():
        return
    there = {sha256_of(samples) for samples in runs.glob("*/samples.jsonl")}
    for place, row in enumerate(board.rows):
        if (answers := row.cells["samples_sha256"]) not in there:
            known = printable(answers[:12])
            what = f"no folder in runs/ beside it has its answers (samples_sha256 {known}); put the run there"
            yield Finding(f"{path}, line {board.line(place)}", what)


def check_published(path: Path) -> Checked:
    """Check a file of published figures.

    Args:
        path: the CSV file.
    """
    try:
        figures = read_published(path, strict=False)
    except InputError as error:
        return Checked(0, [Finding(str(path), str(error))], [])
    found = [Finding(f"{path}, line {line}", fault) for line, fault in published_faults(figures)]
    return Checked(len(figures), found, [])


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)


def _no_history(folder: Path) -> str | None:
    """Say why commits cannot be looked up; None if they can."""
    try:
        shallow = _git(folder, "rev-parse", "--is-shallow-repository")
    except FileNotFoundError:
        return "git is not installed"
    if shallow.returncode:
        return "the file lies outside a git checkout"
    return "the checkout is shallow" if shallow.stdout.strip() == "true" else None


def _has_commit(folder: Path, commit: str) -> bool:
    # The commit is a cell of the board: only what has the form of a hash reaches git, never an option.
    if not (commit.isalnum() and commit.isascii()):
        return False
    return _git(folder, "cat-file", "-e", f"{commit}^{{commit}}").returncode == 0
