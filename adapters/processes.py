"""The processes of one launch: how they wait and share, and how a model is spread over them, by PyTorch's FSDP2.

Spread are weights, gradients and the optimiser's state. Each of a model's blocks is gathered when it is computed and
let go of afterwards; what stands outside of the blocks (embeddings, output layer, a soft prompt) is one more unit.
Checkpoints hold whole tensors, so that they are the same files as those of a training that is not spread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from stepgame.errors import InputError, require

__all__ = [
    "check_launch",
    "gathered",
    "is_first",
    "join",
    "processes",
    "put_in",
    "shard",
    "sharded",
    "share",
    "spread_state",
    "wait",
    "whole",
    "whole_state",
]


def check_launch(wanted: bool) -> None:
    """Check that how this process was started fits whether its training is to be sharded.

    Args:
        wanted: whether it is.

    Raises:
        InputError: if it is, and there is no other process; or if accelerate is to shard.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise InputError(
            "accelerate's own FSDP does not fit these trainings; launch with adapters/launch/ddp.yaml, and give --shard"
        )
    if wanted and processes() < 2:
        raise InputError(
            "--shard spreads a model over the processes of one launch, and this is the only one; start several by "
            "`accelerate launch` or torchrun"
        )


def processes() -> int:
    """Return how many processes the launch has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def join(device: torch.device) -> None:
    """Join the processes of the launch, as accelerate does for the Trainer later.

    Args:
        device: what they work on.
    """
    if processes() > 1:
        state: Any = require("accelerate.state", "train", "training")
        state.PartialState(cpu=device.type == "cpu")


def wait() -> None:
    """Wait until every process of the launch is here."""
    if processes() > 1:
        torch.distributed.barrier()


def share(work: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any], module: Any) -> list[Any]:
    """Do work on items, each process its share of them; every process gets all results, in order.

    Args:
        work: gives a result for each item, by calling parts of the module.
        items: the same on every process.
        module: where it is spread, every process does all of the work, because each pass is one of all processes.
    """
    count = processes()
    if count == 1 or sharded(module):
        with gathered(module):
            return work(items)
    rank = int(os.environ["RANK"])
    parts: list[Any] = [None] * count
    torch.distributed.all_gather_object(parts, work(items[rank::count]))
    return [parts[place % count][place // count] for place in range(len(items))]


def shard(module: nn.Module, model: Any, device: torch.device) -> None:
    """Spread a module over the processes, in place; its parameters are other objects afterwards.

    Args:
        module: what is trained; the same on every process.
        model: of transformers, in it; says which modules are its blocks.
        device: where this process's share goes.

    Raises:
        InputError: if the model does not say what its blocks are.
    """
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    found = [each for each in module.modules() if type(each).__name__ in blocks]
    if not found:
        raise InputError(f"--shard: transformers does not say what the blocks of {type(model).__name__} are")
    join(device)
    mesh = init_device_mesh(device.type, (processes(),))
    for block in found:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    # Buffers are not spread.
    module.to(device)


def sharded(module: Any) -> bool:
    """Return whether a module is spread over processes."""
    return isinstance(module, FSDPModule)


@contextmanager
def gathered(module: Any) -> Iterator[None]:
    """Gather what stands outside of the blocks, so that parts of the module can be called by themselves.

    Every process must be inside, and call the same parts.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def whole(value: Tensor, *, keep: bool = True) -> Tensor:
    """Return a tensor that may be spread as a whole one on the CPU; every process must ask for it.

    Args:
        value: the tensor.
        keep: whether this process wants it; it is given an empty one otherwise.
    """
    found = value.full_tensor() if isinstance(value, DTensor) else value
    return found.detach().cpu().contiguous() if keep else value.new_empty(0)


def whole_state(state: Any, *, keep: bool) -> Any:
    """Return an optimiser's state with whole tensors; see `whole`."""
    if isinstance(state, Tensor):
        return whole(state, keep=keep)
    if isinstance(state, Mapping):
        return {key: whole_state(value, keep=keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [whole_state(value, keep=keep) for value in state]
    return state


def put_in(place: Tensor, value: Tensor) -> Tensor:
    """Return a whole tensor in the form of another, which may be spread; no process waits for another."""
    if isinstance(place, DTensor):
        moved = value.to(place.device)
        return distribute_tensor(moved, place.device_mesh, place.placements, src_data_rank=None)
    return value


def spread_state(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Return an optimiser's state of whole tensors in the form that its parameters have here."""
    entries = {
        number: {
            name: put_in(parameters[number], value) if _like(value, parameters[number]) else value
            for name, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}


def _like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape
