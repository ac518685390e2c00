"""The loop beneath every method: transformers' Trainer, with batches cut by tokens and a loss that does not notice.

What differs from the Trainer as it comes:

- A step's batch is cut into micro-batches of at most so many padded tokens, longest rows first. The gradient is that of
  the whole batch's weighted mean, over all processes, however it was cut.
- A loss that is not finite stops the training before the step is taken.
- Checkpoints hold the trainable tensors only, whole ones even where the module is spread over processes
  (`adapters.processes`).
- Validation is the loss over answers, whatever the training loss is over, and the accuracy by the harness's own option
  scoring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from adapters.method import Features, Group
from adapters.processes import gathered, put_in, sharded, spread_state, whole, whole_state
from stepgame.errors import InputError, StepGameError

__all__ = ["AdapterTrainer", "MicroBatches", "TrainingStoppedError", "put_trainable", "trainable"]

WEIGHTS = "trainable.safetensors"
PACKED = 1024
"""Tokens of a packed row, where no example is longer: attention is computed over the whole row, so that its cost grows
with the row's length although examples do not see each other."""


class TrainingStoppedError(StepGameError):
    """Training cannot go on; the last good checkpoint is kept."""


def trainable(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return the tensors that are trained, by name; shared ones once."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


class MicroBatches:
    """Puts features into padded tensors, cut so that each holds at most so many tokens.

    Args:
        micro_tokens: the bound; a single row may be longer.
        pad: id that fills rows up.
        encoder_decoder: whether prompt and answer go to different sides of the model.
        packing: whether rows are put behind one another as far as that leaves less padding. A step's batch holds the
            same examples either way.
    """

    def __init__(self, micro_tokens: int, pad: int, *, encoder_decoder: bool = False, packing: bool = False) -> None:
        self._bound = micro_tokens
        self._pad = pad
        self._split = encoder_decoder
        self._packing = packing

    def __call__(self, rows: Sequence[Features]) -> dict[str, Any]:
        """Return ``micro``, a list of batches, and ``weight``, the sum of the weights that count, as a scalar."""
        order: list[list[Features]] = [[row] for row in sorted(rows, key=lambda row: -len(row.ids))]
        if self._packing:
            order = sorted(self._packed(rows), key=lambda packed: -_length(packed))
        micro = []
        while order:
            count = max(1, self._bound // _length(order[0]))
            part = order[:count]
            micro.append(self._packed_tensors(part) if self._packing else self.tensors([row for (row,) in part]))
            order = order[count:]
        return {"micro": micro, "weight": torch.tensor(sum(math.fsum(row.weights[1:]) for row in rows))}

    def tensors(self, rows: Sequence[Features], *, response: bool = False) -> dict[str, Tensor]:
        """Return one padded batch; the weights are the validation's if ``response``."""
        weights = [row.response if response else row.weights for row in rows]
        if self._split:
            pairs = list(zip(rows, weights, strict=True))
            return {
                **self._padded("input_ids", [row.ids[: row.prompt] for row in rows], mask="attention_mask"),
                **self._padded("labels", [row.ids[row.prompt :] for row in rows]),
                "label_weights": _pad([each[row.prompt :] for row, each in pairs], 0.0),
            }
        return {
            **self._padded("input_ids", [row.ids for row in rows], mask="attention_mask"),
            "weights": _pad(weights, 0.0),
            "prompt": torch.tensor([row.prompt for row in rows]),
        }

    def _packed(self, rows: Sequence[Features]) -> list[list[Features]]:
        """Put rows behind one another, longest first, each where it fits first."""
        room = max(*(len(row.ids) for row in rows), min(self._bound, PACKED))
        packed: list[list[Features]] = []
        for row in sorted(rows, key=lambda row: -len(row.ids)):
            place = next((each for each in packed if _length(each) + len(row.ids) <= room), None)
            if place is None:
                packed.append([row])
            else:
                place.append(row)
        return packed

    def _packed_tensors(self, packed: Sequence[Sequence[Features]]) -> dict[str, Tensor]:
        """Return a batch without a mask: transformers keeps apart what its position ids say are different examples."""
        width = max(map(_length, packed))
        places = [[place for row in each for place in range(len(row.ids))] for each in packed]
        return {
            **self._padded("input_ids", [[token for row in each for token in row.ids] for each in packed]),
            # Padding is an example of its own.
            "position_ids": torch.tensor([[*each, *range(width - len(each))] for each in places]),
            "weights": _pad([[value for row in each for value in (0.0, *row.weights[1:])] for each in packed], 0.0),
        }

    def _padded(self, name: str, rows: Sequence[Sequence[int]], mask: str | None = None) -> dict[str, Tensor]:
        made = {name: _pad(rows, self._pad)}
        if mask is not None:
            made[mask] = _pad([[1] * len(row) for row in rows], 0)
        return made


def _length(packed: Sequence[Features]) -> int:
    return sum(len(row.ids) for row in packed)


def _pad(rows: Sequence[Sequence[Any]], value: Any) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


class AdapterTrainer(Trainer):
    """Transformers' Trainer over `MicroBatches`.

    Args:
        groups: the trainable parameters by learning rate.
        batches: makes tensors of features.
        score: asks the validation questions; returns the accuracy, or None where there is nothing to ask.
        sample: training examples on which the validation's loss is measured too.
        settings: of Trainer.
    """

    def __init__(
        self,
        *,
        groups: Sequence[Group],
        batches: MicroBatches,
        score: Callable[[], float | None],
        sample: Sequence[Features] = (),
        **settings: Any,
    ) -> None:
        self._groups = groups
        self._batches = batches
        self._score = score
        self._sample = sample
        super().__init__(data_collator=batches, **settings)
        if self._spread:
            # The Trainer's own mark of models that nobody may wrap or move; it is made for those that it spread itself.
            if not hasattr(self, "is_distributed_loading_by_transformers"):
                raise InputError("--shard needs a newer transformers; the one here would wrap the model again")
            self.is_distributed_loading_by_transformers = True

    @property
    def _spread(self) -> bool:
        return sharded(self.model)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW over the method's groups."""
        if self.optimizer is None:
            groups = [{"params": list(group.parameters), "lr": group.lr} for group in self._groups]
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = torch.optim.AdamW(
                groups, betas=betas, eps=self.args.adam_epsilon, weight_decay=self.args.weight_decay
            )
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Add up the gradient of one step's batch; return its loss."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        accelerator = self.accelerator
        # Gradients are averaged over processes, so each one's share of the weighted mean counts that many times.
        processes = accelerator.num_processes
        weight = accelerator.reduce(inputs["weight"].to(accelerator.device, torch.float64), "sum").clamp(min=1e-12)
        micro = [(batch, 1.0) for batch in inputs["micro"]]
        if self._spread:
            # Each pass through a spread module is one of all processes, also of those whose batch is in fewer pieces.
            most = int(accelerator.gather(torch.tensor([len(micro)], device=accelerator.device)).max())
            micro = [(micro[0][0], 0.0)] * (most - len(micro)) + micro
        total = torch.zeros((), device=accelerator.device)
        for place, (batch, counts) in enumerate(micro):
            last = place == len(micro) - 1
            with nullcontext() if last else accelerator.no_sync(model), self.compute_loss_context_manager():
                loss = model(batch) * (counts * processes / weight).to(torch.float32)
                self._check(loss)
                accelerator.backward(loss)
            total += loss.detach()
        return total

    def _check(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            step = self.state.global_step + 1
            kept = max((int(path.name.partition("-")[2]) for path in self._checkpoints()), default=None)
            after = "there is no checkpoint yet" if kept is None else f"the checkpoint of step {kept} is kept"
            raise TrainingStoppedError(
                f"the loss of step {step} is not a finite number; {after}; try a lower --lr, a longer --warmup or "
                "--dtype float32"
            )

    def _checkpoints(self) -> list[Path]:
        return list(Path(str(self.args.output_dir)).glob("checkpoint-*"))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the loss over answers, of the validation and of some training examples, and the accuracy, if any."""
        rows: Any = self.eval_dataset
        metrics = {"eval_loss": self.validation_loss(rows)}
        if self._sample:
            metrics["eval_train_loss"] = self.validation_loss(self._sample)
        with gathered(self.model):
            accuracy = self._score()
        if accuracy is not None:
            metrics["eval_accuracy"] = accuracy
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def validation_loss(self, rows: Sequence[Features]) -> float:
        """Return the mean negative log-likelihood of an answer's token."""
        module: Any = self.model
        module.eval()
        order = sorted(rows, key=lambda row: -len(row.ids))
        total, weight = 0.0, 0.0
        for start in range(0, len(order), self.args.per_device_train_batch_size):
            part = order[start : start + self.args.per_device_train_batch_size]
            batch = self._prepare_inputs(self._batches.tensors(part, response=True))
            with self.compute_loss_context_manager():
                total += float(module(batch))
            weight += sum(math.fsum(row.response[1:]) for row in part)
        return total / max(weight, 1e-12)

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        folder, keep = Path(output_dir or str(self.args.output_dir)), self.args.should_save
        state = {name: whole(value, keep=keep) for name, value in _state(_module(self)).items()}
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(state, folder / WEIGHTS)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._spread:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        state = whole_state(optimizer.state_dict(), keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._spread or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        state, steps = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        optimizer.load_state_dict(spread_state(state, parameters))
        scheduler.load_state_dict(steps)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_trainable(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self.load_trainable(Path(self.state.best_model_checkpoint))

    def load_trainable(self, folder: Path) -> None:
        """Put a checkpoint's tensors into the module."""
        put_trainable(_module(self), folder)


@torch.no_grad()
def put_trainable(module: Any, folder: Path) -> None:
    """Put a checkpoint's tensors into a module."""
    values = load_file(folder / WEIGHTS)
    for name, tensor in _state(module).items():
        tensor.copy_(put_in(tensor, values[name]))


def _module(trainer: Trainer) -> Any:
    return trainer.accelerator.unwrap_model(trainer.model)


def _state(module: Any) -> dict[str, Tensor]:
    """Return what a checkpoint holds: what is trained, and the buffers that a module says its training goes on with."""
    return {**trainable(module), **{name: getattr(module, name) for name in getattr(module, "kept", ())}}
