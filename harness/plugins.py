"""Others' tasks and models: entry points of installed distributions."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from stepgame.errors import InputError

__all__ = ["Plugin", "find_plugin", "plugin_names"]


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point.

    Attributes:
        entry: as the distribution declares it.
    """

    entry: EntryPoint

    @property
    def distribution(self) -> str | None:
        """Name of the distribution that brings it."""
        return None if self.entry.dist is None else self.entry.dist.name

    def load(self) -> Any:
        """Import what it names.

        Raises:
            InputError: if that cannot be imported, with the reason.
        """
        try:
            return self.entry.load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{self.entry.name!r} is declared by {self.distribution or 'an installed distribution'} as "
                f"{self.entry.value}, which cannot be imported: {error}"
            ) from None


def plugin_names(group: str) -> list[str]:
    """Return the names that are declared in a group."""
    return sorted(entry_points(group=group).names)


def find_plugin(group: str, name: str) -> Plugin | None:
    """Return the plug-in of a name, None if there is none.

    Raises:
        InputError: if two distributions declare the name.
    """
    found = list(dict.fromkeys(entry_points(group=group, name=name)))
    if len(found) > 1:
        named = " and ".join(sorted(Plugin(entry).distribution or entry.value for entry in found))
        raise InputError(f"{name!r} is declared twice in {group!r}, by {named}; uninstall one")
    return Plugin(found[0]) if found else None
