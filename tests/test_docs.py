"""The documentation does what it says: its commands run, or are at least understood, and its links lead somewhere.

A block of commands is fenced as ``bash``. It is run line by line, all blocks of a document in one scratch folder, with
fewer stories (`smaller`). A comment right above the fence changes that:

    <!-- not run: why -->            its flags are only held against the command line
    <!-- run in: repository -->      run in the repository; what it writes goes below $SCRATCH

Commands of ours in a fence without a language are held against the command line alone.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from stepgame.cli import VERBS, main, typer_of

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    "README.md",
    "leaderboards/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n)?```(?P<kind>\w*)\n(?P<body>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")


class Block(NamedTuple):
    mark: str
    commands: list[str]


def blocks(document: str) -> Iterator[Block]:
    for match in BLOCK.finditer((ROOT / document).read_text(encoding="utf-8")):
        if match["kind"] in ("bash", "sh", ""):
            lines = match["body"].replace("\\\n", " ").splitlines()
            plain = "not run: it stands in a plain fence" if not match["kind"] else ""
            yield Block(
                match["mark"] or plain, [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
            )


def smaller(words: list[str]) -> list[str]:
    """Ask one story of each of two k, whatever the document says."""
    made = list(words)
    for place, word in enumerate(words[:-1]):
        if word == "--per-hop":
            made[place + 1] = "9" if "--balance" in words else "1"
        elif word == "--hops":
            made[place + 1] = re.sub(r"^1-\d+$", "1-2", words[place + 1])
    return made


def understood(words: list[str]) -> None:
    """Hold a command's flags against the command line, without running it."""
    verb, *rest = words
    assert verb in VERBS, f"no such command: stepgame {verb}"
    command: Any = typer.main.get_command(typer_of(verb)).commands[verb]  # type: ignore[attr-defined]
    if hasattr(command, "commands"):
        verb, *rest = rest
        command = command.commands[verb]
    command.make_context(verb, rest)


def perform(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one line: ours in this process, which has its libraries loaded, others in a shell."""
    words = shlex.split(line, comments=True)
    if words[0] != "stepgame":
        assert subprocess.run(["bash", "-euc", line], check=False).returncode == 0, line
        return
    found = [sorted(glob.glob(word)) or [word] for word in map(os.path.expandvars, smaller(words))]  # noqa: PTH207
    asked = [each for group in found for each in group]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit) as stopped:
        main(asked[1:])
    assert not stopped.value.code, f"{line}: exit code {stopped.value.code}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "out"))
    (tmp_path / "here").mkdir()
    for block in blocks(document):
        for line in block.commands:
            if block.mark.startswith("not run: "):
                if line.startswith("stepgame ") and "..." not in line:
                    understood(shlex.split(line, comments=True)[1:])
                continue
            assert block.mark in ("", "run in: repository"), f"{document}: unknown mark {block.mark!r}"
            monkeypatch.chdir(ROOT if block.mark else tmp_path / "here")
            perform(line, monkeypatch)


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md", "benchmarks/README.md"])
def test_links_lead_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    lost = [
        link for link in LINK.findall((ROOT / document).read_text(encoding="utf-8")) if not (folder / link).exists()
    ]
    assert not lost


def test_every_verb_is_told_of_and_the_reference_is_fresh() -> None:
    told = "\n".join(
        (ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS if "commands" not in document
    )
    assert not [verb for verb in VERBS if f"stepgame {verb}" not in told and f"make {verb}" not in told]
    check = [sys.executable, str(ROOT / "scripts" / "make_docs.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
