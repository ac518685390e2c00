import numpy as np
import pytest

from stepgame.errors import InputError
from stepgame.layout import DISCONNECTED, IRRELEVANT, NO_NOISE, SUPPORTING, NoiseCounts, Sampler, official_noise, sample
from stepgame.relations import VECTORS, Relation

PHRASES = np.full(9, 25, np.int64)
ROWS = 40_000
ROW_FIELDS = ("query", "label", "hops")
SENTENCE_FIELDS = ("head", "relation", "tail", "role", "phrase")


def sampler(hops, protocol="official", noise=True, seed=0, split="test", **more):
    counts = official_noise(hops) if noise is True else noise or NO_NOISE
    return Sampler(hops, protocol, split, seed, counts, "core", PHRASES, **({"pool": max(26, 2 * hops + 15)} | more))


def block(of, first, count):
    return sample(of, np.arange(first, first + count))


def row(layout, number):
    start, stop = layout.offsets[number : number + 2]
    told = {name: getattr(layout, name)[start:stop].tolist() for name in SENTENCE_FIELDS}
    return told | {name: getattr(layout, name)[number].tolist() for name in ROW_FIELDS}


# Average numbers of supporting, disconnected and irrelevant agents in the published noise data.
PUBLISHED = {
    1: (0, 2.0, 1.0),
    3: (0, 2.0, 1.5),
    4: (1.36, 2.0, 1.49),
    5: (1.60, 2.49, 2.01),
    7: (1.86, 2.50, 2.00),
    10: (2.14, 3.01, 2.53),
}


@pytest.mark.parametrize("hops", PUBLISHED)
def test_official_noise_has_the_published_averages(hops):
    layout = block(sampler(hops), 0, ROWS)
    story = np.repeat(np.arange(ROWS), np.diff(layout.offsets))

    def sentences(role):
        return np.bincount(story[layout.role == role], minlength=ROWS)

    paths = sentences(SUPPORTING)
    counts = (
        np.where(paths > 0, paths - 1, 0),  # a path of n links runs over n - 1 new agents
        sentences(DISCONNECTED) + 1,
        sentences(IRRELEVANT),
    )
    for count, published in zip(counts, PUBLISHED[hops], strict=True):
        # The published averages are themselves of samples, and rounded.
        sampling_error = 4 * count.std() / np.sqrt(1000) + 0.005
        assert abs(count.mean() - published) <= sampling_error


@pytest.mark.parametrize("protocol", ["official", "exact"])
@pytest.mark.parametrize("hops", [1, 2, 5, 10, 31])
def test_any_row_alone_is_the_row_in_its_block(protocol, hops):
    whole = block(sampler(hops, protocol), 0, 300)
    for number in (0, 1, 77, 299):
        assert row(block(sampler(hops, protocol), number, 1), 0) == row(whole, number)
    tail = block(sampler(hops, protocol), 200, 100)
    assert [row(tail, i) for i in range(100)] == [row(whole, 200 + i) for i in range(100)]


def test_seeds_splits_and_protocols_are_different_stories():
    first = block(sampler(5), 0, 50)
    for other in (sampler(5, seed=1), sampler(5, split="train"), sampler(5, protocol="exact"), sampler(5, seed=-1)):
        assert [row(first, i) for i in range(50)] != [row(block(other, 0, 50), i) for i in range(50)]


def test_far_rows_exist():
    assert row(block(sampler(5), 2**40, 1), 0) != row(block(sampler(5), 2**40 + 1, 1), 0)


@pytest.mark.parametrize("hops", [1, 4, 10, 200])
def test_stories_keep_to_their_bounds(hops):
    layout = block(sampler(hops), 0, 2000)
    assert np.diff(layout.offsets).max() <= hops + official_noise(hops).sentences
    for number in range(100):
        told = row(layout, number)
        assert len(set(told["head"]) | set(told["tail"])) <= sampler(hops).agents
        assert told["role"].count(0) == hops


def test_exact_asks_about_the_ends_and_official_about_any_pair():
    exact = block(sampler(6, "exact"), 0, 5000)
    assert (exact.hops == 6).all()
    official = block(sampler(6), 0, ROWS)
    # 7 agents: a pair is d links apart with probability 2 (7 - d) / 42.
    expected = np.array([2 * (7 - d) / 42 for d in range(1, 7)])
    found = np.bincount(official.hops, minlength=7)[1:] / ROWS
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / ROWS)


def test_links_are_uniform_over_the_eight_directions():
    layout = block(sampler(3, noise=False), 0, ROWS)
    found = np.bincount(layout.relation, minlength=9)
    assert found[Relation.OVERLAP] == 0
    expected = len(layout.relation) / 8
    # 7 degrees of freedom: above 24.3 has probability 0.001, and the stream is fixed.
    assert ((found[:8] - expected) ** 2 / expected).sum() < 24.3


def test_supporting_paths_are_straight_steps_between_unasked_agents():
    layout = block(sampler(8), 0, 500)
    for number in range(500):
        told = row(layout, number)
        on_path = [i for i, role in enumerate(told["role"]) if role == SUPPORTING]
        if not on_path:
            continue
        assert 2 <= len(on_path) <= 7
        assert all(0 in VECTORS[told["relation"][i]] for i in on_path)
        named = {agent for i in on_path for agent in (told["head"][i], told["tail"][i])}
        assert not named & set(told["query"])


def test_unknown_protocol_and_split():
    with pytest.raises(InputError, match="did you mean 'official'"):
        sampler(3, protocol="oficial")
    with pytest.raises(InputError, match="did you mean 'train'"):
        sampler(3, split="trian")


def test_rows_need_not_stand_together():
    numbers = np.array([5, 3, 2**40, 3])
    picked = sample(sampler(6), numbers)
    for place, number in enumerate(numbers):
        assert row(picked, place) == row(block(sampler(6), number, 1), 0)


def test_noise_counts_are_kept():
    counts = NoiseCounts((3, 3), (0, 2), (1, 1))
    layout = block(sampler(9, noise=counts), 0, 2000)
    found = set()
    for number in range(2000):
        roles = row(layout, number)["role"]
        assert roles.count(DISCONNECTED) == 2
        assert roles.count(SUPPORTING) in (0, 2)  # one agent on the path, two links; none where no pair fits
        found.add(roles.count(IRRELEVANT))
    assert found == {0, 1, 2}
    assert (layout.role == SUPPORTING).mean() > 0.1


@pytest.mark.parametrize("hops", [1, 2, 7, 60])
def test_balanced_labels_have_equal_shares_in_every_run(hops):
    kinds = 8 if hops == 1 else 9
    labels = block(sampler(hops, "exact", balance=True), 0, 20 * kinds).label.reshape(20, kinds)
    assert (np.sort(labels, axis=1) == np.arange(kinds)).all()
    assert len({tuple(run) for run in labels.tolist()}) > 10
    with pytest.raises(InputError, match="exact"):
        sampler(hops, "official", balance=True)


def test_too_few_names():
    with pytest.raises(InputError, match="can need 25 agents, and there are 20 names"):
        sampler(10, pool=20)
