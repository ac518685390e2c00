"""The adapters' verbs on the command line: ``train``, with ``train inspect``, which only looks, and ``serve``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from adapters.methods import METHODS, method_flags
from adapters.pcp.config import METHODS as PIPELINES
from adapters.pcp.config import NAME as PCP
from adapters.pcp.config import PipelineSettings
from adapters.serving import ServeSettings
from adapters.settings import TrainSettings
from harness.flags import with_flags
from harness.provenance import command_line
from harness.threads import wait_without_spinning
from stepgame.errors import InputError

__all__ = ["serve", "train"]

INSPECT = "inspect"
_METHODS = "; ".join(f"{name}: {entry.help}" for name, entry in METHODS.items())
_PIPELINES = "; ".join(f"{name}: {help}" for name, help in PIPELINES.items())
_PANEL = "Looking at the data (inspect)"


@with_flags([*TrainSettings.flags(), *method_flags(), *PipelineSettings.flags()])
def train(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help=f"{_METHODS}; {PCP}: a task from few labelled and many unlabelled texts, the way --method says; "
            f"{INSPECT}: show what --method would learn from, and train nothing",
            show_default=False,
        ),
    ],
    looked_at: Annotated[
        str | None,
        typer.Option(
            "--method",
            envvar="STEPGAME_METHOD",
            help=f"With {INSPECT}, whose view is shown. With {PCP}: {_PIPELINES}. [default: pcp]",
        ),
    ] = None,
    show: Annotated[
        int | None, typer.Option("--show", help="Examples shown.", rich_help_panel=_PANEL, show_default="5")
    ] = None,
    **settings: Any,
) -> None:
    """Train an adapter."""
    given = {key: value for key, value in settings.items() if value is not None}
    if method == INSPECT:
        _inspect(looked_at, 5 if show is None else show, given)
        return
    if method == PCP and show is None:
        _learn_few(looked_at, given)
        return
    if looked_at is not None or show is not None:
        raise InputError(
            f"--method and --show belong to `stepgame train {INSPECT}`, --method to `stepgame train {PCP}` too; name a "
            "method alone to train it"
        )
    from adapters.api import train

    adapter = train(method, command=command_line(), **given)
    typer.echo(f"adapter: {adapter.folder} ({adapter.method}, content hash {adapter.content_hash[:12]})")


@with_flags(ServeSettings.flags())
def serve(**settings: Any) -> None:
    """Serve a model and its adapters by the OpenAI protocol, through vLLM."""
    wait_without_spinning()
    from adapters.server import run_server

    run_server(ServeSettings(**settings))


def _learn_few(name: str | None, given: Mapping[str, Any]) -> None:
    from adapters.api import train_pcp

    chosen = {} if name is None else {"method": name}
    made = train_pcp(command=command_line(), **chosen, **given)
    typer.echo(f"model: {made.folder} ({made.method}, content hash {made.content_hash[:12]})")


def _inspect(name: str | None, show: int, given: Mapping[str, Any]) -> None:
    from rich.console import Console

    from adapters.api import split_settings
    from adapters.inspect import inspect_data

    if name is None:
        raise InputError(f"`stepgame train {INSPECT}` shows what a method learns from; name it, as in --method im")
    made, settings = split_settings(name, given)
    console = Console(highlight=False, soft_wrap=True)
    for line in inspect_data(made, settings, show):
        console.print(line)
