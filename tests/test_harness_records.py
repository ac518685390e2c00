"""Run folders of strangers: whatever their files hold, every verb says in one line which file and field is wrong."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import load_run
from harness.record import RunFolder, read_json
from harness.run import rescore
from leaderboards import publish
from leaderboards.page import write_site
from leaderboards.report import write_report
from leaderboards.verify import verify
from stepgame.errors import InputError
from tests.boards import small_board

PUBLISHED = Path(__file__).parent.parent / "leaderboards" / "published.csv"
DEEP = "[" * 200_000 + "]" * 200_000
WIDE = "9" * 5_000

Record = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_board(tmp_path_factory.mktemp("runs"))


def field(path: str, value: Any) -> Callable[[Record], None]:
    """Return what puts a value at a dotted path; ``...`` takes the field away."""

    def put(record: Record) -> None:
        *outer, last = path.split(".")
        for key in outer:
            record = record[int(key) if key.isdigit() else key]
        if value is ...:
            del record[last]
        else:
            record[last] = value

    return put


def raw(text: str) -> Callable[[Record], str]:
    """Return what adds a field of this JSON, which Python need not be able to read or write."""
    return lambda record: json.dumps(record)[:-1] + f', "odd": {text}}}'


MANIFEST, RESULTS, SAMPLES = "manifest.json", "results.json", "samples.jsonl"

BROKEN: dict[str, tuple[str, Callable[[Record], str | None], str]] = {
    "deep manifest": (MANIFEST, raw(DEEP), "nests deeper"),
    "wide number": (MANIFEST, raw(WIDE), "5,000 digits"),
    "no number": (MANIFEST, raw("NaN"), "NaN is no finite number"),
    "command": (MANIFEST, field("command", 5), "command is 5; expected a list"),
    "word of the command": (MANIFEST, field("command", [["x"]]), r"command\[0\] is a list; expected a text"),
    "task": (MANIFEST, field("task", 3), "task is 3; expected an object"),
    "spec": (MANIFEST, field("model.spec", 4), "model.spec is 4; expected a text"),
    "by_k": (RESULTS, field("by_k", 3), "by_k is 3; expected a list"),
    "k": (RESULTS, field("by_k", [3]), r"by_k\[0\] is 3; expected an object"),
    "correct": (RESULTS, field("by_k.0.correct", ...), r"by_k\[0\].correct is None; expected a whole number"),
    "seconds": (RESULTS, field("seconds", True), "seconds is True; expected a finite number"),
    "deep sample": (SAMPLES, raw(DEEP), "line 2: .*nests deeper"),
    "k_hop": (SAMPLES, field("k_hop", "x"), "line 2: k_hop is 'x'; expected a whole number"),
    "id": (SAMPLES, field("id", ["x"]), "line 2: id is a list; expected a text"),
    "no id": (SAMPLES, field("id", ...), "line 2: id is None; expected a text"),
    "no seconds": (SAMPLES, field("seconds", ...), "line 2: it has no seconds"),
    "no error": (SAMPLES, field("error", ...), "line 2: it has no error"),
    "gold": (SAMPLES, field("gold", {}), "line 2: gold is an object; expected a text"),
    "judgement": (SAMPLES, field("correct", "yes"), "line 2: correct is 'yes'; expected true or false"),
    "scores": (SAMPLES, field("logprobs", [10**400] * 9), r"line 2: .*\(401 digits\) is no finite number"),
    "infinite score": (SAMPLES, raw("-1e999"), "line 2: .*-1e999 is no finite number"),
    "score": (SAMPLES, field("logprobs", [0.5, "x"]), r"line 2: logprobs\[1\] is 'x'; expected a finite number"),
}


def broken(made: Path, folder: Path, how: str) -> tuple[Path, Path, str]:
    """Copy a run and its board, break one file, and make the hashes fit, as whoever means harm would.

    Returns:
        The run, the board, and what a message must match.
    """
    name, change, said = BROKEN[how]
    run = shutil.copytree(made / "random", folder / "run")
    board = Path(shutil.copy(made / "board.csv", folder))
    before = hashlib.sha256((run / SAMPLES).read_bytes()).hexdigest()
    lines = (run / name).read_text().splitlines() if name == SAMPLES else ["", (run / name).read_text()]
    record = json.loads(lines[1])
    lines[1] = change(record) or json.dumps(record)
    (run / name).write_text("\n".join(lines).lstrip("\n") + "\n")
    after = hashlib.sha256((run / SAMPLES).read_bytes()).hexdigest()
    for path in (run / RESULTS, board):
        path.write_text(path.read_text().replace(before, after))
    return run, board, rf"{name}.*{said}"


@pytest.mark.parametrize("how", BROKEN)
def test_every_verb_names_file_and_field(made: Path, tmp_path: Path, how: str) -> None:
    run, board, said = broken(made, tmp_path, how)
    verbs: list[Callable[[], object]] = [
        lambda: publish([run], tmp_path / "new.csv", allow_dirty=True),
        lambda: write_report([run], tmp_path / "r.html", plots=False),
        lambda: verify(run, board),
    ]
    for verb in verbs:
        with pytest.raises(InputError, match=said) as refused:
            verb()
        assert len(str(refused.value)) < 600
    assert not (tmp_path / "new.csv").exists()


@pytest.mark.parametrize("how", [how for how, (name, *_) in BROKEN.items() if name != RESULTS or how == "by_k"])
def test_a_site_leaves_it_out_with_a_note(made: Path, tmp_path: Path, how: str) -> None:
    run, board, said = broken(made, tmp_path, how)
    site = write_site(tmp_path / "site", board, PUBLISHED, [run])
    assert any(re.search(f"left out: .*{said}", note) for note in site.notes), site.notes


@pytest.mark.parametrize(
    ("path", "value", "said"), [("logprobs", ..., "no logprobs"), ("id", "x", "none of the stories")]
)
def test_what_cannot_be_judged_again_stays_as_it_is(
    made: Path, tmp_path: Path, path: str, value: Any, said: str
) -> None:
    run = shutil.copytree(made / "random", tmp_path / "run")
    lines = [json.loads(line) for line in (run / SAMPLES).read_text().splitlines()]
    field(path, value)(lines[1])
    (run / SAMPLES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = {each: each.read_bytes() for each in run.iterdir()}
    with pytest.raises(InputError, match=said):
        rescore(run)
    assert {each: each.read_bytes() for each in run.iterdir()} == before


def test_half_a_character_hinders_no_counting(made: Path, tmp_path: Path) -> None:
    run = shutil.copytree(made / "oracle", tmp_path / "run")
    lines = [json.loads(line) for line in (run / SAMPLES).read_text().splitlines()]
    lines[0] |= {"prediction": "up \ud83d", "correct": False}
    (run / SAMPLES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load_run(run).accuracy().loc[1, "correct"] == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_what_is_written_reads_the_same(tmp_path_factory: pytest.TempPathFactory, more: Record) -> None:
    folder = tmp_path_factory.mktemp("r")
    with RunFolder(folder) as record:
        record.write_manifest({"more": more})
        sample = {"more": more, "id": "1", "error": None, "seconds": 0.5}
        record.append([sample])
        assert record.recorded() == [sample]
    assert read_json(folder / MANIFEST) == {"more": more}
