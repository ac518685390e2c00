"""One training step of TRL's SFTTrainer on batches whose labels are given, so that its loss is over the same tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from adapters.method import Features

__all__ = ["TrlStep", "has_trl"]


def has_trl() -> bool:
    """Return whether TRL is installed."""
    try:
        import trl  # noqa: F401
    except ImportError:
        return False
    return True


class TrlStep:
    """Forward and backward pass of SFTTrainer, as its own training loop calls them.

    Args:
        model: of transformers; SFTTrainer changes its forward pass.
        tokenizer: its own.
        rows: one batch.
    """

    def __init__(self, model: Any, tokenizer: Any, rows: Sequence[Features]) -> None:
        import torch
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        labels = [
            [token if weight else -100 for token, weight in zip(row.ids, row.weights, strict=True)] for row in rows
        ]
        data = Dataset.from_dict({"input_ids": [list(row.ids) for row in rows], "labels": labels})
        with tempfile.TemporaryDirectory() as folder:
            settings = SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=len(rows),
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                report_to=[],
                max_length=None,
                disable_tqdm=True,
                logging_steps=10**9,
            )
            self._trainer = SFTTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
        self._trainer.current_gradient_accumulation_steps = 1
        self._batch = next(iter(self._trainer.get_train_dataloader()))
        self._count = (self._batch["labels"][:, 1:] != -100).sum()

    def __call__(self) -> float:
        """Add up the gradients; return the loss."""
        trainer = self._trainer
        return float(trainer.training_step(trainer.model, dict(self._batch), self._count))
