"""Soft prompts of others: the checkpoints that DePT's authors published, and PEFT's prompt tuning."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adapters.dept.config import ALPHA, SoftPromptConfig
from adapters.dept.soft_prompt import FILE, TrainedPrompt
from adapters.store import write_adapter
from harness.models.adapters import Adapter, read_adapter
from stepgame.errors import InputError

__all__ = ["convert"]

_ROWS, _LOW_A, _LOW_B = "prompt_embeddings", "lora_embedding_A", "lora_embedding_B"
_TYPES = {"PROMPT_TUNING_LORA": "dept", "PROMPT_TUNING": "pt"}


def convert(source: str | Path, out: str | Path) -> Adapter:
    """Turn a folder of DePT's authors (``PROMPT_TUNING_LORA``) or of PEFT (``PROMPT_TUNING``) into an adapter.

    Such folders hold ``adapter_config.json`` and ``adapter_model.bin`` or ``.safetensors``. A ``.bin`` is a pickle, and
    is read by torch's restricted reader (``weights_only``), which loads tensors and runs nothing. The authors add row i
    to position i, scaled by lora_alpha / sqrt(r); the scaling is kept. They pad on the right, so positions are tokens.

    Args:
        source: the folder.
        out: folder of the adapter to write.

    Returns:
        The adapter; its base is known by name only.

    Raises:
        InputError: if the folder is of another kind, or its tensors are missing or do not fit its configuration.
    """
    folder, target = Path(source), Path(out)
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target} exists and is not empty; choose another folder to write")
    record = _config(folder / "adapter_config.json")
    kind = str(record.get("peft_type"))
    if kind not in _TYPES:
        raise InputError(f"{folder} is PEFT's {kind}; expected {' or '.join(_TYPES)}")
    tensors = _tensors(folder)
    soft = _soft_prompt(folder, record, _TYPES[kind], tensors)
    target.mkdir(parents=True, exist_ok=True)
    soft.save(target / FILE)
    base = {"spec": record.get("base_model_name_or_path"), "hidden_size": soft.width}
    method = _TYPES[kind]
    write_adapter(target, kind="soft-prompt", method=method, config=soft.config.record(), base=base, files=[FILE])
    return read_adapter(target)


def _config(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    return record


def _tensors(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    try:
        if safe.is_file():
            return load_file(safe)
        found: Any = torch.load(pickled, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{pickled} holds more than tensors, which could run code when it is read; refused") from None
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the tensors of {folder} cannot be read: {error}") from None
    if not isinstance(found, Mapping):
        raise InputError(f"{pickled} holds {type(found).__name__}; expected tensors by name")
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _soft_prompt(folder: Path, record: Mapping[str, Any], method: str, tensors: Mapping[str, Tensor]) -> TrainedPrompt:
    rows = _named(folder, tensors, _ROWS)
    values = {"prompt": rows}
    if method == "pt":
        config = SoftPromptConfig(prompt_length=rows.shape[0])
    else:
        values |= {"low_a": _named(folder, tensors, _LOW_A), "low_b": _named(folder, tensors, _LOW_B)}
        (length, rank), alpha = values["low_a"].shape, float(record.get("lora_alpha", ALPHA))
        scaling = alpha / math.sqrt(rank)
        config = SoftPromptConfig(
            prompt_length=rows.shape[0], rank=rank, max_length=length, offset="position", scaling=scaling
        )
    soft = TrainedPrompt(config, rows.shape[1])
    wanted = {name: tuple(value.shape) for name, value in soft.named_parameters()}
    found = {name: tuple(value.shape) for name, value in values.items()}
    said = (record.get("num_virtual_tokens"), record.get("token_dim"))
    if wanted != found or (None not in said and said != tuple(rows.shape)):
        raise InputError(f"{folder}: tensors of the shapes {found} do not fit together, or not to adapter_config.json")
    soft.load_state_dict({name: value.float() for name, value in values.items()})
    return soft


def _named(folder: Path, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    # Some versions write the names with the modules before them.
    found = [value for key, value in tensors.items() if key == name or key.endswith(f".{name}")]
    if len(found) != 1 or found[0].ndim != 2:
        raise InputError(f"{folder}: expected one matrix {name}; it holds {', '.join(tensors) or 'nothing'}")
    return found[0]
