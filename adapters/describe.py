"""What a model is, found out without its weights."""

from __future__ import annotations

from typing import Any

from adapters.method import BaseModel
from harness.models.adapters import model_source
from harness.models.architecture import kind_of
from harness.models.base import ModelRequest
from harness.models.chat import load_tokenizer, unloadable
from stepgame.errors import InputError, require

__all__ = ["describe_model", "load_fast_tokenizer"]


def describe_model(request: ModelRequest, *, masked: bool = False) -> BaseModel:
    """Find out what a model is.

    Args:
        request: which one.
        masked: whether masked language models are welcome too.

    Returns:
        With an empty content hash for a hub model, whose files are all here only when its weights are.

    Raises:
        InputError: if it is not to be had, or no model that writes text.
    """
    transformers: Any = require("transformers", "hf", "training")
    source, digest = model_source(request)
    place = {"revision": request.revision} if request.revision else {}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **place)
    except (OSError, ValueError, KeyError) as error:
        raise unloadable(request, error) from None
    names = getattr(config, "architectures", None) or []
    kind = kind_of(names)
    if kind != "generative" and not (masked and kind == "masked"):
        trains = "masked language models and decoders" if masked else "decoders and encoder-decoders"
        raise InputError(f"model {request.spec!r} ({names[0]}) is an encoder only; this method trains {trains}")
    return BaseModel(request.spec, source, digest or "", request.revision, config)


def load_fast_tokenizer(request: ModelRequest) -> Any:
    """Load a model's tokenizer, one that knows which characters its tokens are.

    Raises:
        InputError: if it is not to be had, or is not of that kind.
    """
    tokenizer = load_tokenizer(request)
    if not tokenizer.is_fast:
        raise InputError(f"model {request.spec!r} has no fast tokenizer (tokenizer.json), which training needs")
    return tokenizer
