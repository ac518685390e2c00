"""StepGame: multi-hop spatial stories with true labels, read back, solved and audited.

The names below are loaded on first use, so that ``import stepgame`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepgame.formats import load
    from stepgame.generate import generate
    from stepgame.read import read_question, read_sentence
    from stepgame.relations import Relation
    from stepgame.solve import Answer, solve
    from stepgame.stories import Stories

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Relation",
    "Stories",
    "__version__",
    "generate",
    "load",
    "read_question",
    "read_sentence",
    "solve",
]

_HOMES = {
    "Answer": "stepgame.solve",
    "Relation": "stepgame.relations",
    "Stories": "stepgame.stories",
    "generate": "stepgame.generate",
    "load": "stepgame.formats",
    "read_question": "stepgame.read",
    "read_sentence": "stepgame.read",
    "solve": "stepgame.solve",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stepgame' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    # A submodule may carry the same name (stepgame.solve); the public name is the function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
