"""What decomposing a soft prompt saves: DePT against prompt tuning, ours and PEFT's, at equal parameters.

``python -m benchmarks.dept`` trains and asks with each rival in turns, in one process, on a model of T5-base's size
with random weights and on the built-in decoder, for inputs of 64 to 4096 tokens. Parameters are those of 100 rows; for
each m the rank r is the largest that fits them (Shi & Lipani 2024, section 2.2). Inputs fill their length, so that
nothing is padding. It prints a table, and writes CSV and PNG where told to. It runs unchanged on a GPU. On a CPU it
takes one thread and counts processor time, so that other work on the machine does not show.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.dept.config import SoftPromptConfig, plan
from adapters.dept.model import SoftPromptModel
from adapters.dept.soft_prompt import TrainedPrompt
from benchmarks.measure import clock_of_torch, describe_machine
from harness.models.builtin import builtin_folder, quiet_transformers
from stepgame.errors import InputError, require, unknown_name

__all__ = ["RIVALS", "Rival", "measure"]

BUDGET = 100
"""Rows of the vanilla prompt whose parameters every rival has."""
SPLITS = (80, 60, 40, 20)
"""Rows that DePT keeps; the rest of the budget is its low-rank pair."""
ANSWER = 8
"""Tokens of an answer."""
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
MODELS = ("t5-base", "smollm2")
RIVALS = ("pt", "peft", *(f"dept-{rows}" for rows in SPLITS))


@dataclass
class Rival:
    """One way to train and ask.

    Attributes:
        name: of `RIVALS`.
        rows: m.
        rank: r.
        loss: computes the loss of one batch.
        infer: reads one batch without gradients.
        parameters: that are trained.
        step_s: seconds of each round's training step.
        infer_s: seconds of each round's reading.
        memory: bytes, see `peak_memory`.
    """

    name: str
    rows: int
    rank: int
    loss: Callable[[], Tensor]
    infer: Callable[[], object]
    parameters: list[Any]
    step_s: list[float] = field(default_factory=list)
    infer_s: list[float] = field(default_factory=list)
    memory: int = 0

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """Take one training step."""
        optimiser.zero_grad(set_to_none=True)
        self.loss().backward()
        optimiser.step()


def load_base(name: str, device: str) -> Any:
    """Return a model in float32 on a CPU, in bfloat16 on a GPU."""
    from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

    quiet_transformers()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if name == "smollm2":
        return AutoModelForCausalLM.from_pretrained(str(builtin_folder()[0]), dtype=dtype).to(device)
    torch.manual_seed(0)
    # The sizes of T5-base; its library has no such configuration by name without the hub.
    config = T5Config(
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_layers=12,
        num_heads=12,
        decoder_start_token_id=0,
        pad_token_id=0,
        dropout_rate=0.0,
    )
    return T5ForConditionalGeneration(config).to(device, dtype)


def make_batch(model: Any, size: int, length: int) -> dict[str, Tensor]:
    """Return random tokens: prompts of a length, each with an answer."""
    generator = torch.Generator().manual_seed(length)
    limit = model.config.vocab_size
    prompts = torch.randint(10, limit, (size, length), generator=generator).to(model.device)
    answers = torch.randint(10, limit, (size, ANSWER), generator=generator).to(model.device)
    if model.config.is_encoder_decoder:
        mask = torch.ones_like(prompts)
        return {
            "input_ids": prompts,
            "attention_mask": mask,
            "labels": answers,
            "label_weights": torch.ones(answers.shape, device=model.device),
        }
    ids = torch.cat([prompts, answers], dim=1)
    weights = torch.zeros(ids.shape, device=model.device)
    weights[:, length:] = 1
    count = torch.full((size,), length, device=model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "weights": weights, "prompt": count}


def ours(name: str, model: Any, batch: dict[str, Tensor], rows: int, rank: int, length: int) -> Rival:
    """Return a soft prompt of this project; vanilla where the rank is 0."""
    offset = "position" if rank else "none"
    width = model.get_input_embeddings().weight.shape[1]
    soft = TrainedPrompt(SoftPromptConfig(prompt_length=rows, rank=rank, max_length=length, offset=offset), width)
    soft.start_from(model.get_input_embeddings().weight, None, torch.Generator().manual_seed(0))
    module = SoftPromptModel(model, soft.to(model.device))
    reading = {
        **batch,
        "input_ids": batch["input_ids"][:, :length],
        "attention_mask": batch["attention_mask"][:, :length],
    }
    return Rival(name, rows, rank, lambda: module(batch), lambda: _read(module, reading), list(soft.parameters()))


def _read(module: SoftPromptModel, batch: dict[str, Tensor]) -> object:
    settings: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 0}
    return module.generate(batch["input_ids"], batch["attention_mask"], **settings)


def theirs(model: Any, batch: dict[str, Tensor], length: int) -> Rival:
    """Return PEFT's prompt tuning, asked in its own way: labels in, loss out."""
    peft: Any = require("peft", "train", "the peer")
    decoder = not model.config.is_encoder_decoder
    settings = {"num_virtual_tokens": BUDGET, "prompt_tuning_init": "RANDOM", "num_transformer_submodules": 1}
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM" if decoder else "SEQ_2_SEQ_LM", **settings)
    wrapped = peft.get_peft_model(model, config)
    labels = batch["input_ids"].masked_fill(batch["weights"] == 0, -100) if decoder else batch["labels"]
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    asked = {"input_ids": batch["input_ids"][:, :length], "attention_mask": batch["attention_mask"][:, :length]}
    parameters = [value for value in wrapped.parameters() if value.requires_grad]
    more: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 0}

    def infer() -> object:
        with torch.inference_mode():
            return wrapped.generate(**asked, **more)

    return Rival("peft", BUDGET, 0, lambda: wrapped(**given).loss, infer, parameters)


@contextmanager
def peak_memory(device: str) -> Iterator[list[int]]:
    """Measure a training step's memory; the list holds the bytes when the block has ended.

    On a GPU the peak of what is allocated, weights left out. On a CPU, which keeps no such account, what the forward
    pass keeps for the backward pass: the distinct storages that autograd saved, weights left out.
    """
    found: list[int] = []
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        torch.cuda.synchronize()
        found.append(torch.cuda.max_memory_allocated() - before)
        return
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and not tensor.is_leaf:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
    found.append(sum(kept.values()))


def measure(name: str, length: int, size: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Let all rivals take turns on one model and one length.

    Args:
        name: of `MODELS`.
        length: tokens of an input.
        size: rows of a batch.
        rounds: that are timed, after one that is not.
        device: ``cpu`` or ``cuda``.

    Returns:
        One mapping a rival, a row of the table; times are medians, ratios are to ``pt`` within a round.
    """
    clock = clock_of_torch()
    model = load_base(name, device)
    batch = make_batch(model, size, length)
    width = model.get_input_embeddings().weight.shape[1]
    rivals = [ours("pt", model, batch, BUDGET, 0, length)]
    for rows in SPLITS:
        _, rank = plan(BUDGET, length, width, prompt_length=rows)
        rivals.append(ours(f"dept-{rows}", model, batch, rows, rank, length))
    rivals.insert(1, theirs(model, batch, length))
    optimisers = [torch.optim.AdamW(rival.parameters, lr=1e-4) for rival in rivals]
    for turn in range(rounds + 1):
        for rival, optimiser in zip(rivals, optimisers, strict=True):
            if turn == 0:
                with peak_memory(device) as found:
                    rival.step(optimiser)
                rival.memory = found[0]
                rival.infer()
                continue
            rival.step_s.append(_timed(lambda rival=rival, optimiser=optimiser: rival.step(optimiser), clock))
            rival.infer_s.append(_timed(rival.infer, clock))
    return [_row(name, length, size, rival, rivals[0]) for rival in rivals]


def _timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started


def _row(name: str, length: int, size: int, rival: Rival, first: Rival) -> dict[str, Any]:
    ratios = [mine / base for mine, base in zip(rival.step_s, first.step_s, strict=True)]
    return {
        "model": name,
        "length": length,
        "batch": size,
        "rival": rival.name,
        "m": rival.rows,
        "r": rival.rank,
        "parameters": sum(value.numel() for value in rival.parameters),
        "step_s": round(statistics.median(rival.step_s), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "memory_mb": round(rival.memory / 2**20, 1),
        "memory_ratio": round(rival.memory / max(first.memory, 1), 3),
        "infer_tokens_per_s": round(size * length / statistics.median(rival.infer_s), 1),
    }


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw each rival's step time over the input's length, as a ratio to prompt tuning."""
    pyplot: Any = require("matplotlib.pyplot", "report", "the plot")
    names = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = pyplot.subplots(
        1, len(names), figsize=(5.5 * len(names), 4), squeeze=False, sharey=True, layout="constrained"
    )
    for place, name in enumerate(names):
        for rival in RIVALS:
            points = [row for row in rows if (row["model"], row["rival"]) == (name, rival)]
            axes[0][place].plot([row["length"] for row in points], [row["ratio"] for row in points], "o-", label=rival)
        axes[0][place].set_xscale("log", base=2)
        axes[0][place].set(title=name, xlabel="tokens of the input", ylabel="training step, as a ratio to pt")
    axes[0][0].legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dept", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="256 tokens only, three rounds")
    parser.add_argument("--models", default=",".join(MODELS), help="of t5-base and smollm2, by commas")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="tokens of an input, by commas")
    parser.add_argument("--batch-tokens", type=int, help="tokens of a batch (default: 512 on a CPU, 32768 on a GPU)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are timed")
    parser.add_argument("--csv", type=Path, help="write the table to this file too")
    parser.add_argument("--png", type=Path, help="draw it into this file")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    options = parse_arguments(words)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lengths = [256] if options.quick else [int(each) for each in options.lengths.split(",")]
    rounds = 3 if options.quick else options.rounds
    tokens = options.batch_tokens or (32768 if device == "cuda" else 512)
    for name in options.models.split(","):
        if name not in MODELS:
            raise unknown_name("model", name, MODELS)
    print(describe_machine(), torch.cuda.get_device_name() if device == "cuda" else f"torch {torch.__version__}")
    print(f"training step as a ratio to pt, {rounds} rounds in turns; parameters of {BUDGET} rows; answers of {ANSWER}")
    rows: list[dict[str, Any]] = []
    for name in options.models.split(","):
        for length in lengths:
            found = measure(name, length, max(1, tokens // length), rounds, device)
            rows += found
            for row in found:
                print(
                    f"{name:>8} s={length:<5} {row['rival']:>8} m={row['m']:<4} r={row['r']:<4} "
                    f"{row['step_s']:>8.3f} s  {row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})  "
                    f"memory {row['memory_mb']:>8.1f} MB {row['memory_ratio']:.2f}  "
                    f"reads {row['infer_tokens_per_s']:>9,.0f} tokens/s",
                    flush=True,
                )
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    if options.png:
        draw(options.png, rows)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
