"""What models are trained on: conversations that end in an answer, from StepGame, tasks and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.models.base import Message
from harness.progress import say
from harness.prompts import PromptTemplate
from harness.task import Example
from stepgame.errors import InputError

__all__ = ["ROLES", "TrainingExample", "data_hash", "from_examples", "read_chat", "read_record", "read_records"]

ROLES = ("system", "user", "assistant")

_ANSWERS = ("answer", "completion", "response", "output")
_PROMPTS = ("prompt", "instruction")
_SPEAKERS = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One conversation to learn from.

    Attributes:
        id: unique within its data; names the example in messages.
        messages: the turns; the last one is the assistant's.
        cue: what stands before an answer, for models without a chat template.
        asked: the question it was made from, where its answer is one of several options.
    """

    id: str
    messages: tuple[Message, ...]
    cue: str = ""
    asked: Example | None = None


def from_examples(examples: Sequence[Example], template: PromptTemplate) -> list[TrainingExample]:
    """Turn a task's examples into conversations, in the words that the harness asks them in.

    For option scoring the answer is the option itself; for generation it is the form that the prompt asks for.
    """
    found = []
    for example in examples:
        prompt = template.render(example)
        text = example.gold if template.score == "choice" else f"Answer: {example.gold}"
        messages = (*prompt.messages, Message("assistant", text))
        found.append(TrainingExample(example.id, messages, prompt.cue, example if example.options else None))
    return found


def read_chat(path: str | Path, *, skip_bad: bool = False) -> list[TrainingExample]:
    """Read conversations from JSON lines.

    A line holds ``messages``, a list of objects with ``role`` and ``content``; or a ``prompt`` (or ``instruction``,
    with an optional ``input``) and an ``answer`` (or ``completion``, ``response``, ``output``), with an optional
    ``system``; or ``conversations``, messages with ``from`` (human, gpt, system) and ``value``. An ``id`` is optional.

    Args:
        path: of the file.
        skip_bad: leave out lines that cannot be read, and say how many, instead of stopping at the first.

    Raises:
        InputError: naming the line and what was expected there; or if no line is left.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"data file {str(path)!r} does not exist")
    try:
        # Not splitlines: JSON may hold other separators of lines as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    return read_records(str(path), _numbered(path, lines), _parsed, skip_bad=skip_bad)


def read_records(
    source: str,
    numbered: Iterable[tuple[str, Any, str]],
    parse: Callable[[str, Any], Any] = lambda _, record: record,
    *,
    skip_bad: bool = False,
) -> list[TrainingExample]:
    """Read conversations one after the other; see `read_chat`.

    Args:
        source: where they are from, for messages.
        numbered: place, record and name of each.
        parse: from place and record to a mapping.
        skip_bad: see `read_chat`.

    Raises:
        InputError: likewise.
    """
    found, bad = [], []
    for where, record, name in numbered:
        try:
            found.append(read_record(where, parse(where, record), name))
        except InputError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
    if bad:
        say(f"{len(bad)} of {len(bad) + len(found)} examples of {source} are left out by --skip-bad; first: {bad[0]}")
    if not found:
        raise InputError(f"{source} holds no examples")
    return found


def read_record(where: str, record: Any, name: str) -> TrainingExample:
    """Read one conversation; see `read_chat` for its forms.

    Args:
        where: the place it is from, for messages.
        record: a mapping.
        name: its id, where it has none.

    Raises:
        InputError: if it is no conversation, or one with nothing to learn.
    """
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected an object with messages, or with prompt and answer")
    identifier = str(record.get("id", name))
    if record.get("messages") is not None:
        return TrainingExample(identifier, _messages(where, record["messages"]))
    if record.get("conversations") is not None:
        return TrainingExample(identifier, _messages(where, _renamed(record["conversations"])))
    prompt = _first(record, _PROMPTS)
    answer = _first(record, _ANSWERS)
    if prompt is None or answer is None:
        has = ", ".join(map(repr, record)) or "nothing"
        raise InputError(f"{where}: expected messages, or prompt and answer; it has {has}")
    more = record.get("input")
    text = f"{prompt}\n\n{more}" if isinstance(more, str) and more.strip() else prompt
    system = record.get("system")
    first = [Message("system", system)] if isinstance(system, str) and system.strip() else []
    return TrainingExample(identifier, _checked(where, [*first, Message("user", text), Message("assistant", answer)]))


def data_hash(examples: Sequence[TrainingExample]) -> str:
    """Return a hash of what is learnt from: the conversations, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        turns = [[message.role, message.content] for message in example.messages]
        digest.update(json.dumps([turns, example.cue]).encode() + b"\n")
    return digest.hexdigest()


def _numbered(path: Path, lines: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}, line {number}", line, f"{path.name}:{number}"


def _parsed(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None


def _renamed(turns: Any) -> Any:
    """Return turns with ``from`` and ``value`` as turns with ``role`` and ``content``."""
    if not isinstance(turns, list):
        return turns
    return [
        {"role": _SPEAKERS.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")}
        if isinstance(turn, dict)
        else turn
        for turn in turns
    ]


def _messages(where: str, turns: Any) -> tuple[Message, ...]:
    if not isinstance(turns, list) or not turns:
        raise InputError(f"{where}: messages must be a list of turns, and not empty")
    found = []
    for place, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise InputError(f"{where}, turn {place + 1}: expected an object with role and content")
        role = turn.get("role")
        if role not in ROLES:
            raise InputError(f"{where}, turn {place + 1}: unknown role {role!r}; expected {', '.join(ROLES)}")
        found.append(Message(role, turn["content"]))
    # What follows the last answer cannot be learnt from.
    while found and found[-1].role != "assistant":
        found.pop()
    return _checked(where, found)


def _checked(where: str, messages: Sequence[Message]) -> tuple[Message, ...]:
    if not messages:
        raise InputError(f"{where}: no turn of the assistant's, so there is nothing to learn")
    for place, message in enumerate(messages):
        if not message.content.strip():
            raise InputError(f"{where}, turn {place + 1}: the {message.role}'s turn is empty")
    return tuple(messages)


def _first(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((record[name] for name in names if isinstance(record.get(name), str)), None)
