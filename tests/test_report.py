"""Reports: what they say of stories without an answer, of odd records, and which plots lie beside them."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import evaluate, load_run
from harness.compare import compare
from harness.decay import Decay, fit_decay
from harness.probes import probe
from harness.run import rescore
from leaderboards import plot_accuracy
from leaderboards.parts import answers
from leaderboards.rankings import noise_pairs
from leaderboards.report import write_report
from leaderboards.schema import row_of
from stepgame.cli import main
from stepgame.errors import InputError

STORIES: dict[str, Any] = {"hops": "1-3", "per_hop": 10, "noise": True}

Line = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that tests copy before they change anything."""
    folder = tmp_path_factory.mktemp("report")
    for model in ("oracle", "random"):
        evaluate(model, out=folder / model, **STORIES)
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "runs")


def without_answers(run: Path, failed: Callable[[Line], bool]) -> None:
    """Make some stories of a run end in an error, and count again."""
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    kept = ("id", "k_hop", "prompt_sha256", "prompt", "options", "gold", "seconds")
    gone = {**dict.fromkeys(("prediction", "parse", "tokens_in", "tokens_out")), "correct": False, "error": "timeout"}
    lines = [{key: line[key] for key in kept} | gone if failed(line) else line for line in lines]
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rescore(run)


def lose_wrong_answers(run: Path) -> tuple[int, int, int]:
    """Make all wrong answers of the best k end in an error; return that k, what is left there, and how many do."""
    best = max((load_run(run).results or {})["by_k"], key=lambda each: each["correct"])
    assert 0 < best["correct"] < best["n"]
    without_answers(run, lambda line: line["k_hop"] == best["k"] and not line["correct"])
    return best["k"], best["correct"], best["n"] - best["correct"]


def words_of(page: Path) -> str:
    """Return what a page says, without markup."""
    body = re.sub(r"<(script|style).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def test_errors_are_told_and_in_no_figure(runs: Path, tmp_path: Path) -> None:
    k, left, lost = lose_wrong_answers(runs / "random")
    page = write_report([runs / "random"], tmp_path / "r.html", plots=False).page
    said, shown = words_of(page), page.read_text(encoding="utf-8")
    assert f"random: {lost} stories ended in an error and are in no accuracy: {lost} of 10 at k {k}." in said
    points = dict(re.findall(r"<title>random, k (\d): .*?, n (\d+)</title>", shown))
    assert points == {str(each): str(left if each == k else 10) for each in (1, 2, 3)}, "a point is of its answers"
    assert re.search(rf'<th scope="col">errors</th>.*?<td>0</td><td>{lost}</td></tr>', shown)
    by_k = (load_run(runs / "random").results or {})["by_k"]
    correct, answered = [each["correct"] for each in by_k], [each["n"] - each["errors"] for each in by_k]
    fit, wrong = (
        fit_decay([1, 2, 3], *counts, 1 / 9) for counts in ((correct, answered), ([10, 10, 10], [10, 10, 10]))
    )
    assert fit != wrong and told(fit) in said and told(wrong) not in said


def told(fit: Decay) -> str:
    return str(fit.reason) if fit.reliability is None else f"random {fit.reliability:.3f} ("


def test_no_error_is_a_wrong_answer(runs: Path) -> None:
    lose_wrong_answers(runs / "random")
    shown = answers(load_run(runs / "random").samples(), 9)
    assert "<h3>The first 9 that are wrong</h3>" in shown
    assert "no answer" not in shown.partition("that are wrong")[2], "nobody answered"
    without_answers(runs / "oracle", lambda line: line["k_hop"] == 1)
    assert "<p>No answer is wrong.</p>" in answers(load_run(runs / "oracle").samples(), 4)


def test_a_k_without_answers_has_no_figure(runs: Path, tmp_path: Path) -> None:
    without_answers(runs / "random", lambda line: line["k_hop"] == 1)
    page = write_report([runs / "random", runs / "oracle"], tmp_path / "r.html").page
    assert "10 of 10 at k 1. The mean is of the other k." in words_of(page)
    line = re.search(r'<tr><th scope="row" class="t">random</th><td>30</td>(.*?)</tr>', page.read_text())
    assert line is not None and line[1].split("<td>")[2] == "</td>", "its cell is empty"
    assert "k 1 to" not in words_of(page) and "official protocol, with noise, k 1-3" in words_of(page)
    without_answers(runs / "random", lambda line: True)
    for make in (lambda: write_report([runs / "random"], tmp_path / "r.html"), lambda: plot(runs, tmp_path)):
        with pytest.raises(InputError, match=r"random: no k has an answer; .*stepgame resume"):
            make()


def plot(runs: Path, folder: Path) -> Path:
    return plot_accuracy([load_run(runs / "random")], folder / "a.svg")


def test_a_plot_counts_answers(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leaderboards import plots

    said: list[str] = []
    subtitle = plots._subtitle
    monkeypatch.setattr(plots, "_subtitle", lambda rows: said.append(subtitle(rows)) or said[0])
    _, left, _ = lose_wrong_answers(runs / "random")
    plot(runs, tmp_path)
    assert f"{left} to 10 stories per k" in said[0]


def test_no_examples_are_none(runs: Path, tmp_path: Path) -> None:
    samples = list(load_run(runs / "random").samples())
    assert answers(samples, 0) == ""
    assert "<h3>The first 1 that are wrong</h3>" in answers(samples, 1)
    shown = words_of(write_report([runs / "random"], tmp_path / "r.html", examples=0, plots=False).page)
    assert "The first 0" not in shown and "No answer is wrong" not in shown and " Answers " not in shown


def test_noise_pairs_of_a_report_are_the_same_stories(runs: Path, tmp_path: Path) -> None:
    """A row does not say how agents are named, so a noisy run has two clean ones that may be its twins."""
    named = evaluate("oracle", out=runs / "named", **STORIES | {"noise": False, "names": "words"})
    clean = evaluate("oracle", out=runs / "clean", **STORIES | {"noise": False})
    rows = [row_of(each) for each in (clean, named, load_run(runs / "oracle"))]
    assert [(twin["data_sha256"], row["noise"]) for twin, row in noise_pairs(rows)] == [
        (rows[0]["data_sha256"], "yes"),
        (rows[1]["data_sha256"], "yes"),
    ]
    done = write_report([runs / name for name in ("clean", "named", "oracle")], tmp_path / "r.html", plots=False)
    assert [re.search("named and .*oracle hold no clean and noisy", note) is not None for note in done.notes] == [True]
    shown = words_of(done.page)
    assert shown.count("Noise sensitivity: oracle") == 1 and "oracle − clean" in shown and "oracle − named" not in shown


def test_holm_is_said_as_it_is_computed(made: Path, tmp_path: Path) -> None:
    """Tests by k are adjusted over all k of all pairs, which one table by k does not show."""
    third = evaluate("majority", out=tmp_path / "majority", **STORIES)
    folders = [made / "oracle", made / "random", third.path]
    shown = words_of(write_report(folders, tmp_path / "r.html", plots=False).page)
    assert "in the tables by k below it for every k of all of these pairs" in shown
    pairs = compare(folders, all_pairs=True).pairs
    tests = [test for pair in pairs for test in pair.by_k]
    least = min(tests, key=lambda test: test.p)
    assert least.p_holm == min(1.0, least.p * len(tests)) and len(tests) == 9


ODD_NAMES = ["a\x01b", "a\nb", "\udcff", "\u202egnp", "-->"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_folder_of_any_name_has_a_report(made: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(made / "random", Path(os.fsdecode(os.fsencode(tmp_path))) / name)
    done = write_report([run], tmp_path / "r.html")
    for path in done.plots:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
    printable = ascii(name).strip("'")
    assert f"<summary>{html.escape(printable)}</summary>" in done.page.read_text(encoding="utf-8")


def test_old_plots_of_a_report_go(made: Path, tmp_path: Path) -> None:
    other = evaluate("random", out=tmp_path / "other", **STORIES | {"seed": 1}).path
    (tmp_path / "out").mkdir()
    for name in ("r-accuracy-9.txt", "r-accuracy-2b.svg", "s-accuracy-2.svg", "accuracy-2.svg"):
        (tmp_path / "out" / name).write_text("mine")
    kept = {path.name for path in (tmp_path / "out").iterdir()}

    def plotted(*runs: Path, plots: bool = True) -> list[str]:
        write_report(runs, tmp_path / "out" / "r.html", plots=plots)
        return sorted({path.name for path in (tmp_path / "out").iterdir()} - kept - {"r.html"})

    many = ["r-accuracy-1.png", "r-accuracy-1.svg", "r-accuracy-2.png", "r-accuracy-2.svg"]
    assert plotted(made / "random", other) == [*many, "r-mistakes.png", "r-mistakes.svg"]
    assert plotted(made / "random", plots=False) == [*many, "r-mistakes.png", "r-mistakes.svg"]
    assert plotted(made / "oracle") == ["r-accuracy.png", "r-accuracy.svg"]
    assert kept <= {path.name for path in (tmp_path / "out").iterdir()}


def counts(**changes: int) -> dict[str, Any]:
    """Return results of one k."""
    figures = {"accuracy": 1.0, "low": 0.5, "high": 1.0}
    return {"by_k": [{"k": 1, "n": 9, "errors": 0, "unparsed": 0, "correct": 9} | figures | changes]}


ODD_RECORDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no k": ("results.json", {"by_k": []}, "no k has an answer"),
    "k of another kind": ("results.json", {"by_k": [5]}, ""),
    "more right than answered": ("results.json", counts(correct=10), "by_k does not add up; run: stepgame rescore"),
    "more errors than stories": ("results.json", counts(errors=10), "no k has an answer"),
    "a k beyond every board": ("results.json", counts(k=10**30), "by_k does not add up"),
    "a k twice": ("results.json", {"by_k": 2 * counts()["by_k"]}, "by_k does not add up"),
    "no chance": ("results.json", {"chance": None}, "chance is None; run: stepgame rescore"),
    "a command of another kind": ("manifest.json", {"command": 5}, ""),
    "settings of another kind": ("manifest.json", {"task": [1]}, ""),
    "huge scores": ("samples.jsonl", {"logprobs": [10**400] * 9}, ""),
}
"""For each oddity the file, what to change, and the refusal where it is the report's own."""


def change(run: Path, name: str, changes: dict[str, Any]) -> None:
    """Change a record of a run, of samples the first."""
    first, _, rest = (run / name).read_text().partition("\n") if name == "samples.jsonl" else ("", "", "")
    record = json.loads(first or (run / name).read_text()) | changes
    (run / name).write_text(json.dumps(record) + "\n" + rest)


@pytest.mark.parametrize("how", ODD_RECORDS)
def test_odd_records_are_refused_in_one_line(
    runs: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, changes, reason = ODD_RECORDS[how]
    change(runs / "random", name, changes)
    with pytest.raises(InputError, match=f"{runs / 'random'}.*{reason}"):
        write_report([runs / "oracle", runs / "random"], tmp_path / "r.html", plots=False)
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(runs / "random"), "--out", str(tmp_path / "r.html")])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("stepgame: error: ") and said.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_missing_answers_and_odd_probes_are_refused(runs: Path, tmp_path: Path) -> None:
    (runs / "random" / "samples.jsonl").unlink()
    with pytest.raises(InputError, match=r"random .*FileNotFoundError"):
        write_report([runs / "random"], tmp_path / "r.html", plots=False)
    probe("random", out=tmp_path / "probed", hops="1-2", per_hop=3, noise=True)
    change(tmp_path / "probed", "probe.json", {"probes": [{"variant": "renamed"}]})
    with pytest.raises(InputError, match="probed cannot be read"):
        write_report([tmp_path / "probed"], tmp_path / "r.html", plots=False)
