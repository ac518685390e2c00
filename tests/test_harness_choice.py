"""Option log-likelihoods: the trie, and the packed pass against the plain sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.base import Prompt, Scores
from harness.prompts import load_prompt
from harness.tasks.stepgame import StepGame
from harness.trie import ROOT, build_trie, split_options
from stepgame.errors import InputError

if TYPE_CHECKING:
    from harness.models.hf import HFModel

TOKENS = st.lists(st.tuples(st.integers(0, 3)) | st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple))
OPTIONS = TOKENS.map(lambda options: list(dict.fromkeys(options))).filter(bool)


@given(OPTIONS)
def test_a_trie_spells_every_option_and_holds_no_node_twice(options: list[tuple[int, ...]]) -> None:
    trie = build_trie(options)
    depth = trie.depth

    def spell(node: int) -> tuple[int, ...]:
        return () if node == ROOT else (*spell(trie.parent[node]), trie.inner[node])

    for tokens, steps in zip(options, trie.steps, strict=True):
        assert tuple(token for _, token in steps) == tokens
        assert all(spell(node) == tokens[:place] for place, (node, _) in enumerate(steps))
    paths = [spell(node) for node in range(len(trie.inner))]
    assert len(set(paths)) == len(paths)
    assert [len(path) for path in paths] == list(depth)
    assert all(parent < node for node, parent in enumerate(trie.parent))
    assert trie.scored == len({tokens[:end] for tokens in options for end in range(1, len(tokens) + 1)})


def test_the_border_between_prompt_and_option_is_checked() -> None:
    assert split_options([1, 2], [[1, 2, 3], [1, 2, 4, 5]], ["a", "b"]) == ((3,), (4, 5))
    with pytest.raises(InputError, match="'b' merges"):
        split_options([1, 2], [[1, 2, 3], [1, 7]], ["a", "b"])
    with pytest.raises(InputError, match="'a' adds no token"):
        split_options([1, 2], [[1, 2]], ["a"])
    with pytest.raises(InputError, match="'a' and 'b' have the same"):
        split_options([1], [[1, 2], [1, 2]], ["a", "b"])


def _prompts(per_hop: int, hops: str = "1,4,9") -> list[Prompt]:
    template = load_prompt("zero-shot", "choice")
    return [template.render(example) for example in StepGame(hops=hops, per_hop=per_hop, noise=True).examples]


def _naive(model: HFModel, text: str, option: str) -> float:
    """Sum token log-probabilities by running prompt and option as one sequence, with no cache, mask or batch."""
    import torch

    before = model._tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = model._tokenizer(text + option, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model._model(input_ids=torch.tensor([whole])).logits[0]
    # Row i says what comes behind token i.
    logprobs = logits[len(before) - 1 : -1].double().log_softmax(dim=-1)
    return sum(float(row[token]) for row, token in zip(logprobs, whole[len(before) :], strict=True))


@pytest.mark.model
def test_packed_scores_are_the_plain_sums(smollm2: HFModel) -> None:
    assert smollm2.identity.args["option_scoring"] == "packed"
    prompts = _prompts(1)
    options = ["left", "upper-left", "upper-right", "somewhere up there", "overlap"]
    for prompt, scores in zip(prompts, smollm2.choose(prompts, [options] * len(prompts)), strict=True):
        assert isinstance(scores, Scores)
        text = smollm2.render(prompt)
        assert scores.logprobs == pytest.approx([_naive(smollm2, text, option) for option in options], abs=1e-3)
        assert scores.tokens[0] == 1
        assert scores.tokens[1] == len(smollm2._tokenizer("upper-left")["input_ids"])


@pytest.mark.model
def test_scores_depend_on_no_neighbour_in_the_batch(smollm2: HFModel) -> None:
    """A batch of mixed lengths is padded on the left and shares a beginning; alone there is neither."""
    prompts = _prompts(2)
    options = [prompt.example.options for prompt in prompts]
    together = smollm2.choose(prompts, options)
    for prompt, choices, scores in zip(prompts, options, together, strict=True):
        smollm2._packed._prefix = ()
        (alone,) = smollm2.choose([prompt], [choices])
        assert isinstance(scores, Scores) and isinstance(alone, Scores)
        assert scores.logprobs == pytest.approx(alone.logprobs, abs=1e-3)


@pytest.mark.model
def test_each_prompt_may_have_options_of_its_own(smollm2: HFModel) -> None:
    prompts = _prompts(1, hops="2,3")
    options = [["left", "right"], ["upper-left", "lower-left", "above"]]
    mixed = smollm2.choose(prompts, options)
    single = [smollm2.choose([prompt], [choices])[0] for prompt, choices in zip(prompts, options, strict=True)]
    for one, other in zip(mixed, single, strict=True):
        assert isinstance(one, Scores) and isinstance(other, Scores)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
