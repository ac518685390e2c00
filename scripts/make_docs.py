"""Write the parts of the documentation that the code already says: the commands, and the columns of the boards.

``python scripts/make_docs.py`` writes them; with ``--check`` it changes nothing and exits with 1 if a file is not
what it would write. Whole files are listed in `FILES`; in `BLOCKS`, what stands between two marks of a file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer.main

from leaderboards.data import published_data, story_sets
from leaderboards.published import CONFIDENCE, PUBLISHED_COLUMNS
from leaderboards.schema import COLUMNS, PER_K
from stepgame.cli import VERBS, typer_of

ROOT = Path(__file__).resolve().parent.parent

HEAD = """# Commands

Written by `scripts/make_docs.py` from the command line itself; `make check` holds the two to each other.
Every flag is also an environment variable, named beside it. Exit codes: 0, 1 for findings, 2 for bad input
(one line on stderr says what and what to do), 130 after Ctrl-C.

"""


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _default(parameter: Any) -> str:
    value, shown = parameter.default, getattr(parameter, "show_default", False)
    if isinstance(shown, str) and shown:
        return f" [default: {shown}]"
    if value in (None, (), "", False) or callable(value) or not shown:
        return ""
    return f" [default: {value}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _table(command: Any, name: str) -> Iterator[str]:
    text = " ".join((command.help or "").split())
    yield f"\n{text}\n"
    parameters = [each for each in command.params if each.name not in ("help", "version")]
    if not parameters:
        return
    yield "| flag | meaning | variable |\n| --- | --- | --- |"
    for each in parameters:
        argument = each.param_type_name == "argument"
        variable = "" if argument else f"`{each.envvar or 'STEPGAME_' + each.name.upper()}`"
        needed = " (required)" if each.required and not argument else ""
        yield f"| {_names(each)} | {_cell((each.help or '') + _default(each) + needed)} | {variable} |"
    yield ""


def commands() -> str:
    """Return the reference of the command line."""
    lines = [HEAD.rstrip(), ""]
    lines += [f"- [`stepgame {name}`](#stepgame-{name}): {verb.help}" for name, verb in VERBS.items()]
    for name in VERBS:
        root = typer.main.get_command(typer_of(name))
        command: Any = root.commands[name]  # type: ignore[attr-defined]
        lines.append(f"\n## stepgame {name}")
        if hasattr(command, "commands"):
            lines.append(f"\n{VERBS[name].help}")
            for each, inner in command.commands.items():
                lines += [f"\n### stepgame {name} {each}", *_table(inner, f"{name} {each}")]
        else:
            lines += _table(command, name)
    return "\n".join(lines).rstrip() + "\n"


def _rows(head: str, rows: Iterable[tuple[object, ...]]) -> str:
    columns = head.split("|")
    lines = [f"| {' | '.join(each.strip() for each in columns)} |", f"|{' --- |' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)])


def board_columns() -> str:
    """Return the columns of a board of our own."""
    per_k = [(f"`{column.name}_k…`", column.meaning) for column in PER_K]
    return _rows("column | meaning", [*((f"`{column.name}`", column.meaning) for column in COLUMNS), *per_k])


def published_columns() -> str:
    """Return the columns of published figures, and the words of confidence."""
    columns = _rows("column | meaning", [(f"`{column.name}`", column.meaning) for column in PUBLISHED_COLUMNS])
    words = [(f"`{word}`", about, "yes" if shown else "on request") for word, (shown, about) in CONFIDENCE.items()]
    return f"{columns}\n\n{_rows('confidence | meaning | plotted', words)}"


def data_versions() -> str:
    """Return the named sets of stories, and the data versions of published figures."""
    ours = [(f"`{each.name}`", each.about, f"`{each.sha256[:16]}…`") for each in story_sets().values()]
    theirs = [
        (f"`{each.name}`", each.about, "yes" if each.ranked else "no: listed, not ranked")
        for each in published_data().values()
    ]
    return f"{_rows('ours | stories | hash', ours)}\n\n{_rows('published | what it is | ranked', theirs)}"


FILES: dict[str, Callable[[], str]] = {"docs/commands.md": commands}
BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "leaderboards/README.md": {"columns": board_columns, "published": published_columns, "data": data_versions}
}


def _filled(text: str, name: str, body: str) -> str:
    begin, end = f"<!-- begin {name}, written by scripts/make_docs.py -->", f"<!-- end {name} -->"
    before, _, rest = text.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"no marks {begin} ... {end}")
    return f"{before}{begin}\n{body}\n{end}{after}"


def main() -> int:
    """Write or check every file."""
    wanted = {name: made() for name, made in FILES.items()}
    for name, blocks in BLOCKS.items():
        wanted[name] = (ROOT / name).read_text(encoding="utf-8")
        for mark, made in blocks.items():
            wanted[name] = _filled(wanted[name], mark, made())
    stale = [n for n, text in wanted.items() if not (ROOT / n).is_file() or (ROOT / n).read_text("utf-8") != text]
    for name in stale:
        if "--check" not in sys.argv:
            (ROOT / name).parent.mkdir(exist_ok=True)
            (ROOT / name).write_text(wanted[name], encoding="utf-8")
        print(f"{name}: {'out of date; run: python scripts/make_docs.py' if '--check' in sys.argv else 'written'}")
    print(f"{len(wanted)} documents, {len(stale)} stale")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
