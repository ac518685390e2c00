"""The boards' schema: every rule of a row, the published figures as committed, and rows made again from answers."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import evaluate
from harness.stats import chance_centred, wilson
from harness.tasks import make_task
from leaderboards import publish
from leaderboards.check import check_board, check_published
from leaderboards.data import name_of, published_data, story_sets
from leaderboards.published import CONFIDENCE, PUBLISHED_COLUMNS, published_header, read_published
from leaderboards.rankings import measured_rankings, noise_pairs, published_rankings
from leaderboards.rules import row_faults
from leaderboards.schema import header
from leaderboards.verify import verify
from stepgame.cli import main
from stepgame.errors import InputError

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "leaderboards" / "published.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    stories = {"hops": "1-3", "per_hop": 5}
    evaluate("random", out=folder / "random", noise=True, **stories)
    evaluate("random", out=folder / "clean", noise=False, **stories)
    evaluate("oracle", out=folder / "oracle", noise=True, score="generate", **stories)
    publish([folder / "random", folder / "clean", folder / "oracle"], folder / "board.csv", allow_dirty=True)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, names: list[str], rows: list[dict[str, str]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return path


def said(path: Path) -> str:
    return "\n".join(finding.what for finding in check_board(path).findings)


def test_the_committed_boards_are_right(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main(["board", "check"])
    assert not stopped.value.code and ": 0 findings" in capsys.readouterr().out


FAULTS = {
    "model_hash": ("abc", "model_hash is 'abc'; expected 64 hexadecimal digits"),
    "data_sha256": ("", "data_sha256 is empty"),
    "commit": ("main", "commit is 'main'; expected the 40 hexadecimal"),
    "protocol": ("mine", "protocol is 'mine'; expected official or exact"),
    "noise": ("some", "noise is 'some'; expected yes or no"),
    "data": ("stepgame-v0", "data is 'stepgame-v0', which data.toml does not list"),
    "n": ("16", "n is 16, but the single k have 15"),
    "n_k1": ("x", "n_k1 is 'x'; expected a whole number of at least 1"),
    "acc_k1": ("1.2000", "acc_k1 is '1.2000'; expected a fraction from 0 to 1"),
    "acc_k2": ("0.5000", "acc_k2 is 0.5000, which no number of right answers out of 5 gives"),
    "low_k3": ("0.0100", "low_k3 is '0.0100'; the 95 % Wilson interval of"),
    "mean": ("0.9000", "mean is 0.9, but the single k give"),
    "chance_centred": ("0.9000", "chance_centred is 0.9; a mean of"),
    "opposite": ("15", "kinds of mistake and unparsed add up to"),
    "errors": ("2", "errors is '2'; expected 0"),
    "unparsed": ("-1", "unparsed is '-1'; expected a whole number"),
    "hops": ("1-2", "hops is 1-2, but the figures are of k 1, 2, 3"),
    "date": ("yesterday", "date is 'yesterday'; expected ISO 8601"),
    "schema": ("1", "schema is '1'; this version writes schema 2"),
    "hardware": ("=HYPERLINK(1)", "hardware begins like a formula"),
    "bank": ("\u202ecore", "bank holds characters that do not print"),
    "seconds": ("fast", "seconds is 'fast'; expected a decimal number"),
}


GOOD = {
    "model": "m",
    "backend": "hf",
    "task": "stepgame",
    "data_sha256": "0" * 64,
    "prompt": "p@1",
    "prompt_sha256": "0" * 64,
    "score": "choice",
    "errors": "0",
    "seconds": "1.000",
    "version": "0.1.0",
    "commit": "0" * 40,
    "dirty": "no",
    "date": "2026-01-31T12:00:00+00:00",
    "command": "stepgame run",
    "samples_sha256": "0" * 64,
    "schema": "2",
}


@pytest.mark.parametrize("column", FAULTS)
def test_every_rule_is_held(made: Path, tmp_path: Path, column: str) -> None:
    value, reason = FAULTS[column]
    rows = rows_of(made / "board.csv")
    rows[0][column] = value
    bad = write_rows(tmp_path / "b.csv", header([]), rows)
    assert reason in said(bad)
    with pytest.raises(InputError, match="line 2"):
        publish([made / "random"], bad, replace=True, allow_dirty=True)


@given(st.integers(1, 200_000), st.floats(0, 1))
def test_no_true_row_is_refused(n: int, share: float) -> None:
    """Rounding to four decimals never makes a row of real counts look wrong, however large n is."""
    correct = round(share * n)
    low, high = wilson(correct, n)
    mean = f"{correct / n:.4f}"
    cells = dict.fromkeys(header([]), "") | GOOD
    cells |= {"n": str(n), "n_k1": str(n), "acc_k1": mean, "low_k1": f"{low:.4f}", "high_k1": f"{high:.4f}"}
    cells |= {"mean": mean, "chance_centred": f"{chance_centred(correct / n, 1 / 9):.4f}", "hops": "1"}
    cells |= {"opposite": "0", "one_axis": str(n - correct), "both_axes": "0", "unparsed": "0"}
    assert row_faults(cells) == []


def test_a_name_of_stories_is_bound_to_their_hash(made: Path, tmp_path: Path) -> None:
    rows = rows_of(made / "board.csv")
    rows[0]["data"] = "stepgame-v1-exact"
    assert "the stories of this data_sha256 are without a name" in said(write_rows(tmp_path / "a", header([]), rows))
    rows[0] |= {"data": "", "data_sha256": story_sets()["stepgame-v1-exact"].sha256}
    assert "are stepgame-v1-exact" in said(write_rows(tmp_path / "b", header([]), rows))


def test_commits_must_exist_where_there_is_a_history(made: Path, tmp_path: Path) -> None:
    rows = rows_of(made / "board.csv")
    path = write_rows(tmp_path / "b.csv", header([]), rows)
    assert "outside a git checkout" in check_board(path).notes[0]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert "is not in this repository" in said(path)


def test_no_row_is_checked_twice_over(made: Path, tmp_path: Path) -> None:
    rows = rows_of(made / "board.csv")
    found = said(write_rows(tmp_path / "b.csv", header([]), [*rows, rows[0]]))
    assert "holds the same measurement as line 2" in found
    assert "does not exist" in check_published(tmp_path / "none.csv").findings[0].what
    with pytest.raises(InputError, match="is no file"):
        check_board(tmp_path / "none.csv")


@pytest.mark.parametrize("name", story_sets())
def test_named_stories_are_made_again(name: str) -> None:
    each = story_sets()[name]
    assert make_task("stepgame", each.settings).data_sha256 == each.sha256
    assert name_of(each.sha256) == name


PUBLISHED_FAULTS = {
    "data": ("2022", "data is '2022'; expected one of original"),
    "confidence": ("sure", "confidence is 'sure'"),
    "source": ("", "source is empty"),
    "url": ("javascript:alert(1)", "expected an address that begins with https://"),
    "overall": ("0.5000", "but the mean over k is"),
    "n": ("7", "n is '7', but the single k have"),
    "acc_k1": ("44.7", "acc_k1 is '44.7'; expected a fraction"),
    "high_k1": ("0.9999", "the 95 % Wilson interval of"),
    "n_k1": ("", "given without n_k1"),
    "system": ("@SUM(A1)", "system begins like a formula"),
}


@pytest.mark.parametrize("column", PUBLISHED_FAULTS)
def test_every_rule_of_published_figures_is_held(tmp_path: Path, column: str) -> None:
    value, reason = PUBLISHED_FAULTS[column]
    row = next(row for row in rows_of(PUBLISHED) if row["overall"] and row["n"] == "10000")
    path = write_rows(tmp_path / "p.csv", published_header(), [row | {column: value}])
    assert reason in "\n".join(finding.what for finding in check_published(path).findings)
    with pytest.raises(InputError, match="line 2"):
        read_published(path)


def test_published_rows_have_an_order_and_no_doubles(tmp_path: Path) -> None:
    rows = rows_of(PUBLISHED)
    path = write_rows(tmp_path / "p.csv", published_header(), [rows[1], rows[0], rows[0]])
    found = [finding.what for finding in check_published(path).findings]
    assert "belongs before line 2" in found[0] and "the figure of line 3 once more" in found[1]


def test_published_figures_are_those_of_their_sources() -> None:
    """A few that a reader can look up, by hand from the papers and logs that the rows name."""
    known = {
        ("text-davinci-002 + ASP", "10000"): "92.6 89.9 89.1 93.8 92.9 91.6 91.2 90.4 89.0 88.3",
        ("text-curie-001 + ASP", "1000"): "46 43 42 59 67 67 57 56 58 61",
        ("text-davinci-003 + ASP", "1000"): "100 100 99 100 100 99 100 100 100 100",
    }
    figures = {(each.cells["system"], each.cells["n"]): each for each in read_published(PUBLISHED)}
    for key, accuracies in known.items():
        cells = figures[key].cells
        assert [float(cells[f"acc_k{k}"]) * 100 for k in range(1, 11)] == pytest.approx(
            [float(each) for each in accuracies.split()]
        )
    recalled = [each for each in figures.values() if "recalled" in each.cells["note"]]
    assert recalled and not any(each.plotted for each in recalled)
    assert published_header()[: len(PUBLISHED_COLUMNS)] == [column.name for column in PUBLISHED_COLUMNS]
    assert {each.cells["confidence"] for each in figures.values()} <= set(CONFIDENCE)


def test_rankings_never_mix_stories(made: Path) -> None:
    rows = rows_of(made / "board.csv")
    for ranking in measured_rankings(rows):
        assert len({entry.cells["data_sha256"] for entry in ranking.entries}) == 1
        means = [entry.mean for entry in ranking.entries]
        assert means == sorted(means, reverse=True)
    assert [len(each.entries) for each in measured_rankings(rows)] == [2, 1]
    for ranking in published_rankings(read_published(PUBLISHED)):
        assert len({(e.cells["data"], e.cells["noise"], e.cells["split"]) for e in ranking.entries}) == 1
        labels = [entry.label for entry in ranking.entries]
        assert len(set(labels)) == len(labels), "two curves of one name"
        assert ranking.ranked == published_data()[ranking.data].ranked
    pairs = noise_pairs(rows)
    assert [(clean["noise"], noisy["noise"], noisy["model"]) for clean, noisy in pairs] == [("no", "yes", "random")]


def test_verify_makes_the_row_again(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (made / "random").iterdir()}
    for run in ("random", "clean", "oracle"):
        found = verify(made / run, made / "board.csv")
        assert found.holds, found.differences
    assert {path: path.read_bytes() for path in (made / "random").iterdir()} == before
    with pytest.raises(SystemExit) as stopped:
        main(["board", "verify", str(made / "oracle"), "--board", str(made / "board.csv")])
    assert not stopped.value.code and "line 4: is this run's row" in capsys.readouterr().out
    write_rows(tmp_path / "empty.csv", header([]), [])
    with pytest.raises(SystemExit) as stopped:
        main(["board", "verify", str(made / "oracle"), "--board", str(tmp_path / "empty.csv")])
    assert stopped.value.code == 1 and "has no row of this measurement" in capsys.readouterr().out


def test_verify_trusts_no_recorded_judgement(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose samples were all set to right, with results and hash to match, gives the true row."""
    forged = shutil.copytree(made / "random", tmp_path / "forged")
    lines = [json.loads(line) for line in (forged / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"prediction": line["gold"], "correct": True}
    (forged / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    from harness.judge import summarise
    from harness.record import RunFolder
    from harness.tasks import make_task

    manifest = json.loads((forged / "manifest.json").read_text())
    examples = make_task("stepgame", manifest["task"]["params"]).examples
    with RunFolder(forged) as record:
        record.finish({**summarise(lines, examples), "seconds": 1.0, "examples_per_second": 15.0})
    publish([forged], tmp_path / "b.csv", allow_dirty=True)
    assert rows_of(tmp_path / "b.csv")[0]["mean"] == "1.0000"
    found = verify(forged, tmp_path / "b.csv")
    assert not found.holds and found.differences["mean"][0] == "1.0000" != found.differences["mean"][1]
    with pytest.raises(SystemExit) as stopped:
        main(["board", "verify", str(forged), "--board", str(tmp_path / "b.csv")])
    assert stopped.value.code == 1 and "mean is 1.0000, but the run gives" in capsys.readouterr().out


def test_board_is_a_verb_with_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["board", "chek"])
    assert stopped.value.code == 2 and "No such command 'chek'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["board"])
    shown = capsys.readouterr()
    assert "check" in shown.out and "Traceback" not in shown.err
