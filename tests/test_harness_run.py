"""Runs: what they record, what they refuse, and what they survive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandLine

from harness import evaluate, load_run
from harness.models.registry import BACKENDS
from harness.record import MANIFEST, RESULTS, SAMPLES, RunFolder
from harness.run import rescore, resume
from stepgame.errors import InputError

SMALL: dict[str, Any] = {"hops": "1-3", "per_hop": 5, "noise": True}


def _samples(path: Path) -> dict[str, dict[str, Any]]:
    """Return a run's samples by id, without their times."""
    lines = {line["id"]: line for line in load_run(path).samples()}
    return {name: {key: value for key, value in line.items() if key != "seconds"} for name, line in lines.items()}


@pytest.mark.parametrize("score", ["choice", "generate"])
@pytest.mark.parametrize("protocol", ["official", "exact"])
def test_the_oracle_is_always_right(tmp_path: Path, score: str, protocol: str) -> None:
    run = evaluate("oracle", hops="1-12", per_hop=20, noise=True, protocol=protocol, score=score, out=tmp_path / "r")
    assert run.results is not None
    assert run.results["accuracy"] == run.results["accuracy_strict"] == run.results["chance_centred"] == 1
    assert [row["k"] for row in run.results["by_k"]] == list(range(1, 13))
    assert run.accuracy()["n"].tolist() == [20] * 12


def test_random_is_about_chance_and_depends_on_no_order(tmp_path: Path) -> None:
    few = evaluate("random", hops="1-3", per_hop=300, out=tmp_path / "few", seed=3)
    more = evaluate("random", hops="2-5", per_hop=400, out=tmp_path / "more", seed=3, score="generate")
    assert more.results is not None
    # Five standard deviations of 1,600 draws.
    assert abs(more.results["accuracy"] - 1 / 9) < 5 * (8 / 81 / 1600) ** 0.5
    one, other = _samples(few.path), _samples(more.path)
    both = one.keys() & other.keys()
    assert len(both) == 600
    assert all(one[name]["prediction"] == other[name]["prediction"] for name in both)


def test_half_a_character_in_a_reply_is_kept_as_it_came(tmp_path: Path) -> None:
    # A server that counts UTF-16 may cut a reply inside an emoji; UTF-8 has no form for what is left.
    rest = {"error": None, "seconds": 0.0}
    lines = [{"id": "1", "raw": "up \ud83d", **rest}, {"id": "2", "raw": "oben \u2191", **rest}]
    with RunFolder(tmp_path / "r") as record:
        record.write_manifest({"format": 1})
        record.append(lines)
        assert record.recorded() == lines
        record.replace_samples(lines[::-1])
        record.append(lines[:1])
    text = (tmp_path / "r" / SAMPLES).read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [*lines[::-1], lines[0]]
    assert "oben \u2191" in text


def test_majority_is_fitted_on_the_training_split(tmp_path: Path) -> None:
    run = evaluate("majority", **SMALL, out=tmp_path / "r")
    label = run.manifest["model"]["args"]["label"]
    assert "training split" in run.manifest["model"]["args"]["counted_on"]
    assert Counter(line["prediction"] for line in run.samples()) == {label: 15}


def test_the_manifest_defines_the_run_and_results_follow_from_the_samples(tmp_path: Path) -> None:
    run = evaluate("random", **SMALL, out=tmp_path / "r", command=["stepgame", "run", "--api-key", "hush"])
    manifest, results = run.manifest, run.results
    assert results is not None
    assert manifest["task"]["params"]["hops"] == [1, 2, 3]
    assert manifest["task"]["n"] == results["n"] == results["answered"] == 15
    assert manifest["command"] == ["stepgame", "run", "--api-key", "***"]
    assert "hush" not in (run.path / MANIFEST).read_text()
    assert results["correct"] == sum(line["correct"] for line in run.samples())
    assert sorted(path.name for path in run.path.iterdir()) == sorted([MANIFEST, SAMPLES, RESULTS])
    for line in run.samples():
        assert line["correct"] == (line["prediction"] == line["gold"])
        assert line["seconds"] >= 0


def test_runs_from_a_file_ask_that_file(tmp_path: Path) -> None:
    import stepgame

    stories = stepgame.generate("1-2", 7, noise=True, seed=9)
    stories.write(tmp_path / "mine.jsonl")
    run = evaluate("oracle", data=tmp_path / "mine.jsonl", out=tmp_path / "r")
    assert run.results is not None and run.results["accuracy"] == 1
    assert run.manifest["task"]["data_sha256"] == stories.sha256()
    with pytest.raises(InputError, match="no training split"):
        evaluate("majority", data=tmp_path / "mine.jsonl", out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_torn_last_line_is_dropped_and_asked_again(tmp_path: Path) -> None:
    whole = _samples(evaluate("random", **SMALL, out=tmp_path / "r").path)
    path = tmp_path / "r" / SAMPLES
    path.write_bytes(path.read_bytes()[:-30])
    (tmp_path / "r" / RESULTS).unlink()
    assert len(_samples(tmp_path / "r")) == 14
    run = resume(tmp_path / "r")
    assert run.results is not None and run.results["n"] == 15
    assert _samples(tmp_path / "r") == whole
    assert len(path.read_text().splitlines()) == 15


def test_errors_are_not_wrong_answers_and_are_asked_again(tmp_path: Path) -> None:
    run = evaluate("oracle", **SMALL, out=tmp_path / "r")
    path = run.path / SAMPLES
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    empty = dict.fromkeys(("prediction", "parse", "tokens_in", "tokens_out"))
    kept = ("id", "k_hop", "prompt", "prompt_sha256", "options", "gold")
    lines[4] = {key: lines[4][key] for key in kept} | empty | {"correct": False, "error": "lost", "seconds": 0.5}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = rescore(run.path)
    assert judged.results is not None
    assert (judged.results["errors"], judged.results["answered"], judged.results["accuracy"]) == (1, 14, 1.0)
    assert judged.accuracy()["errors"].sum() == 1
    again = resume(run.path)
    assert again.results is not None
    assert (again.results["errors"], again.results["answered"]) == (0, 15)
    assert again.results["seconds"] >= 0.5


@pytest.mark.parametrize("score", ["choice", "generate"])
def test_rescoring_changes_nothing_that_was_judged_by_the_same_rules(tmp_path: Path, score: str) -> None:
    run = evaluate("random", **SMALL, score=score, out=tmp_path / "r")
    before, results = _samples(run.path), run.results
    after = rescore(run.path)
    assert _samples(run.path) == before
    assert after.results is not None and results is not None
    assert after.results["accuracy"] == results["accuracy"]
    assert after.manifest == run.manifest


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "data"),
        ({"per_hop": 6}, "data"),
        ({"score": "generate"}, "prompt"),
        ({"model": "oracle"}, "backend"),
    ],
)
def test_resume_refuses_other_settings(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    settings: dict[str, Any] = {"model": "random", **SMALL, "out": tmp_path / "r"}
    evaluate(**settings)
    before = (tmp_path / "r" / SAMPLES).read_bytes()
    with pytest.raises(InputError, match=f"the {named} is no longer"):
        evaluate(**settings | change, resume=True)
    assert (tmp_path / "r" / SAMPLES).read_bytes() == before


def test_resume_refuses_another_model_under_the_same_name(tmp_path: Path) -> None:
    run = evaluate("random", **SMALL, out=tmp_path / "r")
    (run.path / MANIFEST).write_text(
        json.dumps(run.manifest | {"model": run.manifest["model"] | {"content_hash": "0" * 64}})
    )
    lines = (run.path / SAMPLES).read_text().splitlines(keepends=True)
    (run.path / SAMPLES).write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="the model is no longer"):
        resume(run.path)


def test_an_existing_folder_is_only_touched_when_asked(tmp_path: Path) -> None:
    evaluate("random", **SMALL, out=tmp_path / "r")
    with pytest.raises(InputError, match="--overwrite"):
        evaluate("oracle", **SMALL, out=tmp_path / "r")
    run = evaluate("oracle", **SMALL, out=tmp_path / "r", overwrite=True)
    assert run.manifest["model"]["spec"] == "oracle"
    assert len(list(run.samples())) == 15
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        evaluate("oracle", **SMALL, out=tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_second_process_is_refused(tmp_path: Path, command_line: CommandLine) -> None:
    evaluate("random", **SMALL, out=tmp_path / "r")
    with RunFolder(tmp_path / "r"):
        for words in (["resume"], ["rescore"]):
            done = command_line(*words, str(tmp_path / "r"))
            assert done.returncode == 2
            assert "being written by another process" in done.stderr
    assert command_line("resume", str(tmp_path / "r")).returncode == 0


RUN = ("run", "--hops", "1", "--per-hop", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "smollmm2"), "did you mean 'smollm2'"),
        (("--model", "vlm:smollm2"), "unknown backend 'vlm'"),
        (("--model", "smollm2@main"), "no revisions"),
        (("--model", "oracle", "--backend", "hff"), "did you mean 'hf'"),
        (("--model", "oracle", "--backend", "hf"), "needs no backend"),
        (("--model", "oracle", "--prompt", "zeroshot"), "did you mean 'zero-shot'"),
        (("--model", "oracle", "--score", "choise"), "did you mean 'choice'"),
        (("--model", "smollm2", "--dtype", "float23"), "did you mean 'float32'"),
        (("--model", "oracle", "--bank", "cor"), "did you mean 'core'"),
        (("--model", "oracle", "--hops", "0"), "out of range"),
        (("--model", "oracle", "--hops", "3-1"), "did you mean 1-3"),
        (("--model", "oracle", "--hops", "1000000000"), "out of range"),
        (("--model", "oracle", "--per-hop", "0"), "at least 1"),
        (("--model", "oracle", "--data", "no-such-file.jsonl"), "exclude each other"),
        (("--model", "smollm2", "--batch-tokens", "0"), "at least 1"),
        (("--model", "oracle", "--score", "generate", "--max-tokens", "0"), "at least 1"),
        (("--model", "oracle", "--score", "generate", "--temperature", "-1"), "--temperature"),
        (("--model", "oracle", "--overwrite", "--resume"), "exclude each other"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    from stepgame.cli import main

    with pytest.raises(SystemExit) as end:
        main([*RUN, *words, "--out", str(tmp_path / "r")])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_nowhere_is_one_line(tmp_path: Path, command_line: CommandLine) -> None:
    words = (*RUN, "--model", "nobody/nothing", "--out", str(tmp_path / "r"))
    done = command_line(*words, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "no local folder" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("verb", ["resume", "rescore"])
def test_a_folder_that_is_no_run_is_named(tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    from stepgame.cli import main

    with pytest.raises(SystemExit) as end:
        main([verb, str(tmp_path)])
    assert end.value.code == 2
    assert "is no run folder" in capsys.readouterr().err


def test_importing_the_harness_loads_nothing_heavy() -> None:
    code = (
        "import sys, harness, harness.run, harness.commands, harness.models.registry as r;"
        "r.parse_model('smollm2');"
        "print([m for m in ('torch', 'transformers', 'vllm', 'openai', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_table_of_backends_says_what_the_classes_can() -> None:
    import importlib

    for backend in BACKENDS.values():
        cls = getattr(importlib.import_module(backend.module), backend.cls)
        assert {verb for verb in ("choose", "generate") if callable(getattr(cls, verb, None))} == backend.verbs


def test_a_full_disk_keeps_whole_lines_only(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: the system writes part of a batch, then refuses."""
    code = (
        "import resource, sys\n"
        "from stepgame.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "main(sys.argv[1:])\n"
    )
    words = ("run", "--model", "oracle", "--hops", "1-3", "--per-hop", "200", "--out", str(tmp_path / "r"))
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert SAMPLES in done.stderr
    assert "Traceback" not in done.stderr
    data = (tmp_path / "r" / SAMPLES).read_bytes()
    assert 0 < len(data) <= 100_000 and data.endswith(b"\n")
    run = resume(tmp_path / "r")
    assert run.results is not None and run.results["n"] == 600


def _cut_off(words: list[str], path: Path, more: int, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Run the command line and send it a signal once it has recorded some more samples."""
    samples = path / SAMPLES
    before = samples.read_bytes().count(b"\n") if samples.exists() else 0
    process = subprocess.Popen(
        [sys.executable, "-m", "stepgame.cli", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None:
        if samples.exists() and samples.read_bytes().count(b"\n") >= before + more:
            process.send_signal(how)
            break
        time.sleep(0.02)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.model
def test_a_killed_run_resumes_to_the_results_of_an_unbroken_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"hops": "1-4", "per_hop": 6, "noise": True, "batch_tokens": 500}
    path = tmp_path / "broken"
    words = ["run", "--model", "smollm2", "--hops", "1-4", "--per-hop", "6", "--noise", "--batch-tokens", "500"]
    killed = _cut_off([*words, "--out", str(path)], path, 3, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert load_run(path).results is None
    with (path / SAMPLES).open("a") as file:
        file.write('{"id": "core-offi')
    interrupted = _cut_off(["resume", str(path)], path, 3, signal.SIGINT)
    assert interrupted.returncode == 130
    assert f"stepgame resume {path}" in interrupted.stderr
    assert load_run(path).results is None
    kept = len(list(load_run(path).samples()))
    assert 6 <= kept < 24
    finished = resume(path)
    assert len((path / SAMPLES).read_text().splitlines()) == 24, "something was asked twice"
    unbroken = evaluate("smollm2", **settings, out=tmp_path / "unbroken")
    assert finished.results is not None and unbroken.results is not None
    assert finished.results["by_k"] == unbroken.results["by_k"]
    one, other = _samples(path), _samples(unbroken.path)
    assert one.keys() == other.keys()
    for name, line in one.items():
        # Other neighbours in the batch round differently.
        assert line.pop("logprobs") == pytest.approx(other[name].pop("logprobs"), abs=1e-3)
        assert line == other[name]
