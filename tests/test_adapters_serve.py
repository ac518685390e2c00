"""`stepgame serve` with the real openai client: every adapter is a model, alone and mixed; no process is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

pytest.importorskip("vllm")
pytest.importorskip("peft")
pytest.importorskip("openai")

import openai
from processes import MARK, left_over, marked
from random_adapters import lora, soft_prompt

from adapters.serving import ServeSettings, plan_serving
from adapters.store import write_adapter
from harness.models.base import Completion, Message, Prompt, Sampling, Scores
from harness.models.registry import parse_model
from harness.task import Example
from stepgame.errors import InputError

if TYPE_CHECKING:
    from conftest import CommandLine

    from harness.models.hf import HFModel

LIMIT = 256
REACH = 24
"""Shorter than the chat prompt below, so that its last tokens have no offset."""
ROWS = 8
BASE, DEPT, PT, LORA = "smollm2", "depth", "plain", "low"
NAMES = (BASE, DEPT, PT, LORA)
STORY = "Alice is left of Bob. Bob is above Carol. Where is Alice relative to Carol?"


class Server(NamedTuple):
    """A server that is up.

    Attributes:
        client: of the openai package.
        process: that was started.
        folder: the mark of its processes.
        adapters: folders by model name.
    """

    client: Any
    process: subprocess.Popen[str]
    folder: Path
    adapters: dict[str, Path]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    settings = ["--port", "0", "--dtype", "float32"]
    settings += ["--model-arg", f"max_model_len={LIMIT}", "--model-arg", "kv_cache_memory_bytes=256M"]
    return subprocess.Popen(
        [sys.executable, "-m", "stepgame.cli", "serve", "--model", BASE, *settings, *words],
        env=os.environ | {MARK: str(folder), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def server(smollm2: HFModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the built-in model with two soft prompts and a LoRA adapter."""
    folder = tmp_path_factory.mktemp("serve")
    table = smollm2._model.get_input_embeddings().weight.detach()
    found = {
        DEPT: soft_prompt(folder / "dept", table, 1, prompt_length=ROWS, rank=4, max_length=REACH, offset="position"),
        PT: soft_prompt(folder / PT, table, 2, prompt_length=ROWS),
        LORA: lora(folder / "lora", smollm2._model, 3),
    }
    words = ["--adapter", f"{DEPT}={found[DEPT]}", "--adapter", str(found[PT]), "--adapter", f"{LORA}={found[LORA]}"]
    process = start(folder, *words)
    stuck = threading.Timer(400, process.kill)
    stuck.start()
    try:
        assert process.stderr is not None
        said = ""
        while (address := re.search(r"serving (.+) at (http\S+)\n", said)) is None:
            line = process.stderr.readline()
            assert line, f"the server ended:\n{said}"
            said += line
        stuck.cancel()
        assert address[1] == ", ".join(NAMES)
        yield Server(openai.OpenAI(base_url=address[2], api_key="none", max_retries=0), process, folder, found)
    finally:
        stuck.cancel()
        for pid in marked(folder):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def completion(server: Server, name: str, **settings: Any) -> Any:
    given = {"prompt": STORY, "max_tokens": 8, "temperature": 0, **settings}
    return server.client.completions.create(model=name, **given)


def chat(server: Server, name: str, **settings: Any) -> Any:
    given = {"messages": [{"role": "user", "content": STORY}], "max_tokens": 12, "temperature": 0, **settings}
    return server.client.chat.completions.create(model=name, **given)


def prompt() -> Prompt:
    return Prompt((Message("user", STORY),), "", Example("story", (), STORY, (), ""))


@pytest.mark.model
@pytest.mark.slow
def test_every_adapter_is_a_model(server: Server) -> None:
    cards = {card.id: card for card in server.client.models.list()}
    assert tuple(cards) == NAMES
    assert {name: cards[name].root for name in server.adapters} == {n: str(f) for n, f in server.adapters.items()}
    assert all(cards[name].parent == BASE for name in server.adapters)


@pytest.mark.model
@pytest.mark.slow
def test_a_mixed_batch_answers_as_each_model_does_alone(server: Server) -> None:
    def ask(name: str) -> tuple[Any, Any]:
        return completion(server, name, logprobs=3), chat(server, name, logprobs=True)

    alone = {name: ask(name) for name in NAMES}
    assert len({reply.choices[0].message.content for _, reply in alone.values()}) == len(NAMES)
    many = NAMES * 4
    with ThreadPoolExecutor(len(many)) as pool:
        together = list(pool.map(ask, many))
    for name, (one, other) in zip(many, together, strict=True):
        for reply, expected in ((one, alone[name][0]), (other, alone[name][1])):
            assert reply.model == name
            assert reply.usage == expected.usage
        assert one.choices[0].text == alone[name][0].choices[0].text
        assert other.choices[0].message.content == alone[name][1].choices[0].message.content
        given, wanted = one.choices[0].logprobs.token_logprobs, alone[name][0].choices[0].logprobs.token_logprobs
        assert given == pytest.approx(wanted, abs=2e-3)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", NAMES)
def test_text_and_log_probabilities_are_those_of_transformers(server: Server, smollm2: HFModel, name: str) -> None:
    theirs = smollm2
    if name != BASE:
        request = parse_model(BASE, device="cpu", adapter=server.adapters[name])
        theirs = type(smollm2).load(request, lambda _: [])
    reply = chat(server, name, logprobs=True, top_logprobs=20).choices[0]
    ((found,),) = theirs.generate([prompt()], Sampling(max_tokens=12))
    assert isinstance(found, Completion)
    assert reply.message.content == found.text
    first = {each.token: each.logprob for each in reply.logprobs.content[0].top_logprobs if each.token.isalpha()}
    (scores,) = theirs.choose([prompt()], [list(first)])
    assert isinstance(scores, Scores)
    assert set(scores.tokens) == {1}
    assert list(first.values()) == pytest.approx(scores.logprobs, abs=2e-3)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_stream_says_the_same_and_counts_the_users_tokens(server: Server, name: str) -> None:
    whole = chat(server, name)
    assert whole.usage.prompt_tokens == chat(server, BASE).usage.prompt_tokens > REACH
    chunks = list(chat(server, name, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


@pytest.mark.model
@pytest.mark.slow
def test_several_prompts_and_draws_in_one_request(server: Server) -> None:
    settings = {"prompt": [STORY, "Once upon"], "n": 2, "temperature": 1.0, "seed": 5}
    texts = [[c.text for c in completion(server, DEPT, **settings).choices] for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 4
    assert completion(server, DEPT, echo=True).choices[0].text.startswith(STORY)


@pytest.mark.model
@pytest.mark.slow
def test_penalties_count_the_prompts_tokens(server: Server) -> None:
    # With a bias the model says a word of the prompt over and over; a penalty on the prompt's words takes it away.
    words = server.client.post("/../tokenize", cast_to=object, body={"model": BASE, "prompt": "Alice"})
    biased = {"logit_bias": {str(words["tokens"][0]): 20}, "max_tokens": 1}  # type: ignore[index]
    for name in (BASE, DEPT):
        assert completion(server, name, **biased).choices[0].text == "Alice"
        fined = completion(server, name, **biased, extra_body={"repetition_penalty": 100.0})
        assert fined.choices[0].text != "Alice"


@pytest.mark.model
@pytest.mark.slow
def test_an_unknown_model_is_404_and_a_long_prompt_400(server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        completion(server, "nobody")
    assert missing.value.body["code"] == 404
    assert missing.value.body["param"] == "model"
    fits = [1] * (LIMIT - ROWS - 1)
    assert completion(server, DEPT, prompt=fits, max_tokens=50).usage.completion_tokens == 1
    assert completion(server, BASE, prompt=[*fits, 1]).usage.completion_tokens > 1
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=f"soft prompt of '{DEPT}' takes {ROWS}") as long:
            completion(server, DEPT, prompt=[*fits, 1], stream=stream)
        assert long.value.body["type"] == "BadRequestError"
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        chat(server, DEPT, messages=[{"role": "user", "content": "word " * LIMIT}])


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"echo": True, "logprobs": 1}, "none of the prompt's"),
        ({"extra_body": {"use_beam_search": True, "n": 2}}, "no beam search"),
        ({"prompt": None, "extra_body": {"prompt_embeds": "AAAA"}}, "prompt_embeds"),
    ],
)
def test_what_would_mean_something_else_is_refused(server: Server, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        completion(server, DEPT, **settings)
    assert completion(server, DEPT, max_tokens=1).usage.completion_tokens == 1


@pytest.mark.model
@pytest.mark.slow
def test_sigterm_leaves_no_process(server: Server) -> None:
    # Last of those that ask the server.
    asked = threading.Thread(target=lambda: _quietly(server))
    asked.start()
    time.sleep(0.5)
    server.process.terminate()
    assert server.process.wait(timeout=60) == 0
    asked.join()
    assert not left_over(server.folder)


def _quietly(server: Server) -> None:
    with pytest.raises(openai.APIError):
        completion(server, DEPT, max_tokens=200, extra_body={"ignore_eos": True})


@pytest.mark.model
@pytest.mark.slow
def test_ctrl_c_while_the_engine_starts_leaves_no_process(tmp_path: Path) -> None:
    process = start(tmp_path)
    end = time.monotonic() + 200
    # Not earlier: before its own handlers stand, a library that is being imported may swallow the interrupt.
    while not any(b"EngineCore" in name_of(pid) for pid in marked(tmp_path)):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)
    # A terminal sends it to every process of the group.
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not left_over(tmp_path)


def name_of(pid: int) -> bytes:
    """Return what a process calls itself; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


OTHER = {"spec": "smollm2", "content_hash": "0" * 64}
"""A model that is not the built-in one."""


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Return a folder of adapters whose tensors are empty files."""
    kinds = {"a": ("soft-prompt", "pt"), "b": ("lora", "lora"), "w": ("weights", "full"), "v": ("weights", "full")}
    for name, (kind, method) in kinds.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.safetensors").write_bytes(b"")
        kept: dict[str, Any] = {"kind": kind, "method": method, "files": ["t.safetensors"]}
        write_adapter(tmp_path / name, config={}, base=OTHER, **kept)
    (tmp_path / "p").mkdir()
    write_adapter(tmp_path / "p", kind="soft-prompt", method="pt", config={}, base=OTHER, files=["t.bin"])
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adapters": ["a=/nowhere"]}, "'/nowhere' is no folder"),
        ({"adapters": ["=a"]}, "expected NAME=DIR"),
        ({"adapters": ["a="]}, "expected NAME=DIR"),
        ({"adapters": ["a", "a=b"]}, "the name 'a' is taken"),
        ({"adapters": ["smollm2=a"]}, "the name of the base model, 'smollm2'"),
        ({"adapters": ["x=a"], "served_model_name": "x"}, "the name of the base model, 'x'"),
        ({"adapters": ["w", "a"]}, "serve it alone, without 'a'"),
        ({"adapters": ["w", "v"]}, "serve it alone, without 'v'"),
        ({"adapters": ["w"], "served_model_name": "x"}, "whose place the checkpoint 'w' takes"),
        ({"adapters": ["p"]}, "is a pickle"),
        ({"adapters": ["."]}, "holds no adapter.json"),
        ({"model": "oracle"}, "has no weights to serve"),
        ({"model": "smollm"}, "did you mean 'smollm2'"),
        ({"model": "hf:smollm2"}, "names the backend 'hf'"),
        ({"port": 70000}, "--port must be between 0 and 65535"),
        ({"model_args": ["max_model_len"]}, "expected KEY=VALUE"),
        ({"model_args": ["max_model_len=1", "max_model_len=2"]}, "is given twice"),
    ],
)
def test_a_wrong_request_is_one_line_before_anything_is_loaded(
    folders: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(folders)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        plan_serving(ServeSettings(**{"model": BASE, **settings}))
    assert "\n" not in str(caught.value)


def test_names_are_the_users_or_the_folders(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    plan = plan_serving(ServeSettings(model=BASE, adapters=["one=a", "b"], served_model_name="base"))
    assert (plan.name, list(plan.adapters), plan.checkpoint) == ("base", ["one", "b"], None)
    whole = plan_serving(ServeSettings(model=BASE, adapters=["new=w"]))
    assert (whole.name, list(whole.adapters)) == ("new", [])
    assert whole.checkpoint is not None


@pytest.mark.model
def test_an_adapter_of_another_model_ends_with_2_before_the_weights(folders: Path, command_line: CommandLine) -> None:
    done = command_line("serve", "--model", BASE, "--adapter", f"x={folders / 'a'}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "was trained on 'smollm2' (content hash 000000000000)" in done.stderr


@pytest.mark.model
def test_a_port_that_is_taken_ends_with_2(command_line: CommandLine) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = command_line("serve", "--model", BASE, "--port", str(other.getsockname()[1]))
    assert done.returncode == 2
    assert "Address already in use; give another --host or --port" in done.stderr
    assert "Traceback" not in done.stderr
