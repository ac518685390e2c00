"""Prompts: examples, working, facts, several samples, and what a dry run shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import evaluate, load_run
from harness.facts import read_facts
from harness.judge import judge_text, rejudge
from harness.models.base import Completion, Message, Prompt
from harness.models.chat import plain_text
from harness.plan import make_plan
from harness.prompts import SCORES, known_prompts, load_prompt
from harness.prompts.shots import draw_shots, shots_of
from harness.prompts.working import working
from harness.run import rescore, resume
from harness.settings import RunSettings
from harness.task import Example, Extraction
from harness.tasks.stepgame import StepGame
from stepgame.errors import InputError
from stepgame.relations import NAMES

SMALL: dict[str, Any] = {"hops": "1-3", "per_hop": 4, "noise": True}
STORY = ("A is left of C.", "C is above B.", "D is below C.")
EXAMPLE = Example("x", STORY, "Where is A relative to B?", NAMES, "upper-left", 2)


def _plan(**settings: Any) -> Any:
    return make_plan(RunSettings.of(**{"model": "oracle", **SMALL} | settings), None, ())


@pytest.mark.parametrize("name", known_prompts())
@pytest.mark.parametrize("score", SCORES)
def test_every_prompt_shows_the_story_and_hides_the_answer(name: str, score: str) -> None:
    try:
        template = load_prompt(name, score)
    except InputError as error:
        assert f"--score {'choice' if score == 'generate' else 'generate'}" in str(error)
        return
    text = "\n".join(message.content for message in template.render(EXAMPLE).messages)
    assert " ".join(STORY) in text and EXAMPLE.question in text
    # The one for answers in the text's own words is given no options.
    assert (", ".join(NAMES) in text) == (name != "span")
    other = Example("x", STORY, EXAMPLE.question, NAMES, "overlap", 2)
    assert template.render(other).messages == template.render(EXAMPLE).messages


@pytest.mark.parametrize(
    ("prompt", "score"),
    [("few-shot", "choice"), ("few-shot", "generate"), ("cot", "generate"), ("coordinates", "generate")],
)
@pytest.mark.parametrize("mix", ["same", "1-5"])
def test_examples_stand_before_the_question(prompt: str, score: str, mix: str) -> None:
    plan = _plan(prompt=prompt, score=score, shots=3, shots_mix=mix)
    asked = {example.id for example in plan.task.examples}
    for example in plan.task.examples:
        shown = plan.prompt.shots.before(example)
        assert [each.k_hop for each in shown] == ([example.k_hop] * 3 if mix == "same" else [1, 2, 4])
        assert not asked & {each.id for each in shown}
        assert len({each.gold for each in shown}) == 3
        messages = plan.prompt.render(example).messages
        assert [message.role for message in messages] == ["user", "assistant"] * 3 + ["user"]
        for each, reply in zip(shown, messages[1::2], strict=True):
            assert reply.content.endswith(each.gold)
        assert example.question in messages[-1].content


def test_a_fixed_mix_is_the_same_for_every_question_so_that_its_cache_is_read_once() -> None:
    plan = _plan(prompt="few-shot", shots_mix="1-5", hops="1-8")
    begins = {plan.prompt.render(example).messages[:-1] for example in plan.task.examples}
    assert len(begins) == 1


def test_nothing_alike_to_the_question_is_shown() -> None:
    renamed = Example("y", ("P is left of Q.", "Q is above R."), "Where is P relative to R?", NAMES, "upper-left", 2)
    moved = Example("z", ("C is above B.", "A is left of C."), "Where is A relative to B?", NAMES, "upper-left", 2)
    asked = Example("x", ("A is left of C.", "C is above B."), "Where is A relative to B?", NAMES, "upper-left", 2)
    other = Example("w", ("A is right of C.", "C is above B."), "Where is A relative to B?", NAMES, "upper-right", 2)
    pool = [asked, renamed, moved, other]
    shots = draw_shots([asked], 1, "same", 0, lambda _, ks: pool)
    assert shots.pool == (other,)
    with pytest.raises(InputError, match="only 1 of 2 examples with k = 2"):
        draw_shots([asked], 2, "same", 0, lambda _, ks: pool)


@given(st.integers(1, 6), st.sampled_from(["same", "1-3", "2"]), st.integers(0, 5))
def test_examples_come_back_from_the_manifest_as_they_were(count: int, mix: str, seed: int) -> None:
    task = StepGame(hops="1-3", per_hop=2, seed=seed)
    shots = draw_shots(task.examples, count, mix, seed, task.training)
    again = shots_of(json.loads(json.dumps(shots.record())))
    assert again == shots
    for example in task.examples:
        assert again.before(example) == shots.before(example)
    assert draw_shots(task.examples, count, mix, seed, task.training) == shots


def test_examples_are_frozen_with_the_run(tmp_path: Path) -> None:
    run = evaluate("random", **SMALL, prompt="few-shot", shots=2, out=tmp_path / "r")
    assert run.manifest["prompt"]["shots"]["count"] == 2
    zero = evaluate("random", **SMALL, prompt="few-shot", shots=3, out=tmp_path / "s")
    assert run.manifest["prompt"]["sha256"] != zero.manifest["prompt"]["sha256"]
    lines = (run.path / "samples.jsonl").read_text().splitlines(keepends=True)
    (run.path / "samples.jsonl").write_text("".join(lines[:-3]))
    again = resume(run.path)
    assert again.results is not None and again.results["answered"] == 12
    assert {line["id"]: line["prompt"] for line in again.samples()} == {
        line["id"]: line["prompt"] for line in map(json.loads, lines)
    }
    with pytest.raises(InputError, match="the prompt is no longer"):
        evaluate("random", **SMALL, prompt="few-shot", shots=4, out=run.path, resume=True)


def test_examples_for_a_file_come_from_a_file(tmp_path: Path) -> None:
    import stepgame

    stepgame.generate("1-2", 3, seed=1).write(tmp_path / "asked.jsonl")
    stepgame.generate("1-2", 20, seed=2).write(tmp_path / "shown.jsonl")
    settings: dict[str, Any] = {"data": tmp_path / "asked.jsonl", "prompt": "few-shot", "out": tmp_path / "r"}
    with pytest.raises(InputError, match="--few-shot-data FILE"):
        evaluate("oracle", **settings)
    run = evaluate("oracle", **settings, few_shot_data=tmp_path / "shown.jsonl")
    assert run.results is not None and run.results["accuracy"] == 1
    assert run.manifest["prompt"]["shots"]["source"].endswith("shown.jsonl")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shots": 2}, "takes no examples"),
        ({"prompt": "few-shot", "shots_mix": "many"}, "--shots-mix 'many'"),
        ({"prompt": "few-shot", "shots": 0, "few_shot_data": "x.jsonl"}, "add --shots N"),
        ({"shots": -1}, "--shots must be at least 0"),
        ({"prompt": "cot"}, "use --score generate"),
        ({"samples": 3}, "use --score generate"),
        ({"samples": 3, "score": "generate"}, "copies of one text"),
        ({"samples": 0}, "--samples must be at least 1"),
        ({"model_args": ["a"]}, "expected KEY=VALUE"),
        ({"model_args": ["a=1", "a=2"]}, "given twice"),
        ({"model_args": ["api_key=hush"]}, "looks like a secret"),
        ({"hopz": 3}, "did you mean 'hops'"),
        ({"balance": True, "protocol": "official"}, "exact"),
        ({"noise_counts": "disconected=1"}, "did you mean 'disconnected'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        _plan(**settings)


def test_the_working_of_an_example() -> None:
    found = working(EXAMPLE)
    assert found == {
        "links": "1. A is left of C.\n2. C is above B.",
        "offsets": "1. A is left of C: (-1, 0)\n2. C is above B: (0, 1)",
        "total": "(-1, 1)",
        "facts": "left(A, C)\nabove(C, B)\nbelow(D, C)",
    }


def test_the_working_leads_to_the_answer_of_every_generated_story() -> None:
    for example in StepGame(hops="1-8", per_hop=10, noise=True).examples:
        found = read_facts(working(example)["facts"], example)
        assert found == Extraction(example.gold, example.gold, "answer")


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "status"),
    [
        ("left(A, C)\nabove(C, B)", "upper-left", "upper-left", "answer"),
        ("left(A,C)\n\nabove( C , B )\n", "upper-left", "upper-left", "answer"),
        ("```\nleft(A, C)\nabove(C, B)\n```", "upper-left", "upper-left", "answer"),
        ("Here are the facts:\n1. left(A, C)\n2. above(C, B)", None, "upper-left", "answer"),
        ("west(A, C)\ntop(C, B)", None, "upper-left", "answer"),
        ("above and left(A, B)", None, "upper-left", "answer"),
        ("upper_left(A, B)", None, "upper-left", "answer"),
        ("- A is left of C.\n- C is above B.", None, "upper-left", "answer"),
        ("right(B, A)", "left", "left", "answer"),
        ("left(A, C)\nnear(C, B)", None, None, "unreadable"),
        ("left(A, C)", None, None, "unconnected"),
        ("left(A, B)\nleft(B, A)", None, None, "contradictory"),
        ("left(X, Y)", None, None, "unconnected"),
        ("Answer: left", None, None, "none"),
        ("", None, None, "empty"),
    ],
)
def test_facts(text: str, strict: str | None, flexible: str | None, status: str) -> None:
    found = read_facts(text, EXAMPLE)
    assert (found.strict, found.flexible, found.status) == (strict, flexible, status)


@given(st.text() | st.lists(st.sampled_from("left above ( ) , A B C \n near 1.".split(" "))).map("".join))
def test_any_text_has_a_reading_as_facts(text: str) -> None:
    found = read_facts(text, EXAMPLE)
    assert (found.status == "answer") == (found.flexible is not None)


def _vote(text: str, example: Example) -> Extraction:
    label = text if text in NAMES else None
    return Extraction(label, label, "answer" if label else "none")


@pytest.mark.parametrize(
    ("texts", "prediction", "parse"),
    [
        (["left"], "left", "answer"),
        (["left", "right", "right"], "right", "answer"),
        (["left", "right"], "left", "answer"),
        (["?", "?", "right"], "right", "answer"),
        (["?", "right", "left", "left", "right"], "right", "answer"),
        (["?", "?"], None, "none"),
    ],
)
def test_several_completions_vote(texts: list[str], prediction: str | None, parse: str) -> None:
    completions = [Completion(text, 7, 2, "stop") for text in texts]
    line = judge_text(completions, EXAMPLE, _vote)
    assert (line["prediction"], line["prediction_strict"], line["parse"]) == (prediction, prediction, parse)
    assert (line["tokens_in"], line["tokens_out"]) == (7, 2 * len(texts))
    assert line["raw"] == (texts if len(texts) > 1 else texts[0])
    assert ("votes" in line) == (len(texts) > 1)
    assert rejudge({**line, "error": None}, EXAMPLE, _vote) == {**line, "error": None}


def test_several_samples_are_recorded_and_rescored(tmp_path: Path) -> None:
    run = evaluate("random", **SMALL, score="generate", samples=3, temperature=0.7, out=tmp_path / "r")
    before = list(run.samples())
    assert all(len(line["raw"]) == len(line["votes"]) == 3 for line in before)
    assert run.manifest["sampling"]["n"] == 3
    assert list(rescore(run.path).samples()) == before


def test_facts_are_read_again_as_facts(tmp_path: Path) -> None:
    run = evaluate("oracle", **SMALL, prompt="neuro-symbolic", score="generate", out=tmp_path / "r")
    assert run.manifest["extraction"].startswith("facts-")
    # The oracle answers, and an answer is no fact.
    assert run.results is not None and run.results["unparsed_share"] == 1
    lines = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    stories = {example.id: example for example in StepGame(**SMALL).examples}
    for line in lines:
        line["raw"] = working(stories[line["id"]])["facts"]
    (run.path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = rescore(run.path)
    assert judged.results is not None
    assert judged.results["accuracy"] == judged.results["accuracy_strict"] == 1


def test_a_prompt_file_of_the_user_works_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nversion = 3\nshots = 2\nshots_mix = "1-2"\n[generate]\nintro = "Rules: {options}"\n'
        'user = "{story} {question}"\nassistant = "{offsets} {total} {answer}"\nmax_tokens = 99\nstop = ["##"]\n'
    )
    plan = _plan(prompt=str(path), score="generate")
    assert (plan.sampling.max_tokens, plan.sampling.stop) == (99, ("##",))
    first, reply = plan.prompt.render(plan.task.examples[0]).messages[:2]
    assert first.content.startswith("Rules: left, right")
    assert "(" in reply.content
    run = evaluate("random", **SMALL, prompt=str(path), score="generate", out=tmp_path / "r")
    path.unlink()
    (run.path / "results.json").unlink()
    assert resume(run.path).results is not None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('assistant = "{links"', "not valid TOML|"),
        ('assistant = "{lnks}"', "did you mean 'links'"),
        ('cue = "{story}"', "unknown slot"),
        ('reads = "fact"', "did you mean 'facts'"),
        ("max_tokens = 0", "at least 1"),
        ('stop = [""]', "none of them empty"),
        ('stop = "x"', "of type list"),
    ],
)
def test_a_wrong_prompt_file_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nversion = 1\n[generate]\nuser = "{{story}}"\n{line}\n')
    if said.startswith("not valid"):
        # Braces that are no slot are text.
        assert load_prompt(str(path), "generate").assistant == "{links"
        return
    with pytest.raises(InputError, match=said):
        load_prompt(str(path), "generate")


def test_plain_text_puts_the_cue_before_every_reply() -> None:
    turns = (Message("user", "Q1"), Message("assistant", "left"), Message("user", "Q2"))
    assert plain_text(Prompt(turns, "Answer:", EXAMPLE)) == "Q1\n\nAnswer: left\n\nQ2\n\nAnswer:"
    turns = (Message("user", "Q1"), Message("assistant", "Answer: left"), Message("user", "Q2"))
    assert plain_text(Prompt(turns, "Answer:", EXAMPLE)) == "Q1\n\nAnswer: left\n\nQ2\n\nAnswer:"


def test_a_dry_run_says_what_would_be_asked_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from stepgame.cli import main

    words = ["run", "--dry-run", "--model", "oracle", "--hops", "1-2", "--per-hop", "3", "--out", str(tmp_path / "r")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--prompt", "few-shot", "--score", "generate"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "6, k 1-2" in said and "5 each, k same" in said and "[assistant]\nAnswer: " in said
    assert said.count("gold: ") == 2
    assert not (tmp_path / "r").exists()
    with pytest.raises(SystemExit) as end:
        main(["run", "--model", "oracle", "--hops", "1"])
    assert end.value.code == 2
    assert "--out is missing" in capsys.readouterr().err


@pytest.mark.model
def test_a_dry_run_uses_the_models_own_template_and_needs_no_weights(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from harness.models.builtin import builtin_folder
    from harness.preview import preview

    bare = tmp_path / "bare"
    shutil.copytree(builtin_folder()[0], bare, ignore=shutil.ignore_patterns("*.safetensors"))
    said = preview(RunSettings.of(model=str(bare), hops="1", per_hop=2))
    assert said.count("<|im_start|>user") == 2
    run = evaluate("smollm2", hops="1", per_hop=2, out=tmp_path / "r")
    assert all(line["prompt"] in said for line in load_run(run.path).samples())
