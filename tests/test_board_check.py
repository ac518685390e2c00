"""The boards' schema: every rule of a row, the published figures as committed, and named stories made again."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats import chance_centred, wilson
from harness.tasks import make_task
from leaderboards import publish
from leaderboards.check import check_board, check_published
from leaderboards.data import name_of, published_data, story_sets, write_set
from leaderboards.published import CONFIDENCE, PUBLISHED_COLUMNS, published_header, read_published
from leaderboards.rankings import measured_rankings, noise_pairs, published_rankings
from leaderboards.rules import row_faults
from leaderboards.schema import CHANCE, header
from stepgame.cli import main
from stepgame.errors import InputError
from tests.boards import rows_of, small_board

ROOT = Path(__file__).parent.parent
BOARD, PUBLISHED = ROOT / "leaderboards" / "stepgame.csv", ROOT / "leaderboards" / "published.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_board(tmp_path_factory.mktemp("runs"))


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


FAULTS = [
    ("model_hash", "abc", "model_hash is 'abc'; expected 64 hexadecimal digits"),
    ("data_sha256", "", "data_sha256 is empty"),
    ("commit", "main", "commit is 'main'; expected the 40 hexadecimal"),
    ("protocol", "mine", "protocol is 'mine'; expected official or exact"),
    ("noise", "some", "noise is 'some'; expected yes or no"),
    ("data", "stepgame-v0", "data is 'stepgame-v0', which data.toml does not list"),
    ("n", "16", "n is 16, but the single k have 15"),
    ("n_k1", "x", "n_k1 is 'x'; expected a whole number of at least 1"),
    ("acc_k1", "1.2000", "acc_k1 is '1.2000'; expected a fraction from 0 to 1"),
    ("acc_k2", "0.5000", "acc_k2 is 0.5000, which no number of right answers out of 5 gives"),
    ("low_k3", "0.0100", "low_k3 is '0.0100'; the 95 % Wilson interval of"),
    ("mean", "0.9000", "mean is 0.9, but the single k give"),
    ("chance_centred", "0.9000", "chance_centred is 0.9; a mean of"),
    ("opposite", "15", "kinds of mistake and unparsed add up to"),
    ("errors", "2", "errors is '2'; expected 0"),
    ("unparsed", "-1", "unparsed is '-1'; expected a whole number"),
    ("hops", "1-2", "hops is '1-2', but the figures are of k 1-3"),
    ("hops", "0", "hops is '0', but the figures are of k 1-3"),
    ("hops", "some", "hops is 'some', but the figures are of k 1-3"),
    ("date", "yesterday", "date is 'yesterday'; expected ISO 8601"),
    ("schema", "1", "schema is '1'; this version writes schema 2"),
    ("hardware", "=HYPERLINK(1)", "hardware holds what spreadsheets take for a formula"),
    ("command", "stepgame run;=HYPERLINK(1)", "command holds what spreadsheets take for a formula"),
    ("bank", "\u202ecore", "bank holds characters that do not print"),
    ("seconds", "fast", "seconds is 'fast'; expected a number of at least 0 with 3 decimals"),
    ("seconds", "-3.000", "seconds is '-3.000'; expected a number of at least 0"),
    ("examples_per_second", "-1.00", "examples_per_second is '-1.00'; expected a number of at least 0"),
    ("examples_per_second", "0.01", "examples_per_second is 0.01, but 15 stories took"),
    ("examples_per_second", "9999999.00", "examples_per_second is 9999999.00, but 15 stories took 7.500 seconds"),
    ("examples_per_second", "", "examples_per_second is empty, but 15 stories took 7.500 seconds"),
    ("mean", "0.10104", "mean is '0.10104'; expected a fraction from 0 to 1 with 4 decimals"),
    ("chance_centred", "0.10100000000", "chance_centred is '0.10100000000'; expected a number with 4 decimals"),
    ("both_axes", "", "both_axes is empty; give all three kinds of mistake"),
]


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


@pytest.mark.parametrize(("column", "value", "reason"), FAULTS)
def test_every_rule_is_held(made: Path, tmp_path: Path, column: str, value: str, reason: str) -> None:
    rows = rows_of(made / "board.csv")
    rows[0] |= {"seconds": "7.500", "examples_per_second": "2.00", column: value}
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
    cells |= {"mean": mean, "chance_centred": f"{chance_centred(correct / n, CHANCE):.4f}", "hops": "1"}
    cells |= {
        "examples_per_second": f"{n:.2f}",
        "opposite": "0",
        "one_axis": str(n - correct),
        "both_axes": "0",
        "unparsed": "0",
    }
    assert row_faults(cells) == []


def test_digits_are_those_of_ascii() -> None:
    row = rows_of(BOARD)[0]
    for name, reason in (("n_k1", "a whole number"), ("acc_k1", "a fraction"), ("mean", "a fraction")):
        wide = row[name][0] + "".join(chr(0x660 + int(each)) if each.isdigit() else each for each in row[name][1:])
        assert f"{name} is {wide!r}; expected {reason}" in "\n".join(row_faults(row | {name: wide}))


def test_labels_other_than_the_nine_have_no_kinds(made: Path) -> None:
    row = dict.fromkeys(header([]), "") | rows_of(made / "board.csv")[0]
    none = dict.fromkeys(("opposite", "one_axis", "both_axes"), "")
    assert row_faults(row) == [] and row_faults(row | none | {"task": "jsonl"}) == []
    assert "opposite is empty" in str(row_faults(row | none | {"unparsed": "99999"}))
    assert row_faults(row | none | {"task": "jsonl", "unparsed": "16"}) == ["unparsed is 16, but n is 15"]


def test_a_k_of_none_switches_no_rule_off(made: Path) -> None:
    """Figures of k 0 are those of a task without hops, and stand beside others only if `hops` says so."""
    row = dict.fromkeys(header([0]), "") | rows_of(made / "board.csv")[0]
    none = row | {f"{name}_k0": row[f"{name}_k1"] for name in ("n", "acc", "low", "high")}
    assert "hops is '1-3', but the figures are of k 0-3" in row_faults(none)
    assert "n is 15, but the single k have 20" in row_faults(none)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": "official"}, "protocol is 'official', but stepgame-v1-exact has exact"),
        ({"noise": "no"}, "noise is 'no', but stepgame-v1-exact has yes"),
        ({"bank": "plain"}, "bank is 'plain', but stepgame-v1-exact has core"),
        ({"split": "train"}, "split is 'train', but stepgame-v1-exact has test"),
        ({"seed": "7"}, "seed is '7', but stepgame-v1-exact has 0"),
        ({"hops": "1-9"}, "hops is '1-9', but stepgame-v1-exact has 1-10"),
        ({"n_k4": "199"}, "n_k4 is '199', but stepgame-v1-exact has 200 stories of each k"),
        ({"n_k10": "", "acc_k10": "", "low_k10": "", "high_k10": ""}, "n_k10 is '', but stepgame-v1-exact has 200"),
    ],
)
def test_a_row_on_named_stories_is_of_all_of_them(changes: dict[str, str], reason: str) -> None:
    row = next(row for row in rows_of(BOARD) if row["data"] == "stepgame-v1-exact")
    assert row_faults(row) == []
    assert reason in "\n".join(row_faults(row | changes))


def test_a_file_of_named_stories_need_not_say_how_they_were_made() -> None:
    row = next(row for row in rows_of(BOARD) if row["data"])
    assert row_faults(row | dict.fromkeys(("protocol", "noise", "bank", "split", "seed"), "")) == []


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


def test_what_a_board_says_steers_no_terminal(made: Path, tmp_path: Path) -> None:
    rows = rows_of(made / "board.csv")
    hidden = dict.fromkeys(("model", "commit", "samples_sha256", "hops", "schema"), "\x1b[31mred")
    (tmp_path / "runs").mkdir()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name, value in hidden.items():
        path = write_rows(tmp_path / "b.csv", header([]), [rows[0] | {name: value}, rows[0] | {name: value}])
        found = [finding.what for finding in check_board(path).findings]
        assert found and all(what.isprintable() for what in found), found


def test_no_row_is_checked_twice_over(made: Path, tmp_path: Path) -> None:
    rows = rows_of(made / "board.csv")
    found = said(write_rows(tmp_path / "b.csv", header([]), [*rows, rows[0]]))
    assert "holds the same measurement as line 2" in found
    assert "does not exist" in check_published(tmp_path / "none.csv").findings[0].what
    with pytest.raises(InputError, match="is no file"):
        check_board(tmp_path / "none.csv")


def test_answers_must_lie_beside_the_board(made: Path, tmp_path: Path) -> None:
    """Only where there is a folder for them: a board of one's own may keep its runs anywhere."""
    board = shutil.copy(made / "board.csv", tmp_path / "b.csv")
    assert check_board(board).findings == []
    shutil.copytree(made / "random", tmp_path / "runs" / "any-name")
    shutil.copytree(made / "oracle", tmp_path / "runs" / "oracle")
    where = [finding.where for finding in check_board(board).findings]
    assert where == [f"{board}, line 3"] and "no folder in runs/ beside it has its answers" in said(board)
    shutil.copytree(made / "clean", tmp_path / "runs" / "clean")
    assert check_board(board).findings == []


def test_a_header_of_digits_is_no_traceback(made: Path, tmp_path: Path) -> None:
    rows = rows_of(made / "board.csv")
    names = [*header([]), f"n_k{'9' * 5000}"]
    found = said(write_rows(tmp_path / "b.csv", names, [row | {names[-1]: "1"} for row in rows]))
    assert "it has the columns 'n_k999" in found and len(found) < 300


@pytest.mark.parametrize("name", story_sets())
def test_named_stories_are_made_again(name: str) -> None:
    each = story_sets()[name]
    assert make_task("stepgame", each.settings).data_sha256 == each.sha256
    assert name_of(each.sha256) == name


def test_named_stories_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "stepgame-v1-exact"
    with pytest.raises(SystemExit) as stopped:
        main(["board", "data", name, "--out", str(tmp_path / "named")])
    path = tmp_path / "named" / f"{name}.jsonl"
    assert (
        not stopped.value.code and f"2,000 stories, of the hash that data.toml has: {path}" in capsys.readouterr().out
    )
    assert make_task("stepgame", {"file": [str(path)]}).data_sha256 == story_sets()[name].sha256
    path.write_text("mine")
    with pytest.raises(InputError, match="is there already; use --overwrite"):
        write_set(name, tmp_path / "named")
    assert path.read_text() == "mine"
    with pytest.raises(InputError, match="is a file; expected a folder"):
        write_set(name, path)
    assert write_set(name, tmp_path / "named", overwrite=True) == (path, 2000)
    with pytest.raises(InputError, match="did you mean 'stepgame-v1-exact'"):
        write_set("stepgame-v1-exakt", tmp_path)


def test_stories_of_another_hash_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the generator had changed since the set got its name."""
    each = story_sets()["stepgame-v1-exact"]
    changed = each._replace(settings=each.settings | {"per_hop": 2})
    monkeypatch.setattr("leaderboards.data.story_sets", lambda: {each.name: changed})
    with pytest.raises(InputError, match="this version makes other stories"):
        write_set(each.name, tmp_path / "named")
    assert not (tmp_path / "named").exists()


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
    "system": ("@SUM(A1)", "system holds what spreadsheets take for a formula"),
}


@pytest.mark.parametrize("column", PUBLISHED_FAULTS)
def test_every_rule_of_published_figures_is_held(tmp_path: Path, column: str) -> None:
    value, reason = PUBLISHED_FAULTS[column]
    row = next(row for row in rows_of(PUBLISHED) if row["overall"] and row["n"] == "10000")
    path = write_rows(tmp_path / "p.csv", published_header(), [row | {column: value}])
    assert reason in "\n".join(finding.what for finding in check_published(path).findings)
    with pytest.raises(InputError, match="line 2"):
        read_published(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("overall", text) for text in ("44.7", "-3", "nan", "N/A", "1.2000")]
    + [("n", text) for text in ("about 100", "0")],
)
def test_totals_of_published_figures_are_numbers(tmp_path: Path, column: str, value: str) -> None:
    """Also where no figures of single k say what they come to."""
    row = next(row for row in rows_of(PUBLISHED) if row["overall"] and not row["acc_k1"])
    path = write_rows(tmp_path / "p.csv", published_header(), [row | {column: value}])
    assert [finding.what.partition("; expected ")[0] for finding in check_published(path).findings] == [
        f"{column} is {value!r}"
    ]


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
        noise = ranking.entries[0].cells["noise"]
        assert noise or not ranking.ranked or len({e.cells["source"] for e in ranking.entries}) == 1
        labels = [entry.label for entry in ranking.entries]
        assert len(set(labels)) == len(labels), "two curves of one name"
        assert ranking.ranked == published_data()[ranking.data].ranked
    titles = [each.title for each in published_rankings(read_published(PUBLISHED))]
    assert len(set(titles)) == len(titles) and "data not stated, test" in titles, "unranked sources stay together"
    pairs = noise_pairs(rows)
    assert [(clean["noise"], noisy["noise"], noisy["model"]) for clean, noisy in pairs] == [("no", "yes", "random")]


def test_board_is_a_verb_with_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["board", "chek"])
    assert stopped.value.code == 2 and "No such command 'chek'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["board"])
    shown = capsys.readouterr()
    assert "check" in shown.out and "Traceback" not in shown.err
