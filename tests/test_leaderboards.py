"""The leaderboard: rows of real runs, every refusal, bytes that stay, two writers, hostile text."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Run, evaluate, load_run
from leaderboards import COLUMNS, Board, plot_accuracy, publish, row_of
from leaderboards.board import Row
from leaderboards.schema import IDENTITY, MAX_CELL, cell, header, hops_of_header, is_formula
from stepgame.cli import main
from stepgame.errors import InputError
from tests.boards import rows_of


def ask(out: Path, model: str = "oracle", **settings: object) -> Run:
    defaults: dict[str, object] = {"hops": "1-3", "per_hop": 4, "noise": True}
    return evaluate(model, out=out, **(defaults | settings))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that tests copy before they change anything."""
    folder = tmp_path_factory.mktemp("runs")
    ask(folder / "oracle")
    ask(folder / "random", "random")
    ask(folder / "far", hops="2,12")
    ask(folder / "text", score="generate")
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "runs")
    # The tests' own checkout may be dirty or not; what a run says about it is set here, so that both are tested.
    for manifest in (tmp_path / "runs").glob("*/manifest.json"):
        edit(manifest, git={"commit": "0" * 40, "dirty": False})
    return tmp_path / "runs"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_row_says_what_the_run_was(runs: Path, tmp_path: Path) -> None:
    board = tmp_path / "boards" / "b.csv"
    done = publish([runs / "oracle", runs / "random"], board)
    first, second = rows_of(board)
    run = load_run(runs / "random")
    assert (done.lines, done.replaced) == ((2, 3), (False, False))
    assert first["model"] == "oracle" and float(first["mean"]) == float(first["chance_centred"]) == 1.0
    assert second["protocol"] == "official" and second["noise"] == "yes" and second["hops"] == "1-3"
    assert second["n"] == "12" and second["errors"] == "0" and second["dirty"] == "no"
    assert second["data_sha256"] == run.manifest["task"]["data_sha256"] == first["data_sha256"]
    assert second["samples_sha256"] == run.results["samples_sha256"] != first["samples_sha256"]
    assert float(second["mean"]) == pytest.approx(run.results["mean_accuracy"], abs=5e-5)
    for k, counted in run.accuracy(by="k_hop").iterrows():
        assert int(second[f"n_k{k}"]) == counted["n"]
        for column, name in (("acc", "accuracy"), ("low", "low"), ("high", "high")):
            assert float(second[f"{column}_k{k}"]) == pytest.approx(counted[name], abs=5e-5)
    assert all(second[f"{name}_k4"] == "" for name in ("n", "acc", "low", "high"))


def test_header_is_the_documented_schema(runs: Path, tmp_path: Path) -> None:
    publish([runs / "oracle"], tmp_path / "b.csv")
    names = (tmp_path / "b.csv").read_text().splitlines()[0].split(",")
    assert names[: len(COLUMNS)] == [column.name for column in COLUMNS]
    assert hops_of_header(names) == list(range(1, 11))
    assert names == header([]) and len(set(names)) == len(names)
    assert set(IDENTITY) <= set(names)
    assert all(column.meaning for column in COLUMNS)


def test_same_run_gives_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        publish([runs / "oracle", runs / "text"], tmp_path / name)
    publish([runs / "oracle"], tmp_path / "c")
    publish([runs / "text"], tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_appending_keeps_every_byte(runs: Path, tmp_path: Path, ending: str, mark: str) -> None:
    board = tmp_path / "b.csv"
    publish([runs / "oracle"], board)
    names, row = csv.reader(io.StringIO(board.read_text()))
    # Quoted otherwise than this project would, with a line break in a cell: what somebody's editor may leave.
    row[names.index("command")] = "by hand,\nin two lines"
    text = mark + ",".join(names) + ending + ",".join('"' + each.replace('"', '""') + '"' for each in row) + ending
    board.write_bytes(text.encode())
    done = publish([runs / "text"], board)
    assert board.read_bytes().startswith(text.encode())
    added = board.read_bytes()[len(text.encode()) :].decode()
    assert added.endswith(ending) and added.count("\n") == 1
    assert done.lines == (4,)
    assert [each.cells["score"] for each in Board.read(board).rows] == ["choice", "generate"]


def test_missing_last_line_break_is_added(runs: Path, tmp_path: Path) -> None:
    board = tmp_path / "b.csv"
    publish([runs / "oracle"], board)
    before = board.read_bytes()
    board.write_bytes(before.rstrip(b"\n"))
    publish([runs / "text"], board)
    assert board.read_bytes().startswith(before)


def test_more_hops_widen_the_board(runs: Path, tmp_path: Path) -> None:
    board = tmp_path / "b.csv"
    publish([runs / "oracle"], board)
    narrow = board.read_text().splitlines()
    publish([runs / "far"], board)
    wide = board.read_text().splitlines()
    assert hops_of_header(wide[0].split(",")) == [*range(1, 11), 12]
    assert wide[0] == narrow[0] + ",n_k12,acc_k12,low_k12,high_k12" and wide[1] == narrow[1] + ",,,,"
    assert rows_of(board)[1]["acc_k12"] == "1.0000" and rows_of(board)[1]["acc_k1"] == ""
    publish([runs / "random"], board)
    assert board.read_text().splitlines()[:3] == wide


def test_replace_keeps_place_and_neighbours(runs: Path, tmp_path: Path) -> None:
    board = tmp_path / "b.csv"
    publish([runs / "oracle", runs / "text", runs / "random"], board)
    before = board.read_bytes()
    with pytest.raises(InputError, match=r"line 3.*there already.*--replace"):
        publish([runs / "text"], board)
    assert board.read_bytes() == before
    edit(runs / "text" / "manifest.json", created="2001-01-01T00:00:00+00:00")
    done = publish([runs / "text"], board, replace=True)
    old, new = before.splitlines(), board.read_bytes().splitlines()
    assert done.replaced == (True,) and done.lines == (3,)
    assert [old[i] == new[i] for i in range(4)] == [True, True, False, True]
    assert rows_of(board)[1]["date"].startswith("2001")


def test_the_same_measurement_elsewhere_is_the_same(runs: Path, tmp_path: Path) -> None:
    publish([runs / "oracle"], tmp_path / "b.csv")
    manifest = json.loads((runs / "oracle" / "manifest.json").read_text())
    edit(
        runs / "oracle" / "manifest.json", hardware={"machine": "other"}, model=manifest["model"] | {"backend": "vllm"}
    )
    with pytest.raises(InputError, match="there already"):
        publish([runs / "oracle"], tmp_path / "b.csv")


@pytest.mark.parametrize("field", [("model", "content_hash"), ("prompt", "sha256"), ("task", "data_sha256")])
def test_another_measurement_is_another_row(runs: Path, tmp_path: Path, field: tuple[str, str]) -> None:
    publish([runs / "oracle"], tmp_path / "b.csv")
    block, key = field
    manifest = json.loads((runs / "oracle" / "manifest.json").read_text())
    edit(runs / "oracle" / "manifest.json", **{block: manifest[block] | {key: "f" * 64}})
    publish([runs / "oracle"], tmp_path / "b.csv")
    assert len(rows_of(tmp_path / "b.csv")) == 2


def test_model_without_hash_goes_by_name(runs: Path, tmp_path: Path) -> None:
    def name(spec: str) -> None:
        edit(runs / "text" / "manifest.json", model={"spec": spec, "backend": "openai"})

    name("openai:one")
    publish([runs / "text"], tmp_path / "b.csv")
    name("openai:two")
    publish([runs / "text"], tmp_path / "b.csv")
    assert [row["model"] for row in rows_of(tmp_path / "b.csv")] == ["one", "two"]
    with pytest.raises(InputError, match="there already"):
        publish([runs / "text"], tmp_path / "b.csv")


def broken(runs: Path, how: str) -> Path:
    """Break a copy of a good run in one way."""
    run = runs / "oracle"
    results = json.loads((run / "results.json").read_text())
    if how == "unfinished":
        (run / "results.json").unlink()
    elif how == "errors":
        edit(run / "results.json", errors=2)
    elif how == "not all":
        edit(run / "results.json", n_expected=13)
    elif how == "dirty":
        edit(run / "manifest.json", git={"commit": "0" * 40, "dirty": True})
    elif how == "no checkout":
        edit(run / "manifest.json", git=None)
    elif how == "samples":
        with (run / "samples.jsonl").open("a") as file:
            file.write("\n")
    elif how == "no samples":
        (run / "samples.jsonl").unlink()
    elif how == "accuracy":
        edit(run / "results.json", by_k=[results["by_k"][0] | {"accuracy": 0.5}, *results["by_k"][1:]])
    elif how == "mean":
        edit(run / "results.json", mean_accuracy=0.9)
    elif how == "field":
        edit(run / "results.json", unparsed=None)
    elif how == "number":
        edit(run / "results.json", seconds="quick")
    elif how == "long":
        edit(run / "manifest.json", command=["x" * (MAX_CELL + 1)])
    return run


REFUSALS = {
    "unfinished": "unfinished.*stepgame resume",
    "errors": "2 stories ended in an error.*stepgame resume",
    "not all": "12 of 13 stories",
    "dirty": "uncommitted changes.*--allow-dirty",
    "no checkout": "outside a git checkout.*--allow-dirty",
    "samples": "samples.jsonl changed after.*stepgame rescore",
    "no samples": "samples.jsonl is missing",
    "accuracy": "results.json is not what its samples give",
    "mean": "results.json is not what its samples give",
    "field": "results.json has no 'unparsed'",
    "number": "seconds is 'quick'; expected a finite number",
    "long": "its command is 32,768 characters long",
}


@pytest.mark.parametrize("how", REFUSALS)
def test_refused_with_the_reason_all_or_nothing(
    runs: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "b.csv"
    publish([runs / "text"], board)
    before = board.read_bytes()
    bad = broken(runs, how)
    with pytest.raises(InputError, match=REFUSALS[how]):
        publish([runs / "random", bad], board)
    with pytest.raises(SystemExit) as stopped:
        main(["publish", str(runs / "random"), str(bad), "--board", str(board)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("stepgame: error: ") and said.count("\n") == 1
    assert board.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.csv", "runs"]


@pytest.mark.parametrize("how", ["dirty", "no checkout"])
def test_allow_dirty_marks_the_row(runs: Path, tmp_path: Path, how: str) -> None:
    publish([broken(runs, how), runs / "random"], tmp_path / "b.csv", allow_dirty=True)
    assert [row["dirty"] for row in rows_of(tmp_path / "b.csv")] == ["yes", "no"]


def test_one_measurement_twice_in_one_call(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "oracle", runs / "again")
    with pytest.raises(InputError, match=r"oracle and .*again are the same measurement"):
        publish([runs / "oracle", runs / "again"], tmp_path / "b.csv", replace=True)
    assert not (tmp_path / "b.csv").exists()


def test_files_that_are_no_board(runs: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    publish([runs / "oracle"], good)
    head, row = good.read_text().splitlines()
    width = len(header([]))
    cases = {
        "name,score\nx,1\n": "column 1 is 'name', expected 'model'",
        ",".join(head.split(",")[:-1]) + "\n": f"column {width} is missing, expected 'high_k10'",
        head + ",note\n": "has the columns 'note' besides",
        f"{head}\n{row},1\n": f"line 2: {width + 1} cells; the header has {width}",
        f"{head}\n{row}\n{row}\n": "line 3: holds the same measurement as line 2",
        f"{head}\n{row.replace(',2,4,', ',9,4,', 1)}\n": "line 2: schema is '9'",
        f'{head}\n"{row}\n': "line 2: not a CSV record",
    }
    for text, reason in cases.items():
        bad = tmp_path / "bad.csv"
        bad.write_text(text)
        with pytest.raises(InputError, match=reason):
            publish([runs / "random"], bad)
        assert bad.read_text() == text
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for path, reason in ((tmp_path / "bytes.csv", "not UTF-8"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=reason):
            publish([runs / "random"], path)


class Counted(list[Row]):
    """Rows that count how often one is looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Row]:
        for row in super().__iter__():
            self.looks += 1
            yield row

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.looks += len(found) if isinstance(place, slice) else 1
        return found


def test_lines_of_rows_are_counted_once(runs: Path, tmp_path: Path) -> None:
    publish([runs / "oracle"], tmp_path / "b.csv")
    book = Board.read(tmp_path / "b.csv")
    (row,) = book.rows
    rows = [Row(row.cells | {"prompt_sha256": f"{place:064x}"}, 'a,"b\n\nc"\r\n') for place in range(200)]
    book.rows = Counted(rows)
    assert not list(book.faults()) and book.line(199) == 2 + 3 * 199
    assert [book.line(place) for place in range(200)] == list(range(2, 602, 3))
    assert book.rows.looks < 5 * 200
    assert book.put(rows[5].cells, replace=True) == (5, True)
    assert [book.line(place) for place in (4, 5, 6, 199)] == [14, 17, 18, 597]


def test_empty_file_becomes_a_board(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "b.csv").touch()
    assert publish([runs / "oracle"], tmp_path / "b.csv").lines == (2,)
    assert len(rows_of(tmp_path / "b.csv")) == 1


def test_a_link_stays_a_link(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "b.csv").symlink_to(tmp_path / "real" / "b.csv")
    publish([runs / "oracle"], tmp_path / "b.csv")
    assert (tmp_path / "b.csv").is_symlink() and len(rows_of(tmp_path / "real" / "b.csv")) == 1


def publish_each(folders: list[Path], board: Path, start: multiprocessing.synchronize.Barrier) -> None:
    start.wait()
    for folder in folders:
        publish([folder], board)


def test_concurrent_writers_lose_nothing(runs: Path, tmp_path: Path) -> None:
    board = tmp_path / "b.csv"
    shares: list[list[Path]] = []
    for writer in range(4):
        share = []
        for number in range(5):
            copy = shutil.copytree(runs / "oracle", tmp_path / f"w{writer}-{number}")
            prompt = json.loads((copy / "manifest.json").read_text())["prompt"]
            edit(copy / "manifest.json", prompt=prompt | {"sha256": f"{writer}{number}" + "0" * 62})
            share.append(copy)
        shares.append(share)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(len(shares))
    writers = [context.Process(target=publish_each, args=(share, board, start)) for share in shares]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0] * 4
    published = [row["prompt_sha256"][:2] for row in rows_of(board)]
    assert sorted(published) == sorted(f"{w}{n}" for w in range(4) for n in range(5))
    for writer in range(4):
        assert [each for each in published if each[0] == str(writer)] == [f"{writer}{n}" for n in range(5)]
    assert not list(tmp_path.glob(".b.csv*"))


FORMULAS = ["=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", " =1", "\uff1d1"]
FORMULAS += ["a;=1+1", "a; @SUM(1)", "a\t=1", "a;b;-2+3", 'a;"=1', "a\r\n+1+1", '"=1', "-1;=1"]
HOSTILE = [*FORMULAS, "a\nb", "\u202eabc", "\ud800", 'q"']


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_neutralised(runs: Path, tmp_path: Path, name: str) -> None:
    manifest = json.loads((runs / "oracle" / "manifest.json").read_text())
    edit(runs / "oracle" / "manifest.json", model=manifest["model"] | {"spec": name})
    publish([runs / "oracle"], tmp_path / "b.csv")
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 2
    shown = rows_of(tmp_path / "b.csv")[0]["model"]
    assert shown.isprintable() and not re.search(r"(^|[;\t])[ \"]*[=+@＝]", shown) and not is_formula(shown)
    with pytest.raises(InputError, match="there already"):
        publish([runs / "oracle"], tmp_path / "b.csv")


@given(st.text(st.one_of(st.characters(), st.sampled_from("=+-@;\t\"' ")), max_size=20))
def test_any_text_is_a_safe_cell(text: str) -> None:
    shown = cell(text)
    assert shown.isprintable() and not is_formula(shown) and cell(shown) == shown
    assert not shown.lstrip(" ").startswith(("+", "-", "@", "=")) or float(shown) == float(text)
    line = io.StringIO(newline="")
    csv.writer(line).writerow([shown, "end"])
    assert next(csv.reader(io.StringIO(line.getvalue(), newline=""))) == [shown, "end"]


@pytest.mark.parametrize("number", ["-1", "+2.5", "-1e-3", "-.5", "1;-1", "k=1;b=2"])
def test_numbers_stay_numbers(number: str) -> None:
    assert cell(number) == number


def test_publish_prints_what_was_appended(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = str(tmp_path / "b.csv")
    with pytest.raises(SystemExit) as stopped:
        main(["publish", str(runs / "oracle"), str(runs / "text"), "--board", board])
    lines = capsys.readouterr().out.splitlines()
    assert not stopped.value.code and len(lines) == 2
    assert lines[0].startswith(f"appended {board}, line 2: oracle, zero-shot@1, choice, official")
    with pytest.raises(SystemExit):
        main(["publish", str(runs / "oracle"), "--board", board, "--replace"])
    assert capsys.readouterr().out.startswith(f"replaced {board}, line 2: oracle")


def test_plot_is_a_picture_and_the_same_each_time(runs: Path, tmp_path: Path) -> None:
    several = [load_run(runs / name) for name in ("oracle", "random", "text", "far")]
    signatures = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for suffix, signature in signatures.items():
        first = plot_accuracy(several, tmp_path / f"a{suffix}").read_bytes()
        assert first.startswith(signature)
        assert first == plot_accuracy(several, tmp_path / f"b{suffix}").read_bytes()
    assert first != plot_accuracy(several[:2], tmp_path / "c.pdf").read_bytes()


def test_plot_labels_tell_runs_apart(runs: Path) -> None:
    from leaderboards.plots import _labels, _subtitle

    rows = [row_of(load_run(runs / name)) for name in ("random", "oracle", "text")]
    assert _labels(rows) == ["random", "oracle (choice)", "oracle (generate)"]
    assert _labels([rows[1], rows[1]]) == ["oracle [1]", "oracle [2]"]
    assert _labels([rows[0], rows[1] | {"noise": "no"}]) == ["random (with noise)", "oracle (without noise)"]
    assert _subtitle(rows).splitlines()[0].startswith("official protocol, with noise")
    assert _subtitle(rows).splitlines()[1].startswith("4 stories per k")


def test_plot_of_hostile_names_and_refusals(runs: Path, tmp_path: Path) -> None:
    manifest = json.loads((runs / "oracle" / "manifest.json").read_text())
    edit(runs / "oracle" / "manifest.json", model=manifest["model"] | {"spec": r"_$\frac{" + "long/" * 60})
    hostile = load_run(runs / "oracle")
    assert plot_accuracy([hostile], tmp_path / "a.svg").stat().st_size > 0
    with pytest.raises(InputError, match=r"expected a suffix of \.png"):
        plot_accuracy([hostile], tmp_path / "a.gif")
    with pytest.raises(InputError, match="no run to plot"):
        plot_accuracy([], tmp_path / "a.png")
    (runs / "text" / "results.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        plot_accuracy([load_run(runs / "text")], tmp_path / "a.png")


def test_importing_loads_neither_matplotlib_nor_torch() -> None:
    program = (
        "import sys, leaderboards, leaderboards.board, leaderboards.plots, leaderboards.commands; "
        "sys.exit(', '.join({'matplotlib', 'torch', 'pandas'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_board_is_plain_data(runs: Path, tmp_path: Path) -> None:
    publish([runs / "oracle"], tmp_path / "b.csv")
    board = Board.read(tmp_path / "b.csv")
    assert board.hops == tuple(range(1, 11))
    assert board.text() == (tmp_path / "b.csv").read_text()
    assert Board.read(tmp_path / "none.csv").rows == []
