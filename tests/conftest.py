"""Shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from harness.threads import wait_without_spinning

if TYPE_CHECKING:
    from harness.models.hf import HFModel

# Before any test imports torch, or it would have no effect.
wait_without_spinning()


def take_own_cores() -> None:
    """Give each worker of pytest-xdist its share of the cores: models that share cores wait for each other."""
    worker, count = (os.environ.get(f"PYTEST_XDIST_WORKER{end}") for end in ("", "_COUNT"))
    if worker and count and hasattr(os, "sched_setaffinity"):
        own = sorted(os.sched_getaffinity(0))[int(worker.removeprefix("gw")) :: int(count)]
        if own:
            os.sched_setaffinity(0, own)


take_own_cores()

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first: a worker that ends with one leaves the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def command_line() -> CommandLine:
    """Return a function that runs the real command line in a process of its own."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stepgame.cli", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=os.environ | environment,
        )

    return run


@pytest.fixture(scope="session")
def smollm2() -> Iterator[HFModel]:
    """Return the built-in model, loaded once."""
    pytest.importorskip("torch")
    import torch

    from harness.models.hf import HFModel
    from harness.models.registry import parse_model

    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    yield HFModel.load(parse_model("smollm2", device="cpu"), lambda _: [])
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one thread: tiny models spend their time waiting for a second, and a server needs a core too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
