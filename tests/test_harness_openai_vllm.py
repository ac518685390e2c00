"""The OpenAI-compatible backend against a real vLLM server: the same answers as transformers gives."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.ports import free_port

pytest.importorskip("openai")

from harness.models.base import Failure, Message, Prompt, Sampling, Scores
from harness.models.openai import OpenAIModel, Settings
from harness.prompts import load_prompt
from harness.prompts.shots import draw_shots
from harness.tasks.stepgame import StepGame
from stepgame.errors import InputError

if TYPE_CHECKING:
    from harness.models.hf import HFModel

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the real vLLM server with the built-in model; gives its base URL."""
    pytest.importorskip("vllm")
    from harness.models.builtin import builtin_folder

    port = free_port()
    # The module and not the `vllm` command: that one looks for a distribution of this name, which CPU builds lack.
    words = ["--model", str(builtin_folder()[0]), "--served-model-name", "smollm2", "--dtype", "float32"]
    words += ["--enforce-eager", "--max-model-len", "1024", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 300
        while not _healthy(port):
            assert server.poll() is None, f"the server ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < end, f"the server did not come up:\n{log.read_text()[-3000:]}"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        # Its engine is a process of its own, in the same group.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def stories(score: str, count: int) -> list[Prompt]:
    task = StepGame(hops="1-4", per_hop=1, noise=True)
    return [load_prompt("zero-shot", score).render(example) for example in task.examples[:count]]


def without_template(model: HFModel) -> HFModel:
    """Return the same weights as a model for plain completion."""
    tokenizer = copy.deepcopy(model._tokenizer)
    tokenizer.chat_template = None
    return type(model)(model._model, tokenizer, model.identity, 4096)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_generation_through_vllm_is_that_of_transformers(vllm_server: str, smollm2: HFModel, api: str) -> None:
    asked, sampling = stories("generate", 3), Sampling(max_tokens=12)
    local = smollm2 if api == "chat" else without_template(smollm2)
    model = OpenAIModel("smollm2", Settings.parse({"base_url": vllm_server, "api": api}))
    assert model.identity.args["model_card"]["owned_by"] == "vllm"
    assert model.generate(asked, sampling) == local.generate(asked, sampling)
    if api == "completions":
        task = StepGame(hops="1-2", per_hop=1)
        template = load_prompt("few-shot", "choice")
        shots = draw_shots(task.examples, 2, "same", 0, task.training)
        asked += [replace(template, shots=shots).render(example) for example in task.examples]
        assert [model.render(prompt) for prompt in asked] == [local.render(prompt) for prompt in asked]
    model.close()


@pytest.mark.usefixtures("one_thread")
def test_option_scores_through_vllm_are_those_of_transformers(vllm_server: str, smollm2: HFModel) -> None:
    asked = stories("choice", 2)
    options = [prompt.example.options for prompt in asked]
    model = OpenAIModel("smollm2", Settings.parse({"base_url": vllm_server, "api": "completions"}))
    for here, there in zip(without_template(smollm2).choose(asked, options), model.choose(asked, options), strict=True):
        assert isinstance(here, Scores)
        assert isinstance(there, Scores)
        assert there.logprobs == pytest.approx(here.logprobs, abs=1e-2)
        assert there.logprobs.index(max(there.logprobs)) == here.logprobs.index(max(here.logprobs))
        assert (there.tokens, there.tokens_in, there.tokens_out) == (here.tokens, here.tokens_in, here.tokens_out)
    model.close()


def test_what_vllm_refuses_is_an_error_of_that_sample(vllm_server: str) -> None:
    model = OpenAIModel("smollm2", Settings.parse({"base_url": vllm_server}))
    short = stories("generate", 1)[0]
    long = replace(short, messages=(Message("user", "left " * 3000),))
    refused, answered = model.generate([long, short], Sampling(max_tokens=8))
    assert isinstance(refused, Failure)
    assert "HTTP 400" in refused.error
    assert isinstance(answered, tuple)
    model.close()
    with pytest.raises(InputError, match="did you mean 'smollm2'"):
        OpenAIModel("smollm", Settings.parse({"base_url": vllm_server}))
