"""Scoring the nine options: ours against lm-evaluation-harness on the same stories, prompts, options and weights.

``python -m benchmarks.choice`` prints for each engine both rates, their ratio and the share of equal predictions. Both
sides of an engine are loaded in one process and take turns; loading is not timed. Prefix caches are emptied before
every round, so that no round helps the next. The rates are by the wall clock: vLLM works in processes of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured, describe_machine, write_json
from benchmarks.peers.lm_eval import LmEval, check_lm_eval
from harness.models.base import Model, Prompt, Scores
from harness.models.builtin import builtin_folder
from harness.models.registry import load_model, parse_model
from harness.prompts import load_prompt
from harness.tasks.stepgame import StepGame
from stepgame.errors import InputError, unknown_name

__all__ = ["measure_choice"]

ENGINES = ("hf", "vllm")
LENGTH = 2048
"""Longest prompt of either vLLM engine, in tokens."""

Work = Callable[[], list[int]]


def load_pair(engine: str, batch: int) -> tuple[Model, LmEval]:
    """Load the built-in model twice: for us and for the peer, in the same dtype on the same device."""
    args: dict[str, str] = {}
    folder = str(builtin_folder()[0])
    if engine == "hf":
        ours = load_model(parse_model("smollm2", backend=engine), lambda _: [])
        settings: dict[str, Any] = {"device": ours.identity.device, "batch_size": batch}
    else:
        import torch

        on_cpu = not torch.cuda.is_available()
        # Two engines share the machine's memory.
        settings = {"enforce_eager": True, "kv_cache_memory_bytes": 2**30} if on_cpu else {}
        settings |= {} if on_cpu else {"gpu_memory_utilization": 0.4}
        args = {name: str(value) for name, value in settings.items()} | {"max_model_len": str(LENGTH)}
        ours = load_model(parse_model("smollm2", backend=engine, args=args), lambda _: [])
        settings |= {"max_model_len": LENGTH, "batch_size": "auto"}
    return ours, LmEval(engine, folder, {**settings, "dtype": ours.identity.dtype})


def our_choices(model: Model, prompts: Sequence[Prompt]) -> list[int]:
    """Return the place of the likeliest option of each prompt, batched as a run would."""
    reset = getattr(getattr(model, "llm", None), "reset_prefix_cache", None)
    if reset is not None:
        reset()
    found = [0] * len(prompts)
    for batch in model.batches(prompts):
        part = [prompts[index] for index in batch]
        for index, scores in zip(batch, model.choose(part, [each.example.options for each in part]), strict=True):
            if not isinstance(scores, Scores):
                raise InputError(f"a story got no answer: {scores.error}")
            found[index] = max(range(len(scores.logprobs)), key=scores.logprobs.__getitem__)
    return found


def timed(rivals: Sequence[Work], items: int, rounds: int) -> tuple[list[Measured], list[list[int]]]:
    """Let rivals take turns by the wall clock; return their rates and their last answers."""
    rates: list[list[float]] = [[] for _ in rivals]
    answers: list[list[int]] = [[] for _ in rivals]
    for _ in range(rounds):
        for place, work in enumerate(rivals):
            started = time.perf_counter()
            answers[place] = work()
            rates[place].append(items / (time.perf_counter() - started))
    return [Measured(items, tuple(each)) for each in rates], answers


def measure_choice(engine: str, prompts: Sequence[Prompt], rounds: int, batch: int) -> dict[str, Any]:
    """Time both sides on one engine.

    Args:
        engine: ``"hf"`` or ``"vllm"``.
        prompts: what is asked.
        rounds: how often both take turns.
        batch: the peer's batch size with transformers; vLLM batches by itself.

    Returns:
        The number of stories, the rates (stories a second), their ratio and the share of equal predictions.
    """
    ours, peer = load_pair(engine, batch)
    try:
        texts = [ours.render(prompt) or "" for prompt in prompts]
        options = [prompt.example.options for prompt in prompts]
        warm = prompts[:2]
        our_choices(ours, warm)
        peer.choose(texts[:2], options[:2])
        rivals = [lambda: our_choices(ours, prompts), lambda: peer.choose(texts, options)]
        (mine, theirs), (found, expected) = timed(rivals, len(prompts), rounds)
    finally:
        peer.close()
        close = getattr(ours, "close", None)
        if close is not None:
            close()
    same = sum(one == other for one, other in zip(found, expected, strict=True))
    return {
        "engine": engine,
        "n": len(prompts),
        "stepgame": mine.rate,
        "lm_eval": theirs.rate,
        "ratio": asdict(mine.over(theirs)),
        "same": same / len(prompts),
    }


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choice", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--n", type=int, default=200, help="stories, spread evenly over the chain lengths")
    parser.add_argument("--hops", default="1-10", help="chain lengths")
    parser.add_argument("--engines", default="hf,vllm", help="which of hf and vllm, by commas")
    parser.add_argument("--repeats", type=int, default=1, help="rounds in which both sides take turns")
    parser.add_argument("--peer-batch", type=int, default=16, help="batch size of the peer with transformers")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args(words)
    options.engines = options.engines.split(",")
    return options


def main(words: list[str] | None = None) -> int:
    """Measure and print; returns the exit code, 1 if a prediction differs."""
    options = parse_arguments(words)
    for engine in options.engines:
        if engine not in ENGINES:
            raise unknown_name("engine", engine, ENGINES)
    peer = check_lm_eval()
    counted = len({example.k_hop for example in StepGame(hops=options.hops, per_hop=1).examples})
    task = StepGame(hops=options.hops, per_hop=max(1, options.n // counted), noise=True)
    template = load_prompt("zero-shot", "choice")
    prompts = [template.render(example) for example in task.examples]
    print(describe_machine())
    print(f"{len(prompts)} noisy stories, k = {options.hops}, nine options, smollm2; lm-eval {peer}; wall clock")
    print(f"{'engine':>6} {'stepgame':>9} {'lm-eval':>8}  ratio, same predictions (stories a second)")
    results = []
    for engine in options.engines:
        found = measure_choice(engine, prompts, options.repeats, options.peer_batch)
        results.append(found)
        ratio = found["ratio"]
        print(
            f"{engine:>6} {found['stepgame']:>9.2f} {found['lm_eval']:>8.2f}  {ratio['median']:.1f}x "
            f"({ratio['low']:.1f} to {ratio['high']:.1f}), {found['same']:.1%}",
            flush=True,
        )
    write_json(options.json, {"choice": results})
    return 0 if all(found["same"] == 1 for found in results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
