"""Work on a Ray cluster: connecting to it, and making blocks of stories there.

``ray`` as an engine is the cluster that ``RAY_ADDRESS`` names, or this machine where it names none;
``ray://HOST:PORT`` is a cluster's client port.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

import stepgame
from stepgame.engines import LOCAL, is_engine
from stepgame.errors import InputError, require
from stepgame.generate import Recipe, make_block
from stepgame.layout import GENERATOR_VERSION, I64

__all__ = ["BlockMaker", "connected"]

# How Ray's client begins when its own server in the cluster did not start.
_STARTING = "Initialization failure from server"


@contextmanager
def connected(engine: str) -> Iterator[Any]:
    """Connect to a cluster, and let go of it at the end.

    Args:
        engine: ``ray`` or ``ray://HOST:PORT``.

    Yields:
        The module ``ray``.

    Raises:
        InputError: if there is no such engine, the cluster does not answer, or its machines have other versions.
        MissingExtraError: if Ray is not installed.
    """
    if not is_engine(engine) or engine == LOCAL:
        raise InputError(f"unknown engine {engine!r}; expected {LOCAL}, ray or ray://HOST:PORT")
    ray: Any = require("ray", "ray", "--engine ray")
    try:
        _connect(ray, None if engine == "ray" else engine)
    except (ConnectionError, RuntimeError, ValueError) as error:
        lines = str(error).strip().split("\n")
        # A failure in the cluster carries its traceback, whose last line says what it was.
        reason = f"{lines[0]} {lines[-1]}" if _STARTING in lines[0] else lines[0]
        raise InputError(f"the Ray cluster of --engine {engine} cannot be used: {reason}") from None
    try:
        _check_versions(ray)
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    """Start a session of Ray, and try once more where the server that the cluster starts for each client hung.

    Ray 2.60 forks it while other threads of its proxy are busy, and it was seen not to come up.
    """
    start = partial(ray.init, address=address, log_to_driver=False, logging_level="ERROR")
    try:
        start()
    except (ConnectionError, RuntimeError) as error:
        if _STARTING not in str(error):
            raise
        start()


class BlockMaker:
    """Makes blocks of stories as tasks of a cluster; given to `stepgame.generate.stream`.

    A block of a machine that was lost is made again by Ray, and is the same.

    Args:
        ray: connected.
    """

    def __init__(self, ray: Any) -> None:
        self._make = ray.remote(make_block)
        self.ahead = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def __call__(self, recipe: Recipe, hops: int, rows: I64) -> Future[pa.Table]:
        """Start on one block; see `stepgame.generate.make_block`."""
        made: Future[pa.Table] = self._make.remote(recipe, hops, rows).future()
        return made


def _versions() -> dict[str, str]:
    return {
        "stepgame": stepgame.__version__,
        "generator": str(GENERATOR_VERSION),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }


def _check_versions(ray: Any) -> None:
    """Check that every machine of the cluster has this one's versions: rows are promised for equal ones only."""
    here = _versions()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    on_node: Any = require("ray.util.scheduling_strategies", "ray", "--engine ray").NodeAffinitySchedulingStrategy
    ask = ray.remote(_versions)
    asked = [ask.options(scheduling_strategy=on_node(node, soft=False)).remote() for node in nodes]
    for node, answer in zip(nodes, asked, strict=True):
        try:
            there = ray.get(answer)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().rsplit("\n", maxsplit=1)[-1]
            raise InputError(f"a machine of the cluster ({node[:8]}) cannot run stepgame: {reason}") from None
        for name, version in here.items():
            if there[name] != version:
                raise InputError(
                    f"a machine of the cluster ({node[:8]}) has {name} {there[name]}, this one {version}; "
                    "install the same on all of them"
                )
