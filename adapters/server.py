"""vLLM's own OpenAI server, in which every adapter is a model.

Nothing of vLLM is replaced but the engine's client, by a subclass of two methods. The server is given all adapters as
LoRA modules, so that vLLM's own code lists them, finds them by their names and answers 404 to others. What reaches the
engine is decided here: a request to a soft prompt is turned into one with embeddings for a prompt, and one to a LoRA
adapter goes on as it is. They run in the same batches, since to the engine a soft prompt's request is any other.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import threading
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from typing import Any, NamedTuple

# First: it says what is missing, and sets what vLLM reads when it is imported.
from harness.models.vllm import EngineArguments, engine_arguments, start_errors  # isort: skip

import uvloop
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.inputs import EngineInput, embeds_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from adapters.serving import ServePlan, ServeSettings, plan_serving
from harness.models.adapters import model_source
from harness.models.builtin import checkpoint_hash
from harness.models.vllm_adapters import EmbeddedPrompts, EmbeddingProbe, token_table
from harness.models.vllm_engine import engine_processes, quiet_start
from harness.models.vllm_guard import dismiss, guard
from harness.progress import say
from stepgame.cli import INTERRUPTED
from stepgame.errors import InputError, StepGameError

try:
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath
except ImportError as error:
    raise InputError(f"stepgame serve needs the parts of vLLM 0.32's server; the installed vLLM: {error}") from None

__all__ = ["AdapterEngine", "run_server"]

# By name: it ships no types.
psutil: Any = importlib.import_module("psutil")

_PATIENCE = 5.0


class AdapterEngine(AsyncLLM):
    """An engine's client that applies soft prompts; made by vLLM's own ``from_vllm_config``."""

    _soft: Mapping[str, EmbeddedPrompts] = {}
    stopped = False
    """Whether it was told to stop; an engine that died was not."""

    def apply(self, soft: Mapping[str, EmbeddedPrompts]) -> None:
        """Take over soft prompts, each by the path that its requests' ``lora_request`` has."""
        self._soft = soft
        self._said: set[str] = set()
        # One thread: what it calls is not made for several, and torch uses all cores by itself.
        self._embedder = ThreadPoolExecutor(1, "embed")
        # The engine's own copy of the configuration has been made. With this one the server refuses embeddings that
        # come in requests: some would stop the engine, for instance those of another width.
        self.model_config.enable_prompt_embeds = False

    def shutdown(self, timeout: float | None = None) -> None:
        """Stop the engine's processes; see vLLM's own method."""
        self.stopped = True
        super().shutdown(timeout)

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Load a LoRA adapter into the engine; a soft prompt is there already."""
        if lora_request.lora_path in self._soft:
            return True
        return bool(await super().add_lora(lora_request))

    def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
        **more: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answer one request; see vLLM's own method.

        Raises:
            VLLMValidationError: if a soft prompt cannot answer it; at once, so that a stream is never begun.
        """
        soft = None if lora_request is None else self._soft.get(lora_request.lora_path)
        if lora_request is None or soft is None:
            found: AsyncGenerator[RequestOutput, None] = super().generate(
                prompt, sampling_params, request_id, lora_request=lora_request, **more
            )
            return found
        name = lora_request.lora_name
        _refuse(name, prompt, sampling_params, request_id)
        room = self.model_config.max_model_len - soft.rows - len(prompt["prompt_token_ids"])
        if room < 1:
            raise VLLMValidationError(
                f"This model's maximum context length is {self.model_config.max_model_len} tokens, of which the soft "
                f"prompt of {name!r} takes {soft.rows}. However, your prompt contains "
                f"{len(prompt['prompt_token_ids'])} input tokens, which leaves no room for output tokens. Please "
                "reduce the length of the input prompt.",
                parameter="input_tokens",
                value=len(prompt["prompt_token_ids"]),
            )
        params = sampling_params.clone()
        # The server has left room for the prompt, and knows nothing of the soft prompt's rows.
        params.max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        self._say_beyond_reach(name, soft, len(prompt["prompt_token_ids"]))
        return self._generate_behind(soft, prompt, params, request_id, more)

    async def _generate_behind(
        self, soft: EmbeddedPrompts, prompt: Any, params: SamplingParams, request_id: str, more: Mapping[str, Any]
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answer a request behind a soft prompt; what the server sees of the prompt is what the user sent."""
        ids: list[int] = prompt["prompt_token_ids"]
        loop = asyncio.get_running_loop()
        embedded = await loop.run_in_executor(self._embedder, soft.embed, ids)
        given: EngineInput = embeds_input(
            embedded,
            prompt=prompt.get("prompt"),
            cache_salt=prompt.get("cache_salt"),
            # Beside the embeddings, so that penalties on repeated tokens count the prompt's (in vLLM's first model
            # runner; its second keeps zeros in their place). The rows are given a token that is counted anyway.
            prompt_token_ids=[ids[0]] * soft.rows + ids,
            is_token_ids=[False] * len(embedded),
        )
        async with aclosing(super().generate(given, params, request_id, **more)) as outputs:
            async for output in outputs:
                if output.prompt_token_ids is not None:
                    output.prompt_token_ids = ids
                if output.num_cached_tokens:
                    output.num_cached_tokens = max(0, output.num_cached_tokens - soft.rows)
                yield output

    def _say_beyond_reach(self, name: str, soft: EmbeddedPrompts, length: int) -> None:
        if soft.reach is not None and length > soft.reach and name not in self._said:
            self._said.add(name)
            say(
                f"model {name!r} was sent a prompt of {length} tokens, more than the {soft.reach} that it has offsets "
                "for; the tokens after those get none (this is said once)"
            )


def _refuse(name: str, prompt: Any, params: SamplingParams, request_id: str) -> None:
    """Refuse what would mean something else behind a soft prompt than it says.

    Raises:
        VLLMValidationError: if it would.
    """
    if not isinstance(prompt, Mapping) or prompt.get("type") != "token":
        raise VLLMValidationError(f"Model {name!r} is a soft prompt, which takes prompts of text or of tokens only.")
    if not prompt["prompt_token_ids"]:
        raise VLLMValidationError("The prompt is empty.", parameter="prompt")
    if params.prompt_logprobs is not None or getattr(params, "prompt_logprob_token_ids", None) is not None:
        # A prompt's tokens have offsets and an answer's have none, and nothing says where an answer begins in it.
        raise VLLMValidationError(
            f"Model {name!r} is a soft prompt, which gives log-probabilities of output tokens, and none of the "
            "prompt's (echo with logprobs, or prompt_logprobs).",
            parameter="prompt_logprobs",
        )
    if "-beam-" in request_id:
        # vLLM's beam search sends what it has generated as part of the next prompts, which would get offsets.
        raise VLLMValidationError(
            f"Model {name!r} is a soft prompt, which takes no beam search.", parameter="use_beam_search"
        )


class _Loaded(NamedTuple):
    """What soft prompts need before the engine starts.

    Attributes:
        soft: by path.
        probe: to ask the started engine; None without soft prompts.
    """

    soft: dict[str, EmbeddedPrompts]
    probe: EmbeddingProbe | None


def run_server(settings: ServeSettings) -> None:
    """Serve a model and its adapters until the process is told to stop (Ctrl-C or SIGTERM).

    Raises:
        InputError: if anything about the request is wrong, or the engine does not start.
    """
    plan = plan_serving(settings)
    request = plan.request
    source, digest = model_source(request)
    for adapter in plan.loaded:
        if digest is not None:
            adapter.check_base(digest, request.spec)
    start = engine_arguments(request, source, plan.loaded)
    loaded = _load_soft_prompts(plan, source, start.settings["dtype"])
    args = _server_arguments(settings, plan, start)
    sock = _listen(args)
    stop = _Stop()
    try:
        with start_errors(request.spec):
            config = AsyncEngineArgs.from_cli_args(args).create_engine_config(UsageContext.OPENAI_API_SERVER)
            # Before there is an event loop: a loop would hold Ctrl-C back until the weights are loaded.
            with stop.starting():
                engine: Any = AdapterEngine.from_vllm_config(config, usage_context=UsageContext.OPENAI_API_SERVER)
        guardian = guard(engine_processes(engine.engine_core))
        try:
            stop.check()
            if digest is None:
                found = checkpoint_hash(source, request.revision)
                for adapter in plan.loaded:
                    adapter.check_base(found, request.spec)
            uvloop.run(_serve(engine, loaded, args, sock, [plan.name, *plan.adapters]))
        finally:
            engine.shutdown()
            dismiss(guardian)
    finally:
        sock.close()


def _load_soft_prompts(plan: ServePlan, source: str, dtype: str) -> _Loaded:
    """Load the soft prompts of a plan, and the token embeddings that they share.

    Raises:
        InputError: if one does not fit the model.
    """
    wanted = [adapter for adapter in plan.adapters.values() if adapter.kind == "soft-prompt"]
    if not wanted:
        return _Loaded({}, None)
    table = token_table(source, plan.request.revision)
    # None is kept: a server's prompts seldom come again, and may be long.
    soft = {str(adapter.folder): EmbeddedPrompts.load(adapter, table, dtype, kept=0) for adapter in wanted}
    return _Loaded(soft, EmbeddingProbe(table, dtype, len(table)))


def _server_arguments(settings: ServeSettings, plan: ServePlan, start: EngineArguments) -> Namespace:
    """Return the arguments of vLLM's server: its own defaults, and what differs from them."""
    flexible: Any = FlexibleArgumentParser
    args: Namespace = make_arg_parser(flexible()).parse_args([])
    debug = bool(os.environ.get("STEPGAME_DEBUG"))
    vars(args).update(
        start.settings,
        host=settings.host,
        port=settings.port,
        served_model_name=[plan.name],
        lora_modules=[LoRAModulePath(name, str(adapter.folder), plan.name) for name, adapter in plan.adapters.items()]
        or None,
        uvicorn_log_level="info" if debug else "warning",
    )
    return args


def _listen(args: Namespace) -> socket.socket:
    """Take the port, before minutes are spent on the weights.

    Raises:
        InputError: if it is not to be had.
    """
    try:
        # Quietly: it warns of limits of the system that a server of this size does not reach.
        with quiet_start():
            _, sock = setup_server(args, reuse_port=False)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {args.host}:{args.port}: {reason}; give another --host or --port") from None
    found: socket.socket = sock
    return found


async def _serve(
    engine: AdapterEngine, loaded: _Loaded, args: Namespace, sock: socket.socket, names: Sequence[str]
) -> None:
    if loaded.probe is not None:
        loaded.probe.judge(await asyncio.gather(*(_last(engine, loaded.probe, each) for each in loaded.probe.prompts)))
    engine.apply(loaded.soft)
    host, port = sock.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    announcement = asyncio.create_task(_announce(host, port, f"serving {', '.join(names)} at {address}/v1"))
    try:
        # The engine stops first and answers nobody any more; without a limit, requests in flight would be waited for.
        shutdown = await build_and_serve(engine, address, sock, args, timeout_graceful_shutdown=1)
    except ValueError as error:
        raise InputError(f"vLLM cannot serve this: {str(error).strip().splitlines()[0]}") from None
    finally:
        announcement.cancel()
    await shutdown
    if not engine.stopped:
        raise StepGameError(
            "the vLLM engine died; with STEPGAME_DEBUG=1 it says why, and short memory is the usual reason"
        )


async def _last(engine: AdapterEngine, probe: EmbeddingProbe, prompt: Mapping[str, Any]) -> Any:
    output = None
    async for output in engine.generate(prompt, probe.params, f"probe-{min(prompt)}"):  # noqa: B007
        pass
    return output


async def _announce(host: str, port: int, line: str) -> None:
    """Say so as soon as the server answers."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        say(line)
        return


class _Stop:
    """Ends a start on Ctrl-C and SIGTERM alike, until the server has handlers of its own.

    What is raised in the middle of somebody's import, callback or poll may be swallowed there: `check` raises it again,
    and a start that has not ended by itself in `_PATIENCE` seconds is ended, its processes first.
    """

    def __init__(self) -> None:
        self._told = False
        self._seen: list[Any] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._tell)

    def check(self) -> None:
        """Stop if that was asked for.

        Raises:
            KeyboardInterrupt: if it was.
        """
        if self._told:
            raise KeyboardInterrupt("stopped before the server was ready")

    @contextmanager
    def starting(self) -> Iterator[None]:
        """See to it that an interrupted start leaves no process; vLLM looks after those of one that fails."""
        try:
            yield
        except KeyboardInterrupt:
            self._kill()
            raise

    def _tell(self, *_: object) -> None:
        if not self._told:
            self._told = True
            # Now: a terminal's Ctrl-C reaches them too, and who ends before its own children leaves them to nobody.
            self._seen = psutil.Process().children(recursive=True)
            threading.Thread(target=self._end, daemon=True).start()
        self.check()

    def _end(self) -> None:
        time.sleep(_PATIENCE)
        self._kill()
        say("error: stopped before the server was ready")
        os._exit(INTERRUPTED)

    def _kill(self) -> None:
        """Kill every process below this one, and those that were when it was told to stop."""
        for process in {*self._seen, *psutil.Process().children(recursive=True)}:
            with suppress(psutil.NoSuchProcess):
                process.kill()
