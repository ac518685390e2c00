"""What a run would ask, without a model: for ``stepgame run --dry-run``."""

from __future__ import annotations

import json
from typing import Any

from harness.models.base import Prompt
from harness.models.registry import render_without_weights
from harness.plan import Plan, make_plan
from harness.settings import RunSettings
from harness.task import Task
from stepgame.hops import format_hops

__all__ = ["preview"]

_RULE = "-" * 72


def preview(settings: RunSettings, task: Task | None = None) -> str:
    """Describe a run and show the prompts of its first and last question; no weights are loaded.

    Args:
        settings: of the run; ``out`` may be missing.
        task: a task given as an object; None where the settings name it.

    Raises:
        InputError: if anything about the request is wrong, as for the run itself.
    """
    plan = make_plan(settings, task, ())
    examples = plan.task.examples
    # Every prompt is made, so that what is wrong with one is known now.
    prompts = [plan.prompt.render(example) for example in examples]
    shown = prompts if len(prompts) < 2 else [prompts[0], prompts[-1]]
    texts = render_without_weights(plan.request, shown) or [_turns(prompt) for prompt in shown]
    parts = [_summary(plan)]
    for prompt, text in zip(shown, texts, strict=True):
        parts += [_RULE, f"{prompt.example.id}, gold: {prompt.example.gold}", _RULE, text]
    return "\n".join(parts)


def _summary(plan: Plan) -> str:
    examples = plan.task.examples
    ks = sorted({example.k_hop for example in examples})
    lists = {example.options for example in examples}
    shots = plan.prompt.shots
    rows = {
        "model": f"{plan.request.spec} ({plan.request.backend})",
        "adapter": "none" if plan.request.adapter is None else str(plan.request.adapter.folder),
        "settings": json.dumps(dict(plan.request.args)) if plan.request.args else "the backend's own",
        "task": f"{plan.task.name} {json.dumps(dict(plan.task.parameters), default=str)}",
        "questions": f"{len(examples)}, k {format_hops(ks)}",
        "options": ", ".join(next(iter(lists))) if len(lists) == 1 else f"{len(lists)} different lists",
        "prompt": f"{plan.prompt.name}, version {plan.prompt.version}",
        "examples": "none" if shots is None else f"{shots.count} each, k {shots.mix}, from {shots.source}",
        "scoring": plan.score,
        "sampling": "none" if plan.sampling is None else _sampling(plan),
        "reading": plan.extraction or "the option with the highest log-likelihood",
        "seed": str(plan.seed),
    }
    return "\n".join(f"{name + ':':<12}{value}" for name, value in rows.items())


def _sampling(plan: Plan) -> str:
    drawn: Any = plan.sampling
    stop = f", stop at {json.dumps(list(drawn.stop))}" if drawn.stop else ""
    way = "greedy" if drawn.temperature == 0 else f"temperature {drawn.temperature}, top-p {drawn.top_p}"
    return f"{drawn.n} of at most {drawn.max_tokens} tokens, {way}{stop}"


def _turns(prompt: Prompt) -> str:
    turns = "\n\n".join(f"[{message.role}]\n{message.content}" for message in prompt.messages)
    return f"{turns}\n\n[assistant]"
