"""StepGame: multi-hop spatial stories with true labels, read back, solved and audited.

The names below are loaded on first use, so that ``import stepgame`` costs next to nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from stepgame.lazy import lazy_names

if TYPE_CHECKING:
    from stepgame.audit import AuditReport, audit
    from stepgame.fix import fix
    from stepgame.formats import load
    from stepgame.generate import generate
    from stepgame.read import read_question, read_sentence
    from stepgame.relations import Relation
    from stepgame.solve import Answer, solve
    from stepgame.stories import Stories

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AuditReport",
    "Relation",
    "Stories",
    "__version__",
    "audit",
    "fix",
    "generate",
    "load",
    "read_question",
    "read_sentence",
    "solve",
]

_HOMES = {
    "Answer": "stepgame.solve",
    "AuditReport": "stepgame.audit",
    "audit": "stepgame.audit",
    "fix": "stepgame.fix",
    "Relation": "stepgame.relations",
    "Stories": "stepgame.stories",
    "generate": "stepgame.generate",
    "load": "stepgame.formats",
    "read_question": "stepgame.read",
    "read_sentence": "stepgame.read",
    "solve": "stepgame.solve",
}


class _Package(ModuleType):
    """Keeps ``stepgame.generate`` and ``stepgame.solve`` the functions.

    Importing the submodule of the same name would set the package's attribute to the module.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


__getattr__, __dir__ = lazy_names(__name__, _HOMES)


sys.modules[__name__].__class__ = _Package
