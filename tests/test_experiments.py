"""The experiments end, at the smallest size and on a tiny model, in tables and pictures."""

from __future__ import annotations

import csv
import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from experiments import answers
from harness import evaluate
from stepgame.errors import InputError
from tests.tiny import tiny_decoder

pytestmark = pytest.mark.usefixtures("one_thread")

COLOURS = ("red", "green", "blue", "yellow", "black")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "chat.jsonl"
    lines = [
        {"prompt": f"Say {COLOURS[place % 5]} {place} times.", "completion": f"{COLOURS[place % 5]}, and so on."}
        for place in range(40)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def run(name: str, tiny: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    module: Any = importlib.import_module(f"experiments.{name}.__main__")
    monkeypatch.setitem(module.SCALES, "quick", replace(module.SCALES["quick"], model=str(tiny)))
    words = ("--quick", "--work", str(out / "work"), "--results", str(out / "results"), *words)
    assert module.main(words) == 0
    return sorted(path.name for path in (out / "results").iterdir())


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_overfitting(tiny: Path, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("im_overfitting", tiny, tmp_path, monkeypatch, "--data", f"chat={chat}") == [
        "losses.csv",
        "losses.png",
        "setting.json",
    ]
    rows = read(tmp_path / "results/losses.csv")
    assert [(row["kind"], float(row["epoch"])) for row in rows] == [
        (kind, epoch) for kind in ("IT", "IM, w = 0.25", "IM") for epoch in (1.0, 2.0, 3.0)
    ]
    assert all(float(row["train"]) > 0 and float(row["held_out"]) > 0 for row in rows)


def test_factors(tiny: Path, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = importlib.import_module("experiments.im_factors.__main__")
    monkeypatch.setitem(module.SCALES, "quick", replace(module.SCALES["quick"], counts=(4,)))
    run("im_factors", tiny, tmp_path, monkeypatch, "--data", f"chat={chat}")
    rows = read(tmp_path / "results/gains.csv")
    assert [(row["data"], row["n"]) for row in rows] == [(each, "4") for each in ("chat", "stepgame", "stepgame-noise")]
    ratios = {row["data"]: float(row["length_ratio"]) for row in rows}
    assert ratios["stepgame-noise"] > ratios["stepgame"] > 10 > ratios["chat"] > 0


def test_stepgame(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = importlib.import_module("experiments.im_stepgame.__main__")
    monkeypatch.setitem(module.SCALES, "quick", replace(module.SCALES["quick"], per_hop=1, steps=1))
    run("im_stepgame", tiny, tmp_path, monkeypatch)
    rows = read(tmp_path / "results/accuracy.csv")
    assert {row["run"] for row in rows} == {"base", "it-16-0", "im-16-0"}
    assert [row["k"] for row in read(tmp_path / "results/tests.csv")] == ["all", *map(str, range(1, 11))]


def test_soft_prompts(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = importlib.import_module("experiments.dept_stepgame.__main__")
    monkeypatch.setitem(module.SCALES, "quick", replace(module.SCALES["quick"], per_hop=1, steps=1))
    run("dept_stepgame", tiny, tmp_path, monkeypatch)
    rows = read(tmp_path / "results/accuracy.csv")
    assert {row["run"] for row in rows} == {"zero-shot", "pt-0", "dept-0", "lora-0"}
    parameters = {row["run"]: int(row["parameters"]) for row in rows}
    assert 0 < parameters["dept-0"] <= parameters["pt-0"]
    tests = read(tmp_path / "results/tests.csv")
    assert {row["run"] for row in tests} == {"pt-0", "dept-0", "lora-0"}
    # Resumed: everything is there already, and comes out the same.
    run("dept_stepgame", tiny, tmp_path, monkeypatch)
    assert read(tmp_path / "results/tests.csv") == tests


def test_answers_beside_what_shuffled_stories_would_give(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for model in ("majority", "oracle"):
        evaluate(model, hops="1-3", per_hop=40, seed=3, out=tmp_path / model)
    constant, perfect = str(tmp_path / "majority"), str(tmp_path / "oracle")
    assert answers.main([constant, perfect, "--against", perfect]) == 0
    told = capsys.readouterr().out.splitlines()[2:]
    assert told[1].count("; +0.0 (p = 1)") == 3
    assert all(float(points) < -60 for points in re.findall(r"; (-[0-9.]+) \(p", told[0]))
    evaluate("oracle", hops="1-3", per_hop=40, seed=4, out=tmp_path / "others")
    with pytest.raises(InputError, match="not asked the same stories"):
        answers.main([perfect, "--against", str(tmp_path / "others")])
    capsys.readouterr()
    assert answers.main([constant, perfect]) == 0
    constant, perfect = (line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:])
    assert constant[1].endswith(" 100%")
    for cell, other in zip(constant[2:], perfect[2:], strict=True):
        accuracy, shuffled = cell.strip(" |").split(", ")
        assert accuracy == shuffled
        assert other.startswith("100.0, ")
        assert 11 <= float(other.strip(" |").split(", ")[1]) < 30


def test_the_papers_scale_is_only_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, words in (("im_overfitting", ["--data", "lima=l.jsonl"]), ("im_stepgame", [])):
        module: Any = importlib.import_module(f"experiments.{name}.__main__")
        assert module.main(["--scale", "paper", "--work", str(tmp_path / "work"), *words]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown
        for line in shown:
            assert line.startswith("accelerate launch") and line.endswith("--shard")
            # 128 over the devices of one machine.
            assert "train i" in line and "Llama-2-7b" in line and "--num_processes 8" in line and "--batch 16 " in line
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("words", [[], ["--data", "lima"], ["--data", "=x"]])
def test_data_must_be_named(words: list[str]) -> None:
    module: Any = importlib.import_module("experiments.im_overfitting.__main__")
    with pytest.raises(InputError, match=r"NAME=FILE|--data is missing"):
        module.main(["--quick", *words])
