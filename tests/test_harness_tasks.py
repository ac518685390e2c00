"""Tasks from files, tasks and models of others, the generator's further settings, errors and the cache."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from conftest import CommandLine

import harness.tasks
from harness import evaluate
from harness.run import TooManyErrorsError, resume
from harness.settings import RunSettings, Settings
from harness.tasks import make_task
from stepgame.errors import InputError

QUESTIONS = [
    {
        "question": "Where is the milk?",
        "options": ["kitchen", "hall"],
        "answer": "hall",
        "story": "Ann left. Bob came.",
    },
    {
        "question": "Is it?",
        "options": ["yes", "no", "maybe"],
        "answer": 0,
        "context": ["It is."],
        "id": "q2",
        "k_hop": 2,
    },
    {"question": "Is it not?", "options": ["yes", "no"], "answer": "no", "group": 2},
]
BABI = (
    "1 Mary went to the hall.\n2 John is in the garden.\n3 Where is Mary?\thall\t1\n"
    "1 Ann sat.\n2 Where is Ann? \tkitchen\t1\n"
)


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_questions_of_any_kind_are_asked_from_json_lines(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.jsonl", QUESTIONS)
    run = evaluate("random", str(path), score="generate", out=tmp_path / "r")
    assert run.results is not None
    assert (run.results["n"], run.results["unparsed"]) == (3, 0)
    assert [row["k"] for row in run.results["by_k"]] == [0, 2]
    assert run.results["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert run.manifest["prompt"]["name"] == "question"
    lines = {line["id"]: line for line in run.samples()}
    assert set(lines) == {"mine-1", "q2", "mine-3"}
    assert lines["q2"]["gold"] == "yes"
    assert lines["mine-1"]["prompt"].startswith("Answer each question")
    (run.path / "results.json").unlink()
    assert resume(run.path).results is not None
    path.write_text(path.read_text().replace("milk", "juice"))
    with pytest.raises(InputError, match="the data is no longer"):
        resume(run.path)


def test_numbered_lines_are_asked_as_in_babi(tmp_path: Path) -> None:
    (tmp_path / "qa1.txt").write_text(BABI)
    run = evaluate("random", str(tmp_path / "qa1.txt"), out=tmp_path / "r")
    lines = list(run.samples())
    assert [line["gold"] for line in lines] == ["hall", "kitchen"]
    assert lines[0]["options"] == ["hall", "kitchen"]
    assert "Mary went to the hall. John is in the garden." in lines[0]["prompt"]
    assert "Mary" not in lines[1]["prompt"]


def test_examples_come_from_a_file_of_the_same_kind(tmp_path: Path) -> None:
    asked = _write(tmp_path / "asked.jsonl", QUESTIONS[:1])
    shown = _write(
        tmp_path / "shown.jsonl", [{**QUESTIONS[0], "question": f"Where is the cat {n}?"} for n in range(5)] + QUESTIONS
    )
    settings: dict[str, Any] = {"prompt": "question", "shots": 2, "out": tmp_path / "r"}
    with pytest.raises(InputError, match="--few-shot-data FILE"):
        evaluate("random", str(asked), **settings)
    run = evaluate("random", str(asked), **settings, few_shot_data=shown)
    pool = run.manifest["prompt"]["shots"]["pool"]
    assert len(pool) == 2
    assert all("cat" in each["question"] for each in pool)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "attic"}, r"mine\.jsonl:2: answer .* one of kitchen, hall"),
        ({"answer": 2}, "answer is 2"),
        ({"answer": True}, "answer is true"),
        ({"options": ["hall"]}, "at least two"),
        ({"options": ["hall", "hall"]}, "different"),
        ({"question": " "}, "question is"),
        ({"group": "kitchen"}, "a whole number"),
        ({"story": 3}, "a text or a list"),
        ({"story": "half of \ud83d"}, "a text or a list"),
        ({"question": "Where is \ud83d?"}, "question is"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = _write(tmp_path / "mine.jsonl", [QUESTIONS[0], {**QUESTIONS[0], **change}])
    with pytest.raises(InputError, match=said):
        evaluate("random", str(path), out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"questoin": "x", "options": ["a", "b"], "answer": "a"}', "question is missing .*'questoin' is there"),
        ("{", "not valid JSON"),
        ('{"id": 1}\n[]', "question is missing"),
        ("hello", "expected JSON lines"),
        ("", "expected JSON lines"),
        ("1 Mary sat.\nWhere?\thall", "expected a line number"),
        ("1 Where is Mary?\t\t1", "no answer"),
        ("1 Mary sat.", "no questions"),
    ],
)
def test_a_file_of_neither_kind_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        evaluate("random", str(path), out=tmp_path / "r")


def test_tasks_and_settings_that_do_not_go_together(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.jsonl", QUESTIONS)
    for settings, said in (
        ({"task": str(path), "hops": 3}, "--hops makes stories"),
        ({"task": str(path), "data": path}, "give one"),
        ({"task": "jsonl"}, "by --data FILE"),
        ({"task": "stepgme"}, "did you mean 'stepgame'"),
        ({"task": "no/such.jsonl"}, "does not exist"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate("random", **settings, out=tmp_path / "r")


@pytest.mark.parametrize(
    "further",
    [
        {"names": "words"},
        {"noise_counts": "disconnected=2,irrelevant=0-1"},
        {"balance": True, "protocol": "exact"},
        {"phrases": "heldout"},
        {"unique": True},
    ],
)
def test_the_generators_further_settings_reach_it_and_the_manifest(tmp_path: Path, further: dict[str, Any]) -> None:
    import stepgame

    run = evaluate("oracle", hops="3", per_hop=9, **further, out=tmp_path / "r")
    assert run.results is not None and run.results["accuracy"] == 1
    assert run.manifest["task"]["params"].items() >= further.items()
    assert run.manifest["task"]["data_sha256"] == stepgame.generate(3, 9, **further).sha256()
    (run.path / "results.json").unlink()
    assert resume(run.path).results is not None


def test_defaults_leave_no_trace_in_the_manifest(tmp_path: Path) -> None:
    run = evaluate("oracle", hops="1", per_hop=1, names="letters", noise_counts="", unique=False, out=tmp_path / "r")
    expected = {"hops", "per_hop", "noise", "protocol", "bank", "split", "seed"}
    assert set(run.manifest["task"]["params"]) == expected
    assert not {"cache", "shots"} & (run.manifest.keys() | run.manifest["prompt"].keys())


def test_the_settings_of_python_and_of_the_command_line_are_the_same() -> None:
    import inspect

    from harness.commands import run

    named = {each.name for each in RunSettings.flags()}
    assert named == set(get_type_hints(Settings)) | {"model", "task", "out"}
    assert set(inspect.signature(run).parameters) == named | {"dry_run", "suite"}
    assert {each.metadata["variable"] for each in RunSettings.flags()} & {"STEPGAME_CACHE"} == set()


README = (Path(harness.tasks.__file__).parent / "README.md").read_text()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution, installed in a folder of its own, with the task and the model that the README shows."""
    site = tmp_path / "site"
    info = site / "parity-1.0.dist-info"
    info.mkdir(parents=True)
    modules = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", README, re.DOTALL)
    assert [name for name, _ in modules] == ["parity", "parrot"]
    for name, code in modules:
        (site / f"{name}.py").write_text(code)
    points = re.findall(r'```toml\n\[project\.entry-points\."(.*?)"\]\n(\w+) = "(.*?)"', README)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parity\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {value}\n" for group, name, value in points))
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name, _ in modules:
        sys.modules.pop(name, None)


def test_an_installed_task_is_asked_like_any_other(installed: Path, tmp_path: Path) -> None:
    run = evaluate("random", "parity", hops="1-2", per_hop=4, seed=3, prompt="question", shots=2, out=tmp_path / "r")
    assert run.results is not None and run.results["n"] == 8
    assert run.manifest["task"]["params"] == {"hops": "1-2", "per_hop": 4, "seed": 3}
    assert all(each["id"].startswith("train") for each in run.manifest["prompt"]["shots"]["pool"])
    (run.path / "results.json").unlink()
    assert resume(run.path).results is not None
    made = make_task("parity", {"per_hop": 2})
    again = evaluate("majority", made, score="generate", out=tmp_path / "object")
    assert again.results is not None and again.results["unparsed"] == 0
    with pytest.raises(InputError, match=r"does not take these settings.*noise"):
        evaluate("random", "parity", noise=True, out=tmp_path / "n")
    with pytest.raises(InputError, match="did you mean 'parity'"):
        evaluate("random", "partiy", out=tmp_path / "n")


def test_an_installed_model_is_asked_like_any_other(installed: Path, tmp_path: Path, command_line: CommandLine) -> None:
    words = ("run", "--model", "parrot:left", "--hops", "1", "--per-hop", "4", "--out", str(tmp_path / "r"))
    refused = command_line(*words, PYTHONPATH=str(installed))
    assert refused.returncode == 2 and "cannot choose; use --score generate" in refused.stderr
    done = command_line(*words, "--score", "generate", PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "r" / "samples.jsonl").read_text().splitlines()]
    assert {line["prediction"] for line in lines} == {"left"}
    with pytest.raises(InputError, match="did you mean 'parrot'"):
        evaluate("parrott", hops="1", out=tmp_path / "n")
    (tmp_path / "r" / "results.json").unlink()
    assert resume(tmp_path / "r").results is not None


def test_an_entry_point_that_cannot_be_imported_is_named(installed: Path, tmp_path: Path) -> None:
    (installed / "parity.py").write_text("import no_such_module\n")
    with pytest.raises(InputError, match=r"declared by parity as parity:Parity.*no_such_module"):
        evaluate("random", "parity", out=tmp_path / "r")


FLAKY = '''
import hashlib
from harness.models.base import BackendError, Completion, Failure, Identity, chunks

class Flaky:
    """Fails on every batch after the first two, by what its target says."""

    identity = Identity(hashlib.sha256(b"flaky").hexdigest())
    asked = 0
    broken = True

    def __init__(self, how):
        self._how = how

    @classmethod
    def load(cls, request, training):
        return cls(request.target)

    def render(self, prompt):
        return prompt.messages[-1].content

    def batches(self, prompts):
        return chunks(len(prompts), 5)

    def generate(self, prompts, sampling):
        type(self).asked += len(prompts)
        if self.broken and type(self).asked > 10:
            if self._how == "batch":
                raise BackendError("the server is gone")
            return [Failure("no reply")] + [(Completion("Answer: left", 1, 1, "stop"),)] * (len(prompts) - 1)
        return [(Completion("Answer: left", 1, 1, "stop"),)] * len(prompts)
'''


@pytest.fixture
def flaky(installed: Path) -> Iterator[Any]:
    """A model that breaks after ten questions, and its class."""
    (installed / "flaky.py").write_text(FLAKY)
    info = installed / "parity-1.0.dist-info" / "entry_points.txt"
    info.write_text(info.read_text() + "flaky = flaky:Flaky\n")
    import flaky

    yield flaky.Flaky
    sys.modules.pop("flaky", None)


def test_a_run_stops_when_there_are_too_many_errors_and_goes_on_later(flaky: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"hops": "1-5", "per_hop": 6, "score": "generate", "out": tmp_path / "r"}
    with pytest.raises(
        TooManyErrorsError, match=r"5 questions got no answer, more than --max-errors 3.*is gone.*15 of"
    ):
        evaluate("flaky:batch", **settings, max_errors=3)
    assert len((tmp_path / "r" / "samples.jsonl").read_text().splitlines()) == 15
    assert not (tmp_path / "r" / "results.json").exists()
    with pytest.raises(TooManyErrorsError):
        resume(tmp_path / "r", max_errors=0)
    flaky.broken = False
    before = flaky.asked
    run = resume(tmp_path / "r")
    assert run.results is not None
    assert (run.results["errors"], run.results["answered"]) == (0, 30)
    assert flaky.asked - before == 20, "something that had an answer was asked again"


def test_errors_within_the_bound_are_borne(flaky: Any, tmp_path: Path) -> None:
    run = evaluate("flaky:one", hops="1-5", per_hop=6, score="generate", max_errors=4, out=tmp_path / "r")
    assert run.results is not None
    assert (run.results["errors"], run.results["answered"]) == (4, 26)


def test_too_many_errors_are_one_line_and_exit_code_2(
    flaky: Any, installed: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    words = ("--model", "flaky:batch", "--hops", "1-5", "--per-hop", "6", "--score", "generate", "--max-errors", "0")
    done = command_line("run", *words, "--out", str(tmp_path / "r"), PYTHONPATH=str(installed))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "stepgame resume" in done.stderr


def test_the_cache_answers_what_was_asked_before(flaky: Any, tmp_path: Path) -> None:
    flaky.broken = False
    settings: dict[str, Any] = {"score": "generate", "cache": tmp_path / "c.db", "hops": "1-2"}
    first = evaluate("flaky:x", per_hop=5, **settings, out=tmp_path / "one")
    asked = flaky.asked
    second = evaluate("flaky:x", per_hop=8, **settings, out=tmp_path / "two")
    assert first.results is not None and second.results is not None
    assert (first.results["cache_hits"], second.results["cache_hits"]) == (0, 10)
    assert flaky.asked - asked == 6
    assert second.results["answered"] == 16
    assert sum(line.get("cached", False) for line in second.samples()) == 10
