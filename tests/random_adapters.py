"""Adapters of the built-in model that were never trained: random ones, strong enough to change every answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from adapters.dept.config import SoftPromptConfig
from adapters.dept.soft_prompt import FILE, TrainedPrompt
from adapters.lora.config import LoRAConfig
from adapters.lora.method import wrap_with_lora
from adapters.store import write_adapter
from harness.models.builtin import BUILTIN, builtin_folder


def base_record() -> dict[str, Any]:
    return {"spec": BUILTIN, "content_hash": builtin_folder()[1], "hidden_size": 576}


def soft_prompt(
    folder: Path, table: torch.Tensor, seed: int, *, base: dict[str, Any] | None = None, **settings: Any
) -> Path:
    """Write a soft prompt whose rows and offsets have the spread of the model's own embeddings."""
    config = SoftPromptConfig(**{"prompt_length": 8, **settings})
    generator = torch.Generator().manual_seed(seed)
    soft = TrainedPrompt(config, table.shape[1])
    soft.start_from(table, None, generator)
    with torch.no_grad():
        if config.rank:
            # Entries of A B have this spread where A's have 1 and B's this over the root of r.
            spread = table.float().std() / config.rank**0.5 / config.scale
            soft.low_a.copy_(torch.randn(soft.low_a.shape, generator=generator))
            soft.low_b.copy_(torch.randn(soft.low_b.shape, generator=generator) * spread)
    folder.mkdir()
    soft.save(folder / FILE)
    method = {"none": "pt", "position": "dept", "token": "adept"}[config.offset]
    record = base or base_record()
    write_adapter(folder, kind="soft-prompt", method=method, config=config.record(), base=record, files=[FILE])
    return folder


def lora(folder: Path, model: Any, seed: int) -> Path:
    """Write a LoRA adapter; the model is as it was afterwards."""
    config = LoRAConfig(lora_rank=4)
    wrapped = wrap_with_lora(config, model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    wrapped.unload()
    files = ["adapter_config.json", "adapter_model.safetensors"]
    record = {"rank": config.lora_rank, "alpha": config.lora_alpha, "targets": config.targets}
    write_adapter(folder, kind="lora", method="lora", config=record, base=base_record(), files=files)
    return folder
