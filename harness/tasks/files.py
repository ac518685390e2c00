"""Tasks from files: JSON lines with question, options and answer, and text in the manner of bAbI."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.extract import OPTION_EXTRACTION, extract_option
from harness.task import Example, Extraction
from stepgame.errors import InputError, did_you_mean
from stepgame.stories import is_text

__all__ = ["Babi", "FileTask", "JsonLines", "hash_of_examples"]

_FIELDS = ("id", "story", "context", "question", "options", "answer", "k_hop", "group")
_NUMBERED = re.compile(r"(\d+) (.*)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class FileTask:
    """Questions from files; what a line means is the subclass's.

    Args:
        file: a file, or several.

    Raises:
        InputError: if one cannot be read; with the file, the line and the field.
    """

    name = ""
    prompt = "question"
    extraction = OPTION_EXTRACTION
    generator_version = None

    def __init__(self, *, file: str | Path | Sequence[str | Path]) -> None:
        files = [file] if isinstance(file, str | Path) else list(file)
        # Absolute, so that a run can be resumed from anywhere.
        self._files = [str(Path(each).absolute()) for each in files]
        self.examples: Sequence[Example] = _unique(self._read(Path(each)) for each in self._files)
        if not self.examples:
            raise InputError(f"{', '.join(self._files)}: no questions to ask")

    def _read(self, path: Path) -> Iterator[Example]:
        raise NotImplementedError

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Keyword arguments that make this task again."""
        return {"file": self._files}

    @property
    def data_sha256(self) -> str:
        """Hash of the questions, options and answers, in order."""
        return hash_of_examples(self.examples)

    def training(self, per_hop: int, hops: Sequence[int] | None = None) -> Sequence[Example]:
        """Refuse: a file has no training split.

        Raises:
            InputError: always.
        """
        raise InputError(
            "data from a file has no training split, which this model or prompt needs; "
            "give examples for a prompt by --few-shot-data FILE"
        )

    def extract(self, text: str, example: Example) -> Extraction:
        """Read one of the example's options out of free text."""
        return extract_option(text, example.options)


class JsonLines(FileTask):
    """One JSON object a line.

    Fields: ``question``; ``options``, a list of texts; ``answer``, one of them or its place, counted from 0; and, as
    one likes, ``story`` or ``context`` (a text or a list of sentences), ``id``, and ``k_hop`` or ``group``, a whole
    number that accuracy is reported by.
    """

    name = "jsonl"

    def _read(self, path: Path) -> Iterator[Example]:
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: not valid JSON: {error}; expected one object a line") from None
            if not isinstance(row, dict):
                raise InputError(f"{where}: expected an object, got {type(row).__name__}")
            yield _example(where, row, f"{path.stem}-{number}")


class Babi(FileTask):
    """Numbered lines: a statement, or a question with its answer and the lines that support it, by tabs.

    A line with the number 1 begins a new story. The options are all answers of the files, sorted; the group is the
    number of supporting lines.
    """

    name = "babi"

    def __init__(self, *, file: str | Path | Sequence[str | Path]) -> None:
        super().__init__(file=file)
        options = tuple(sorted({each.gold for each in self.examples}))
        self.examples = [
            Example(each.id, each.story, each.question, options, each.gold, each.k_hop) for each in self.examples
        ]

    def _read(self, path: Path) -> Iterator[Example]:
        story: list[str] = []
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            match = _NUMBERED.fullmatch(line.rstrip())
            if match is None:
                raise InputError(f"{path}:{number}: expected a line number, a blank and a text, got {line[:60]!r}")
            if int(match[1]) == 1:
                story = []
            text, *rest = match[2].split("\t")
            if not rest:
                story.append(text.strip())
                continue
            if not rest[0].strip():
                raise InputError(f"{path}:{number}: the question has no answer behind the tab")
            support = len(rest[1].split()) if len(rest) > 1 else 0
            gold = rest[0].strip()
            yield Example(f"{path.stem}-{number}", tuple(story), text.strip(), (gold,), gold, support)


def hash_of_examples(examples: Sequence[Example], more: Sequence[Sequence[str]] | None = None) -> str:
    """Return a hash of questions, options and answers, in order.

    Args:
        examples: the questions.
        more: what else belongs to each.
    """
    digest = hashlib.sha256()
    for place, each in enumerate(examples):
        row = (each.id, each.story, each.question, each.options, each.gold, each.k_hop)
        digest.update(json.dumps(row if more is None else (*row, more[place])).encode() + b"\n")
    return digest.hexdigest()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise InputError(f"task file {str(path)!r} does not exist") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error}") from None


def _unique(files: Iterable[Iterator[Example]]) -> list[Example]:
    examples: dict[str, Example] = {}
    for file in files:
        for example in file:
            if example.id in examples:
                raise InputError(f"the id {example.id!r} occurs twice; ids must be unique in a run")
            examples[example.id] = example
    return list(examples.values())


def _example(where: str, row: Mapping[str, Any], name: str) -> Example:
    question = _field(where, row, "question", _text, "a text")
    options = _field(where, row, "options", _texts, "a list of at least two different texts")
    gold = _field(where, row, "answer", lambda value: _answer(value, options), f"one of {', '.join(options)}")
    key = "story" if "story" in row else "context"
    story = _field(where, row, key, _story, "a text or a list of texts") if row.get(key) is not None else ()
    key = "k_hop" if "k_hop" in row else "group"
    group = _field(where, row, key, _whole, "a whole number from 0") if row.get(key) is not None else 0
    found = row.get("id", name)
    return Example(str(found), story, question, options, gold, group)


def _field(where: str, row: Mapping[str, Any], key: str, read: Callable[[Any], Any], expected: str) -> Any:
    if key not in row:
        near = next((did_you_mean(each, [key]) and each for each in row if each not in _FIELDS), None)
        raise InputError(
            f"{where}: {key} is missing" + (f" ({near!r} is there)" if near else "") + f"; it is {expected}"
        )
    value = read(row[key])
    if value is None:
        raise InputError(f"{where}: {key} is {json.dumps(row[key])[:80]}; expected {expected}")
    return value


def _text(value: Any) -> str | None:
    return value if is_text(value) else None


def _texts(value: Any) -> tuple[str, ...] | None:
    good = isinstance(value, list) and all(_text(each) for each in value)
    return tuple(value) if good and len(value) > 1 and len(set(value)) == len(value) else None


def _answer(value: Any, options: Sequence[str]) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return options[value] if 0 <= value < len(options) else None
    return value if value in options else None


def _story(value: Any) -> tuple[str, ...] | None:
    if _maybe_blank(value):
        return tuple(filter(None, _SENTENCE_END.split(value.strip())))
    return tuple(value) if isinstance(value, list) and all(map(_maybe_blank, value)) else None


def _maybe_blank(value: Any) -> bool:
    return is_text(value) or (isinstance(value, str) and not value.strip())


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
