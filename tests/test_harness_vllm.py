"""The vLLM backend: equal to transformers, engine arguments, failures, and an engine that always stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm")

from processes import MARK, left_over, marked

from harness.models.base import BackendError, Failure, Message, Prompt, Sampling, Scores
from harness.models.registry import parse_model
from harness.models.vllm import MAX_CHILDREN, VLLMModel, _requests
from harness.models.vllm_args import parse_engine_args
from harness.prompts import load_prompt
from harness.task import Example
from harness.tasks.stepgame import StepGame
from harness.trie import ROOT, build_trie
from stepgame.errors import InputError
from stepgame.relations import NAMES
from tests.tiny import tiny_decoder

if TYPE_CHECKING:
    from harness.models.hf import HFModel

LIMIT = 512
CPU = {"max_model_len": str(LIMIT), "kv_cache_memory_bytes": "512M"}


@pytest.fixture(scope="module")
def engine() -> Iterator[VLLMModel]:
    """Return the built-in model on one engine for the whole module."""
    model = VLLMModel.load(parse_model("vllm:smollm2", dtype="float32", args=CPU), lambda _: [])
    yield model
    model.close()


def _prompts(score: str, hops: str, per_hop: int) -> list[Prompt]:
    template = load_prompt("zero-shot", score)
    return [template.render(example) for example in StepGame(hops=hops, per_hop=per_hop, noise=True).examples]


def _long(words: int) -> Prompt:
    return Prompt((Message("user", "word " * words),), "", Example("long", (), "", NAMES, "left"))


@given(st.sets(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12))
def test_the_requests_cover_every_step_once(options: set[tuple[int, ...]]) -> None:
    trie = build_trie(sorted(options))
    steps = {step for steps in trie.steps for step in steps}
    asks = _requests(trie)
    nodes = [node for ask in asks for node in ask.nodes]
    assert sorted(nodes) == sorted({node for node, _ in steps})
    for ask in asks:
        assert {(node, token) for node in ask.nodes for token in ask.children} >= {
            s for s in steps if s[0] in ask.nodes
        }
        paths = [ask.path, (*ask.path, ask.forced)]
        for node, path in zip(ask.nodes, paths, strict=False):
            assert path == _path(trie, node)
    assert [len(ask.path) for ask in asks] == sorted(len(ask.path) for ask in asks)


def _path(trie: object, node: int) -> tuple[int, ...]:
    found: list[int] = []
    while node != ROOT:
        found.insert(0, trie.inner[node])  # type: ignore[attr-defined]
        node = trie.parent[node]  # type: ignore[attr-defined]
    return tuple(found)


def test_more_options_than_one_request_may_ask_for() -> None:
    asks = _requests(build_trie([(token,) for token in range(2 * MAX_CHILDREN + 1)]))
    assert [len(ask.children) for ask in asks] == [MAX_CHILDREN, MAX_CHILDREN, 1]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max_model_length", "512", "did you mean 'max_model_len'"),
        ("max_model_len", "many", "max_model_len=many"),
        ("enforce_eager", "perhaps", "expected true or false"),
        ("load_format", "{", None),
        ("kv_cache_dtype", "fp9", "expected one of auto"),
        ("dtype", "float32", "use --dtype"),
        ("logprobs_mode", "processed_logits", "cannot be set"),
    ],
)
def test_a_wrong_engine_argument_is_one_line(name: str, value: str, said: str | None) -> None:
    if said is None:
        assert parse_engine_args({name: value}) == {name: value}
        return
    with pytest.raises(InputError, match=said) as caught:
        parse_engine_args({name: value})
    assert "\n" not in str(caught.value)


def test_engine_arguments_are_typed() -> None:
    found = parse_engine_args(
        {"max-model-len": "2k", "enforce_eager": "True", "gpu_memory_utilization": "0.5", "hf_overrides": '{"a": 1}'}
    )
    assert found == {
        "max_model_len": 2000,
        "enforce_eager": True,
        "gpu_memory_utilization": 0.5,
        "hf_overrides": {"a": 1},
    }


def test_the_device_must_be_that_of_the_build() -> None:
    from vllm.platforms import current_platform

    other = "cuda" if current_platform.is_cpu() else "cpu"
    with pytest.raises(InputError, match="is a build for"):
        VLLMModel.load(parse_model("vllm:smollm2", device=other), lambda _: [])


@pytest.mark.model
@pytest.mark.parametrize(
    ("args", "said"),
    [({"max_model_len": "1M"}, "max_model_len"), ({**CPU, "kv_cache_memory_bytes": "4M"}, "KV cache")],
)
def test_an_engine_that_does_not_start_says_why_in_one_line(
    args: dict[str, str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        VLLMModel.load(parse_model("vllm:smollm2", dtype="float32", args=args), lambda _: [])
    assert "\n" not in str(caught.value)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.model
def test_scores_equal_those_of_transformers(engine: VLLMModel, smollm2: HFModel) -> None:
    prompts = _prompts("choice", "1,4,9", 2)
    options = [prompt.example.options for prompt in prompts]
    ours, theirs = engine.choose(prompts, options), smollm2.choose(prompts, options)
    assert [engine.render(prompt) for prompt in prompts] == [smollm2.render(prompt) for prompt in prompts]
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, Scores)
        assert isinstance(other, Scores)
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-3)
        assert len(set(one.logprobs)) == len(NAMES)
        assert (one.tokens, one.tokens_in, one.tokens_out) == (other.tokens, other.tokens_in, other.tokens_out)
        assert max(range(9), key=one.logprobs.__getitem__) == max(range(9), key=other.logprobs.__getitem__)


@pytest.mark.model
def test_greedy_text_equals_that_of_transformers(engine: VLLMModel, smollm2: HFModel) -> None:
    prompts = _prompts("generate", "1,5", 1)
    for sampling in (Sampling(max_tokens=12), Sampling(max_tokens=12, stop=("e",))):
        assert engine.generate(prompts, sampling) == smollm2.generate(prompts, sampling)


@pytest.mark.model
def test_a_draw_belongs_to_the_sample_and_not_to_the_batch(engine: VLLMModel) -> None:
    prompts = _prompts("generate", "1-3", 1)
    warm = Sampling(max_tokens=6, temperature=1.0, top_p=0.95, seed=3, n=2)
    together = engine.generate(prompts, warm)
    assert together == [engine.generate([prompt], warm)[0] for prompt in prompts]
    assert together != engine.generate(prompts, Sampling(max_tokens=6, temperature=1.0, top_p=0.95, seed=4, n=2))
    assert all(isinstance(reply, tuple) and reply[0].text != reply[1].text for reply in together)


@pytest.mark.model
def test_batches_sent_ahead_change_no_answer(engine: VLLMModel) -> None:
    prompts = _prompts("generate", "1-5", 1)
    greedy = Sampling(max_tokens=6)
    plain = engine.generate(prompts, greedy)
    engine._chunk = 2
    try:
        batches = list[list[int]]()
        found: dict[int, object] = {}
        for batch in engine.batches(prompts):
            batches.append(batch)
            found |= zip(batch, engine.generate([prompts[index] for index in batch], greedy), strict=True)
    finally:
        engine._chunk = 64
    assert batches == [[0, 1], [2, 3], [4]]
    assert [found[index] for index in range(5)] == plain
    assert not engine._sent


@pytest.mark.model
def test_a_prompt_that_is_too_long_fails_alone(engine: VLLMModel) -> None:
    (short,) = _prompts("choice", "1", 1)
    replies = engine.choose([_long(LIMIT), short], [NAMES, NAMES])
    assert isinstance(replies[0], Failure)
    assert f"max_model_len of {LIMIT}" in replies[0].error
    assert isinstance(replies[1], Scores)
    written = engine.generate([_long(LIMIT), short], Sampling(max_tokens=2))
    assert isinstance(written[0], Failure)
    assert isinstance(written[1], tuple)


@pytest.mark.model
def test_settings_that_vllm_would_change_are_refused(engine: VLLMModel) -> None:
    (prompt,) = _prompts("generate", "1", 1)
    for temperature in (0.001, 5.0):
        with pytest.raises(InputError, match="temperature"):
            engine.generate([prompt], Sampling(temperature=temperature))


@pytest.mark.model
def test_the_manifest_says_what_is_in_force(engine: VLLMModel, smollm2: HFModel) -> None:
    identity = engine.identity
    assert identity.content_hash == smollm2.identity.content_hash
    assert identity.dtype == "float32"
    assert identity.args["max_model_len"] == LIMIT
    assert identity.args["model_args"]["max_model_len"] == LIMIT
    assert identity.args["vllm"].startswith("vllm")
    assert identity.args["chat_template_sha256"] == smollm2.identity.args["chat_template_sha256"]


SCRIPT = """
    from harness.models.base import Sampling
    from harness.models.registry import parse_model
    from harness.models.vllm import VLLMModel
    from harness.prompts import load_prompt
    from harness.tasks.stepgame import StepGame

    if __name__ == "__main__":
        model = VLLMModel.load(parse_model("vllm:{model}", dtype="float32", args={args}), lambda _: [])
        template = load_prompt("zero-shot", "generate")
        prompts = [template.render(example) for example in StepGame(hops="1", per_hop=200).examples]
        print("asking", flush=True)
        {end}
"""
ENDS = {
    "exception": "raise LookupError('on purpose')",
    "ctrl-c": "while True: model.generate(prompts, Sampling(max_tokens=200))",
    "kill": "while True: model.generate(prompts, Sampling(max_tokens=200))",
}


@pytest.mark.model
@pytest.mark.slow
def test_no_process_is_left(tmp_path: Path) -> None:
    model = tiny_decoder(tmp_path / "tiny", heads=1)
    running = {end: _start(tmp_path / end, ENDS[end], model) for end in ENDS}
    for end, process in running.items():
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "asking\n", process.communicate()[1]
        assert marked(tmp_path / end)
    time.sleep(2)
    # A terminal sends it to every process of the group.
    os.killpg(running["ctrl-c"].pid, signal.SIGINT)
    running["kill"].kill()
    said = {end: process.communicate(timeout=120)[1] for end, process in running.items()}
    assert "LookupError: on purpose" in said["exception"]
    assert "KeyboardInterrupt" in said["ctrl-c"]
    assert running["kill"].returncode == -signal.SIGKILL
    for end in ENDS:
        assert not left_over(tmp_path / end), end


def _start(folder: Path, end: str, model: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(args=CPU, end=end, model=model))
    return subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {MARK: str(folder), "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.model
def test_a_dead_engine_is_an_error_of_the_batch(engine: VLLMModel) -> None:
    # Last: it takes the module's engine with it.
    import psutil

    prompts = _prompts("generate", "1", 2)
    for child in psutil.Process().children(recursive=True):
        if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline()):
            child.kill()
    for _ in range(2):
        with pytest.raises(BackendError, match="engine died"):
            engine.generate(prompts, Sampling(max_tokens=4))
    with pytest.raises(BackendError, match="engine died"):
        engine.choose(prompts, [prompt.example.options for prompt in prompts])
    engine.close()
