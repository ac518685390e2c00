"""Instruction modelling against instruction tuning: time and peak memory of a training step on the same batch.

``python -m benchmarks.im`` lets these take turns, on one model:

- ``it`` and ``im`` as this project trains them, which computes logits only where there is a loss;
- both in the usual way, with logits everywhere and labels of -100 where there is no loss;
- both by TRL's SFTTrainer with the same labels, where TRL is installed.

A step is forward pass, backward pass and AdamW with a learning rate of 0, so that the weights stay as they are. The
losses of the three are printed and must agree. Memory is the peak above what the process held before the step: weights
and AdamW's moments are no part of it, gradients, activations and logits are. Time on a CPU is the processor's, of one
thread.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured, Ratio, clock_of_torch, describe_machine, write_json
from benchmarks.memory import peak_of_process
from benchmarks.peers.trl_sft import TrlStep, has_trl

__all__ = ["measure_im"]

Step = Callable[[], float]
COMPARED = (
    ("im", "it"),
    ("im", "it, logits everywhere"),
    ("im, logits everywhere", "it, logits everywhere"),
    ("im, TRL", "it, TRL"),
    ("im", "im, logits everywhere"),
    ("im", "im, TRL"),
    ("it", "it, TRL"),
)


def make_batch(name: str, base: Any, tokenizer: Any, args: argparse.Namespace) -> list[Any]:
    """Return one batch of StepGame stories as a method weighs it."""
    from adapters.data import load_data
    from adapters.methods import make_method
    from adapters.prepare import prepare
    from adapters.settings import TrainSettings

    settings = TrainSettings(model=args.model, hops=args.hops, n=args.batch, noise=True, validation=0)
    return prepare(make_method(name, {}), tokenizer, load_data(settings).training, base, None).rows


def our_step(module: Any, rows: Sequence[Any]) -> Step:
    """Return a step of the project's own trainer."""
    from transformers import TrainingArguments

    from adapters.method import Group
    from adapters.trainer import AdapterTrainer, MicroBatches

    batches = MicroBatches(10**9, 0)
    with tempfile.TemporaryDirectory() as folder:
        import torch

        trainer = AdapterTrainer(
            model=module,
            args=TrainingArguments(output_dir=folder, report_to=[], use_cpu=not torch.cuda.is_available()),
            train_dataset=rows,
            groups=[Group(list(module.parameters()), 1e-9)],
            batches=batches,
            score=lambda: None,
        )
    batch = batches(rows)
    return lambda: float(trainer.training_step(module, batch))


def usual_step(model: Any, rows: Sequence[Any]) -> Step:
    """Return a step with the logits of all positions, as transformers computes a loss."""
    import torch

    from adapters.trainer import MicroBatches

    batch = MicroBatches(10**9, 0).tensors(rows)
    ids, mask = batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device)
    labels = torch.where(batch["weights"].to(model.device) != 0, ids, -100)

    def step() -> float:
        model.train()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        return float(loss.detach())

    return step


def load_models(model: str, count: int) -> tuple[Any, Any, list[Any]]:
    """Return what the model is, its tokenizer, and copies of it that share their weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from adapters.describe import describe_model, load_fast_tokenizer
    from harness.models.registry import parse_model

    request = parse_model(model)
    base = describe_model(request)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first = AutoModelForCausalLM.from_pretrained(base.source, dtype=torch.float32).to(device)
    copies = [first]
    for _ in range(count - 1):
        other = AutoModelForCausalLM.from_config(base.config, dtype=torch.float32)
        other.load_state_dict(first.state_dict(), assign=True)
        other.tie_weights()
        copies.append(other)
    return base, load_fast_tokenizer(request), copies


def whole_step(step: Step, optimizer: Any) -> Callable[[], float]:
    """Return the step with the optimiser's behind it."""

    def run() -> float:
        loss = step()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return run


def peak(work: Callable[[], object]) -> float | None:
    """Return by how many MiB a call raised the memory in use at its peak; None where that cannot be known."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not (reset.exists() and status.exists()):
        return None
    ctypes.CDLL(None).malloc_trim(0)
    # 5 sets the peak back to what is in use now.
    reset.write_text("5", encoding="ascii")
    before_host = peak_of_process()
    work()
    return peak_of_process() - before_host


def measure_im(args: argparse.Namespace) -> dict[str, Any]:
    """Time all rivals in turns.

    Args:
        args: of `parse_arguments`.

    Returns:
        By rival the seconds of a step (median), MiB and loss; and the compared pairs' ratios of time and memory.
    """
    import torch

    from adapters.causal import CausalModule

    clock = clock_of_torch()
    with_trl = not args.no_trl and has_trl()
    base, tokenizer, (model, *others) = load_models(args.model, 2 if with_trl else 1)
    module = CausalModule(model)
    rows = {name: make_batch(name, base, tokenizer, args) for name in ("it", "im")}
    steps: dict[str, tuple[Step, Any]] = {name: (our_step(module, rows[name]), model) for name in rows}
    steps |= {f"{name}, logits everywhere": (usual_step(model, rows[name]), model) for name in rows}
    if with_trl:
        steps |= {f"{name}, TRL": (TrlStep(others[0], tokenizer, rows[name]), others[0]) for name in rows}
    optimizers = {id(each): torch.optim.AdamW(each.parameters(), lr=0.0, weight_decay=0.0) for each in (model, *others)}
    runs = {name: whole_step(step, optimizers[id(held)]) for name, (step, held) in steps.items()}
    # The first step of each warms it up, and makes the moments.
    losses = {name: run() for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    memory: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            took: list[float] = []

            def timed(run: Callable[[], float] = run, took: list[float] = took) -> None:
                started = clock()
                run()
                took.append(clock() - started)

            used = peak(timed)
            seconds[name] += took
            memory[name].append(float("nan") if used is None else used)
    rates = {name: Measured(1, tuple(1 / each for each in taken)) for name, taken in seconds.items()}
    ratios = {
        f"{ours} / {theirs}": {
            "time": asdict(rates[theirs].over(rates[ours])),
            "memory": statistics.median(memory[ours]) / statistics.median(memory[theirs]),
            "loss_difference": abs(losses[ours] - losses[theirs]),
        }
        for ours, theirs in COMPARED
        if ours in rates and theirs in rates
    }
    per_rival = {
        name: {"seconds": 1 / rates[name].rate, "mib": statistics.median(memory[name]), "loss": losses[name]}
        for name in runs
    }
    tokens = sum(len(row.ids) for row in rows["im"])
    return {"model": args.model, "batch": args.batch, "tokens": tokens, "rivals": per_rival, "ratios": ratios}


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.im", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="smollm2", help="model spec")
    parser.add_argument("--hops", default="5", help="chain lengths of the stories")
    parser.add_argument("--batch", type=int, default=8, help="stories of a step")
    parser.add_argument("--rounds", type=int, default=5, help="how often all take turns")
    parser.add_argument("--quick", action="store_true", help="a smaller batch and fewer rounds")
    parser.add_argument("--no-trl", action="store_true", help="leave TRL out although it is installed")
    parser.add_argument("--json", type=Path, help="write the results there too")
    args = parser.parse_args(words)
    if args.quick:
        args.batch, args.rounds = min(args.batch, 4), min(args.rounds, 3)
    return args


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    args = parse_arguments(words)
    print(f"{describe_machine()}")
    if not has_trl():
        print("TRL is not installed, so it is left out; benchmarks/README.md says how to add it")
    results = measure_im(args)
    print(f"{args.model}, {args.batch} stories of k = {args.hops}, {results['tokens']} tokens, {args.rounds} rounds\n")
    print(f"{'':<24}{'seconds':>9}{'MiB':>9}{'loss':>10}")
    for name, each in results["rivals"].items():
        print(f"{name:<24}{each['seconds']:>9.3f}{each['mib']:>9.0f}{each['loss']:>10.5f}")
    print(f"\n{'step of one / of the other':<44}{'time':>24}{'memory':>9}")
    for pair, each in results["ratios"].items():
        time_ratio = Ratio(**each["time"])
        shown = f"{time_ratio.median:.3f} ({time_ratio.low:.3f} to {time_ratio.high:.3f})"
        print(f"{pair:<44}{shown:>24}{each['memory']:>9.3f}")
    write_json(args.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
