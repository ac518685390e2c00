"""Rows made again from the answers of their runs: those of the board hold, and what was changed by hand does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from harness import evaluate
from harness.judge import summarise
from harness.models.base import Message
from harness.record import RunFolder, hash_of_prompt
from harness.run import rescore
from harness.tasks import make_task
from leaderboards import Board, publish, row_of
from leaderboards.schema import header
from leaderboards.verify import Frames, verify
from stepgame.cli import main
from stepgame.errors import InputError
from tests.boards import rows_of, small_board

ROOT = Path(__file__).parent.parent
BOARD = ROOT / "leaderboards" / "stepgame.csv"
RUNS = sorted(path.parent.name for path in (BOARD.parent / "runs").glob("*/manifest.json"))

Line = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_board(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name", RUNS)
def test_the_committed_rows_are_those_of_their_runs(name: str) -> None:
    found = verify(BOARD.parent / "runs" / name, BOARD)
    assert found.holds, found.differences or "the board has no such row"


def test_verify_makes_the_row_again(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (made / "random").iterdir()}
    for run in ("random", "clean", "oracle"):
        found = verify(made / run, made / "board.csv")
        assert found.holds, found.differences
    assert {path: path.read_bytes() for path in (made / "random").iterdir()} == before
    with pytest.raises(SystemExit) as stopped:
        main(["board", "verify", str(made / "oracle"), "--board", str(made / "board.csv")])
    assert not stopped.value.code and "line 4: is this run's row" in capsys.readouterr().out
    (tmp_path / "empty.csv").write_text(",".join(header([])) + "\n")
    with pytest.raises(SystemExit) as stopped:
        main(["board", "verify", str(made / "oracle"), "--board", str(tmp_path / "empty.csv")])
    assert stopped.value.code == 1 and "has no row of this measurement" in capsys.readouterr().out


def test_verify_trusts_no_recorded_judgement(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose samples were all set to right, with results and hash to match, gives the true row."""
    forged = shutil.copytree(made / "random", tmp_path / "forged")
    lines = [json.loads(line) for line in (forged / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"prediction": line["gold"], "correct": True}
    (forged / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    manifest = json.loads((forged / "manifest.json").read_text())
    examples = make_task("stepgame", manifest["task"]["params"]).examples
    with RunFolder(forged) as record:
        record.finish({**summarise(lines, examples), "seconds": 1.0, "examples_per_second": 15.0})
    publish([forged], tmp_path / "b.csv", allow_dirty=True)
    assert rows_of(tmp_path / "b.csv")[0]["mean"] == "1.0000"
    found = verify(forged, tmp_path / "b.csv")
    assert not found.holds and found.differences["mean"][0] == "1.0000" != found.differences["mean"][1]
    with pytest.raises(SystemExit) as stopped:
        main(["board", "verify", str(forged), "--board", str(tmp_path / "b.csv")])
    assert stopped.value.code == 1 and "mean is 1.0000, but the run gives" in capsys.readouterr().out


def change(made: Path, folder: Path, of_line: Callable[[Line], Line] | None = None, **manifest: Any) -> Path:
    """Copy a run, and change what its samples or its manifest hold."""
    copy = shutil.copytree(made / "random", folder)
    if of_line is not None:
        lines = [of_line(json.loads(line)) for line in (copy / "samples.jsonl").read_text().splitlines()]
        (copy / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = json.loads((copy / "manifest.json").read_text())
    for block, changes in manifest.items():
        record[block] = record[block] | changes if isinstance(changes, dict) else changes
    (copy / "manifest.json").write_text(json.dumps(record))
    return copy


def asked(line: Line, prompt: str) -> Line:
    return line | {"prompt": prompt, "prompt_sha256": hash_of_prompt(prompt)}


def hinted(line: Line) -> Line:
    return asked(line, line["prompt"].replace("Story:", f"The answer is {line['gold']}. Story:"))


FALSE_SAMPLES: dict[str, tuple[Callable[[Line], Line], str]] = {
    "another prompt": (lambda line: line | {"prompt": line["prompt"] + " Think."}, "is not the hash of its prompt"),
    "another prompt, hashed": (hinted, "does not ask its story in the manifest's words"),
    "the answer behind the prompt": (
        lambda line: asked(line, f"{line['prompt']} The correct answer is {line['gold']}."),
        "around the manifest's words its prompt has others",
    ),
    "an error": (lambda line: line | {"error": "timeout"}, "ended in an error .* stepgame resume"),
    "messages": (
        lambda line: line | {"prompt": [{"role": "user", "content": "Hi"}], "prompt_sha256": "x"},
        "is not the hash of its prompt",
    ),
    "gold": (lambda line: line | {"gold": "left" if line["gold"] != "left" else "right"}, "gold is not its story's"),
    "options": (lambda line: line | {"options": [line["gold"]]}, "options is not its story's"),
    "k": (lambda line: line | {"k_hop": 9}, "k_hop is not its story's"),
    "id": (lambda line: line | {"id": f"my-{line['id']}"}, "is none of the stories that were asked"),
    "no prompt": (lambda line: {"id": line["id"]}, "changed by hand"),
    "no scores": (lambda line: {key: line[key] for key in line if key != "logprobs"}, "changed by hand"),
}


@pytest.mark.parametrize("what", FALSE_SAMPLES)
def test_verify_takes_no_false_samples(made: Path, tmp_path: Path, what: str) -> None:
    of_line, reason = FALSE_SAMPLES[what]
    with pytest.raises(InputError, match=reason) as refused:
        verify(change(made, tmp_path / "run", of_line), made / "board.csv")
    assert "\n" not in str(refused.value)


FALSE_MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "hash": ({"prompt": {"sha256": "0" * 64}}, "the prompt's hash is not that of its words"),
    "words": (
        {"prompt": {"text": {"system": "", "user": "{story} {question}", "cue": "Answer:"}}},
        "the prompt's hash is not that of its words",
    ),
    "name": ({"prompt": {"name": "few-shot"}}, "the prompt's hash is not that of its words"),
    "stories": ({"task": {"data_sha256": "0" * 64}}, "the data is no longer"),
    "no task": ({"task": 3}, "changed by hand"),
    "no text": ({"prompt": {"text": None}}, "changed by hand"),
    "a list": ({"task": {"params": ["core"]}}, "changed by hand"),
}


@pytest.mark.parametrize("what", FALSE_MANIFESTS)
def test_verify_takes_no_false_manifest(made: Path, tmp_path: Path, what: str) -> None:
    manifest, reason = FALSE_MANIFESTS[what]
    with pytest.raises(InputError, match=reason):
        verify(change(made, tmp_path / "run", **manifest), made / "board.csv")


def test_a_hash_may_fit_other_words_and_the_samples_do_not(made: Path, tmp_path: Path) -> None:
    """A manifest whose prompt is whole, but is not what was asked."""
    evaluate("random", out=tmp_path / "few", hops="1-3", per_hop=5, noise=True, prompt="few-shot")
    other = json.loads((tmp_path / "few" / "manifest.json").read_text())["prompt"]
    publish([tmp_path / "few"], tmp_path / "few.csv", allow_dirty=True)
    assert verify(tmp_path / "few", tmp_path / "few.csv").holds
    with pytest.raises(InputError, match="does not ask its story in the manifest's words"):
        verify(change(made, tmp_path / "run", prompt=other), made / "board.csv")


@pytest.mark.parametrize("picked", [False, True])
def test_verify_takes_no_part_of_the_answers(made: Path, tmp_path: Path, picked: bool) -> None:
    """Hardly any but the right ones, with results and a row that follow from them; or one story less."""
    run = shutil.copytree(made / "random", tmp_path / "run")
    lines = (run / "samples.jsonl").read_text().splitlines(keepends=True)
    right = [line for place, line in enumerate(lines) if place % 5 == 0 or json.loads(line)["correct"]]
    kept = right if picked else lines[1:]
    assert 0 < len(kept) < len(lines)
    (run / "samples.jsonl").write_text("".join(kept))
    board = Board(tmp_path / "b.csv")
    board.put(row_of(rescore(run)), replace=False)
    board.write()
    missing = f"{len(lines) - len(kept)} of {len(lines)} stories have no sample"
    with pytest.raises(InputError, match=missing):
        verify(run, tmp_path / "b.csv")


def test_an_error_that_was_asked_again_is_none(made: Path, tmp_path: Path) -> None:
    run = shutil.copytree(made / "random", tmp_path / "run")
    lines = (run / "samples.jsonl").read_text().splitlines(keepends=True)
    failed = json.dumps(json.loads(lines[0]) | {"prediction": None, "error": "timeout"})
    (run / "samples.jsonl").write_text("".join([f"{failed}\n", *lines]))
    results = json.loads((run / "results.json").read_text())
    with RunFolder(run) as record:
        record.finish(results | {"seconds": 0.0, "examples_per_second": None})
    publish([run], tmp_path / "b.csv", allow_dirty=True)
    found = verify(run, tmp_path / "b.csv")
    assert found.line == 2 and set(found.differences) <= {"seconds", "examples_per_second"}


def test_a_prompt_is_known_in_whatever_frame_a_model_reads_it() -> None:
    pytest.importorskip("transformers")
    from tiny import tokenizer

    from harness.models.chat import plain_text, render_chat
    from harness.plan import make_plan
    from harness.settings import RunSettings

    settings = RunSettings.of(model="random", hops="1-2", per_hop=3, prompt="few-shot", shots=2)
    plan = make_plan(settings, None, [])
    prompts = [plan.prompt.render(example) for example in plan.task.examples]
    model = tokenizer()
    for show in (plain_text, lambda prompt: render_chat(model, prompt)):
        frames = Frames()
        assert [frames.fault(show(prompt), prompt.messages) for prompt in prompts] == [None] * len(prompts)
        assert "around the manifest's words" in str(frames.fault(f"{show(prompts[0])} left", prompts[0].messages))
        for prompt, other in zip(prompts, reversed(prompts), strict=True):
            for turns in (other.messages, [*prompt.messages, prompt.messages[0]]):
                assert "does not ask its story" in str(Frames().fault(show(prompt), turns))


def shown(reply: str, date: str = "26 Nov 2026", hint: str = "") -> tuple[str, list[Message]]:
    turns = [Message("user", "Is it so?"), Message("assistant", reply), Message("user", "Where is the [MASK]?")]
    text = f"<s>Today is {date}.\n<user>Is it so?\n<assistant>{reply}\n<user>Where is the <mask>?{hint}\n<assistant>"
    return text, turns


def test_a_frame_is_the_same_but_for_its_date_and_what_it_frames() -> None:
    """An answer as short as `a` is not looked for within `assistant`, and a run may go on past midnight."""
    for date in ("26 Nov 2026", "2026-11-26", "November 26, 2026"):
        frames = Frames()
        for told in (shown("a", date), shown("s", date), shown("Yes, it is.", date)):
            assert frames.fault(*told) is None
        # Some templates trim what they frame.
        text, turns = shown("No", date)
        assert frames.fault(text, [replace(turn, content=f"{turn.content} \n") for turn in turns]) is None
        later = date.replace("26", "27", 1) if date.startswith("26") else f"{date[:-2]}27"
        assert frames.fault(*shown("a", later)) is None
        assert "around the manifest's words" in str(frames.fault(*shown("a", later, hint=" a")))
        assert "around the manifest's words" in str(frames.fault(*shown("a", "some day")))


def test_messages_to_a_server_are_recorded_as_they_are() -> None:
    _, turns = shown("a")
    recorded = [asdict(turn) for turn in turns]
    assert Frames().fault(recorded, turns) is None
    assert "does not ask its story" in str(Frames().fault([*recorded, recorded[0]], turns))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("bank", {"bank": "/etc/passwd"}),
        ("bank", {"bank": "mine.toml"}),
        ("names", {"names": "Makefile"}),
        ("file", {"file": ["/etc/passwd"]}),
        ("file", {"file": "data"}),
        ("corpus", {"corpus": {"parts": ["../../etc/passwd"]}}),
        ("corpus", {"corpus": "questions.csv"}),
    ],
)
def test_verify_opens_no_file_that_a_manifest_names(made: Path, tmp_path: Path, name: str, params: Line) -> None:
    task = json.loads((made / "random" / "manifest.json").read_text())["task"]
    forged = change(made, tmp_path / "run", task={"params": task["params"] | params})
    with pytest.raises(InputError, match=rf"names the file .* as its {name}, .*--allow-files"):
        verify(forged, made / "board.csv")


def test_verify_opens_files_when_told_to(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"Agent{letter}x" for letter in "abcdefghijklmnopqrst"))
    stories = {"hops": "1-2", "per_hop": 2, "names": str(tmp_path / "names.txt")}
    evaluate("random", out=tmp_path / "run", **stories)
    publish([tmp_path / "run"], tmp_path / "b.csv", allow_dirty=True)
    words = ["board", "verify", str(tmp_path / "run"), "--board", str(tmp_path / "b.csv")]
    for further, code in (([], 2), (["--allow-files"], 0)):
        with pytest.raises(SystemExit) as stopped:
            main([*words, *further])
        assert (stopped.value.code or 0) == code
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "as its names" in shown.err and "is this run's row" in shown.out
