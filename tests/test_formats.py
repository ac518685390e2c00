import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stepgame
from stepgame.bulk import judge_all
from stepgame.errors import InputError
from stepgame.formats import FORMATS, load, suffix_of, write, write_stream
from stepgame.generate import Recipe, stream
from stepgame.stories import SCHEMA

ASKED = ("story", "question", "label", "k_hop")
LOSSLESS = ("parquet", "jsonl", "arrow", "csv", "datasets")


@pytest.fixture(scope="module")
def stories():
    return stepgame.generate(4, 30, noise=True, seed=5)


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip(tmp_path, stories, format):
    path = write(stories, tmp_path / f"qa4_test{suffix_of(format)}")
    back = load(path)
    assert back.sha256() == stories.sha256()
    assert [row["story"] for row in back] == [row["story"] for row in stories]
    if format in LOSSLESS:
        assert back.table.to_pylist() == stories.table.to_pylist()
    else:
        assert back.column("hops") == [None] * 30
        assert back[0]["id"] == "qa4_test-0"
    if format in ("parquet", "arrow"):
        assert back.metadata == stories.metadata


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_are_the_same_every_time(tmp_path, format):
    files = []
    for name in ("a", "b"):
        path = write_stream(stream(Recipe((3,), 200, True)), tmp_path / name, format)
        files.append(next(path.glob("*.arrow")).read_bytes() if path.is_dir() else path.read_bytes())
    assert files[0] == files[1]


def test_official_shapes(tmp_path, stories):
    official = json.loads(write(stories, tmp_path / "x.json").read_text())
    assert list(official) == [str(i) for i in range(30)]
    assert set(official["0"]) == {"story", "question", "label"}
    lines = write(stories, tmp_path / "x.txt").read_text().split("\n")
    assert lines[0] == f"1 {stories[0]['story'][0]}"
    assert lines[len(stories[0]["story"])].endswith(f"{stories[0]['question']}\t{stories[0]['label']}\t1")


def test_a_saved_dataset_has_a_card_and_is_replaced_whole(tmp_path, stories):
    folder = write(stories, tmp_path / "saved")
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert json.dumps(stories.metadata, indent=2) in card
    assert all(f"`{name}`" in card for name in SCHEMA.names)
    write(stories[:3], folder)
    assert len(load(folder)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_hub_dataset_needs_the_hub(monkeypatch):
    # The environment variable is read when the libraries are imported, which may have been long ago.
    for switch in ("datasets.config.HF_HUB_OFFLINE", "huggingface_hub.constants.HF_HUB_OFFLINE"):
        monkeypatch.setattr(switch, True)
    with pytest.raises(InputError, match="hf-dataset:nobody/nothing: cannot be loaded"):
        load("hf-dataset:nobody/nothing")


def test_k_as_text_and_from_names(tmp_path):
    row = {"story": ["A is left of B."], "question": "Where is A relative to B?", "label": "left"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row | {"k_hop": "3"}) + "\n")
    assert load(tmp_path / "t.jsonl")[0]["k_hop"] == 3
    (tmp_path / "noise_qa7_valid.json").write_text(json.dumps({"0": row}))
    assert load(tmp_path / "noise_qa7_valid.json")[0]["k_hop"] == 7
    (tmp_path / "other.json").write_text(json.dumps([row]))
    assert load(tmp_path / "other.json")[0]["k_hop"] == 1
    assert len(load([tmp_path / "t.jsonl", tmp_path / "other.json"])) == 2


GOOD_ROW = {"story": ["A is left of B."], "question": "Where is A relative to B?", "label": "left"}


def broken(**changes):
    return {key: value for key, value in (GOOD_ROW | changes).items() if value is not ...}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n ", "is empty"),
        ("hello", "unknown format: begins with 'hello'"),
        ("[]", "holds no stories"),
        ("{}", "holds no stories"),
        ('{"0": ', "not valid JSON.*cut off"),
        (json.dumps({"0": GOOD_ROW})[:-20], "not valid JSON"),
        (json.dumps(GOOD_ROW) + "\n" + json.dumps(GOOD_ROW)[:40], "line 2: not valid JSON"),
        (json.dumps(GOOD_ROW) + " " + json.dumps(GOOD_ROW) + "\n", "not valid JSON: Extra data"),
        (json.dumps({"0": 3}), "'3' is no object"),
        (json.dumps({"0": broken(label="uper-left")}), "row '0': field 'label'.*did you mean 'upper-left'"),
        (json.dumps({"0": broken(label=...)}), "field 'label' is missing"),
        (json.dumps({"0": broken(story=...)}), "field 'story' is missing"),
        (json.dumps({"0": broken(story=[])}), "field 'story'"),
        (json.dumps({"0": broken(story="A is left of B.")}), "expected a list of sentences"),
        (json.dumps({"0": broken(story=[1])}), "expected a list of sentences"),
        (json.dumps({"0": broken(question=" ")}), "field 'question'"),
        (json.dumps(broken(k_hop="many")), "line 1: field 'k_hop' is 'many'; expected a whole number"),
        (json.dumps(broken(k_hop=True)), "field 'k_hop'"),
        (json.dumps(broken(k_hop=10**9)), "field 'k_hop'"),
        (json.dumps(broken(facts=[{}])), "field 'facts'"),
        ("1 A is left of B.\n2 Where is A?\tleft\t1\n1 C is left of D.\n", "cut off"),
        ("1 A is left of B.\n3 Where is A?\tleft\t1\n", "line 2: expected 2"),
        ("1 A is left of B.\n2 Where is A?\tnowhere\t1\n", "line 2: field 'label'"),
        ('{"story": ["a\0"]}', "NUL byte"),
        (b"\xff\xfe{}", "not UTF-8 text at byte 0"),
        (b"PAR1nonsense", "broken Parquet file"),
        (b"ARROW1nonsense", "broken Arrow file"),
        ('story,question,label\n"[""A is left of B.""]",Where is A relative to B?\n', "line 2: expected 3 cells"),
        ("story,question,label\nA is left of B.,Where is A?,left\n", "line 2: field 'story': not valid JSON"),
        ('story,question,label\n"[""A.""]"x,Where?,left\n', "not valid CSV"),
        ("[" * 100_000, "nested too deeply|not valid JSON"),
        (f'{{"0": {json.dumps(GOOD_ROW)}, "0": {json.dumps(GOOD_ROW)}}}', "the key '0' occurs twice"),
        ('{"story": ["A is left of B."], "label": "left", "label": "right"}', "line 1: the key 'label' occurs twice"),
        (json.dumps(broken(question="\ud800?")), "line 1: field 'question'"),
        (json.dumps(broken(story=["A is left of \udfff."])), "line 1: field 'story'"),
    ],
)
def test_bad_files_say_file_row_field_and_expectation(tmp_path, content, message):
    path = tmp_path / "bad.dat"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_folders_and_foreign_tables(tmp_path):
    (tmp_path / "qa1_test.json").write_text(json.dumps({"0": GOOD_ROW}))
    with pytest.raises(InputError, match=r"no such file \(did you mean 'qa1_test.json'"):
        load(tmp_path / "qa1_tset.json")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="without the columns story, question, label"):
        load(tmp_path / "x.parquet")
    table = stepgame.generate(1, 2).table
    wrong = table.set_column(3, SCHEMA.field("label"), pa.array(["left", "nowhere"]))
    pq.write_table(wrong, tmp_path / "y.parquet")
    with pytest.raises(InputError, match="'nowhere'"):
        load(tmp_path / "y.parquet")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("story", [], r"row 1: field 'story' is '\[\]'"),
        ("story", None, "row 1: field 'story' is 'None'"),
        ("story", [None, "A is left of B."], "row 1: field 'story'"),
        ("story", ["  "], "row 1: field 'story'"),
        ("question", None, "row 1: field 'question' is 'None'"),
        ("question", " ", "row 1: field 'question'"),
        ("label", None, "row 1: field 'label'"),
        ("label", "lefft", "row 1: field 'label'.*did you mean 'left'"),
        ("k_hop", -3, "row 1: field 'k_hop' is '-3'; expected a whole number 1 to 1000"),
        ("hops", 2000, "row 1: field 'hops'"),
        ("facts", [], "row 1: field 'facts'"),
        ("facts", [None], "row 1: field 'facts'"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_bad_value_in_a_table_is_said_like_one_in_text(tmp_path, kind, name, value, message):
    rows = stepgame.generate(2, 3).table.to_pylist()
    rows[1][name] = value
    table = pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in SCHEMA]))
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_table_with_the_asked_columns_only_is_filled_in(tmp_path, stories):
    few = stories.table.select(["label", "story", "question"]).append_column("k_hop", pa.array(["4"] * len(stories)))
    pq.write_table(few.append_column("note", pa.array(range(len(stories)))), tmp_path / "few.parquet")
    back = load(tmp_path / "few.parquet")
    assert back.sha256() == stories.sha256()
    assert back[2] | {"id": "", "index": 0} == {
        **dict.fromkeys(("hops", "facts", "split", "seed")),
        **{name: stories[2][name] for name in ASKED},
        "id": "",
        "index": 0,
    }


@pytest.mark.parametrize("damage", [b'{"hops"', b'{"hops": "\x83"}'])
def test_damaged_metadata_is_said(tmp_path, stories, damage):
    table = stories.table.replace_schema_metadata({b"stepgame": damage})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match="metadata is damaged"):
        load(tmp_path / "x.parquet")


def test_unknown_formats_and_suffixes(tmp_path, stories):
    with pytest.raises(InputError, match="did you mean 'parquet'"):
        write(stories, tmp_path / "x.parquet", "parket")
    with pytest.raises(InputError, match="names no format"):
        write(stories, tmp_path / "x.doc")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_leaves_nothing_behind(tmp_path, stories):
    def parts():
        yield stories
        raise KeyboardInterrupt

    target = tmp_path / "data.jsonl"
    target.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        write_stream(parts(), target, "jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
    assert target.read_text() == "before"


SPLICES = (b"\0", b"\n", b'"', b"\\ud800", b"null", b"-1", b"[]", b"{", b"9" * 25, b"\xff\xfe", b"\t", b"1e999", b" ")
"""What damage and careless hands put into files."""


def mutate(raw, draw):
    """Damage bytes in one to four places."""
    raw = bytearray(raw)
    for _ in range(draw.randint(1, 4)):
        at, to = sorted((draw.randrange(len(raw) + 1), draw.randrange(len(raw) + 1)))
        kind = draw.choice(("change", "change", "drop", "cut", "double", "splice", "splice", "swap"))
        if kind == "change":
            raw[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == "drop":
            del raw[at : draw.choice((at + 1, to))]
        elif kind == "cut":
            raw = raw[: max(1, at)]
        elif kind == "double":
            raw[at:at] = raw[at:to]
        elif kind == "splice":
            raw[at : at + draw.choice((0, 1, 4))] = draw.choice(SPLICES)
        elif to < len(raw):
            raw[at], raw[to] = raw[to], raw[at]
    return bytes(raw)


@pytest.mark.parametrize("format", ["json", "jsonl", "babi", "csv", "parquet", "arrow"])
def test_mutated_files_load_or_give_one_clear_line(tmp_path, stories, format):
    raw = write(stories[:4], tmp_path / f"qa4_test{suffix_of(format)}", format).read_bytes()
    path, loaded, refused = tmp_path / "mutated", 0, 0
    for seed in range(1700):
        path.write_bytes(mutate(raw, random.Random(seed)))
        try:
            found = load(path)
        except InputError as error:
            assert "\n" not in str(error), seed
            assert str(path) in str(error), seed
            refused += 1
            continue
        # What loads must also be fit for all that comes behind.
        assert len(judge_all(found.table).status) == len(found) > 0, seed
        found.sha256()
        loaded += 1
    assert loaded > 10
    assert refused > 400
