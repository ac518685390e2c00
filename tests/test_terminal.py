"""What files say is shown in a terminal, and steers nothing there."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from leaderboards import Board, publish
from leaderboards.demo import CONTESTANTS, run_demo
from stepgame.terminal import printable
from tests.boards import rows_of, small_board

HOSTILE = "\x1b[31mred\x1b]0;pwn\x07"
SHOWN = printable(HOSTILE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_board(tmp_path_factory.mktemp("runs"))


def in_terminal(*words: str) -> str:
    """Return what a command writes to a terminal; into a pipe, escapes of colours are left out for it."""
    ours, theirs = pty.openpty()
    with contextlib.closing(os.fdopen(ours, "rb", buffering=0)) as screen:
        process = subprocess.Popen([sys.executable, "-m", "stepgame.cli", *words], stdout=theirs, stderr=theirs)
        os.close(theirs)
        shown = b""
        # A terminal that nobody writes to any more ends in an error.
        with contextlib.suppress(OSError):
            while piece := screen.read(65536):
                shown += piece
        process.wait(timeout=60)
    # colorama, which numba loads, resets the colours at the end.
    return shown.decode().replace("\r\n", "\n").removesuffix("\x1b[0m")


def steers(shown: str) -> bool:
    return not shown.replace("\n", "").replace("\t", "").isprintable()


def test_stories_of_a_file(tmp_path: Path) -> None:
    row = {"question": f"Where?\tThere {HOSTILE}", "options": ["left", "right"], "answer": "left"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    shown = in_terminal("run", "--model", "random", "--task", str(tmp_path / "q.jsonl"), "--dry-run")
    assert f"Where?\tThere {SHOWN}" in shown and not steers(shown)


def test_rows_of_a_board(made: Path, tmp_path: Path) -> None:
    (row, *_) = rows_of(made / "board.csv")
    board = tmp_path / f"b{HOSTILE}.csv"
    with board.open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerows([row | {"model": f"{HOSTILE}\nx"}] * 2)
    shown = in_terminal("board", "check", "--board", str(board))
    assert f"line 4: holds the same measurement as line 2 ({SHOWN}\ufffdx, " in shown and not steers(shown)
    assert f"b{SHOWN}.csv, line 2: " in shown


@pytest.mark.parametrize("verb", ["publish", "verify", "page", "report"])
def test_names_of_files(made: Path, tmp_path: Path, verb: str) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    board, run = str(folder / "b.csv"), str(made / "random")
    publish([run], board, allow_dirty=True)
    words = {
        "publish": ["publish", run, "--board", board, "--allow-dirty", "--replace"],
        "verify": ["board", "verify", run, "--board", board],
        "page": ["board", "page", "--board", board, "--runs", str(made), "--out", str(folder / "site")],
        "report": ["report", run, "--out", str(folder), "--no-plots"],
    }
    shown = in_terminal(*words[verb])
    assert SHOWN in shown and "error" not in shown and not steers(shown)


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"a{HOSTILE}[bold]:smile:"
    run_demo(out, hops="1", per_hop=1, contestants=CONTESTANTS[:1])
    lines = capsys.readouterr().out.split("\n")
    assert any(f"a{SHOWN}[bold]:smile:/leaderboard.csv  one row a run" in line for line in lines)
    assert "What to try next:" in lines and all(map(str.isprintable, lines))


def test_a_row_is_named_in_one_line(made: Path) -> None:
    row = Board.read(made / "board.csv").rows[0]
    row.cells["model"] = f"{HOSTILE}\nstepgame: "
    assert str(row).startswith(f"{SHOWN}\ufffdstepgame: , ") and str(row).isprintable()
