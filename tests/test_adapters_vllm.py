"""Adapters on the offline vLLM engine: what transformers answers with them, vLLM answers too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

pytest.importorskip("vllm")
pytest.importorskip("peft")

from random_adapters import lora, soft_prompt

from adapters import train
from harness import evaluate
from harness.models.base import Prompt, Sampling, Scores
from harness.models.builtin import builtin_folder
from harness.models.registry import parse_model
from harness.models.vllm import VLLMModel
from harness.models.vllm_adapters import EmbeddingProbe, token_table
from harness.prompts import load_prompt
from harness.tasks.stepgame import StepGame
from stepgame.errors import InputError
from tests.tiny import tiny_decoder

if TYPE_CHECKING:
    from harness.models.hf import HFModel

pytestmark = [pytest.mark.model, pytest.mark.slow]

CPU = {"max_model_len": "512", "kv_cache_memory_bytes": "512M"}
REACH = 170
"""Shorter than some of the prompts and longer than others."""


class Pair(NamedTuple):
    """The same adapter on both engines."""

    ours: VLLMModel
    theirs: HFModel


@pytest.fixture(scope="module", params=["dept", "lora"])
def pair(request: pytest.FixtureRequest, smollm2: HFModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Start one engine an adapter."""
    folder = tmp_path_factory.mktemp("adapters") / request.param
    if request.param == "lora":
        lora(folder, smollm2._model, 3)
    else:
        table = smollm2._model.get_input_embeddings().weight.detach()
        soft_prompt(folder, table, 1, rank=4, max_length=REACH, offset="position")
    ours = VLLMModel.load(parse_model("vllm:smollm2", dtype="float32", args=CPU, adapter=folder), lambda _: [])
    yield Pair(ours, type(smollm2).load(parse_model("smollm2", device="cpu", adapter=folder), lambda _: []))
    ours.close()


def _prompts(score: str, hops: str, per_hop: int) -> list[Prompt]:
    template = load_prompt("zero-shot", score)
    return [template.render(example) for example in StepGame(hops=hops, per_hop=per_hop, noise=False).examples]


def test_options_have_the_same_scores_and_another_ranking_than_without(pair: Pair, smollm2: HFModel) -> None:
    prompts = _prompts("choice", "1-5", 20)
    options = [prompt.example.options for prompt in prompts]
    ours, theirs = pair.ours.choose(prompts, options), pair.theirs.choose(prompts, options)
    few = 5
    plain = smollm2.choose(prompts[:few], options[:few])
    lengths = []
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, Scores)
        assert isinstance(other, Scores)
        assert one.logprobs == pytest.approx(other.logprobs, abs=5e-3)
        assert max(range(9), key=one.logprobs.__getitem__) == max(range(9), key=other.logprobs.__getitem__)
        assert (one.tokens, one.tokens_in, one.tokens_out) == (other.tokens, other.tokens_in, other.tokens_out)
        lengths.append(one.tokens_in)
    assert min(lengths) < REACH < max(lengths)
    for one, other in zip(ours[:few], plain, strict=True):
        assert isinstance(one, Scores)
        assert isinstance(other, Scores)
        assert max(abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=True)) > 0.1


def test_greedy_text_is_the_same(pair: Pair) -> None:
    prompts = _prompts("generate", "1,5", 2)
    sampling = Sampling(max_tokens=12)
    assert pair.ours.generate(prompts, sampling) == pair.theirs.generate(prompts, sampling)


def test_an_engine_that_treats_embeddings_otherwise_is_found_out(pair: Pair) -> None:
    if pair.ours._soft is None:
        pytest.skip("the engine takes no embeddings")
    table = token_table(str(builtin_folder()[0]))
    EmbeddingProbe(table, "float32", len(table)).ask(pair.ours._engine)
    with pytest.raises(InputError, match="answers otherwise to this model's embeddings"):
        EmbeddingProbe(table * 3, "float32", len(table)).ask(pair.ours._engine)


def test_the_manifest_names_no_engine_argument_that_an_adapter_needs_as_the_users(pair: Pair) -> None:
    assert set(pair.ours.identity.args["model_args"]) == set(CPU)


def test_weights_trained_by_im_answer_alike_on_both_engines(tmp_path: Path) -> None:
    base = str(tiny_decoder(tmp_path / "tiny", heads=1))
    small: dict[str, Any] = {"hops": "1-2", "n": 8, "steps": 3, "batch": 4, "validation": 2, "lr": 1e-2}
    adapter = train("im", model=base, out=tmp_path / "im", **small)
    asked: dict[str, Any] = {"hops": "1-3", "per_hop": 4, "noise": True, "dtype": "float32"}
    runs = {
        "theirs": evaluate(base, adapter=adapter.folder, out=tmp_path / "theirs", **asked),
        "ours": evaluate(base, backend="vllm", adapter=adapter.folder, model_args=CPU, out=tmp_path / "ours", **asked),
        "plain": evaluate(base, out=tmp_path / "plain", **asked),
    }
    scores = {name: {line["id"]: line["logprobs"] for line in run.samples()} for name, run in runs.items()}
    assert len(scores["ours"]) == 12
    for name, found in scores["ours"].items():
        assert found == pytest.approx(scores["theirs"][name], abs=5e-3)
        assert max(abs(a - b) for a, b in zip(found, scores["plain"][name], strict=True)) > 0.1


def test_a_lora_of_the_embeddings_is_refused_beside_a_soft_prompt(tmp_path: Path, smollm2: HFModel) -> None:
    from adapters.lora.config import LoRAConfig
    from adapters.lora.method import wrap_with_lora
    from harness.models.adapters import read_adapter
    from harness.models.vllm_adapters import engine_settings

    wrapped = wrap_with_lora(LoRAConfig(lora_rank=2, lora_targets="embed_tokens,q_proj"), smollm2._model, 0)
    wrapped.save_pretrained(tmp_path / "embeddings")
    wrapped.unload()
    table = smollm2._model.get_input_embeddings().weight.detach()
    found = [read_adapter(tmp_path / "embeddings"), read_adapter(soft_prompt(tmp_path / "pt", table, 0))]
    assert engine_settings(found[:1])["enable_lora"]
    with pytest.raises(InputError, match="LoRA of the token embeddings too"):
        engine_settings(found)
