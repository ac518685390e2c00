"""The plan of a run: everything that defines it, checked, with no model loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stepgame
from harness.asking import Replicas
from harness.facts import FACTS_EXTRACTION, read_facts
from harness.models.adapters import TRAINING_RECORD
from harness.models.base import Identity, ModelRequest, Sampling, Verb
from harness.models.builtin import BUILTIN
from harness.models.registry import ADAPTED, ENGINES, parse_model, require_verb
from harness.progress import say
from harness.prompts import PromptTemplate, Score, load_prompt
from harness.prompts.shots import Shots, draw_shots, shots_of
from harness.prompts.working import can_be_worked
from harness.provenance import git_state, hardware, versions
from harness.record import FORMAT, MANIFEST, read_json
from harness.settings import RunSettings
from harness.task import Example, Extraction, Task
from harness.tasks import FILE_TASKS, TASKS, known_tasks, make_task, task_of_file
from stepgame.engines import is_engine
from stepgame.errors import InputError

__all__ = [
    "Plan",
    "check_same",
    "freeze",
    "make_plan",
    "manifest_of",
    "plan_of",
    "request_of",
    "training_record",
    "warn_of_versions",
]

DEFAULT_MAX_TOKENS = 64
"""Longest text where neither the user nor the prompt says; the form asked for takes about eight."""

VERB: dict[Score, Verb] = {"choice": "choose", "generate": "generate"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that defines a run, checked, with nothing loaded.

    Attributes:
        request: which model.
        task: what is asked.
        prompt: in what words, examples included.
        score: by option log-likelihoods or by generated text.
        sampling: how text is drawn; None for option scoring.
        seed: of everything random.
        command: the command line, for the record.
        cache: file of earlier answers; None for none.
        max_errors: how many errors are borne; None for any number. Not part of what defines the answers.
        replicas: the copies of the model on a cluster that are asked; None for one here.
    """

    request: ModelRequest
    task: Task
    prompt: PromptTemplate
    score: Score
    sampling: Sampling | None
    seed: int
    command: tuple[str, ...]
    cache: Path | None = None
    max_errors: int | None = None
    replicas: Replicas | None = None

    @property
    def read(self) -> Callable[[str, Example], Extraction]:
        """How a reply is read."""
        return read_facts if self.prompt.reads == "facts" else self.task.extract

    @property
    def extraction(self) -> str | None:
        """Name and version of that rule; None for option scoring."""
        if self.score == "choice":
            return None
        return FACTS_EXTRACTION if self.prompt.reads == "facts" else self.task.extraction

    def record(self) -> dict[str, Any]:
        """Return what the manifest holds of the plan."""
        record: dict[str, Any] = {
            "model": {"spec": self.request.spec, "backend": self.request.backend},
            "adapter": None if self.request.adapter is None else _plain(self.request.adapter.record()),
            "task": {
                "name": self.task.name,
                "params": dict(self.task.parameters),
                "data_sha256": self.task.data_sha256,
                "generator_version": self.task.generator_version,
                "n": len(self.task.examples),
            },
            "prompt": {**self.prompt.record(), "text": self.prompt.text},
            "score": self.score,
            "sampling": None if self.sampling is None else _plain(asdict(self.sampling)),
            "extraction": self.extraction,
            "seed": self.seed,
        }
        # Only where there are some, so that runs without them keep the manifest they always had.
        if self.prompt.shots is not None:
            record["prompt"]["shots"] = self.prompt.shots.record()
        if self.cache is not None:
            record["cache"] = str(self.cache)
        if self.replicas is not None:
            record["replicas"] = asdict(self.replicas)
        return record


def request_of(settings: RunSettings) -> ModelRequest:
    """Return the model that settings name.

    Raises:
        InputError: if there is none of that name, or it does not take what is asked of it.
    """
    return parse_model(
        settings.model,
        backend=settings.backend,
        adapter=settings.adapter,
        dtype=settings.dtype,
        device=settings.device,
        batch_tokens=settings.batch_tokens,
        seed=settings.seed,
        args=settings.backend_args,
    )


def training_record(request: ModelRequest) -> dict[str, Any] | None:
    """Return the record of how what a request names was trained: its adapter, or a folder that is the model itself.

    It decides no answer.

    Returns:
        Its manifest, with what came out under ``result``; None where there is none, or where an engine has no folders.

    Raises:
        InputError: if it cannot be read.
    """
    if request.backend not in ADAPTED or (request.adapter is None and request.target == BUILTIN):
        return None
    folder = Path(request.target) if request.adapter is None else request.adapter.folder
    path, result = (folder / name for name in TRAINING_RECORD)
    if not path.is_file():
        return None
    return read_json(path) | ({"result": read_json(result)} if result.is_file() else {})


def make_plan(settings: RunSettings, task: Task | None, command: Sequence[str]) -> Plan:
    """Check settings and turn them into a plan.

    Args:
        settings: what was asked for.
        task: a task, if it is given as an object; else the settings name it.
        command: the command line, for the record.

    Raises:
        InputError: if anything about the request is wrong.
    """
    request = request_of(settings)
    template = None if settings.prompt is None else load_prompt(settings.prompt, settings.score)
    made = _make_task(settings) if task is None else task
    template = template or load_prompt(made.prompt, settings.score)
    request = replace(request, verb=VERB[template.score])
    require_verb(request, VERB[template.score])
    sampling = _sampling(settings, template)
    template = replace(template, shots=_shots(settings, template, made))
    cache = None if settings.cache is None else Path(settings.cache).absolute()
    return Plan(
        request,
        made,
        template,
        template.score,
        sampling,
        settings.seed,
        tuple(command),
        cache,
        settings.max_errors,
        _replicas(settings, request),
    )


def plan_of(manifest: Mapping[str, Any], *, to_ask: bool = True) -> Plan:
    """Rebuild the plan of a run from its manifest.

    Args:
        manifest: of the run.
        to_ask: whether the model is to be asked again; else it and its adapter may be gone, and nothing is looked for.

    Raises:
        InputError: if the manifest is incomplete, or what it names is no longer there.
    """
    try:
        model, task, prompt = manifest["model"], manifest["task"], manifest["prompt"]
        sampling = manifest["sampling"]
        if sampling is not None:
            sampling = Sampling(**{**sampling, "stop": tuple(sampling["stop"])})
        request = _request_again(manifest) if to_ask else ModelRequest(model["spec"], model["backend"], model["spec"])
        # The text that was frozen, not what a newer version may have under the same name.
        template = PromptTemplate(prompt["name"], prompt["version"], manifest["score"], **prompt["text"])
        if "shots" in prompt:
            template = replace(template, shots=shots_of(prompt["shots"]))
        name, parameters, command = task["name"], task["params"], tuple(manifest["command"])
        cache = Path(manifest["cache"]) if "cache" in manifest else None
        replicas = Replicas(**manifest["replicas"]) if "replicas" in manifest else None
    except (KeyError, TypeError) as error:
        raise InputError(f"the run's {MANIFEST} is incomplete or was changed by hand: {error}") from None
    made = make_task(name, parameters)
    return Plan(request, made, template, manifest["score"], sampling, manifest["seed"], command, cache, None, replicas)


def _request_again(manifest: Mapping[str, Any]) -> ModelRequest:
    model = manifest["model"]
    return parse_model(
        model["spec"],
        backend=model["backend"] if model["backend"] in ENGINES else None,
        dtype=model["dtype"] or "auto",
        device=model["device"] or "auto",
        batch_tokens=model["request"]["batch_tokens"],
        seed=manifest["seed"],
        args=model["request"]["args"],
        adapter=None if manifest["adapter"] is None else manifest["adapter"]["path"],
    )


def manifest_of(plan: Plan, identity: Identity) -> dict[str, Any]:
    """Return the manifest of a run whose model is loaded."""
    return freeze(plan.record(), plan.request, identity, plan.command)


def freeze(record: dict[str, Any], asked: ModelRequest, identity: Identity, command: Sequence[str]) -> dict[str, Any]:
    """Return a manifest: what defines a run, with the loaded model's identity and where it is made.

    Args:
        record: what is asked of which model, as `Plan.record` has it.
        asked: the model that was asked for.
        identity: the one that is loaded.
        command: the command line.
    """
    record["model"] |= {
        "revision": identity.revision,
        "content_hash": identity.content_hash,
        "dtype": identity.dtype,
        "device": identity.device,
        "args": _plain(dict(identity.args)),
        "request": {
            "revision": asked.revision,
            "batch_tokens": asked.batch_tokens,
            "args": dict(asked.args),
        },
    }
    return {
        "format": FORMAT,
        "stepgame_version": stepgame.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        **record,
        "versions": versions(),
        "hardware": hardware(identity.gpu),
        "git": git_state(),
    }


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], fields: Mapping[str, str], folder: Path) -> None:
    """Check that two manifests agree on some fields.

    Args:
        old: of the run as it was started.
        new: of what would go on with it.
        fields: dotted paths, and how a message names them.
        folder: of the run, for the message.

    Raises:
        InputError: naming the first field that differs and both values.
    """
    for path, name in fields.items():
        was, now = _dig(old, path), _dig(new, path)
        if was != now:
            raise InputError(
                f"{folder}: {name} is no longer what the run was started with ({path} was {_short(was)}, "
                f"is {_short(now)}); answers to both do not belong in one run, so start a new one"
            )


def warn_of_versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Say which libraries changed since a run was started."""
    before, after = old.get("versions", {}), new["versions"]
    changed = [
        f"{name} {before[name]} -> {after[name]}" for name in before if name in after and after[name] != before[name]
    ]
    if changed:
        say(f"warning: versions changed since the run was started: {', '.join(changed)}")


def _replicas(settings: RunSettings, request: ModelRequest) -> Replicas | None:
    if settings.engine == "local":
        for flag, value in (("--replicas", settings.replicas), ("--gpus-per-replica", settings.gpus_per_replica)):
            if value is not None:
                raise InputError(f"{flag} is for a cluster; add --engine ray, or leave it out")
        return None
    if not is_engine(settings.engine):
        raise InputError(f"unknown engine {settings.engine!r}; expected local, ray or ray://HOST:PORT")
    if request.backend not in ADAPTED:
        raise InputError(f"--engine {settings.engine} is for models that run weights; use --backend hf or vllm")
    if settings.cache is not None:
        raise InputError("--cache is a file of this machine, which replicas elsewhere cannot use; leave it out")
    return Replicas(settings.engine, settings.replicas or 1, settings.gpus_per_replica or 0.0)


def _make_task(settings: RunSettings) -> Task:
    name, files, stories = settings.task, settings.files, settings.stories
    if name not in known_tasks():
        found = task_of_file(name)
        if found is not None:
            if files:
                raise InputError(f"--task {name} and --data both name what to ask; give one")
            name, files = found, [name]
    if name == "stepgame":
        if settings.limit is not None:
            raise InputError(
                "--limit is for tasks that have a set of questions; stories are made, --per-hop says how many"
            )
        return make_task(name, {"file": files} if files else {**stories, "seed": settings.seed})
    if name in FILE_TASKS:
        if stories:
            flag = next(iter(stories)).replace("_", "-")
            raise InputError(f"--{flag} makes stories, and task {name!r} asks those of a file; leave it out")
        if not files:
            raise InputError(f"task {name!r} asks the questions of a file; give it by --data FILE")
    # An installed task gets what was given, and says itself what it takes.
    own = {"seed": settings.seed if name not in TASKS else 0, "limit": settings.limit}
    given = {**stories, **{key: value for key, value in own.items() if value}}
    return make_task(name, given | ({"file": files} if files else {}))


def _shots(settings: RunSettings, template: PromptTemplate, task: Task) -> Shots | None:
    count = template.default_shots if settings.shots is None else settings.shots
    mix = template.default_mix if settings.shots_mix is None else settings.shots_mix
    if count == 0:
        unused = {"--shots-mix": settings.shots_mix, "--few-shot-data": settings.few_shot_data}
        for flag, value in unused.items():
            if value is not None:
                raise InputError(f"{flag} is for examples, and prompt {template.name!r} shows none; add --shots N")
        return None
    if not template.assistant:
        raise InputError(
            f"prompt {template.name!r} takes no examples for --score {template.score}; use --prompt few-shot or cot, "
            f"or give your own file an `assistant` text in [{template.score}]"
        )
    fits = can_be_worked if template.needs_working else None
    if settings.few_shot_data is None:
        return draw_shots(task.examples, count, mix, settings.seed, task.training, fits=fits)
    source = str(settings.few_shot_data)
    held = make_task(task.name, {"file": [source]}).examples
    return draw_shots(
        task.examples,
        count,
        mix,
        settings.seed,
        lambda _, ks: [each for each in held if each.k_hop in ks],
        source=source,
        fits=fits,
    )


def _sampling(settings: RunSettings, template: PromptTemplate) -> Sampling | None:
    if template.score == "choice":
        if settings.samples > 1:
            raise InputError("--samples draws several texts, which --score choice has none of; use --score generate")
        return None
    if settings.samples > 1 and settings.temperature == 0:
        raise InputError(
            f"--samples {settings.samples} would be that many copies of one text at --temperature 0; "
            "give a temperature above 0, such as 0.7"
        )
    return Sampling(
        max_tokens=settings.max_tokens or template.max_tokens or DEFAULT_MAX_TOKENS,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        stop=template.stop,
        n=settings.samples,
    )


def _dig(record: Mapping[str, Any], path: str) -> Any:
    value: Any = record
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as JSON would read it back: lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return plain
