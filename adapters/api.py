"""Training and loading from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from adapters.method import Method
from adapters.methods import make_method
from adapters.pcp.config import split_pipeline_settings
from adapters.settings import TrainSettings
from harness.models.adapters import Adapter, read_adapter
from harness.provenance import command_line
from harness.threads import wait_without_spinning
from stepgame.errors import require

__all__ = ["load", "split_settings", "train", "train_pcp"]


def train(
    method: str, *, model: str, out: str | Path | None = None, command: Sequence[str] | None = None, **settings: Any
) -> Adapter:
    """Train a model by a method, and write the adapter.

    Args:
        method: one of `adapters.methods.METHODS`.
        model: a model spec; see `harness.models.registry.parse_model`.
        out: folder of the adapter.
        command: what to record as the command line; the process's own when omitted.
        settings: fields of `adapters.settings.TrainSettings`, and of the method's configuration, such as
            ``prompt_length`` and ``rank``.

    Returns:
        The adapter.

    Raises:
        InputError: if anything about the request is wrong.
        adapters.trainer.TrainingStoppedError: if the loss is no longer finite.
    """
    made, given = split_settings(method, {"model": model, "out": out, **settings})
    _require_libraries()
    from adapters.training import perform_training

    return perform_training(made, given, _words(command))


def train_pcp(
    *, model: str, out: str | Path | None = None, command: Sequence[str] | None = None, **settings: Any
) -> Adapter:
    """Learn a task from few labelled and many unlabelled texts, and write the model.

    Args:
        model: a model spec: a masked language model or a decoder; see `harness.models.registry.parse_model`.
        out: folder of the model.
        command: what to record as the command line; the process's own when omitted.
        settings: fields of `adapters.settings.TrainSettings` and of `adapters.pcp.config.PipelineSettings`, such as
            ``method``, ``task``, ``labelled`` and ``unlabelled``.

    Returns:
        The model, as an adapter that takes its base model's place.

    Raises:
        InputError: if anything about the request is wrong.
        adapters.trainer.TrainingStoppedError: if a loss is no longer finite.
    """
    given = split_pipeline_settings({"model": model, "out": out, **settings})
    _require_libraries()
    from adapters.pcp.pipeline import perform_pipeline

    return perform_pipeline(given, _words(command))


def _require_libraries() -> None:
    wait_without_spinning()
    for library in ("torch", "transformers", "accelerate"):
        require(library, "train", "training")


def _words(command: Sequence[str] | None) -> Sequence[str]:
    return command_line() if command is None else command


def split_settings(method: str, settings: Mapping[str, Any]) -> tuple[Method, TrainSettings]:
    """Divide settings into the method's own and those that every method has.

    Args:
        method: one of `adapters.methods.METHODS`.
        settings: by name; with ``model``.

    Raises:
        InputError: if one is unknown or out of range.
    """
    shared = {each.name for each in fields(TrainSettings)}
    common = {key: value for key, value in settings.items() if key in shared}
    own = {key: value for key, value in settings.items() if key not in shared}
    return make_method(method, own), TrainSettings(**common)


def load(path: str | Path) -> Adapter:
    """Read an adapter's folder.

    Returns:
        What the folder says of itself; give it to `harness.models.registry.parse_model`, or its path to
        ``harness.evaluate(..., adapter=...)``.

    Raises:
        InputError: if it is no adapter, or incomplete.
    """
    return read_adapter(path)
