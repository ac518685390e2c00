"""Models behind a server that speaks the OpenAI protocol: vLLM, llama.cpp, hosted ones.

Conventions that decide what a number means:

- With ``api=chat`` (the default) the turns are sent as they are and the server renders them.
- With ``api=completions`` the server completes plain text, rendered as the transformers backend renders it for models
  without a chat template: the turns' contents and the prompt's cue, blank lines between them; options follow the cue
  after one blank.
- Options are scored by the log-probabilities of their own tokens, which takes a completions endpoint that echoes its
  prompt with them (vLLM does). Whether this server does is tried once at loading; where it does not, option scoring
  is an error and never replaced by something else.
- Every completion is a request of its own, with a seed made from the run's seed, the sample's id and the copy's
  number, so that an answer that had to be asked for twice is the same draw where the server honours seeds.

The key comes from the environment variable OPENAI_API_KEY alone and is recorded nowhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from harness.models.base import (
    Completion,
    Failure,
    Identity,
    Message,
    ModelRequest,
    Prompt,
    Sampling,
    Scores,
    chunks,
)
from harness.models.chat import plain_text
from harness.models.openai_pool import FinalError, Pool, RetryPolicy, Traffic, TransientError, retry_after
from harness.models.openai_replies import (
    Json,
    UnscoredError,
    chat_completion,
    echo_scores,
    parse_object,
    plain_completion,
)
from harness.progress import say
from harness.task import Example
from stepgame.errors import InputError, did_you_mean, require, unknown_name

require("openai", "openai", "the OpenAI-compatible backend")

import openai  # noqa: E402

__all__ = ["OpenAIModel", "Settings"]

Api = Literal["chat", "completions"]
APIS: tuple[Api, ...] = ("chat", "completions")
BATCH = 64
"""Fewest prompts of a batch: answers reach the disk that often."""
OFFICIAL = "https://api.openai.com/v1"
KEY, URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
CONNECT_TIMEOUT = 10.0
LOCAL_WAIT = 180.0
"""Seconds that a server on this machine gets to come up, unless ``wait`` says otherwise."""
POLL_SECONDS = 0.5
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))

_RETRIED = frozenset((408, 409, 429))
"""Client errors that pass by themselves: a time-out, a conflict, too many requests; those above 499 all may."""
_OVERLOADED = frozenset((429, 503, 529))
_NO_SUCH_PATH = frozenset((404, 405, 501))
_NEVER_CONNECTED = frozenset(("ConnectError", "ConnectTimeout"))
_SAMPLED = frozenset(("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"))
_OURS = frozenset(("model", "messages", "prompt", "stream", "n", "echo", "logprobs"))


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is asked, from the request's args.

    Attributes:
        base_url: where the protocol's paths begin, such as ``http://127.0.0.1:8000/v1``; None for OPENAI_BASE_URL or
            else OpenAI's own.
        api: ``"chat"`` or ``"completions"``.
        concurrency: most requests in flight; fewer while the server is overloaded.
        timeout: seconds for one attempt.
        extra_body: members to add to every question's body, for servers with parameters of their own; null leaves out
            a sampling parameter that a server does not take.
        policy: when a question is asked again.
        wait: seconds to wait at loading for a server that takes no connections yet; 0 gives up at once.
    """

    base_url: str | None = None
    api: Api = "chat"
    concurrency: int = 16
    timeout: float = 300.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    wait: float = 0.0

    @classmethod
    def parse(cls, args: Mapping[str, str]) -> Self:
        """Read ``key=value`` settings: the attributes above but the policy, and ``max_retries`` and ``backoff``.

        Raises:
            InputError: if a key is unknown or a value is not what it should be.
        """
        known = ("base_url", "api", "concurrency", "timeout", "extra_body", "max_retries", "backoff", "wait")
        for key in args:
            if key not in known:
                raise unknown_name("setting of the openai backend", key, known)
        api = args.get("api", "chat")
        if api not in APIS:
            raise unknown_name("api", api, APIS)
        usual = RetryPolicy()
        policy = RetryPolicy(
            max_retries=int(_number(args, "max_retries", usual.max_retries, least=0, whole=True)),
            backoff=_number(args, "backoff", usual.backoff, least=0),
        )
        url = _checked_url(args["base_url"]) if "base_url" in args else None
        # A server on this machine was often started a moment ago, and reads its weights first.
        here = url is not None and urlsplit(url).hostname in _LOOPBACK
        return cls(
            base_url=url,
            api="chat" if api == "chat" else "completions",
            concurrency=int(_number(args, "concurrency", 16, least=1, whole=True)),
            timeout=_number(args, "timeout", 300.0, least=0.001),
            extra_body=_extra_body(args.get("extra_body", "{}")),
            policy=policy,
            wait=_number(args, "wait", LOCAL_WAIT if here else 0.0, least=0),
        )


@dataclass(frozen=True, slots=True)
class _Question:
    """One request, before it is put into the protocol's words; equal ones are the same request."""

    kind: Literal["models", "generate", "choose"]
    prompt: Prompt | None = None
    options: tuple[str, ...] = ()
    sampling: Sampling | None = None
    copy: int = 0
    probe: bool = False


class OpenAIModel:
    """A model behind an OpenAI-compatible server.

    Args:
        name: the model's name as the server knows it.
        settings: how it is asked.
        key: the API key; None for servers that need none.

    Raises:
        InputError: if the server cannot be reached in time, refuses the key, or does not have the model.
    """

    def __init__(self, name: str, settings: Settings, key: str | None = None) -> None:
        self._name = name
        self._settings = settings
        self._key = key
        url = settings.base_url or os.environ.get(URL) or OFFICIAL
        self._url = public_url(url)
        self._client = openai.AsyncOpenAI(
            # Servers of one's own take any key, but the client insists on one.
            api_key=key or "none",
            base_url=url,
            timeout=openai.Timeout(settings.timeout, connect=min(settings.timeout, CONNECT_TIMEOUT)),
            max_retries=0,
        )
        self._pool: Pool[_Question, Any] = Pool(self._ask, settings.policy, settings.concurrency, self._client.close)
        self._next: dict[Prompt, tuple[Prompt, ...]] = {}
        self._card: Json | None = None
        self._echo_tokens = 0
        try:
            self._card = self._find_card()
            self._unscored = self._find_scoring()
        except InputError:
            self._pool.close()
            raise

    @classmethod
    def load(cls, request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Self:
        """Reach the server and find out what it can do; no question of the run is asked.

        Raises:
            InputError: if a setting is wrong, or as the class says.
        """
        for flag, value, usual in (
            ("--dtype", request.dtype, "auto"),
            ("--device", request.device, "auto"),
            ("--batch-tokens", request.batch_tokens, None),
        ):
            if value != usual:
                raise InputError(f"{flag} is the server's own affair with the openai backend; leave it out")
        settings = Settings.parse(request.args)
        key = os.environ.get(KEY) or None
        if key is None and settings.base_url is None and not os.environ.get(URL):
            raise InputError(
                f"the openai backend needs --base-url URL for a server of your own, or a key in the environment "
                f"variable {KEY} for {OFFICIAL}"
            )
        model = cls(request.target, settings, key)
        if request.verb == "choose":
            try:
                model.require_scoring()
            except InputError:
                model.close()
                raise
        return model

    @property
    def identity(self) -> Identity:
        """Which server and model this is; nothing can be known of the weights but what the server says."""
        args = {
            "base_url": self._url,
            "api": self._settings.api,
            "model": self._name,
            "model_card": self._card,
            "option_scoring": "echo" if self._unscored is None else None,
            "extra_body": dict(self._settings.extra_body),
        }
        digest = hashlib.sha256(json.dumps(args, sort_keys=True).encode()).hexdigest()
        return Identity(f"server-description-{digest}", args=args)

    @property
    def traffic(self) -> Traffic:
        """What went over the wire so far, the questions at loading included."""
        return self._pool.traffic

    def close(self) -> None:
        """Drop what is under way and close the connections; otherwise done when the model is no longer used."""
        self._pool.close()

    def render(self, prompt: Prompt) -> str | None:
        """Return the text of a plain completion; None for chat, which the server renders."""
        return None if self._settings.api == "chat" else plain_text(prompt)

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Cut work in order, into batches that fill all slots.

        While the last answers of one batch come in, the slots that fall idle take questions of the next one.
        """
        cut = list(chunks(len(prompts), max(BATCH, self._settings.concurrency)))
        self._next = {prompts[one[0]]: tuple(prompts[index] for index in other) for one, other in pairwise(cut)}
        yield from cut

    def require_scoring(self) -> None:
        """Check that the server gives log-probabilities of options.

        Raises:
            InputError: if it does not, with the reason.
        """
        if self._unscored is not None:
            raise InputError(
                f"model {self._name!r} at {self._url} cannot score options: {self._unscored}; use --score generate"
            )

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Scores | Failure]:
        """Score the options as continuations of the plain prompts.

        Raises:
            InputError: if the server gives no log-probabilities of options, or they are not defined.
        """
        self.require_scoring()
        asked = [_Question("choose", prompt, tuple(texts)) for prompt, texts in zip(prompts, options, strict=True)]
        # Options to come are known only where they are those of the examples.
        usual = all(question.options == prompt.example.options for question, prompt in zip(asked, prompts, strict=True))
        ahead = [_Question("choose", prompt, prompt.example.options) for prompt in self._following(prompts) if usual]
        return self._pool.run(asked, ahead)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...] | Failure]:
        """Complete the prompts."""

        def questions(some: Sequence[Prompt]) -> list[_Question]:
            return [
                _Question("generate", prompt, sampling=sampling, copy=copy)
                for prompt in some
                for copy in range(sampling.n)
            ]

        replies = self._pool.run(questions(prompts), questions(self._following(prompts)))
        result: list[tuple[Completion, ...] | Failure] = []
        for place in range(0, len(replies), sampling.n):
            group = replies[place : place + sampling.n]
            failure = next((reply for reply in group if isinstance(reply, Failure)), None)
            result.append(failure or tuple(reply for reply in group if isinstance(reply, Completion)))
        return result

    def _following(self, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
        return self._next.get(prompts[0], ()) if prompts else ()

    async def _ask(self, question: _Question) -> Any:
        """Ask once; the pool's callback."""
        try:
            return await self._request(question)
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except openai.APITimeoutError as error:
            never = type(error.__cause__).__name__ in _NEVER_CONNECTED
            text = (
                f"no connection within {min(self._settings.timeout, CONNECT_TIMEOUT):g} s"
                if never
                else (f"no reply within {self._settings.timeout:g} s")
            )
            raise TransientError(text, overload=not never, unreachable=never) from None
        except openai.APIConnectionError as error:
            never = type(error.__cause__).__name__ in _NEVER_CONNECTED
            reason = str(error.__cause__ or error) or type(error.__cause__).__name__
            text = "cannot connect" if never else "the connection broke"
            raise TransientError(f"{text}: {self._hushed(reason)}", unreachable=never) from None
        except openai.APIError as error:
            raise TransientError(f"the reply cannot be read: {self._hushed(str(error))}") from None

    async def _request(self, question: _Question) -> Any:
        if question.kind == "models":
            return await self._list()
        prompt = question.prompt
        assert prompt is not None
        if question.kind == "choose":
            lead = [f" {option}" for option in question.options]
            text = plain_text(prompt)
            extra = {"max_tokens": self._echo_tokens, "echo": True, "logprobs": 1, "temperature": 0}
            reply = await self._complete([text + ending for ending in lead], extra)
            try:
                return echo_scores(reply, lead, question.options)
            except UnscoredError as error:
                # A server that cannot do it is not asked again; one that could at loading is.
                raise (FinalError(str(error)) if question.probe else error) from None
        assert question.sampling is not None
        body = self._sampled(question.sampling, prompt.example.id, question.copy)
        if self._settings.api == "completions":
            return plain_completion(await self._complete(plain_text(prompt), body))
        turns: Any = [{"role": message.role, "content": message.content} for message in prompt.messages]
        raw = await self._client.chat.completions.with_raw_response.create(
            model=self._name, messages=turns, extra_body=body
        )
        return chat_completion(parse_object(raw.text))

    async def _list(self) -> Json | list[str]:
        try:
            raw = await self._client.models.with_raw_response.list()
        except openai.APIStatusError as error:
            if error.status_code in _NO_SUCH_PATH:
                return []
            raise
        return _card(parse_object(raw.text), self._name)

    async def _complete(self, prompt: str | list[str], body: Json) -> Json:
        raw = await self._client.completions.with_raw_response.create(model=self._name, prompt=prompt, extra_body=body)
        return parse_object(raw.text)

    def _sampled(self, sampling: Sampling, sample: str, copy: int) -> Json:
        """Return the body's members that say how to draw, all of them, since servers have defaults of their own."""
        official = urlsplit(self._url).hostname == urlsplit(OFFICIAL).hostname
        limit = "max_completion_tokens" if official and self._settings.api == "chat" else "max_tokens"
        body: Json = {limit: sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.temperature > 0:
            digest = hashlib.blake2b(f"{sampling.seed}\0{sample}\0{copy}".encode(), digest_size=4).digest()
            # 31 bits, which every server's integers hold.
            body["seed"] = int.from_bytes(digest, "big") >> 1
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self._card is not None and self._card.get("owned_by") == "vllm":
            # vLLM otherwise takes these from the checkpoint's generation settings.
            body |= {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        body |= self._settings.extra_body
        return {key: value for key, value in body.items() if value is not None}

    def _status_error(self, error: openai.APIStatusError) -> TransientError | FinalError:
        status = error.status_code
        body = error.body if isinstance(error.body, dict) else {}
        text = body.get("message") or error.message
        message = f"HTTP {status}: {self._hushed(str(text))}"
        if status in (401, 403):
            message += f" (the key is taken from the environment variable {KEY})"
        # A quota that is used up has the status of a rate limit and does not pass.
        used_up = "insufficient_quota" in (body.get("code"), body.get("type"))
        if used_up or (status < 500 and status not in _RETRIED):
            return FinalError(message)
        return TransientError(message, overload=status in _OVERLOADED, wait=retry_after(error.response.headers))

    def _hushed(self, text: str) -> str:
        """Return a message on one line, cut to size, without the key."""
        line = " ".join(text.split())[:300]
        return line.replace(self._key, "***") if self._key else line

    def _find_card(self) -> Json | None:
        """Return what the server says of the model; None if it does not list it and answers all the same."""
        end, told = time.monotonic() + self._settings.wait, False
        while True:
            (found,) = self._pool.run([_Question("models")])
            if self._pool.reached or time.monotonic() >= end:
                break
            if not told:
                say(f"waiting up to {self._settings.wait:g} s for a server at {self._url}; --model-arg wait=0 does not")
                told = True
            time.sleep(POLL_SECONDS)
        if isinstance(found, Failure):
            raise InputError(f"cannot use the server at {self._url}: {found.error}")
        if isinstance(found, dict):
            return found
        # Not every server lists all that it serves, so the model itself is asked before the name is called wrong.
        (reply,) = self._pool.run([_Question("generate", _probe(), sampling=Sampling(max_tokens=16))])
        if isinstance(reply, Failure):
            listed = f"{did_you_mean(self._name, found)}; the server has: {', '.join(found[:20])}" if found else ""
            raise InputError(f"model {self._name!r} at {self._url} cannot be asked: {reply.error}{listed}")
        return None

    def _find_scoring(self) -> str | None:
        """Return why options cannot be scored; None if they can."""
        if self._settings.api == "chat":
            return "chat endpoints give no log-probabilities of given answers (completions may: try api=completions)"
        reason = ""
        for tokens in (0, 1):
            self._echo_tokens = tokens
            try:
                (reply,) = self._pool.run([_Question("choose", _probe(), ("blue", "green"), probe=True)])
            except InputError as error:
                reply = Failure(str(error))
            if isinstance(reply, Scores):
                return None
            reason = reason or reply.error
        return f"asked to echo a prompt with log-probabilities, the server gave none ({reason})"


def public_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, any of which may hold a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        # Shown only where it cannot hold a password.
        shown = "" if "@" in url or "?" in url else f" {url!r}"
        raise InputError(f"--base-url{shown}: expected http://HOST:PORT/PATH, for instance http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"--base-url {public_url(url)!r} was given with a password or a query, which would be recorded; put the "
            f"key into the environment variable {KEY}, or the whole URL into {URL}"
        )
    return url


def _number(args: Mapping[str, str], key: str, usual: float, *, least: float, whole: bool = False) -> float:
    text = args.get(key)
    if text is None:
        return usual
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise InputError(f"{key}={text!r}: expected {'a whole number' if whole else 'a number'} of at least {least:g}")
    return value


def _extra_body(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise InputError(
            f'extra_body is not valid JSON ({error}); expected an object such as {{"top_k": 20}}'
        ) from None
    if not isinstance(body, dict):
        raise InputError(f"extra_body: expected a JSON object, got {text[:40]!r}")
    for key, value in body.items():
        if key in _OURS or (key in _SAMPLED and value is not None):
            raise InputError(f"extra_body must not set {key!r}, which the run's own settings decide")
    return body


def _card(listing: Json, name: str) -> Json | list[str]:
    """Return what a listing says of a model, or the names it has if that is not among them.

    The time of creation is left out: several servers give the time of the reply.
    """
    data = listing.get("data")
    cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    for card in cards:
        if card.get("id") == name:
            return {key: card.get(key) for key in ("id", "root", "owned_by", "max_model_len") if key in card}
    return [str(card.get("id")) for card in cards]


def _probe() -> Prompt:
    example = Example("probe", (), "What colour is the sky?", ("blue", "green"), "blue")
    return Prompt((Message("user", "What colour is the sky?"),), "Answer:", example)
