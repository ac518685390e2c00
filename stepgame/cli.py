"""The front door: one console command whose verbs live in each package's ``commands.py``.

Only the verb that was asked for is imported, so ``stepgame --help`` loads neither numpy nor torch.
"""

from __future__ import annotations

import errno
import functools
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import typer

import stepgame
from stepgame.errors import StepGameError, did_you_mean

__all__ = ["VERBS", "Verb", "main", "typer_of"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it (128 + SIGINT)."""


class Verb(NamedTuple):
    """Where a verb lives and what the front page says about it; ``function`` may name a table of further verbs."""

    module: str
    function: str
    help: str


VERBS: dict[str, Verb] = {
    "generate": Verb("stepgame.commands", "generate", "Make stories with true labels, for any number of hops."),
    "solve": Verb("stepgame.commands", "solve", "Answer stories with the symbolic reader and solver."),
    "audit": Verb("stepgame.audit_commands", "audit", "Find what is wrong with a data set, by kind and by hops."),
    "fix": Verb("stepgame.audit_commands", "fix", "Keep the rows of a data set that pass, or relabel them."),
    "run": Verb("harness.commands", "run", "Ask a model, record every answer, judge it."),
    "tasks": Verb("harness.task_commands", "tasks", "List the tasks that can be asked, and their suites."),
    "lm-eval-tasks": Verb("harness.task_commands", "lm_eval_tasks", "Write StepGame as tasks of lm-eval, print where."),
    "resume": Verb("harness.commands", "resume", "Go on with a run that was cut off."),
    "rescore": Verb("harness.commands", "rescore", "Judge a run's recorded answers again, without the model."),
    "compare": Verb("harness.compare_commands", "compare", "Compare runs on the same stories, in pairs."),
    "probe": Verb("harness.compare_commands", "probe", "Ask stories again renamed, reordered, reversed."),
    "train": Verb("adapters.commands", "train", "Train an adapter: soft prompts, LoRA, all weights."),
    "serve": Verb("adapters.commands", "serve", "Serve a model and its adapters by the OpenAI protocol."),
    "report": Verb("leaderboards.commands", "report", "Runs as one HTML file, with comparisons and plots."),
    "publish": Verb("leaderboards.commands", "publish", "Append finished runs to a leaderboard CSV."),
    "board": Verb("leaderboards.board_commands", "board", "Check, verify and show leaderboards."),
    "demo": Verb("leaderboards.commands", "demo", "The whole path on the built-in model, in minutes."),
}

# Every flag is also an environment variable: --per-hop is STEPGAME_PER_HOP.
CONTEXT = {"auto_envvar_prefix": "STEPGAME", "help_option_names": ["-h", "--help"]}


# Typer brings its own copy of click; the base of its usage errors has no public name.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]


def _complain(message: str) -> None:
    from stepgame.terminal import printable

    sys.stdout.flush()
    # What is quoted from a file must not steer the terminal.
    shown = "\n".join(map(printable, message.split("\n")))
    print(f"stepgame: error: {shown}", file=sys.stderr)  # noqa: T201


def _describe_os_error(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk{where}; what was finished is kept, free some space and run again"
    return f"{error.strerror or error}{where}"


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Turn expected failures into one line and an exit code; this is the process boundary."""

    @functools.wraps(function)
    def verb(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except StepGameError as error:
            _complain(str(error))
            raise SystemExit(2) from None
        except KeyboardInterrupt as interrupt:
            _complain(str(interrupt) or "interrupted; nothing half-written was left behind")
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            _complain(_describe_os_error(error))
            raise SystemExit(2) from None

    return verb


def _unused() -> None:
    """Stand in for a verb that this process does not run."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stepgame {stepgame.__version__}")
        raise typer.Exit


def _front_page(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, envvar=[], help="Print the version and exit."
    ),
) -> None:
    """Multi-hop spatial reasoning in text: generate, ask, judge, publish."""


def typer_of(wanted: str | None) -> typer.Typer:
    """Return the command line with one verb loaded, and the others as names.

    Args:
        wanted: the verb, one of `VERBS`; None loads none.
    """
    app = typer.Typer(
        name="stepgame",
        no_args_is_help=True,
        add_completion=False,
        context_settings=CONTEXT,
        pretty_exceptions_enable=False,
    )
    app.callback()(_front_page)
    for name, verb in VERBS.items():
        if name != wanted:
            app.command(name, help=verb.help)(_unused)
            continue
        found = getattr(importlib.import_module(verb.module), verb.function)
        if isinstance(found, Mapping):
            group = typer.Typer(no_args_is_help=True, context_settings=CONTEXT, help=verb.help)
            for each, function in found.items():
                group.command(each, context_settings=CONTEXT)(_guarded(function))
            app.add_typer(group, name=name)
        else:
            app.command(name, context_settings=CONTEXT)(_guarded(found))
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (findings), 2 (bad input) or 130 (Ctrl-C).

    Args:
        arguments: the words after ``stepgame``; the process's own when omitted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((word for word in words if not word.startswith("-")), None)
    if wanted is not None and wanted not in VERBS:
        _complain(f"no such command {wanted!r}{did_you_mean(wanted, VERBS)}; see: stepgame --help")
        raise SystemExit(2)
    try:
        code = typer_of(wanted)(args=words or ["--help"], prog_name="stepgame", standalone_mode=False)
    except StepGameError as error:
        _complain(str(error))
        code = 2
    except _USAGE_ERROR as error:
        page = f"stepgame {wanted}" if wanted else "stepgame"
        # A verb with verbs of its own, asked for without one, has printed its help already and says nothing here.
        if said := " ".join(error.format_message().split()):
            _complain(f"{said}; see: {page} --help")
        code = 2
    except KeyboardInterrupt:
        _complain("interrupted before it began")
        code = INTERRUPTED
    raise SystemExit(code or 0)


if __name__ == "__main__":
    main()
