"""Serving a soft prompt: prompts as embeddings against token prompts of the same total length, in vLLM.

``python -m benchmarks.serve`` prints, for generation and for the scoring of nine options, the rate with a DePT adapter
over that of plain tokens, where each token prompt has as many tokens as the soft prompt's rows and the prompt together.
Two engines are loaded in one process and take turns; a third rival sends the tokens to the engine that takes embeddings
too, so that what the engine itself loses by taking them is seen apart. Loading is not timed, prefix caches and kept
embeddings are dropped before every round, and the rates are by the wall clock: vLLM works in processes of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured, describe_machine, take_turns, write_json
from harness.models.base import Failure, Prompt, Sampling
from harness.models.builtin import BUILTIN, builtin_folder
from harness.models.registry import parse_model
from harness.prompts import load_prompt
from harness.tasks.stepgame import StepGame
from stepgame.errors import InputError, StepGameError

__all__ = ["measure_serving"]

REACH = 512
TOKENS = 16
"""Written in answer to each prompt."""
SETTINGS = {"max_model_len": "1024", "kv_cache_memory_bytes": "1G"}

Send = Callable[..., dict[str, Any]]


def write_soft_prompt(folder: Path, rows: int, rank: int) -> None:
    """Write a DePT adapter that was never trained; what it says has no bearing on how long it takes."""
    import torch

    from adapters.dept.config import SoftPromptConfig
    from adapters.dept.soft_prompt import FILE, TrainedPrompt
    from adapters.store import write_adapter
    from harness.models.vllm_adapters import token_table

    source, digest = builtin_folder()
    table = token_table(str(source))
    config = SoftPromptConfig(prompt_length=rows, rank=rank, max_length=REACH, offset="position")
    soft = TrainedPrompt(config, table.shape[1])
    soft.start_from(table, None, torch.Generator().manual_seed(0))
    soft.save(folder / FILE)
    base = {"spec": BUILTIN, "content_hash": digest}
    write_adapter(folder, kind="soft-prompt", method="dept", config=config.record(), base=base, files=[FILE])


def rival(model: Any, prompts: Sequence[Prompt], verb: str, send: Send | None) -> Callable[[], object]:
    """Return the work of one rival: every prompt once, with nothing left over from the round before.

    Args:
        model: a `VLLMModel`.
        prompts: asked.
        verb: ``"generate"`` or ``"choose"``.
        send: what the engine is given for a prompt, in the place of the model's own way; None for that.
    """
    options = [prompt.example.options for prompt in prompts]

    def work() -> object:
        model.llm.reset_prefix_cache()
        if model._soft is not None:
            model._soft._kept.clear()
        own = model._engine_prompt
        if send is not None:
            model._engine_prompt = send
        try:
            if verb == "choose":
                replies = model.choose(prompts, options)
            else:
                replies = model.generate(prompts, Sampling(max_tokens=TOKENS))
        finally:
            model._engine_prompt = own
        failed = next((reply for reply in replies if isinstance(reply, Failure)), None)
        if failed is not None:
            raise StepGameError(failed.error)
        return replies

    return work


def measure_serving(count: int, rows: int, rank: int, rounds: int) -> dict[str, dict[str, Measured]]:
    """Measure prompts a second.

    Args:
        count: prompts of a round.
        rows: of the soft prompt, m.
        rank: of its offsets, r.
        rounds: how often each rival works.

    Returns:
        For each of ``generate`` and ``choose``: the rates with the soft prompt (``dept``), of tokens on an engine
        that takes no embeddings (``tokens``) and on the one that does (``tokens there``).
    """
    from harness.models.vllm import VLLMModel

    with tempfile.TemporaryDirectory() as place:
        write_soft_prompt(Path(place), rows, rank)
        soft = VLLMModel.load(parse_model(f"vllm:{BUILTIN}", args=SETTINGS, adapter=place), lambda _: [])
    plain = VLLMModel.load(parse_model(f"vllm:{BUILTIN}", args=SETTINGS), lambda _: [])
    task = StepGame(hops="1-5", per_hop=-(-count // 5), noise=True)

    def tokens(ids: Sequence[int], path: Sequence[int] = ()) -> dict[str, Any]:
        return {"prompt_token_ids": [*range(100, 100 + rows), *ids, *path]}

    found = {}
    try:
        for verb, score in (("generate", "generate"), ("choose", "choice")):
            prompts = [load_prompt("zero-shot", score).render(each) for each in task.examples[:count]]
            works = {
                "dept": rival(soft, prompts, verb, None),
                "tokens": rival(plain, prompts, verb, tokens),
                "tokens there": rival(soft, prompts, verb, tokens),
            }
            for work in works.values():
                work()
            rivals = {name: (len(prompts), work) for name, work in works.items()}
            found[verb] = take_turns(rivals, rounds, time.perf_counter)
    finally:
        soft.close()
        plain.close()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.serve", description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="prompts of a round [100]")
    parser.add_argument("--rows", type=int, default=40, help="rows of the soft prompt [40]")
    parser.add_argument("--rank", type=int, default=45, help="rank of its offsets [45]")
    parser.add_argument("--repeats", type=int, default=5, help="how often each rival works [5]")
    parser.add_argument("--quick", action="store_true", help="20 prompts, 2 rounds")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args(arguments)
    count, rounds = (20, 2) if args.quick else (args.n, args.repeats)
    try:
        if min(count, args.rows, args.rank, rounds) < 1:
            raise InputError("--n, --rows, --rank and --repeats must be at least 1")
        found = measure_serving(count, args.rows, args.rank, rounds)
    except StepGameError as error:
        print(f"benchmarks.serve: error: {error}", file=sys.stderr)
        return 2
    print(f"{describe_machine()}\n{count} prompts, m = {args.rows}, r = {args.rank}, {rounds} rounds")
    print(f"{'':<10}{'dept /s':>10}{'tokens /s':>11}{'there /s':>10}   dept over tokens, median (range)")
    for verb, by in found.items():
        ratio = by["dept"].over(by["tokens"])
        rates = f"{by['dept'].rate:>10.2f}{by['tokens'].rate:>11.2f}{by['tokens there'].rate:>10.2f}"
        print(f"{verb:<10}{rates}   {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")
    write_json(args.json, {verb: {name: asdict(each) for name, each in by.items()} for verb, by in found.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
