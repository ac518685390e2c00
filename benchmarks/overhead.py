"""What a run costs over the engine alone: generate mode through the run loop against a bare ``LLM.generate``.

``python -m benchmarks.overhead`` asks the same prompts with the same sampling on the same engine, in turns: once by
`harness.evaluate`, with all it does (making stories, prompts, tokens and the manifest, judging, writing the answers),
and once by ``LLM.generate`` on token ids that are ready. Loading is not timed; the prefix cache is emptied before each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.measure import describe_machine, write_json
from harness import evaluate
from harness.models.chat import load_tokenizer, render_chat
from harness.models.registry import load_model, parse_model
from harness.prompts import load_prompt
from harness.tasks.stepgame import StepGame
from stepgame.errors import InputError

__all__ = ["measure_overhead"]


def run_bare(llm: Any, ids: Sequence[Sequence[int]], max_tokens: int) -> float:
    """Complete the prompts by vLLM alone; return the seconds."""
    from vllm import SamplingParams

    llm.reset_prefix_cache()
    started = time.perf_counter()
    llm.generate(
        [{"prompt_token_ids": list(each)} for each in ids],
        SamplingParams(temperature=0.0, max_tokens=max_tokens),
        use_tqdm=False,
    )
    return time.perf_counter() - started


def run_harness(model: Any, settings: dict[str, Any], out: Path) -> float:
    """Do the same by a whole run on a model that is loaded already; return the seconds."""
    model.llm.reset_prefix_cache()
    # The run would load the model itself and close it at its end; both sides share one engine instead.
    with mock.patch("harness.run.load_model", return_value=model), mock.patch.object(model, "close"):
        started = time.perf_counter()
        run = evaluate("vllm:smollm2", score="generate", out=out, **settings)
        seconds = time.perf_counter() - started
    if run.results is None or run.results["errors"]:
        raise InputError(f"{out}: some stories got no answer")
    return seconds


def measure_overhead(hops: str, per_hop: int, max_tokens: int, rounds: int) -> dict[str, Any]:
    """Time both in turns.

    Args:
        hops: chain lengths.
        per_hop: stories of each.
        max_tokens: longest completion.
        rounds: how often both take turns; the first turn alternates.

    Returns:
        The number of stories, both sides' seconds a round, and the median overhead in per cent.
    """
    request = parse_model("vllm:smollm2", args={"max_model_len": "2048"})
    task = StepGame(hops=hops, per_hop=per_hop, noise=True)
    template = load_prompt("zero-shot", "generate")
    tokenizer = load_tokenizer(request)
    texts = [render_chat(tokenizer, template.render(example)) for example in task.examples]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    settings = {"hops": hops, "per_hop": per_hop, "noise": True, "max_tokens": max_tokens}
    model: Any = load_model(request, lambda _: [])
    seconds: dict[str, list[float]] = {"bare": [], "harness": []}
    try:
        run_bare(model.llm, ids[:2], 2)
        with tempfile.TemporaryDirectory() as folder:
            for turn in range(rounds):
                for side in ("bare", "harness") if turn % 2 == 0 else ("harness", "bare"):
                    took = (
                        run_bare(model.llm, ids, max_tokens)
                        if side == "bare"
                        else run_harness(model, settings, Path(folder) / str(turn))
                    )
                    seconds[side].append(took)
    finally:
        model.close()
    ratios = [whole / bare for whole, bare in zip(seconds["harness"], seconds["bare"], strict=True)]
    return {"n": len(ids), "seconds": seconds, "overhead_percent": 100 * (statistics.median(ratios) - 1)}


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--hops", default="1-10", help="chain lengths")
    parser.add_argument("--per-hop", type=int, default=20, help="stories of each")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest completion")
    parser.add_argument("--repeats", type=int, default=4, help="rounds in which both sides take turns")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    options = parse_arguments(words)
    print(describe_machine())
    found = measure_overhead(options.hops, options.per_hop, options.max_tokens, options.repeats)
    for side, seconds in found["seconds"].items():
        print(f"{side:>8}: {', '.join(f'{each:.2f}' for each in seconds)} s for {found['n']} stories")
    print(f"overhead: {found['overhead_percent']:+.1f} % (median of the rounds)")
    write_json(options.json, {"overhead": found})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
