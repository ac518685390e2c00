"""StepGame as a task of Inspect: ``inspect eval stepgame/stepgame --model ...``.

The questions, their words and the reading of replies are those of ``stepgame run --score generate``; what Inspect adds
are its models, its log and its viewer.
"""

from __future__ import annotations

from typing import Any

from harness.models.base import Message
from harness.prompts import load_prompt
from harness.tasks import make_task
from stepgame.errors import require

inspect_ai: Any = require("inspect_ai", "inspect", "StepGame as a task of Inspect")
dataset: Any = require("inspect_ai.dataset", "inspect", "StepGame as a task of Inspect")
scorers: Any = require("inspect_ai.scorer", "inspect", "StepGame as a task of Inspect")
solvers: Any = require("inspect_ai.solver", "inspect", "StepGame as a task of Inspect")
chat: Any = require("inspect_ai.model", "inspect", "StepGame as a task of Inspect")

__all__ = ["read_label", "stepgame"]

_ROLES = {"system": chat.ChatMessageSystem, "user": chat.ChatMessageUser, "assistant": chat.ChatMessageAssistant}

_METRICS = [scorers.accuracy(), scorers.stderr(), scorers.grouped(scorers.accuracy(), "k_hop", all=False)]


@inspect_ai.task  # type: ignore[untyped-decorator]
def stepgame(
    hops: str = "1-10",
    per_hop: int = 10,
    noise: bool = True,
    prompt: str = "zero-shot",
    protocol: str = "official",
    split: str = "test",
    seed: int = 0,
) -> Any:
    """Ask where one agent is as seen from another.

    Args:
        hops: chain lengths, such as ``1-10``.
        per_hop: stories of each.
        noise: with distracting sentences or without.
        prompt: one of `harness.prompts.known_prompts` that needs no examples.
        protocol: ``official`` or ``exact``.
        split: ``train``, ``validation`` or ``test``.
        seed: of the stories.
    """
    given = {"hops": hops, "per_hop": per_hop, "noise": noise, "protocol": protocol, "split": split, "seed": seed}
    task, template = make_task("stepgame", given), load_prompt(prompt, "generate")
    samples = [
        dataset.Sample(
            id=each.id,
            input=[_message(message) for message in template.render(each).messages],
            target=each.gold,
            metadata={"k_hop": each.k_hop, "story": list(each.story), "question": each.question},
        )
        for each in task.examples
    ]
    return inspect_ai.Task(
        dataset=dataset.MemoryDataset(samples, name="stepgame"),
        solver=solvers.generate(),
        scorer=read_label(),
        config=chat.GenerateConfig(max_tokens=template.max_tokens, temperature=0.0),
        metadata={"data_sha256": task.data_sha256, "prompt_sha256": template.sha256, "extraction": task.extraction},
    )


@scorers.scorer(metrics=_METRICS)  # type: ignore[untyped-decorator]
def read_label() -> Any:
    """Read one of the nine labels out of the reply, as `harness.extract` does."""
    from harness.extract import extract

    async def score(state: Any, target: Any) -> Any:
        found = extract(state.output.completion, state.metadata["question"], state.metadata["story"])
        right = found.flexible == target.text
        value = scorers.CORRECT if right else scorers.INCORRECT
        return scorers.Score(value=value, answer=found.flexible, explanation=found.status)

    return score


def _message(message: Message) -> Any:
    return _ROLES[message.role](content=message.content)
