"""Soft prompts as training methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adapters.dept.config import SoftPromptConfig
from adapters.method import BaseModel, Features, Group, Method
from harness.models.adapters import Kind
from harness.progress import say
from stepgame.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from harness.models.adapters import SoftPrompt

__all__ = ["SoftPromptMethod"]


class SoftPromptMethod(Method):
    """PT, DePT and ADePT: they differ in the offsets that the configuration names."""

    kind: Kind = "soft-prompt"
    lr: float = 1e-2
    encoder_decoders: ClassVar[bool] = True
    config: SoftPromptConfig

    def check(self, base: BaseModel) -> None:
        """Check that rows and offsets fit into the model's positions."""
        config, positions = self.config, base.positions
        by_position = config.offset == "position" and config.rank > 0
        if positions is not None and config.prompt_length + (config.max_length if by_position else 1) > positions:
            reach = f" and --max-length {config.max_length} are together" if by_position else " is"
            raise InputError(
                f"--prompt-length {config.prompt_length}{reach} more than the {positions} positions of {base.spec!r} "
                "leave room for; lower it"
            )

    def build(self, base: BaseModel, model: Any, tokenizer: Any, seed: int) -> nn.Module:
        """Put a fresh soft prompt before a frozen model."""
        import torch

        from adapters.dept.model import SoftPromptModel
        from adapters.dept.soft_prompt import TrainedPrompt

        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            soft = TrainedPrompt(self.config, base.width)
        table = model.get_input_embeddings().weight
        if self.config.init == "vocabulary":
            ids = torch.randint(len(tokenizer), (max(self.config.prompt_length, 1),), generator=generator)
        elif self.config.init == "text":
            ids = torch.tensor(tokenizer(self.config.init_text, add_special_tokens=False)["input_ids"])
        else:
            ids = None
        soft.start_from(table, ids, generator)
        return SoftPromptModel(model, soft.to(table.device))

    def count(self, rows: Sequence[Features]) -> dict[str, Any]:
        """Count prompts that are longer than the offsets reach, and say so once."""
        if self.config.offset != "position" or not self.config.rank:
            return {}
        beyond = sum(row.prompt > self.config.max_length for row in rows)
        if beyond:
            say(
                f"{beyond} of {len(rows)} prompts are longer than --max-length {self.config.max_length} tokens; the "
                "tokens after those get no offset"
            )
        return {"beyond_max_length": beyond}

    def groups(self, module: Any, lr: float) -> list[Group]:
        """Return the rows, and the low-rank pair with its own learning rate."""
        soft = module.soft
        pair = [value for name, value in soft.named_parameters() if name != "prompt"]
        rows = [Group([soft.prompt], lr)] if soft.length else []
        return rows + ([Group(pair, self.config.low_rank_lr)] if pair else [])

    def save(self, module: Any, tokenizer: Any, folder: Path) -> list[str]:
        """Write the soft prompt's tensors."""
        from adapters.dept.soft_prompt import FILE

        module.soft.save(folder / FILE)
        return [FILE]

    def scorable(self, module: Any) -> tuple[Any, SoftPrompt | None]:
        """Return the frozen model and the soft prompt."""
        return module.base, module.soft

    def record(self) -> dict[str, Any]:
        """Return the sizes and the scaling."""
        return self.config.record()
