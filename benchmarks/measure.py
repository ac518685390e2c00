"""Rates of rivals in one run: pinned to one core, taking turns, medians and the spread of their ratio."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Measured", "Ratio", "clock_of_torch", "describe_machine", "pin", "take_turns", "write_json"]


@dataclass(frozen=True)
class Ratio:
    """How many times faster one rival was than another.

    Attributes:
        median: over the rounds, of the ratio within a round.
        low: the smallest of a round.
        high: the largest.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:,.1f}x ({self.low:,.1f} to {self.high:,.1f})"


@dataclass(frozen=True)
class Measured:
    """Rates of one rival.

    Attributes:
        items: worked on in each round.
        rates: [rounds] items a second.
    """

    items: int
    rates: tuple[float, ...]

    @property
    def rate(self) -> float:
        """The median rate, items a second."""
        return statistics.median(self.rates)

    def over(self, peer: Measured) -> Ratio:
        """Compare with a peer round by round, so that a slow moment of the machine hits both sides."""
        ratios = [ours / theirs for ours, theirs in zip(self.rates, peer.rates, strict=True)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def take_turns(
    rivals: Mapping[str, tuple[int, Callable[[], object]]],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Measured]:
    """Time rivals in turns, each once a round.

    Args:
        rivals: by name, the number of items that a call works on, and the call. Its result is dropped after the clock
            has stopped.
        rounds: how often each is called.
        clock: seconds; by default those that this process, with all its threads, has used of a processor, so that
            other work on the machine does not count.
    """
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, (items, work) in rivals.items():
            gc.collect()
            started = clock()
            result = work()
            rates[name].append(items / (clock() - started))
            del result
    return {name: Measured(items, tuple(rates[name])) for name, (items, _) in rivals.items()}


def pin() -> str:
    """Keep this process, and those that it starts, on one core where the system can; return what was done."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned: this system cannot; the rivals are single-threaded by themselves"
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return f"pinned to core {core}"


def clock_of_torch() -> Callable[[], float]:
    """Return what times work of torch: the time of day on a GPU, which is waited for.

    On a CPU it is the processor time of one thread, to which torch is kept from here on: several threads count their
    waiting for each other, and on a busy machine that is most of it.
    """
    import torch

    if torch.cuda.is_available():

        def after_the_gpu() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return after_the_gpu
    torch.set_num_threads(1)
    return time.process_time


def describe_machine() -> str:
    """Name the processor, the system and the Python that the numbers are from."""
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        lines = cpus.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def write_json(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write results with the machine they are from, where a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": describe_machine(), **results}, indent=2) + "\n", encoding="utf-8")
