"""Comparing real runs: what is paired, what is refused, what is printed and written."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from scipy.stats import binomtest
from typer.testing import CliRunner

import stepgame
from harness import Run, evaluate, load_run
from harness.commands import _show
from harness.compare import Comparison, compare, source_of
from harness.compare_commands import compare as compare_verb
from harness.pairing import pair_samples, read_samples
from harness.record import MANIFEST, RESULTS, SAMPLES
from stepgame.cli import main
from stepgame.errors import InputError

STORIES: dict[str, Any] = {"hops": "1-4", "per_hop": 25, "noise": True}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Return runs of three models on the same stories, and of one on their clean versions."""
    folder = tmp_path_factory.mktemp("runs")
    made = {name: evaluate(name, **STORIES, out=folder / name) for name in ("oracle", "random", "majority")}
    made["clean"] = evaluate("random", **{**STORIES, "noise": False}, out=folder / "clean")
    made["more"] = evaluate("oracle", **{**STORIES, "per_hop": 40, "hops": "2-5"}, out=folder / "more")
    return made


def _copy(run: Run, out: Path, change: Any = lambda lines: lines) -> Run:
    """Copy a run with its sample lines changed."""
    shutil.copytree(run.path, out)
    lines = [json.loads(line) for line in (out / SAMPLES).read_text().splitlines()]
    (out / SAMPLES).write_text("".join(json.dumps(line) + "\n" for line in change(lines)))
    return load_run(out)


def _spoil(places: range) -> Any:
    def change(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        empty = {"prediction": None, "parse": None, "correct": False, "error": "lost"}
        return [line | empty if place in places else line for place, line in enumerate(lines)]

    return change


def test_a_comparison_counts_what_the_samples_say(runs: dict[str, Run]) -> None:
    result = compare([runs["random"], runs["oracle"]])
    pair = result.pairs[0]
    right = {line["id"]: line["correct"] for line in runs["random"].samples()}
    overall = pair.overall
    assert (overall.n, overall.both, overall.second_only) == (100, sum(right.values()), 100 - sum(right.values()))
    assert (overall.first_only, overall.neither) == (0, 0)
    assert overall.difference == pytest.approx(1 - overall.first)
    assert overall.p == pytest.approx(binomtest(0, overall.second_only).pvalue)
    assert overall.low < overall.difference < overall.high
    assert overall.significant and overall.test == "mcnemar"
    assert [test.k for test in pair.by_k] == [1, 2, 3, 4]
    assert sum(test.second_only for test in pair.by_k) == overall.second_only
    assert all(test.p_holm >= test.p for test in pair.by_k)
    summary = {run.name: run for run in result.runs}
    accuracy = runs["random"].accuracy()
    assert [row.correct for row in summary["random"].by_k] == accuracy["correct"].tolist()
    assert [row.low for row in summary["random"].by_k] == pytest.approx(accuracy["low"].tolist())
    assert summary["oracle"].overall.centred == 1
    assert summary["oracle"].decay.reliability == 1
    assert result.settings["model.spec"] == ["random", "oracle"]
    assert "task.data_sha256" not in result.settings and "created" not in result.settings


def test_swapping_runs_negates_differences_and_keeps_p_values(runs: dict[str, Run]) -> None:
    there, back = compare([runs["random"], runs["majority"]]), compare([runs["majority"], runs["random"]])
    for one, other in zip(
        (there.pairs[0].overall, *there.pairs[0].by_k), (back.pairs[0].overall, *back.pairs[0].by_k), strict=True
    ):
        assert other.difference == -one.difference
        assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
        assert (other.p, other.p_holm, other.changed) == (one.p, one.p_holm, one.changed)
        assert other.standard_error == one.standard_error
        assert (other.first_only, other.second_only) == (one.second_only, one.first_only)


def test_a_run_does_not_differ_from_itself(runs: dict[str, Run]) -> None:
    result = compare([runs["random"], runs["random"]])
    assert result.settings == {}
    assert [run.name for run in result.runs] == [f"{runs['random'].path} (1)", f"{runs['random'].path} (2)"]
    for test in (result.pairs[0].overall, *result.pairs[0].by_k):
        assert (test.p, test.p_holm, test.difference, test.changed, test.significant) == (1, 1, 0, 0, False)
        # A bootstrap of pairs that all agree would claim certainty.
        assert test.interval == "score" and test.low < 0 < test.high


def test_the_order_of_samples_changes_nothing(runs: dict[str, Run], tmp_path: Path) -> None:
    def shuffled(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        random.Random(3).shuffle(lines)
        return lines

    mixed = _copy(runs["random"], tmp_path / "random", shuffled)
    one, other = (compare([run, runs["majority"]]).record() for run in (runs["random"], mixed))
    one["runs"][0].pop("path")
    other["runs"][0].pop("path")
    assert one == other
    assert one == json.loads(json.dumps(one, allow_nan=False))


def test_errors_are_left_out_of_both_runs_and_counted(runs: dict[str, Run], tmp_path: Path) -> None:
    broken = _copy(runs["oracle"], tmp_path / "broken", _spoil(range(10)))
    other = _copy(runs["random"], tmp_path / "other", _spoil(range(5, 12)))
    result = compare([broken, other])
    assert (result.pairs[0].errors, result.pairs[0].overall.n) == (12, 88)
    assert (result.runs[0].overall.errors, result.runs[0].overall.n, result.runs[0].overall.accuracy) == (10, 90, 1.0)
    hopeless = _copy(runs["random"], tmp_path / "hopeless", _spoil(range(100)))
    with pytest.raises(InputError, match="no story that both answered"):
        compare([broken, hopeless])


def test_different_stories_are_refused_with_the_reason(runs: dict[str, Run]) -> None:
    with pytest.raises(InputError, match=r"different stories \(noise false / true\).*--match shared.*--match twins"):
        compare([runs["clean"], runs["random"]])
    with pytest.raises(InputError, match="per_hop 40 / 25"):
        compare([runs["more"], runs["random"]])


def test_shared_stories_are_compared_when_asked_for(runs: dict[str, Run]) -> None:
    result = compare([runs["random"], runs["more"]], match="shared")
    pair = result.pairs[0]
    assert (pair.overall.n, pair.unshared) == (75, 25 + 85)
    assert [test.k for test in pair.by_k] == [2, 3, 4]
    with pytest.raises(InputError, match="share no story"):
        compare([runs["random"], runs["clean"]], match="shared")


def test_unfinished_runs_are_refused_unless_shared_is_asked_for(runs: dict[str, Run], tmp_path: Path) -> None:
    part = _copy(runs["random"], tmp_path / "part", lambda lines: lines[:60])
    (part.path / RESULTS).unlink()
    with pytest.raises(InputError, match=r"unfinished \(60 of 100 asked\).*stepgame resume"):
        compare([runs["oracle"], part])
    pair = compare([runs["oracle"], part], match="shared").pairs[0]
    assert (pair.overall.n, pair.missing) == (60, 40)


def test_twins_measure_noise_sensitivity(runs: dict[str, Run], tmp_path: Path) -> None:
    pair = compare([runs["clean"], runs["oracle"]], match="twins").pairs[0]
    assert (pair.clean, pair.overall.n) == ("clean", 100)
    assert compare([runs["oracle"], runs["clean"]], match="twins").pairs[0].clean == "clean"
    # The random model answers by the id alone, which twins share.
    same = compare([runs["clean"], runs["random"]], match="twins").pairs[0]
    assert (same.overall.difference, same.overall.changed) == (0, 0)
    with pytest.raises(InputError, match="no clean and noisy versions"):
        compare([runs["oracle"], runs["random"]], match="twins")


def test_holm_counts_every_test_of_the_report(runs: dict[str, Run]) -> None:
    names = ("majority", "random", "oracle")
    result = compare([runs[name] for name in names], all_pairs=True)
    assert [(pair.first, pair.second) for pair in result.pairs] == [
        ("majority", "random"),
        ("majority", "oracle"),
        ("random", "oracle"),
    ]
    assert [(pair.first, pair.second) for pair in compare([runs[name] for name in names]).pairs] == [
        ("majority", "random"),
        ("majority", "oracle"),
    ]
    lowest = min(test.p for pair in result.pairs for test in pair.by_k)
    assert min(test.p_holm for pair in result.pairs for test in pair.by_k) == pytest.approx(12 * lowest)
    assert min(pair.overall.p_holm for pair in result.pairs) == pytest.approx(
        3 * min(pair.overall.p for pair in result.pairs)
    )


def test_variants_of_one_story_are_one_cluster(runs: dict[str, Run], tmp_path: Path) -> None:
    assert source_of("core-official-test-k3-s0-7~renamed") == source_of("core-official-test-k3-s0-7")

    def doubled(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [line | {"id": line["id"] + end} for line in lines for end in ("", "~renamed", "~shuffled")]

    plain = compare([runs["random"], runs["majority"]])
    copies = compare([_copy(runs[name], tmp_path / name, doubled) for name in ("random", "majority")])
    one, other = plain.pairs[0].overall, copies.pairs[0].overall
    assert (other.n, other.clusters, other.test) == (300, 100, "sign-flip")
    # Copies carry no information: the test and the intervals are those of the originals.
    assert other.p == pytest.approx(one.p)
    assert (other.low, other.high) == pytest.approx((one.low, one.high))
    assert other.standard_error == pytest.approx(one.standard_error)
    assert copies.runs[0].overall.clusters == 100


def test_runs_that_do_not_belong_together_by_their_labels_are_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    def relabelled(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [lines[0] | {"gold": "left" if lines[0]["gold"] != "left" else "right"}, *lines[1:]]

    changed = _copy(runs["random"], tmp_path / "changed", relabelled)
    with pytest.raises(InputError, match="changed by hand"):
        compare([runs["oracle"], changed])
    stories = stepgame.generate("1-4", 25, noise=True)
    path = tmp_path / "same.jsonl"
    stories.write(path)
    from_file = evaluate("oracle", data=path, out=tmp_path / "file")
    assert from_file.manifest["task"]["data_sha256"] == runs["random"].manifest["task"]["data_sha256"]
    assert compare([from_file, runs["random"]]).pairs[0].overall.n == 100
    renamed = _copy(runs["random"], tmp_path / "ids", lambda lines: [x | {"id": "x" + x["id"]} for x in lines])
    with pytest.raises(InputError, match="different ids"):
        compare([runs["oracle"], renamed])
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    more = runs["more"]
    with pytest.raises(InputError, match="can no longer be made"):
        compare([from_file, more], match="shared")


def test_arguments_are_checked(runs: dict[str, Run]) -> None:
    both = [runs["oracle"], runs["random"]]
    with pytest.raises(InputError, match="at least two"):
        compare(both[:1])
    with pytest.raises(InputError, match="alpha 5"):
        compare(both, alpha=5)
    with pytest.raises(InputError, match="did you mean 'twins'"):
        compare(both, match="twin")
    with pytest.raises(InputError, match="resamples"):
        compare(both, resamples=1)
    with pytest.raises(InputError, match="no run folder"):
        compare([runs["oracle"].path.parent, runs["random"]])
    pairing = pair_samples(*both, (read_samples(both[0]), read_samples(both[1])))
    assert [one.id for one, _ in pairing.pairs] == sorted(read_samples(both[0]))


def test_the_verb_prints_and_writes(runs: dict[str, Run], tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(compare_verb)
    out = tmp_path / "c.json"
    words = [str(runs["random"].path), str(runs["oracle"].path), "--json", str(out), "--alpha", "0.01"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    for words_shown in ("settings that differ", "99 % Wilson", "oracle minus random", "McNemar", "decay", "by kind"):
        assert words_shown in done.output
    record = json.loads(out.read_text())
    assert record["alpha"] == 0.01
    assert record == compare([runs["random"], runs["oracle"]], alpha=0.01).record() | {"runs": record["runs"]}
    assert record["runs"][0]["error_kinds"][0]["unparsed"] == 0
    again = Comparison.write(compare([runs["random"], runs["oracle"]], alpha=0.01), tmp_path / "d.json")
    assert again.read_bytes() == out.read_bytes()


HOSTILE = "\x1b[31mred\x1b]0;pwn\x07\u202egnp[bold]:smile:"


def test_what_a_manifest_says_cannot_steer_the_terminal(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    shutil.copytree(runs["random"].path, tmp_path / "a\x1b[2J[b]")
    path = tmp_path / "a\x1b[2J[b]" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["model"] |= {"spec": HOSTILE, "args": {"\x1b[2J": "\x1b[3J"}}
    path.write_text(json.dumps(manifest))
    compare_verb([runs["random"].path, path.parent])
    _show(load_run(path.parent))
    (path.parent / RESULTS).unlink()
    _show(load_run(path.parent))
    shown = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in shown)
    cut = "\ufffd[31mred\ufffd]0;pwn\ufffd\ufffdgnp[bold]:smile:"
    assert shown.count(cut) == 2 and "model.args.\ufffd[2J" in shown and "\ufffd[3J" in shown
    assert shown.count("a\ufffd[2J[b]") > 4
    with pytest.raises(SystemExit):
        main(["compare", str(path.parent), "\x1b[2J"])
    assert "\x1b" not in capsys.readouterr().err
