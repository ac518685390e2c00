"""Finds the processes that a test started, and those that they started."""

from __future__ import annotations

import time
from pathlib import Path

MARK = "STEPGAME_TEST_MARK"
"""Environment variable that a test sets to its own folder."""


def marked(folder: Path) -> list[int]:
    """Return the processes that were started for a folder, by the mark in their environment."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return found


def left_over(folder: Path, seconds: float = 30) -> list[int]:
    """Return the processes that are still there after a while; none as soon as none is."""
    end = time.monotonic() + seconds
    while (found := marked(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return found
