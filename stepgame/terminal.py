"""Text for a terminal: names and values out of files are shown, and steer nothing."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.text import Text

__all__ = ["PlainConsole", "echo", "printable"]


def printable(text: str, keep: str = "") -> str:
    """Replace control characters, which could steer a terminal, by U+FFFD.

    Args:
        text: what may hold any.
        keep: characters that stay.
    """
    return "".join(character if character.isprintable() or character in keep else "\ufffd" for character in text)


def echo(text: str) -> None:
    """Print a text of one line or several to stdout; of what steers a terminal only line breaks and tabs stay."""
    typer.echo(printable(text, keep="\n\t"))


class PlainConsole(Console):
    """A console on stdout for texts of one line each, to which ``[red]`` and ``:x:`` are text like any other.

    Every string passes through `printable` here, in titles and cells too, so that no caller can forget it.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Turn a string into what rich prints."""
        return super().render_str(printable(text), **settings)
