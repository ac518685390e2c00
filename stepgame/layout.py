"""Sample stories as integer arrays: chain, noise, query, label and true hops. No strings here.

The `official` protocol follows the published generator (Shi, Zhang & Lipani, AAAI 2022, and its code): a
chain of k links, each one of the eight directions; a question about any two agents of it; and three kinds of
noise that never change the answer. `exact` differs in one thing: it asks about the chain's two ends, so the
answer needs all k links.

Every row draws from four streams of its own (see `stepgame.philox`): chain and noise, for structure and for
wording. The clean story is therefore the noisy story without its noise sentences, word for word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepgame.compiled import compiled
from stepgame.errors import unknown_name
from stepgame.philox import STATE, U64, below, derive_key, seek, word
from stepgame.relations import VECTORS, Relation

__all__ = [
    "GENERATOR_VERSION",
    "PROTOCOLS",
    "ROLES",
    "SPLITS",
    "Layout",
    "Sampler",
    "max_agents",
    "max_sentences",
    "sample",
]

GENERATOR_VERSION = 1
"""Raised whenever the same arguments would give other rows."""

PROTOCOLS = ("official", "exact")
SPLITS = ("train", "validation", "test")
ROLES = ("chain", "supporting", "irrelevant", "disconnected")
"""What a sentence is for; the position is the code."""

CHAIN, SUPPORTING, IRRELEVANT, DISCONNECTED = range(4)

# Purposes of a row's streams.
_CHAIN_DRAWS, _NOISE_DRAWS, _CHAIN_WORDING, _NOISE_WORDING = range(4)

# The supporting path replaces a straight walk of this many unit steps.
_MIN_DETOUR, _MAX_DETOUR = 2, 7
# Chains up to this length leave no two unasked agents worth linking; the published generator adds none.
_NO_SUPPORT_UP_TO = 3

_DX = np.array([dx for dx, _ in VECTORS], dtype=np.int64)
_DY = np.array([dy for _, dy in VECTORS], dtype=np.int64)
_INVERSE = np.array([Relation(code).inverse for code in range(len(VECTORS))], dtype=np.int64)
# Code by sign: _OF[dx + 1, dy + 1].
_OF = np.array([[Relation.of(dx, dy) for dy in (-1, 0, 1)] for dx in (-1, 0, 1)], dtype=np.int64)

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
I16 = NDArray[np.int16]
I8 = NDArray[np.int8]


def _most_extra(hops: int) -> int:
    return (hops + 1) // 3 + 1


def max_agents(hops: int) -> int:
    """Return the most agents a noisy story of this length can have."""
    supporting = _MAX_DETOUR - 1 if hops > _NO_SUPPORT_UP_TO else 0
    return hops + 1 + supporting + _most_extra(hops) + max(2, _most_extra(hops))


def max_sentences(hops: int) -> int:
    """Return the most sentences a noisy story of this length can have."""
    supporting = _MAX_DETOUR if hops > _NO_SUPPORT_UP_TO else 0
    return hops + supporting + _most_extra(hops) + max(2, _most_extra(hops)) - 1


class Layout(NamedTuple):
    """A block of n stories of one length as flat arrays; agents are indices into a pool of names.

    Attributes:
        offsets: [n + 1] int32, where each story's sentences begin in the next five arrays.
        head: [sentences] int16, agent the sentence places.
        relation: [sentences] int8, code of head as seen from tail.
        tail: [sentences] int16, agent it is placed by.
        role: [sentences] int8, index into `ROLES`.
        phrase: [sentences] int16, index among the relation's phrases.
        query: [n, 2] int16, the asked head and tail.
        label: [n] int8, relation code of the answer.
        hops: [n] int16, links between the two agents asked about.
    """

    offsets: I32
    head: I16
    relation: I8
    tail: I16
    role: I8
    phrase: I16
    query: I16
    label: I8
    hops: I16


class _Desk(NamedTuple):
    """Working memory for one story at a time, so that the loop over rows allocates nothing.

    x, y: [agents] positions. links: [sentences, 3] the agent placed, the agent it is placed by, the role.
    keys, order: [sentences] sort keys and the order they give. codes: [sentences, 2] relation and phrase.
    names: [pool] a shuffled prefix. asked, ends, made: [2] the question's agents; the ends of
    the supporting path; agents and sentences so far.
    """

    x: I64
    y: I64
    links: I64
    keys: U64
    order: I64
    codes: I64
    names: I64
    asked: I64
    ends: I64
    made: I64


@compiled
def _take_name(state: U64, names: I64, taken: int) -> int:
    """Draw one more name without replacement: a Fisher-Yates shuffle, one step at a time."""
    place = taken + below(state, len(names) - taken)
    names[taken], names[place] = names[place], names[taken]
    return int(names[taken])


@compiled
def _wander(state: U64, x: I64, y: I64, links: I64, count: int, at: int, base: int, role: int) -> int:
    """Add agents at..at+count-1 as a walk of random links from agent ``base`` (none if negative)."""
    sentences = 0
    for node in range(at, at + count):
        anchor = base if node == at else node - 1
        if anchor < 0:
            x[node] = y[node] = 0
            continue
        relation = below(state, 8)
        x[node] = x[anchor] + _DX[relation]
        y[node] = y[anchor] + _DY[relation]
        links[sentences, 0], links[sentences, 1], links[sentences, 2] = node, anchor, role
        sentences += 1
    return sentences


@compiled
def _detour_ends(state: U64, x: I64, y: I64, nodes: int, asked: I64, ends: I64) -> int:
    """Choose two unasked chain agents that a supporting path may join; return their distance, 0 if none."""
    found = 0
    for wanted in (False, True):
        # First pass: count the pairs. Second pass: take the chosen one.
        chosen = below(state, found) if wanted and found else -1
        seen = 0
        for a in range(nodes):
            if a in (asked[0], asked[1]):
                continue
            for b in range(a + 1, nodes):
                distance = abs(x[a] - x[b]) + abs(y[a] - y[b])
                if b in (asked[0], asked[1]) or distance < _MIN_DETOUR or distance > _MAX_DETOUR:
                    continue
                if seen == chosen:
                    ends[0], ends[1] = a, b
                    return int(distance)
                seen += 1
        found = seen
    return 0


@compiled
def _support(state: U64, x: I64, y: I64, links: I64, ends: I64, distance: int, at: int) -> None:
    """Join the two ends by ``distance`` unit steps in random order, through new agents from ``at`` on."""
    here, goal = ends[0], ends[1]
    for step in range(distance):
        right, up = x[goal] - x[here], y[goal] - y[here]
        left_over = abs(right) + abs(up)
        horizontal = below(state, left_over) < abs(right)
        node = goal if step == distance - 1 else at + step
        x[node] = x[here] + (np.sign(right) if horizontal else 0)
        y[node] = y[here] + (0 if horizontal else np.sign(up))
        links[step, 0], links[step, 1], links[step, 2] = node, here, SUPPORTING
        here = node


@compiled
def _add_noise(state: U64, desk: _Desk, hops: int) -> None:
    """Append the three kinds of noise to the story on the desk.

    Counts are those of the published generator: disconnected agents uniform on 2..max(2, m) and irrelevant
    ones on 1..m with m = floor((k + 1) / 3) + 1; one supporting path for k > 3 where two agents allow it.
    """
    x, y, links = desk.x, desk.y, desk.links
    nodes, sentences = desk.made[0], desk.made[1]
    most = (hops + 1) // 3 + 1
    strangers = 2 + below(state, max(2, most) - 1)
    irrelevant = 1 + below(state, most)
    if hops > _NO_SUPPORT_UP_TO:
        distance = _detour_ends(state, x, y, hops + 1, desk.asked, desk.ends)
        if distance:
            _support(state, x, y, links[sentences:], desk.ends, distance, nodes)
            nodes += distance - 1
            sentences += distance
    first = nodes
    for _ in range(irrelevant):
        anchor = below(state, hops + 1 + nodes - first)
        anchor = anchor if anchor <= hops else first + anchor - hops - 1
        sentences += _wander(state, x, y, links[sentences:], 1, nodes, anchor, IRRELEVANT)
        nodes += 1
    sentences += _wander(state, x, y, links[sentences:], strangers, nodes, -1, DISCONNECTED)
    desk.made[0], desk.made[1] = nodes + strangers, sentences


@compiled
def _order(keys: U64, order: I64, count: int) -> None:
    """Sort sentence numbers by key; equal keys keep their order."""
    for i in range(count):
        key, j = keys[i], i
        while j > 0 and keys[order[j - 1]] > key:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i


@compiled
def _draw_structure(chain: U64, extra: U64, desk: _Desk, hops: int, exact: bool, noise: bool) -> None:
    """Lay out one story: who stands where, what is asked, which links are told, under which names."""
    desk.x[0] = desk.y[0] = 0
    _wander(chain, desk.x, desk.y, desk.links, hops, 1, 0, CHAIN)
    if exact:
        desk.asked[0] = hops * below(chain, 2)
        desk.asked[1] = hops - desk.asked[0]
    else:
        desk.asked[0] = below(chain, hops + 1)
        desk.asked[1] = (desk.asked[0] + 1 + below(chain, hops)) % (hops + 1)
    desk.made[0], desk.made[1] = hops + 1, hops
    if noise:
        _add_noise(extra, desk, hops)
    for name in range(len(desk.names)):
        desk.names[name] = name
    for node in range(desk.made[0]):
        _take_name(chain if node <= hops else extra, desk.names, node)
    for sentence in range(desk.made[1]):
        desk.keys[sentence] = word(chain if sentence < hops else extra)
    _order(desk.keys, desk.order, desk.made[1])


@compiled
def _draw_wording(chain: U64, extra: U64, desk: _Desk, hops: int, phrases: I64) -> None:
    """Choose for each link which way round it is told, and by which phrase."""
    x, y, links = desk.x, desk.y, desk.links
    for sentence in range(desk.made[1]):
        state = chain if sentence < hops else extra
        turned = below(state, 2)
        head, tail = links[sentence, turned], links[sentence, 1 - turned]
        relation = _OF[np.sign(x[head] - x[tail]) + 1, np.sign(y[head] - y[tail]) + 1]
        links[sentence, 0], links[sentence, 1] = head, tail
        desk.codes[sentence, 0], desk.codes[sentence, 1] = relation, below(state, phrases[relation])


@compiled
def _fill(keys: U64, first: int, hops: int, exact: bool, noise: bool, phrases: I64, desk: _Desk, out: Layout) -> None:
    """Sample the rows from ``first`` on until ``out`` is full; ``keys`` are those of layout and wording."""
    chain, extra = np.zeros(STATE, np.uint64), np.zeros(STATE, np.uint64)
    at = 0
    out.offsets[0] = 0
    for row in range(len(out.label)):
        seek(chain, keys[0], first + row, _CHAIN_DRAWS)
        seek(extra, keys[0], first + row, _NOISE_DRAWS)
        _draw_structure(chain, extra, desk, hops, exact, noise)
        seek(chain, keys[1], first + row, _CHAIN_WORDING)
        seek(extra, keys[1], first + row, _NOISE_WORDING)
        _draw_wording(chain, extra, desk, hops, phrases)
        for sentence in desk.order[: desk.made[1]]:
            out.head[at] = desk.names[desk.links[sentence, 0]]
            out.tail[at] = desk.names[desk.links[sentence, 1]]
            out.role[at] = desk.links[sentence, 2]
            out.relation[at], out.phrase[at] = desk.codes[sentence, 0], desk.codes[sentence, 1]
            at += 1
        out.offsets[row + 1] = at
        head, tail = desk.asked[0], desk.asked[1]
        out.query[row, 0], out.query[row, 1] = desk.names[head], desk.names[tail]
        dx, dy = desk.x[head] - desk.x[tail], desk.y[head] - desk.y[tail]
        out.label[row] = _OF[np.sign(dx) + 1, np.sign(dy) + 1]
        out.hops[row] = abs(head - tail)


@dataclass(frozen=True, slots=True)
class Sampler:
    """Everything besides the row numbers that a block of rows depends on.

    Attributes:
        hops: links of the chain.
        protocol: one of `PROTOCOLS`.
        split: one of `SPLITS`; splits are separate key spaces.
        seed: any whole number.
        noise: whether distractors are added.
        bank: name of the phrase bank, which the wording is keyed by; the structure is the same for all banks.
        phrases: [9] int64, phrases the bank has for each relation.
    """

    hops: int
    protocol: str
    split: str
    seed: int
    noise: bool
    bank: str
    phrases: I64

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.split not in SPLITS:
            raise unknown_name("split", self.split, SPLITS)

    @property
    def pool(self) -> int:
        """How many names the stories draw from: the alphabet, or as many as the largest story needs."""
        return max(26, max_agents(self.hops))


def sample(sampler: Sampler, first: int, count: int) -> Layout:
    """Sample the rows first..first+count-1.

    Args:
        sampler: what they depend on.
        first: number of the first row, from 0.
        count: how many rows.

    Returns:
        The block; the same row numbers always give the same rows, however they are cut into blocks.
    """
    structure = (GENERATOR_VERSION, sampler.protocol, sampler.split, sampler.hops, sampler.seed)
    keys = np.array([derive_key("layout", *structure), derive_key("wording", sampler.bank, *structure)])
    agents, sentences = max_agents(sampler.hops), max_sentences(sampler.hops)
    desk = _Desk(
        x=np.zeros(agents, np.int64),
        y=np.zeros(agents, np.int64),
        links=np.zeros((sentences, 3), np.int64),
        keys=np.zeros(sentences, np.uint64),
        order=np.zeros(sentences, np.int64),
        codes=np.zeros((sentences, 2), np.int64),
        names=np.zeros(sampler.pool, np.int64),
        asked=np.zeros(2, np.int64),
        ends=np.zeros(2, np.int64),
        made=np.zeros(2, np.int64),
    )
    room = count * (sentences if sampler.noise else sampler.hops)
    layout = Layout(
        offsets=np.empty(count + 1, np.int32),
        head=np.empty(room, np.int16),
        relation=np.empty(room, np.int8),
        tail=np.empty(room, np.int16),
        role=np.empty(room, np.int8),
        phrase=np.empty(room, np.int16),
        query=np.empty((count, 2), np.int16),
        label=np.empty(count, np.int8),
        hops=np.empty(count, np.int16),
    )
    exact = sampler.protocol == "exact"
    _fill(keys, first, sampler.hops, exact, sampler.noise, sampler.phrases, desk, layout)
    used = int(layout.offsets[-1])
    told = {name: getattr(layout, name)[:used] for name in ("head", "relation", "tail", "role", "phrase")}
    return layout._replace(**told)
