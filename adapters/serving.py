"""Adapters as models of a server: what is served under which name, decided before any weights are loaded.

Every kind of adapter becomes something that vLLM takes:

- A soft prompt is applied to each request's prompt, which reaches the engine as embeddings.
- A LoRA adapter is one of vLLM's own.
- A whole checkpoint is loaded in the base model's place; there is room for one, and nothing else goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from harness.flags import flag, key_values
from harness.models.adapters import Adapter, read_adapter
from harness.models.architecture import check_engine
from harness.models.base import ModelRequest
from harness.models.registry import ENGINES, NAMED, parse_model
from stepgame.errors import InputError

__all__ = ["ServePlan", "ServeSettings", "name_adapters", "plan_serving"]

_MODEL, _SERVER = "Model", "Server"


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Everything that may be said about a server; each field's metadata says what it means, under ``help``.

    Raises:
        InputError: if the port is none.
    """

    model: str = field(metadata=flag(_MODEL, "smollm2, a folder, or ORG/NAME on the hub, with @REVISION.", str))
    adapters: Sequence[str] = field(
        default=(),
        metadata=flag(
            _MODEL,
            "NAME=DIR: what was trained on top of the model (stepgame train, or PEFT's LoRA), and its model name; "
            "DIR alone goes by the folder's name. May be repeated.",
            list[str] | None,
            "--adapter",
            variable="STEPGAME_ADAPTERS",
        ),
    )
    served_model_name: str | None = field(
        default=None, metadata=flag(_MODEL, "Model name of the base model. [default: as --model]", str | None)
    )
    dtype: str = field(
        default="auto",
        metadata=flag(_MODEL, "auto (float32 on CPU, bfloat16 on CUDA), float32, bfloat16, float16.", str),
    )
    device: str = field(default="auto", metadata=flag(_MODEL, "auto, cpu or cuda.", str))
    seed: int = field(default=0, metadata=flag(_MODEL, "Of draws whose request has no seed.", int))
    model_args: Sequence[str] = field(
        default=(),
        metadata=flag(
            _MODEL,
            "KEY=VALUE: an argument of vLLM's engine, such as max_model_len=4096; may be repeated.",
            list[str] | None,
            "--model-arg",
            variable="STEPGAME_MODEL_ARG",
        ),
    )
    host: str = field(
        default="127.0.0.1", metadata=flag(_SERVER, "Address to listen on; 0.0.0.0 for every network.", str)
    )
    port: int = field(default=8000, metadata=flag(_SERVER, "Port to listen on; 0 for any that is free.", int))

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port must be between 0 and 65535, got {self.port}")

    @classmethod
    def flags(cls) -> list[Field[Any]]:
        """Return the fields, for the command line to offer."""
        return list(fields(cls))


@dataclass(frozen=True, slots=True)
class ServePlan:
    """What a server serves.

    Attributes:
        request: the base model.
        name: model name of what the engine is loaded with: the base, or the checkpoint in its place.
        checkpoint: that checkpoint, if there is one.
        adapters: soft prompts and LoRA adapters, by model name.
    """

    request: ModelRequest
    name: str
    checkpoint: Adapter | None
    adapters: Mapping[str, Adapter]

    @property
    def loaded(self) -> list[Adapter]:
        """Everything that was trained, whatever its kind."""
        return [*([] if self.checkpoint is None else [self.checkpoint]), *self.adapters.values()]


def name_adapters(texts: Sequence[str]) -> dict[str, Adapter]:
    """Read the folders of ``NAME=DIR`` and ``DIR``; loads no tensors.

    Args:
        texts: as the command line gives them.

    Returns:
        The adapters by model name, in the order given.

    Raises:
        InputError: if one is neither, a name is given twice, or a folder is no adapter that can be used.
    """
    found: dict[str, Adapter] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        # A folder whose own name has an equals sign in it is a folder all the same.
        if not equals or Path(text).is_dir():
            name, folder = Path(text).absolute().name, text
        if not name.strip() or not folder:
            raise InputError(f"--adapter {text!r}: expected NAME=DIR, or DIR")
        name = name.strip()
        if name in found:
            raise InputError(f"--adapter {text!r}: the name {name!r} is taken by {found[name].folder}; give NAME=DIR")
        found[name] = read_adapter(folder)
    return found


def plan_serving(settings: ServeSettings) -> ServePlan:
    """Decide what is served under which name.

    Raises:
        InputError: if the model or an adapter cannot be served, or two models would have one name.
    """
    if NAMED.get(settings.model, "vllm") not in ENGINES:
        raise InputError(f"--model {settings.model} has no weights to serve; give smollm2, a folder, or ORG/NAME")
    args: dict[str, str] = {}
    for key, value in key_values("--model-arg", settings.model_args or ()):
        if key in args:
            raise InputError(f"--model-arg {key} is given twice; keep one")
        args[key] = value
    request = parse_model(
        settings.model,
        backend="vllm",
        dtype=settings.dtype,
        device=settings.device,
        seed=settings.seed,
        args=args,
    )
    check_engine(request)
    named = name_adapters(settings.adapters or ())
    whole = [name for name, adapter in named.items() if adapter.kind == "weights"]
    if whole and len(named) > 1:
        raise InputError(
            f"adapter {whole[0]!r} is a whole checkpoint, which takes the base model's place; serve it alone, "
            f"without {', '.join(repr(name) for name in named if name != whole[0])}"
        )
    if whole:
        if settings.served_model_name is not None:
            raise InputError(
                f"--served-model-name {settings.served_model_name!r} names the base model, whose place the checkpoint "
                f"{whole[0]!r} takes; leave it out"
            )
        check_engine(replace(request, adapter=named[whole[0]]))
        return ServePlan(request, whole[0], named[whole[0]], {})
    base = settings.served_model_name or request.target
    if base in named:
        raise InputError(
            f"adapter {named[base].folder} has the name of the base model, {base!r}; give --adapter NAME=DIR another"
        )
    return ServePlan(request, base, None, named)
