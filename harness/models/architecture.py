"""What kind of model a checkpoint holds, read off its configuration before anything heavy is imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from harness.models.base import ModelRequest, Verb
from harness.models.builtin import BUILTIN
from stepgame.errors import InputError, require

__all__ = ["Architecture", "architecture_of", "check_engine", "kind_of", "positions_of"]

Architecture = Literal["masked", "classifier", "encoder", "generative"]
"""A masked language model; a model with a classification head; an encoder with neither; anything that writes text."""


def kind_of(names: Sequence[str]) -> Architecture:
    """Return the kind of a model by the classes that its configuration names; generative if it names none.

    Args:
        names: ``architectures`` of transformers' configuration.
    """
    name = names[0] if names else ""
    if name.endswith("ForMaskedLM") or name == "BertForPreTraining":
        return "masked"
    if name.endswith("ForSequenceClassification"):
        return "classifier"
    writes = ("CausalLM", "LMHead", "ConditionalGeneration")
    return "generative" if not names or any(word in each for each in names for word in writes) else "encoder"


_OFFSET = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
}
"""Kinds of models that count positions from behind the padding's id on."""


def positions_of(config: Any) -> int | None:
    """Return how many tokens a model takes at most; None where there is no such bound.

    Args:
        config: of transformers.
    """
    own = config.get_text_config(decoder=True)
    found = getattr(own, "max_position_embeddings", None)
    if found is None:
        return None
    return int(found) - (int(own.pad_token_id) + 1 if own.model_type in _OFFSET else 0)


def architecture_of(request: ModelRequest) -> Architecture:
    """Return what kind of model a request names; of a hub model the configuration is fetched.

    Raises:
        InputError: if its configuration is not to be had.
    """
    found = _in_folder(request)
    if found is not None:
        return found
    if request.target == BUILTIN:
        return "generative"
    transformers: Any = require("transformers", "hf", "the transformers backend")
    from harness.models.chat import unloadable

    place = {"revision": request.revision} if request.revision else {}
    try:
        config = transformers.AutoConfig.from_pretrained(request.target, **place)
    except (OSError, ValueError, KeyError) as error:
        raise unloadable(request, error) from None
    return kind_of(getattr(config, "architectures", None) or [])


def check_engine(request: ModelRequest, verb: Verb | None = None) -> None:
    """Check that a backend can do what it is asked to with a checkpoint in a folder; what lies elsewhere passes.

    Args:
        request: the model, and the backend.
        verb: what it will be asked; None where that is open.

    Raises:
        InputError: if it is a masked language model that is to write, or to be run by vLLM; or a classifier.
    """
    kind = _in_folder(request)
    if kind == "classifier":
        raise InputError(
            f"model {request.spec!r} is a classifier, whose head knows its own classes only; it can be asked no "
            "options. Its training's record (training/result.json) has its accuracy"
        )
    if kind != "masked":
        return
    if request.backend == "vllm":
        raise InputError(
            f"model {request.spec!r} is a masked language model, which vLLM does not run; use --backend hf"
        )
    if verb == "generate":
        raise InputError(f"model {request.spec!r} is a masked language model, which writes no text; use --score choice")


def _in_folder(request: ModelRequest) -> Architecture | None:
    """Return the kind of a checkpoint in a folder; None if it lies elsewhere, or cannot be told."""
    if request.adapter is not None and request.adapter.kind == "weights":
        folder = request.adapter.folder
    elif request.target == BUILTIN:
        # Not a folder of that name in the place where this runs.
        return None
    else:
        folder = Path(request.target)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return kind_of([str(each) for each in config.get("architectures") or []])
    except (OSError, ValueError, AttributeError):
        return None
