"""Peak memory of one `stepgame` command, by a process that does nothing else.

``python -m benchmarks.memory WORDS...`` runs ``stepgame WORDS...`` and prints, as its last line, the most memory that
was resident at once, in MiB.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

__all__ = ["peak_of", "peak_of_process"]


def peak_of_process() -> float:
    """Return this process's peak resident memory in MiB, since its start or since it was last reset."""
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike getrusage, this counter begins anew with the program and knows nothing of the parent's memory.
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if match:
            return int(match[1]) / 1024
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1024 * 1024 if sys.platform == "darwin" else 1024)


def peak_of(*words: str) -> float:
    """Run ``stepgame WORDS...`` in a process of its own and return its peak resident memory in MiB.

    Raises:
        subprocess.CalledProcessError: if the command fails.
    """
    command = [sys.executable, "-m", "benchmarks.memory", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> int:
    """Run the command of this process's arguments and print its peak."""
    from stepgame.cli import main as run

    try:
        run(sys.argv[1:])
    except SystemExit as end:
        if end.code:
            return int(end.code)
    print(f"{peak_of_process():.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
