"""The table of models: from what the user wrote to a backend, before anything heavy is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from harness.models.adapters import Adapter, read_adapter
from harness.models.architecture import architecture_of, check_engine
from harness.models.base import Model, ModelRequest, Prompt, Verb
from harness.plugins import Plugin, find_plugin, plugin_names
from harness.task import Example
from stepgame.errors import InputError, did_you_mean, unknown_name

__all__ = [
    "ADAPTED",
    "BACKENDS",
    "DTYPES",
    "ENGINES",
    "GROUP",
    "NAMED",
    "Backend",
    "load_model",
    "parse_model",
    "render_without_weights",
    "require_verb",
]

DTYPES = ("auto", "float32", "bfloat16", "float16")


class Backend(NamedTuple):
    """Where a backend lives and what it can do; repeated here so that asking needs no import."""

    module: str
    cls: str
    verbs: frozenset[Verb]
    help: str
    local: bool = False
    """Whether the model's tokenizer is at hand, so that prompts can be rendered without its weights."""
    args: bool = False
    """Whether it has settings of its own; one without must refuse them, or they would count for nothing in silence."""


BOTH: frozenset[Verb] = frozenset(("choose", "generate"))

BACKENDS: dict[str, Backend] = {
    "hf": Backend("harness.models.hf", "HFModel", BOTH, "transformers, on CPU or CUDA", local=True),
    "vllm": Backend("harness.models.vllm", "VLLMModel", BOTH, "vLLM's offline engine, on CUDA or CPU", True, True),
    "openai": Backend("harness.models.openai", "OpenAIModel", BOTH, "a server of the OpenAI protocol", args=True),
    "oracle": Backend("harness.models.symbolic", "Oracle", BOTH, "reads and solves the story"),
    "random": Backend("harness.models.symbolic", "Random", BOTH, "any option, all alike"),
    "majority": Backend("harness.models.symbolic", "Majority", BOTH, "the training split's most frequent label"),
}

MASKED = ("harness.models.masked", "MaskedModel")
"""What asks a masked language model on the backend ``hf``."""

NAMED: dict[str, str] = {"smollm2": "hf", "oracle": "oracle", "random": "random", "majority": "majority"}
"""Models with a name of their own, and the backend that a name alone means."""

ENGINES = ("hf", "vllm", "openai")
"""Backends that take a model, and may be given as ``--backend`` or as a prefix of the spec."""

ADAPTED = ("hf", "vllm")
"""Backends that run the weights themselves and can apply an adapter to them."""

GROUP = "stepgame.models"
"""Entry points of this group are models too: the name is the model's, the object its class."""


def parse_model(
    spec: str,
    *,
    backend: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    seed: int = 0,
    args: Mapping[str, str] | None = None,
    adapter: str | Path | None = None,
) -> ModelRequest:
    """Turn a model spec into a request, without importing a backend.

    Args:
        spec: ``smollm2``, ``oracle``, ``random``, ``majority``, a folder, or ``ORG/NAME`` on the hub; the last two
            may end in ``@REVISION``, and an engine's name with a colon may come first (``hf:smollm2``).
            An installed model goes by its name, with what it takes behind a colon.
        backend: the engine, if the spec does not name it; ``hf`` when omitted.
        dtype: see `ModelRequest`.
        device: see `ModelRequest`.
        batch_tokens: see `ModelRequest`.
        seed: see `ModelRequest`.
        args: see `ModelRequest`.
        adapter: folder of an adapter; see `harness.models.adapters.read_adapter`.

    Raises:
        InputError: if the model, the backend, the dtype or the adapter does not exist, two backends are named, or
            the backend takes no adapters.
    """
    prefix, name = _split_prefix(spec)
    if backend is not None and backend not in ENGINES:
        raise unknown_name("backend", backend, ENGINES)
    if prefix is not None and backend is not None and prefix != backend:
        raise InputError(f"model {spec!r} names the backend {prefix!r}, but --backend is {backend!r}; keep one")
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"--batch-tokens must be at least 1, got {batch_tokens}")
    chosen, target, revision = _find_model(spec, prefix or backend, name)
    request = ModelRequest(spec, chosen, target, revision, dtype, device, batch_tokens, seed, dict(args or {}))
    # What an installed model takes is its own affair.
    if chosen in BACKENDS:
        _refuse_unused(request)
    return request if adapter is None else replace(request, adapter=_adapter(adapter, chosen))


def _adapter(path: str | Path, backend: str) -> Adapter:
    if backend not in ADAPTED:
        raise InputError(
            f"backend {backend!r} takes no --adapter; use {' or '.join(ADAPTED)}"
            + ("; a server's adapters have model names of their own" if backend == "openai" else "")
        )
    return read_adapter(path)


def _find_model(spec: str, engine: str | None, name: str) -> tuple[str, str, str | None]:
    """Return backend, target and revision of a spec whose prefix is off."""
    if engine is not None and engine not in ENGINES:
        # What stands behind the colon is the plug-in's own.
        return engine, name, None
    if engine == "openai":
        if not name:
            raise InputError(f"model {spec!r} names no model; expected openai:MODEL, by the server's name for it")
        # A server's names may hold anything, and are not ours to take apart.
        return engine, name, None
    target, revision = (name, None) if _is_folder(name) else _split_revision(name)
    if target in NAMED:
        chosen = NAMED[target]
        if revision is not None:
            raise InputError(f"model {target!r} is built in and has no revisions; leave out @{revision}")
        if engine is not None and chosen not in ENGINES:
            raise InputError(f"model {target!r} needs no backend; leave out {engine!r}")
    elif "/" in target or _is_folder(target):
        chosen = "hf"
    else:
        raise _unknown_model(spec, target)
    return engine or chosen, target, revision


def _refuse_unused(request: ModelRequest) -> None:
    if request.args and not BACKENDS[request.backend].args:
        flags = {"base_url": "--base-url", "api": "--api", "concurrency": "--concurrency"}
        given = next(iter(request.args))
        having = " or ".join(name for name, backend in BACKENDS.items() if backend.args)
        raise InputError(
            f"{flags.get(given, f'--model-arg {given}')} means nothing to the backend {request.backend!r} of model "
            f"{request.spec!r}; leave it out, or use --backend {having}"
        )


def require_verb(request: ModelRequest, verb: Verb) -> None:
    """Check that a backend has a verb, without importing it; an installed model's class has to be.

    Raises:
        InputError: if it has not, with the scoring that it does have; or a model in a folder is of a kind that the
            backend cannot ask.
    """
    if request.backend in ADAPTED:
        check_engine(request, verb)
    plugin = _plugin(request.backend)
    if plugin is not None:
        cls = plugin.load()
        verbs = frozenset(each for each in BOTH if callable(getattr(cls, each, None)))
    else:
        verbs = BACKENDS[request.backend].verbs
    if verb not in verbs:
        score = {"choose": "choice", "generate": "generate"}
        has = " or ".join(f"--score {score[each]}" for each in sorted(verbs))
        raise InputError(f"backend {request.backend!r} cannot {verb}; use {has}")


def load_model(request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Model:
    """Import the backend and load the model; see `Model.load`."""
    plugin = _plugin(request.backend)
    if plugin is not None:
        cls = plugin.load()
    else:
        backend = BACKENDS[request.backend]
        module, name = backend.module, backend.cls
        if request.backend == "hf" and architecture_of(request) == "masked":
            module, name = MASKED
        cls = getattr(importlib.import_module(module), name)
    loaded: Model = cls.load(request, training)
    return loaded


def render_without_weights(request: ModelRequest, prompts: Sequence[Prompt]) -> list[str] | None:
    """Return what a model would read for some prompts; None where only the model or a server knows.

    Raises:
        InputError: if its tokenizer is not to be had.
    """
    backend = BACKENDS.get(request.backend)
    if backend is None or not backend.local:
        return None
    from harness.models.chat import render_prompts

    return render_prompts(request, prompts)


def _plugin(name: str) -> Plugin | None:
    # What comes with the harness needs no look at what is installed.
    known = name in BACKENDS or name in NAMED or not name or "/" in name
    return None if known else find_plugin(GROUP, name)


def _split_prefix(spec: str) -> tuple[str | None, str]:
    prefix, colon, rest = spec.partition(":")
    if not colon and not _is_folder(spec) and _plugin(spec) is not None:
        return spec, spec
    if not colon or "/" in prefix or "\\" in prefix or _is_folder(spec):
        return None, spec
    if prefix not in ENGINES and _plugin(prefix) is None:
        raise InputError(
            f"unknown backend {prefix!r} in model {spec!r}{did_you_mean(prefix, ENGINES)}; "
            f"available: {', '.join(ENGINES)}"
        )
    return prefix, rest


def _unknown_model(spec: str, target: str) -> InputError:
    named = [*NAMED, *plugin_names(GROUP)]
    return InputError(
        f"unknown model {spec!r}{did_you_mean(target, named)}; known: {', '.join(named)}, an existing folder, "
        "or ORG/NAME on the Hugging Face hub"
    )


def _split_revision(name: str) -> tuple[str, str | None]:
    target, at, revision = name.rpartition("@")
    if not at:
        return name, None
    if not target or not revision:
        raise InputError(f"model {name!r}: expected PATH-OR-ID@REVISION, with both sides of @ given")
    return target, revision


def _is_folder(name: str) -> bool:
    # A name with a NUL byte or beyond the system's length is no folder, and asking must not crash.
    try:
        return bool(name) and Path(name).is_dir()
    except (OSError, ValueError):
        return False
