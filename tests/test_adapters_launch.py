"""Two processes of one launch learn what one process learns from the same batches, also where the model is spread."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from adapters import train, train_pcp
from stepgame.errors import InputError
from tests.tiny import tiny_decoder

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]
ROOT = Path(__file__).parent.parent
# Examples of a step are cut into pieces that one process has more of than the other.
SHARED: dict[str, Any] = {"seed": 1, "device": "cpu", "log_every": 1, "eval_every": 2, "micro_tokens": 150}
STORIES = {"hops": "1-2", "n": 16, "validation": 2, "steps": 3, **SHARED}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("im", {"train": "lora", **STORIES}),
    "dept": ("dept", {"prompt_length": 4, "rank": 2, **STORIES}),
    "full": ("full", {"lr": 1e-3, **STORIES}),
    "pcp": ("pcp", {"task": "stepgame", "hops": "1", "labelled": 8, "unlabelled": 8, "test": 2, "steps": 2, **SHARED}),
}
WEIGHTS = {"lora": "adapter_model.safetensors", "dept": "adapter.safetensors"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_decoder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def learnt(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of trainings: each in one process, and in two of one launch, whole and spread."""
    folder = tmp_path_factory.mktemp("learnt")
    planned: list[dict[str, Any]] = []
    for name, (method, settings) in METHODS.items():
        given = {"model": tiny, "lr": 1e-3, **settings}
        learn = train_pcp if method == "pcp" else partial(train, method)
        learn(out=folder / f"{name}-one", batch=4, **given)
        for way in ("whole", "spread"):
            out = {"out": str(folder / f"{name}-{way}"), "batch": 2, "shard": way == "spread"}
            planned.append({"method": method, "settings": {**given, **out}})
    for cut, way, more in (
        ("cut", "spread", {"stop": 2}),
        ("cut-whole", "whole", {"copy": str(folder / "cut")}),
        ("cut-spread", "spread", {"copy": str(folder / "cut")}),
    ):
        out = {"out": str(folder / cut), "batch": 2, "shard": way == "spread", "resume": "copy" in more}
        planned.append({"method": "full", "settings": {"model": tiny, **METHODS["full"][1], **out}, **more})
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "adapters/launch/ddp.yaml")]
    done = subprocess.run(
        [sys.executable, *launch, "--main_process_port", "0", "-m", "tests.launched", json.dumps(planned)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def losses(folder: Path) -> list[list[float]]:
    with (folder / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [[float(row[column]) for row in rows if row[column]] for column in ("loss", "grad_norm", "eval_loss")]


def assert_close(one: Path, other: Path, points: list[int]) -> None:
    """Compare the courses of two trainings, which have so many losses, norms and validations."""
    assert [len(each) for each in losses(one)] == points
    for expected, found in zip(losses(one), losses(other), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def assert_close_tensors(one: Path, other: Path) -> None:
    from safetensors.torch import load_file

    expected, found = load_file(one), load_file(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        # Adam's first steps take the sign of gradients that are almost 0.
        assert found[name].sub(tensor).abs().mean() <= 1e-3 * tensor.abs().mean(), name


@pytest.mark.parametrize("way", ["whole", "spread"])
@pytest.mark.parametrize("name", list(METHODS))
def test_two_processes_learn_what_one_does_at_the_same_global_batch(name: str, way: str, learnt: Path) -> None:
    one, two = learnt / f"{name}-one", learnt / f"{name}-{way}"
    # Nothing is held out of a pre-training, so it has no validation.
    of_pipeline = {"label-ft": [2, 2, 1], "pretrain": [2, 2, 0], "fine-tune": [2, 2, 1]}
    for stage, points in (of_pipeline if name == "pcp" else {".": [3, 3, 2]}).items():
        assert_close(one / "training" / stage, two / "training" / stage, points)
    weights = WEIGHTS.get(name, "model.safetensors")
    assert_close_tensors(one / weights, two / weights)


@pytest.mark.parametrize("way", ["whole", "spread"])
def test_a_spread_training_goes_on_where_it_was_cut_off_spread_or_not(way: str, learnt: Path) -> None:
    assert_close_tensors(learnt / "full-spread/model.safetensors", learnt / f"cut-{way}/model.safetensors")


@pytest.mark.parametrize("way", ["whole", "spread"])
def test_processes_share_the_labelling(way: str, learnt: Path) -> None:
    expected, found = (
        [json.loads(line) for line in (learnt / f"pcp-{each}/training/pseudo_labels.jsonl").read_text().splitlines()]
        for each in ("one", way)
    )
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    assert [row["confidence"] for row in found] == pytest.approx([row["confidence"] for row in expected], abs=1e-3)


@pytest.mark.parametrize(
    ("environment", "settings", "message"),
    [
        ({}, {"shard": True}, "this is the only one"),
        ({"ACCELERATE_USE_FSDP": "true"}, {}, "launch with adapters/launch/ddp.yaml"),
        ({"WORLD_SIZE": "2"}, {"shard": True, "kl": 0.1}, "--shard does not go with --kl"),
    ],
)
def test_a_launch_that_does_not_fit(
    environment: dict[str, str],
    settings: dict[str, Any],
    message: str,
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        train("im", model=tiny, hops="1", n=4, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_self_training_is_for_one_process(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="in one process"):
        train_pcp(model=tiny, task="stepgame", labelled=8, unlabelled=8, method="self-training", out=tmp_path / "out")
