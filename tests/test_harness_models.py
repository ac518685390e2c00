"""Model specs, prompts, the built-in model, and generation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.base import Completion, Message, Prompt, Sampling
from harness.models.registry import parse_model
from harness.prompts import SCORES, load_prompt
from harness.provenance import redacted
from harness.task import Example
from harness.tasks.stepgame import StepGame
from stepgame.errors import InputError
from stepgame.relations import NAMES

if TYPE_CHECKING:
    from harness.models.hf import HFModel


def test_specs(tmp_path: Path) -> None:
    assert parse_model("smollm2").backend == "hf"
    assert parse_model("hf:smollm2", backend="hf").target == "smollm2"
    hub = parse_model("hf:org/name@v1.2")
    assert (hub.backend, hub.target, hub.revision) == ("hf", "org/name", "v1.2")
    odd = tmp_path / "my@model"
    odd.mkdir()
    assert (parse_model(str(odd)).target, parse_model(str(odd)).revision) == (str(odd), None)


@pytest.mark.parametrize("spec", ["smollm2", "org/name", "oracle", "random", "majority"])
@pytest.mark.parametrize(("key", "flag"), [("base_url", "--base-url"), ("attn", "--model-arg attn")])
def test_a_setting_that_would_count_for_nothing_is_refused(spec: str, key: str, flag: str) -> None:
    with pytest.raises(InputError, match=f"{flag} means nothing to the backend"):
        parse_model(spec, args={key: "x"})
    assert parse_model("smollm2", backend="vllm", args={key: "x"}).args == {key: "x"}


@given(st.text())
def test_any_spec_is_a_request_or_one_line(spec: str) -> None:
    try:
        request = parse_model(spec)
    except InputError as error:
        assert str(error)
    else:
        assert request.spec == spec


@given(st.lists(st.sampled_from(["run", "--api-key", "--token=abc", "hush", "--max-tokens", "5", "--hops"])))
def test_no_secret_is_recorded(words: list[str]) -> None:
    kept = redacted(words)
    assert len(kept) == len(words)
    assert "--token=abc" not in kept
    assert all(kept[place + 1] == "***" for place, word in enumerate(kept[:-1]) if word == "--api-key")


@pytest.mark.parametrize("score", SCORES)
def test_a_prompt_shows_what_is_asked_and_not_the_answer(score: str) -> None:
    example = Example("x", ("A is {question} of B.",), "Where is A relative to B?", NAMES, "left")
    template = load_prompt("zero-shot", score)
    text = template.render(example).messages[-1].content
    # Braces inside a story are text.
    assert "A is {question} of B." in text
    assert example.question in text
    assert ", ".join(NAMES) in text
    gold = Example("x", example.story, example.question, NAMES, "overlap")
    assert template.render(gold).messages == template.render(example).messages


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = 'mine'\nversion = 1\n[choice]\nuser = '{stroy}'", "did you mean 'story'"),
        ("name = 'mine'\n[choice]\nuser = '{story}'", "version is missing"),
        ("name = 'mine'\nversion = '1'", "version must be of type int"),
        ("name = 'mine'\nversion = 1\n[generate]\nuser = 'x'", "use --score generate"),
        ("name = 'mine'\nversion = 1\n[choice]\nuser = ' '", "user is missing or empty"),
        ("name = 'mine'\nversion = 1\n[choice]\nusr = 'x'", "did you mean 'user'"),
        ("name = ", "not valid TOML"),
    ],
)
def test_a_prompt_file_of_the_user_is_checked(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        load_prompt(str(path), "choice")


@pytest.mark.model
def test_a_broken_cache_is_made_again_once_by_two_processes_at_once(tmp_path: Path) -> None:
    from harness.models.builtin import _content, _weights

    _, digest = _weights()
    broken = tmp_path / f"smollm2-{digest[:12]}-1"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    code = "from harness.models.builtin import builtin_folder; print(*builtin_folder())"
    environment = os.environ | {"STEPGAME_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    both = [
        subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert said[0][0] == said[1][0] != ""
    assert sum("making it again" in err for _, err in said) == 1
    folder, content = said[0][0].split()
    assert Path(folder) == broken
    assert _content(broken) == content
    with (broken / "model.safetensors").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\xff")
    assert _content(broken) is None


def _prompts(hops: str, per_hop: int) -> list[Prompt]:
    template = load_prompt("zero-shot", "generate")
    return [template.render(example) for example in StepGame(hops=hops, per_hop=per_hop, noise=True).examples]


def _texts(model: HFModel, prompts: list[Prompt], sampling: Sampling) -> list[str]:
    texts = []
    for reply in model.generate(prompts, sampling):
        assert isinstance(reply, tuple)
        texts += [completion.text for completion in reply]
    return texts


@pytest.mark.model
def test_the_built_in_model_answers_a_chat(smollm2: HFModel) -> None:
    example = Example("x", (), "", ("a",), "a")
    prompt = Prompt((Message("user", "What is the capital of France? Answer in one word."),), "", example)
    (reply,) = smollm2.generate([prompt], Sampling(max_tokens=20))
    assert isinstance(reply, tuple)
    assert "Paris" in reply[0].text
    assert reply[0].finish == "stop"
    assert "<|im_" not in reply[0].text
    (cut,) = smollm2.generate([prompt], Sampling(max_tokens=20, stop=("ari",)))
    assert isinstance(cut, tuple)
    assert cut[0].text == reply[0].text.partition("ari")[0]
    (short,) = smollm2.generate([prompt], Sampling(max_tokens=1))
    assert isinstance(short, tuple)
    assert short[0] == Completion(short[0].text, reply[0].tokens_in, 1, "length")


@pytest.mark.model
def test_left_padding_changes_no_text(smollm2: HFModel) -> None:
    prompts = _prompts("1,8", 1)
    greedy = Sampling(max_tokens=8)
    assert _texts(smollm2, prompts, greedy) == [_texts(smollm2, [prompt], greedy)[0] for prompt in prompts]


@pytest.mark.model
def test_a_draw_belongs_to_its_sample(smollm2: HFModel) -> None:
    prompts = _prompts("1,3", 2)
    drawn = Sampling(max_tokens=8, temperature=1.0, top_p=0.95, seed=4)
    texts = _texts(smollm2, prompts, drawn)
    assert _texts(smollm2, prompts[::-1], drawn) == texts[::-1]
    assert _texts(smollm2, prompts, Sampling(max_tokens=8, temperature=1.0, seed=5)) != texts
    three = _texts(smollm2, prompts[:1], Sampling(max_tokens=8, temperature=1.5, seed=4, n=3))
    assert len(three) == 3 and len(set(three)) > 1


@pytest.mark.model
def test_a_prompt_that_is_too_long_is_an_error_and_no_answer(smollm2: HFModel) -> None:
    from harness.models.base import Failure

    example = Example("x", ("A is left of B. " * 3000,), "Where is A relative to B?", NAMES, "left")
    short = _prompts("1", 1)[0]
    reply, other = smollm2.choose([load_prompt("zero-shot", "choice").render(example), short], [NAMES, NAMES])
    assert isinstance(reply, Failure) and "positions" in reply.error
    assert not isinstance(other, Failure)
