"""Agents' names: letters in the order of spreadsheets, a list of words, or a file of one's own."""

from __future__ import annotations

import string
from functools import lru_cache
from importlib import resources
from itertools import count, islice, product
from pathlib import Path

from stepgame.errors import InputError, unknown_name
from stepgame.read import is_agent_name

__all__ = ["agent_names", "letter_names"]

SCHEMES = ("letters", "words")
_MOST = 2**15 - 1
"""Layouts number agents with 16 bits."""


def letter_names(size: int) -> list[str]:
    """Return the first ``size`` letter names: A to Z, then AA, AB ... ZZ, then AAA and so on.

    Three letters that spell a word of the reader's grammar (such as TOP) are left out.
    """
    words = ("".join(letters) for length in count(1) for letters in product(string.ascii_uppercase, repeat=length))
    return list(islice(filter(is_agent_name, words), size))


@lru_cache(maxsize=8)
def _load(scheme: str) -> tuple[str, ...]:
    if scheme == "words":
        text = resources.files("stepgame").joinpath("banks", "names.txt").read_text(encoding="utf-8")
    else:
        try:
            text = Path(scheme).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"names file {scheme}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
        except OSError as error:
            raise InputError(f"names file {scheme}: cannot be read: {error.strerror}") from None
    names: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if not is_agent_name(name):
            raise InputError(
                f"names file {scheme}: line {number}: {name!r} cannot be told from the words of a sentence; "
                "expected one word that begins with a capital letter"
            )
        if name in names:
            raise InputError(f"names file {scheme}: line {number}: {name!r} stands on line {names[name]} already")
        names[name] = number
    if not names or len(names) > _MOST:
        raise InputError(f"names file {scheme}: {len(names)} names; expected 1 to {_MOST}")
    return tuple(names)


def agent_names(scheme: str, needed: int) -> list[str]:
    """Return the names that stories of one length draw from.

    Args:
        scheme: ``"letters"`` gives as many as are needed and at least the alphabet; ``"words"`` gives the
            built-in list of given names; anything else is a file with one name a line.
        needed: the most agents a story can have.

    Raises:
        InputError: if the scheme is unknown or its file is bad. A list that is too short is the sampler's error.
    """
    if scheme == "letters":
        return letter_names(max(26, needed))
    if scheme != "words" and "/" not in scheme and "." not in scheme and not Path(scheme).exists():
        raise unknown_name("naming scheme", scheme, SCHEMES)
    return list(_load(scheme))
