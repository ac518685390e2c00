"""Change a model: soft prompts, low-rank updates, all weights; trained by one path, served by transformers and vLLM.

The names below are loaded on first use, so that ``import adapters`` costs next to nothing and never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.api import load, train

__all__ = ["load", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'adapters' has no attribute {name!r}")
    value = getattr(importlib.import_module("adapters.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
