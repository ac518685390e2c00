"""The documentation does what it says: its commands run, or are at least understood, and its links lead somewhere.

A block of commands is fenced as ``bash``, one of Python as ``python``. The blocks of a document are run in order in one
scratch folder, smaller than they stand there (`smaller`, `PYTHON`): few stories and steps; a tiny model for one that is
trained or comes from the hub; transformers for vLLM; a stand-in for a server. A comment above the fence changes that:

    <!-- not run: why -->            flags are only held against the command line, Python is only compiled
    <!-- run in: repository -->      run in the repository; what it writes goes below $SCRATCH
    <!-- run last: why -->           run when all other blocks of the document have been

A block whose first line is a comment with the name of a file, as ``# bank.toml``, is that file.

The flags of every command are held against the command line as they stand. A fence without a language holds no command.
"""

from __future__ import annotations

import glob
import json
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
from tests.fault_server import NAME, serving
from tests.tiny import tiny_decoder, tiny_encoder

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    "README.md",
    "leaderboards/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+\.(?:py|toml))\n")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
MARKS = ("not run: ", "run in: repository", "run last: ")

FEWER = {"--n": "4", "--labelled": "9", "--unlabelled": "9", "--steps": "1", "--pretrain-steps": "1"}
"""What is put in the place of a number behind a flag; behind others stands what decides more than how long it takes."""

PYTHON = (
    (r"\bn=\d+", "n=4"),
    (r"\bper_hop=\d+", "per_hop=1"),
    (r"\brange\(1, \d+\)", "range(1, 3)"),
    (r"\bsteps=\d+", "steps=1"),
    # A command of the same page may have made what this would make.
    (r'\bout="out/', 'out="python/'),
)
"""The same for Python."""


class Block(NamedTuple):
    """One fenced block: the comment above it, its language and its text."""

    mark: str
    kind: str
    body: str

    @property
    def commands(self) -> list[str]:
        lines = self.body.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]

    @property
    def is_run(self) -> bool:
        return not self.mark.startswith("not run: ")


class StandIns(NamedTuple):
    """A tiny model for a large one, and the address of a server."""

    model: str
    url: str


def blocks(document: str) -> Iterator[Block]:
    for match in BLOCK.finditer((ROOT / document).read_text(encoding="utf-8")):
        yield Block(match["mark"] or "", match["kind"], match["body"])


def smaller(words: list[str], given: StandIns) -> list[str]:
    """Return a command that asks and learns less, of models that are here."""
    trained = words[1] == "train" or "--adapter" in words

    def less(flag: str, word: str) -> str:
        if flag in FEWER and word.isdecimal():
            return FEWER[flag]
        if flag == "--model" and (word.startswith("ORG/") or (trained and word == "smollm2")):
            return given.model
        others = {
            "--per-hop": "9" if "--balance" in words else "1",
            "--hops": re.sub(r"^1-\d+$", "1-2", word),
            "--backend": word.replace("vllm", "hf"),
            "--model": re.sub(r"^openai:.*", f"openai:{NAME}", word),
            "--base-url": given.url,
        }
        return others.get(flag, word)

    made = [less(flag, word) for flag, word in zip(["", *words], words, strict=False)]
    # The tree that is tested may have changes that no commit holds.
    return [*made, "--allow-dirty"] if words[1] == "publish" and "--allow-dirty" not in words else made


def understood(line: str) -> None:
    """Hold the flags of our own command in a line against the command line, without running it."""
    words = shlex.split(line, comments=True) if "stepgame" in line else []
    starts = [place for place, word in enumerate(words) if word == "stepgame.cli" or (place, word) == (0, "stepgame")]
    if not starts:
        return
    verb, *rest = words[starts[0] + 1 :]
    assert verb in VERBS, f"no such command: stepgame {verb}"
    command: Any = typer.main.get_command(typer_of(verb)).commands[verb]  # type: ignore[attr-defined]
    if hasattr(command, "commands"):
        verb, *rest = rest
        command = command.commands[verb]
    command.make_context(verb, rest)


def perform(line: str, given: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one line: ours in this process, which has its libraries loaded, others in a shell."""
    words = shlex.split(line, comments=True)
    if words[0] != "stepgame":
        assert subprocess.run(["bash", "-euc", line], check=False).returncode == 0, line
        return
    found = [sorted(glob.glob(word)) or [word] for word in map(os.path.expandvars, smaller(words, given))]  # noqa: PTH207
    asked = [each for group in found for each in group]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit) as stopped:
        main(asked[1:])
    assert not stopped.value.code, f"{line}: exit code {stopped.value.code}"


def run_python(block: Block, document: str, given: StandIns) -> None:
    body = re.sub(r'(\btrain\(.*?model=)"smollm2"', rf'\1"{given.model}"', block.body)
    for pattern, fewer in PYTHON:
        body = re.sub(pattern, fewer, body)
    code = compile(body, document, "exec")
    if block.is_run:
        exec(code, {"__name__": "documented"})


def put_a_foreign_adapter(folder: Path) -> None:
    """Write a prompt of PEFT's, as docs/soft-prompts.md takes one over."""
    import torch

    theirs = folder / "theirs" / "cola"
    theirs.mkdir(parents=True)
    record = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "token_dim": 32}
    (theirs / "adapter_config.json").write_text(json.dumps(record))
    torch.save({"prompt_embeddings": torch.randn(4, 32)}, theirs / "adapter_model.bin")


def put_few_labels(folder: Path) -> None:
    """Write the texts and the encoder that docs/pcp.md takes as given."""
    good, bad = "bright warm lively clever".split(), "dull cold tired harsh".split()
    frame = "the film was and overall it great terrible .".split()
    tiny_encoder(folder / "out" / "encoder", [*good, *bad, *frame])
    texts = [
        (f"the film was {a} and {b}", label) for label, words in enumerate((bad, good)) for a in words for b in words
    ]
    kshot = folder / "kshot" / "SST-2" / "16-13"
    kshot.mkdir(parents=True)
    parts = {"train": texts[::4], "dev": texts[1::4], "test": texts[2::4]}
    for path in (kshot / "train.tsv", kshot / "dev.tsv", kshot / "test.tsv", folder / "train.tsv"):
        rows = [f"{text}\t{label}\n" for text, label in parts[path.stem]]
        path.write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")
    rest = [text for text, _ in texts[3::4]]
    for path in (folder / "text.txt", folder / "texts.txt"):
        path.write_text("".join(f"{text}\n" for text in rest), encoding="utf-8")
    rows = [json.dumps({"text_a": text, "text_b": None, "label": "0"}) for text in rest]
    (kshot.parent / "unlabelled.json").write_text("{" + ", ".join(f'"{i}": {row}' for i, row in enumerate(rows)) + "}")


GIVEN = {"docs/soft-prompts.md": put_a_foreign_adapter, "docs/pcp.md": put_few_labels}
"""What a document takes as given, by a function that puts it into the scratch folder."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIns]:
    with serving() as server:
        yield StandIns(str(tiny_decoder(tmp_path_factory.mktemp("model"))), server.url)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_say_whether_they_are_run(document: str) -> None:
    assert (ROOT / document).read_text(encoding="utf-8").count("```") == 2 * len(list(blocks(document)))
    for block in blocks(document):
        assert not block.mark or block.mark.startswith((*MARKS, "begin ")), f"unknown mark {block.mark!r}"
        if block.kind != "bash":
            hidden = [line for line in block.commands if line.lstrip("$ ").startswith("stepgame ")]
            assert not hidden, f"{document}: not fenced as bash, so that nobody runs it: {hidden}"


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if any(blocks(name))])
@pytest.mark.usefixtures("one_thread")
def test_blocks_run(document: str, given: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "out"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.syspath_prepend(here)
    GIVEN.get(document, lambda _: None)(here)
    for block in sorted(blocks(document), key=lambda block: block.mark.startswith("run last: ")):
        monkeypatch.chdir(ROOT if block.mark == "run in: repository" else here)
        if name := FILE.match(block.body):
            Path(name[1]).write_text(block.body, encoding="utf-8")
        elif block.kind == "python":
            run_python(block, document, given)
        for line in block.commands if block.kind == "bash" else ():
            understood(line)
            if block.is_run:
                perform(line, given, monkeypatch)


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
