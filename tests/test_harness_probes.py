"""Invariance probes: the variants mean what they should, and consistency is counted rightly."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import stepgame
from harness import evaluate, load_run
from harness.compare_commands import probe as probe_verb
from harness.pairing import read_samples
from harness.probes import PROBE, measure, probe
from harness.record import MANIFEST, SAMPLES
from harness.run import rescore, resume
from harness.task import Example
from harness.tasks.stepgame import StepGame
from harness.variants import VARIANTS, StepGameVariant, agents_of, expected_answer, vary
from stepgame.errors import InputError
from stepgame.read import mask, read_question, read_sentence
from stepgame.relations import NAMES

STORIES: dict[str, Any] = {"hops": "1-5", "per_hop": 30, "noise": True}


def _examples(names: str = "letters", **changes: Any) -> list[Example]:
    stories = stepgame.generate(**({"hops": "1-8", "n": 40, "noise": True, "names": names} | changes))
    return [
        Example(row["id"], tuple(row["story"]), row["question"], NAMES, row["label"], row["k_hop"]) for row in stories
    ]


@pytest.mark.parametrize("names", ["letters", "words"])
@pytest.mark.parametrize("bank", ["core", "plain"])
def test_every_variant_reads_as_it_should(names: str, bank: str) -> None:
    examples = _examples(names, bank=bank)
    pool = sorted({name for example in examples for name in agents_of(example)})
    for example in examples:
        for variant in VARIANTS:
            told = vary(example, variant, 5, pool)
            assert told is not None, (variant, example)
            assert told.id == f"{example.id}~{variant}"
            assert (told.story, told.question) != (example.story, example.question)
            assert (
                stepgame.solve(told.story, told.question).label == told.gold == expected_answer(variant, example.gold)
            )
            assert told == vary(example, variant, 5, pool)


def test_renaming_is_one_bijection_over_story_and_question() -> None:
    for example in _examples():
        told = vary(example, "renamed", 1, ["A", "N", "S"])
        assert told is not None
        new: dict[str, str] = {}
        texts = zip((*example.story, example.question), (*told.story, told.question), strict=True)
        for before, after in texts:
            (shape, agents), (same, others) = mask(before), mask(after)
            assert shape == same
            for one, other in zip(agents, others, strict=True):
                assert new.setdefault(one, other) == other
                assert one != other
        assert len(set(new.values())) == len(new)


def test_only_whole_words_that_are_agents_are_renamed() -> None:
    story = ("A step to the left of B is A.", "Bella is above B.", "B's right neighbour is C.")
    example = Example("x", story, "What is the relation of the agent A to the agent Bella?", NAMES, "lower-left")
    facts = [read_sentence(sentence) for sentence in story[:2]]
    for seed in range(20):
        told = vary(example, "renamed", seed)
        assert told is not None
        assert told.story[0].startswith("A step to the left of ")
        assert re.fullmatch(r"\w+ is above \w+\.", told.story[1])
        new = [read_sentence(sentence) for sentence in told.story[:2]]
        assert [fact.relation for fact in new] == [fact.relation for fact in facts]
        assert new[0].tail == new[1].tail


def test_shuffling_keeps_the_sentences_and_nothing_else_has_an_order() -> None:
    for example in _examples(hops="2-6"):
        told = vary(example, "shuffled", 2)
        assert told is not None
        assert Counter(told.story) == Counter(example.story)
        assert (told.question, told.gold) == (example.question, example.gold)
    alone = Example("x", ("A is left of B.",), "Where is A relative to B?", NAMES, "left")
    assert vary(alone, "shuffled") is None
    twice = Example("x", ("A is left of B.",) * 3, "Where is A relative to B?", NAMES, "left")
    assert vary(twice, "shuffled") is None


@given(st.integers(0, 39), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_reversing_twice_restores_the_question(place: int, seed: int) -> None:
    example = _examples(hops=3)[place]
    told = vary(example, "reversed", seed)
    assert told is not None and told.story == example.story
    assert read_question(told.question) == read_question(example.question)[::-1]
    back = vary(told, "reversed", seed)
    assert back is not None and (back.question, back.gold) == (example.question, example.gold)


def test_a_variant_task_is_made_again_from_its_parameters() -> None:
    task = StepGameVariant(variant="renamed", variant_seed=3, **STORIES)
    again = StepGameVariant(**json.loads(json.dumps(dict(task.parameters))))
    assert again.examples == task.examples
    assert again.data_sha256 == task.data_sha256 != StepGame(**STORIES).data_sha256
    assert StepGameVariant(variant="renamed", variant_seed=4, **STORIES).data_sha256 != task.data_sha256
    with pytest.raises(InputError, match="did you mean 'renamed'"):
        StepGameVariant(variant="rename")
    with pytest.raises(InputError, match="none of the 5 stories"):
        StepGameVariant(variant="shuffled", hops=1, per_hop=5)


@pytest.mark.parametrize("score", ["choice", "generate"])
def test_the_oracle_is_wholly_consistent(tmp_path: Path, score: str) -> None:
    report = probe("oracle", **STORIES, out=tmp_path / "p", score=score)
    assert [each.variant for each in report.probes] == list(VARIANTS)
    for each in report.probes:
        assert (each.overall.n, each.overall.share, each.right.share) == (150, 1.0, 1.0)
        assert (each.errors, each.unparsed, each.without, each.p) == (0, 0, 0, 1.0)
        assert [k for k, _ in each.by_k] == [1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "p" / PROBE).read_text()) == report.record()
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == sorted(["original", *VARIANTS, PROBE])


def test_guessing_is_consistent_by_chance(tmp_path: Path) -> None:
    report = probe("random", **STORIES | {"per_hop": 200}, out=tmp_path / "p", seed=1)
    for each in report.probes:
        # Five standard deviations of 1,000 draws.
        assert each.overall.share is not None and abs(each.overall.share - 1 / 9) < 5 * (8 / 81 / 1000) ** 0.5
        assert each.by_chance == pytest.approx(1 / 9, abs=0.01)


def test_always_the_same_answer_is_consistent_but_only_by_chance(tmp_path: Path) -> None:
    report = probe("majority", **STORIES, out=tmp_path / "p")
    found = {each.variant: (each.overall.share, each.by_chance) for each in report.probes}
    assert found == {"renamed": (1.0, 1.0), "shuffled": (1.0, 1.0), "reversed": (0.0, 0.0)}


def test_consistency_is_counted_from_the_samples(tmp_path: Path) -> None:
    probe("random", **STORIES, out=tmp_path / "p", variants=["reversed"])
    original, varied = load_run(tmp_path / "p" / "original"), load_run(tmp_path / "p" / "reversed")
    path = varied.path / SAMPLES
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0] |= {"error": "lost", "prediction": None, "correct": False}
    lines[1] |= {"prediction": None, "correct": False}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = original.path / SAMPLES
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2] |= {"prediction": None, "correct": False}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = measure(original, varied, "reversed")
    before, after = read_samples(original), read_samples(varied)
    inverse = dict(zip(NAMES, [expected_answer("reversed", name) for name in NAMES], strict=True))
    assert inverse["upper-left"] == "lower-right" and inverse["overlap"] == "overlap"
    agreeing = answered = right = 0
    for name, sample in before.items():
        told = after[f"{name}~reversed"]
        if sample.error or told.error or sample.prediction is None:
            continue
        answered += 1
        agreeing += told.prediction == inverse[sample.prediction]
        right += sample.correct
    assert (found.errors, found.unparsed) == (1, 1)
    assert (found.overall.n, found.overall.consistent, found.right.n) == (answered, agreeing, right) and answered == 148
    assert found.expected == "inverse"
    with pytest.raises(InputError, match="no renamed version"):
        measure(original, varied, "renamed")


def test_stories_without_a_variant_are_left_out_and_counted(tmp_path: Path) -> None:
    stories = stepgame.generate("1-2", 10)
    stories.write(tmp_path / "mine.jsonl")
    report = probe("oracle", data=tmp_path / "mine.jsonl", out=tmp_path / "p")
    found = {each.variant: (each.overall.n, each.without) for each in report.probes}
    assert found == {"renamed": (20, 0), "shuffled": (10, 10), "reversed": (20, 0)}


def test_probes_go_on_where_they_were(tmp_path: Path) -> None:
    whole = probe("random", **STORIES, out=tmp_path / "p").record()
    with pytest.raises(InputError, match="holds probes already"):
        probe("random", **STORIES, out=tmp_path / "p")
    (tmp_path / "p" / PROBE).unlink()
    path = tmp_path / "p" / "shuffled" / SAMPLES
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))
    assert probe("random", **STORIES, out=tmp_path / "p", resume=True).record() == whole
    assert probe("random", **STORIES, out=tmp_path / "p", overwrite=True).record() == whole
    with pytest.raises(InputError, match="no longer"):
        probe("random", **STORIES | {"per_hop": 3}, out=tmp_path / "p", resume=True)


def test_the_run_of_a_variant_is_a_run_like_others(tmp_path: Path) -> None:
    probe("majority", **STORIES, out=tmp_path / "p", variants=["renamed"], score="generate")
    path = tmp_path / "p" / "renamed"
    whole = {line["id"]: line["prediction"] for line in load_run(path).samples()}
    lines = (path / SAMPLES).read_text().splitlines(keepends=True)
    (path / SAMPLES).write_text("".join(lines[:40]))
    assert {line["id"]: line["prediction"] for line in resume(path).samples()} == whole
    assert {line["id"]: line["prediction"] for line in rescore(path).samples()} == whole


def test_bad_requests_write_nothing(tmp_path: Path) -> None:
    out = tmp_path / "p"
    for words, arguments in {
        "did you mean 'shuffled'": {"variants": ["shufled"]},
        "each once": {"variants": ["renamed", "renamed"]},
        "exclude each other": {"data": "x.jsonl", "hops": 2},
        "unknown protocol": {"protocol": "mine"},
    }.items():
        with pytest.raises(InputError, match=words):
            probe("oracle", out=out, **arguments)  # type: ignore[arg-type]
    evaluate("oracle", hops=1, per_hop=2, out=out)
    with pytest.raises(InputError, match="holds a run"):
        probe("oracle", out=out, overwrite=True)
    assert (out / MANIFEST).exists()


def test_the_verb_prints_and_writes(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(probe_verb)
    words = ["--model", "oracle", "--hops", "1-2", "--per-hop", "5", "--out", str(tmp_path / "p")]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "its inverse" in done.output and "no such variant: 5" in done.output
    record = json.loads((tmp_path / "p" / PROBE).read_text())
    assert [each["overall"]["share"] for each in record["probes"]] == [1.0] * 3
