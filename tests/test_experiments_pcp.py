"""The experiments on few-shot tasks end, at the smallest size and on a tiny model, in tables."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from adapters.pcp.tasks import load_task
from experiments.few_shot import few_shot_data, paired
from experiments.tapt_pairs.__main__ import overlap
from stepgame.errors import InputError
from tests.tiny import tiny_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("pcp_vs_tapt", "pcp_templates", "tapt_pairs")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = "left right above below it is of the relative to what where".split()
    return tiny_encoder(tmp_path_factory.mktemp("tiny"), words)


def run(name: str, tiny: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, str]]]:
    module: Any = importlib.import_module(f"experiments.{name}.__main__")
    monkeypatch.setitem(module.SCALES, "quick", replace(module.SCALES["quick"], model=str(tiny)))
    assert module.main(["--quick", "--work", str(out / "work"), "--results", str(out / "results")]) == 0
    assert (out / "results/setting.json").is_file()
    assert not list((out / "work").rglob("*.safetensors")), "no weights are kept"
    tables = {}
    for path in (out / "results").glob("*.csv"):
        with path.open(encoding="utf-8") as file:
            tables[path.stem] = list(csv.DictReader(file))
    return tables


def test_methods_are_compared(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = run("pcp_vs_tapt", tiny, tmp_path, monkeypatch)
    methods = ["FT", "prompt FT", "TAPT + FT", "TAPT + prompt FT", "PCP", "self-training"]
    assert [row["method"] for row in tables["accuracy"]] == methods
    assert all(0 <= float(row["accuracy"]) <= 1 for row in tables["accuracy"])
    assert {row["minus"] for row in tables["paired"]} == set(methods) - {"PCP"}
    difference = {row["method"]: float(row["accuracy"]) for row in tables["accuracy"]}
    for row in tables["paired"]:
        expected = difference["PCP"] - difference[row["minus"]]
        assert float(row["difference"]) == pytest.approx(expected, abs=1e-5)


def test_templates_are_compared(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = run("pcp_templates", tiny, tmp_path, monkeypatch)
    assert [row["template"] for row in tables["summary"]] == ["bare", "swapped words"]


def test_separators_are_compared(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = run("tapt_pairs", tiny, tmp_path, monkeypatch)
    assert [row["variant"] for row in tables["summary"]] == ["none", "blank", "line"]


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_scale_is_only_shown(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    module: Any = importlib.import_module(f"experiments.{name}.__main__")
    given = ["--data", "kshot=K", "--data", "text=T", "--work", str(tmp_path / "work")]
    assert module.main(["--scale", "paper", *given]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown
    for line in shown:
        words = dict(itertools.pairwise(shlex.split(line)))
        assert line.startswith("stepgame train pcp")
        assert (words["--model"], words["--steps"], words["--eval-every"]) == (
            "FacebookAI/roberta-large",
            "1000",
            "100",
        )
        assert Path(words["--labelled"]).parts[0] == "K", "the files as they are, for nothing was written"
        assert "--max-tokens" not in words
        assert not words["--task"].endswith(".toml") or load_task(words["--task"]).words
    assert module.main(["--scale", "cpu", "--dry-run", *given]) == 0
    encoder, warm = capsys.readouterr().out.splitlines()[:2]
    assert encoder == f"python -m adapters.pcp.encoder --out {tmp_path / 'work/encoder'}"
    assert "--method tapt --skip fine-tune" in warm
    assert all(path.suffix == ".toml" for path in (tmp_path / "work").rglob("*.*"))
    with pytest.raises(InputError, match="--data text=FILE is missing"):
        module.main(["--scale", "cpu", "--data", "kshot=K"])


def test_real_files_are_cut_to_size(tmp_path: Path) -> None:
    module: Any = importlib.import_module("experiments.tapt_pairs.__main__")
    source = tmp_path / "kshot/MRPC"
    (source / "16-13").mkdir(parents=True)
    for name, count in (("train", 4), ("dev", 4), ("test", 9)):
        rows = "".join(f"{place % 2},{name} {place},other {place}\n" for place in range(count))
        # As in TREC, a training text stands among the tested ones.
        rows += "1,shared,pair\n" * (name != "dev")
        (source / f"16-13/{name}.csv").write_text(rows, encoding="utf-8")
    entries = [{"text_a": f"u {place}", "text_b": f"v {place}", "label": "1"} for place in range(20)]
    leaked = {"text_a": "test 0", "text_b": "other 0", "label": "0"}
    (source / "unlabelled.json").write_text(json.dumps([leaked, *entries]), encoding="utf-8")
    scale = replace(module.SCALES["cpu"], unlabelled=12, tested=5)
    files = {"kshot": str(tmp_path / "kshot")}
    found = few_shot_data(tmp_path / "made", scale, files, "mrpc", 13, lambda texts: not texts[0].endswith("7"))
    assert len((found.folder / "test.jsonl").read_text().splitlines()) == 5
    everything = few_shot_data(tmp_path / "all", replace(scale, tested=100), files, "mrpc", 13)
    tested = [json.loads(line)["text_a"] for line in (everything.folder / "test.jsonl").read_text().splitlines()]
    assert tested == [f"test {place}" for place in range(9)]
    texts = [json.loads(line)["text_a"] for line in found.unlabelled.read_text().splitlines()]
    assert len(texts) == 12
    assert not [text for text in texts if text.startswith("test") or text.endswith("7")]
    with pytest.raises(InputError, match="lacks 16-21"):
        few_shot_data(tmp_path / "made", scale, files, "mrpc", 21)


def test_differences_are_paired() -> None:
    assert paired([0.5, 0.7], [0.4, 0.6])["difference"] == pytest.approx(0.1)
    found = paired([0.9, 0.8, 0.7], [0.5, 0.5, 0.5])
    assert found["difference"] == pytest.approx(0.3)
    # Three pairs: t = 4.3027 at 95 %, and the standard error is 0.1 / sqrt(3).
    assert found["high"] - found["low"] == pytest.approx(2 * 4.3027 * 0.1 / 3**0.5, abs=1e-4)
    assert overlap(("a b c", "B c d")) == 0.5
