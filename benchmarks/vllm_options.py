"""Ways to score the nine options on vLLM, on one engine: what the backend does, and what it might do instead.

``python -m benchmarks.vllm_options`` lets them take turns on the same prompts, empties the prefix cache before each,
and checks that all give the same scores:

- *pairs*, the backend's own: a request for every two nodes of the options' trie, the first step's token being forced;
- *single*: a request for every node, its prompt the path to it;
- *waves*: as *single*, but the deeper nodes are sent when the roots have come back, so that their prefix is cached;
- *whole*: a request for each option, the prompt with the option behind it, read by ``prompt_logprobs``. vLLM skips the
  cache for these. (``prompt_logprob_token_ids`` needs vLLM's second model runner, which has no CPU build.)
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import describe_machine, write_json
from harness.models.base import Prompt, Scores
from harness.models.registry import load_model, parse_model
from harness.prompts import load_prompt
from harness.tasks.stepgame import StepGame
from harness.trie import ROOT, Trie, build_trie

__all__ = ["WAYS", "measure"]

TOLERANCE = 2e-3
"""Largest difference between two ways, in nats, that float32 explains."""

Found = list[tuple[float, ...]]
Way = Callable[[Any, Sequence[Prompt]], Found]


def pairs(model: Any, prompts: Sequence[Prompt]) -> Found:
    """Score by the backend itself."""
    scores = model.choose(prompts, [prompt.example.options for prompt in prompts])
    return [each.logprobs if isinstance(each, Scores) else () for each in scores]


def _nodes(trie: Trie) -> list[Any]:
    """Return a request for every node, the root first."""
    from harness.models.vllm import _Ask

    paths: dict[int, tuple[int, ...]] = {ROOT: ()}
    for node, (token, parent) in enumerate(zip(trie.inner, trie.parent, strict=True)):
        paths[node] = (*paths[parent], token)
    children: dict[int, set[int]] = {node: set() for node in paths}
    for node, token in (step for steps in trie.steps for step in steps):
        children[node].add(token)
    return [_Ask(path, None, (node,), sorted(children[node])) for node, path in paths.items()]


def _by_node(model: Any, prompts: Sequence[Prompt], *, waves: bool) -> Found:
    encoded = model._encoder.encode(prompts)
    tries = [
        build_trie(model._encoder.options(each, prompt.example.options))
        for each, prompt in zip(encoded, prompts, strict=True)
    ]
    asks = [_nodes(trie) for trie in tries]
    answers: list[list[Any]] = [[] for _ in prompts]
    for part in (slice(1), slice(1, None)) if waves else (slice(None),):
        names = [model._send_options(each, ask[part]) for each, ask in zip(encoded, asks, strict=True)]
        outputs = iter(model._engine.collect([name for some in names for name in some]))
        for place, some in enumerate(names):
            answers[place] += [next(outputs) for _ in some]
    found = []
    for trie, ask, each in zip(tries, asks, answers, strict=True):
        values = {
            (node, token): one.logprob
            for request, output in zip(ask, each, strict=True)
            for node, step in zip(request.nodes, output.outputs[0].logprobs, strict=True)
            for token, one in step.items()
        }
        found.append(tuple(math.fsum(values[step] for step in steps) for steps in trie.steps))
    return found


def single(model: Any, prompts: Sequence[Prompt]) -> Found:
    """Score node by node, all at once."""
    return _by_node(model, prompts, waves=False)


def waves(model: Any, prompts: Sequence[Prompt]) -> Found:
    """Score node by node, the roots first."""
    return _by_node(model, prompts, waves=True)


def whole(model: Any, prompts: Sequence[Prompt]) -> Found:
    """Score every option as a prompt of its own."""
    from harness.models.vllm_engine import sampling_params

    params = sampling_params(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    encoded = model._encoder.encode(prompts)
    options = [
        model._encoder.options(each, prompt.example.options) for each, prompt in zip(encoded, prompts, strict=True)
    ]
    names = [
        model._engine.submit({"prompt_token_ids": [*each.ids, *option]}, params)
        for each, some in zip(encoded, options, strict=True)
        for option in some
    ]
    outputs = iter(model._engine.collect(names))
    found = []
    for some in options:
        sums = []
        for option in some:
            rows = next(outputs).prompt_logprobs[-len(option) :]
            sums.append(math.fsum(row[token].logprob for row, token in zip(rows, option, strict=True)))
        found.append(tuple(sums))
    return found


WAYS: dict[str, Way] = {"pairs": pairs, "single": single, "waves": waves, "whole": whole}


def measure(n: int, rounds: int) -> dict[str, Any]:
    """Time every way.

    Args:
        n: stories, spread over k = 1 to 10, with noise.
        rounds: how often all take turns.

    Returns:
        For each way the median stories a second by the wall clock, and the largest difference of a score from
        those of *pairs*, in nats.
    """
    template = load_prompt("zero-shot", "choice")
    prompts = [template.render(each) for each in StepGame(hops="1-10", per_hop=max(1, n // 10), noise=True).examples]
    model: Any = load_model(parse_model("vllm:smollm2", args={"max_model_len": "2048"}), lambda _: [])
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    found: dict[str, Found] = {}
    try:
        for way in WAYS.values():
            way(model, prompts[:2])
        for _ in range(rounds):
            for name, way in WAYS.items():
                model.llm.reset_prefix_cache()
                started = time.perf_counter()
                found[name] = way(model, prompts)
                seconds[name].append(time.perf_counter() - started)
    finally:
        model.close()
    return {
        name: {
            "per_second": len(prompts) / statistics.median(seconds[name]),
            "gap": max(
                abs(a - b)
                for one, other in zip(found[name], found["pairs"], strict=True)
                for a, b in zip(one, other, strict=True)
            ),
        }
        for name in WAYS
    }


def main(words: list[str] | None = None) -> int:
    """Measure and print; returns the exit code, 1 if two ways disagree."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vllm_options", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--n", type=int, default=100, help="stories")
    parser.add_argument("--repeats", type=int, default=3, help="rounds in which all take turns")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args(words)
    if min(options.n, options.repeats) < 1:
        parser.error("--n and --repeats must be at least 1")
    print(describe_machine())
    results = measure(options.n, options.repeats)
    for name, each in results.items():
        share = each["per_second"] / results["pairs"]["per_second"]
        print(f"{name:>7} {each['per_second']:>7.2f} stories/s, {share:.2f} of pairs, off by {each['gap']:.1e} nats")
    write_json(options.json, {"vllm_options": results})
    return 0 if all(each["gap"] <= TOLERANCE for each in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
