"""Soft prompts: one function in training, generation and the harness; budgets; formats of others."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from adapters.dept.config import SoftPromptConfig, parameters, plan
from adapters.dept.convert import convert
from adapters.dept.model import SoftPromptModel
from adapters.dept.soft_prompt import FILE, TrainedPrompt, load_trained_prompt
from adapters.store import write_adapter
from harness.models.adapters import read_adapter
from harness.models.base import Identity, Prompt, Sampling, Scores
from harness.models.hf import HFModel
from harness.prompts import load_prompt
from harness.tasks.stepgame import StepGame
from stepgame.errors import InputError
from tests.tiny import tiny_decoder, tiny_encoder_decoder, tokenizer

KINDS = [
    SoftPromptConfig(prompt_length=5),
    SoftPromptConfig(prompt_length=1),
    SoftPromptConfig(prompt_length=5, rank=3, max_length=200, offset="position"),
    SoftPromptConfig(prompt_length=1, rank=1, max_length=1, offset="position"),
    SoftPromptConfig(prompt_length=0, rank=2, max_length=30, offset="position"),
    SoftPromptConfig(prompt_length=4, rank=3, offset="token"),
]


def random_prompt(config: SoftPromptConfig, width: int, seed: int = 0, spread: float = 0.5) -> TrainedPrompt:
    soft = TrainedPrompt(config, width)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in soft.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * spread)
    return soft


def write_soft_prompt(folder: Path, soft: TrainedPrompt, base: dict[str, Any], method: str = "dept") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    soft.save(folder / FILE)
    write_adapter(folder, kind="soft-prompt", method=method, config=soft.config.record(), base=base, files=[FILE])
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_decoder(tmp_path_factory.mktemp("decoder"))
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_encoder_decoder(tmp_path_factory.mktemp("t5"))
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="float32").eval()


def padded(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = [row + [0] * (width - len(row)) if side == "right" else [0] * (width - len(row)) + row for row in rows]
    mask = [[int(token != 0) for token in row] for row in ids]
    return torch.tensor(ids), torch.tensor(mask)


ROWS = [list(range(5, 17)), list(range(40, 47)), [9]]


def by_hand(model: Any, soft: TrainedPrompt, ids: list[int], prompt: int) -> torch.Tensor:
    """The definition, spelt out: rows, then each prompt token's embedding with its own offset, then the rest."""
    table = model.get_input_embeddings().weight
    config = soft.config
    parts = [soft.prompt]
    for place, token in enumerate(ids):
        vector = table[token]
        if place < prompt and config.rank and config.offset == "position" and place < config.max_length:
            vector = vector + config.scale * (soft.low_a[place] @ soft.low_b)
        if place < prompt and config.rank and config.offset == "token":
            hidden = torch.relu(vector @ soft.low_a + soft.bias_a)
            vector = vector + config.scale * (hidden @ soft.low_b + soft.bias_b)
        parts.append(vector[None])
    return torch.cat(parts)[None]


@pytest.mark.parametrize("config", KINDS)
@torch.no_grad()
def test_decoder_logits_are_the_definition_with_any_padding(decoder: Any, config: SoftPromptConfig) -> None:
    soft = random_prompt(config, 32)
    module = SoftPromptModel(decoder, soft)
    prompts = torch.tensor([8, 7, 1])
    expected = [
        decoder(inputs_embeds=by_hand(decoder, soft, ids, int(n))).logits[0, soft.length :]
        for ids, n in zip(ROWS, prompts, strict=True)
    ]
    for side in ("right", "left"):
        ids, mask = padded(ROWS, side)
        found = module.logits(ids, mask, prompts)
        for row, want in zip(range(3), expected, strict=True):
            assert torch.allclose(found[row][mask[row].bool()], want, atol=1e-4), side


@pytest.mark.parametrize("config", KINDS)
@torch.no_grad()
def test_decoder_loss_is_the_sum_over_weighted_tokens(decoder: Any, config: SoftPromptConfig) -> None:
    soft = random_prompt(config, 32)
    module = SoftPromptModel(decoder, soft)
    prompts = torch.tensor([8, 5, 1])
    total = 0.0
    for ids, n in zip(ROWS, prompts.tolist(), strict=True):
        logits = decoder(inputs_embeds=by_hand(decoder, soft, ids, n)).logits[0, soft.length :].log_softmax(-1)
        total -= sum(0.5 * float(logits[place - 1, ids[place]]) for place in range(n, len(ids)))
    for side in ("right", "left"):
        ids, mask = padded(ROWS, side)
        count = mask.cumsum(1) - 1
        weights = 0.5 * ((count >= prompts[:, None]) & mask.bool())
        batch = {"input_ids": ids, "attention_mask": mask, "weights": weights, "prompt": prompts}
        assert float(module(batch)) == pytest.approx(total, abs=1e-3)


@torch.no_grad()
def test_generation_goes_on_from_the_same_function(decoder: Any) -> None:
    """Past s too: the tail of a prompt and what is generated get no offset."""
    soft = random_prompt(SoftPromptConfig(prompt_length=3, rank=2, max_length=4, offset="position"), 32)
    module = SoftPromptModel(decoder, soft)
    for side in ("left", "right"):
        ids, mask = padded(ROWS, side)
        made = module.generate(ids, mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
        for row, prompt in enumerate(ROWS):
            tokens = list(prompt)
            for token in made[row].tolist():
                logits = decoder(inputs_embeds=by_hand(decoder, soft, tokens, len(prompt))).logits[0, -1]
                assert token == int(logits.argmax()), (side, row)
                tokens.append(token)


@pytest.mark.parametrize("config", KINDS[:4])
@torch.no_grad()
def test_encoder_decoder(encoder_decoder: Any, config: SoftPromptConfig) -> None:
    soft = random_prompt(config, 32)
    module = SoftPromptModel(encoder_decoder, soft)
    labels = torch.tensor([[7, 8, 9], [3, 4, 0], [5, 0, 0]])
    total, texts = 0.0, []
    for ids, answer in zip(ROWS, labels.tolist(), strict=True):
        embedded = by_hand(encoder_decoder, soft, ids, len(ids))
        real = torch.tensor([[token for token in answer if token]])
        logits = encoder_decoder(inputs_embeds=embedded, labels=real).logits[0].log_softmax(-1)
        total -= float(logits.gather(1, real[0][:, None]).sum())
        texts.append(encoder_decoder.generate(inputs_embeds=embedded, max_new_tokens=4, do_sample=False)[0].tolist())
    for side in ("right", "left"):
        ids, mask = padded(ROWS, side)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "label_weights": (labels > 0).float()}
        assert float(module(batch)) == pytest.approx(total, abs=1e-3), side
        made = module.generate(ids, mask, max_new_tokens=4, do_sample=False).tolist()
        assert [row[: len(text)] for row, text in zip(made, texts, strict=True)] == texts, side


def test_only_the_soft_prompt_gets_gradients(decoder: Any) -> None:
    soft = random_prompt(KINDS[2], 32)
    module = SoftPromptModel(decoder, soft)
    ids, mask = padded(ROWS[:2], "right")
    weights = torch.zeros(ids.shape)
    weights[:, -1] = 1
    module({"input_ids": ids, "attention_mask": mask, "weights": weights, "prompt": torch.tensor([4, 4])}).backward()
    assert all(value.grad is None for value in decoder.parameters())
    assert all(value.grad is not None and bool(value.grad.any()) for value in soft.parameters())
    # Rows beyond the prompts' lengths belong to nobody.
    assert not bool(soft.low_a.grad[4:].any())


def scored(model: Any, soft: TrainedPrompt | None, prompts: list[Prompt]) -> list[Scores]:
    asked = HFModel(model, tokenizer(), Identity("x", dtype="float32"), 2048, soft)
    found: dict[int, Any] = {}
    for batch in asked.batches(prompts):
        part = [prompts[place] for place in batch]
        found |= dict(zip(batch, asked.choose(part, [each.example.options for each in part]), strict=True))
    return [found[place] for place in range(len(prompts))]


@pytest.mark.parametrize("config", [replace(KINDS[2], max_length=40), KINDS[4], KINDS[5]])
def test_the_harness_scores_the_trained_function(decoder: Any, config: SoftPromptConfig) -> None:
    """Packed options behind shared beginnings equal the module's own token log-probabilities."""
    soft = random_prompt(config, 32).eval()
    template = load_prompt("zero-shot", "choice")
    prompts = [template.render(each) for each in StepGame(hops="1-3", per_hop=1, noise=True).examples]
    words = tokenizer()
    module = SoftPromptModel(decoder, soft)
    for prompt, scores in zip(prompts, scored(decoder, soft, prompts), strict=True):
        text = words.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in prompt.messages],
            add_generation_prompt=True,
            tokenize=False,
        )
        before = words(text, add_special_tokens=False)["input_ids"]
        option = prompt.example.options[4]
        ids = words(text + option, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = module.logits(torch.tensor([ids]), prompt=torch.tensor([len(before)]))[0, len(before) - 1 : -1]
        plain = float(logits.log_softmax(-1).gather(1, torch.tensor(ids[len(before) :])[:, None]).sum())
        assert scores.logprobs[4] == pytest.approx(plain, abs=1e-3)
    off = scored(decoder, None, prompts)
    assert any(one.logprobs != other.logprobs for one, other in zip(scored(decoder, soft, prompts), off, strict=True))


@torch.no_grad()
def test_the_harness_generates_the_trained_function(decoder: Any) -> None:
    soft = random_prompt(replace(KINDS[2], max_length=20), 32).eval()
    asked = HFModel(decoder, tokenizer(), Identity("x", dtype="float32"), 4096, soft)
    template = load_prompt("zero-shot", "generate")
    prompts = [template.render(each) for each in StepGame(hops="1-3", per_hop=1).examples]
    replies: Any = asked.generate(prompts, Sampling(max_tokens=5))
    words = tokenizer()
    for prompt, (reply,) in zip(prompts, replies, strict=True):
        ids = words(asked.render(prompt), add_special_tokens=False)["input_ids"]
        made = SoftPromptModel(decoder, soft).generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False)
        assert reply.text == words.decode(made[0], skip_special_tokens=True)
        assert reply.tokens_in == len(ids)


def test_saved_is_loaded(tmp_path: Path) -> None:
    for place, config in enumerate(KINDS):
        soft = random_prompt(config, 32)
        loaded = load_trained_prompt(read_adapter(write_soft_prompt(tmp_path / str(place), soft, {})))
        assert loaded.config.record() == soft.config.record()
        for name, value in soft.named_parameters():
            assert torch.equal(value, dict(loaded.named_parameters())[name])


def test_damaged_adapters_are_refused(tmp_path: Path) -> None:
    folder = write_soft_prompt(tmp_path / "a", random_prompt(KINDS[2], 32), {})
    record = json.loads((folder / "adapter.json").read_text())
    wrong = {**record, "config": {**record["config"], "rank": 7}}
    (folder / "adapter.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match="shapes"):
        load_trained_prompt(read_adapter(folder))
    (folder / "adapter.json").write_text(json.dumps({**record, "files": ["adapter.bin"]}))
    with pytest.raises(InputError, match="pickle"):
        read_adapter(folder)
    (folder / "adapter.json").write_text(json.dumps({**record, "files": ["../../x.safetensors"]}))
    with pytest.raises(InputError, match="plain name"):
        read_adapter(folder)
    (folder / "adapter.json").write_text(json.dumps(record))
    (folder / FILE).unlink()
    with pytest.raises(InputError, match="missing"):
        read_adapter(folder)


@given(
    budget=st.integers(1, 200),
    max_length=st.integers(1, 2048),
    width=st.sampled_from([64, 576, 768, 4096]),
    share=st.floats(0, 1),
)
def test_plans_use_the_budget_and_no_more(budget: int, max_length: int, width: int, share: float) -> None:
    length = int(budget * share)
    m, r = plan(budget, max_length, width, prompt_length=length)
    assert m == length
    assert parameters(m, r, max_length, width) <= budget * width < parameters(m, r + 1, max_length, width)


def test_plans_of_the_paper() -> None:
    # T5-base, s = 256, 76,800 parameters (FIGURES: 100 rows of 768).
    assert [plan(100, 256, 768, prompt_length=m) for m in (40, 60, 80)] == [(40, 45), (60, 30), (80, 15)]
    assert plan(100, 256, 768, rank=45) == (40, 45)
    assert plan(100, 512, 768, rank=24) == (60, 24)
    with pytest.raises(InputError, match="more than"):
        plan(10, 256, 768, prompt_length=11)
    with pytest.raises(InputError, match="more than"):
        plan(10, 256, 768, rank=45)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt_length": -1}, "at least 0"),
        ({"rank": -1}, "at least 0"),
        ({"rank": 3}, "no offsets"),
        ({"prompt_length": 0}, "nothing to train"),
        ({"init": "txt"}, "did you mean 'text'"),
        ({"init": "text"}, "belong together"),
        ({"low_rank_lr": 0.0}, "above 0"),
    ],
)
def test_bad_configurations(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SoftPromptConfig(**given)


def foreign(folder: Path, kind: str = "PROMPT_TUNING_LORA", **more: Any) -> Path:
    folder.mkdir()
    record = {"peft_type": kind, "num_virtual_tokens": 4, "token_dim": 32, "r": 3, "lora_alpha": 8, "max_length": 16}
    (folder / "adapter_config.json").write_text(json.dumps({**record, "base_model_name_or_path": "t5-base", **more}))
    tensors = {"prompt_embeddings": torch.randn(4, 32), "lora_embedding_A": torch.randn(16, 3)}
    torch.save({**tensors, "lora_embedding_B": torch.randn(3, 32)}, folder / "adapter_model.bin")
    return folder


def test_the_authors_checkpoints(tmp_path: Path) -> None:
    source = foreign(tmp_path / "theirs")
    tensors = torch.load(source / "adapter_model.bin", weights_only=True)
    soft = load_trained_prompt(convert(source, tmp_path / "ours"))
    assert soft.config.scale == pytest.approx(8 / math.sqrt(3))
    ids, places = torch.zeros(1, 9, dtype=torch.long), torch.arange(9)[None]
    found = soft.embed(lambda each: torch.zeros(*each.shape, 32), ids, places)[0]
    low = (tensors["lora_embedding_A"] @ tensors["lora_embedding_B"])[:5] * 8 / math.sqrt(3)
    assert torch.allclose(found, torch.cat([tensors["prompt_embeddings"], low]), atol=1e-5)


def test_foreign_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="PREFIX_TUNING"):
        convert(foreign(tmp_path / "a", "PREFIX_TUNING"), tmp_path / "x")
    with pytest.raises(InputError, match="do not fit"):
        convert(foreign(tmp_path / "b", num_virtual_tokens=5), tmp_path / "x")
    source = foreign(tmp_path / "c")
    torch.save({"prompt_embeddings": Path("code")}, source / "adapter_model.bin")
    with pytest.raises(InputError, match="refused"):
        convert(source, tmp_path / "x")
    assert not (tmp_path / "x").exists()
