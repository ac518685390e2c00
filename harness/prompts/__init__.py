"""Prompts as data: one TOML file a prompt, with a version and a text for each way of scoring.

A file has ``name``, ``version``, ``description`` and a table ``[choice]``, ``[generate]`` or both, each with ``user``
(required), ``system`` and ``cue``, the words that begin a plain completion where a model has no chat template. In
the texts, ``{story}``, ``{question}`` and ``{options}`` stand for the example; any other name in braces is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.models.base import Message, Prompt
from harness.task import Example
from stepgame.errors import InputError, unknown_name

__all__ = ["SCORES", "PromptTemplate", "Score", "known_prompts", "load_prompt"]

Score = Literal["choice", "generate"]
SCORES: tuple[Score, ...] = ("choice", "generate")

_FOLDER = Path(__file__).parent
_SLOT = re.compile(r"\{([a-z_]+)\}")
_SLOTS = ("story", "question", "options")
_TOP = {"name": str, "version": int, "description": str, "choice": dict, "generate": dict}
_TEXTS = ("system", "user", "cue")


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """One prompt for one way of scoring.

    Attributes:
        name: as ``--prompt`` takes it.
        version: raised whenever a text changes.
        score: which of the file's tables this is.
        system: text of the system turn; empty for none.
        user: text of the user's turn.
        cue: how a plain completion begins.
    """

    name: str
    version: int
    score: Score
    system: str
    user: str
    cue: str

    @property
    def text(self) -> dict[str, str]:
        """The texts, as the manifest records them."""
        return {"system": self.system, "user": self.user, "cue": self.cue}

    @property
    def sha256(self) -> str:
        """Hash of everything that decides what is asked."""
        record = {"name": self.name, "version": self.version, "score": self.score, **self.text}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

    def render(self, example: Example) -> Prompt:
        """Return the prompt that asks an example."""
        values = {
            "story": " ".join(example.story),
            "question": example.question,
            "options": ", ".join(example.options),
        }
        # One pass, so that braces inside a story are never taken for a slot.
        filled = [_SLOT.sub(lambda slot: values[slot[1]], text) for text in (self.system, self.user)]
        system = (Message("system", filled[0]),) if filled[0] else ()
        return Prompt((*system, Message("user", filled[1])), self.cue, example)


def known_prompts() -> list[str]:
    """Return the names of the prompts that come with the harness."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_prompt(name: str, score: str) -> PromptTemplate:
    """Return a prompt.

    Args:
        name: one of `known_prompts`, or the path of a TOML file.
        score: ``"choice"`` or ``"generate"``.

    Raises:
        InputError: if there is no such prompt or scoring, or the file is not as described in this module.
    """
    if score not in SCORES:
        raise unknown_name("scoring", score, SCORES)
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"prompt file {name!r} does not exist")
    else:
        if name not in known_prompts():
            raise unknown_name("prompt", name, known_prompts())
        path = _FOLDER / f"{name}.toml"
    return _read(path, score)


def _read(path: Path, score: str) -> PromptTemplate:
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"prompt file {path.name}: not valid TOML: {error}") from None
    for key, value in data.items():
        if key not in _TOP:
            raise InputError(f"prompt file {path.name}: {unknown_name('key', key, _TOP)}")
        if not isinstance(value, _TOP[key]):
            raise InputError(f"prompt file {path.name}: {key} must be of type {_TOP[key].__name__}")
    missing = [key for key in ("name", "version") if key not in data]
    if missing:
        raise InputError(f"prompt file {path.name}: {missing[0]} is missing")
    if score not in data:
        has = [each for each in SCORES if each in data]
        raise InputError(
            f"prompt {data['name']!r} has no [{score}] table; use --score {' or '.join(has) or '(none given)'}"
        )
    texts = _texts(path, score, data[score])
    chosen: Score = "choice" if score == "choice" else "generate"
    return PromptTemplate(data["name"], data["version"], chosen, texts["system"], texts["user"], texts["cue"])


def _texts(path: Path, score: str, table: dict[str, Any]) -> dict[str, str]:
    where = f"prompt file {path.name}, [{score}]"
    for key, text in table.items():
        if key not in _TEXTS:
            raise InputError(f"{where}: {unknown_name('key', key, _TEXTS)}")
        if not isinstance(text, str):
            raise InputError(f"{where}: {key} must be a text")
        for slot in _SLOT.findall(text):
            if slot not in _SLOTS:
                raise InputError(f"{where}: {key} has {unknown_name('slot', slot, _SLOTS)}")
    if not table.get("user", "").strip():
        raise InputError(f"{where}: user is missing or empty")
    return {key: table.get(key, "").strip() for key in _TEXTS}
