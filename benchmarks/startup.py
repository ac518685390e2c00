"""Start-up of the command line against Python's own and that of pip.

``python -m benchmarks.startup`` starts each command in turns and prints the median time of each and what it is as a
multiple of ``python -c pass``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Ratio, describe_machine, pin, take_turns, write_json

__all__ = ["measure_startup"]

BASE = "python -c pass"


def commands() -> dict[str, list[str]]:
    """Return the commands to start, by what they are called; pip only where it is installed."""
    found = {BASE: ["-c", "pass"], "stepgame --help": ["-m", "stepgame.cli", "--help"]}
    if importlib.util.find_spec("pip"):
        found["pip --help"] = ["-m", "pip", "--help"]
    return {name: [sys.executable, *words] for name, words in found.items()}


def start(command: list[str]) -> None:
    """Run a command to its end.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    subprocess.run(command, check=True, capture_output=True)


def measure_startup(rounds: int) -> dict[str, dict[str, Any]]:
    """Return for each command its median seconds and the ratio of them to bare Python: median, low and high."""
    rivals = {name: (1, partial(start, command)) for name, command in commands().items()}
    for _, work in rivals.values():
        work()
    # The commands are processes of their own, which this one only waits for.
    found = take_turns(rivals, rounds, time.perf_counter)
    seconds = {name: statistics.median(1 / rate for rate in measured.rates) for name, measured in found.items()}
    return {
        name: {"seconds": seconds[name], "ratio": asdict(found[BASE].over(measured))}
        for name, measured in found.items()
    }


def main(words: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="starts of each command")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args(words)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    print(f"{describe_machine()}; {pin()}")
    print(f"{options.repeats} starts in turns after one each to warm the disk, medians")
    results = measure_startup(options.repeats)
    for name, found in results.items():
        ratio = Ratio(**found["ratio"])
        print(f"{name:>16} {1000 * found['seconds']:>8.0f} ms  {ratio}")
    write_json(options.json, {"startup": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
