"""A small HTTP server on the loopback that speaks chat and completions and fails by a seeded schedule.

Answers are a function of the question alone, so a test can tell whether each came to the one who asked. Which attempt
at which question fails, and how, is a function of the seed, the question and the number of the attempt.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "parrot"
TRANSIENT = ("429", "429-date", "500", "503", "timeout", "cut", "reset", "junk", "html", "no-choices", "null")
OPTIONS = ("left", "right", "above", "below", "overlap")


def fraction(*words: object) -> float:
    """Return a number in [0, 1) that is a pure function of the arguments."""
    digest = hashlib.blake2b("\0".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def answer(text: str) -> str:
    """Return what the server answers to a prompt: an option, and a mark of the prompt itself."""
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"Answer: {OPTIONS[int(fraction(text) * len(OPTIONS))]}\n[{mark}]"


def tokenise(text: str) -> list[str]:
    """Cut a text into words with the blank before them, marks, and blanks in a row; what the server calls tokens."""
    return re.findall(r"  +| ?\w+|[^\w]", text)


def logprob(before: str, token: str) -> float:
    """Return the server's log-probability of a token behind a text."""
    return math.log(0.001 + 0.998 * fraction(before, token))


class FaultServer(ThreadingHTTPServer):
    """The server; a context manager that ends it.

    Args:
        rate: share of attempts that fail.
        faults: how they fail, drawn with equal chance.
        permanent: HTTP status of every question, if not 0.
        echo: whether completions echo their prompts with log-probabilities.
        listing: HTTP status of the list of models.
        least_tokens: fewest tokens a completion may be asked for.
        retry_after: what a 429 asks for.

    Attributes:
        attempts: requests by body; `answered` those that got an answer.
        injected: faults by kind.
        bodies: of every request, and `keys` the authorisations they came with.
        peak: most requests at once.
        choice: members to put over those of every choice.
        ceiling: more requests at once than this are refused by 503; 0 for no bound.
        held: a text, and how many requests must have come before a question with it is answered.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self,
        *,
        rate: float = 0.0,
        faults: tuple[str, ...] = TRANSIENT,
        seed: int = 0,
        permanent: int = 0,
        echo: bool = True,
        listing: int = 200,
        least_tokens: int = 0,
        retry_after: str = "7",
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.rate, self.faults, self.seed, self.permanent = rate, faults, seed, permanent
        self.echo, self.listing, self.least_tokens, self.retry_after = echo, listing, least_tokens, retry_after
        self.attempts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.busy = self.peak = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.choice: dict[str, Any] = {}
        self.ceiling = 0
        self.held = ("", 0)

    @property
    def url(self) -> str:
        """Base URL of the protocol."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections break here on purpose."""


@contextmanager
def serving(**settings: Any) -> Iterator[FaultServer]:
    """Run a server in a thread for the length of the block."""
    server = FaultServer(**settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.listing != 200:
            self._send(self.server.listing, {"error": {"message": "no listing"}})
            return
        card = {"id": NAME, "object": "model", "created": 1, "owned_by": "tests"}
        self._send(200, {"object": "list", "data": [card]})

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = json.dumps(body, sort_keys=True)
        if server.ended.is_set():
            self.close_connection = True
            return
        with server.lock:
            server.keys.add(self.headers.get("Authorization"))
            server.bodies.append(body)
            attempt = server.attempts[asked]
            server.attempts[asked] += 1
            server.busy += 1
            server.peak = max(server.peak, server.busy)
            over = bool(server.ceiling) and server.busy > server.ceiling
        try:
            self._reply(asked, body, attempt, over)
        finally:
            with server.lock:
                server.busy -= 1

    def _reply(self, asked: str, body: dict[str, Any], attempt: int, over: bool) -> None:
        server = self.server
        text, attempts = server.held
        for _ in range(1000 if text and text in asked else 0):
            if sum(server.attempts.values()) >= attempts:
                break
            server.ended.wait(0.01)
        if server.ceiling:
            # Long enough for requests to meet each other.
            server.ended.wait(0.01)
        if over:
            server.injected["503"] += 1
            self._send(503, {"error": {"message": "too many at once"}})
            return
        if server.permanent:
            self._send(
                server.permanent, {"error": {"message": f"refused for good, key {self.headers['Authorization']}"}}
            )
            return
        if fraction("fails", server.seed, asked, attempt) < server.rate:
            kind = server.faults[int(fraction("how", server.seed, asked, attempt) * len(server.faults))]
            with server.lock:
                server.injected[kind] += 1
            self._fail(kind)
            return
        if body.get("max_tokens", 16) < server.least_tokens:
            self._send(400, {"error": {"message": "max_tokens is too small"}})
            return
        reply = self._chat(body) if self.path.endswith("/chat/completions") else self._complete(body)
        with server.lock:
            server.answered[asked] += 1
        self._send(200, reply)

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        text = answer("".join(message["content"] for message in body["messages"]))
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"} | self.server.choice
        return {"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 5}}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
        choices, count = [], 0
        for index, prompt in enumerate(prompts):
            choice: dict[str, Any] = {"index": index, "text": answer(prompt), "finish_reason": "stop", "logprobs": None}
            if body.get("echo") and self.server.echo:
                tokens = tokenise(prompt)
                count += len(tokens)
                tokens += ["!"] * min(1, body["max_tokens"])
                starts = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
                values: list[float | None] = [logprob("".join(tokens[:i]), token) for i, token in enumerate(tokens)]
                logprobs = {"tokens": tokens, "token_logprobs": [None, *values[1:]], "text_offset": starts}
                choice |= {"text": "".join(tokens), "logprobs": logprobs, "finish_reason": "length"}
            choices.append(choice | self.server.choice)
        # Out of order, which the protocol allows.
        return {"choices": choices[::-1], "usage": {"prompt_tokens": count or 11, "completion_tokens": len(prompts)}}

    def _fail(self, kind: str) -> None:
        error = {"error": {"message": "by the schedule"}}
        if kind == "429":
            self._send(429, error, {"Retry-After": self.server.retry_after})
        elif kind == "429-date":
            self._send(429, error, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
        elif kind.isdecimal():
            self._send(int(kind), error)
        elif kind == "timeout":
            self.server.ended.wait(60)
            self.close_connection = True
        elif kind == "cut":
            self._head(200, 1000, {})
            self.wfile.write(b'{"choices": [{"ind')
            self.close_connection = True
        elif kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        elif kind == "junk":
            self._raw(200, b'{"choices": [{"index": 0, "mess')
        elif kind == "html":
            self._raw(200, b"<html>bad gateway</html>", {"Content-Type": "text/html"})
        elif kind == "no-choices":
            self._send(200, {"choices": [], "usage": None})
        else:
            self._send(200, {"choices": [{"index": 0, "message": {"content": None}, "finish_reason": "stop"}]})

    def _send(self, status: int, reply: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(reply).encode(), headers)

    def _raw(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(data), headers or {})
        self.wfile.write(data)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
