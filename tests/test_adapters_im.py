"""Instruction tuning and modelling: which tokens learn, equal losses however rows are laid out, and what is added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.causal import CausalModule
from adapters.encode import TEMPLATE, Encoder, TokenisedConversation
from adapters.im.config import InstructionConfig
from adapters.im.method import InstructionMethod
from adapters.loss import WeightedLoss
from adapters.method import BaseModel, Features
from adapters.methods import make_method
from adapters.trainer import MicroBatches
from harness.models.base import Message
from stepgame.errors import InputError
from tests.tiny import tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

CONVERSATIONS = [
    [Message("user", "Where is A relative to B?"), Message("assistant", "left")],
    [Message("system", "Be brief."), Message("user", "Name a colour."), Message("assistant", "A deep green.")],
    [
        Message("user", "Hello there, how are you on this fine day of the year?"),
        Message("assistant", "Fine."),
        Message("user", "Good."),
        Message("assistant", "Anything else that you want to know?"),
    ],
    [Message("user", "2 + 2?"), Message("assistant", "4")],
]


WORDS = 500
"""Vocabulary of the model here: the tokenizer's ids are taken modulo it, which is all the same to a loss."""


@pytest.fixture(scope="module")
def encoded() -> list[TokenisedConversation]:
    encoder = Encoder(tokenizer())
    return [small(encoder.encode(f"e{place}", turns)) for place, turns in enumerate(CONVERSATIONS)]


def small(tokens: TokenisedConversation) -> TokenisedConversation:
    return replace(tokens, ids=tuple(token % WORDS for token in tokens.ids))


def load() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config)


def build(name: str = "im", **settings: Any) -> Any:
    model = load()
    base = BaseModel("tiny", "tiny", "0" * 64, None, model.config)
    return make_method(name, settings).build(base, model, None, 0)


def weigh(encoded: Sequence[TokenisedConversation], name: str = "im", **settings: Any) -> list[Features]:
    method = make_method(name, settings)
    rows = [method.features(tokens, turns) for tokens, turns in zip(encoded, CONVERSATIONS, strict=True)]
    return [row for row in rows if row is not None]


def gradient(module: Any, rows: Sequence[Features], micro_tokens: int = 4096, packing: bool = False) -> Any:
    """Return the mean loss of a batch and its gradients, however the batch is laid out."""
    module.zero_grad()
    batch = MicroBatches(micro_tokens, 0, packing=packing)(rows)
    total = torch.zeros(())
    for micro in batch["micro"]:
        loss = module(micro) / batch["weight"]
        loss.backward()
        total += loss.detach()
    found = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    return total, found, len(batch["micro"])


def same(first: Any, second: Any) -> bool:
    return bool(torch.equal(first[0], second[0])) and all(torch.equal(first[1][k], second[1][k]) for k in first[1])


def close(first: Any, second: Any) -> None:
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-6)
    assert first[1].keys() == second[1].keys()
    for name, value in first[1].items():
        torch.testing.assert_close(value, second[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(
    ("name", "settings", "learnt"),
    [
        ("it", {}, {"assistant"}),
        ("im", {}, {"assistant", "user", "system"}),
        ("im", {"template_tokens": "train"}, {"assistant", "user", "system", "template"}),
        ("im", {"response_weight": 0.0}, {"user", "system"}),
    ],
)
def test_only_positions_before_weighted_tokens_have_gradients(
    encoded: list[TokenisedConversation],
    chunked: bool,
    name: str,
    settings: dict[str, Any],
    learnt: set[str],
) -> None:
    module = build(name, **settings)
    module.loss.chunked = chunked
    kept: list[torch.Tensor] = []

    def keep(_module: Any, _given: Any, found: Any) -> None:
        states = found.last_hidden_state if chunked else found.logits
        states.retain_grad()
        kept.append(states)

    (module.model.model if chunked else module.model).register_forward_hook(keep)
    for row, tokens, turns in zip(weigh(encoded, name, **settings), encoded, CONVERSATIONS, strict=True):
        module(MicroBatches(4096, 0).tensors([row])).backward()
        states = kept.pop()
        assert states.grad is not None
        for place in range(len(tokens.ids) - 1):
            owner = tokens.owners[place + 1]
            whose = "template" if owner == TEMPLATE else turns[owner].role
            flows = bool(states.grad[0, place].any())
            assert flows == (whose in learnt), (place, whose)
        assert not states.grad[0, -1].any()


def test_weight_0_is_it_and_weight_1_is_im_bit_for_bit(encoded: list[TokenisedConversation]) -> None:
    module = build()
    it = gradient(module, weigh(encoded, "it"))
    im = gradient(module, weigh(encoded, "im"))
    assert same(it, gradient(module, weigh(encoded, "im", prompt_weight=0.0)))
    assert same(im, gradient(module, weigh(encoded, "im", prompt_weight=1.0)))
    between = gradient(module, weigh(encoded, "im", prompt_weight=0.25))
    assert not same(it, im)
    assert min(it[0], im[0]) < between[0] < max(it[0], im[0])


def test_everything_trained_is_the_language_models_own_loss(encoded: list[TokenisedConversation]) -> None:
    module = build()
    row = weigh(encoded, template_tokens="train")[1]
    ids = torch.tensor([row.ids])
    own = load()(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(gradient(module, [row])[0], own.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["token", "example"])
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(
    encoded: list[TokenisedConversation], reduction: str
) -> None:
    module = build()
    rows = [*weigh(encoded, reduction=reduction), *weigh(encoded, reduction=reduction, prompt_weight=0.5)]
    whole = gradient(module, rows)
    longest = max(len(row.ids) for row in rows)
    halves = gradient(module, rows, micro_tokens=4 * longest)
    assert (whole[2], halves[2]) == (1, 2)
    close(whole, halves)
    close(whole, gradient(module, rows, micro_tokens=1))


def test_examples_count_alike_when_reduced_by_example(encoded: list[TokenisedConversation]) -> None:
    module = build()
    rows = weigh(encoded, reduction="example")
    alone = [gradient(module, [row])[0] for row in weigh(encoded)]
    torch.testing.assert_close(gradient(module, rows)[0], torch.stack(alone).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trained", ["full", "lora"])
def test_packed_rows_learn_what_unpacked_ones_do(encoded: list[TokenisedConversation], trained: str) -> None:
    module = build(packing=True, train=trained).train()
    rows = weigh(encoded)
    packed = MicroBatches(4096, 0, packing=True)(rows)["micro"]
    assert [batch["input_ids"].shape[0] for batch in packed] == [1]
    close(gradient(module, rows), gradient(module, rows, packing=True))
    # With room for two rows of the longest, and padding behind the shorter one.
    longest = max(len(row.ids) for row in rows)
    two = MicroBatches(2 * longest, 0, packing=True)(rows)["micro"]
    assert sum(batch["input_ids"].numel() for batch in two) <= 3 * longest
    close(gradient(module, rows), gradient(module, rows, micro_tokens=2 * longest, packing=True))


def test_models_that_look_across_examples_cannot_be_packed() -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MambaConfig, MambaForCausalLM

    carries = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(InputError, match="would see each other; leave --packing out"):
        CausalModule(carries).check_packing()
    rotary = GPTNeoXConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    CausalModule(GPTNeoXForCausalLM(rotary)).check_packing()


def test_chunks_give_what_all_logits_at_once_do(encoded: list[TokenisedConversation]) -> None:
    module = build()
    rows = weigh(encoded)
    whole = gradient(module, rows)
    module.loss = WeightedLoss(module.model, chunk=7)
    close(whole, gradient(module, rows))


@pytest.mark.parametrize("trained", ["full", "lora"])
def test_kl_is_nothing_at_the_start_and_the_divergence_afterwards(
    encoded: list[TokenisedConversation], trained: str
) -> None:
    rows = weigh(encoded, "it")
    plain, held = build("it", train=trained), build("it", train=trained, kl=0.5)
    close(gradient(plain, rows), gradient(held, rows))
    for module in (plain, held):
        with torch.no_grad():
            for value in module.parameters():
                if value.requires_grad:
                    torch.manual_seed(value.numel())
                    value.add_(torch.randn_like(value) * 0.1)
    got = gradient(held, rows)[0] - gradient(plain, rows)[0]
    total, count = 0.0, 0.0
    base = load()
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            ours = plain.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            theirs = base(input_ids=ids).logits[0, :-1].log_softmax(-1)
        weights = torch.tensor(row.weights[1:])
        total += float((weights * (ours.exp() * (ours - theirs)).sum(-1)).sum())
        count += float(weights.sum())
    assert got == pytest.approx(0.5 * total / count, rel=1e-2)
    assert total > 0
    assert not any("reference" in name for name, _ in held.named_parameters())


def test_noise_is_as_large_as_neftune_says_and_only_in_training(encoded: list[TokenisedConversation]) -> None:
    module = build(neftune=5.0)
    rows = weigh(encoded)
    seen: list[torch.Tensor] = []
    table = module.model.get_input_embeddings()
    for packing in (False, True):
        batch = MicroBatches(4096, 0, packing=packing)(rows)["micro"][0]
        clean = table(batch["input_ids"])
        hook = module.model.model.layers[0].register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
        module.eval()(batch)
        torch.testing.assert_close(seen.pop(), clean)
        module.train()(batch)
        hook.remove()
        noise = (seen.pop() - clean).abs().detach()
        if packing:
            starts = [place for place, value in enumerate(batch["position_ids"][0].tolist()) if value == 0]
            spans = [(0, slice(*ends)) for ends in zip(starts, [*starts[1:], None], strict=True)]
        else:
            spans = [(row, slice(int(mask.sum()))) for row, mask in enumerate(batch["attention_mask"])]
        for row, span in spans:
            part = noise[row, span]
            bound = 5.0 / math.sqrt(part.numel())
            assert 0.9 * bound < float(part.max()) <= bound * (1 + 1e-5)
            assert float(part.mean()) == pytest.approx(bound / 2, rel=0.15)


def test_lora_noise_leaves_the_base_of_the_kl_alone(encoded: list[TokenisedConversation]) -> None:
    module = build(train="lora", neftune=5.0, kl=1.0)
    seen = []
    module.model.get_base_model().model.layers[0].register_forward_pre_hook(
        lambda _module, given: seen.append(given[0])
    )
    module.train()(MicroBatches(4096, 0).tensors(weigh(encoded)))
    clean = module.model.get_input_embeddings()(torch.tensor([weigh(encoded)[0].ids]))
    assert len(seen) == 2
    length = clean.shape[1]
    assert not torch.equal(seen[0][0, :length], clean[0])
    assert torch.equal(seen[1][0, :length], clean[0])
    assert module.training
    assert module.noise == 5.0


def test_instructions_keep_a_model_from_memorising() -> None:
    """Outputs at random can only be memorised, which is overconfidence on others; most where nothing else is learnt."""
    encoder, words = Encoder(tokenizer()), "left right above below".split()
    picks = torch.randint(len(words), (64, 9), generator=torch.Generator().manual_seed(0)).tolist()
    turns = [
        [Message("user", " ".join(words[each] for each in pick[:8])), Message("assistant", words[pick[8]])]
        for pick in picks
    ]
    tokens = [small(encoder.encode("e", each)) for each in turns]
    losses = {}
    for name in ("it", "im"):
        method, module = make_method(name, {}), build(name)
        rows: list[Any] = [method.features(each, turn) for each, turn in zip(tokens, turns, strict=True)]
        batch = MicroBatches(8192, 0)(rows[:16])
        optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
        for _ in range(40):
            optimizer.zero_grad()
            (sum(module(micro) for micro in batch["micro"]) / batch["weight"]).backward()
            optimizer.step()
        for part, some in (("train", rows[:16]), ("held", rows[16:])):
            answers = MicroBatches(8192, 0).tensors(some, response=True)
            with torch.no_grad():
                losses[name, part] = float(module(answers) / answers["weights"].sum())
    assert losses["it", "train"] < losses["im", "train"]
    assert losses["it", "held"] > losses["im", "held"]
    assert losses["it", "held"] > losses["it", "train"] + 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_weight": 1.5}, "--prompt-weight is between 0 and 1, got 1.5"),
        ({"prompt_weight": float("nan")}, "--prompt-weight is between 0 and 1"),
        ({"response_weight": -0.1}, "--response-weight is between 0 and 1"),
        ({"prompt_weight": 0.0, "response_weight": 0.0}, "leaves nothing to learn"),
        ({"template_tokens": "keep"}, "unknown value of --template-tokens 'keep'"),
        ({"template_tokens": "train", "prompt_weight": 0.0}, "has no effect"),
        ({"reduction": "tokens"}, "did you mean 'token'"),
        ({"train": "all"}, "unknown value of --train 'all'"),
        ({"neftune": -1.0}, "--neftune must be at least 0"),
        ({"kl": float("inf")}, "--kl must be at least 0"),
        ({"lora_rank": 4}, "--lora-rank has no effect on full weights; give --train lora too"),
        ({"liger": True, "kl": 0.1}, "--liger knows neither"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_method("im", settings)


def test_it_takes_no_weights() -> None:
    with pytest.raises(InputError, match="'it' does not take --prompt-weight; it belongs to im"):
        make_method("it", {"prompt_weight": 0.3})


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("it", {}, "instruction tuning"),
        ("im", {}, "instruction modelling"),
        ("im", {"template_tokens": "train"}, "language modelling of everything"),
        ("im", {"prompt_weight": 0.25}, "weighted instruction tuning"),
    ],
)
def test_the_manifest_says_what_the_loss_is(name: str, settings: dict[str, Any], said: str) -> None:
    loss = make_method(name, settings).loss()
    assert loss["name"] == said
    assert loss["instruction"] == (0.0 if name == "it" else settings.get("prompt_weight", 1.0))
    assert loss["template"] == (1.0 if "template_tokens" in settings else 0.0)


def test_a_conversation_without_an_instruction_is_refused() -> None:
    turns = [Message("assistant", "Hello!")]
    method = InstructionMethod("it", InstructionConfig(prompt_weight=0.0))
    with pytest.raises(InputError, match="no instruction"):
        method.features(Encoder(tokenizer()).encode("e", turns), turns)


def test_liger_is_asked_for_by_name_when_missing() -> None:
    pytest.importorskip("peft")
    try:
        import liger_kernel  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(InputError.__base__, match="pip install 'stepgame\\[liger\\]'"):  # type: ignore[arg-type]
            make_method("im", {"liger": True}).check(BaseModel("tiny", "tiny", "0" * 64, None, None))
