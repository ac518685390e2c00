"""Data versions: which sets of stories have a name, and which published figures stand on the same stories.

``data.toml`` is the one list. A version of our own has a hash, by which a run's stories are recognised, and the
settings that make it again; a published one has words, because its figures come without hashes.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

__all__ = ["PublishedData", "StorySet", "name_of", "published_data", "story_sets"]


class StorySet(NamedTuple):
    """A named set of generated stories.

    Attributes:
        name: what rows call it.
        about: one line for people.
        sha256: hash of its stories, as manifests have it.
        settings: what makes it again, by the names of `harness.settings.RunSettings`.
    """

    name: str
    about: str
    sha256: str
    settings: dict[str, Any]


class PublishedData(NamedTuple):
    """A version of the data that published figures were measured on.

    Attributes:
        name: what rows call it.
        title: what headings call it.
        about: what it is, for people.
        ranked: whether its rows may stand in order of accuracy; false where nobody knows which stories were asked.
    """

    name: str
    title: str
    about: str
    ranked: bool


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("leaderboards").joinpath("data.toml").read_text(encoding="utf-8"))


def story_sets() -> dict[str, StorySet]:
    """Return the named sets of stories by name."""
    return {name: StorySet(name, **entry) for name, entry in _table()["stories"].items()}


def published_data() -> dict[str, PublishedData]:
    """Return the data versions of published figures by name, in the order of tables."""
    return {name: PublishedData(name, **entry) for name, entry in _table()["published"].items()}


def name_of(sha256: str) -> str | None:
    """Return the name of the set of stories with this hash; None for any other."""
    return next((each.name for each in story_sets().values() if each.sha256 == sha256), None)
