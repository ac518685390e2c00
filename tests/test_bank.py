import re

import pytest

from stepgame.bank import builtin_banks, load_bank
from stepgame.errors import InputError
from stepgame.read import Fact, read_question, read_sentence
from stepgame.relations import DIRECTIONS, Relation

# Words that name a direction, by axis and sign.
CUES = {
    (0, -1): {"left", "west"},
    (0, 1): {"right", "east"},
    (1, 1): {"above", "over", "up", "upper", "top", "higher", "north"},
    (1, -1): {"below", "beneath", "down", "lower", "bottom", "south"},
}

GOOD = """
name = "mine"
version = 1
question = "Where is {head} relative to {tail}?"
[phrases]
""" + "\n".join(f'{d.label} = ["{{head}} is {d.label} of {{tail}}."]' for d in DIRECTIONS)


@pytest.mark.parametrize("name", builtin_banks())
def test_every_phrase_is_read_back_by_the_grammar(name):
    bank = load_bank(name)
    for phrase in bank:
        for head, tail in (("A", "B"), ("B", "A"), ("I", "U"), ("AB", "Q"), ("Q", "ZZ")):
            told = Fact(head, phrase.relation, tail)
            assert read_sentence(phrase.render(head, tail)).canonical() == told.canonical(), phrase
    assert read_question(bank.ask("A", "B")) == ("A", "B")


def test_core_has_enough_phrases_in_both_namings():
    bank = load_bank("core")
    assert bank.phrases[Relation.OVERLAP] == ()
    patterns = [phrase.pattern for phrase in bank]
    assert len(set(patterns)) == len(patterns)
    for direction in DIRECTIONS:
        group = bank.phrases[direction]
        assert len(group) >= 25
        first = [phrase.pattern.index("{head}") < phrase.pattern.index("{tail}") for phrase in group]
        assert 5 <= sum(first) <= len(group) - 5
        for axis, sign in enumerate(direction.vector):
            if sign:
                own, opposite = CUES[axis, sign], CUES[axis, -sign]
                said = [set(re.findall("[a-z]+", phrase.pattern.lower())) for phrase in group]
                assert sum(bool(words & opposite) and not words & own for words in said) >= 3, direction
                assert sum(bool(words & own) and not words & opposite for words in said) >= 12, direction


def test_bank_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    bank = load_bank(path)
    assert bank.name == "mine"
    assert len(bank) == 8
    assert bank.phrases[Relation.LEFT][0].render("X", "Y") == "X is left of Y."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("left = [", "lefft = [", "did you mean 'left'"),
        ("{head} is left of {tail}", "{head} is left of {tial}", r"left/0: unknown slot \{tial\}"),
        ("{head} is left of {tail}", "{head} is left", r"left/0: .* does not name \{tail\}"),
        ("version = 1", "", "version is None"),
        ('name = "mine"', 'name = "my bank"', "name is 'my bank'"),
        ("[phrases]", "[phrases", "not valid TOML"),
        ('["{head} is left of {tail}."]', "[]", "left: expected a list with at least one pattern"),
        ('"{head} is left of {tail}."', "7", "left/0: 7 is not text"),
        ("left of", "left of\\n", "one line"),
        ("question = ", "# ", "question: None is not text"),
    ],
)
def test_bad_banks_say_what_is_wrong(tmp_path, old, new, message):
    path = tmp_path / "bad.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_bank(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("left of", "right of", "line 6: left/0: 'A is right of B.' says A right of B, and stands under left"),
        ("{head} is left of {tail}", "{head} is near {tail}", "line 6: left/0: 'A is near B.' cannot be read back"),
        ("{head} is above of {tail}", "{head} is left of {tail}", "line 8: above/0: .* has the text of left/0"),
        ("Where is {head} relative to {tail}", "Where is {tail} relative to {head}", "asks where B is as seen from A"),
        ("Where is {head} relative to {tail}", "Who are {head} and {tail}", "question .* cannot be read"),
    ],
)
def test_banks_of_ones_own_are_held_to_their_meaning(tmp_path, old, new, message):
    path = tmp_path / "bad.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        load_bank(path)


def test_unknown_bank():
    with pytest.raises(InputError, match="did you mean 'core'"):
        load_bank("coer")
    with pytest.raises(InputError, match="cannot be read"):
        load_bank("no/such/bank.toml")
