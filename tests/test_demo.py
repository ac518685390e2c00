"""The demo: what it leaves, what it reuses, what it refuses, and that the built-in model really answers in it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from harness import load_run
from leaderboards.demo import CONTESTANTS, accuracy_table, run_demo
from stepgame.cli import main
from stepgame.errors import InputError

BASELINES = tuple(contestant for contestant in CONTESTANTS if contestant.model != "smollm2")


def small(out: Path, **settings: object) -> tuple[object, list[object]]:
    shown: list[object] = []
    options: dict[str, object] = {"hops": "1-2", "per_hop": 3, "contestants": BASELINES}
    return run_demo(out, **(options | settings), say=shown.append), shown


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_contestants_are_the_floor_the_ceiling_and_the_model() -> None:
    asked = [(contestant.model, contestant.score) for contestant in CONTESTANTS]
    assert asked[:3] == [("random", "choice"), ("majority", "choice"), ("oracle", "choice")]
    assert asked[3:] == [("smollm2", "choice"), ("smollm2", "generate")]
    assert len({contestant.name for contestant in CONTESTANTS}) == len(CONTESTANTS)


def test_leaves_runs_board_and_plot(tmp_path: Path) -> None:
    done, shown = small(tmp_path / "demo")
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"runs", "leaderboard.csv", "accuracy.png"}
    assert done.plot.read_bytes().startswith(b"\x89PNG")
    with done.board.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["random", "majority", "oracle"]
    assert len({row["data_sha256"] for row in rows}) == 1
    assert all(row["noise"] == "yes" and row["n"] == "6" for row in rows)
    assert rows[2]["mean"] == "1.0000"
    said = "\n".join(str(each) for each in shown)
    assert str(done.board) in said and str(done.plot) in said and "What to try next" in said


def test_again_reuses_what_is_finished(tmp_path: Path) -> None:
    small(tmp_path)
    before = files(tmp_path)
    _, shown = small(tmp_path)
    assert files(tmp_path) == before
    assert sum("reused" in str(each) for each in shown) == len(BASELINES)


def test_goes_on_with_what_was_cut_off(tmp_path: Path) -> None:
    small(tmp_path)
    run = tmp_path / "runs" / "oracle"
    (run / "results.json").unlink()
    lines = (run / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (run / "samples.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:10])
    small(tmp_path)
    assert (run / "samples.jsonl").read_bytes().startswith(b"".join(lines[:2]))
    assert load_run(run).results["answered"] == 6


def test_other_settings_need_overwrite(tmp_path: Path) -> None:
    small(tmp_path)
    before = files(tmp_path)
    for other in ({"per_hop": 2}, {"hops": "1-3"}, {"seed": 1}):
        with pytest.raises(InputError, match=r"was asked other stories.*--overwrite"):
            small(tmp_path, **other)
    assert files(tmp_path) == before
    done, _ = small(tmp_path, per_hop=2, overwrite=True)
    assert all(run.results["n"] == 4 for run in done.runs)
    with done.board.open(newline="") as file:
        assert [row["n"] for row in csv.DictReader(file)] == ["4", "4", "4"]


def test_run_of_another_prompt_needs_overwrite(tmp_path: Path) -> None:
    small(tmp_path)
    manifest = tmp_path / "runs" / "majority" / "manifest.json"
    record = json.loads(manifest.read_text())
    record["prompt"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"majority: the prompt is no longer.*--overwrite"):
        small(tmp_path)


@pytest.mark.parametrize("flags", [["--hops", "3-1"], ["--hops", "0"], ["--per-hop", "0"]])
def test_bad_flags_ask_nothing(tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--out", str(tmp_path / "demo"), *flags])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("stepgame: error: ") and said.count("\n") == 1
    assert not (tmp_path / "demo").exists()


def test_table_of_ten_hops_fits_a_terminal(tmp_path: Path) -> None:
    from rich.console import Console

    done, _ = small(tmp_path, hops="1-10", per_hop=1)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(accuracy_table(done.runs, ["random", "smollm2-generate", "oracle"]))
    text = console.export_text()
    assert "…" not in text and "k=10" in text and "unparsed" in text
    oracle = next(line for line in text.splitlines() if "oracle" in line).split()
    assert oracle == ["oracle", *["100"] * 10, "100.0", "0"]


@pytest.mark.model
def test_built_in_model_answers(tmp_path: Path) -> None:
    done, _ = small(tmp_path, per_hop=2, contestants=CONTESTANTS)
    choice, text = done.runs[3:]
    assert choice.results["answered"] == text.results["answered"] == 4
    assert choice.manifest["model"]["content_hash"] == text.manifest["model"]["content_hash"]
    for line in choice.samples():
        assert len(set(line["logprobs"])) == 9 and line["prediction"] in line["options"]
    assert any(line["raw"].strip() for line in text.samples())
    with done.board.open(newline="") as file:
        assert [row["score"] for row in csv.DictReader(file)][3:] == ["choice", "generate"]
