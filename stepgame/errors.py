"""The errors that users see: one line, what is wrong, where, what was expected, what to do."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = ["InputError", "MissingExtraError", "StepGameError", "did_you_mean", "require", "unknown_name"]


class StepGameError(ValueError):
    """Base of every error this project raises on purpose; the command line exits with code 2 on it."""


class InputError(StepGameError):
    """Bad input from the user: a flag, a name, a file or a row of it."""


class MissingExtraError(StepGameError):
    """An optional library is not installed; the message holds the exact install command."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Build the error for a name that does not exist.

    Args:
        kind: what sort of thing was named, for instance ``"bank"``.
        name: what the user wrote.
        known: every name that would have been right.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(known)
    return InputError(f"unknown {kind} {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}")


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional library or say how to install it.

    Args:
        module: import path, for instance ``"matplotlib.pyplot"``.
        extra: the extra of this distribution that brings it.
        purpose: what needs it, as the end of "... is needed for".

    Returns:
        The imported module.

    Raises:
        MissingExtraError: if the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        raise MissingExtraError(
            f"{error.name} is needed for {purpose} and is not installed; run: pip install 'stepgame[{extra}]'"
        ) from None
