"""Names, noise counts, held-out phrases, unique rows and workers."""

import pytest

import stepgame
from stepgame.bank import load_bank
from stepgame.errors import InputError
from stepgame.formats import write_stream
from stepgame.generate import Recipe, repeats, stream
from stepgame.layout import NoiseCounts
from stepgame.names import agent_names, letter_names
from stepgame.noise import parse_noise_counts
from stepgame.read import is_agent_name
from stepgame.relations import DIRECTIONS
from stepgame.solve import judge


def asked(stories):
    return list(zip(map(tuple, stories.column("story")), stories.column("question"), strict=True))


def test_letters_count_as_spreadsheets_do():
    names = letter_names(20_000)
    assert names[:27] == [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "AA"]
    assert names[701] == "ZZ"
    assert len(set(names)) == len(names)
    assert all(map(is_agent_name, names))


@pytest.mark.parametrize("hops", [10, 200])
def test_named_by_words(hops):
    known = set(agent_names("words", 0))
    for row in stepgame.generate(hops, 3, noise=True, names="words", protocol="exact"):
        assert {fact[end] for fact in row["facts"] for end in ("head", "tail")} <= known
        assert judge(row["story"], row["question"]) == ("answered", row["label"])


def test_named_by_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("# mine\n" + "\n".join(f"Zq{i}" for i in range(30)))
    row = stepgame.generate(3, 1, names=path)[0]
    assert row["question"].count("Zq") == 2
    assert judge(row["story"], row["question"]) == ("answered", row["label"])
    with pytest.raises(InputError, match=r"can need \d+ agents, and there are 30 names"):
        stepgame.generate(40, 1, names=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ada\nAda\n", "line 2: 'Ada' stands on line 1 already"),
        ("Ada\nThe\n", "line 2: 'The' cannot be told from the words"),
        ("ada\n", "line 1: 'ada' cannot"),
        ("Ada Bell\n", "line 1"),
        ("", "0 names"),
    ],
)
def test_bad_name_files(tmp_path, content, message):
    path = tmp_path / "names.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        stepgame.generate(1, 1, names=path)


def test_unknown_naming_schemes():
    with pytest.raises(InputError, match="did you mean 'letters'"):
        stepgame.generate(1, 1, names="leters")
    with pytest.raises(InputError, match="cannot be read"):
        stepgame.generate(1, 1, names="no/such.txt")


def test_noise_counts_are_read():
    assert parse_noise_counts("disconnected=2,irrelevant=0-3,supporting=1") == NoiseCounts((2, 2), (0, 3), (1, 1))
    assert parse_noise_counts("irrelevant=1") == NoiseCounts((0, 0), (1, 1), (0, 0))
    stories = stepgame.generate(5, 50, noise_counts="irrelevant=2")
    assert {len(row["story"]) for row in stories} == {7}
    assert stories.metadata["noise"] is True
    assert [r["label"] for r in stories] == stepgame.generate(5, 50).column("label")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("irelevant=1", "did you mean 'irrelevant'"),
        ("irrelevant", "expected each kind once"),
        ("irrelevant=1,irrelevant=2", "expected each kind once"),
        ("irrelevant=3-1", "did you mean 1-3"),
        ("irrelevant=x", "expected a number or a range"),
        ("irrelevant=-1", "expected a number or a range"),
        ("disconnected=1", "at least 2"),
        ("supporting=5000", "at most"),
    ],
)
def test_bad_noise_counts(text, message):
    with pytest.raises(InputError, match=message):
        stepgame.generate(3, 1, noise_counts=text)


def test_phrases_can_be_held_out():
    whole = load_bank("core")
    used = {}
    for selection in ("train", "heldout"):
        bank = whole.select(selection)
        assert all(bank.phrases[direction] for direction in DIRECTIONS)
        rows = stepgame.generate(4, 400, noise=True, phrases=selection)
        used[selection] = {fact["phrase"] for row in rows for fact in row["facts"]}
        assert used[selection] == {phrase.name for phrase in bank}
        for row in rows[:20]:
            for sentence, fact in zip(row["story"], row["facts"], strict=True):
                relation, index = fact["phrase"].rsplit("/", 1)
                group = next(whole.phrases[d] for d in DIRECTIONS if d.label == relation)
                assert group[int(index)].render(fact["head"], fact["tail"]) == sentence
    assert used["train"] | used["heldout"] == {phrase.name for phrase in whole}
    assert not used["train"] & used["heldout"]
    with pytest.raises(InputError, match="too small to hold phrases out"):
        stepgame.generate(1, 1, bank="plain", phrases="heldout")
    with pytest.raises(InputError, match="unknown selection"):
        stepgame.generate(1, 1, phrases="test")


def test_rows_alike_are_counted():
    n = 5000
    sets = {split: asked(stepgame.generate(1, n, split=split)) for split in ("train", "validation", "test")}
    others = set(sets["train"]) | set(sets["validation"])
    found = repeats(Recipe((1, 4), n))
    assert found[1].within == n - len(set(sets["test"])) > 0
    assert found[1].shared == sum(row in others for row in sets["test"]) > 0
    assert found[4] == (0, 0)


def test_unique_rows_are_unique_in_and_between_splits():
    n = 5000
    sets = {split: stepgame.generate(1, n, split=split, unique=True) for split in ("train", "validation", "test")}
    rows = [row for stories in sets.values() for row in asked(stories)]
    assert len(set(rows)) == len(rows) == 3 * n
    more = stepgame.generate(1, n + 1, unique=True)
    assert more[:n].table.equals(sets["test"].table)
    # A unique row is the ordinary row of its number.
    number = sets["test"][100]["index"]
    assert stepgame.generate(1, 1, first=number)[0] == sets["test"][100]
    assert repeats(Recipe((1,), n, unique=True))[1] == (0, 0)


def test_a_split_cannot_be_larger_than_the_rows_there_are(tmp_path):
    with pytest.raises(InputError, match=r"test at 1 hops: only about [\d,]+ different rows exist"):
        stepgame.generate(1, 20_000, unique=True, bank="plain")


@pytest.mark.parametrize("format", ["parquet", "jsonl", "arrow"])
def test_bytes_are_the_same_for_any_number_of_workers(tmp_path, format):
    # More than one block of rows; text is slow to write, so there is less of it.
    recipe = Recipe((2, 3) if format == "parquet" else (2,), 17_000, noise=True)
    files = [write_stream(stream(recipe, n), tmp_path / str(n), format).read_bytes() for n in (1, 2, 5)]
    assert files[0] == files[1] == files[2]
    with pytest.raises(InputError, match="at least 1"):
        list(stream(recipe, 0))
