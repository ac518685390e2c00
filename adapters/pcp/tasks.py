"""The tasks that can be learnt from a few examples: templates and label words as data, checked when they are read."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from harness.models.base import MASK
from stepgame.errors import InputError, unknown_name

__all__ = ["STEPGAME", "ClozeTask", "known_tasks", "load_task", "parse_task"]

STEPGAME = "stepgame"
"""The task whose texts are stories that are made on the spot."""

_FILE = Path(__file__).with_name("tasks.toml")
_SLOT = re.compile(r"\{(\w*)\}")
_KEYS = {"name": str, "cloze": str, "causal": str, "words": dict, "fields": dict, "middle": float}
_FIELDS = ("a", "b", "label")


@dataclass(frozen=True, slots=True)
class ClozeTask:
    """A classification task asked as a gap in a text (Schick & Schuetze 2021).

    Attributes:
        name: of the task.
        words: the label words, one a class.
        labels: for each class, what the data call it.
        cloze: template for masked language models; empty if it has none.
        causal: template for decoders, without the mask, which is at its end; empty if it has none.
        pair: whether there are two texts.
        fields: columns of the data by ``a``, ``b`` and ``label``, where they are not to be guessed.
        middle: for labels that are numbers, where the second class begins; None for others.
    """

    name: str
    words: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    cloze: str
    causal: str
    pair: bool
    fields: Mapping[str, str] = field(default_factory=dict)
    middle: float | None = None

    def class_of(self, where: str, label: str) -> int:
        """Return the class that a label of the data means.

        Args:
            where: the place it is from, for messages.
            label: as the data have it.

        Raises:
            InputError: if it is none of this task's.
        """
        if self.middle is not None:
            try:
                value = float(label)
            except ValueError:
                value = math.nan
            # Below zero are the marks of public data for labels that are kept back.
            if not 0 <= value < math.inf:
                raise InputError(f"{where}: expected a number from 0 up as label, got {label!r}")
            return int(value >= self.middle)
        for place, names in enumerate(self.labels):
            if label in names:
                return place
        known = ", ".join(repr(name) for names in self.labels for name in names)
        raise InputError(f"{where}: label {label!r} is none of the task {self.name!r}; expected one of {known}")

    def knows(self, label: Any) -> bool:
        """Return whether something is a label of this task."""
        try:
            self.class_of("", str(label).strip())
        except InputError:
            return False
        return True

    def render(self, template: str, texts: Sequence[str]) -> str:
        """Fill a template's slots; nothing in a text is taken for a slot.

        Args:
            template: `cloze` or `causal`.
            texts: one, or two of a pair.
        """
        values = dict(zip("ab", texts, strict=False))
        return _SLOT.sub(lambda slot: values[slot[1]], template)

    def record(self) -> dict[str, Any]:
        """Return what decides how it is asked, as the manifest holds it."""
        return {"name": self.name, "words": list(self.words), "cloze": self.cloze, "causal": self.causal}


def known_tasks() -> list[str]:
    """Return the names of the tasks that come with the package."""
    return list(_builtin())


def load_task(name: str | Path) -> ClozeTask:
    """Return a task by its name, or from a TOML file.

    Args:
        name: one of `known_tasks`, or the path of a file that holds the keys of one table of ``tasks.toml``.

    Raises:
        InputError: if there is none, or it is not as described there.
    """
    name = str(name)
    if not name.endswith(".toml"):
        if name not in _builtin():
            raise unknown_name("task", name, _builtin())
        return parse_task(name, _builtin()[name])
    path = Path(name)
    if not path.is_file():
        raise InputError(f"task file {name!r} does not exist")
    return parse_task(path.stem, _toml(path))


def parse_task(name: str, table: Mapping[str, Any]) -> ClozeTask:
    """Check a task's table, and return the task.

    Args:
        name: of the task, where the table names none.
        table: as in ``tasks.toml``.

    Raises:
        InputError: naming the key and what was expected.
    """
    where = f"task {name!r}"
    for key, value in table.items():
        if key not in _KEYS:
            raise InputError(f"{where}: {unknown_name('key', key, _KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise InputError(f"{where}: {key} must be of type {_KEYS[key].__name__}")
    cloze, causal = table.get("cloze", ""), table.get("causal", "")
    if not cloze and not causal:
        raise InputError(f"{where}: it has no template; give cloze (masked models), causal (decoders) or both")
    slots = {key: _slots(f"{where}: {key}", text) for key, text in (("cloze", cloze), ("causal", causal)) if text}
    if len(set(slots.values())) > 1:
        raise InputError(f"{where}: cloze and causal must have the same slots")
    if causal and not causal.endswith(MASK):
        raise InputError(f"{where}: causal must end in {MASK}, for a decoder answers at the end")
    words, labels = _words(where, table.get("words", {}), "middle" in table)
    fields = {key: str(value) for key, value in table.get("fields", {}).items()}
    for key in fields:
        if key not in _FIELDS:
            raise InputError(f"{where}: fields has {unknown_name('field', key, _FIELDS)}")
    return ClozeTask(
        table.get("name", name),
        words,
        labels,
        cloze,
        causal.removesuffix(MASK).rstrip(),
        "b" in next(iter(slots.values())),
        fields,
        table.get("middle"),
    )


def _slots(where: str, template: str) -> tuple[str, ...]:
    slots = _SLOT.findall(template)
    masks = template.count(MASK)
    if masks != 1:
        raise InputError(f"{where} has {masks} masks; expected {MASK} once, where the label word belongs")
    for slot in slots:
        if slot not in ("a", "b"):
            raise InputError(f"{where} has {unknown_name('slot', slot, ('a', 'b'))}")
    if slots.count("a") != 1 or slots.count("b") > 1:
        raise InputError(f"{where} must have the slot {{a}} once, for the text, and {{b}} once at most")
    return tuple(sorted(slots))


def _words(where: str, words: Mapping[str, Any], numbers: bool) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    if len(words) < 2 or (numbers and len(words) != 2):
        raise InputError(
            f"{where}: words must have {'two' if numbers else 'at least two'} label words, has {len(words)}"
        )
    seen: dict[str, str] = {}
    for word, names in words.items():
        if not word.strip():
            raise InputError(f"{where}: a label word is empty")
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            raise InputError(f"{where}: word {word!r} must have a list of the labels it stands for, as texts")
        if not names and not numbers:
            raise InputError(f"{where}: word {word!r} stands for no label")
        for each in names:
            if each in seen:
                raise InputError(f"{where}: label {each!r} has two words, {seen[each]!r} and {word!r}; keep one")
            seen[each] = word
    folded = [word.lower() for word in words]
    if len(set(folded)) < len(folded):
        raise InputError(f"{where}: two label words differ by capitals only, which many vocabularies do not tell apart")
    return tuple(words), tuple(tuple(names) for names in words.values())


@cache
def _builtin() -> dict[str, dict[str, Any]]:
    return _toml(_FILE)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"task file {path}: not valid TOML: {error}") from None
