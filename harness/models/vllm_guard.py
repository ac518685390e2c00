"""Ends an engine's processes when the process that started them is killed; it runs as a process of its own.

vLLM's engine outlives a parent that dies without a word (kill -9, short memory) and keeps the GPU's memory, so that
``stepgame resume`` could not start another. Only somebody else can end it then. This file is run as a script and
imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["dismiss", "guard"]

GOODBYE = b"done"


def guard(pids: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a process that kills others as soon as this one is gone without having called `dismiss`.

    Args:
        pids: the processes to kill.
    """
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, pids)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in a terminal goes to a whole group; this one must live longer than the others.
        start_new_session=True,
    )


def dismiss(guardian: subprocess.Popen[bytes]) -> None:
    """Tell a process of `guard` that nothing is left to do, and wait for its end."""
    guardian.communicate(GOODBYE)


def main(pids: Sequence[str]) -> None:
    """Wait for the goodbye of the parent, or for the end of its pipe, which is the end of the parent."""
    # By name: it ships no types.
    psutil: Any = importlib.import_module("psutil")
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(int(pid)))
    if sys.stdin.buffer.read(len(GOODBYE)) == GOODBYE:
        return
    for process in processes:
        # psutil knows a process from another that got its number.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    main(sys.argv[1:])
