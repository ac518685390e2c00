"""The peers do the same work as ours, rightly; the commands run and print a ratio. No speeds are asserted."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

import stepgame
from benchmarks import generate as generate_benchmark
from benchmarks import startup as startup_benchmark
from benchmarks.measure import Measured, take_turns
from benchmarks.memory import peak_of
from benchmarks.peers.plain_python import PlainGenerator
from stepgame.bank import load_bank
from stepgame.relations import NAMES
from stepgame.solve import judge

ROLES = ("chain", "supporting", "irrelevant", "disconnected")


@pytest.fixture(autouse=True)
def stay_unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests that come after free to use all cores."""
    for module in ("generate", "solve", "startup"):
        if module != "solve" or clingo_installed():
            monkeypatch.setattr(f"benchmarks.{module}.pin", lambda: "not pinned")


def clingo_installed() -> bool:
    try:
        import clingo  # noqa: F401
    except ImportError:
        return False
    return True


needs_clingo = pytest.mark.skipif(not clingo_installed(), reason="the ASP peer needs clingo (extra: dev)")


@pytest.mark.parametrize("hops", [1, 3, 5, 10])
def test_plain_stories_solve_to_their_labels(hops: int) -> None:
    for story in PlainGenerator(load_bank("core"), seed=hops).generate(hops, 200):
        assert judge(story["story"], story["question"]) == ("answered", story["label"])
        assert story["k_hop"] == hops
        assert 1 <= story["hops"] <= hops
        assert sum(fact[3] == "chain" for fact in story["facts"]) == hops


def test_plain_facts_are_what_the_sentences_say() -> None:
    bank = {phrase.name: phrase for phrase in load_bank("core")}
    for story in PlainGenerator(load_bank("core"), seed=1).generate(6, 50):
        for sentence, (head, relation, tail, _, phrase) in zip(story["story"], story["facts"], strict=True):
            assert bank[phrase].relation.label == relation
            assert bank[phrase].render(head, tail) == sentence


def test_plain_clean_stories_have_the_chain_only() -> None:
    for story in PlainGenerator(load_bank("core")).generate(4, 50, noise=False):
        assert [fact[3] for fact in story["facts"]] == ["chain"] * 4


def agree(ours: list[float], theirs: list[float]) -> bool:
    """Whether two samples may have one mean: a z-test at five standard errors."""
    means, spread = [], 0.0
    for sample in (ours, theirs):
        mean = sum(sample) / len(sample)
        means.append(mean)
        spread += sum((value - mean) ** 2 for value in sample) / (len(sample) - 1) / len(sample)
    return abs(means[0] - means[1]) <= 5 * math.sqrt(spread) + 1e-12


@pytest.mark.parametrize("hops", [1, 3, 4, 10])
def test_plain_has_the_statistics_of_ours(hops: int) -> None:
    ours = stepgame.generate(hops, 4000, noise=True, seed=5)
    plain = PlainGenerator(load_bank("core"), seed=5).generate(hops, 4000)
    roles = [Counter(fact["role"] for fact in facts) for facts in ours.column("facts")]
    plain_roles = [Counter(fact[3] for fact in story["facts"]) for story in plain]
    for role in ROLES:
        assert agree([c[role] for c in roles], [c[role] for c in plain_roles]), role
    for label in NAMES:
        ours_hit = [float(found == label) for found in ours.column("label")]
        assert agree(ours_hit, [float(story["label"] == label) for story in plain]), label
    assert agree(ours.column("hops"), [story["hops"] for story in plain])
    ours_length = [float(sum(map(len, story))) for story in ours.column("story")]
    assert agree(ours_length, [float(sum(map(len, story["story"]))) for story in plain])


def test_the_statistics_can_tell_a_difference() -> None:
    assert not agree([1.0, 2.0] * 2000, [1.0, 2.0, 2.0] * 1300)


@needs_clingo
@pytest.mark.parametrize("hops", [1, 3, 5, 10])
def test_asp_gives_the_gold_label_one_by_one_and_in_batches(hops: int) -> None:
    from benchmarks.peers.asp import AspSolver

    stories = stepgame.generate(hops, 40, noise=True, seed=2)
    solver = AspSolver(load_bank("core"))
    asked = stories.column("story"), stories.column("question")
    assert solver.answer_each(*asked) == stories.column("label")
    assert solver.answer_batches(16)(*asked) == stories.column("label")


@needs_clingo
def test_asp_reads_every_phrase_of_the_bank() -> None:
    from benchmarks.peers.asp import AspSolver

    bank = load_bank("core")
    solver = AspSolver(bank)
    for phrase in bank:
        facts = solver.facts(0, [phrase.render("Q", "Z")], bank.ask("Q", "Z"))
        label = solver.answer([phrase.render("Q", "Z")], bank.ask("Q", "Z"))
        assert label == phrase.relation.label, facts


@needs_clingo
def test_asp_answers_no_unconnected_question_and_no_unknown_words() -> None:
    from benchmarks.peers.asp import AspSolver

    bank = load_bank("plain")
    solver = AspSolver(bank)
    assert solver.answer(["A is above B.", "C is above D."], bank.ask("A", "D")) is None
    with pytest.raises(ValueError, match=r"no expression matches 'A sings to B\.'"):
        solver.answer(["A sings to B."], bank.ask("A", "B"))


def test_generate_prints_both_rates_and_the_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rates.json"
    words = ["--hops", "2", "--n", "50", "--plain-n", "20", "--repeats", "2", "--memory-n", "0", "--json", str(out)]
    assert generate_benchmark.main(words) == 0
    found = json.loads(out.read_text(encoding="utf-8"))["speed"][0]
    assert set(found["per_second"]) == {"stepgame", "plain_python"}
    assert found["ratio"]["low"] <= found["ratio"]["median"] <= found["ratio"]["high"]
    assert f"{found['ratio']['median']:,.1f}x" in capsys.readouterr().out


def test_peak_memory_is_of_the_command_alone(tmp_path: Path) -> None:
    words = ["generate", "--hops", "2", "--per-hop", "20", "--out"]
    small = peak_of(*words, str(tmp_path / "a"))
    ballast = bytearray(b"x" * 600_000_000)
    assert peak_of(*words, str(tmp_path / "b")) < small + len(ballast) / 2**20 / 2
    assert (tmp_path / "a" / "qa2_test.parquet").exists()


@needs_clingo
def test_solve_prints_all_rates_and_finds_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import solve as solve_benchmark

    out = tmp_path / "rates.json"
    words = ["--hops", "1,4", "--n", "60", "--peer-n", "10", "--repeats", "1", "--json", str(out)]
    assert solve_benchmark.main(words) == 0
    for found in json.loads(out.read_text(encoding="utf-8"))["solve"]:
        assert set(found["wrong"].values()) == {0}
        assert set(found["per_second"]) == {"judge_all", "judge", "asp", "asp_batched"}
    assert "x (" in capsys.readouterr().out


def test_startup_prints_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert startup_benchmark.main(["--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "stepgame --help" in printed
    assert "1.0x (1.0 to 1.0)" in printed


@pytest.mark.parametrize("words", [["--hops", "11"], ["--n", "0"], ["--hops", "x"]])
def test_bad_arguments_are_refused_with_a_reason(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        generate_benchmark.main(words)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_rates_and_ratios() -> None:
    fast, slow = Measured(10, (10.0, 30.0, 20.0)), Measured(10, (5.0, 5.0, 5.0))
    assert fast.rate == 20.0
    assert (fast.over(slow).low, fast.over(slow).median, fast.over(slow).high) == (2.0, 4.0, 6.0)
    calls: list[str] = []
    take_turns({"a": (1, lambda: calls.append("a")), "b": (1, lambda: calls.append("b"))}, 2)
    assert calls == ["a", "b", "a", "b"]


def test_decomposed_prompts_keep_less_at_equal_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    import csv

    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from benchmarks import dept
    from tests.tiny import tiny_decoder, tiny_encoder_decoder

    t5 = str(tiny_encoder_decoder(tmp_path / "t5"))
    loaders = {
        "t5-base": lambda: AutoModelForSeq2SeqLM.from_pretrained(t5),
        "smollm2": lambda: AutoModelForCausalLM.from_pretrained(str(tiny_decoder(tmp_path / "decoder"))),
    }
    monkeypatch.setattr(dept, "load_base", lambda name, _: loaders[name]())
    threads, table = torch.get_num_threads(), tmp_path / "table.csv"
    assert dept.main(["--lengths", "32", "--rounds", "1", "--csv", str(table), "--png", str(tmp_path / "a.png")]) == 0
    torch.set_num_threads(threads)
    assert capsys.readouterr().out.count("memory") == 2 * len(dept.RIVALS)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for name in dept.MODELS:
        own = {row["rival"]: row for row in rows if row["model"] == name}
        assert list(own) == list(dept.RIVALS)
        assert {int(row["parameters"]) for row in (own["pt"], own["peft"])} == {100 * 32}
        # Never more than the budget, and less by no more than one rank is worth.
        assert all(100 * 32 - (32 + 32) < int(row["parameters"]) <= 100 * 32 for row in own.values())
        kept = [float(own[rival]["memory_mb"]) for rival in ("pt", "dept-80", "dept-60", "dept-40", "dept-20")]
        assert kept == sorted(kept, reverse=True)
        assert kept[-1] < kept[0]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
