"""A run of tasks of lm-evaluation-harness on one of our models, recorded as every run is.

lm-eval makes the requests and judges the answers; what is ours is the model beneath and the record. Answers are kept as
they come in lm-eval's own cache of requests beside the record, so that a run that was cut off goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.judge import summarise
from harness.models.adapters import read_adapter
from harness.models.base import Closing, ModelRequest, TokenModel
from harness.models.registry import load_model
from harness.plan import check_same, freeze, request_of, training_record, warn_of_versions
from harness.record import MANIFEST, Run, RunFolder, hash_of_prompt, load_run
from harness.run import LM_EVAL
from harness.settings import RunSettings
from harness.task import Example
from stepgame.errors import InputError, did_you_mean, require

__all__ = ["perform_lm_eval", "settings_of"]

BACKENDS = ("hf", "vllm")
REQUESTS = "lm-eval-requests"
"""Name of the file of answers so far; it is removed when the run is finished."""

_RIGHT = ("acc", "exact_match")
"""Metrics of single samples that say whether one is right."""
_SAME = {
    "model.backend": "the backend",
    "model.content_hash": "the model",
    "model.dtype": "the dtype",
    "adapter.content_hash": "the adapter",
    "task.name": "the task",
    "task.data_sha256": "the data",
    "task.lm_eval": "lm-eval or its task",
    "seed": "the seed",
}

Tasks = Mapping[str, Any]


def perform_lm_eval(settings: RunSettings, record: RunFolder, command: Sequence[str]) -> Run:
    """Ask the tasks of lm-eval that settings name; see `harness.evaluate`.

    Args:
        settings: ``task`` is ``lm-eval:NAME`` or ``lm-eval:NAME,NAME``; ``data`` is a folder with further tasks.
        record: the run's folder, held.
        command: the command line, for the record.

    Raises:
        InputError: if a task is not known, its data are not to be had, or the backend lacks what it asks for; before
            any weights are loaded.
        MissingExtraError: if lm-eval is not installed.
    """
    request = request_of(settings)
    if request.backend not in BACKENDS:
        raise InputError(f"backend {request.backend!r} cannot be asked in tokens; use {' or '.join(BACKENDS)}")
    if settings.stories:
        flag = next(iter(settings.stories)).replace("_", "-")
        raise InputError(f"--{flag} makes stories, and lm-eval's tasks have questions of their own; leave it out")
    _quiet()
    manager, names = _find(settings)
    tasks = _load(manager, names)
    _check_types(request, tasks)
    old = load_run(record.path).manifest if settings.resume and (record.path / MANIFEST).exists() else None
    model = load_model(request, lambda _: ())
    try:
        manifest = freeze(_record(settings, request, tasks), request, model.identity, command)
        if old is None:
            record.clear()
            _forget(record.path)
            record.write_manifest(manifest, training_record(request))
        else:
            check_same(old, json.loads(json.dumps(manifest)), _SAME, record.path)
            warn_of_versions(old, manifest)
        record.unfinish()
        started = time.perf_counter()
        found = _evaluate(settings, model, manager, names, tasks, record.path)
        seconds = time.perf_counter() - started
    finally:
        if isinstance(model, Closing):
            model.close()
    _write(record, tasks, found, seconds)
    _forget(record.path)
    return load_run(record.path)


def settings_of(manifest: Mapping[str, Any], out: Path) -> RunSettings:
    """Return the settings that go on with a run of lm-eval's tasks."""
    model, task = manifest["model"], manifest["task"]
    return RunSettings.of(
        model=model["spec"],
        backend=model["backend"],
        dtype=model["dtype"],
        device=model["device"],
        batch_tokens=model["request"]["batch_tokens"],
        model_args=model["request"]["args"],
        adapter=None if manifest["adapter"] is None else manifest["adapter"]["path"],
        task=task["name"],
        data=task["params"].get("file"),
        limit=task["params"].get("limit"),
        seed=manifest["seed"],
        out=out,
        resume=True,
    )


def _find(settings: RunSettings) -> tuple[Any, list[str]]:
    """Return lm-eval's manager of tasks, and the names to ask."""
    managers: Any = require("lm_eval.tasks", "lm-eval", "tasks of lm-eval")
    for path in settings.files:
        if not Path(path).is_dir():
            raise InputError(f"--data {path!r} is no folder; expected one with the YAML files of lm-eval tasks")
    names = [name.strip() for name in settings.task.removeprefix(LM_EVAL).split(",") if name.strip()]
    if not names:
        raise InputError(f"--task {LM_EVAL} names no task; expected {LM_EVAL}NAME, such as {LM_EVAL}hellaswag")
    manager = managers.TaskManager(include_path=settings.files or None, include_defaults=False)
    if not all(name in manager.all_tasks for name in names):
        # lm-eval's own are thousands of files, which take seconds to look through.
        manager = managers.TaskManager(include_path=settings.files or None)
    for name in names:
        if name not in manager.all_tasks:
            raise InputError(
                f"lm-eval {version('lm_eval')} has no task {name!r}{did_you_mean(name, manager.all_tasks)}; "
                "a folder with tasks of your own is given by --data DIR"
            )
    return manager, names


def _load(manager: Any, names: Sequence[str]) -> Tasks:
    try:
        tasks: Tasks = manager.load(list(names))["tasks"]
    # Tasks are code of their own and load data in many ways; each fails with errors of its own.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())
        raise InputError(
            f"the data of lm-eval task {', '.join(names)} are not to be had here ({type(error).__name__}: {reason}); "
            "give tasks over local files by --data DIR (dataset_path: json)"
        ) from None
    return tasks


def _check_types(request: ModelRequest, tasks: Tasks) -> None:
    """Refuse what the backend cannot say: vLLM is not asked whether a continuation is the greedy one."""
    for name, task in tasks.items():
        if request.backend == "vllm" and task.OUTPUT_TYPE == "loglikelihood":
            raise InputError(
                f"lm-eval task {name!r} (loglikelihood) asks whether a continuation is the greedy one, which backend "
                "'vllm' does not say; use --backend hf"
            )


def _record(settings: RunSettings, request: ModelRequest, tasks: Tasks) -> dict[str, Any]:
    """Return what the manifest holds of what is asked."""
    docs = hashlib.sha256()
    described = {}
    for name, task in tasks.items():
        # Functions of a task are written as their source, so that the hash is the same on every machine.
        config = json.dumps(task.dump_config(), sort_keys=True, default=str)
        described[name] = {
            "version": str(task.VERSION),
            "sha256": hashlib.sha256(config.encode()).hexdigest(),
            "output_type": task.OUTPUT_TYPE,
            "n": len(list(task.eval_docs)[: settings.limit]),
        }
        for doc in list(task.eval_docs)[: settings.limit]:
            docs.update(json.dumps(doc, sort_keys=True, default=str).encode() + b"\n")
    params = {"file": [str(Path(each).absolute()) for each in settings.files] or None, "limit": settings.limit}
    adapter = None if settings.adapter is None else json.loads(json.dumps(read_adapter(settings.adapter).record()))
    generates = any(each["output_type"] == "generate_until" for each in described.values())
    return {
        "model": {"spec": request.spec, "backend": request.backend},
        "adapter": adapter,
        "task": {
            "name": settings.task,
            "params": {key: value for key, value in params.items() if value is not None},
            "data_sha256": docs.hexdigest(),
            "generator_version": None,
            "n": sum(each["n"] for each in described.values()),
            "lm_eval": {"version": version("lm_eval"), "tasks": described},
        },
        "prompt": {"name": "lm-eval", "version": 1, "sha256": docs.hexdigest(), "text": {}},
        "score": "generate" if generates else "choice",
        "sampling": None,
        "extraction": None,
        "seed": settings.seed,
    }


def _evaluate(
    settings: RunSettings, model: Any, manager: Any, names: Sequence[str], tasks: Tasks, folder: Path
) -> dict[str, Any]:
    from harness.lm_eval.lm import StepGameLM

    evaluator: Any = require("lm_eval.evaluator", "lm-eval", "tasks of lm-eval")
    assert isinstance(model, TokenModel)
    greedy = any(task.OUTPUT_TYPE == "loglikelihood" for task in tasks.values())
    found: dict[str, Any] = evaluator.simple_evaluate(
        model=StepGameLM(model, seed=settings.seed, greedy=greedy),
        tasks=list(names),
        task_manager=manager,
        limit=settings.limit,
        use_cache=str(folder / REQUESTS),
        bootstrap_iters=0,
    )
    return found


def _write(record: RunFolder, tasks: Tasks, found: Mapping[str, Any], seconds: float) -> None:
    """Write samples and results."""
    lines = [line for name, task in tasks.items() for line in _lines(name, task, found["samples"].get(name, ()))]
    for line in lines:
        line["seconds"] = round(seconds / len(lines), 6)
    record.replace_samples(lines)
    expected = [Example(line["id"], (), "", tuple(line["options"]), line["gold"]) for line in lines]
    results = summarise(lines, expected)
    if not all(line["judged"] for line in lines):
        # Perplexities and the like have no right and wrong.
        none = dict.fromkeys(("accuracy", "mean_accuracy", "chance_centred", "accuracy_strict"))
        results |= {**none, "by_k": [{**row, "accuracy": None} for row in results["by_k"]]}
    record.finish(
        {
            **results,
            "metrics": _metrics(found["results"]),
            "lm_eval": {
                "results": _plain(found["results"]),
                "groups": _plain(found.get("groups", {})),
                "task_hashes": {name: _task_hash(rows) for name, rows in found["samples"].items()},
            },
            "seconds": round(seconds, 3),
            "examples_per_second": len(lines) / seconds,
        }
    )


def _lines(name: str, task: Any, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    filters = {sample["filter"] for sample in samples}
    lines = []
    for sample in samples:
        arguments, replies = sample["arguments"], [each[0] for each in sample["resps"]]
        options = [each[1] for each in arguments] if task.OUTPUT_TYPE == "multiple_choice" else []
        scored = [value if isinstance(value, float) else value[0] for value in replies if not isinstance(value, str)]
        target = sample["target"]
        right = next((sample[metric] for metric in _RIGHT if metric in sample), None)
        reply = sample["filtered_resps"][0]
        prediction = options[scored.index(max(scored))] if options else reply if isinstance(reply, str) else None
        prompt = str(arguments[0][0])
        lines.append(
            {
                "id": f"{name}-{sample['doc_id']}" + (f"-{sample['filter']}" if len(filters) > 1 else ""),
                "k_hop": 0,
                "prompt_sha256": hash_of_prompt(prompt),
                "prompt": prompt,
                "options": options,
                "gold": options[target] if options and isinstance(target, int) else str(target),
                **({"raw": replies[0]} if isinstance(replies[0], str) else {"logprobs": scored}),
                "prediction": prediction,
                "correct": bool(right == 1),
                "correct_strict": bool(right == 1),
                "correct_normalised": bool(sample.get("acc_norm", right) == 1),
                "judged": right is not None,
                "metrics": {metric: sample[metric] for metric in sample["metrics"] if _is_number(sample[metric])},
                "parse": "answer" if prediction is not None else "none",
                "error": None,
                "tokens_in": None,
                "tokens_out": None,
            }
        )
    return lines


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return lm-eval's figures by task and metric; the filter is named where it is not the plain one."""
    found = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, _, chosen = key.partition(",")
            if _is_number(value) and chosen and not metric.endswith("_stderr"):
                found[f"{task}/{metric}" + (f",{chosen}" if chosen != "none" else "")] = float(value)
    return found


def _task_hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """Return lm-eval's own hash of what was asked: of documents, prompts and targets."""
    parts = "".join(each["doc_hash"] + each["prompt_hash"] + each["target_hash"] for each in samples)
    return hashlib.sha256(parts.encode()).hexdigest()


def _plain(record: Any) -> Any:
    """Return a record of lm-eval's with plain numbers for numpy's."""
    return json.loads(json.dumps(record, default=float))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _forget(folder: Path) -> None:
    for path in folder.glob(f"{REQUESTS}*"):
        path.unlink()


def _quiet() -> None:
    """Keep what lm-eval says of its own steps off stderr, where this project's progress is."""
    for name in ("lm_eval", "sqlitedict", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
