import importlib
import importlib.util
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepgame
from stepgame import cli
from stepgame.audit import audit, examine, mark_repeats
from stepgame.audit_tally import BASELINES, FINDINGS, INFORMATION
from stepgame.errors import InputError
from stepgame.fix import REASONS, fix
from stepgame.formats import FORMATS, suffix_of, write
from stepgame.relations import NAMES, Relation
from stepgame.stories import SCHEMA, Stories
from stepgame.terminal import printable

DEFECTS = ("label", "contradiction", "cut", "garbled", "question", "repeat")
EFFECTS = {
    "label": ("mislabelled",),
    "contradiction": ("contradictory",),
    "cut": ("unconnected",),
    "garbled": ("unreadable_sentences", "stories_unreadable"),
    "question": ("unreadable_questions", "unconnected"),
    "repeat": ("duplicates", "duplicates_reordered", "repeated_layouts"),
}
PER_HOP = 8
HERE = [name for name in FORMATS if name != "datasets" or importlib.util.find_spec("datasets")]


def table_of(rows):
    return Stories(pa.table({field.name: pa.array([r[field.name] for r in rows], field.type) for field in SCHEMA}))


def names_of(row, role):
    return [place for place, fact in enumerate(row["facts"]) if fact["role"] == role]


def opposite(fact):
    return f"{fact['head']} is {Relation.parse(fact['relation']).inverse.label} of {fact['tail']}."


def damage(row, defect):
    """Give a generated row one defect and no other."""
    changed = row | {"story": list(row["story"]), "facts": None}
    asked = row["question"]
    if defect == "label":
        changed["label"] = NAMES[(NAMES.index(row["label"]) + 1) % len(NAMES)]
    elif defect == "contradiction":
        supporting = names_of(row, "supporting")
        if supporting:
            changed["story"][supporting[0]] = opposite(row["facts"][supporting[0]])
        else:
            changed["story"].append(opposite(row["facts"][0]))
    elif defect == "cut":
        head, _ = stepgame.read_question(asked)
        kept = [s for s, f in zip(row["story"], row["facts"], strict=True) if head not in (f["head"], f["tail"])]
        changed["story"] = kept
    elif defect == "garbled":
        changed["story"][names_of(row, "disconnected")[0]] = "Z lies left of Z."
    elif defect == "question":
        changed["question"] = "Why is that so?"
    return changed


def planted(hops, plan, seed):
    """Return a damaged data set, and by k what an audit of it must count."""
    expected = {k: Counter() for k in hops}
    rows = []
    for k in hops:
        made = list(stepgame.generate(k, PER_HOP, noise=True, seed=seed))
        defects = plan[k]
        for row, defect in zip(made, defects, strict=False):
            rows.append(row if defect == "repeat" else damage(row, defect))
            if defect == "repeat":
                rows.append(row | {"id": f"{row['id']}-again"})
            expected[k].update(EFFECTS[defect])
        rows += made[len(defects) :]
        expected[k]["stories"] = PER_HOP + defects.count("repeat")
    return table_of(rows), expected


def check_counts(tally, expected, ignored=()):
    for kind in (*FINDINGS, *INFORMATION, "stories"):
        if kind in tally and kind not in ignored:
            assert tally[kind] == expected[kind], kind


@settings(max_examples=40, deadline=None)
@given(data=st.data(), format=st.sampled_from(HERE), seed=st.integers(0, 2**32))
def test_finds_exactly_what_was_planted(tmp_path_factory, data, format, seed):
    hops = data.draw(st.lists(st.integers(2, 12), min_size=1, max_size=3, unique=True).map(sorted))
    plan = {k: data.draw(st.lists(st.sampled_from(DEFECTS), max_size=PER_HOP)) for k in hops}
    stories, expected = planted(hops, plan, seed)
    # The official formats know k by the file's name only, so each k has a file.
    folder = tmp_path_factory.mktemp("planted")
    ks = np.array(stories.column("k_hop"))
    files = [
        write(Stories(stories.table.filter(pa.array(ks == k))), folder / f"qa{k}_test{suffix_of(format)}") for k in hops
    ]
    report = audit(files).to_dict()
    # Stories of few hops may share a layout by chance.
    by_chance = ("repeated_layouts",)
    for file, k in zip(report["files"], hops, strict=True):
        check_counts(file, expected[k], by_chance)
        check_counts(file["by_k"][str(k)], expected[k], by_chance)
        check_counts(report["totals"]["by_k"][str(k)], expected[k], by_chance)
        assert file["repeated_layouts"] >= expected[k]["repeated_layouts"]
    check_counts(report["totals"], sum(expected.values(), Counter()), by_chance)
    assert report["clean"] == (not any(plan.values()))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32), relabel=st.booleans())
def test_what_is_fixed_audits_clean(data, seed, relabel):
    hops = [2, 5]
    plan = {k: data.draw(st.lists(st.sampled_from(DEFECTS), max_size=PER_HOP - 1)) for k in hops}
    stories, _ = planted(hops, plan, seed)
    defects = Counter(defect for defects in plan.values() for defect in defects)
    fixed, report = fix(stories, relabel=relabel)
    assert audit(fixed).clean
    assert report.relabelled == (defects["label"] if relabel else 0)
    assert report.dropped == {
        "unreadable": defects["garbled"] + defects["question"],
        "contradictory": defects["contradiction"],
        "unconnected": defects["cut"],
        "mislabelled": 0 if relabel else defects["label"],
        "duplicate": defects["repeat"],
    }
    assert report.kept + report.relabelled == len(fixed) == len(stories) - sum(report.dropped.values())
    originals = {row["id"]: row for row in stepgame.generate(hops, PER_HOP, noise=True, seed=seed)}
    for row in fixed:
        assert row["label"] == originals[row["id"]]["label"]


def test_a_clean_set_is_fixed_to_itself():
    stories = stepgame.generate("1-4", 20, noise=True)
    fixed, report = fix(stories)
    assert fixed.table.equals(stories.table)
    assert (report.kept, report.relabelled, sum(report.dropped.values())) == (80, 0, 0)


def test_of_repeated_rows_the_first_good_one_is_kept():
    row = stepgame.generate(4, 1, noise=True)[0]
    wrong = damage(row, "label") | {"id": "wrong"}
    fixed, report = fix(table_of([wrong, row, row | {"id": "again"}]))
    assert fixed.column("id") == [row["id"]]
    assert report.dropped == dict.fromkeys(REASONS, 0) | {"mislabelled": 1, "duplicate": 1}


def test_examples_say_where_and_why():
    story = ["A is left of B.", "B is left of C.", "C is C.", "Why not.", "A is above C.", "A is below C."]
    rows = [
        {"story": story, "question": "Where is A relative to C?", "label": "left"},
        {"story": story[:3], "question": "Where is A relative to C?", "label": "above"},
        {"story": story[:2], "question": "Where is A relative to D?", "label": "above"},
        {"story": story[:2], "question": "Where?", "label": "above"},
        {"story": story[:2], "question": "Where?", "label": "left"},
    ]
    blank = dict.fromkeys(("hops", "facts", "split", "seed"))
    stories = table_of([row | blank | {"id": f"r{i}", "k_hop": 2, "index": i} for i, row in enumerate(rows)])
    report = audit(stories, examples=1)
    found = {kind: (e.row, e.sentence, e.text) for kind, (e,) in report.files[0].examples.items()}
    assert found == {
        "unreadable_sentences": (0, 2, "C is C."),
        "unreadable_questions": (3, None, "Where?"),
        "contradictory": (0, 4, "A is above C."),
        "unconnected": (2, None, "Where is A relative to D?"),
        "mislabelled": (1, None, "Where is A relative to C?"),
        "duplicates": (4, None, "Where?"),
    }
    what = {kind: e.what for kind, (e,) in report.files[0].examples.items()}
    assert "(-2, +0)" in what["contradictory"]
    assert "'D', which the story does not" in what["unconnected"]
    assert what["mislabelled"] == "label above, literally left: A left B, B left C"
    assert what["duplicates"] == "the same as row 3"
    counts = report.all.counts
    assert (counts["unreadable_sentences"], counts["stories_unreadable"], counts["unconnected"]) == (3, 2, 3)
    assert audit(stories, examples=0).files[0].examples == {}


def test_overlap_and_rows_of_earlier_files(tmp_path):
    train = stepgame.generate(3, 30, noise=True, split="train")
    test = stepgame.generate(3, 30, noise=True, split="test")
    leaked = Stories.concat([test, train[4:6], train[9:10]])
    report = audit(leaked, against=train)
    assert report.findings == {"overlap": 3}
    assert report.by_k[3].counts["overlap"] == 3
    path = write(train, tmp_path / "qa3_train.jsonl")
    (first, *_) = audit(leaked, against=path).files[0].examples["overlap"]
    assert (first.row, first.what) == (30, f"the same as row 4 of {path}")
    assert audit(test, against=[train, path]).clean
    assert "overlap" not in audit(leaked).to_dict()["totals"]
    both = audit([path, leaked])
    assert both.clean
    assert [file.all.counts["in_earlier_files"] for file in both.files] == [0, 3]


def retold(row, names, order):
    """Tell a story again: other names, every sentence the other way round and in one plain wording, other order."""
    told = []
    for fact in row["facts"]:
        relation = Relation.parse(fact["relation"]).inverse.label
        told.append(f"{names[fact['tail']]} is {relation} of {names[fact['head']]}.")
    head, tail = stepgame.read_question(row["question"])
    question = f"Where is {names[head]} relative to {names[tail]}?"
    return row | {"story": [told[i] for i in order], "question": question, "facts": None}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 30), st.booleans(), st.integers(0, 2**32))
def test_layouts_are_known_again(data, hops, noise, seed):
    row = stepgame.generate(hops, 1, noise=noise, seed=seed)[0]
    agents = sorted({fact[side] for fact in row["facts"] for side in ("head", "tail")})
    names = dict(zip(agents, data.draw(st.permutations(agents)), strict=True))
    order = data.draw(st.permutations(range(len(row["story"]))))
    again = retold(row, names, order)
    place = data.draw(st.integers(0, len(row["story"]) - 1))
    turned = again | {"story": list(again["story"])}
    first, _, rest = turned["story"][place].partition(" is ")
    told, _, last = rest.rpartition(" of ")
    # Two places on among the eight is never the inverse, which may well be the same layout under other names.
    turned["story"][place] = f"{first} is {NAMES[(NAMES.index(told) + 2) % 8]} of {last}"
    rows = examine(table_of([row, again, turned]))
    assert rows.layout[0] == rows.layout[1]
    assert rows.layout[0] != rows.layout[2]
    assert len(set(rows.exact.tolist())) == (3 if again["story"] != row["story"] else 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_shuffled_stories_keep_their_unordered_key(hops, seed, random):
    row = stepgame.generate(hops, 1, noise=True, seed=seed)[0]
    shuffled = random.sample(row["story"], len(row["story"]))
    rows = examine(table_of([row, row | {"story": shuffled, "facts": None}]))
    assert rows.unordered[0] == rows.unordered[1]
    assert (rows.exact[0] == rows.exact[1]) == (shuffled == row["story"])


def test_repeats_are_those_of_a_plain_loop():
    keys = np.random.default_rng(0).integers(0, 50, 200).astype(np.uint64)
    repeated, origin = mark_repeats(keys)
    known = keys.tolist()
    assert origin.tolist() == [known.index(key) for key in known]
    assert repeated.tolist() == [known.index(key) < i for i, key in enumerate(known)]


def surface_answers(row):
    """Answer as the baselines do, one row at a time; None where one has nothing to go by."""
    head, tail = stepgame.read_question(row["question"])
    facts = [stepgame.read_sentence(sentence) for sentence in row["story"]]
    near = next((f for f in facts if head in (f.head, f.tail)), None)
    pair = next((f for f in facts if {head, tail} == {f.head, f.tail}), None)
    return {
        "first_sentence": facts[0].relation.label,
        "last_sentence": facts[-1].relation.label,
        "asked_head": near and (near if near.head == head else near.inverse()).relation.label,
        "asked_pair": pair and (pair if pair.head == head else pair.inverse()).relation.label,
    }


@pytest.mark.parametrize("noise", [True, False])
def test_measures_are_those_of_a_plain_loop(noise):
    stories = stepgame.generate("1-5", 60, noise=noise, seed=3)
    report = audit(stories)
    for k, tally in [*report.by_k.items(), (None, report.all)]:
        rows = [row for row in stories if k in (None, row["k_hop"])]
        labels = Counter(row["label"] for row in rows)
        assert dict(zip(NAMES, tally.labels, strict=True)) == {name: labels[name] for name in NAMES}
        top = labels.most_common(1)[0][1]
        majority = next(name for name in NAMES if labels[name] == top)
        expected = {"majority": top}
        for name in list(BASELINES)[1:]:
            guesses = [surface_answers(row)[name] or (majority if name == "asked_pair" else None) for row in rows]
            expected[name] = sum(guess == row["label"] for guess, row in zip(guesses, rows, strict=True))
        assert tally.baselines == pytest.approx({name: right / len(rows) for name, right in expected.items()})
        paths = [len(stepgame.solve(row["story"], row["question"]).path) for row in rows]
        assert tally.hops == dict(sorted(Counter(paths).items()))
        assert tally.mean_hops == pytest.approx(np.mean(paths))
        shares = np.array(list(labels.values())) / len(rows)
        assert tally.label_entropy == pytest.approx(-(shares * np.log(shares)).sum() / np.log(9))


def test_audits_large_tables_in_blocks(monkeypatch):
    stories = stepgame.generate("1-3", 40, noise=True)
    whole = audit(stories).to_dict()
    monkeypatch.setattr(importlib.import_module("stepgame.audit"), "_BLOCK", 7)
    assert audit(stories).to_dict() == whole


def test_frame_has_a_row_for_each_file_and_k():
    frame = audit([stepgame.generate("1-2", 5), stepgame.generate(3, 4)]).to_pandas()
    assert frame[["k_hop", "stories"]].to_numpy().tolist() == [[1, 5], [2, 5], [3, 4]]
    assert set(frame.columns) >= {"file", *FINDINGS} - {"overlap"}


@pytest.mark.parametrize("nothing", [[], Stories(stepgame.generate(1, 1).table.slice(0, 0))])
def test_nothing_to_audit(nothing):
    with pytest.raises(InputError, match="expected at least one"):
        audit(nothing)


def test_wrong_types_and_numbers():
    with pytest.raises(InputError, match="cannot audit int"):
        audit([3])
    with pytest.raises(InputError, match="-1 examples"):
        audit(stepgame.generate(1, 1), examples=-1)


def command(*words):
    """Run the command line and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in words])
    return caught.value.code


@pytest.fixture
def broken(tmp_path):
    stories, expected = planted([3, 5], {3: list(DEFECTS), 5: ["label", "label", "contradiction"]}, seed=8)
    return write(stories, tmp_path / "broken.jsonl"), sum(expected.values(), Counter())


def test_command_exit_codes(tmp_path, broken, capsys):
    clean = write(stepgame.generate("1-3", 10, noise=True), tmp_path / "clean.parquet")
    assert command("audit", clean) == 0
    assert "30 stories in 1 file: clean" in capsys.readouterr().out
    assert command("audit", clean, broken[0]) == 1
    assert "mislabelled 3" in capsys.readouterr().out
    assert command("audit", tmp_path / "claen.parquet") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"stepgame: error: .*no such file \(did you mean 'clean.parquet'\?\)\n", captured.err)


def test_json_has_every_name_and_is_written_whole(tmp_path, broken):
    path, expected = broken
    assert command("audit", path, "--json", tmp_path / "deep" / "a.json", "--examples", 2) == 1
    report = json.loads((tmp_path / "deep" / "a.json").read_text())
    assert report["format"] == 1
    (file,) = report["files"]
    assert file["file"] == str(path)
    check_counts(file, expected, ("repeated_layouts",))
    assert list(file["by_k"]) == ["3", "5"]
    assert set(file["by_k"]["3"]) == set(file) - {"file", "by_k", "examples"}
    assert all(1 <= len(few) <= 2 for few in file["examples"].values())
    assert set(file["examples"]) == set(FINDINGS) - {"stories_unreadable", "overlap"}
    assert set(report["totals"]) == set(file) - {"file", "examples"}


@pytest.mark.parametrize("flag", ["--json", "--html"])
def test_reports_never_replace_data(tmp_path, broken, capsys, flag):
    path, _ = broken
    before = path.read_bytes()
    assert command("audit", path, flag, path) == 2
    assert "is one of the files of stories" in capsys.readouterr().err
    assert command("audit", path, flag, tmp_path) == 2
    assert "is a folder" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_text_names_files_and_cannot_steer_a_terminal(tmp_path):
    row = stepgame.generate(2, 1)[0]
    evil = row | {"story": ["A is left of \x1b[31m[bold]B\x07."], "facts": None}
    path = write(table_of([evil]), tmp_path / "qa2_[red].jsonl")
    text = audit(path).to_text()
    assert "qa2_[red].jsonl" in text
    assert "[bold]B" in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert printable("a\x1b\u202eb") == "a\ufffd\ufffdb"


def test_page_stands_alone(tmp_path, broken):
    pytest.importorskip("matplotlib")
    row = stepgame.generate(2, 1)[0]
    evil = row | {"story": ["<script>alert('A')</script> & B."], "facts": None}
    other = write(table_of([evil]), tmp_path / "<b>qa2.jsonl")
    page = tmp_path / "a.html"
    assert command("audit", broken[0], other, "--html", page) == 1
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<b>" not in text
    body = text[text.index("<body>") : text.index("</html>")]
    # The page is well-formed, and no id occurs twice.
    parsed = list(ElementTree.parse(io.StringIO(body)).iter())
    ids = [element.get("id") for element in parsed if element.get("id")]
    assert len(ids) == len(set(ids))
    plots = [element for element in parsed if element.tag.endswith("svg")]
    assert len(plots) == 3
    assert all(plot.get("role") == "img" and plot.get("aria-label") for plot in plots)
    links = [value for e in parsed for name, value in e.items() if name.rpartition("}")[2] in ("href", "src")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "#0102" not in body
    assert "prefers-color-scheme: dark" in text


def test_page_of_clean_data_and_many_k():
    pytest.importorskip("matplotlib")
    page = audit(stepgame.generate("1-40", 2)).to_html()
    assert "80 stories in 1 file: " in page
    assert page == audit(stepgame.generate("1-40", 2)).to_html()


@pytest.mark.parametrize("format", HERE)
def test_fix_command(tmp_path, broken, capsys, format):
    path, expected = broken
    out = tmp_path / f"fixed{suffix_of(format)}"
    assert command("fix", path, "--out", out) == 0
    captured = capsys.readouterr()
    assert "3 mislabelled" in captured.out
    assert ("no room for k_hop" in captured.err) == (format in ("json", "babi"))
    assert command("audit", out) == 0
    assert command("fix", path, "--out", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert command("fix", path, "--out", out, "--overwrite", "--relabel") == 0
    assert "3 relabelled" in capsys.readouterr().out
    assert command("audit", out) == 0
    assert len(stepgame.load(out)) == expected["stories"] - 6


def test_fix_refuses_what_it_cannot_do(tmp_path, broken, capsys):
    path, _ = broken
    assert command("fix", path, "--out", tmp_path / "x.doc") == 2
    assert "names no format" in capsys.readouterr().err
    assert command("fix", tmp_path / "missing.jsonl", "--out", tmp_path / "x.jsonl") == 2
    wrong = write(table_of([damage(stepgame.generate(3, 1)[0], "label")]), tmp_path / "wrong.jsonl")
    capsys.readouterr()
    assert command("fix", wrong, "--out", tmp_path / "x.jsonl") == 2
    assert "no row passes; nothing was written. 1 rows: 0 kept" in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()
    (tmp_path / "folder").mkdir()
    assert command("fix", path, "--out", tmp_path / "folder", "--overwrite") == 2
    assert "holds other things" in capsys.readouterr().err
