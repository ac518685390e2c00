"""Change a model: soft prompts, low-rank updates, all weights; trained by one path, served by transformers and vLLM.

The names below are loaded on first use, so that ``import adapters`` costs next to nothing and never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepgame.lazy import lazy_names

if TYPE_CHECKING:
    from adapters.api import load, train, train_pcp

__all__ = ["load", "train", "train_pcp"]

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "adapters.api"))
