"""Settings as flags of the command line: a dataclass field says once what a setting is, means and defaults to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field
from typing import Annotated, Any

import typer

from stepgame.errors import InputError

__all__ = ["flag", "key_values", "with_flags"]


def flag(panel: str, help: str, kind: Any, *flags: str, variable: str | None = None) -> dict[str, Any]:
    """Describe how the command line offers a setting; the metadata of a dataclass field.

    Args:
        panel: heading that it stands under.
        help: what it means; what applies without it stands at the end, as ``[default: ...]``.
        kind: type on the command line.
        flags: the flag's own spelling, where it is not the name's.
        variable: environment variable, where it is not ``STEPGAME_<NAME>``.
    """
    return {"panel": panel, "help": help, "kind": kind, "flags": flags, "variable": variable}


def key_values(name: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Read what a flag that takes ``KEY=VALUE`` was given, in order.

    Args:
        name: of the flag, for the error.
        texts: as given.

    Raises:
        InputError: if one is no ``KEY=VALUE``.
    """
    pairs = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not key.strip() or not equals:
            raise InputError(f"{name} {text!r}: expected KEY=VALUE")
        pairs.append((key.strip(), value))
    return pairs


def _parameter(setting: Field[Any]) -> inspect.Parameter:
    """Return the command line's form of a setting."""
    meta = setting.metadata
    default: Any = inspect.Parameter.empty if setting.default is MISSING else setting.default
    # An empty list of a repeated flag is None on the command line.
    default = None if default == () else default
    text, _, without = meta["help"].partition(" [default: ")
    option = typer.Option(
        *meta["flags"],
        help=text,
        envvar=meta["variable"],
        rich_help_panel=meta["panel"],
        show_default=without.rstrip("]") or default not in (None, inspect.Parameter.empty),
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(setting.name, kind, default=default, annotation=Annotated[meta["kind"], option])


def with_flags(settings: Sequence[Field[Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb one flag for each setting, in front of its own; it takes them as ``**settings``.

    Args:
        settings: dataclass fields whose metadata `flag` made.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != "settings"]
        own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        parameters = [*(_parameter(setting) for setting in settings), *own]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate
