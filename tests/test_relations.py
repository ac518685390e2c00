import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgame.errors import InputError
from stepgame.relations import DIRECTIONS, NAMES, VECTORS, Relation, compose

relations = st.sampled_from(list(Relation))
offsets = st.integers(-1000, 1000)


def test_names_vectors_and_codes_agree():
    assert len(set(NAMES)) == len(set(VECTORS)) == 9
    for code, (name, vector) in enumerate(zip(NAMES, VECTORS, strict=True)):
        relation = Relation(code)
        assert (relation.label, relation.vector) == (name, vector)
        assert Relation.parse(name) is relation
        assert ("left" in name, "right" in name) == (vector[0] < 0, vector[0] > 0)
        assert ("upper" in name or name == "above", "lower" in name or name == "below") == (
            vector[1] > 0,
            vector[1] < 0,
        )
    assert len(DIRECTIONS) == 8


@given(offsets, offsets, st.integers(1, 50))
def test_of_depends_on_direction_only(dx, dy, scale):
    assert Relation.of(dx, dy) is Relation.of(dx * scale, dy * scale)
    assert Relation.of(dx, dy).inverse is Relation.of(-dx, -dy)


@given(relations, relations)
def test_inverse_and_compose_laws(a, b):
    assert a.inverse.inverse is a
    assert compose(a) is a
    assert compose(a, a.inverse) is Relation.OVERLAP
    assert compose(a, Relation.OVERLAP) is a
    assert compose(a, b) is compose(b, a)
    assert compose(a, b).inverse is compose(b.inverse, a.inverse)


def test_compose_adds_steps_before_taking_the_sign():
    left, right = Relation.LEFT, Relation.RIGHT
    assert compose(left, left, right) is Relation.LEFT
    assert compose(compose(left, left), right) is Relation.OVERLAP


def test_compose_over_all_triples_is_order_free():
    for triple in itertools.combinations_with_replacement(Relation, 3):
        assert len({compose(*order) for order in itertools.permutations(triple)}) == 1


def test_unknown_relation_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'upper-left'"):
        Relation.parse("uper-left")
