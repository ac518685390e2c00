import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import stepgame
from stepgame.cli import VERBS, main

STEPGAME = [sys.executable, "-m", "stepgame.cli"]


def cli(*words, **kwargs):
    return subprocess.run(
        [*STEPGAME, *map(str, words)], capture_output=True, text=True, timeout=300, check=False, **kwargs
    )


@pytest.fixture
def here(capsys):
    """Return a function like `cli` that stays in this process, since starting one takes seconds."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        told = capsys.readouterr()
        return subprocess.CompletedProcess(words, ended.value.code, told.out, told.err)

    return run


def file_limit(size):
    """Return what makes writes fail in a process as a full disk does: the same call, another errno."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def refused(result, *told):
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for words in told:
        assert words in result.stderr


def test_import_and_help_load_nothing_heavy():
    code = "import sys, stepgame, stepgame.cli; print([m for m in HEAVY if m in sys.modules])"
    heavy = ["torch", "transformers", "vllm", "openai", "matplotlib", "pandas", "numba", "pyarrow", "scipy"]
    run = subprocess.run([sys.executable, "-c", f"HEAVY = {heavy}; {code}"], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "stepgame.cli", "--help"], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in run.stderr.splitlines()}
    assert "stepgame" in loaded
    assert not loaded & {*heavy, "numpy"}


def test_front_page_names_every_verb(here):
    shown = cli("--help").stdout
    assert all(verb in shown for verb in VERBS)
    assert cli("--version").stdout.strip() == f"stepgame {stepgame.__version__}"
    for verb in VERBS:
        page = here(verb, "--help")
        assert page.returncode == 0, page.stderr
        assert f"stepgame {verb} " in page.stdout


def test_unknown_verb(here):
    refused(here("genrate"), "did you mean 'generate'")


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stepgame.nothing  # noqa: B018


def test_generate_then_solve(tmp_path):
    out = tmp_path / "d"
    made = cli("generate", "--hops", "1-4", "--per-hop", 50, "--noise", "--format", "jsonl", "--out", out)
    assert made.returncode == 0, made.stderr
    files = sorted(out.glob("*"))
    assert [f.name for f in files if not f.name.startswith(".")] == [f"qa{k}_test.jsonl" for k in range(1, 5)]
    solved = cli("solve", *sorted(out.glob("*.jsonl")))
    assert solved.returncode == 0, solved.stderr
    assert "200 of 200 right (100.00 %)" in solved.stdout
    assert json.loads((out / ".stepgame.json").read_text())["hops"] == "1-4"


def test_every_flag_is_an_environment_variable(tmp_path):
    env = os.environ | {"STEPGAME_HOPS": "2", "STEPGAME_PER_HOP": "3", "STEPGAME_NOISE": "1", "STEPGAME_FORMAT": "json"}
    made = cli("generate", "--out", tmp_path / "d", env=env)
    assert made.returncode == 0, made.stderr
    assert len(stepgame.load(tmp_path / "d" / "qa2_test.json")) == 3


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--hops", "0"), "out of range"),
        (("--hops", "3-1"), "did you mean 1-3"),
        (("--hops", "1000000000"), "out of range"),
        (("--per-hop", "0"), "expected at least 1"),
        (("--format", "parket"), "did you mean 'parquet'"),
        (("--bank", "coer"), "did you mean 'core'"),
        (("--protocol", "offical"), "did you mean 'official'"),
        (("--split", "tset"), "did you mean 'test'"),
        (("--per-hop", "many"), "valid integer"),
        (("--per-hop", "99999999999999999999"), "row numbers have 64 bits"),
    ],
)
def test_bad_flags(tmp_path, here, flags, told):
    out = tmp_path / "d"
    refused(here("generate", "--out", out, *flags), told)
    assert not out.exists()


def test_a_folder_in_use_is_refused_replaced_or_resumed(tmp_path, here):
    out = tmp_path / "d"
    common = ("generate", "--hops", "1-2", "--per-hop", 5, "--format", "json", "--out", out)
    assert here(*common).returncode == 0
    first = (out / "qa1_test.json").read_bytes()
    refused(here(*common), "--overwrite", "--resume")
    (out / "qa2_test.json").unlink()
    resumed = here(*common, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "1 finished files kept" in resumed.stdout
    refused(here(*common, "--resume", "--seed", 1), "other settings")
    assert here(*common, "--overwrite", "--seed", 1).returncode == 0
    assert (out / "qa1_test.json").read_bytes() != first
    (tmp_path / "file").write_text("x")
    refused(here(*common[:-1], tmp_path / "file"), "is a file")
    (out / ".stepgame.json").write_text('{"hops": ')
    refused(here(*common, "--resume"), "other settings")


def test_overwriting_leaves_no_story_of_the_earlier_recipe(tmp_path, here):
    out = tmp_path / "d"
    first = ("generate", "--hops", "1-3", "--per-hop", 5, "--format", "json", "--out", out)
    assert here(*first).returncode == 0
    (out / "notes.txt").write_text("mine")
    words = ("generate", "--hops", "2,100", "--per-hop", 200, "--format", "jsonl", "--out", out, "--seed")
    assert here(*words, 1, "--overwrite").returncode == 0
    names = {".stepgame.json", "notes.txt", "qa2_test.jsonl", "qa100_test.jsonl"}
    assert {path.name for path in out.iterdir()} == names
    # Cut off between two files, only those of the new recipe are there for --resume to keep.
    (out / ".stepgame.json").write_text("damaged")
    refused(cli(*words, 2, "--overwrite", preexec_fn=file_limit(1_000_000)), "stepgame: error")
    assert {path.name for path in out.iterdir()} == names - {"qa100_test.jsonl"}
    resumed = here(*words, 2, "--resume")
    assert "1 finished files kept" in resumed.stdout
    assert all(row["seed"] == 2 for k in (2, 100) for row in stepgame.load(out / f"qa{k}_test.jsonl"))


def test_an_attempt_that_made_no_file_leaves_no_folder(tmp_path, here):
    out = tmp_path / "d"
    refused(here("generate", "--hops", 1, "--per-hop", 5, "--workers", 0, "--out", out), "expected at least 1")
    refused(
        here("generate", "--hops", 1, "--per-hop", 9000, "--bank", "plain", "--unique", "--out", out), "ask for fewer"
    )
    assert not out.exists()


def test_solve_says_what_is_wrong_with_a_file(tmp_path, here):
    path = tmp_path / "bad.json"
    path.write_text('{"0": {"story"')
    refused(here("solve", path), str(path), "not valid JSON")
    refused(here("solve", tmp_path / "none.json"), "no such file")


def test_solve_counts_a_question_about_an_unknown_agent_as_unconnected(tmp_path, here):
    path = tmp_path / "odd.json"
    row = {"story": ["A is left of B."], "question": "Where is A relative to X?", "label": "left"}
    path.write_text(json.dumps({"0": row}))
    solved = here("solve", path)
    assert solved.returncode == 0, solved.stderr
    assert "0 of 1 right" in solved.stdout


def test_ctrl_c_leaves_whole_files_only(tmp_path):
    out = tmp_path / "d"
    words = ("generate", "--hops", "1-40", "--per-hop", "20000", "--format", "jsonl", "--out", str(out))
    process = subprocess.Popen([*STEPGAME, *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "qa1_test.jsonl").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    names = sorted(path.name for path in out.iterdir())
    assert not [name for name in names if name.endswith(".part")]
    for name in names:
        if not name.startswith("."):
            assert len((out / name).read_text().splitlines()) == 20000


def test_a_full_disk_is_one_line_and_nothing_half_written(tmp_path):
    out = tmp_path / "d"
    words = ("generate", "--hops", "5", "--per-hop", "5000", "--format", "jsonl", "--out", out)
    # The compiled code must be cached before, since that is written too.
    assert (
        cli("generate", "--hops", "5", "--per-hop", "5", "--format", "jsonl", "--out", tmp_path / "w").returncode == 0
    )
    refused(cli(*words, preexec_fn=file_limit(200_000)), "stepgame: error")
    assert not Path(out).exists()
    dev_full = cli("generate", "--hops", "1", "--per-hop", "1", "--out", "/dev/full")
    refused(dev_full, "is a file")
