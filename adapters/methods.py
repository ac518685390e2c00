"""The table of training methods: from a name to the class, before anything heavy is imported."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, NamedTuple

from adapters.method import Method
from stepgame.errors import InputError, unknown_name

__all__ = ["METHODS", "MethodEntry", "make_method", "method_flags"]


class MethodEntry(NamedTuple):
    """Where a method lives.

    Attributes:
        cls: module and class, which import torch.
        config: module and dataclass of its settings, which do not.
        help: what it is, for the command line.
        fixed: settings that are the method's own and no flags.
        defaults: settings that differ from the configuration's.
    """

    cls: str
    config: str
    help: str
    fixed: Mapping[str, Any] = {}
    defaults: Mapping[str, Any] = {}


_SOFT = "adapters.dept.method:SoftPromptMethod"
_SOFT_CONFIG = "adapters.dept.config:SoftPromptConfig"

_IM = "adapters.im.method:InstructionMethod"
_IM_CONFIG = "adapters.im.config:InstructionConfig"

METHODS: dict[str, MethodEntry] = {
    "it": MethodEntry(
        _IM,
        _IM_CONFIG,
        "instruction tuning, loss over outputs",
        {"prompt_weight": 0.0, "response_weight": 1.0, "template_tokens": "mask"},
    ),
    "im": MethodEntry(_IM, _IM_CONFIG, "instruction modelling, loss over instructions too (Shi et al. 2024)"),
    "pt": MethodEntry(_SOFT, _SOFT_CONFIG, "prompt tuning", {"offset": "none"}),
    "dept": MethodEntry(
        _SOFT, _SOFT_CONFIG, "decomposed prompt tuning (Shi & Lipani 2024)", {"offset": "position"}, {"rank": 30}
    ),
    "adept": MethodEntry(
        _SOFT, _SOFT_CONFIG, "DePT with offsets shared by tokens (ADePT)", {"offset": "token"}, {"rank": 30}
    ),
    "lora": MethodEntry("adapters.lora.method:LoRAMethod", "adapters.lora.config:LoRAConfig", "LoRA, by PEFT"),
    "full": MethodEntry("adapters.full.method:FullMethod", "adapters.full.config:FullConfig", "all weights"),
}


def method_flags() -> list[Field[Any]]:
    """Return the settings of all methods, each once, for the command line to offer; None stands for "not given"."""
    found: dict[str, Field[Any]] = {}
    for entry in METHODS.values():
        for each in fields(_load(entry.config)):
            if each.name not in entry.fixed and each.metadata:
                offered = copy.copy(each)
                offered.default = None
                found.setdefault(each.name, offered)
    return list(found.values())


def make_method(name: str, given: Mapping[str, Any]) -> Method:
    """Build a method from the settings that were given.

    Args:
        name: one of `METHODS`.
        given: settings by name; those that are None were not given.

    Raises:
        InputError: if there is no such method, or it does not take a setting.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    entry = METHODS[name]
    config = _load(entry.config)
    known = _settings(entry)
    values = {key: value for key, value in given.items() if value is not None}
    for key in values:
        if key not in known:
            others = [other for other, each in METHODS.items() if key in _settings(each)]
            takes = f"; it belongs to {', '.join(others)}" if others else ""
            raise InputError(f"method {name!r} does not take --{key.replace('_', '-')}{takes}")
    made = config(**{**entry.defaults, **values, **entry.fixed})
    cls = _load(entry.cls)
    method: Method = cls(name, made)
    return method


def _settings(entry: MethodEntry) -> set[str]:
    """Return the names of the settings that a method takes."""
    return {each.name for each in fields(_load(entry.config))} - entry.fixed.keys()


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
