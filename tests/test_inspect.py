"""Inspect runs StepGame from this package, on its mock model."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from harness.tasks import make_task

inspect_ai = pytest.importorskip("inspect_ai")


def test_inspect_asks_our_questions_and_reads_replies_as_we_do(tmp_path: Path) -> None:
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from harness.inspect_task import stepgame

    examples = make_task("stepgame", {"hops": [1, 2], "per_hop": 2, "noise": True}).examples
    replies = [f"Answer: {examples[0].gold}", "I cannot tell.", f"So it is {examples[2].gold}.", "Answer: nowhere"]
    outputs = [ModelOutput.from_content("mockllm", each) for each in replies]
    for each in outputs:
        # Without it the mock model counts tokens by a vocabulary that it fetches from the network.
        each.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_ai.eval(
        stepgame(hops="1-2", per_hop=2), model=model, log_dir=str(tmp_path), max_samples=1, display="none"
    )
    assert log.status == "success"
    found = {sample.id: sample.scores["read_label"] for sample in log.samples}
    assert [found[each.id].value for each in examples] == ["C", "I", "C", "I"]
    assert [found[each.id].answer for each in examples] == [examples[0].gold, None, examples[2].gold, None]
    assert log.results.scores[0].metrics["accuracy"].value == 0.5
    story = log.samples[0].input[-1].content
    assert all(sentence in story for sentence in examples[0].story)


def test_the_entry_point_names_the_module() -> None:
    (entry,) = [each for each in entry_points(group="inspect_ai") if each.name == "stepgame"]
    assert entry.load().stepgame
