"""Adapters as the engines see them: what a trained folder says of itself, and the three forms in which it is applied.

A folder of a trained adapter holds ``adapter.json`` beside the tensors. Its ``kind`` decides how an engine applies it:

- ``soft-prompt``: rows put before a prompt's embeddings and, with some methods, added to them. The engine is given
  embeddings instead of tokens; what they are is the method's own affair (`SoftPrompt`).
- ``lora``: low-rank updates of the weights, in PEFT's files, which both engines read.
- ``weights``: a whole checkpoint, which takes the base model's place.

The methods live in a package that this one does not import: an entry point of group ``stepgame.adapters``, named as the
method is, loads a soft prompt. PEFT's own LoRA folders, which have no ``adapter.json``, are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from harness.models.builtin import (
    BUILTIN,
    builtin_folder,
    cache_root,
    checkpoint_hash,
    hash_files,
    hash_of_hashes,
)
from harness.plugins import find_plugin
from harness.progress import say
from stepgame.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.base import ModelRequest

__all__ = [
    "ADAPTER_FILE",
    "FORMAT",
    "GROUP",
    "TRAINING_RECORD",
    "Adapter",
    "Kind",
    "SoftPrompt",
    "check_width",
    "load_soft_prompt",
    "model_source",
    "read_adapter",
    "say_beyond_reach",
]

Kind = Literal["soft-prompt", "lora", "weights"]

ADAPTER_FILE = "adapter.json"
TRAINING_RECORD = ("training/manifest.json", "training/result.json")
"""Where a folder says how it was trained."""
FORMAT = 1
"""Version of ``adapter.json``; raised when its meaning changes."""

GROUP = "stepgame.adapters"
"""Entry points that load the soft prompts of a method: the name is the method's, the object is called with the
`Adapter` and returns a `SoftPrompt`."""

_PEFT_FILE = "adapter_config.json"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class SoftPrompt(Protocol):
    """What stands before a prompt's tokens and is added to their embeddings; float32, on the CPU unless moved."""

    @property
    def length(self) -> int:
        """Rows before the prompt, m; they take up positions as tokens do."""

    @property
    def width(self) -> int:
        """Size of an embedding, d."""

    @property
    def reach(self) -> int | None:
        """Longest prompt, in tokens, all of whose tokens get an offset; None where there is no such bound."""

    def embed(self, table: Callable[[Tensor], Tensor], ids: Tensor, places: Tensor) -> Tensor:
        """Return the embeddings [B, T, d] of some positions of prompts.

        Args:
            table: the model's token embeddings, from ids [B, T] to [B, T, d].
            ids: token ids [B, T]; anything the table takes where a place is not a token's.
            places: [B, T]: 0 to m - 1 are the soft prompt's rows and m + i is the prompt's token i. A negative place
                is no part of a prompt (an option's token, or padding) and gets the table's embedding as it is.
        """


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter on disk.

    Attributes:
        folder: where it lies; absolute.
        kind: how it is applied.
        method: how it was trained, for instance ``"dept"``.
        content_hash: hash of what decides the answers: the tensors and the method's configuration.
        base: the model it was trained on: ``spec``, ``content_hash``, ``hidden_size``, as far as known.
        config: the method's own configuration.
    """

    folder: Path
    kind: Kind
    method: str
    content_hash: str
    base: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return what a run's manifest holds of it."""
        return {
            "path": str(self.folder),
            "kind": self.kind,
            "method": self.method,
            "content_hash": self.content_hash,
            "base": dict(self.base),
            "config": dict(self.config),
        }

    def check_base(self, content_hash: str, spec: str) -> None:
        """Check that the model to be adapted is the one it was trained on; before any weights are loaded.

        Raises:
            InputError: if it is another one.
        """
        known = self.base.get("content_hash")
        if known is not None and known != content_hash:
            raise InputError(
                f"adapter {self.folder} was trained on {self.base.get('spec', 'another model')!r} (content hash "
                f"{known[:12]}), not on {spec!r} ({content_hash[:12]}); give --model the one it belongs to"
            )


def read_adapter(path: str | Path) -> Adapter:
    """Read what an adapter's folder says of itself; loads no tensors and no library.

    Raises:
        InputError: if it is no such folder, is incomplete, or holds its tensors as pickles.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise InputError(f"adapter {str(path)!r} is no folder; expected what `stepgame train` wrote, or a LoRA of PEFT")
    if not (folder / ADAPTER_FILE).is_file():
        if (folder / _PEFT_FILE).is_file():
            return _read_peft(folder)
        raise InputError(f"{folder} holds no {ADAPTER_FILE}; expected a folder that `stepgame train` finished")
    record = _json(folder / ADAPTER_FILE)
    try:
        if record["format"] != FORMAT:
            raise InputError(f"{folder / ADAPTER_FILE} has format {record['format']}, this version reads {FORMAT}")
        kind, method, names = record["kind"], str(record["method"]), list(record["files"])
        config, base = dict(record["config"]), dict(record["base"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / ADAPTER_FILE} is incomplete or was changed by hand: {error!r}") from None
    if kind not in get_args(Kind):
        raise InputError(f"{folder / ADAPTER_FILE}: unknown kind {kind!r}; expected {', '.join(get_args(Kind))}")
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{folder / ADAPTER_FILE} names the file {name!r}, which is no plain name")
        if name.endswith(_PICKLES):
            raise InputError(f"{folder / name} is a pickle, which can run code when it is read; expected .safetensors")
        if not (folder / name).is_file():
            raise InputError(f"adapter {folder} is incomplete: {name} is missing; train it again")
    digest = _digest(kind, method, config, hash_files(folder, names))
    return Adapter(folder, kind, method, digest, base, config)


def load_soft_prompt(adapter: Adapter) -> SoftPrompt:
    """Load the tensors of a soft prompt.

    Raises:
        InputError: if no installed method of this name loads soft prompts, or the tensors do not fit.
    """
    plugin = find_plugin(GROUP, adapter.method)
    if plugin is None:
        raise InputError(f"adapter {adapter.folder}: no installed package knows soft prompts of {adapter.method!r}")
    loaded: SoftPrompt = plugin.load()(adapter)
    return loaded


def check_width(soft: SoftPrompt, width: int, adapter: Adapter) -> None:
    """Check that a soft prompt's rows are as wide as a model's embeddings.

    Raises:
        InputError: if they are not.
    """
    if soft.width != width:
        raise InputError(
            f"adapter {adapter.folder} has rows of {soft.width} numbers, the model's embeddings have {width}; give "
            "--model the one it was trained on"
        )


def say_beyond_reach(soft: SoftPrompt, lengths: Sequence[int]) -> None:
    """Say how many prompts are longer than a soft prompt's offsets reach.

    Args:
        soft: the soft prompt.
        lengths: tokens of each prompt.
    """
    beyond = 0 if soft.reach is None else sum(length > soft.reach for length in lengths)
    if beyond:
        say(
            f"{beyond} of {len(lengths)} prompts are longer than the {soft.reach} tokens that the adapter has offsets "
            "for; the tokens after those get none"
        )


def model_source(request: ModelRequest) -> tuple[str, str | None]:
    """Find a model's files, and check that its adapter belongs to it where that can be known without the weights.

    Args:
        request: which model, and which adapter.

    Returns:
        A folder or hub id, and the model's content hash: None for one of the hub, whose files may not be here yet.

    Raises:
        InputError: if the adapter was trained on another model.
    """
    if request.target == BUILTIN:
        source, digest = _builtin(cache_root())
    else:
        source = request.target
        digest = checkpoint_hash(source, request.revision) if Path(source).is_dir() else ""
    if request.adapter is not None and digest:
        request.adapter.check_base(digest, request.spec)
    return source, digest or None


@cache
def _builtin(root: Path) -> tuple[str, str]:
    """Return the built-in model's folder and hash, read through once a process: it is half a gigabyte."""
    folder, digest = builtin_folder()
    return str(folder), digest


def _read_peft(folder: Path) -> Adapter:
    record = _json(folder / _PEFT_FILE)
    kind = record.get("peft_type")
    if kind != "LORA":
        raise InputError(
            f"adapter {folder} is PEFT's {kind}; of PEFT's folders only LORA can be used as they are. Soft prompts: "
            "adapters.dept.convert reads PROMPT_TUNING and PROMPT_TUNING_LORA"
        )
    tensors = "adapter_model.safetensors"
    if not (folder / tensors).is_file():
        pickle = next((path.name for path in folder.iterdir() if path.suffix in _PICKLES), None)
        found = f"; {pickle} is a pickle, which can run code when it is read" if pickle else ""
        raise InputError(f"adapter {folder} holds no {tensors}{found}")
    digest = _digest("lora", "lora", record, hash_files(folder, [tensors]))
    base = {"spec": record.get("base_model_name_or_path")}
    return Adapter(folder, "lora", "lora", digest, base, {"rank": record.get("r")})


def _digest(kind: str, method: str, config: Mapping[str, Any], files: dict[str, str]) -> str:
    text = json.dumps({"kind": kind, "method": method, "config": config}, sort_keys=True)
    return hash_of_hashes({**files, "config": hashlib.sha256(text.encode()).hexdigest()})


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a JSON object")
    return record
