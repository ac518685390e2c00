"""From text to answer: our vectorised reader and solver against `clingo` over regular expressions, on one core.

``python -m benchmarks.solve`` prints for each k the rates of `judge_all`, of our scalar `judge` and of the ASP program
with one run a story, as the literature does it, and with many stories in a run, which is faster. The ratio is given
against both. All four must give the gold label of every story, or the command ends with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import stepgame
from benchmarks.measure import Ratio, describe_machine, pin, take_turns, write_json
from benchmarks.peers.asp import AspSolver
from stepgame.bank import load_bank
from stepgame.bulk import judge_all
from stepgame.errors import InputError
from stepgame.hops import parse_hops
from stepgame.relations import NAMES
from stepgame.solve import judge

__all__ = ["measure_speed"]

BANK = "core"
BATCHES = 128
"""Stories in one run of the batched ASP program, beyond which larger runs are hardly faster."""


def bulk_labels(stories: stepgame.Stories) -> list[str | None]:
    """Answer by `judge_all`; None where a story has no answer."""
    verdicts = judge_all(stories.table)
    return [NAMES[code] if code >= 0 else None for code in verdicts.label.tolist()]


def scalar_labels(stories: Sequence[Sequence[str]], questions: Sequence[str]) -> list[str | None]:
    """Answer by `judge`, one story at a time."""
    return [judge(story, question)[1] for story, question in zip(stories, questions, strict=True)]


def wrong(found: Sequence[str | None], gold: Sequence[str]) -> int:
    """Count the answers that are not gold's."""
    return sum(answer != label for answer, label in zip(found, gold, strict=True))


def measure_speed(hops: int, n: int, peer_n: int, rounds: int) -> dict[str, Any]:
    """Time all solvers on noisy stories of one length, and check their answers.

    Args:
        hops: links of the chain.
        n: stories that `judge_all` answers in a round.
        peer_n: how many of them the others answer.
        rounds: how often all take turns.

    Returns:
        k, both numbers of stories, the wrong answers and the median rate (stories a second) of each solver, and the
        ratio of `judge_all` to each ASP program: median, low and high.
    """
    stories = stepgame.generate(hops, n, noise=True, bank=BANK)
    few = stories[:peer_n]
    gold, told, asked = stories.column("label"), few.column("story"), few.column("question")
    solver = AspSolver(load_bank(BANK))
    batched = solver.answer_batches(BATCHES)
    answers = {
        "judge_all": wrong(bulk_labels(stories), gold),
        "judge": wrong(scalar_labels(told, asked), gold[:peer_n]),
        "asp": wrong(solver.answer_each(told, asked), gold[:peer_n]),
        "asp_batched": wrong(batched(told, asked), gold[:peer_n]),
    }
    rivals = {
        "judge_all": (n, lambda: judge_all(stories.table)),
        "judge": (peer_n, lambda: scalar_labels(told, asked)),
        "asp": (peer_n, lambda: solver.answer_each(told, asked)),
        "asp_batched": (peer_n, lambda: batched(told, asked)),
    }
    found = take_turns(rivals, rounds)
    return {
        "k": hops,
        "n": n,
        "n_peer": peer_n,
        "wrong": answers,
        "per_second": {name: measured.rate for name, measured in found.items()},
        "ratio": {peer: asdict(found["judge_all"].over(found[peer])) for peer in ("asp", "asp_batched")},
    }


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solve", description=__doc__)
    parser.add_argument("--hops", default="1,3,5,10", help="lengths of the chain")
    parser.add_argument("--n", type=int, default=60_000, help="stories that judge_all answers in a round")
    parser.add_argument("--peer-n", type=int, default=256, help="how many of them the others answer")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args(words)
    if options.peer_n < 1 or options.repeats < 1 or options.n < options.peer_n:
        parser.error("--peer-n and --repeats must be at least 1, --n at least --peer-n")
    try:
        options.hops = parse_hops(options.hops)
    except InputError as error:
        parser.error(str(error))
    return options


def main(words: list[str] | None = None) -> int:
    """Measure and print; returns the exit code, 1 if an answer was wrong."""
    options = parse_arguments(words)
    print(f"{describe_machine()}; {pin()}")
    print(
        f"noisy stories, text to answer, bank {BANK!r}; {options.repeats} rounds in turns, medians, "
        f"stories a second of processor time; n = {options.n:,} (judge_all), {options.peer_n:,} (the others)"
    )
    print(
        f"{'k':>3} {'judge_all':>11} {'judge':>9} {'ASP':>8} {f'ASP x{BATCHES}':>8}  judge_all / ASP, / ASP x{BATCHES}"
    )
    results = []
    for hops in options.hops:
        found = measure_speed(hops, options.n, options.peer_n, options.repeats)
        results.append(found)
        rates = "{judge_all:>11,.0f} {judge:>9,.0f} {asp:>8,.0f} {asp_batched:>8,.0f}".format(**found["per_second"])
        ratios = ", ".join(str(Ratio(**ratio)) for ratio in found["ratio"].values())
        print(f"{hops:>3} {rates}  {ratios}", flush=True)
    mistakes = {name: sum(found["wrong"][name] for found in results) for name in results[0]["wrong"]}
    print("answers that differ from gold: " + ", ".join(f"{name} {count}" for name, count in mistakes.items()))
    write_json(options.json, {"solve": results})
    return 1 if any(mistakes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
