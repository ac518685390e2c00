"""The loop: ask a model every example of a task, record each answer as it comes, judge at the end.

Everything that can be wrong with a request is checked before a model is loaded, and everything that defines a run is
frozen in its manifest before the first question.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stepgame
from harness.judge import judge_choice, judge_text, rejudge, summarise
from harness.models.base import BackendError, Failure, Model, ModelRequest, Prompt, Sampling, Scores, Verb
from harness.models.registry import ENGINES, load_model, parse_model, require_verb
from harness.progress import Progress, say
from harness.prompts import PromptTemplate, Score, load_prompt
from harness.provenance import git_state, hardware, redacted, versions
from harness.record import FORMAT, MANIFEST, SAMPLES, Run, RunFolder, load_run
from harness.task import Example, Task
from harness.tasks import make_task
from stepgame.errors import InputError

__all__ = ["Plan", "evaluate", "rescore", "resume"]

VERB: dict[Score, Verb] = {"choice": "choose", "generate": "generate"}

# What must be the same for answers of two sessions to belong to one run, and how a message names it.
_SAME_BEFORE = {
    "model.backend": "the backend",
    "task.name": "the task",
    "task.data_sha256": "the data",
    "prompt.sha256": "the prompt",
    "score": "the scoring",
    "sampling": "the sampling",
    "extraction": "the extraction rule",
    "seed": "the seed",
}
_SAME_LOADED = {"model.content_hash": "the model", "model.dtype": "the dtype"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that defines a run, checked, with nothing loaded.

    Attributes:
        request: which model.
        task: what is asked.
        prompt: in what words.
        score: by option log-likelihoods or by generated text.
        sampling: how text is drawn; None for option scoring.
        seed: of everything random.
        command: the command line, for the record.
    """

    request: ModelRequest
    task: Task
    prompt: PromptTemplate
    score: Score
    sampling: Sampling | None
    seed: int
    command: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return what the manifest holds of the plan."""
        return {
            "model": {"spec": self.request.spec, "backend": self.request.backend},
            "adapter": None,
            "task": {
                "name": self.task.name,
                "params": dict(self.task.parameters),
                "data_sha256": self.task.data_sha256,
                "generator_version": self.task.generator_version,
                "n": len(self.task.examples),
            },
            "prompt": {
                "name": self.prompt.name,
                "version": self.prompt.version,
                "sha256": self.prompt.sha256,
                "text": self.prompt.text,
            },
            "score": self.score,
            "sampling": None if self.sampling is None else _plain(asdict(self.sampling)),
            "extraction": self.task.extraction if self.score == "generate" else None,
            "seed": self.seed,
        }


def evaluate(  # noqa: PLR0913  (the settings of a run, all by name)
    model: str,
    task: str | Task = "stepgame",
    *,
    out: str | Path,
    hops: int | str | Iterable[int] = range(1, 11),
    per_hop: int = 100,
    noise: bool = False,
    protocol: str = "official",
    bank: str = "core",
    split: str = "test",
    seed: int = 0,
    data: str | Path | Sequence[str | Path] | None = None,
    prompt: str = "zero-shot",
    score: str = "choice",
    backend: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    overwrite: bool = False,
    resume: bool = False,
    command: Sequence[str] | None = None,
) -> Run:
    """Ask a model every story and record the run.

    Args:
        model: a model spec; see `harness.models.registry.parse_model`.
        task: a task's name, or a task.
        out: the run folder to write.
        hops: which chain lengths to generate; see `stepgame.generate`, as for the next five.
        per_hop: stories of each chain length.
        noise: with distracting sentences.
        protocol: ``"official"`` or ``"exact"``.
        bank: phrase bank.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of the stories, of sampling and of random models.
        data: a file or files of stories to ask instead of generated ones.
        prompt: a prompt's name, or the path of a prompt file.
        score: ``"choice"`` compares the options' log-likelihoods, ``"generate"`` reads a generated text.
        backend: the engine, if the spec does not name it.
        dtype: ``"auto"`` (float32 on CPU, bfloat16 on CUDA), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        batch_tokens: bound on the padded tokens of a batch.
        max_tokens: longest generated text, in tokens.
        temperature: 0 is greedy.
        top_p: nucleus mass, in (0, 1].
        overwrite: put this run in the place of the one in ``out``.
        resume: go on with the run in ``out``, which must have been started with the same settings.
        command: what to record as the command line; the process's own when omitted.

    Returns:
        The finished run.

    Raises:
        InputError: if anything about the request is wrong; nothing has been asked or written then.
        KeyboardInterrupt: on Ctrl-C; every answer so far is kept, and the message says how to go on.
    """
    folder = Path(out)
    request = parse_model(model, backend=backend, dtype=dtype, device=device, batch_tokens=batch_tokens, seed=seed)
    template = load_prompt(prompt, score)
    require_verb(request, VERB[template.score])
    sampling = _sampling(template.score, max_tokens, temperature, top_p, seed)
    _check_folder(folder, overwrite, resume)
    if isinstance(task, str):
        parameters: dict[str, Any] = (
            {"hops": hops, "per_hop": per_hop, "noise": noise, "protocol": protocol, "bank": bank}
            | {"split": split, "seed": seed}
            if data is None
            else {"file": [str(each) for each in ([data] if isinstance(data, str | Path) else data)]}
        )
        task = make_task(task, parameters)
    words = redacted([Path(sys.argv[0]).name, *sys.argv[1:]] if command is None else command)
    plan = Plan(request, task, template, template.score, sampling, seed, tuple(words))
    with RunFolder(folder) as record:
        # Looked at again now that nobody else can change it.
        _check_folder(folder, overwrite, resume)
        return _execute(plan, record, keep=resume)


def resume(path: str | Path) -> Run:
    """Go on with an unfinished run: ask what is missing, and again what ended in an error.

    Args:
        path: the run folder.

    Returns:
        The finished run.

    Raises:
        InputError: if it is no run folder, or data, model or prompt are no longer those of the run.
    """
    frozen = load_run(path).manifest
    plan = _plan_of(frozen)
    with RunFolder(Path(path)) as record:
        return _execute(plan, record, keep=True)


def rescore(path: str | Path) -> Run:
    """Judge a run's recorded replies again by the present rules, without a model.

    Samples and results are rewritten; the manifest's ``extraction`` is the one field that follows.

    Args:
        path: the run folder.

    Returns:
        The run, judged again; still unfinished if it was.

    Raises:
        InputError: if it is no run folder, or its data can no longer be made.
    """
    frozen = load_run(path).manifest
    plan = _plan_of(frozen)
    _check_same(frozen, plan.record(), {"task.data_sha256": "the data"}, Path(path))
    examples = {example.id: example for example in plan.task.examples}
    with RunFolder(Path(path)) as record:
        was_finished = load_run(path).results is not None
        seconds = record.seconds()
        lines = [rejudge(line, examples[line["id"]], plan.task) for line in record.recorded()]
        # A replaced line's time is part of the run's, and only one line a sample is left to hold it.
        lost = seconds - sum(line["seconds"] for line in lines)
        if lines and lost > 0:
            lines[-1]["seconds"] += lost
        record.unfinish()
        record.replace_samples(lines)
        record.write_manifest({**frozen, "extraction": plan.record()["extraction"]})
        if was_finished:
            record.finish(_results(record, plan.task.examples))
    return load_run(path)


def _execute(plan: Plan, record: RunFolder, *, keep: bool) -> Run:
    """Load the model, freeze or check the manifest, ask what is missing, write the results."""
    examples = plan.task.examples
    old = load_run(record.path).manifest if keep and (record.path / MANIFEST).exists() else None
    done: set[str] = set()
    if old is not None:
        _check_same(old, plan.record(), _SAME_BEFORE, record.path)
        done = {line["id"] for line in record.recorded() if line["error"] is None}
    missing = [example for example in examples if example.id not in done]
    if missing or old is None:
        model = load_model(plan.request, plan.task.training)
        manifest = _manifest(plan, model)
        if old is None:
            record.clear()
            record.write_manifest(manifest)
        else:
            _check_same(old, manifest, _SAME_LOADED, record.path)
            _warn_of_versions(old, manifest)
        record.unfinish()
        _ask_all(plan, model, missing, len(done), record)
    record.finish(_results(record, examples))
    return load_run(record.path)


def _ask_all(plan: Plan, model: Model, missing: Sequence[Example], done: int, record: RunFolder) -> None:
    prompts = [plan.prompt.render(example) for example in missing]
    total = done + len(missing)
    try:
        with Progress(total, done, plan.request.spec) as progress:
            for batch in model.batches(prompts):
                lines = _ask(plan, model, [prompts[index] for index in batch])
                record.append(lines)
                done += len(lines)
                errors = sum(line["error"] is not None for line in lines)
                progress.advance(len(lines), sum(line["correct"] for line in lines), errors)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; {done} of {total} answers are kept in {record.path}; "
            f"go on with: stepgame resume {record.path}"
        ) from None


def _ask(plan: Plan, model: Model, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Ask one batch and judge its replies."""
    start = time.perf_counter()
    replies: Sequence[Any]
    try:
        if plan.sampling is None:
            replies = model.choose(prompts, [prompt.example.options for prompt in prompts])
        else:
            replies = model.generate(prompts, plan.sampling)
    except BackendError as error:
        replies = [Failure(str(error))] * len(prompts)
    # A sample's time is its share of its batch.
    seconds = (time.perf_counter() - start) / len(prompts)
    pairs = zip(prompts, replies, strict=True)
    return [_line(plan, model, prompt, reply) | {"seconds": round(seconds, 6)} for prompt, reply in pairs]


def _line(plan: Plan, model: Model, prompt: Prompt, reply: Any) -> dict[str, Any]:
    example = prompt.example
    text: Any = model.render(prompt)
    if text is None:
        text = [asdict(message) for message in prompt.messages]
    line: dict[str, Any] = {
        "id": example.id,
        "k_hop": example.k_hop,
        "prompt_sha256": hashlib.sha256(json.dumps(text).encode()).hexdigest(),
        "prompt": text,
        "options": list(example.options),
        "gold": example.gold,
    }
    if isinstance(reply, Scores) and not reply.finite:
        reply = Failure("an option's log-likelihood is not a number; the model's weights or dtype overflow")
    if isinstance(reply, Failure):
        empty = dict.fromkeys(("prediction", "parse", "tokens_in", "tokens_out"))
        return line | empty | {"correct": False, "error": reply.error}
    if isinstance(reply, Scores):
        return line | judge_choice(reply, example) | {"error": None}
    return line | judge_text(reply[0], example, plan.task) | {"error": None}


def _results(record: RunFolder, examples: Sequence[Example]) -> dict[str, Any]:
    results = summarise(record.recorded(), examples)
    seconds = record.seconds()
    rate = results["answered"] / seconds if seconds > 0 else None
    return {**results, "seconds": round(seconds, 3), "examples_per_second": rate}


def _manifest(plan: Plan, model: Model) -> dict[str, Any]:
    identity = model.identity
    asked = plan.request
    record = plan.record()
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
        "command": list(plan.command),
        **record,
        "versions": versions(),
        "hardware": hardware(identity.gpu),
        "git": git_state(),
    }


def _plan_of(manifest: Mapping[str, Any]) -> Plan:
    """Rebuild the plan of a run from its manifest."""
    try:
        model, task, prompt = manifest["model"], manifest["task"], manifest["prompt"]
        sampling = manifest["sampling"]
        if sampling is not None:
            sampling = Sampling(**{**sampling, "stop": tuple(sampling["stop"])})
        request = parse_model(
            model["spec"],
            backend=model["backend"] if model["backend"] in ENGINES else None,
            dtype=model["dtype"] or "auto",
            device=model["device"] or "auto",
            batch_tokens=model["request"]["batch_tokens"],
            seed=manifest["seed"],
            args=model["request"]["args"],
        )
        # The text that was frozen, not what a newer version may have under the same name.
        template = PromptTemplate(prompt["name"], prompt["version"], manifest["score"], **prompt["text"])
        name, parameters, command = task["name"], task["params"], tuple(manifest["command"])
    except (KeyError, TypeError) as error:
        raise InputError(f"the run's {MANIFEST} is incomplete or was changed by hand: {error}") from None
    made = make_task(name, parameters)
    return Plan(request, made, template, manifest["score"], sampling, manifest["seed"], command)


def _sampling(score: Score, max_tokens: int, temperature: float, top_p: float, seed: int) -> Sampling | None:
    if score == "choice":
        return None
    if max_tokens < 1:
        raise InputError(f"--max-tokens must be at least 1, got {max_tokens}")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"--temperature must be 0 (greedy) or more, got {temperature}")
    if not 0 < top_p <= 1:
        raise InputError(f"--top-p must be above 0 and at most 1, got {top_p}")
    return Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)


def _check_folder(folder: Path, overwrite: bool, resume: bool) -> None:
    """Refuse to touch anything that was not asked for.

    Raises:
        InputError: if the folder holds a run and neither flag is given, or something other than a run.
    """
    if overwrite and resume:
        raise InputError("--overwrite and --resume exclude each other; give one")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out takes a folder")
    if not folder.is_dir():
        return
    if (folder / MANIFEST).exists():
        if not (overwrite or resume):
            raise InputError(
                f"{folder} holds a run already; go on with it by --resume, put this one in its place by --overwrite, "
                "or choose another --out"
            )
        return
    # What a process that died before its manifest may have left.
    harmless = {SAMPLES} if not _has_bytes(folder / SAMPLES) else set()
    other = sorted(entry.name for entry in folder.iterdir() if entry.name not in harmless)
    other = [name for name in other if not name.endswith(".part")]
    if other:
        raise InputError(f"{folder} exists and is no run folder (it holds {other[0]}); choose another --out")


def _has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], fields: Mapping[str, str], folder: Path) -> None:
    """Check that two manifests agree on some fields.

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


def _warn_of_versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, after = old.get("versions", {}), new["versions"]
    changed = [
        f"{name} {before[name]} -> {after[name]}" for name in before if name in after and after[name] != before[name]
    ]
    if changed:
        say(f"warning: versions changed since the run was started: {', '.join(changed)}")


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
