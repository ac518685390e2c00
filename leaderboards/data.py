"""Data versions: which sets of stories have a name, and which published figures stand on the same stories.

``data.toml`` is the one list. A version of our own has a hash, by which a run's stories are recognised, and the
settings that make it again; a published one has words, because its figures come without hashes.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from stepgame.errors import InputError, unknown_name

__all__ = ["PublishedData", "StorySet", "name_of", "published_data", "story_sets", "write_set"]


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


def write_set(name: str, out: Path, *, overwrite: bool = False) -> tuple[Path, int]:
    """Make a named set of stories again, and write it as JSON lines if it has the hash of its name.

    Args:
        name: one of `story_sets`.
        out: folder for ``NAME.jsonl``.
        overwrite: whether a file of that name may be replaced.

    Returns:
        The file, and how many stories it holds.

    Raises:
        InputError: if there is no such set, the generator gives other stories now, or the file is there already.
    """
    from stepgame.formats import write
    from stepgame.generate import generate

    if name not in story_sets():
        raise unknown_name("set of stories", name, story_sets())
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; expected a folder")
    target = out / f"{name}.jsonl"
    if target.exists() and not overwrite:
        raise InputError(f"{target} is there already; use --overwrite to replace it")
    wanted = story_sets()[name]
    settings = dict(wanted.settings)
    stories = generate(settings.pop("hops"), settings.pop("per_hop"), **settings)
    if stories.sha256() != wanted.sha256:
        raise InputError(
            f"{name}: this version makes other stories (hash {stories.sha256()[:16]}, data.toml has "
            f"{wanted.sha256[:16]}); make it with the version that its rows name"
        )
    return write(stories, target), len(stories)
