"""Phrase banks: sentence patterns as data, loaded, checked and rendered.

A bank is a TOML file with a ``name``, a ``version``, a ``question`` pattern and one list of patterns for each
of the eight directions under ``[phrases]``. A pattern names both agents as ``{head}`` and ``{tail}``, in any
order and as often as it likes, and says the relation that head has to tail.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from stepgame.errors import InputError, unknown_name
from stepgame.relations import DIRECTIONS, NAMES, Relation

__all__ = ["HEAD", "TAIL", "Bank", "Phrase", "builtin_banks", "load_bank", "split_slots"]

HEAD, TAIL = "{head}", "{tail}"
_SLOT = re.compile(r"(\{[^{}]*\})")


@dataclass(frozen=True, slots=True)
class Phrase:
    """One sentence pattern and where it stands in its bank.

    Attributes:
        relation: what head is to tail.
        index: place among the relation's patterns, from 0.
        pattern: text with the slots ``{head}`` and ``{tail}``.
    """

    relation: Relation
    index: int
    pattern: str

    @property
    def name(self) -> str:
        """The phrase's name in data files, for instance ``"upper-left/3"``."""
        return f"{self.relation.label}/{self.index}"

    def render(self, head: str, tail: str) -> str:
        """Return the sentence for these two agents."""
        return _render(self.pattern, head, tail)


@dataclass(frozen=True, slots=True)
class Bank:
    """A loaded phrase bank.

    Attributes:
        name: what stories generated from it carry in their ids.
        version: raised by the bank's author when phrases change.
        question: pattern of the question, asking where head is as seen from tail.
        phrases: for each of the nine relations by code, its patterns; none for overlap.
        sha256: hash of the file's bytes.
    """

    name: str
    version: int
    question: str
    phrases: tuple[tuple[Phrase, ...], ...]
    sha256: str

    def __iter__(self) -> Iterator[Phrase]:
        """Iterate over all phrases, relation by relation."""
        return (phrase for group in self.phrases for phrase in group)

    def __len__(self) -> int:
        """Return the number of phrases."""
        return sum(len(group) for group in self.phrases)

    def ask(self, head: str, tail: str) -> str:
        """Return the question where ``head`` is as seen from ``tail``."""
        return _render(self.question, head, tail)


def split_slots(pattern: str) -> tuple[str, ...]:
    """Cut a pattern at its slots, which stay in it as ``{head}`` and ``{tail}``."""
    return tuple(piece for piece in _SLOT.split(pattern) if piece)


def _render(pattern: str, head: str, tail: str) -> str:
    return pattern.replace(HEAD, head).replace(TAIL, tail)


def builtin_banks() -> tuple[str, ...]:
    """Return the names of the banks that come with the package."""
    files = resources.files("stepgame").joinpath("banks").iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(".toml")))


def _fail(where: str, problem: str) -> InputError:
    return InputError(f"phrase bank {where}: {problem}")


def _check_pattern(where: str, owner: str, pattern: object) -> str:
    if not isinstance(pattern, str):
        raise _fail(where, f"{owner}: {pattern!r} is not text; expected a sentence with {HEAD} and {TAIL}")
    for slot in _SLOT.findall(pattern):
        if slot not in (HEAD, TAIL):
            raise _fail(where, f"{owner}: unknown slot {slot} in {pattern!r}; the slots are {HEAD} and {TAIL}")
    for slot in (HEAD, TAIL):
        if slot not in pattern:
            raise _fail(where, f"{owner}: {pattern!r} does not name {slot}")
    if "\n" in pattern or "\r" in pattern or pattern != pattern.strip():
        raise _fail(where, f"{owner}: {pattern!r} must be one line without blanks at its ends")
    return pattern


def _parse(raw: bytes, where: str) -> Bank:
    try:
        data = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _fail(where, f"not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise _fail(where, f"not valid TOML: {error}") from None
    name, version, table = data.get("name"), data.get("version"), data.get("phrases")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]+", name):
        raise _fail(where, f"name is {name!r}; expected lower-case letters, digits and underscores")
    if not isinstance(version, int) or isinstance(version, bool):
        raise _fail(where, f"version is {version!r}; expected a whole number")
    if not isinstance(table, dict):
        raise _fail(where, "no [phrases] table; expected one list of patterns for each direction")
    for relation in table:
        if relation not in NAMES or relation == Relation.OVERLAP.label:
            raise _fail(where, str(unknown_name("direction", relation, [d.label for d in DIRECTIONS])))
    phrases: list[tuple[Phrase, ...]] = []
    for relation in Relation:
        patterns = table.get(relation.label, [])
        if relation != Relation.OVERLAP and (not isinstance(patterns, list) or not patterns):
            raise _fail(where, f"{relation.label}: expected a list with at least one pattern")
        group = [_check_pattern(where, f"{relation.label}/{i}", p) for i, p in enumerate(patterns)]
        phrases.append(tuple(Phrase(relation, i, pattern) for i, pattern in enumerate(group)))
    question = _check_pattern(where, "question", data.get("question"))
    return Bank(name, version, question, tuple(phrases), hashlib.sha256(raw).hexdigest())


@lru_cache(maxsize=32)
def _load_builtin(name: str) -> Bank:
    return _parse(resources.files("stepgame").joinpath("banks", f"{name}.toml").read_bytes(), name)


def load_bank(name: str | Path) -> Bank:
    """Load a bank by its name, or from a TOML file of your own.

    Args:
        name: one of `builtin_banks`, or a path (anything with a slash or the suffix ``.toml``).

    Raises:
        InputError: if there is no such bank, or the file is not a well-formed one.
    """
    text = str(name)
    if text in builtin_banks():
        return _load_builtin(text)
    path = Path(text)
    if path.suffix == ".toml" or "/" in text or isinstance(name, Path):
        try:
            return _parse(path.read_bytes(), text)
        except OSError as error:
            raise _fail(text, f"cannot be read: {error.strerror}") from None
    raise unknown_name("phrase bank", text, builtin_banks())
