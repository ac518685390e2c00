"""Engine arguments of vLLM: the user's ``--model-arg key=value``, typed and checked before anything is loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stepgame.errors import InputError, did_you_mean

__all__ = ["parse_engine_args"]

_FLAGS = {
    "model": "--model",
    "revision": "--model NAME@REVISION",
    "dtype": "--dtype",
    "seed": "--seed",
    "max_num_batched_tokens": "--batch-tokens",
}
"""Engine arguments that have a flag of their own."""

_FIXED = {
    "tokenizer": "prompts are rendered by the model's own tokenizer",
    "tokenizer_revision": "prompts are rendered by the model's own tokenizer",
    "skip_tokenizer_init": "stop texts need the tokenizer",
    "logprobs_mode": "scores are log-probabilities of the model itself",
    "runner": "the model is asked for text",
    "convert": "the model is asked for text",
}
"""Engine arguments that would change what a score or a text means."""

_YES = {"true": True, "1": True, "yes": True, "on": True}
_NO = {"false": False, "0": False, "no": False, "off": False}


def parse_engine_args(args: Mapping[str, str]) -> dict[str, Any]:
    """Turn the texts of ``--model-arg`` into what ``vllm.EngineArgs`` takes.

    vLLM's own command line says which arguments there are and how each is read, so that ``max_model_len=2k`` and
    ``hf_overrides={"rope_theta": 1e6}`` mean here what they mean there.

    Args:
        args: by name of the engine argument, in either spelling (``max_model_len`` or ``max-model-len``).

    Raises:
        InputError: if there is no such argument, it has a flag of its own, or its value cannot be read.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    if not args:
        return {}
    flexible: Any = FlexibleArgumentParser
    parser = EngineArgs.add_cli_args(flexible(add_help=False))
    names = {field.name for field in fields(EngineArgs)}
    actions = {action.dest: action for action in parser._actions if action.dest in names}
    found: dict[str, Any] = {}
    for given, text in args.items():
        name = given.replace("-", "_")
        if name in _FLAGS:
            raise InputError(f"--model-arg {given}: use {_FLAGS[name]} instead")
        if name in _FIXED:
            raise InputError(f"--model-arg {given} cannot be set: {_FIXED[name]}")
        if name not in actions:
            raise InputError(
                f"--model-arg {given}: vLLM has no engine argument of this name{did_you_mean(name, actions)}"
            )
        if name in found:
            raise InputError(f"--model-arg {given} is given twice")
        found[name] = _read(given, actions[name], text)
    return found


def _read(name: str, action: argparse.Action, text: str) -> Any:
    """Read one value the way vLLM's command line would.

    Raises:
        InputError: if it cannot be read or is not among the choices.
    """
    if action.nargs == 0:
        value: Any = (_YES | _NO).get(text.lower())
        if value is None:
            raise InputError(f"--model-arg {name}={text}: expected true or false")
        return value
    if action.nargs in ("+", "*"):
        return [_convert(name, action, part) for part in _parts(name, text)]
    return _convert(name, action, text)


def _parts(name: str, text: str) -> list[str]:
    try:
        parts = json.loads(text) if text.startswith("[") else [text]
    except ValueError as error:
        raise InputError(f"--model-arg {name}={text}: not valid JSON: {error}") from None
    return [part if isinstance(part, str) else json.dumps(part) for part in parts]


def _convert(name: str, action: argparse.Action, text: str) -> Any:
    convert: Any = action.type or str
    try:
        value = convert(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise InputError(f"--model-arg {name}={text}: {reason or 'not a value of this argument'}") from None
    if action.choices is not None and value not in action.choices:
        known = [str(choice) for choice in action.choices]
        raise InputError(f"--model-arg {name}={text}{did_you_mean(text, known)}: expected one of {', '.join(known)}")
    return value
