"""A started vLLM engine that takes requests at any time and gives their outputs when asked, and always stops."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from harness.models.base import BackendError
from harness.models.vllm_guard import dismiss, guard
from stepgame.errors import InputError

__all__ = ["Engine", "engine_processes", "quiet_start", "sampling_params", "start_error"]

WATCH_SECONDS = 1.0
"""How often a waiting process looks whether the engine's is still there."""
_ERROR = re.compile(r"\b[A-Za-z.]*(?:Error|Exception): (?P<reason>.+)$", re.MULTILINE)


class Engine:
    """Requests in flight on an offline engine.

    ``LLM.generate`` waits for all it was given; here the next requests can be sent before the last ones are done, so
    that the engine's batch stays full.

    Args:
        llm: a started engine; it is shut down by `close`, when this object is dropped, and at exit.
        lora: the adapter that every request is answered with; None for the model as it is.

    Attributes:
        llm: the same.
    """

    def __init__(self, llm: LLM, lora: LoRARequest | None = None) -> None:
        # Any: the types of what it takes change from version to version.
        self._engine: Any = llm.llm_engine
        self.llm = llm
        self._lora = lora
        self._names = itertools.count()
        self._open: set[str] = set()
        self._done: dict[str, Any] = {}
        core: Any = llm.llm_engine.engine_core
        self._stopped = threading.Event()
        self._close = weakref.finalize(self, _stop, core, self._stopped, guard(engine_processes(core)))
        # An engine that runs in this process has neither; there nothing can die alone.
        resources, queue = getattr(core, "resources", None), getattr(core, "outputs_queue", None)
        if resources is not None and queue is not None:
            threading.Thread(target=_watch, args=(resources, queue, self._stopped), daemon=True).start()

    def submit(self, prompt: Mapping[str, Any], params: SamplingParams) -> str:
        """Send one request.

        Args:
            prompt: what vLLM takes as a prompt; for instance its ``TokensPrompt``.
            params: how it is answered.

        Returns:
            The request's name, for `collect`.

        Raises:
            InputError: if vLLM refuses the request.
            BackendError: if the engine is dead.
        """
        name = str(next(self._names))
        try:
            self._engine.add_request(name, prompt, params, lora_request=self._lora)
        except (ValueError, VLLMValidationError) as error:
            raise InputError(f"vLLM refuses a prompt: {error}") from None
        except EngineDeadError:
            raise self._died() from None
        self._open.add(name)
        return name

    def collect(self, names: Sequence[str]) -> list[Any]:
        """Wait for some requests.

        Args:
            names: of requests that were not collected yet.

        Returns:
            Their ``RequestOutput`` objects, in the order of ``names``.

        Raises:
            BackendError: if the engine died.
        """
        waiting = set(names) - self._done.keys()
        whole = False
        try:
            while waiting:
                for output in self._engine.step():
                    if output.finished:
                        self._open.discard(output.request_id)
                        self._done[output.request_id] = output
                        waiting.discard(output.request_id)
            whole = True
        except EngineDeadError:
            raise self._died() from None
        finally:
            if not whole:
                self.drop()
        return [self._done.pop(name) for name in names]

    def drop(self) -> None:
        """Forget every request, asked for or not."""
        names, self._open = sorted(self._open), set()
        self._done.clear()
        if names and self._close.alive:
            self._engine.abort_request(names)

    def close(self) -> None:
        """Stop the engine and its processes; calling it again does nothing."""
        self._close()

    def _died(self) -> BackendError:
        self._open.clear()
        return BackendError(
            "the vLLM engine died; with STEPGAME_DEBUG=1 it says why, and short memory is the usual reason"
        )


def _stop(core: Any, stopped: threading.Event, guardian: subprocess.Popen[bytes]) -> None:
    stopped.set()
    core.shutdown()
    dismiss(guardian)


def engine_processes(core: Any) -> list[int]:
    """Return the ids of an engine's processes, workers included; none if it runs in this one.

    Args:
        core: vLLM's client of the engine, a member ``engine_core``.
    """
    # By name: it ships no types.
    psutil: Any = importlib.import_module("psutil")
    manager = getattr(getattr(core, "resources", None), "engine_manager", None)
    engines = [psutil.Process(process.pid) for process in getattr(manager, "processes", ())]
    return [process.pid for engine in engines for process in (engine, *engine.children(recursive=True))]


def _watch(resources: Any, queue: Any, stopped: threading.Event) -> None:
    """Wake up whoever waits for outputs of an engine whose process was killed: vLLM's own client waits for ever."""
    while not stopped.wait(WATCH_SECONDS):
        if resources.engine_dead:
            queue.put_nowait(EngineDeadError())
            return


@contextmanager
def quiet_start() -> Iterator[IO[str]]:
    """Send what this process and those it starts write meanwhile to a file, to be read if the engine does not start.

    The engine's processes keep writing there. With STEPGAME_DEBUG everything goes where it always goes.

    Yields:
        The file.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        if os.environ.get("STEPGAME_DEBUG"):
            yield log
            return
        sys.stdout.flush()
        sys.stderr.flush()
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        try:
            for descriptor in kept:
                os.dup2(log.fileno(), descriptor)
            yield log
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in kept.items():
                os.dup2(copy, descriptor)
                os.close(copy)


def start_error(log: IO[str]) -> str | None:
    """Return the first error that an engine's processes wrote while it started; None if they wrote none."""
    log.seek(0)
    found = _ERROR.search(log.read())
    return None if found is None else found["reason"].strip()


def sampling_params(**settings: Any) -> SamplingParams:
    """Build vLLM's sampling parameters.

    Raises:
        InputError: if vLLM does not take them.
    """
    try:
        return SamplingParams(**settings)
    except (ValueError, VLLMValidationError) as error:
        raise InputError(f"vLLM does not take this sampling: {error}") from None
