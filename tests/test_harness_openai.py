"""The OpenAI-compatible backend, against a server that fails on purpose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ports import free_port

pytest.importorskip("openai")

from fault_server import NAME, OPTIONS, answer, logprob, serving, tokenise

from harness import evaluate
from harness.models.base import Completion, Failure, Message, Prompt, Sampling, Scores
from harness.models.openai import OpenAIModel, Settings, public_url
from harness.models.openai_pool import FinalError, Limiter, RetryPolicy, TransientError, retry_after
from harness.models.openai_replies import chat_completion, echo_scores, parse_object, plain_completion
from harness.models.registry import load_model, parse_model
from harness.run import resume
from harness.task import Example
from stepgame.errors import InputError

QUICK = RetryPolicy(max_retries=40, scale=0.0005)
KEY = "sk-hush-hush"


@contextmanager
def asking(url: str, *, key: str | None = None, policy: RetryPolicy = QUICK, **settings: Any) -> Iterator[OpenAIModel]:
    model = OpenAIModel(NAME, Settings(base_url=url, policy=policy, **{"timeout": 30.0} | settings), key)
    try:
        yield model
    finally:
        model.close()


def prompts(count: int) -> list[Prompt]:
    made = []
    for place in range(count):
        text = f"Question {place}: where is A?"
        example = Example(f"s{place}", (), text, OPTIONS, "left")
        made.append(Prompt((Message("system", "Be brief."), Message("user", text)), "Answer:", example))
    return made


def plain(prompt: Prompt) -> str:
    return "\n\n".join([*(message.content for message in prompt.messages), "Answer:"])


def ask_all(model: OpenAIModel, asked: list[Prompt], sampling: Sampling | None) -> list[Any]:
    """Ask as the run loop does, batch by batch."""
    replies: dict[int, Any] = {}
    for batch in model.batches(asked):
        part = [asked[index] for index in batch]
        got: Any = (
            model.choose(part, [each.example.options for each in part])
            if sampling is None
            else model.generate(part, sampling)
        )
        replies |= dict(zip(batch, got, strict=True))
    return [replies[index] for index in range(len(asked))]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_with_faults_every_answer_arrives_and_is_the_right_one(api: str) -> None:
    asked = prompts(120)
    with serving(rate=0.3, seed=1) as server, asking(server.url, api=api, timeout=3.0) as model:
        loaded = sum(server.answered.values())
        replies = ask_all(model, asked, Sampling())
        assert len(server.injected) >= 8, "the schedule must bring most kinds of faults"
        assert sum(server.injected.values()) > 30
        for prompt, reply in zip(asked, replies, strict=True):
            seen = plain(prompt) if api == "completions" else "".join(each.content for each in prompt.messages)
            assert reply == (Completion(answer(seen), 11, 5 if api == "chat" else 1, "stop"),)
        assert set(server.answered.values()) == {1}, "nothing may be asked after it was answered"
        assert sum(server.answered.values()) == loaded + len(asked)
        assert model.traffic.retries >= sum(server.injected.values()) - 2


@pytest.mark.parametrize("least_tokens", [0, 1])
def test_options_are_scored_exactly_through_faults(least_tokens: int) -> None:
    asked = prompts(30)
    faults = {"rate": 0.3, "seed": 2, "least_tokens": least_tokens}
    with serving(**faults) as server, asking(server.url, api="completions", timeout=3.0) as model:
        assert model.identity.args["option_scoring"] == "echo"
        replies = ask_all(model, asked, None)
    for prompt, scores in zip(asked, replies, strict=True):
        assert isinstance(scores, Scores)
        for option, value in zip(OPTIONS, scores.logprobs, strict=True):
            text, expected = plain(prompt), 0.0
            for token in tokenise(f" {option}"):
                expected += logprob(text, token)
                text += token
            assert value == pytest.approx(expected, abs=1e-9)
        assert scores.tokens_in == len(tokenise(plain(prompt)))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_repeated_and_is_no_answer(status: int) -> None:
    with serving() as server, asking(server.url, key=KEY) as model:
        server.permanent = status
        replies = ask_all(model, prompts(20), Sampling())
        assert all(isinstance(reply, Failure) and f"HTTP {status}" in reply.error for reply in replies)
        assert set(server.attempts.values()) == {1}
        assert not any(KEY in reply.error for reply in replies)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_what_may_pass_is_repeated_so_often_and_no_more(status: int) -> None:
    policy = replace(QUICK, max_retries=3)
    with serving() as server, asking(server.url, policy=policy) as model:
        server.permanent = status
        replies = ask_all(model, prompts(5), Sampling())
        assert all(isinstance(reply, Failure) and "4 attempts" in reply.error for reply in replies)
        assert set(server.attempts.values()) == {4}


def test_a_used_up_quota_is_not_repeated() -> None:
    with serving() as server, asking(server.url) as model:
        error = model._status_error(_status_error(429, {"code": "insufficient_quota", "message": "pay first"}))
        assert isinstance(error, FinalError)
        assert isinstance(model._status_error(_status_error(429, {"message": "slower"})), TransientError)


def _status_error(status: int, body: dict[str, str]) -> Any:
    import openai

    transport = pytest.importorskip(openai.APIStatusError.__init__.__annotations__["response"].split(".")[0])
    request = transport.Request("POST", "http://127.0.0.1/")
    return openai.APIStatusError("refused", response=transport.Response(status, request=request), body=body)


def test_the_wait_that_a_server_asks_for_is_kept() -> None:
    with serving(rate=0.5, seed=3, faults=("429",), retry_after="7") as server, asking(server.url) as model:
        replies = ask_all(model, prompts(10), Sampling())
        assert all(isinstance(reply, tuple) for reply in replies)
        assert model.traffic.waited == 7 * server.injected["429"] > 0


def test_a_wait_beyond_the_limit_is_an_error() -> None:
    with serving(rate=1.0, faults=("429",), retry_after="3600") as server, asking(server.url) as model:
        (reply,) = model.generate(prompts(1), Sampling())
        assert isinstance(reply, Failure)
        assert server.injected["429"] == 1


def test_concurrency_is_bounded_and_falls_when_the_server_is_overloaded() -> None:
    with serving() as server, asking(server.url, concurrency=16) as model:
        server.ceiling = 4
        replies = ask_all(model, prompts(150), Sampling())
        assert all(isinstance(reply, tuple) for reply in replies)
        assert 4 <= server.peak <= 16
        assert model.traffic.overloads == server.injected["503"] > 0
        assert model.traffic.lowest <= 8
        assert model.traffic.peak <= 16
        assert set(server.answered.values()) == {1}


def test_slots_stay_full_across_batches() -> None:
    with serving() as server, asking(server.url, concurrency=4) as model:
        asked = prompts(130)
        first, second, *_ = model.batches(asked)
        # The last answer of the first batch comes only after questions of the second were asked.
        server.held = (f"Question {first[-1]}:", len(first) + 10)
        model.generate([asked[index] for index in first], Sampling())
        assert sum(server.attempts.values()) >= len(first) + 10, "idle slots take questions of the next batch"
        model.generate([asked[index] for index in second], Sampling())
        assert set(server.attempts.values()) == {1}


@given(
    st.integers(1, 64),
    st.lists(st.sampled_from(["answered", "overload", "other"]), max_size=200),
)
def test_the_limit_stays_between_one_and_the_most(most: int, outcomes: list[str]) -> None:
    async def play() -> None:
        limiter = Limiter(most)
        for outcome in outcomes:
            before = limiter.limit
            epoch = await limiter.acquire()
            limiter.release(epoch, answered=outcome == "answered", overload=outcome == "overload")
            assert 1 <= limiter.limit <= most
            if outcome == "overload":
                assert limiter.limit == max(1, before / 2)
            else:
                assert before <= limiter.limit <= before + 1

    asyncio.run(play())


def test_one_burst_of_refusals_halves_the_limit_once() -> None:
    async def play() -> float:
        limiter = Limiter(16)
        epochs = [await limiter.acquire() for _ in range(16)]
        for epoch in epochs:
            limiter.release(epoch, answered=False, overload=True)
        return limiter.limit

    assert asyncio.run(play()) == 8


@given(st.integers(0, 200), st.floats(0, 10), st.floats(0, 100))
def test_waits_are_within_their_bound(attempt: int, backoff: float, most: float) -> None:
    wait = RetryPolicy(backoff=backoff, max_backoff=most).pause(attempt)
    assert 0 <= wait <= min(most, backoff * 2.0**attempt)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Sat, 01 Jan 2000 00:01:30 GMT"}, 90),
        ({"retry-after": "Fri, 31 Dec 1999 00:00:00 GMT"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, datetime(2000, 1, 1, tzinfo=UTC)) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_a_wait_or_none(text: str) -> None:
    wait = retry_after({"retry-after": text})
    assert wait is None or 0 <= wait < float("inf")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "choices message content text index finish_reason usage prompt_tokens "
                "logprobs tokens token_logprobs text_offset".split()
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(JSON)
def test_no_reply_is_too_broken_to_be_refused(value: Any) -> None:
    for read in (chat_completion, plain_completion, lambda reply: echo_scores(reply, [" a"], ["a"])):
        try:
            result = read(parse_object(json.dumps(value)))
        except (TransientError, FinalError, InputError):
            continue
        assert isinstance(result, Completion | Scores)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "content_filter"}, "content filter"),
        ({"finish_reason": None}, "no known reason"),
        ({"finish_reason": "tool_calls"}, "tool"),
        ({"message": {"content": None, "refusal": "I will not."}}, "I will not."),
        ({"message": {"content": None}}, "no text"),
        ({"message": {"content": None}, "finish_reason": "length"}, ""),
        ({"message": {"content": ""}}, ""),
    ],
)
def test_how_an_answer_ends(choice: dict[str, Any], expected: str) -> None:
    with serving() as server, asking(server.url, policy=replace(QUICK, max_retries=1)) as model:
        server.choice = choice
        (reply,) = model.generate(prompts(1), Sampling())
    if isinstance(reply, Failure):
        assert expected in reply.error
    else:
        assert expected in (reply[0].text, reply[0].finish)


def test_what_is_sent() -> None:
    with serving() as server, asking(server.url, extra_body={"top_k": 5, "seed": None}) as model:
        model.generate(prompts(1), Sampling(max_tokens=9, temperature=0.5, top_p=0.9, stop=("\n",), n=2))
        body = server.bodies[-1]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Question 0: where is A?"},
    ]
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["top_k"]) == (9, 0.5, 0.9, 5)
    assert body["stop"] == ["\n"]
    assert "seed" not in body
    assert not body.get("stream")


def test_a_draw_belongs_to_seed_sample_and_copy() -> None:
    hot = Sampling(temperature=1.0, n=2)
    with serving() as server, asking(server.url) as model:
        model.generate(prompts(2), hot)
        seeds = {body["seed"] for body in server.bodies}
        assert len(seeds) == 4
        model.generate(prompts(2)[1:], hot)
        assert {body["seed"] for body in server.bodies[-2:]} < seeds
        model.generate(prompts(2), replace(hot, seed=1))
        assert not {body["seed"] for body in server.bodies[-4:]} & seeds


def test_options_that_cannot_be_scored() -> None:
    with serving(echo=False) as server, asking(server.url, api="completions") as model:
        assert model.identity.args["option_scoring"] is None
        with pytest.raises(InputError, match="--score generate"):
            model.choose(prompts(1), [OPTIONS])
    with serving() as server, asking(server.url) as model:
        with pytest.raises(InputError, match="--score generate"):
            model.choose(prompts(1), [OPTIONS])
        assert not server.bodies, "a chat server is not even asked"


def test_an_option_that_merges_with_the_prompt_is_an_error() -> None:
    with serving() as server, asking(server.url, api="completions") as model:
        prompt = replace(prompts(1)[0], cue="Answer: ")
        with pytest.raises(InputError, match="option 'left' merges"):
            model.choose([prompt], [("left", "right")])


def echoed(*columns: tuple[list[str], list[float]], prompt_tokens: int) -> dict[str, Any]:
    choices = []
    for index, (tokens, values) in enumerate(columns):
        offsets = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
        logprobs = {"tokens": tokens, "token_logprobs": [None, *values[1:]], "text_offset": offsets}
        choices.append({"index": index, "logprobs": logprobs})
    return {"choices": choices, "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": len(columns)}}


def test_echoed_scores_allow_a_begin_token_and_count_shared_tokens_once() -> None:
    head, values = ["<s>", "A", ":"], [0.0, -1.0, -1.0]
    reply = echoed(
        ([*head, " upper", "-", "left"], [*values, -0.5, -0.25, -2.0]),
        ([*head, " upper", "-", "right"], [*values, -0.5, -0.25, -3.0]),
        prompt_tokens=12,
    )
    scores = echo_scores(reply, [" upper-left", " upper-right"], ["upper-left", "upper-right"])
    assert scores == Scores((-2.75, -3.75), (3, 3), 3, 4)


def test_a_token_across_the_border_is_an_error() -> None:
    reply = echoed((["A", ": l", "eft"], [0.0, -1.0, -1.0]), prompt_tokens=3)
    with pytest.raises(InputError, match="merges"):
        echo_scores(reply, [" left"], ["left"])
    spelt_otherwise = echoed((["A", " \ufffd"], [0.0, -1.0]), prompt_tokens=2)
    with pytest.raises(InputError, match="not spelt"):
        echo_scores(spelt_otherwise, [" ñ"], ["ñ"])
    different = echoed((["A", ":", " x"], [0, -1, -1]), (["A:", " y"], [0, -1]), prompt_tokens=5)
    with pytest.raises(InputError, match="tokenised"):
        echo_scores(different, [" x", " y"], ["x", "y"])


def test_no_server() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(InputError, match=r"cannot connect.*1 attempt"):
        OpenAIModel(NAME, Settings(base_url=url, policy=RetryPolicy()))


def test_a_server_that_comes_up_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    port, told = free_port(), list[str]()
    with ExitStack() as stack:

        def start(message: str) -> None:
            told.append(message)
            stack.enter_context(serving(port=port))

        # What the user reads is the sign that nobody was there at the first attempt.
        monkeypatch.setattr("harness.models.openai.say", start)
        model = stack.enter_context(asking(f"http://127.0.0.1:{port}/v1", wait=60.0))
        assert all(isinstance(reply, tuple) for reply in ask_all(model, prompts(3), Sampling()))
    assert told == [f"waiting up to 60 s for a server at http://127.0.0.1:{port}/v1; --model-arg wait=0 does not"]


def test_only_a_server_of_this_machine_is_waited_for_unless_asked() -> None:
    assert Settings.parse({"base_url": "http://localhost:1/v1"}).wait == 180
    assert Settings.parse({"base_url": "http://localhost:1/v1", "wait": "0"}).wait == 0
    assert Settings.parse({"base_url": "http://host/v1"}).wait == 0
    assert Settings.parse({"base_url": "http://host/v1", "wait": "9"}).wait == 9


def test_a_server_that_goes_away_costs_errors_and_not_hours() -> None:
    with serving() as server, asking(server.url, policy=replace(QUICK, max_retries=5)) as model:
        ask_all(model, prompts(3), Sampling())
        server.ended.set()
        server.shutdown()
        server.server_close()
        replies = ask_all(model, prompts(200), Sampling())
        assert all(isinstance(reply, Failure) for reply in replies)
        assert model.traffic.requests < 2 * 200
        # `serving` ends it again, which a closed server allows.
        server.serve_forever = lambda **_: None  # type: ignore[method-assign]


@pytest.mark.parametrize(("status", "says"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (400, "HTTP 400")])
def test_a_server_that_refuses_at_the_door(status: int, says: str) -> None:
    with serving(listing=status) as server:
        with pytest.raises(InputError, match=says), asking(server.url):
            pass
        assert not server.bodies


def test_a_model_that_the_server_does_not_list() -> None:
    with serving() as server:
        server.permanent = 404
        with pytest.raises(InputError, match=f"did you mean '{NAME}'"):
            OpenAIModel("parot", Settings(base_url=server.url, policy=QUICK))
    with serving(listing=404) as server, asking(server.url) as model:
        assert model.identity.args["model_card"] is None
        assert isinstance(model.generate(prompts(1), Sampling())[0], tuple)


def test_the_key_is_sent_and_recorded_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server:
        request = parse_model(f"openai:{NAME}", args={"base_url": server.url})
        model = load_model(request, lambda _: [])
        model.generate(prompts(1), Sampling())
        assert server.keys == {f"Bearer {KEY}"}
        assert KEY not in repr(model.identity) + repr(request)


def test_identity_is_of_the_server_and_says_so() -> None:
    with serving() as server:
        with asking(server.url) as one, asking(server.url, timeout=9.0, concurrency=3) as same:
            assert one.identity == same.identity
            assert one.identity.content_hash.startswith("server-description-")
        with asking(server.url, api="completions") as other:
            assert other.identity.content_hash != one.identity.content_hash
        with asking(server.url, extra_body={"top_k": 3}) as other:
            assert other.identity.content_hash != one.identity.content_hash


def test_public_url() -> None:
    assert public_url("https://me:hush@host:8000/v1/?key=hush#x") == "https://host:8000/v1"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"base_url": "127.0.0.1:8000"}, "expected http"),
        ({"base_url": "http://me:hush@host/v1"}, "OPENAI_BASE_URL"),
        ({"base_url": "http://host/v1?key=hush"}, "OPENAI_BASE_URL"),
        ({"base_url": "http://[host/v1"}, "expected http"),
        ({"api": "chats"}, "did you mean 'chat'"),
        ({"concurency": "3"}, "did you mean 'concurrency'"),
        ({"concurrency": "0"}, "at least 1"),
        ({"concurrency": "2.5"}, "whole number"),
        ({"timeout": "inf"}, "timeout"),
        ({"max_retries": "-1"}, "at least 0"),
        ({"extra_body": "{"}, "not valid JSON"),
        ({"extra_body": "[1]"}, "object"),
        ({"extra_body": '{"temperature": 1}'}, "temperature"),
        ({"extra_body": '{"messages": null}'}, "messages"),
    ],
)
def test_bad_settings(args: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        Settings.parse(args)
    assert "hush" not in str(error.value)


def test_requests_that_make_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="--base-url"):
        load_model(parse_model("openai:gpt"), lambda _: [])
    with pytest.raises(InputError, match="names no model"):
        parse_model("openai:")
    with pytest.raises(InputError, match="--dtype"):
        load_model(parse_model("gpt", backend="openai", dtype="float32"), lambda _: [])
    odd = parse_model("openai:org/model:free@2")
    assert (odd.backend, odd.target, odd.revision) == ("openai", "org/model:free@2", None)


def test_interrupted_and_asked_again() -> None:
    """What an exception in the middle leaves behind does not disturb the next questions."""
    with serving() as server, asking(server.url, api="completions", concurrency=2) as model:
        asked = prompts(6)
        with pytest.raises(InputError):
            model.choose([replace(asked[0], cue="Answer: "), *asked[1:]], [OPTIONS] * 6)
        assert all(isinstance(reply, Scores) for reply in model.choose(asked, [OPTIONS] * 6))


def test_a_run_counts_refusals_as_errors_and_asks_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(rate=0.3, faults=("400", "404"), seed=5) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("//", "//me:hush-too@"))
        out = tmp_path / "run"
        run = evaluate(f"openai:{NAME}", hops="1-3", per_hop=30, score="generate", out=out)
        assert run.results is not None
        refused = sum(server.injected.values())
        assert run.results["errors"] == refused > 10
        assert run.results["answered"] == 90 - refused
        assert sum(server.attempts.values()) == 90
        server.rate = 0.0
        again = resume(out)
        assert again.results is not None
        assert (again.results["errors"], again.results["answered"]) == (0, 90)
        assert sum(server.attempts.values()) == 90 + refused
    written = "".join(path.read_text() for path in out.iterdir())
    assert KEY not in written
    assert "hush" not in written


def test_a_server_that_cannot_score_options_is_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serving() as server, pytest.raises(InputError, match=r"cannot score options.*--score generate"):
        evaluate(f"openai:{NAME}", hops=1, per_hop=2, score="choice", base_url=server.url, out=out)
    assert not out.exists()
