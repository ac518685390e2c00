import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepgame
from stepgame.errors import InputError
from stepgame.generate import Recipe, stream
from stepgame.read import Fact, read_question, read_sentence
from stepgame.relations import Relation
from stepgame.solve import judge
from stepgame.stories import SCHEMA, Stories

recipes = st.builds(
    Recipe,
    hops=st.integers(1, 30).map(lambda k: (k,)),
    per_hop=st.just(3),
    noise=st.booleans(),
    protocol=st.sampled_from(["official", "exact"]),
    split=st.sampled_from(["train", "validation", "test"]),
    seed=st.integers(-(2**63), 2**63 - 1),
    first=st.integers(0, 2**40),
)


def as_fact(fact):
    return Fact(fact["head"], Relation.parse(fact["relation"]), fact["tail"])


@settings(max_examples=150, deadline=None)
@given(recipes)
def test_every_story_is_read_back_solved_and_free_of_contradiction(recipe):
    for row in Stories.concat(stream(recipe)):
        assert len(row["story"]) == len(row["facts"])
        for sentence, fact in zip(row["story"], row["facts"], strict=True):
            assert read_sentence(sentence).canonical() == as_fact(fact).canonical()
        assert judge(row["story"], row["question"]) == ("answered", row["label"])
        answer = stepgame.solve(row["story"], row["question"])
        assert answer.label == row["label"]
        assert read_question(row["question"]) == (answer.path[0].head, answer.path[-1].tail)
        if not recipe.noise:
            assert len(answer.path) == row["hops"]
            assert len(row["story"]) == row["k_hop"]


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_noise_never_changes_the_answer(recipe):
    common = {"protocol": recipe.protocol, "split": recipe.split, "seed": recipe.seed, "first": recipe.first}
    clean = stepgame.generate(recipe.hops, 3, noise=False, **common)
    noisy = stepgame.generate(recipe.hops, 3, noise=True, **common)
    for plain, row in zip(clean, noisy, strict=True):
        for field in ("id", "question", "label", "k_hop", "hops"):
            assert plain[field] == row[field]
        chain = [i for i, fact in enumerate(row["facts"]) if fact["role"] == "chain"]
        assert [row["story"][i] for i in chain] == plain["story"]
        assert len(row["story"]) > len(plain["story"])


def test_rows_have_the_documented_shape():
    stories = stepgame.generate("1-3,7", 4, noise=True, seed=7, split="train")
    assert stories.table.schema.equals(SCHEMA)
    assert stories.column("k_hop") == [1] * 4 + [2] * 4 + [3] * 4 + [7] * 4
    assert stories[3]["id"] == "core-official-train-k1-s7-3"
    assert stories[-1]["id"] == "core-official-train-k7-s7-3"
    assert {fact["role"] for row in stories for fact in row["facts"]} == {
        "chain",
        "supporting",
        "irrelevant",
        "disconnected",
    }
    for row in stories:
        assert 1 <= row["hops"] <= row["k_hop"]
        for fact in row["facts"]:
            assert fact["phrase"].startswith(fact["relation"] + "/")


def test_blocks_and_single_rows_agree_across_a_block_border():
    recipe = Recipe((2,), 40, first=16380)
    whole = Stories.concat(stream(Recipe((2,), 16500)))[16380:16420]
    assert Stories.concat(stream(recipe)).table.to_pylist() == whole.table.to_pylist()
    assert stepgame.generate(2, 1, first=16390)[0] == whole[10]


def test_agents_beyond_the_alphabet():
    row = stepgame.generate(120, 1, protocol="exact", noise=True)[0]
    agents = {fact[end] for fact in row["facts"] for end in ("head", "tail")}
    assert len(agents) > 120
    assert all(re.fullmatch("[A-Z]{1,2}", agent) for agent in agents)
    assert judge(row["story"], row["question"]) == ("answered", row["label"])


def test_banks_share_structure_and_rename_rows(tmp_path):
    source = stepgame.bank.resources.files("stepgame").joinpath("banks", "core.toml").read_text()
    path = tmp_path / "other.toml"
    path.write_text(source.replace('name = "core"', 'name = "other"'))
    ours, theirs = stepgame.generate(4, 5, noise=True), stepgame.generate(4, 5, noise=True, bank=path)
    for a, b in zip(ours, theirs, strict=True):
        assert b["id"] == a["id"].replace("core-", "other-")
        assert (a["question"], a["label"]) == (b["question"], b["label"])
        assert {as_fact(f).canonical() for f in a["facts"]} == {as_fact(f).canonical() for f in b["facts"]}
        assert a["story"] != b["story"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "expected at least 1"),
        ({"hops": 0}, "out of range"),
        ({"protocol": "exakt"}, "did you mean 'exact'"),
        ({"split": "dev"}, "unknown split"),
        ({"bank": "cores"}, "did you mean 'core'"),
        ({"seed": 2**63}, "64 bits"),
        ({"first": -1}, "out of range"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        stepgame.generate(**({"hops": 3} | arguments))


def test_rows_of_this_version_stay_what_they_are():
    # Fails when the same arguments give other rows: then raise GENERATOR_VERSION (or the bank's version).
    stories = stepgame.generate("1-12", 50, noise=True, seed=3)
    assert stories.sha256() == "53d037a77dac9254e510dda98a3ca8016ed523af06d4dfeb8ab516084fa69f4a"


def test_stories_behave_like_a_table():
    stories = stepgame.generate(2, 5)
    assert len(stories[1:3]) == 2
    assert stories[1:3][0] == stories[1]
    assert stories[-1] == stories[4]
    with pytest.raises(IndexError):
        stories[5]
    assert list(stories.to_pandas()["label"]) == stories.column("label")
    assert stories.to_dataset()[1]["story"] == stories[1]["story"]
    with pytest.raises(InputError, match="not a table of stories"):
        Stories(pa.table({"id": ["x"]}))
    with pytest.raises(InputError, match="no stories to join"):
        Stories.concat([])
    changed = stories.table.set_column(3, SCHEMA.field("label"), pa.array(["overlap"] * 5))
    assert Stories(changed).sha256() != stories.sha256()
