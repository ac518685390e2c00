"""The training path: what it writes, that it can be cut off anywhere, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch
from safetensors.torch import load_file

from adapters import load, train
from adapters.trainer import MicroBatches, TrainingStoppedError
from harness import evaluate
from harness.models.adapters import Adapter
from harness.models.architecture import architecture_of
from harness.models.builtin import checkpoint_hash
from harness.models.registry import parse_model
from harness.plan import training_record
from harness.run import rescore, resume
from stepgame.errors import InputError
from tests.tiny import tiny_decoder, tiny_encoder_decoder

SMALL: dict[str, Any] = {"hops": "1-2", "n": 24, "validation": 2, "batch": 4, "prompt": "question"}
DEPT: dict[str, Any] = {**SMALL, "prompt_length": 4, "rank": 2, "steps": 6, "eval_every": 2, "log_every": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_decoder(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def trained(base: str, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    out = tmp_path_factory.mktemp("out") / "dept"
    return train("dept", model=base, out=out, **DEPT)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter.safetensors")


def test_what_is_written(trained: Adapter, base: str) -> None:
    record = trained.folder / "training"
    manifest = json.loads((record / "manifest.json").read_text())
    assert manifest["method"] == "dept"
    assert manifest["data"]["examples"] == 24
    assert manifest["data"]["validation"] == 4
    assert manifest["base"]["content_hash"] == trained.base["content_hash"]
    result = json.loads((record / "result.json").read_text())
    assert result["steps"] == 6
    assert result["best_step"] in (2, 4, 6)
    assert result["parameters"] == 4 * 32 + (256 + 32) * 2
    assert [entry["step"] for entry in result["validation"]] == [2, 4, 6]
    assert (record / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (record / "curve.csv").read_text().startswith("step,epoch,loss,")
    assert load(trained.folder) == trained


def test_the_best_step_is_kept(trained: Adapter, base: str, tmp_path: Path) -> None:
    result = json.loads((trained.folder / "training/result.json").read_text())
    best = max(result["validation"], key=lambda entry: entry["eval_accuracy"])
    assert result["best"] == best["eval_accuracy"]
    assert not (trained.folder / "training/checkpoints").exists(), "what is done needs none"
    # A training that ends at the best step, and learns at the same rate on the way, ends with the same tensors.
    ended = train("dept", model=base, out=tmp_path / "ended", **{**DEPT, "schedule": "constant"})
    step = json.loads((ended.folder / "training/result.json").read_text())["best_step"]
    alone = train("dept", model=base, out=tmp_path / "alone", **{**DEPT, "schedule": "constant", "steps": step})
    assert {name: value.tolist() for name, value in tensors(alone.folder).items()} == {
        name: value.tolist() for name, value in tensors(ended.folder).items()
    }


def test_judging_again_needs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that was named as a folder of the place where the run was made."""
    monkeypatch.chdir(tmp_path)
    tiny_decoder(Path("mine"))
    run = evaluate("mine", out="run", hops=1, per_hop=2, prompt="question")
    shutil.rmtree("mine")
    assert rescore("run").results == run.results
    with pytest.raises(InputError, match="unknown model 'mine'"):
        resume("run")


def test_what_a_server_calls_its_model_is_no_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_decoder(Path("mine"))
    Path("mine/training").mkdir()
    Path("mine/training/manifest.json").write_text("{}", encoding="utf-8")
    assert training_record(parse_model("mine")) == {}
    assert training_record(parse_model("openai:mine")) is None
    assert training_record(parse_model("openai:" + 300 * "m")) is None


def test_a_folder_with_the_built_in_models_name_is_not_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smollm2/training").mkdir(parents=True)
    Path("smollm2/training/manifest.json").write_text("{}", encoding="utf-8")
    Path("smollm2/config.json").write_text('{"architectures": ["BertForMaskedLM"]}', encoding="utf-8")
    assert training_record(parse_model("smollm2")) is None
    assert architecture_of(parse_model("smollm2")) == "generative"


def test_a_run_with_it_names_it(trained: Adapter, base: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"hops": 1, "per_hop": 4, "prompt": "question"}
    with_it = evaluate(base, adapter=trained.folder, out=tmp_path / "on", **asked)
    without = evaluate(base, out=tmp_path / "off", **asked)
    assert with_it.manifest["adapter"]["content_hash"] == trained.content_hash
    assert without.manifest["adapter"] is None
    kept = json.loads((tmp_path / "on/training.json").read_text(encoding="utf-8"))
    assert kept["method"] == "dept"
    assert kept.pop("result")["parameters"] == 704
    assert kept == json.loads((trained.folder / "training/manifest.json").read_text(encoding="utf-8"))
    assert not (tmp_path / "off/training.json").exists()
    evaluate(base, out=tmp_path / "on-and-off", adapter=trained.folder, **asked)
    evaluate(base, out=tmp_path / "on-and-off", overwrite=True, **asked)
    assert not (tmp_path / "on-and-off/training.json").exists()
    assert with_it.manifest["model"]["content_hash"] == without.manifest["model"]["content_hash"]
    moved = tmp_path / "moved"
    trained.folder.rename(moved)
    try:
        assert rescore(tmp_path / "on").results == with_it.results, "judging again needs no adapter"
        with pytest.raises(InputError, match="is no folder"):
            resume(tmp_path / "on")
    finally:
        moved.rename(trained.folder)
    scores = [[line["logprobs"] for line in run.samples()] for run in (with_it, without)]
    assert scores[0] != scores[1]


def test_seeds_decide(trained: Adapter, base: str, tmp_path: Path) -> None:
    # That the same seed gives the same adapter is shown by the killed training below.
    other = train("dept", model=base, out=tmp_path / "other", **{**DEPT, "seed": 1})
    assert trained.content_hash != other.content_hash


def test_micro_batches_do_not_change_what_is_learnt(trained: Adapter, base: str, tmp_path: Path) -> None:
    """A batch cut into single rows gives the same steps as one that goes through whole."""
    cut = train("dept", model=base, out=tmp_path / "cut", micro_tokens=1, **DEPT)
    for name, value in tensors(cut.folder).items():
        assert torch.allclose(value, tensors(trained.folder)[name], atol=1e-4), name


def test_a_killed_training_goes_on_as_if_it_had_not_been(trained: Adapter, base: str, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in DEPT.items()]
    words = [sys.executable, "-m", "stepgame.cli", "train", "dept", "--model", base, "--out", str(out), *flags]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ)
    checkpoint = out / "training/checkpoints/checkpoint-2/trainer_state.json"
    end = time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "adapter.json").exists(), "it was not killed in time"
    with pytest.raises(InputError, match="holds a training already"):
        train("dept", model=base, out=out, **DEPT)
    with pytest.raises(InputError, match="rank is no longer"):
        train("dept", model=base, out=out, resume=True, **{**DEPT, "rank": 3})
    resumed = train("dept", model=base, out=out, resume=True, **DEPT)
    assert resumed.content_hash == trained.content_hash
    written = (out / "training/curve.png").stat().st_mtime_ns
    assert train("dept", model=base, out=out, resume=True, **DEPT) == resumed
    assert (out / "training/curve.png").stat().st_mtime_ns == written, "what is done is not done again"


@pytest.mark.parametrize("method", ["pt", "adept", "lora", "full"])
def test_every_method_learns_and_answers(method: str, base: str, tmp_path: Path) -> None:
    own = {"pt": {"prompt_length": 3}, "adept": {"rank": 2}, "lora": {"lora_rank": 2}, "full": {}}[method]
    lr = {"lora": 0.02, "full": 0.01}.get(method, 0.1)
    adapter = train(method, model=base, out=tmp_path / "a", steps=20, eval_every=10, lr=lr, **{**SMALL, **own})
    losses = [
        entry["eval_loss"] for entry in json.loads((adapter.folder / "training/result.json").read_text())["validation"]
    ]
    # A soft prompt can hardly move a model of random weights; weights learn at least which words are answers.
    assert losses[-1] < (losses[0] if adapter.kind == "soft-prompt" else 10.8)
    run = evaluate(base, adapter=adapter.folder, out=tmp_path / "run", hops=1, per_hop=2, prompt="question")
    assert run.manifest["adapter"]["method"] == method


def test_an_encoder_decoder_is_trained(tmp_path: Path) -> None:
    base = str(tiny_encoder_decoder(tmp_path / "t5"))
    adapter = train("dept", model=base, out=tmp_path / "a", **DEPT)
    result = json.loads((adapter.folder / "training/result.json").read_text())
    assert "eval_accuracy" not in result["validation"][0]
    assert result["validation"][-1]["eval_loss"] < result["validation"][0]["eval_loss"] + 1
    with pytest.raises(InputError, match="encoder-decoder"):
        train("lora", model=base, out=tmp_path / "b", **SMALL)


def test_a_loss_that_is_not_finite_stops(base: str, tmp_path: Path) -> None:
    given = {**SMALL, "steps": 4, "lr": 1e30, "clip": 0, "eval_every": 4, "warmup": 0}
    with pytest.raises(TrainingStoppedError, match="is not a finite number; there is no checkpoint yet"):
        train("full", model=base, out=tmp_path / "a", **given)
    assert not (tmp_path / "a/adapter.json").exists()
    assert (tmp_path / "a/training/manifest.json").exists()


def test_files_of_prompts_and_answers(base: str, tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    lines = [{"prompt": f"Say {word}.", "answer": word} for word in ("one", "two", "three", "four", "five", "six")]
    data.write_text("\n".join(map(json.dumps, lines)))
    adapter = train("pt", model=base, data=data, out=tmp_path / "a", steps=2, validation=1, prompt_length=2)
    manifest = json.loads((adapter.folder / "training/manifest.json").read_text())
    assert (manifest["data"]["examples"], manifest["data"]["validation"]) == (5, 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not valid JSON"),
        ('{"prompt": "x"}', "expected messages"),
        ('{"messages": []}', "not empty"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "nothing to learn"),
        ('{"messages": [{"role": "bot", "content": "x"}]}', "unknown role 'bot'"),
        ('{"prompt": " ", "answer": "x"}', "turn 1"),
        ('{"prompt": "x", "answer": ""}', "turn 2"),
    ],
)
def test_bad_lines_are_named(line: str, said: str, base: str, tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "a", "answer": "b"}\n' + line + "\n")
    with pytest.raises(InputError, match=said) as caught:
        train("pt", model=base, data=data, out=tmp_path / "a")
    assert "line 2" in str(caught.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("dpet", {}, "did you mean 'dept'"),
        ("pt", {"rank": 3}, "no use"),
        ("lora", {"prompt_length": 3}, "belongs to pt, dept, adept"),
        ("dept", {"max_length": 5000}, "positions"),
        ("dept", {"lr": 0.0}, "above 0"),
        ("dept", {"schedule": "linaer"}, "did you mean 'linear'"),
        ("dept", {"data": "nowhere.jsonl"}, "does not exist"),
        ("dept", {"device": "cuda"}, "cuda" if torch.cuda.is_available() else "not to be had"),
        ("lora", {"lora_targets": "nothing"}, "does not fit this model"),
    ],
)
def test_bad_requests(method: str, given: dict[str, Any], said: str, base: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        train(method, model=base, out=tmp_path / "a", **{**SMALL, **given})
    assert not (tmp_path / "a/adapter.json").exists()


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="encoder only"):
        train("pt", model=str(tmp_path / "bert"), out=tmp_path / "a", **SMALL)


def test_another_base_is_refused_before_it_is_loaded(trained: Adapter, tmp_path: Path) -> None:
    other = tiny_decoder(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="was trained on"):
        evaluate(str(other), adapter=trained.folder, out=tmp_path / "run", hops=1, per_hop=1)
    with pytest.raises(InputError, match="takes no --adapter"):
        evaluate("oracle", adapter=trained.folder, out=tmp_path / "run", hops=1, per_hop=1)
    assert not (tmp_path / "run").exists()


def test_micro_batches_keep_within_their_bound() -> None:
    from adapters.method import Features

    rows = [Features((1,) * n, (0.0,) + (1.0,) * (n - 1), (1.0,) * n, 1) for n in (3, 9, 5, 5, 2)]
    made = MicroBatches(10, 0)(rows)
    shapes = [tuple(batch["input_ids"].shape) for batch in made["micro"]]
    assert shapes == [(1, 9), (2, 5), (2, 3)]
    assert float(made["weight"]) == sum(n - 1 for n in (3, 9, 5, 5, 2))


def test_a_model_of_the_hub_is_known_by_its_weights(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache, as huggingface_hub lays it out: an adapter fits whether or not files came one by one."""
    commit = "0" * 40
    kept = tmp_path / "hub/models--some--one"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text(commit)
    shutil.copytree(base, kept / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    adapter = train("pt", model="some/one", out=tmp_path / "a", steps=1, prompt_length=2, **SMALL)
    (kept / "snapshots" / commit / "README.md").write_text("a card that came later")
    run = evaluate("some/one", adapter=adapter.folder, out=tmp_path / "run", hops=1, per_hop=1, prompt="question")
    assert run.manifest["model"]["content_hash"] == adapter.base["content_hash"] == checkpoint_hash(base, None)
