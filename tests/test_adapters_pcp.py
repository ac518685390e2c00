"""Few-shot tasks: prompt-based continued pre-training and its baselines, from files to a model that can be asked."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")


from adapters import train_pcp
from adapters.pcp import stage
from adapters.pcp.tasks import load_task
from adapters.serving import ServeSettings, plan_serving
from harness import evaluate
from harness.models.registry import parse_model, require_verb
from stepgame.errors import InputError
from tests.cut_off import cut_off
from tests.tiny import tiny_decoder, tiny_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

GOOD = "bright warm lively tender clever rich fresh gentle".split()
BAD = "dull cold tired harsh stupid poor stale rough".split()
THINGS = "film song book play meal room game road".split()
FRAME = "the a was and so overall it great terrible that is no yes in other words same".split()


def text_of(label: int, draw: random.Random) -> str:
    """Return a sentence of three words of praise or blame, by which its class can be told."""
    words = draw.sample(GOOD if label else BAD, 3)
    return f"the {draw.choice(THINGS)} was {words[0]} and {words[1]} and so {words[2]}"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_encoder(tmp_path_factory.mktemp("encoder"), [*GOOD, *BAD, *THINGS, *FRAME]))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_decoder(tmp_path_factory.mktemp("decoder")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return files of every kind; no sentence is in two of them."""
    folder, draw, seen = tmp_path_factory.mktemp("data"), random.Random(0), set()

    def rows(count: int) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while len(found) < count:
            text = text_of(len(found) % 2, draw)
            if text not in seen:
                seen.add(text)
                found.append((text, len(found) % 2))
        return found

    with (folder / "train.tsv").open("w", encoding="utf-8") as file:
        file.write("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows(8)))
    with (folder / "dev.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([label, text] for text, label in rows(8))
    with (folder / "test.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows(20))
    entries = {
        str(place): {"text_a": text, "text_b": None, "label": str(label)}
        for place, (text, label) in enumerate(rows(60))
    }
    (folder / "unlabelled.json").write_text(json.dumps(entries), encoding="utf-8")
    return {
        "task": "sst2",
        "labelled": str(folder / "train.tsv"),
        "dev": str(folder / "dev.csv"),
        "test": str(folder / "test.jsonl"),
        "unlabelled": str(folder / "unlabelled.json"),
    }


SHORT: dict[str, Any] = {"steps": 4, "eval_every": 2, "batch": 4, "lr": 1e-3}


@pytest.fixture(scope="module")
def made(encoder: str, data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_pcp(model=encoder, out=tmp_path_factory.mktemp("out") / "pcp", **SHORT, **data).folder


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training/result.json").read_text(encoding="utf-8"))
    return found


def same_weights(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_what_is_written(made: Path) -> None:
    found = result(made)
    assert list(found["stages"]) == ["label-ft", "pretrain", "fine-tune"]
    assert found["seconds"] >= found["training_seconds"] > 0
    assert found["stages"]["label-ft"]["labels"]["texts"] == 60
    manifest = json.loads((made / "training/manifest.json").read_text(encoding="utf-8"))
    assert manifest["data"]["labelled"] == 8
    assert manifest["task"]["words"] == ["terrible", "great"]
    assert not list(made.rglob("checkpoint-*")), "checkpoints of finished stages are only in the way"


def test_a_run_gives_the_pipelines_own_answers(made: Path, tmp_path: Path) -> None:
    asked = {"task": "jsonl", "data": [str(made / "questions.jsonl")], "prompt": str(made / "prompt.toml")}
    run = evaluate(str(made), out=tmp_path / "run", **asked)
    right = [line["correct"] for line in run.samples()]
    assert sum(right) / len(right) == pytest.approx(result(made)["test_accuracy"])


def test_masked_models_are_refused_where_they_cannot_go(made: Path) -> None:
    with pytest.raises(InputError, match="which vLLM does not run; use --backend hf"):
        require_verb(parse_model(str(made), backend="vllm"), "choose")
    with pytest.raises(InputError, match="writes no text; use --score choice"):
        require_verb(parse_model(str(made)), "generate")
    with pytest.raises(InputError, match="which vLLM does not run"):
        plan_serving(ServeSettings(model=str(made)))
    with pytest.raises(InputError, match="which vLLM does not run"):
        plan_serving(ServeSettings(model="smollm2", adapters=[str(made)]))


def test_equal_seeds_give_equal_models(made: Path, encoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    again = train_pcp(model=encoder, out=tmp_path / "again", **SHORT, **data).folder
    other = train_pcp(model=encoder, out=tmp_path / "other", seed=1, **SHORT, **data).folder
    assert same_weights(made, again)
    assert not same_weights(made, other)


def test_gold_labels_of_unlabelled_texts_are_never_learnt(
    made: Path, encoder: str, data: dict[str, Any], tmp_path: Path
) -> None:
    entries = json.loads(Path(data["unlabelled"]).read_text(encoding="utf-8"))
    for change in ("swapped", "missing"):
        changed = {
            key: {**row, "label": str(1 - int(row["label"])) if change == "swapped" else None}
            for key, row in entries.items()
        }
        file = tmp_path / change / "unlabelled.json"
        file.parent.mkdir()
        file.write_text(json.dumps(changed), encoding="utf-8")
        out = train_pcp(
            model=encoder, out=tmp_path / f"out-{change}", **SHORT, **{**data, "unlabelled": str(file)}
        ).folder
        assert same_weights(made, out), change


@pytest.mark.parametrize(
    ("broken", "more"),
    [
        ("label-ft", {}),
        ("pretrain", {}),
        ("fine-tune", {}),
        ("fine-tune", {"method": "self-training", "flex": True, "cutoff": 0.55}),
    ],
)
def test_a_pipeline_goes_on_from_any_stage(
    broken: str,
    more: dict[str, Any],
    made: Path,
    encoder: str,
    data: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off at the second step of a stage, it goes on to the same weights."""
    given: dict[str, Any] = {"model": encoder, **SHORT, **data, **more}
    whole = train_pcp(out=tmp_path / "whole", **given).folder if more else made
    real = stage.make_trainer
    monkeypatch.setattr(stage, "make_trainer", cut_off(real, 2, broken))
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        train_pcp(out=out, **given)
    monkeypatch.setattr(stage, "make_trainer", real)
    with pytest.raises(InputError, match="holds a training already"):
        train_pcp(out=out, **given)
    with pytest.raises(InputError, match="threshold is no longer"):
        train_pcp(out=out, resume=True, **{**given, "threshold": 0.5})
    going_on = train_pcp(out=out, resume=True, **given).folder
    assert same_weights(whole, going_on)


def test_stages_can_be_skipped_or_given(made: Path, encoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    labels = str(made / "training/pseudo_labels.jsonl")
    given = train_pcp(model=encoder, out=tmp_path / "given", pseudo_labels=labels, **SHORT, **data).folder
    assert list(result(given)["stages"]) == ["pretrain", "fine-tune"]
    assert same_weights(made, given)
    skipped = train_pcp(model=encoder, out=tmp_path / "skipped", skip=["label-ft", "fine-tune"], **SHORT, **data).folder
    assert list(result(skipped)["stages"]) == ["pseudo-label", "pretrain"]
    assert (skipped / "model.safetensors").exists()


def test_pseudo_labels_of_a_perfect_model_are_the_gold_ones(encoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    taught = tmp_path / "all.json"
    shutil.copy(data["unlabelled"], taught)
    many = {**SHORT, "steps": 60, "eval_every": 30, "lr": 3e-3, "batch": 16}
    given = {**data, "labelled": str(taught), "test": data["unlabelled"]}
    with pytest.raises(InputError, match="60 of the 60 texts of --labelled stand in the test data too"):
        train_pcp(model=encoder, method="prompt-ft", out=tmp_path / "leak", **many, **given)
    perfect = {**given, "test": data["test"]}
    out = train_pcp(model=encoder, skip=["pretrain", "fine-tune"], out=tmp_path / "p", **many, **perfect).folder
    assert result(out)["stages"]["label-ft"]["labels"]["accuracy"] == 1.0


@pytest.mark.parametrize("method", ["ft", "prompt-ft", "tapt", "self-training"])
def test_every_method_learns(method: str, encoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    steps = {"steps": 60, "eval_every": 20, "batch": 8, "lr": 2e-3, "pretrain_steps": 10}
    out = train_pcp(model=encoder, method=method, cutoff=0.8, out=tmp_path / "out", **steps, **data).folder
    assert result(out)["test_accuracy"] >= 0.75


def test_flexible_cutoffs_and_soft_templates(encoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    flex = train_pcp(model=encoder, method="self-training", flex=True, out=tmp_path / "flex", **SHORT, **data).folder
    soft = train_pcp(model=encoder, method="prompt-ft", template="soft", out=tmp_path / "soft", **SHORT, **data).folder
    hard = train_pcp(model=encoder, method="prompt-ft", out=tmp_path / "hard", **SHORT, **data).folder
    assert not same_weights(flex, hard)
    questions = [json.loads(line) for line in (soft / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert questions[0]["options"] == ["<label-0>", "<label-1>"]
    assert questions[0]["question"].endswith("<soft-0> <soft-1> <soft-2> [MASK] <soft-3>")
    asked = {"task": "jsonl", "data": [str(soft / "questions.jsonl")], "prompt": str(soft / "prompt.toml")}
    run = evaluate(str(soft), out=tmp_path / "run", **asked)
    right = [line["correct"] for line in run.samples()]
    assert sum(right) / len(right) == pytest.approx(result(soft)["test_accuracy"])


def test_the_template_carries_the_signal(encoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    """What the template says of many texts, PCP learns; raw texts cannot teach it."""
    entries = json.loads(Path(data["unlabelled"]).read_text(encoding="utf-8"))
    labels = tmp_path / "labels.jsonl"
    labels.write_text(
        "".join(
            json.dumps({"id": f"unlabelled-{place}", "class": int(row["label"]), "confidence": 1.0}) + "\n"
            for place, row in enumerate(entries.values())
        ),
        encoding="utf-8",
    )
    # Fine-tuning so short that it decides nothing by itself.
    steps = {"pretrain_steps": 400, "pretrain_batch": 16, "pretrain_lr": 5e-3, "steps": 2, "lr": 1e-4, "batch": 4}
    tapt = train_pcp(model=encoder, method="tapt", out=tmp_path / "tapt", **steps, **data).folder
    given = {"pseudo_labels": str(labels), "mask_label": True}
    pcp = train_pcp(model=encoder, out=tmp_path / "pcp", **given, **steps, **data).folder
    assert result(pcp)["test_accuracy"] >= result(tapt)["test_accuracy"] + 0.2


def test_pairs(encoder: str, tmp_path: Path) -> None:
    draw = random.Random(1)
    for name, count in (("train", 8), ("dev", 4), ("test", 6), ("unlabelled", 12)):
        lines = []
        for place in range(count):
            first = text_of(place % 2, draw)
            second = first if place % 2 else text_of(1, draw)
            lines.append(json.dumps({"sentence1": f"{first} {name}", "sentence2": second, "label": place % 2}) + "\n")
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    given = {"task": "mrpc", "labelled": str(tmp_path), "unlabelled": str(tmp_path / "unlabelled.jsonl")}
    models = {}
    for separator in ("model", "blank", "line", "apart"):
        out = tmp_path / separator
        models[separator] = train_pcp(
            model=encoder, method="tapt", pair_separator=separator, head="cls", out=out, **SHORT, **given
        ).folder
    assert not same_weights(models["model"], models["blank"])
    assert not same_weights(models["blank"], models["apart"])
    assert same_weights(models["blank"], models["line"]), "to this tokenizer a line is a blank"
    assert "test_accuracy" in result(train_pcp(model=encoder, out=tmp_path / "pcp", **SHORT, **given).folder)


def test_decoders(decoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    out = train_pcp(model=decoder, out=tmp_path / "pcp", **SHORT, **data).folder
    asked = {"task": "jsonl", "data": [str(out / "questions.jsonl")], "prompt": str(out / "prompt.toml")}
    run = evaluate(str(out), out=tmp_path / "run", **asked)
    right = [line["correct"] for line in run.samples()]
    assert sum(right) / len(right) == pytest.approx(result(out)["test_accuracy"])
    for more in ({"method": "self-training"}, {"method": "tapt", "template": "soft"}):
        assert result(train_pcp(model=decoder, out=tmp_path / "more", overwrite=True, **more, **SHORT, **data).folder)


def test_stepgame(decoder: str, tmp_path: Path) -> None:
    stories = {"task": "stepgame", "hops": "1-2", "labelled": 6, "unlabelled": 8, "validation": 2, "test": 4}
    out = train_pcp(model=decoder, out=tmp_path / "pcp", prompt="question", **SHORT, **stories).folder
    run = evaluate(str(out), hops="1-2", per_hop=4, prompt="question", out=tmp_path / "run")
    right = [line["correct"] for line in run.samples()]
    assert sum(right) / len(right) == pytest.approx(result(out)["test_accuracy"])
    labels = [json.loads(line) for line in (out / "training/pseudo_labels.jsonl").read_text().splitlines()]
    assert len(labels) == 8
    assert load_task("stepgame").labels[0] == ("left",)
