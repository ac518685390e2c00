"""Generation against the published procedure in plain Python, text in memory, with noise, on one core.

``python -m benchmarks.generate`` prints for each k both rates and their ratio, then the peak memory of
``stepgame generate`` for two sizes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import stepgame
from benchmarks.measure import Ratio, describe_machine, pin, take_turns, write_json
from benchmarks.memory import peak_of
from benchmarks.peers.plain_python import PlainGenerator
from stepgame.bank import load_bank
from stepgame.errors import InputError
from stepgame.hops import parse_hops

__all__ = ["measure_memory", "measure_speed"]

BANK = "core"
MOST_HOPS = 10
"""The plain procedure names agents by the 26 letters, which longer chains with noise use up."""


def measure_speed(hops: int, n: int, plain_n: int, rounds: int) -> dict[str, Any]:
    """Time both generators on noisy stories of one length.

    Args:
        hops: links of the chain.
        n: stories that ours makes in a round.
        plain_n: stories that plain Python makes in a round.
        rounds: how often both take turns.

    Returns:
        k, both numbers of stories, both median rates (stories a second) and the ratio's median, low and high.
    """
    plain = PlainGenerator(load_bank(BANK))
    # Compile before the clock starts; the compiled code is cached on disk for every later process.
    stepgame.generate(hops, 64, noise=True, bank=BANK)
    plain.generate(hops, 64)
    rivals = {
        "stepgame": (n, lambda: stepgame.generate(hops, n, noise=True, bank=BANK)),
        "plain": (plain_n, lambda: plain.generate(hops, plain_n)),
    }
    found = take_turns(rivals, rounds)
    ours, theirs = found["stepgame"], found["plain"]
    rates = {"stepgame": ours.rate, "plain_python": theirs.rate}
    return {"k": hops, "n": n, "n_plain": plain_n, "per_second": rates, "ratio": asdict(ours.over(theirs))}


def measure_memory(hops: int, sizes: tuple[int, int]) -> dict[int, float]:
    """Return the peak resident memory, in MiB, of writing so many noisy stories to Parquet."""
    found = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "out")
            words = ["--hops", str(hops), "--per-hop", str(n), "--noise", "--format", "parquet", "--out", out]
            found[n] = peak_of("generate", *words)
    return found


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__)
    parser.add_argument("--hops", default="1,3,5,10", help=f"lengths of the chain, at most {MOST_HOPS}")
    parser.add_argument("--n", type=int, default=100_000, help="stories that stepgame makes in a round")
    parser.add_argument("--plain-n", type=int, default=5_000, help="stories that plain Python makes in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument(
        "--memory-n",
        type=int,
        default=200_000,
        help="stories written for the first memory line; the second has five times as many; 0 for none",
    )
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args(words)
    if min(options.n, options.plain_n, options.repeats) < 1 or options.memory_n < 0:
        parser.error("--n, --plain-n and --repeats must be at least 1, --memory-n at least 0")
    try:
        options.hops = parse_hops(options.hops)
    except InputError as error:
        parser.error(str(error))
    if max(options.hops) > MOST_HOPS:
        parser.error(f"--hops {max(options.hops)}: plain Python names agents by 26 letters; at most {MOST_HOPS}")
    return options


def main(words: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    options = parse_arguments(words)
    print(f"{describe_machine()}; {pin()}")
    print(
        f"noisy stories with text in memory, bank {BANK!r}; {options.repeats} rounds in turns, medians, "
        f"stories a second of processor time; n = {options.n:,} (stepgame), {options.plain_n:,} (plain Python)"
    )
    print(f"{'k':>3} {'stepgame/s':>12} {'plain Python/s':>15}  ratio (smallest to largest of a round)")
    speeds = []
    for hops in options.hops:
        found = measure_speed(hops, options.n, options.plain_n, options.repeats)
        speeds.append(found)
        rates, ratio = found["per_second"], Ratio(**found["ratio"])
        print(f"{hops:>3} {rates['stepgame']:>12,.0f} {rates['plain_python']:>15,.0f}  {ratio}", flush=True)
    memory: dict[int, float] = {}
    if options.memory_n:
        hops, sizes = max(options.hops), (options.memory_n, 5 * options.memory_n)
        memory = measure_memory(hops, sizes)
        small, large = memory.values()
        print(
            f"peak memory of `stepgame generate` to Parquet, k = {hops}: {small:,.0f} MiB for {sizes[0]:,} stories, "
            f"{large:,.0f} MiB for {sizes[1]:,}: ratio {large / small:.2f} for 5 times the stories"
        )
    write_json(options.json, {"speed": speeds, "peak_mib": memory})
    return 0


if __name__ == "__main__":
    sys.exit(main())
