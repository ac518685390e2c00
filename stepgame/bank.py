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
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path

from stepgame.errors import InputError, unknown_name
from stepgame.relations import DIRECTIONS, NAMES, Relation

__all__ = ["HEAD", "SELECTIONS", "TAIL", "Bank", "Phrase", "builtin_banks", "load_bank", "split_slots"]

HEAD, TAIL = "{head}", "{tail}"
SELECTIONS = ("all", "train", "heldout")
_FIFTH = 5
_SLOT = re.compile(r"(\{[^{}]*\})")
_QUOTED = re.compile(r"""(\"(?:[^"\\]|\\.)*\"|'[^']*')""")


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

    def select(self, phrases: str) -> Bank:
        """Return the bank with some of its phrases: ``"all"``, ``"train"`` or ``"heldout"``.

        Every fifth phrase of a relation is held out, by its place, so the cut never moves when phrases are appended.

        Raises:
            InputError: if there is no such selection, or the bank is too small to hold phrases out.
        """
        if phrases not in SELECTIONS:
            raise unknown_name("selection of phrases", phrases, SELECTIONS)
        if phrases == "all":
            return self
        heldout = phrases == "heldout"
        kept = tuple(tuple(p for p in group if (p.index % _FIFTH == _FIFTH - 1) == heldout) for group in self.phrases)
        if not all(kept[direction] for direction in DIRECTIONS):
            raise InputError(
                f"phrase bank {self.name!r} is too small to hold phrases out; it needs {_FIFTH} a direction"
            )
        return replace(self, phrases=kept)

    def texts(self) -> list[tuple[int, bool]]:
        """Number each phrase by what it says when its agents are taken in the order they are named.

        Returns:
            For each phrase in order, the number of its text and whether the tail is named first. Two phrases tell
            the same sentence of the same two agents exactly when these numbers are equal ("{head} lies left of
            {tail}." under left and "{tail} lies left of {head}." under right).
        """
        numbers: dict[str, int] = {}
        found = []
        for phrase in self:
            tail_first = phrase.pattern.index(TAIL) < phrase.pattern.index(HEAD)
            first, second = (TAIL, HEAD) if tail_first else (HEAD, TAIL)
            text = phrase.pattern.replace(first, "{0}").replace(second, "{1}")
            found.append((numbers.setdefault(text, len(numbers)), tail_first))
        return found

    def ask(self, head: str, tail: str) -> str:
        """Return the question where ``head`` is as seen from ``tail``."""
        return _render(self.question, head, tail)


def split_slots(pattern: str) -> tuple[str, ...]:
    """Cut a pattern at its slots: literal, slot, literal, ..., literal; literals may be empty."""
    return tuple(_SLOT.split(pattern))


def _render(pattern: str, head: str, tail: str) -> str:
    return pattern.replace(HEAD, head).replace(TAIL, tail)


def builtin_banks() -> tuple[str, ...]:
    """Return the names of the banks that come with the package."""
    files = resources.files("stepgame").joinpath("banks").iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(".toml")))


def _fail(where: str, problem: str) -> InputError:
    return InputError(f"phrase bank {where}: {problem}")


def _pattern_problem(pattern: object) -> str | None:
    """Say what is wrong with a pattern, if anything."""
    if not isinstance(pattern, str):
        return f"{pattern!r} is not text; expected a sentence with {HEAD} and {TAIL}"
    for slot in _SLOT.findall(pattern):
        if slot not in (HEAD, TAIL):
            return f"unknown slot {slot} in {pattern!r}; the slots are {HEAD} and {TAIL}"
    for slot in (HEAD, TAIL):
        if slot not in pattern:
            return f"{pattern!r} does not name {slot}"
    if "\n" in pattern or "\r" in pattern or pattern != pattern.strip():
        return f"{pattern!r} must be one line without blanks at its ends"
    return None


class _Lines:
    """Where a bank's patterns stand in its file; TOML itself does not tell."""

    def __init__(self, where: str, text: str) -> None:
        self.where = where
        self._lines = text.splitlines()

    def fail(self, relation: str, index: int, problem: str) -> InputError:
        """Build the error for the pattern ``index`` of ``relation``, with the line it stands on if it can be told."""
        start = next((n for n, line in enumerate(self._lines) if re.match(rf'\s*"?{relation}"?\s*=', line)), None)
        texts = [(n, t) for n, line in enumerate(self._lines[start:], start or 0) for t in _QUOTED.findall(line)]
        line = "" if start is None or index >= len(texts) else f"line {texts[index][0] + 1}: "
        return _fail(self.where, f"{line}{relation}/{index}: {problem}")


def _check_meaning(lines: _Lines, bank: Bank) -> None:
    """Hold every phrase to its one literal meaning, as the reader finds it by grammar.

    Two pairs of agents are tried, the second with the names the other way round in the alphabet.
    """
    # The reader knows no bank, and a bank is only as good as the reader says.
    from stepgame.read import Fact, UnreadableError, read_question, read_sentence

    meant: dict[str, Phrase] = {}
    for phrase in bank:
        for head, tail in (("A", "B"), ("Y", "X")):
            sentence = phrase.render(head, tail)
            told = Fact(head, phrase.relation, tail)
            place = phrase.relation.label, phrase.index
            twin = meant.setdefault(sentence, phrase)
            if twin.relation != phrase.relation:
                raise lines.fail(*place, f"{phrase.pattern!r} has the text of {twin.name}, with another relation")
            try:
                read = read_sentence(sentence)
            except UnreadableError as error:
                raise lines.fail(*place, f"{sentence!r} cannot be read back: {error.reason}") from None
            if read.canonical() != told.canonical():
                said = f"{read.head} {read.relation.label} of {read.tail}"
                raise lines.fail(*place, f"{sentence!r} says {said}, and stands under {phrase.relation.label}")
    try:
        asked = read_question(bank.ask("A", "B"))
    except UnreadableError as error:
        raise _fail(lines.where, f"question {bank.ask('A', 'B')!r} cannot be read: {error.reason}") from None
    if asked != ("A", "B"):
        raise _fail(lines.where, f"question {bank.ask('A', 'B')!r} asks where {asked[0]} is as seen from {asked[1]}")


def _parse(raw: bytes, where: str) -> Bank:
    try:
        text = raw.decode("utf-8")
        data = tomllib.loads(text)
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
    lines = _Lines(where, text)
    phrases: list[tuple[Phrase, ...]] = []
    for relation in Relation:
        patterns = table.get(relation.label, [])
        if relation != Relation.OVERLAP and (not isinstance(patterns, list) or not patterns):
            raise _fail(where, f"{relation.label}: expected a list with at least one pattern")
        for index, pattern in enumerate(patterns):
            if problem := _pattern_problem(pattern):
                raise lines.fail(relation.label, index, problem)
        phrases.append(tuple(Phrase(relation, i, pattern) for i, pattern in enumerate(patterns)))
    if problem := _pattern_problem(data.get("question")):
        raise _fail(where, f"question: {problem}")
    return Bank(name, version, str(data["question"]), tuple(phrases), hashlib.sha256(raw).hexdigest())


@lru_cache(maxsize=32)
def _load_builtin(name: str) -> Bank:
    return _parse(resources.files("stepgame").joinpath("banks", f"{name}.toml").read_bytes(), name)


@lru_cache(maxsize=32)
def _load_own(raw: bytes, where: str) -> Bank:
    bank = _parse(raw, where)
    _check_meaning(_Lines(where, raw.decode("utf-8")), bank)
    return bank


def load_bank(name: str | Path) -> Bank:
    """Load a bank by its name, or from a TOML file of your own.

    Args:
        name: one of `builtin_banks`, or a path (anything with a slash or the suffix ``.toml``).

    A file of your own is checked on loading: slots, directions, no text with two meanings, and that the reader
    reads every phrase back to its relation.

    Raises:
        InputError: if there is no such bank, or the file is not a good one; with the line.
    """
    text = str(name)
    if text in builtin_banks():
        return _load_builtin(text)
    path = Path(text)
    if path.suffix == ".toml" or "/" in text or isinstance(name, Path):
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise _fail(text, f"cannot be read: {error.strerror}") from None
        return _load_own(raw, text)
    raise unknown_name("phrase bank", text, builtin_banks())
