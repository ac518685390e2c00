"""The modules that the stages train: a gap filled with a label word, masked texts, a classification head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters.pcp.rows import IGNORED
from harness.models.positions import PositionReader

__all__ = ["ClassifierModule", "GapModule", "MaskedModule", "MatchModule"]


class MaskedModule(nn.Module):
    """A masked language model, trained on the tokens that were masked.

    Args:
        model: of transformers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._read = PositionReader(model)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the targets' negative log-likelihoods, a float32 scalar.

        Args:
            batch: ``input_ids``, ``attention_mask`` and ``targets``, [B, T] each; and ``token_type_ids`` for pairs.
        """
        chosen = batch["targets"] != IGNORED
        more = {key: batch[key] for key in ("token_type_ids",) if key in batch}
        logits = self._read(batch["input_ids"], batch["attention_mask"], chosen, **more)
        return functional.cross_entropy(logits.float(), batch["targets"][chosen], reduction="sum")


class GapModule(nn.Module):
    """A language model, trained to prefer the right label word at one position of a text.

    The loss is over the label words alone, as in prompt-based fine-tuning with few examples (Schick & Schuetze 2021).

    Args:
        model: of transformers; a masked language model, or a decoder, whose position is the prompt's last one.
        words: the first and only token of each label word.
    """

    words: Tensor

    def __init__(self, model: Any, words: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self._read = PositionReader(model)
        self.register_buffer("words", torch.tensor(words, device=model.device), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the classes' negative log-likelihoods, a float32 scalar; see `MaskedModule`."""
        classes = batch["targets"][batch["targets"] != IGNORED]
        return functional.cross_entropy(self.logits(batch), classes, reduction="sum")

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the score of each class at the position that has a target, float32 [B, C]."""
        chosen = batch["targets"] != IGNORED
        scores = self._read(batch["input_ids"], batch["attention_mask"], chosen)
        return scores[:, self.words].float()


class ClassifierModule(nn.Module):
    """A model with a classification head.

    Args:
        model: of transformers, for sequence classification.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the classes' negative log-likelihoods, a float32 scalar; see `MaskedModule`."""
        classes = batch["targets"][batch["targets"] != IGNORED]
        return functional.cross_entropy(self.logits(batch), classes, reduction="sum")

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the score of each class, float32 [B, C]."""
        given = {key: value for key, value in batch.items() if key != "targets"}
        scores: Tensor = self.model(**given).logits
        return scores.float()


class MatchModule(nn.Module):
    """Self-training over prompt-based fine-tuning: FixMatch (Sohn et al. 2020), or FlexMatch (Zhang et al. 2021).

    An unlabelled text gets the class that the model gives it, if it is sure enough; then its augmented form must get
    that class too. The loss is that of the labelled texts plus that of the unlabelled ones, each a mean over as many.

    Args:
        gap: the module for labelled texts.
        cutoff: probability from which the model is believed.
        unlabelled: how many unlabelled texts there are; with flex.
        flex: whether each class has a cut-off of its own: the cut-off times b / (2 - b), where b is how many texts the
            model is sure of in that class, as a share of those in the class where there are most (FlexMatch's convex
            mapping, with its warm-up: texts that it was never sure of count as a class).

    Attributes:
        learnt: for each unlabelled text the class that the model was last sure of, -1 for none, [N].
    """

    kept = ("learnt",)
    """Buffers that a training goes on with."""
    gap: GapModule
    learnt: Tensor

    def __init__(self, gap: GapModule, cutoff: float, unlabelled: int, *, flex: bool) -> None:
        super().__init__()
        self.gap = gap
        self._cutoff = cutoff
        self._flex = flex
        self.register_buffer("learnt", torch.full((unlabelled,), -1, device=gap.words.device))

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the sum of both losses over a batch, a float32 scalar.

        Args:
            batch: as `GapModule` has it; or ``labelled``, ``weak`` and ``strong``, batches of B texts each, and
                ``numbers`` [B], which the unlabelled ones are.
        """
        if "labelled" not in batch:
            plain: Tensor = self.gap(batch)
            return plain
        with torch.no_grad():
            sure, classes = self.gap.logits(batch["weak"]).softmax(-1).max(dim=-1)
        believed = sure >= self._cutoffs()[classes]
        if self._flex:
            certain = sure >= self._cutoff
            self.learnt[batch["numbers"][certain]] = classes[certain]
        losses = functional.cross_entropy(self.gap.logits(batch["strong"]), classes, reduction="none")
        labelled: Tensor = self.gap(batch["labelled"])
        return labelled + (losses * believed).sum()

    def _cutoffs(self) -> Tensor:
        """Return the cut-off of each class, [C]."""
        even = torch.full((len(self.gap.words),), self._cutoff, device=self.learnt.device)
        if not self._flex:
            return even
        counts = torch.bincount(self.learnt + 1, minlength=len(even) + 1).float()
        share = counts[1:] / counts.max().clamp(min=1)
        return even * share / (2 - share)
