"""The adapters' verbs on the command line: ``train`` and ``serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.methods import METHODS, method_flags
from adapters.serving import ServeSettings
from adapters.settings import TrainSettings
from harness.flags import with_flags
from harness.threads import wait_without_spinning

__all__ = ["serve", "train"]

_METHODS = "; ".join(f"{name}: {entry.help}" for name, entry in METHODS.items())


@with_flags([*TrainSettings.flags(), *method_flags()])
def train(
    method: Annotated[str, typer.Argument(metavar="METHOD", help=_METHODS, show_default=False)], **settings: Any
) -> None:
    """Train an adapter."""
    from adapters.api import train

    given = {key: value for key, value in settings.items() if value is not None}
    adapter = train(method, command=[Path(sys.argv[0]).name, *sys.argv[1:]], **given)
    typer.echo(f"adapter: {adapter.folder} ({adapter.method}, content hash {adapter.content_hash[:12]})")


@with_flags(ServeSettings.flags())
def serve(**settings: Any) -> None:
    """Serve a model and its adapters by the OpenAI protocol, through vLLM."""
    wait_without_spinning()
    from adapters.server import run_server

    run_server(ServeSettings(**settings))
