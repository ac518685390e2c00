"""The loop beneath every method: transformers' Trainer, with batches cut by tokens and a loss that does not notice.

What differs from the Trainer as it comes:

- A step's batch is cut into micro-batches of at most so many padded tokens, longest rows first. The gradient is that of
  the whole batch's weighted mean, over all processes, however it was cut.
- A loss that is not finite stops the training before the step is taken.
- Checkpoints hold the trainable tensors only.
- Validation is the loss over answers, and the accuracy by the harness's own option scoring.
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

from adapters.method import Features, Group
from stepgame.errors import StepGameError

__all__ = ["AdapterTrainer", "MicroBatches", "TrainingStoppedError", "trainable"]

WEIGHTS = "trainable.safetensors"


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
    """

    def __init__(self, micro_tokens: int, pad: int, *, encoder_decoder: bool = False) -> None:
        self._bound = micro_tokens
        self._pad = pad
        self._split = encoder_decoder

    def __call__(self, rows: Sequence[Features]) -> dict[str, Any]:
        """Return ``micro``, a list of batches, and ``weight``, the sum of the weights that count, as a scalar."""
        order = sorted(rows, key=lambda row: -len(row.ids))
        micro = []
        while order:
            count = max(1, self._bound // len(order[0].ids))
            micro.append(self.tensors(order[:count]))
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

    def _padded(self, name: str, rows: Sequence[Sequence[int]], mask: str | None = None) -> dict[str, Tensor]:
        made = {name: _pad(rows, self._pad)}
        if mask is not None:
            made[mask] = _pad([[1] * len(row) for row in rows], 0)
        return made


def _pad(rows: Sequence[Sequence[Any]], value: Any) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


class AdapterTrainer(Trainer):
    """Transformers' Trainer over `MicroBatches`.

    Args:
        groups: the trainable parameters by learning rate.
        batches: makes tensors of features.
        score: asks the validation questions; returns the accuracy, or None where there is nothing to ask.
        settings: of Trainer.
    """

    def __init__(
        self,
        *,
        groups: Sequence[Group],
        batches: MicroBatches,
        score: Callable[[], float | None],
        **settings: Any,
    ) -> None:
        self._groups = groups
        self._batches = batches
        self._score = score
        super().__init__(data_collator=batches, **settings)

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
        micro = inputs["micro"]
        total = torch.zeros((), device=accelerator.device)
        for place, batch in enumerate(micro):
            last = place == len(micro) - 1
            with nullcontext() if last else accelerator.no_sync(model), self.compute_loss_context_manager():
                loss = model(batch) * (processes / weight).to(torch.float32)
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
        """Return the validation's loss over answers and its accuracy, as far as there is either."""
        metrics: dict[str, float] = {}
        rows: Any = self.eval_dataset
        if rows:
            metrics["eval_loss"] = self.validation_loss(rows)
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
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in trainable(_module(self)).items()}
        save_file(state, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_trainable(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self.load_trainable(Path(self.state.best_model_checkpoint))

    @torch.no_grad()
    def load_trainable(self, folder: Path) -> None:
        """Put a checkpoint's tensors into the module."""
        values = load_file(folder / WEIGHTS)
        for name, parameter in trainable(_module(self)).items():
            parameter.copy_(values[name])


def _module(trainer: Trainer) -> Any:
    return trainer.accelerator.unwrap_model(trainer.model)
