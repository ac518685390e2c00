"""The response cache: the same answers back, and never those to anything else."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("openai")

from fault_server import NAME, OPTIONS, FaultServer, serving

from harness.cache import CachedModel, ResponseCache, answer_key
from harness.models.base import Completion, Failure, Identity, Message, ModelRequest, Prompt, Sampling, Scores
from harness.models.openai import OpenAIModel, Settings
from harness.models.openai_pool import RetryPolicy
from harness.models.registry import load_model, parse_model
from harness.task import Example
from stepgame.errors import InputError

GREEDY = Sampling()
HOT = Sampling(temperature=1.0)


def prompts(count: int, words: str = "where is A?") -> list[Prompt]:
    made = []
    for place in range(count):
        text = f"Question {place}: {words}"
        example = Example(f"s{place}", ("A is left of B.",), text, OPTIONS, "left")
        made.append(Prompt((Message("user", text),), "Answer:", example))
    return made


@contextmanager
def cached(
    server: FaultServer, path: Path, *, name: str = NAME, sampling: Sampling | None = GREEDY, **settings: Any
) -> Iterator[CachedModel]:
    policy = RetryPolicy(max_retries=3, scale=0.001)
    model = OpenAIModel(name, Settings(base_url=server.url, policy=policy, api="completions", **settings))
    request = parse_model(f"openai:{name}", args={"base_url": server.url})
    try:
        with ResponseCache(path) as responses:
            yield CachedModel(model, request, responses, sampling=sampling)
    finally:
        model.close()


def ask_all(model: CachedModel, asked: list[Prompt], sampling: Sampling | None) -> list[Any]:
    replies: dict[int, Any] = {}
    for batch in model.batches(asked):
        part = [asked[index] for index in batch]
        options = [each.example.options for each in part]
        got: Any = model.choose(part, options) if sampling is None else model.generate(part, sampling)
        replies |= dict(zip(batch, got, strict=True))
    assert sorted(replies) == list(range(len(asked)))
    return [replies[index] for index in range(len(asked))]


@pytest.mark.parametrize("sampling", [GREEDY, replace(HOT, n=2), None])
def test_the_same_answers_come_back_and_nothing_is_asked(tmp_path: Path, sampling: Sampling | None) -> None:
    with serving() as server:
        with cached(server, tmp_path / "c", sampling=sampling) as model:
            first = ask_all(model, prompts(100), sampling)
            assert (model.hits, model.misses) == (0, 100)
            assert model.from_cache == (False,) * 36
        with cached(server, tmp_path / "c", sampling=sampling) as model:
            asked = len(server.bodies)
            assert ask_all(model, prompts(100), sampling) == first
            assert (model.hits, model.misses) == (100, 0)
            assert all(model.from_cache)
            assert len(server.bodies) == asked


def test_what_is_known_comes_first_and_only_the_rest_is_asked(tmp_path: Path) -> None:
    with serving() as server, cached(server, tmp_path / "c") as model:
        every = prompts(300)
        ask_all(model, every[::3], GREEDY)
        server.attempts.clear()
        first, *others = model.batches(every)
        assert first == list(range(0, 300, 3))
        assert sorted(index for batch in others for index in batch) == [place for place in range(300) if place % 3]
        ask_all(model, every, GREEDY)
        assert len(server.attempts) == 200
        assert set(server.attempts.values()) == {1}, "the cache must not make the model ask ahead for nothing"


def test_errors_are_not_kept(tmp_path: Path) -> None:
    with serving() as server, cached(server, tmp_path / "c") as model:
        server.permanent = 400
        assert all(isinstance(reply, Failure) for reply in ask_all(model, prompts(3), GREEDY))
        server.permanent = 0
        assert all(isinstance(reply, tuple) for reply in ask_all(model, prompts(3), GREEDY))
        assert (model.hits, model.misses) == (0, 6)


def test_two_models_never_share_answers(tmp_path: Path) -> None:
    with serving() as server, serving() as other:
        with cached(server, tmp_path / "c") as model:
            ask_all(model, prompts(5), GREEDY)
        settings: list[tuple[FaultServer, dict[str, Any]]] = [
            (other, {}),
            (server, {"name": "another"}),
            (server, {"extra_body": {"top_k": 3}}),
        ]
        for place, changed in settings:
            with cached(place, tmp_path / "c", **changed) as model:
                ask_all(model, prompts(5), GREEDY)
                assert (model.hits, model.misses) == (0, 5)


def test_seeds_that_decide_nothing_are_still_told_apart_and_ids_only_where_they_decide(tmp_path: Path) -> None:
    same = [replace(prompts(1)[0], example=replace(prompts(1)[0].example, id=f"copy{place}")) for place in range(3)]
    with serving() as server, cached(server, tmp_path / "c") as model:
        model.generate(same[:1], GREEDY)
        model.generate(same, GREEDY)
        assert (model.hits, model.misses) == (3, 1)
        model.generate(same[:1], HOT)
        model.generate(same, HOT)
        assert (model.hits, model.misses) == (4, 4), "a draw belongs to its sample"


def test_models_that_read_the_example_are_keyed_by_it(tmp_path: Path) -> None:
    request = parse_model("random", seed=1)
    asked = prompts(40)
    renamed = [replace(prompt, example=replace(prompt.example, id=f"x{prompt.example.id}")) for prompt in asked]
    with ResponseCache(tmp_path / "c") as responses:
        model = load_model(request, lambda _: [])
        wrapped = CachedModel(model, request, responses)
        for some in (asked, renamed, asked):
            options = [prompt.example.options for prompt in some]
            assert wrapped.choose(some, options) == model.choose(some, options)
        assert (wrapped.hits, wrapped.misses) == (40, 80)


BASE: dict[str, Any] = {
    "request": ModelRequest("hf:org/m@main", "hf", "org/m", "main"),
    "identity": Identity("hash", "commit", "float32", "cpu", None, {"batch_tokens": 1}),
    "prompt": prompts(1)[0],
    "rendered": "text",
    "options": None,
    "sampling": HOT,
    "adapter_hash": None,
}


def changed(**parts: Any) -> str:
    return answer_key(**(BASE | parts))


def test_every_part_of_the_key_matters() -> None:
    request, identity, prompt = BASE["request"], BASE["identity"], BASE["prompt"]
    keys = [
        changed(),
        *(changed(request=replace(request, **part)) for part in ({"spec": "x"}, {"backend": "vllm"}, {"target": "x"})),
        changed(request=replace(request, revision="v2")),
        *(
            changed(identity=replace(identity, **part))
            for part in (
                {"content_hash": "x"},
                {"revision": "x"},
                {"dtype": "bfloat16"},
                {"device": "cuda"},
                {"gpu": "x"},
                {"args": {"batch_tokens": 2}},
            )
        ),
        changed(prompt=replace(prompt, example=replace(prompt.example, id="x"))),
        changed(rendered="other"),
        changed(rendered=None),
        changed(rendered=None, prompt=replace(prompt, messages=(Message("system", prompt.messages[0].content),))),
        changed(options=("a", "b"), sampling=None),
        changed(options=("b", "a"), sampling=None),
        changed(options=("a", "b, c"), sampling=None),
        changed(options=("a, b", "c"), sampling=None),
        changed(adapter_hash="x"),
        *(
            changed(sampling=replace(HOT, **part))
            for part in (
                {"max_tokens": 65},
                {"temperature": 0.9},
                {"top_p": 0.9},
                {"seed": 1},
                {"stop": ("\n",)},
                {"n": 2},
            )
        ),
    ]
    assert len(set(keys)) == len(keys)
    assert changed() == keys[0]


def test_no_field_of_what_is_keyed_was_forgotten() -> None:
    """A new field of these classes must be put into the key, or named here as one that decides no answer."""
    fields = {
        # The verb is in the key by way of the options or the sampling, one of which is None.
        ModelRequest: "spec backend target revision dtype device batch_tokens seed args verb adapter",
        Identity: "content_hash revision dtype device gpu args",
        Sampling: "max_tokens temperature top_p seed stop n",
        Prompt: "messages cue example",
        Scores: "logprobs tokens tokens_in tokens_out",
        Completion: "text tokens_in tokens_out finish",
    }
    for cls, names in fields.items():
        assert list(cls.__dataclass_fields__) == names.split(), cls


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
REPLIES = st.builds(
    lambda pairs, a, b: Scores(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), a, b),
    st.lists(st.tuples(NUMBERS, st.integers(1, 99)), max_size=9),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
) | st.lists(
    st.builds(
        Completion,
        st.text(st.characters(exclude_categories=["Cs"])),
        st.integers(0, 9),
        st.integers(0, 9),
        st.sampled_from(["stop", "length"]),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@given(replies=st.lists(REPLIES, max_size=5))
def test_replies_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, replies: list[Any]) -> None:
    path = tmp_path_factory.mktemp("cache") / "c"
    answers = {str(place): reply for place, reply in enumerate(replies)}
    with ResponseCache(path) as responses:
        responses.put(answers)
    with ResponseCache(path) as responses:
        assert responses.get([*answers, "absent"]) == answers
        assert len(responses) == len(answers)


def test_the_first_answer_stays(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "c") as responses:
        responses.put({"k": (Completion("first", 1, 1, "stop"),)})
        responses.put({"k": (Completion("second", 1, 1, "stop"),)})
        assert responses.get(["k"]) == {"k": (Completion("first", 1, 1, "stop"),)}


def filled(path: Path, count: int = 2000) -> None:
    with ResponseCache(path) as responses:
        responses.put({f"{place:064d}": (Completion("x" * 100, 1, 1, "stop"),) for place in range(count)})


def test_files_that_are_no_cache_are_refused_and_left_alone(tmp_path: Path) -> None:
    text, other, later = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "later"
    text.write_text("not a database, but somebody's notes, and long enough to be looked at " * 20)
    with sqlite3.connect(other) as base:
        base.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT)")
    base.close()
    filled(later, 1)
    with sqlite3.connect(later) as base:
        base.execute("PRAGMA user_version = 99")
    base.close()
    for path, says in ((text, "no cache"), (other, "something else"), (later, "format 99"), (tmp_path, "folder")):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(InputError, match=says):
            ResponseCache(path)
        assert not path.is_file() or path.read_bytes() == before


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01, 50])
def test_a_torn_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "c"
    filled(path)
    size = path.stat().st_size
    os.truncate(path, int(keep if keep > 1 else size * keep))
    with pytest.raises(InputError, match=r"damaged|no cache"):
        ResponseCache(path)


def test_an_overwritten_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    filled(path)
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(InputError, match="damaged"):
        ResponseCache(path)


def test_an_answer_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with ResponseCache(path) as responses:
        responses.put({"k": (Completion("a", 1, 1, "stop"),)})
    with sqlite3.connect(path) as base:
        base.execute("UPDATE answers SET answer = '[{]'")
    base.close()
    with ResponseCache(path) as responses, pytest.raises(InputError, match="damaged"):
        responses.get(["k"])


def test_a_cache_that_cannot_be_written_loses_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server, cached(server, tmp_path / "c") as model:
        model._cache._base.execute("PRAGMA query_only = ON")
        assert all(isinstance(reply, tuple) for reply in ask_all(model, prompts(100), GREEDY))
    assert capsys.readouterr().err.count("cannot be written") == 1


WRITER = """
import sys
from harness.cache import ResponseCache
from harness.models.base import Completion
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ResponseCache(path) as responses:
    for place in range(count):
        reply = (Completion("all", place, 1, "stop"),)
        responses.put({f"{name}-{place}": reply, f"all-{place}": reply})
        print(place, flush=True)
"""


def write(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c"
    writers = [write(path, name, 40) for name in "abcd"]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    with ResponseCache(path) as responses:
        assert len(responses) == 5 * 40


def test_a_killed_writer_leaves_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "c"
    writer = write(path, "a", 10**6)
    assert writer.stdout is not None
    for _ in range(20):
        writer.stdout.readline()
    time.sleep(0.05)
    writer.send_signal(signal.SIGKILL)
    told = [int(line) for line in writer.communicate()[0].split()]
    with ResponseCache(path) as responses:
        assert len(responses) >= 2 * (max(told) + 1), "what was told to be kept is there"
