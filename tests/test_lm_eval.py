"""lm-evaluation-harness both ways: its own model and ours give the same scores, and it takes our tasks as they are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness import evaluate
from harness.lm_eval.tasks import write_tasks
from harness.run import rescore, resume
from stepgame.errors import InputError
from stepgame.relations import NAMES
from tests.random_adapters import soft_prompt
from tests.tiny import tiny_decoder

lm_eval = pytest.importorskip("lm_eval")

TEXTS = ["The agent walks north.", "Left of the tower stands a wall, and behind it another one.", "Rain again today."]
OPTIONS = [["north", "south by west", "not at all"], ["a wall", "a"], ["Rain", "Sun"]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one task of each output type over one local file."""
    made = tmp_path_factory.mktemp("tasks")
    rows = [
        {"text": text, "options": options, "answer": place % len(options)}
        for place, (text, options) in enumerate(zip(TEXTS, OPTIONS, strict=True))
    ]
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(made / "rows.jsonl")}}}
    shared = {**data, "test_split": "test", "doc_to_text": "{{text}} So:", "metadata": {"version": 1}}
    mean = {"aggregation": "mean", "higher_is_better": True}
    tasks: dict[str, dict[str, Any]] = {
        "sg_choice": {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{options}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", **mean}, {"metric": "acc_norm", **mean}],
        },
        "sg_likelihood": {
            "output_type": "loglikelihood",
            "doc_to_target": " {{options[0]}}",
            "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        },
        "sg_rolling": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "word_perplexity"}],
        },
        "sg_generate": {
            "output_type": "generate_until",
            "doc_to_target": "{{options[0]}}",
            "generation_kwargs": {"until": ["."], "max_gen_toks": 5, "do_sample": False},
            "metric_list": [{"metric": "exact_match", **mean}],
        },
    }
    for name, task in tasks.items():
        (made / f"{name}.yaml").write_text(json.dumps({"task": name, **shared, **task}))
    return made


def test_scores_are_those_of_lm_evals_own_model(tiny: Path, folder: Path, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    names = ["sg_choice", "sg_likelihood", "sg_rolling", "sg_generate"]
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny), "dtype": "float32", "device": "cpu"},
        tasks=names,
        task_manager=manager,
        bootstrap_iters=0,
    )
    run = evaluate(str(tiny), f"lm-eval:{','.join(names)}", data=folder, out=tmp_path / "run")
    results: Any = run.results
    for name in names:
        for metric, value in theirs["results"][name].items():
            if isinstance(value, float) and "stderr" not in metric:
                assert results["lm_eval"]["results"][name][metric] == pytest.approx(value, rel=1e-4), (name, metric)
    lines = {line["id"]: line for line in run.samples()}
    for sample in theirs["samples"]["sg_choice"]:
        ours = lines[f"sg_choice-{sample['doc_id']}"]
        assert ours["logprobs"] == pytest.approx([reply[0][0] for reply in sample["resps"]], abs=1e-4)
        assert ours["correct"] == (sample["acc"] == 1)
    for sample in theirs["samples"]["sg_generate"]:
        assert lines[f"sg_generate-{sample['doc_id']}"]["raw"] == sample["resps"][0][0]
    assert len(lines) == results["answered"] == 12
    assert (
        results["accuracy"] is None
        and results["metrics"]["sg_choice/acc"] == theirs["results"]["sg_choice"]["acc,none"]
    )
    kept = run.manifest["task"]["lm_eval"]
    assert kept["version"] == lm_eval.__version__ and len(kept["tasks"]["sg_choice"]["sha256"]) == 64
    assert not list((tmp_path / "run").glob("lm-eval-requests*"))


@pytest.mark.slow
def test_vllm_gives_the_same(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    tiny = tiny_decoder(tmp_path / "tiny", heads=1)
    runs = [
        evaluate(
            str(tiny), "lm-eval:sg_choice,sg_generate", data=folder, dtype="float32", out=tmp_path / backend, **more
        )
        for backend, more in {
            "hf": {},
            "vllm": {"backend": "vllm", "model_args": {"max_model_len": "512", "kv_cache_memory_bytes": "64M"}},
        }.items()
    ]
    here, there = ({line["id"]: line for line in run.samples()} for run in runs)
    assert len(here) == len(there) == 6
    for name, line in here.items():
        if "sg_choice" in name:
            assert there[name]["logprobs"] == pytest.approx(line["logprobs"], abs=1e-3)
        else:
            assert there[name]["raw"] == line["raw"]


def test_an_adapter_changes_the_scores_and_is_recorded(tiny: Path, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    table = AutoModelForCausalLM.from_pretrained(tiny).get_input_embeddings().weight.detach()
    adapter = soft_prompt(tmp_path / "adapter", table, 0, base={"spec": str(tiny), "hidden_size": table.shape[1]})
    plain = evaluate(str(tiny), "lm-eval:sg_choice", data=folder, out=tmp_path / "plain")
    adapted = evaluate(str(tiny), "lm-eval:sg_choice", data=folder, adapter=adapter, out=tmp_path / "adapted")
    scores = [[line["logprobs"] for line in run.samples()] for run in (plain, adapted)]
    assert all(max(abs(a - b) for a, b in zip(*pair, strict=True)) > 1e-2 for pair in zip(*scores, strict=True))
    assert adapted.manifest["adapter"]["content_hash"]


def test_a_run_that_was_cut_off_asks_only_what_is_missing(
    tiny: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.lm_eval import lm as ours
    from harness.models.hf import HFModel

    monkeypatch.setattr(ours, "BATCH", 1)
    whole = evaluate(str(tiny), "lm-eval:sg_choice", data=folder, out=tmp_path / "whole")
    asked: list[int] = []
    plain = HFModel.score_tokens

    def counted(self: HFModel, prompts: Any, options: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return plain(self, prompts, options)

    monkeypatch.setattr(HFModel, "score_tokens", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(str(tiny), "lm-eval:sg_choice", data=folder, out=tmp_path / "cut")
    assert asked == [1, 1]
    asked.clear()
    gone_on = resume(tmp_path / "cut")
    assert asked == [1]
    assert [line["logprobs"] for line in gone_on.samples()] == [line["logprobs"] for line in whole.samples()]
    with pytest.raises(InputError, match="nothing to judge again"):
        rescore(tmp_path / "cut")


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        ("lm-eval:sg_likelihood", {"backend": "vllm"}, "which backend 'vllm' does not say"),
        ("lm-eval:sg_choice", {"hops": "1"}, "--hops makes stories"),
        ("lm-eval:", {}, "names no task"),
    ],
)
def test_what_cannot_be_asked_is_said_before_a_model_is_loaded(
    task: str, settings: dict[str, Any], said: str, tiny: Path, folder: Path, tmp_path: Path
) -> None:
    given = settings if "hops" in settings else {"data": folder, **settings}
    with pytest.raises(InputError, match=said):
        evaluate(str(tiny), task, out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_lm_eval_takes_our_tasks_as_they_are(tiny: Path, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    folder = write_tasks(tmp_path / "stepgame", hops=[1, 3], per_hop=3, seed=5)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_tasks(tmp_path / "stepgame", hops=[1, 3], per_hop=3, seed=5) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny), "dtype": "float32", "device": "cpu"},
        tasks=["stepgame_noise", "stepgame_clean_k3"],
        task_manager=manager,
        num_fewshot=1,
        bootstrap_iters=0,
    )
    ks = [found["results"][f"stepgame_noise_k{k}"]["acc,none"] for k in (1, 3)]
    assert found["results"]["stepgame_noise"]["acc,none"] == pytest.approx(math.fsum(ks) / 2)
    assert [choice[1].strip() for choice in found["samples"]["stepgame_clean_k3"][0]["arguments"]] == list(NAMES)
