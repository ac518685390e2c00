"""Few-shot tasks: prompt-based continued pre-training and its baselines, from files to a model that can be asked."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")


import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoTokenizer

from adapters import train_pcp
from adapters.pcp import stage
from adapters.pcp.config import split_pipeline_settings
from adapters.pcp.learners import gap_filler, pair_tokens
from adapters.pcp.modules import MatchModule
from adapters.pcp.pipeline import make_bench
from adapters.pcp.readers import Text
from adapters.pcp.soft import soften
from adapters.pcp.tasks import load_task
from adapters.serving import ServeSettings, plan_serving
from harness import evaluate
from harness.models.local import Encoder as PromptEncoder
from harness.models.registry import parse_model, require_verb
from stepgame.errors import InputError
from tests.cut_off import counted, cut_off
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


def sha256_of(*texts: str) -> str:
    return Text("", texts, None).sha256


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
    manifest = json.loads((made / "training/manifest.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "run/training.json").read_text()) == {**manifest, "result": result(made)}


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


@pytest.mark.parametrize("more", [{}, {"method": "self-training", "cutoff": 0.5}, {"kind": "decoder"}])
def test_gold_labels_of_unlabelled_texts_are_never_learnt(
    more: dict[str, Any], encoder: str, decoder: str, data: dict[str, Any], tmp_path: Path
) -> None:
    entries = json.loads(Path(data["unlabelled"]).read_text(encoding="utf-8"))
    model = decoder if more == {"kind": "decoder"} else encoder
    given: dict[str, Any] = {**data, **SHORT, **{key: value for key, value in more.items() if key != "kind"}}
    as_it_is = train_pcp(model=model, out=tmp_path / "as-it-is", **given).folder
    for change in ("swapped", "missing"):
        changed = {
            key: {**row, "label": str(1 - int(row["label"])) if change == "swapped" else None}
            for key, row in entries.items()
        }
        file = tmp_path / change / "unlabelled.json"
        file.parent.mkdir()
        file.write_text(json.dumps(changed), encoding="utf-8")
        out = train_pcp(model=model, out=tmp_path / f"out-{change}", **{**given, "unlabelled": str(file)}).folder
        assert same_weights(as_it_is, out), change


@pytest.mark.parametrize(
    ("broken", "more", "left"),
    [
        ("label-ft", {}, {"label-ft": 2, "pretrain": 4, "fine-tune": 4}),
        ("pretrain", {}, {"pretrain": 2, "fine-tune": 4}),
        ("fine-tune", {}, {"fine-tune": 2}),
        ("pretrain", {"skip": ["label-ft"]}, {"pretrain": 2, "fine-tune": 4}),
        ("fine-tune", {"method": "self-training", "flex": True, "cutoff": 0.55}, {"fine-tune": 2}),
    ],
)
def test_a_pipeline_goes_on_from_any_stage(
    broken: str,
    more: dict[str, Any],
    left: dict[str, int],
    made: Path,
    encoder: str,
    data: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off at the second step of a stage, it goes on to the same weights, and does no step twice."""
    given: dict[str, Any] = {"model": encoder, **SHORT, **data, **more}
    whole = train_pcp(out=tmp_path / "whole", **given).folder if more else made
    real = stage.make_trainer
    monkeypatch.setattr(stage, "make_trainer", cut_off(real, 2, broken))
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        train_pcp(out=out, **given)
    steps: Counter[str] = Counter()
    monkeypatch.setattr(stage, "make_trainer", counted(real, steps))
    with pytest.raises(InputError, match="holds a training already"):
        train_pcp(out=out, **given)
    with pytest.raises(InputError, match="mask_rate is no longer"):
        train_pcp(out=out, resume=True, **{**given, "mask_rate": 0.5})
    going_on = train_pcp(out=out, resume=True, **given).folder
    assert same_weights(whole, going_on)
    assert steps == left
    assert list(result(going_on)["stages"]) == list(result(whole)["stages"])


def test_stages_can_be_skipped_or_given(made: Path, encoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    labels = str(made / "training/pseudo_labels.jsonl")
    given = train_pcp(model=encoder, out=tmp_path / "given", pseudo_labels=labels, **SHORT, **data).folder
    assert list(result(given)["stages"]) == ["pretrain", "fine-tune"]
    assert same_weights(made, given)
    other = tmp_path / "other" / Path(data["unlabelled"]).name
    other.parent.mkdir()
    other.write_text(json.dumps([{"text_a": text_of(1, random.Random(9)) + " so"}]), encoding="utf-8")
    with pytest.raises(InputError, match="has no label for 1 of the 1 texts of --unlabelled"):
        train_pcp(
            model=encoder, out=tmp_path / "no", pseudo_labels=labels, **SHORT, **data | {"unlabelled": str(other)}
        )
    changed = tmp_path / "labels.jsonl"
    changed.write_text(Path(labels).read_text(encoding="utf-8"), encoding="utf-8")
    kept = [json.loads(line)["confidence"] for line in changed.read_text(encoding="utf-8").splitlines()]
    least = sorted(kept)[len(kept) // 2]
    sure = train_pcp(model=encoder, out=tmp_path / "sure", threshold=least, **SHORT, **data).folder
    assert result(sure)["stages"]["label-ft"]["labels"]["kept"] == sum(each >= least for each in kept) < len(kept)
    assert not same_weights(made, sure)
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


@pytest.mark.parametrize("method", ["ft", "prompt-ft", "tapt", "pcp", "self-training"])
def test_every_method_learns(method: str, encoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    steps: dict[str, Any] = {"steps": 60, "eval_every": 20, "batch": 8, "lr": 2e-3, "pretrain_steps": 10}
    more = {"cutoff": 0.8} if method == "self-training" else {}
    out = train_pcp(model=encoder, method=method, out=tmp_path / "out", **steps, **more, **data).folder
    assert result(out)["test_accuracy"] >= 0.75


@pytest.mark.parametrize("method", ["ft", "prompt-ft", "tapt", "pcp", "self-training"])
def test_nothing_need_be_held_out(method: str, encoder: str, data: dict[str, Any], tmp_path: Path) -> None:
    bare = {key: value for key, value in data.items() if key not in ("dev", "test")}
    out = train_pcp(model=encoder, method=method, out=tmp_path / "out", **SHORT, **bare).folder
    marks = result(out)["stages"]
    assert marks["fine-tune"]["validation"] == []
    assert marks["fine-tune"]["best_step"] is None
    assert not (out / "questions.jsonl").exists()


def test_self_training_believes_what_it_is_sure_of() -> None:
    """By hand: two classes, cut-off 0.8; of four texts one was never sure, two are of class 0 and one of class 1."""

    class Given(nn.Module):
        words = torch.tensor([5, 6])

        def logits(self, batch: Any) -> torch.Tensor:
            found: torch.Tensor = batch["logits"]
            return found

        def forward(self, batch: Any) -> torch.Tensor:
            return functional.cross_entropy(batch["logits"], batch["classes"], reduction="sum")

    def probabilities(*values: float) -> torch.Tensor:
        return torch.tensor([[math.log(each), math.log(1 - each)] for each in values])

    batch = {
        "labelled": {"logits": probabilities(0.5, 0.5), "classes": torch.tensor([0, 1])},
        "weak": {"logits": probabilities(0.9, 0.35)},
        "strong": {"logits": probabilities(0.6, 0.6)},
        "numbers": torch.tensor([0, 3]),
    }
    fixed = MatchModule(Given(), 0.8, 4, flex=False)  # type: ignore[arg-type]
    assert float(fixed(batch)) == pytest.approx(-2 * math.log(0.5) - math.log(0.6))
    flexible = MatchModule(Given(), 0.8, 4, flex=True)  # type: ignore[arg-type]
    flexible.learnt = torch.tensor([0, 0, 1, -1])
    # Class 1 has half as many as class 0: 0.8 * 0.5 / 1.5 = 0.267, so the second text's 0.65 is believed as well.
    assert float(flexible(batch)) == pytest.approx(-2 * math.log(0.5) - math.log(0.6) - math.log(0.4))
    assert flexible.learnt.tolist() == [0, 0, 1, -1], "below 0.8 a text counts for no class"
    flexible.learnt = torch.tensor([-1, -1, -1, -1])
    assert float(flexible(batch)) == pytest.approx(-2 * math.log(0.5) - math.log(0.6) - math.log(0.4))
    assert flexible.learnt.tolist() == [0, -1, -1, -1]


def test_soft_tokens_begin_as_the_words(encoder: str) -> None:
    model, tokens = AutoModelForMaskedLM.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    before = model.get_input_embeddings().weight.detach().clone()
    task = soften(load_task("sst2"), model, tokens, masked=True)
    assert task.cloze == "{a} <soft-0> <soft-1> <soft-2> [MASK] <soft-3>"
    after = model.get_input_embeddings().weight
    names = [f"<soft-{place}>" for place in range(4)] + list(task.words)
    for name, word in zip(names, ["overall", "it", "was", ".", "terrible", "great"], strict=True):
        own, first = tokens.convert_tokens_to_ids([name, word])
        assert torch.equal(after[own], before[first])


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
            json.dumps({"class": int(row["label"]), "confidence": 1.0, "text_sha256": sha256_of(row["text_a"])}) + "\n"
            for row in entries.values()
        ),
        encoding="utf-8",
    )
    # Fine-tuning so short that it decides nothing by itself.
    steps = {"pretrain_steps": 400, "pretrain_batch": 16, "pretrain_lr": 5e-3, "steps": 2, "lr": 1e-4, "batch": 4}
    tapt = train_pcp(model=encoder, method="tapt", out=tmp_path / "tapt", **steps, **data).folder
    given = {"pseudo_labels": str(labels), "mask_label": True}
    pcp = train_pcp(model=encoder, out=tmp_path / "pcp", **given, **steps, **data).folder
    assert result(pcp)["test_accuracy"] >= result(tapt)["test_accuracy"] + 0.2
    # It is the labels that teach: the same words beside texts at random teach nothing.
    lines = labels.read_text(encoding="utf-8").splitlines()
    classes = [json.loads(line)["class"] for line in lines]
    random.Random(0).shuffle(classes)
    mixed = [{**json.loads(line), "class": each} for line, each in zip(lines, classes, strict=True)]
    labels.write_text("".join(json.dumps(each) + "\n" for each in mixed), encoding="utf-8")
    blind = train_pcp(model=encoder, out=tmp_path / "blind", **given, **steps, **data).folder
    assert result(pcp)["test_accuracy"] >= result(blind)["test_accuracy"] + 0.2


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


@pytest.mark.parametrize("chat", [True, False])
def test_decoders_learn_the_tokens_that_they_are_asked(
    chat: bool, decoder: str, data: dict[str, Any], tmp_path: Path
) -> None:
    model = shutil.copytree(decoder, tmp_path / "model")
    if not chat:
        (model / "chat_template.jinja").unlink()
    settings = split_pipeline_settings({"model": str(model), "method": "prompt-ft", "out": tmp_path / "out", **data})
    bench = make_bench(settings)
    learner = gap_filler(bench, bench.base)
    encoder = PromptEncoder(learner.tokenizer)
    assert learner.asker is not None
    for text, row in zip(bench.corpus.labelled, learner.rows, strict=True):
        asked = encoder.encode([learner.asker.prompt(text)])[0]
        answer = encoder.options(asked, learner.asker.options)[text.label or 0]
        assert row.ids[: len(asked.ids) + len(answer)] == (*asked.ids, *answer)
        assert row.prompt == len(asked.ids)
        assert learner.tokenizer.eos_token_id in row.ids[len(asked.ids) + len(answer) :]


def test_a_decoders_pairs_are_kept_apart(decoder: str) -> None:
    tokens = AutoTokenizer.from_pretrained(decoder)
    whole = pair_tokens(tokens, ("He left.", "She stayed."), 100).ids
    assert tokens.decode(whole) == f"He left.{tokens.eos_token}She stayed."
    cut = pair_tokens(tokens, ("He left. " * 20, "She stayed. " * 20), 30).ids
    assert len(cut) == 30
    assert cut.count(tokens.eos_token_id) == 1


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
    task = json.loads((out / "training/manifest.json").read_text(encoding="utf-8"))["task"]
    assert task["words"][0] == "left"
    assert task["prompt"]["sha256"] == run.manifest["prompt"]["sha256"]
