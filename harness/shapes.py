"""What the records of a run may hold: a folder may come from anybody, and its files may hold anything.

Whoever reads a record may rely on the types of the fields that are named here, where they are there at all; which of
them must be there is for each reader to say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from stepgame.errors import InputError

__all__ = ["check_manifest", "check_results", "check_sample", "decode"]


class _Kind(NamedTuple):
    """A kind of value.

    Attributes:
        name: for messages.
        holds: whether a value is of it.
        needed: whether the field must be there.
    """

    name: str
    holds: Callable[[Any], bool]
    needed: bool = False


_Shape = _Kind | Mapping[str, "_Shape"] | tuple["_Shape"]
"""A kind; an object's fields; or what each value of a list is."""

_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_COUNT = _Kind("a whole number of at least 0", lambda value: type(value) is int and value >= 0)
_NUMBER = _Kind("a finite number", lambda value: type(value) in (int, float))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))

_MANIFEST: _Shape = {
    "model": {"spec": _TEXT, "backend": _TEXT},
    "task": {"name": _TEXT, "data_sha256": _TEXT, "params": _OBJECT, "n": _COUNT},
    "prompt": {"name": _TEXT, "sha256": _TEXT},
    "score": _TEXT,
    "stepgame_version": _TEXT,
    "created": _TEXT,
    "command": (_TEXT,),
}

_COUNTED = _COUNT._replace(needed=True)

_RESULTS: _Shape = {
    "n": _COUNT,
    "n_expected": _COUNT,
    "answered": _COUNT,
    "errors": _COUNT,
    "unparsed": _COUNT,
    "chance": _NUMBER,
    "mean_accuracy": _NUMBER,
    "chance_centred": _NUMBER,
    "seconds": _NUMBER,
    "examples_per_second": _NUMBER,
    "samples_sha256": _TEXT,
    "by_k": (
        {
            "k": _COUNTED,
            "n": _COUNTED,
            "correct": _COUNTED,
            "errors": _COUNTED,
            "unparsed": _COUNTED,
            "accuracy": _NUMBER,
            "low": _NUMBER,
            "high": _NUMBER,
        },
    ),
}

_SAMPLE: _Shape = {
    "id": _TEXT._replace(needed=True),
    "k_hop": _COUNT,
    "options": (_TEXT,),
    "gold": _TEXT,
    "prediction": _TEXT,
    "correct": _FLAG,
    "error": _TEXT,
    "logprobs": (_NUMBER,),
    "seconds": _NUMBER,
}
_SAMPLE_HAS = ("error", "seconds")
"""What every sample has, though it may be null."""


def check_manifest(where: str, manifest: Mapping[str, Any]) -> None:
    """Check the types of a manifest's fields.

    Args:
        where: its file, for messages.
        manifest: what the file holds.

    Raises:
        InputError: naming the first field that is something else.
    """
    _check(where, "", manifest, _MANIFEST)


def check_results(where: str, results: Mapping[str, Any]) -> None:
    """Check the types of the fields of results; see `check_manifest`."""
    _check(where, "", results, _RESULTS)


def check_sample(where: str, sample: Any) -> None:
    """Check that a sample is an object that has what all of them have, and the types of its fields."""
    _check(where, "", sample, _SAMPLE)
    if missing := [name for name in _SAMPLE_HAS if name not in sample]:
        raise InputError(f"{where}: it has no {' and no '.join(missing)}; the file was changed by hand")


def _check(where: str, path: str, value: Any, shape: _Shape) -> None:
    kind = shape if isinstance(shape, _Kind) else _LIST if isinstance(shape, tuple) else _OBJECT
    if not kind.holds(value):
        # What nests is named and not shown: it may be deeper than can be written.
        found = _LIST.name if _LIST.holds(value) else _OBJECT.name if _OBJECT.holds(value) else repr(value)[:80]
        raise InputError(f"{where}: {path or 'it'} is {found}; expected {kind.name}; the file was changed by hand")
    if isinstance(shape, _Kind):
        return
    if isinstance(shape, tuple):
        for place, each in enumerate(value):
            _check(where, f"{path}[{place}]", each, shape[0])
        return
    for name, inner in shape.items():
        found = value.get(name)
        if found is not None or (isinstance(inner, _Kind) and inner.needed):
            _check(where, f"{path}.{name}" if path else name, found, inner)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        shown = text if len(text) <= 40 else f"{text[:12]}... ({len(text):,} digits)"
        raise ValueError(f"{shown} is no finite number of double precision")
    return value


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


_DECODER = json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=_finite)


_LEVELS = 64
"""How deep a record may nest; those of this project have less than ten, and what writes them again recurses."""


def _nests(value: Any, levels: int) -> bool:
    """Say whether a value nests deeper than so many levels."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_nests(each, levels - 1) for each in value))


def decode(text: str) -> Any:
    """Read JSON that every reader can reckon with and write again.

    Raises:
        ValueError: if it is no JSON, nests deeper than 64 levels, or holds a number that is not finite in double
            precision.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        deep = True
    else:
        # Nearly every text has too few brackets to be looked through.
        deep = text.count("[") + text.count("{") > _LEVELS and _nests(value, _LEVELS)
    if deep:
        raise ValueError(f"it nests deeper than {_LEVELS} levels")
    return value
