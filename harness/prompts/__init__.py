"""Prompts as data: one TOML file a prompt, with a version and a text for each way of scoring.

``README.md`` beside this file describes the format, for users who write their own.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.models.base import Message, Prompt
from harness.prompts.shots import Shots
from harness.prompts.working import WORKING_SLOTS, working
from harness.task import Example
from stepgame.errors import InputError, unknown_name

__all__ = ["READERS", "SCORES", "PromptTemplate", "Score", "known_prompts", "load_prompt"]

Score = Literal["choice", "generate"]
SCORES: tuple[Score, ...] = ("choice", "generate")
READERS = ("label", "facts")
"""How a reply to a prompt is read: as an answer in words, or as facts that the solver answers from."""

_FOLDER = Path(__file__).parent
_SLOT = re.compile(r"\{([a-z_]+)\}")
_SLOTS = ("story", "question", "options")
_TOP = {
    "name": str,
    "version": int,
    "description": str,
    "shots": int,
    "shots_mix": str,
    "choice": dict,
    "generate": dict,
}
_TEXTS = ("system", "intro", "user", "assistant", "cue", "reads")
_SETTINGS = {"max_tokens": int, "stop": list}


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """One prompt for one way of scoring.

    Attributes:
        name: as ``--prompt`` takes it.
        version: raised whenever a text changes.
        score: which of the file's tables this is.
        system: text of the system turn; empty for none.
        user: text of the user's turn, of the examples' too.
        cue: how a plain completion begins.
        intro: stands before the first user's turn, and only there; empty for none.
        assistant: the reply that an example shows; empty where the prompt takes no examples.
        reads: one of `READERS`.
        max_tokens: longest reply it is made for, in tokens; None for no wish. Not part of the prompt's identity,
            as the run's sampling records it; so for the next.
        stop: texts that end a reply.
        default_shots: how many examples it shows where nothing else is asked for; likewise for the next.
        default_mix: which ones; see `harness.prompts.shots.Shots`.
        shots: the examples; None for none.
    """

    name: str
    version: int
    score: Score
    system: str
    user: str
    cue: str
    intro: str = ""
    assistant: str = ""
    reads: str = "label"
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    default_shots: int = 0
    default_mix: str = "same"
    shots: Shots | None = None

    @property
    def text(self) -> dict[str, str]:
        """The texts, as the manifest records them; those that only some prompts have are left out of others."""
        some = {"intro": self.intro, "assistant": self.assistant, "reads": self.reads if self.reads != "label" else ""}
        always = {"system": self.system, "user": self.user, "cue": self.cue}
        return always | {key: text for key, text in some.items() if text}

    @property
    def sha256(self) -> str:
        """Hash of everything that decides what is asked, examples included."""
        record: dict[str, Any] = {"name": self.name, "version": self.version, "score": self.score, **self.text}
        if self.shots is not None:
            record["shots"] = self.shots.record()
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """Return which prompt it is, as manifests name it."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}

    @property
    def needs_working(self) -> bool:
        """Whether an example's reply is worked out from its story, so that the story must be one that can be read."""
        return any(slot in WORKING_SLOTS for slot in _SLOT.findall(self.assistant))

    def render(self, example: Example) -> Prompt:
        """Return the prompt that asks an example.

        Raises:
            InputError: if there are too few worked examples that are not alike to it.
        """
        turns: list[Message] = []
        for shown in () if self.shots is None else self.shots.before(example):
            turns += [Message("user", _fill(self.user, _values(shown))), Message("assistant", self._reply(shown))]
        values = _values(example)
        turns.append(Message("user", _fill(self.user, values)))
        if self.intro:
            turns[0] = Message("user", f"{_fill(self.intro, values)}\n\n{turns[0].content}")
        system = _fill(self.system, values)
        return Prompt((*([Message("system", system)] if system else []), *turns), self.cue, example)

    def _reply(self, example: Example) -> str:
        values = {**_values(example), "answer": example.gold}
        return _fill(self.assistant, values | working(example) if self.needs_working else values)


def known_prompts() -> list[str]:
    """Return the names of the prompts that come with the harness."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_prompt(name: str, score: str) -> PromptTemplate:
    """Return a prompt, without examples.

    Args:
        name: one of `known_prompts`, or the path of a TOML file.
        score: ``"choice"`` or ``"generate"``.

    Raises:
        InputError: if there is no such prompt or scoring, or the file is not as described in ``README.md``.
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


def _values(example: Example) -> dict[str, str]:
    return {
        "story": " ".join(example.story),
        "question": example.question,
        "options": ", ".join(example.options),
    }


def _fill(text: str, values: Mapping[str, str]) -> str:
    # One pass, so that braces inside a story are never taken for a slot.
    return _SLOT.sub(lambda slot: values[slot[1]], text).strip()


def _read(path: Path, score: str) -> PromptTemplate:
    where = f"prompt file {path.name}"
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: not valid TOML: {error}") from None
    for key, value in data.items():
        _check_type(where, key, value, _TOP)
    missing = [key for key in ("name", "version") if key not in data]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing")
    if score not in data:
        has = [each for each in SCORES if each in data]
        raise InputError(
            f"prompt {data['name']!r} has no [{score}] table; use --score {' or '.join(has) or '(none given)'}"
        )
    if data.get("shots", 0) < 0:
        raise InputError(f"{where}: shots must be 0 or more, got {data['shots']}")
    chosen: Score = "choice" if score == "choice" else "generate"
    table = data[score]
    texts = _texts(f"{where}, [{score}]", table)
    return PromptTemplate(
        data["name"],
        data["version"],
        chosen,
        texts["system"],
        texts["user"],
        texts["cue"],
        texts["intro"],
        texts["assistant"],
        texts["reads"],
        max_tokens=table.get("max_tokens"),
        stop=tuple(table.get("stop", ())),
        default_shots=data.get("shots", 0),
        default_mix=data.get("shots_mix", "same"),
    )


def _check_type(where: str, key: str, value: Any, known: Mapping[str, type]) -> None:
    if key not in known:
        raise InputError(f"{where}: {unknown_name('key', key, known)}")
    if not isinstance(value, known[key]) or isinstance(value, bool):
        raise InputError(f"{where}: {key} must be of type {known[key].__name__}")


def _texts(where: str, table: dict[str, Any]) -> dict[str, str]:
    """Return a table's texts, checked together with its other settings."""
    for key, value in table.items():
        _check_type(where, key, value, _SETTINGS | dict.fromkeys(_TEXTS, str))
        if key in _SETTINGS:
            continue
        allowed = (*_SLOTS, "answer", *WORKING_SLOTS) if key == "assistant" else _SLOTS if key != "cue" else ()
        for slot in _SLOT.findall(value):
            if slot not in allowed:
                raise InputError(f"{where}: {key} has {unknown_name('slot', slot, allowed)}")
    if table.get("max_tokens", 1) < 1:
        raise InputError(f"{where}: max_tokens must be at least 1, got {table['max_tokens']}")
    if not all(isinstance(text, str) and text for text in table.get("stop", ())):
        raise InputError(f"{where}: stop must be a list of texts, none of them empty")
    if table.get("reads", "label") not in READERS:
        raise InputError(f"{where}: {unknown_name('reader', table['reads'], READERS)}")
    if not table.get("user", "").strip():
        raise InputError(f"{where}: user is missing or empty")
    return {key: table.get(key, "label" if key == "reads" else "").strip() for key in _TEXTS}
