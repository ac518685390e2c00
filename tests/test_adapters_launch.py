"""Two processes of one launch learn what one process learns from the same batches, also where the model is spread."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from adapters import train, train_pcp
from stepgame.errors import InputError
from tests.tiny import tiny_decoder

ROOT = Path(__file__).parent.parent
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "adapters/launch/ddp.yaml")]
# Examples of a step are cut into pieces that one process has more of than the other.
SETTINGS = (
    "--hops 1-2 --n 16 --validation 2 --steps 3 --log-every 1 --eval-every 2 --seed 1 --device cpu --micro-tokens 150"
).split()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_decoder(tmp_path_factory.mktemp("tiny")))


def learn(out: Path, *words: str, launched: bool = False) -> Path:
    """Run ``stepgame train`` in one process, or in two of one launch."""
    start = [*LAUNCH, "--main_process_port", "0"] if launched else [sys.executable]
    done = subprocess.run(
        [*start, "-m", "stepgame.cli", "train", *words, "--batch", "2" if launched else "4", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return out


def losses(folder: Path) -> list[list[float]]:
    with (folder / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [[float(row[column]) for row in rows if row[column]] for column in ("loss", "grad_norm", "eval_loss")]


def assert_close(one: Path, other: Path) -> None:
    """Compare the courses of two trainings."""
    for expected, found in zip(losses(one), losses(other), strict=True):
        assert expected
        assert found == pytest.approx(expected, rel=1e-4)


def assert_close_tensors(one: Path, other: Path) -> None:
    from safetensors.torch import load_file

    expected, found = load_file(one), load_file(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        # Adam's first steps take the sign of gradients that are almost 0.
        assert found[name].sub(tensor).abs().mean() <= 1e-3 * tensor.abs().mean(), name


@pytest.mark.parametrize(
    ("method", "weights", "ways"),
    [
        ("im --train lora", "adapter_model.safetensors", ["ddp", "shard"]),
        ("dept --prompt-length 4 --rank 2", "adapter.safetensors", ["shard"]),
    ],
)
def test_two_processes_learn_what_one_does_at_the_same_global_batch(
    method: str, weights: str, ways: list[str], tiny: str, tmp_path: Path
) -> None:
    words = [*method.split(), "--model", tiny, *SETTINGS]
    one = learn(tmp_path / "one", *words)
    for way in ways:
        flags = ["--shard"] if way == "shard" else []
        two = learn(tmp_path / way, *words, *flags, launched=True)
        assert_close(one / "training", two / "training")
        assert_close_tensors(one / weights, two / weights)


def test_a_spread_training_goes_on_where_it_was_cut_off_spread_or_not(tiny: str, tmp_path: Path) -> None:
    words = ["full", "--model", tiny, *SETTINGS, "--lr", "1e-3"]
    whole = learn(tmp_path / "whole", *words, "--shard", launched=True)
    for flags in (["--shard"], []):
        cut = tmp_path / f"cut{len(flags)}"
        shutil.copytree(whole, cut)
        for name in ("adapter.json", "model.safetensors", "training/result.json"):
            (cut / name).unlink()
        shutil.rmtree(cut / "training/checkpoints/checkpoint-3")
        learn(cut, *words, *flags, "--resume", launched=True)
        assert_close_tensors(whole / "model.safetensors", cut / "model.safetensors")


def test_a_pipeline_in_two_processes(tiny: str, tmp_path: Path) -> None:
    words = f"pcp --task stepgame --hops 1 --labelled 8 --unlabelled 8 --steps 2 --eval-every 2 --model {tiny}".split()
    words += ["--lr", "1e-3", "--seed", "1", "--device", "cpu", "--test", "2", "--log-every", "1"]
    one = learn(tmp_path / "one", *words)
    for flags in ([], ["--shard"]):
        two = learn(tmp_path / f"two{len(flags)}", *words, *flags, launched=True)
        for stage in ("label-ft", "pretrain", "fine-tune"):
            assert_close(one / "training" / stage, two / "training" / stage)
        expected, found = (
            [json.loads(line) for line in (each / "training/pseudo_labels.jsonl").read_text().splitlines()]
            for each in (one, two)
        )
        assert [row["id"] for row in found] == [row["id"] for row in expected]
        assert [row["confidence"] for row in found] == pytest.approx([row["confidence"] for row in expected], abs=1e-3)
        assert_close_tensors(one / "model.safetensors", two / "model.safetensors")


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
