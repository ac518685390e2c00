"""Generation and evaluation on a Ray cluster of this machine with one worker and with two, against none.

``python -m benchmarks.ray_scaling`` prints stories and questions a second, and what two workers give over one. Every
worker has one core; starting the cluster and loading models is not counted, as it is paid once.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import describe_machine, write_json
from harness.asking import Asked, OneModel, Replicas
from harness.models.registry import load_model, parse_model
from harness.prompts import load_prompt
from harness.replicas import ReplicaPool
from harness.tasks import make_task
from stepgame.cluster import BlockMaker
from stepgame.errors import require
from stepgame.generate import Recipe, stream

__all__ = ["measure"]


def measure(workers: int, stories: int, per_hop: int, model: str) -> dict[str, float]:
    """Return stories and questions a second.

    Args:
        workers: of the cluster, a core each; 0 for this process without one.
        stories: made of each k.
        per_hop: questions of each k that are asked.
        model: a model spec.
    """
    recipe = Recipe((5, 10), stories, noise=True)
    examples = make_task("stepgame", {"hops": "1-3", "per_hop": per_hop, "noise": True}).examples
    prompts = [load_prompt("zero-shot", "choice").render(each) for each in examples]
    request = parse_model(model, device="cpu")
    if not workers:
        return {
            "stories": _stories(recipe, {}),
            "questions": _questions(OneModel(load_model(request, lambda _: ())), prompts),
        }
    ray: Any = require("ray", "ray", "this benchmark")
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        maker = BlockMaker(ray)
        made = _stories(recipe, {"submit": maker, "ahead": maker.ahead})
        return {"stories": made, "questions": _questions(ReplicaPool(ray, Replicas("ray", workers), request), prompts)}
    finally:
        ray.shutdown()


def _stories(recipe: Recipe, settings: dict[str, Any]) -> float:
    # Once for the processes to start and compile.
    list(stream(recipe, **settings))
    start = time.perf_counter()
    made = sum(len(part) for part in stream(recipe, **settings))
    return made / (time.perf_counter() - start)


def _questions(asked: Asked, prompts: Any) -> float:
    start = time.perf_counter()
    answered = sum(len(batch) for batch, _ in asked.answers(prompts, None))
    return answered / (time.perf_counter() - start)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=200_000)
    parser.add_argument("--per-hop", type=int, default=64)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {workers: measure(workers, given.stories, given.per_hop, given.model) for workers in (0, 1, 2)}
    for workers, rates in found.items():
        print(f"{workers} workers: {rates['stories']:,.0f} stories/s, {rates['questions']:.2f} questions/s")
    for kind in ("stories", "questions"):
        print(f"two workers over one, {kind}: {found[2][kind] / found[1][kind]:.2f}x")
    if given.json is not None:
        write_json(given.json, {"machine": describe_machine(), "rates": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
