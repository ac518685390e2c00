"""Two processes of one launch learn what one process learns from the same batches."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny_decoder

ROOT = Path(__file__).parent.parent
SETTINGS = "--hops 1-2 --n 16 --validation 2 --steps 3 --log-every 1 --eval-every 3 --seed 1 --device cpu".split()


def losses(folder: Path) -> list[list[float]]:
    with (folder / "training" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [[float(row[column]) for row in rows if row[column]] for column in ("loss", "grad_norm", "eval_loss")]


@pytest.mark.parametrize("method", ["im --train lora", "dept --prompt-length 4 --rank 2"])
def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(method: str, tmp_path: Path) -> None:
    model = str(tiny_decoder(tmp_path / "tiny"))
    words = ["-m", "stepgame.cli", "train", *method.split(), "--model", model, *SETTINGS]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "adapters" / "launch" / "ddp.yaml")]
    runs = {
        "one": [sys.executable, *words, "--batch", "4"],
        "two": [sys.executable, *launch, "--main_process_port", "0", *words, "--batch", "2"],
    }
    found = {}
    for name, command in runs.items():
        out = tmp_path / name
        done = subprocess.run(
            [*command, "--out", str(out)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        found[name] = losses(out)
    assert [len(each) for each in found["one"]] == [3, 3, 1]
    for one, two in zip(found["one"], found["two"], strict=True):
        assert two == pytest.approx(one, rel=1e-4)
