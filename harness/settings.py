"""The settings of a run: one list that the command line, Python and the documentation share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from harness.flags import flag, key_values
from harness.provenance import is_secret
from harness.tasks.catalogue import load_task_specs
from stepgame.errors import InputError, unknown_name

__all__ = ["STORY_SETTINGS", "RunSettings", "Settings"]

STORY_SETTINGS = (
    "hops",
    "per_hop",
    "noise",
    "protocol",
    "bank",
    "split",
    "names",
    "noise_counts",
    "balance",
    "phrases",
    "unique",
)
"""Settings that make stories, which a file of stories leaves no room for."""


_MODEL, _STORIES, _PROMPT, _SAMPLING, _RUN = "Model", "What is asked", "Prompt and scoring", "Sampling", "Run"
_CLUSTER = "Cluster"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that may be said about a run; each field's metadata says what it means, under ``help``.

    None stands for "not given": what applies then is decided by the task, the prompt or the backend.
    """

    model: str = field(
        metadata=flag(
            _MODEL,
            "smollm2, oracle, random, majority, a folder, or ORG/NAME on the hub; the last two with @REVISION. "
            "openai:MODEL for a server's.",
            str,
        )
    )
    backend: str | None = field(
        default=None, metadata=flag(_MODEL, "Engine: hf, vllm or openai. [default: hf]", str | None)
    )
    adapter: str | Path | None = field(
        default=None,
        metadata=flag(
            _MODEL, "Folder of what was trained on top of the model (stepgame train), or PEFT's.", Path | None
        ),
    )
    dtype: str = field(
        default="auto",
        metadata=flag(_MODEL, "auto (float32 on CPU, bfloat16 on CUDA), float32, bfloat16, float16.", str),
    )
    device: str = field(default="auto", metadata=flag(_MODEL, "auto, cpu, cuda, cuda:N.", str))
    batch_tokens: int | None = field(
        default=None, metadata=flag(_MODEL, "Bound on a batch's padded tokens. [default: the backend's]", int | None)
    )
    model_args: Mapping[str, str] | Sequence[str] = field(
        default=(),
        metadata=flag(
            _MODEL,
            "KEY=VALUE for the backend, such as an argument of vLLM's engine; may be repeated.",
            list[str] | None,
            "--model-arg",
            variable="STEPGAME_MODEL_ARG",
        ),
    )
    base_url: str | None = field(
        default=None, metadata=flag(_MODEL, "Address of an OpenAI-compatible server.", str | None)
    )
    api: str | None = field(
        default=None, metadata=flag(_MODEL, "How a server is asked: chat or completions. [default: chat]", str | None)
    )
    concurrency: int | None = field(
        default=None, metadata=flag(_MODEL, "Most questions a server is asked at once.", int | None)
    )
    cache: str | Path | None = field(
        default=None,
        metadata=flag(
            _MODEL,
            "File that keeps answers, so that no model is asked the same twice.",
            Path | None,
            # STEPGAME_CACHE is the folder of things that can be made again; see `harness.models.builtin.cache_root`.
            variable="STEPGAME_RESPONSE_CACHE",
        ),
    )
    task: str = field(
        default="stepgame",
        metadata=flag(
            _STORIES,
            "stepgame, a name that `stepgame tasks` lists, an installed task, or a JSONL file of questions.",
            str,
        ),
    )
    limit: int | None = field(
        default=None, metadata=flag(_STORIES, "At most so many questions of a task that has a set of them.", int | None)
    )
    hops: int | str | Iterable[int] | None = field(
        default=None, metadata=flag(_STORIES, "Chain lengths: 3, 1-10, 1-3,7. [default: 1-10]", str | None)
    )
    per_hop: int | None = field(
        default=None, metadata=flag(_STORIES, "Stories of each length. [default: 100]", int | None)
    )
    noise: bool | None = field(
        default=None,
        metadata=flag(
            _STORIES, "With distracting sentences or without. [default: clean]", bool | None, "--noise/--clean"
        ),
    )
    protocol: str | None = field(
        default=None, metadata=flag(_STORIES, "official or exact. [default: official]", str | None)
    )
    bank: str | None = field(
        default=None, metadata=flag(_STORIES, "Phrase bank: name or TOML file. [default: core]", str | None)
    )
    split: str | None = field(
        default=None, metadata=flag(_STORIES, "train, validation or test. [default: test]", str | None)
    )
    names: str | None = field(
        default=None,
        metadata=flag(
            _STORIES, "Agents' names: letters, words, or a file with one a line. [default: letters]", str | None
        ),
    )
    noise_counts: str | None = field(
        default=None,
        metadata=flag(_STORIES, "disconnected=2,irrelevant=0-3,supporting=1 for the published numbers.", str | None),
    )
    balance: bool | None = field(
        default=None, metadata=flag(_STORIES, "Every label equally often (protocol exact).", bool | None, "--balance")
    )
    phrases: str | None = field(
        default=None, metadata=flag(_STORIES, "The bank's phrases: train, heldout or all. [default: all]", str | None)
    )
    unique: bool | None = field(
        default=None, metadata=flag(_STORIES, "Leave out stories alike to others.", bool | None, "--unique")
    )
    data: str | Path | Sequence[str | Path] | None = field(
        default=None,
        metadata=flag(_STORIES, "Ask the stories of a file, or a task's folder; may be repeated.", list[Path] | None),
    )
    seed: int = field(
        default=0, metadata=flag(_STORIES, "Of the stories, of examples, of sampling and of random models.", int)
    )
    prompt: str | None = field(
        default=None,
        metadata=flag(
            _PROMPT,
            "zero-shot, few-shot, cot, coordinates, neuro-symbolic, question, or a TOML file. [default: the task's]",
            str | None,
        ),
    )
    shots: int | None = field(
        default=None, metadata=flag(_PROMPT, "Examples before each question. [default: the prompt's]", int | None)
    )
    shots_mix: str | None = field(
        default=None,
        metadata=flag(
            _PROMPT, "k of the examples: same (as the question's), or 1-5. [default: the prompt's]", str | None
        ),
    )
    few_shot_data: str | Path | None = field(
        default=None, metadata=flag(_PROMPT, "File to take examples from, instead of the training split.", Path | None)
    )
    score: str = field(
        default="choice",
        metadata=flag(_PROMPT, "choice (compare the options' log-likelihoods) or generate (read a text).", str),
    )
    max_tokens: int | None = field(
        default=None,
        metadata=flag(_SAMPLING, "Longest generated text, in tokens. [default: the prompt's, else 64]", int | None),
    )
    temperature: float = field(default=0.0, metadata=flag(_SAMPLING, "0 is greedy.", float))
    top_p: float = field(default=1.0, metadata=flag(_SAMPLING, "Nucleus mass when temperature is above 0.", float))
    samples: int = field(
        default=1,
        metadata=flag(
            _SAMPLING, "Texts for each question; the answer is what most of them say (self-consistency).", int
        ),
    )
    engine: str = field(
        default="local", metadata=flag(_CLUSTER, "local, ray (RAY_ADDRESS, or this machine), or ray://HOST:PORT.", str)
    )
    replicas: int | None = field(
        default=None, metadata=flag(_CLUSTER, "Copies of the model on the cluster. [default: 1]", int | None)
    )
    gpus_per_replica: float | None = field(
        default=None, metadata=flag(_CLUSTER, "GPUs of each; a share of one is allowed. [default: 0]", float | None)
    )
    out: str | Path | None = field(default=None, metadata=flag(_RUN, "Run folder to write.", Path | None))
    overwrite: bool = field(
        default=False, metadata=flag(_RUN, "Put this run in the place of the one there.", bool, "--overwrite")
    )
    resume: bool = field(default=False, metadata=flag(_RUN, "Go on with the run there.", bool, "--resume"))
    max_errors: int | None = field(
        default=None,
        metadata=flag(_RUN, "Stop when more questions than this got no answer. [default: ask all]", int | None),
    )

    def __post_init__(self) -> None:
        for name, least in (
            ("samples", 1),
            ("limit", 1),
            ("replicas", 1),
            ("gpus_per_replica", 0),
            ("shots", 0),
            ("max_tokens", 1),
            ("max_errors", 0),
            ("concurrency", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"--temperature must be 0 (greedy) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p must be above 0 and at most 1, got {self.top_p}")
        if self.overwrite and self.resume:
            raise InputError("--overwrite and --resume exclude each other; give one")

    @classmethod
    def of(cls, **given: Any) -> RunSettings:
        """Build settings from keywords.

        Raises:
            InputError: if there is no such setting, or a value is out of range.
        """
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise unknown_name("setting", name, known)
        return cls(**given)

    @classmethod
    def flags(cls) -> list[Field[Any]]:
        """Return the fields, for the command line to offer."""
        return list(fields(cls))

    @property
    def backend_args(self) -> dict[str, str]:
        """What goes to the backend as it is, its own flags included.

        Raises:
            InputError: if one is no ``KEY=VALUE``, is given twice, or would put a secret on record.
        """
        given: list[tuple[str, str]] = []
        if isinstance(self.model_args, Mapping):
            given += [(key, str(value)) for key, value in self.model_args.items()]
        else:
            given += key_values("--model-arg", self.model_args or ())
        own = {"base_url": self.base_url, "api": self.api, "concurrency": self.concurrency}
        given += [(key, str(value)) for key, value in own.items() if value is not None]
        args: dict[str, str] = {}
        for key, value in given:
            if is_secret(key):
                raise InputError(
                    f"the backend's setting {key!r} looks like a secret, and settings are recorded; "
                    "give it by the environment instead, such as OPENAI_API_KEY or HF_TOKEN"
                )
            if key in args:
                raise InputError(f"the backend's setting {key!r} is given twice; keep one")
            args[key] = value
        return args

    @property
    def stories(self) -> dict[str, Any]:
        """The story settings that were given.

        Raises:
            InputError: if there is data to ask as well.
        """
        given = {name: getattr(self, name) for name in STORY_SETTINGS if getattr(self, name) is not None}
        if self.data and given and self.task not in load_task_specs():
            flag = next(iter(given)).replace("_", "-")
            raise InputError(f"--data and --{flag} exclude each other: a file's stories are asked as they are")
        return given

    @property
    def files(self) -> list[str]:
        """The files to ask, as a list."""
        if self.data is None:
            return []
        return [str(each) for each in ([self.data] if isinstance(self.data, str | Path) else self.data)]


class Settings(TypedDict, total=False):
    """The fields of `RunSettings` that `harness.evaluate` takes by keyword next to model, task and out."""

    backend: str | None
    adapter: str | Path | None
    dtype: str
    device: str
    batch_tokens: int | None
    model_args: Mapping[str, str] | Sequence[str]
    base_url: str | None
    api: str | None
    concurrency: int | None
    cache: str | Path | None
    limit: int | None
    hops: int | str | Iterable[int] | None
    per_hop: int | None
    noise: bool | None
    protocol: str | None
    bank: str | None
    split: str | None
    names: str | None
    noise_counts: str | None
    balance: bool | None
    phrases: str | None
    unique: bool | None
    data: str | Path | Sequence[str | Path] | None
    seed: int
    prompt: str | None
    shots: int | None
    shots_mix: str | None
    few_shot_data: str | Path | None
    score: str
    max_tokens: int | None
    temperature: float
    top_p: float
    samples: int
    engine: str
    replicas: int | None
    gpus_per_replica: float | None
    overwrite: bool
    resume: bool
    max_errors: int | None
