"""An adapter's folder: what is written beside the tensors so that it can be found to fit, or not to, before loading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.models.adapters import ADAPTER_FILE, FORMAT, Kind
from stepgame.files import write_text

__all__ = ["TRAINING", "write_adapter"]

TRAINING = "training"
"""Folder inside an adapter's that holds how it was trained; nothing in it decides an answer."""


def write_adapter(
    folder: Path,
    *,
    kind: Kind,
    method: str,
    config: Mapping[str, Any],
    base: Mapping[str, Any],
    files: Sequence[str],
) -> None:
    """Write ``adapter.json``, which makes a folder an adapter; the last thing that is written of one.

    Args:
        folder: where the tensors lie.
        kind: how engines apply it.
        method: how it was trained.
        config: what decides the function that is computed.
        base: the model it belongs to.
        files: names of the files that hold it.
    """
    record = {
        "format": FORMAT,
        "kind": kind,
        "method": method,
        "config": dict(config),
        "base": dict(base),
        "files": sorted(files),
    }
    write_text(folder / ADAPTER_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def clear_adapter(folder: Path) -> None:
    """Remove an adapter from its folder, the record of its training too; other files stay."""
    known = folder / ADAPTER_FILE
    if known.is_file():
        names = json.loads(known.read_text(encoding="utf-8"))["files"]
        known.unlink()
        for name in names:
            (folder / Path(name).name).unlink(missing_ok=True)
    shutil.rmtree(folder / TRAINING, ignore_errors=True)
