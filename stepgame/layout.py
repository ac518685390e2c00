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

from stepgame.compiled import kernel
from stepgame.errors import InputError, unknown_name
from stepgame.philox import STATE, U64, below, derive_key, seek, word
from stepgame.relations import VECTORS, Relation

__all__ = [
    "GENERATOR_VERSION",
    "NO_NOISE",
    "PROTOCOLS",
    "ROLES",
    "SPLITS",
    "Layout",
    "NoiseCounts",
    "Sampler",
    "official_noise",
    "sample",
]

GENERATOR_VERSION = 1
"""Raised whenever the same arguments would give other rows."""

PROTOCOLS = ("official", "exact")
SPLITS = ("train", "validation", "test")
ROLES = ("chain", "supporting", "irrelevant", "disconnected")
"""What a sentence is for; the position is the code."""

CHAIN, SUPPORTING, IRRELEVANT, DISCONNECTED = range(4)
_LEFT, _RIGHT, _ABOVE, _BELOW = (int(r) for r in (Relation.LEFT, Relation.RIGHT, Relation.ABOVE, Relation.BELOW))

# Purposes of a row's streams.
_CHAIN_DRAWS, _NOISE_DRAWS, _CHAIN_WORDING, _NOISE_WORDING, _BALANCE = range(5)

# The supporting path replaces a straight walk of this many unit steps.
_MIN_DETOUR, _MAX_DETOUR = 2, 7
# Chains up to this length leave no two unasked agents worth linking; the published generator adds none.
_NO_SUPPORT_UP_TO = 3

_DX = np.array([dx for dx, _ in VECTORS], dtype=np.int64)
_DY = np.array([dy for _, dy in VECTORS], dtype=np.int64)
_INVERSE = np.array([Relation(code).inverse for code in range(len(VECTORS))], dtype=np.int64)
# Code by sign: _OF[dx + 1, dy + 1].
_OF = np.array([[Relation.of(dx, dy) for dy in (-1, 0, 1)] for dx in (-1, 0, 1)], dtype=np.int64)

_TURNED = np.stack([np.arange(len(VECTORS)), _INVERSE])
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
I16 = NDArray[np.int16]
I8 = NDArray[np.int8]


class NoiseCounts(NamedTuple):
    """How many agents each kind of noise brings to a story: inclusive ranges, drawn from uniformly.

    Attributes:
        disconnected: agents of the chain of strangers; a chain has none or at least two.
        irrelevant: strangers hung on known agents, one by one.
        supporting: agents on the second path between two unasked agents of the chain, which is one step longer. Where
            no two agents are that far apart the story has no such path.
        anywhere: take the path's ends from all pairs whose path has a size in the range, instead of
            drawing the size first.
    """

    disconnected: tuple[int, int]
    irrelevant: tuple[int, int]
    supporting: tuple[int, int]
    anywhere: bool = False

    @property
    def agents(self) -> int:
        """The most agents that noise can add."""
        return self.disconnected[1] + self.irrelevant[1] + self.supporting[1]

    @property
    def sentences(self) -> int:
        """The most sentences that noise can add."""
        return self.agents + 1


NO_NOISE = NoiseCounts((0, 0), (0, 0), (0, 0))


def official_noise(hops: int) -> NoiseCounts:
    """Return the published generator's counts for a chain of k links.

    With m = floor((k + 1) / 3) + 1: disconnected agents uniform on 2..max(2, m), irrelevant ones on 1..m; for
    k > 3 a supporting path over 1 to 6 agents between any two unasked agents 2 to 7 steps apart.
    """
    most = (hops + 1) // 3 + 1
    supporting = (_MIN_DETOUR - 1, _MAX_DETOUR - 1) if hops > _NO_SUPPORT_UP_TO else (0, 0)
    return NoiseCounts((2, max(2, most)), (1, most), supporting, anywhere=True)


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

    chain, extra: states of the streams for chain and noise. x, y: [agents] positions. links: [sentences]
    packed links, see `_pack`. order: [sentences] which link each sentence tells. names: [pool] a shuffled
    prefix. asked: [2] the question's agents. pairs: candidates for the ends of the supporting path.
    made: [2] agents and sentences so far.
    """

    streams: U64
    chain: U64
    extra: U64
    x: I64
    y: I64
    links: I64
    order: I64
    names: I64
    asked: I64
    pairs: I64
    made: I64


@kernel
def _pack(node: int, anchor: int, relation: int, role: int) -> int:
    """Put a link into one number: the agent placed, the one it is placed by, its relation to it, the role."""
    return node | (anchor << 16) | (relation << 32) | (role << 40)


@kernel
def _shuffle(state: U64, items: I64, start: int, stop: int) -> None:
    """Put items[start:stop] into random order (Fisher-Yates)."""
    for left in range(stop - start, 1, -1):
        place = start + below(state, left)
        last = start + left - 1
        items[place], items[last] = items[last], items[place]


@kernel
def _take_names(state: U64, names: I64, taken: int, wanted: int) -> None:
    """Draw names without replacement until ``wanted`` stand in front, given that ``taken`` do."""
    for node in range(taken, wanted):
        place = node + below(state, len(names) - node)
        names[node], names[place] = names[place], names[node]


@kernel
def _step(state: U64, desk: _Desk, node: int, anchor: int, at: int, role: int) -> None:
    """Place an agent one random link from another, and note the link as number ``at``."""
    relation = below(state, 8)
    desk.x[node] = desk.x[anchor] + _DX[relation]
    desk.y[node] = desk.y[anchor] + _DY[relation]
    desk.links[at] = _pack(node, anchor, relation, role)


@kernel
def _detour_ends(state: U64, desk: _Desk, nodes: int, shortest: int, longest: int) -> int:
    """Choose two unasked chain agents that a supporting path may join; return them packed, -1 if there are none."""
    # The order of telling is drawn later; until then its place holds the unasked agents.
    x, y, free, unasked, found = desk.x, desk.y, desk.order, 0, 0
    for node in range(nodes):
        free[unasked] = node
        unasked += int((node != desk.asked[0]) & (node != desk.asked[1]))
    for first in range(unasked - 1):
        a = free[first]
        for second in range(first + 1, unasked):
            b = free[second]
            distance = abs(x[a] - x[b]) + abs(y[a] - y[b])
            desk.pairs[found] = a | (b << 16)
            found += int((distance >= shortest) & (distance <= longest))
    return int(desk.pairs[below(state, found)]) if found else -1


@kernel
def _support(state: U64, desk: _Desk, here: int, goal: int, node: int, at: int) -> int:
    """Join two agents by unit steps in random order through new agents from ``node`` on; return the steps."""
    x, y = desk.x, desk.y
    right, up = x[goal] - x[here], y[goal] - y[here]
    distance = abs(right) + abs(up)
    across = abs(right)
    for step in range(distance):
        horizontal = below(state, distance - step) < across
        across -= np.int64(horizontal)
        relation = (_RIGHT if right > 0 else _LEFT) if horizontal else (_ABOVE if up > 0 else _BELOW)
        there = goal if step == distance - 1 else node + step
        x[there], y[there] = x[here] + _DX[relation], y[here] + _DY[relation]
        desk.links[at + step] = _pack(there, here, relation, SUPPORTING)
        here = there
    return int(distance)


@kernel
def _within(state: U64, bounds: tuple[int, int]) -> int:
    """Draw a whole number from an inclusive range."""
    return bounds[0] + below(state, bounds[1] - bounds[0] + 1)


@kernel
def _add_noise(state: U64, desk: _Desk, hops: int, counts: NoiseCounts) -> None:
    """Append the three kinds of noise to the story on the desk."""
    node, at = hops + 1, hops
    strangers = _within(state, counts.disconnected)
    irrelevant = _within(state, counts.irrelevant)
    shortest, longest = counts.supporting[0] + 1, counts.supporting[1] + 1
    if not counts.anywhere:
        shortest = longest = _within(state, counts.supporting) + 1
    ends = _detour_ends(state, desk, hops + 1, shortest, longest) if longest > 1 else -1
    if ends >= 0:
        steps = _support(state, desk, ends & 0xFFFF, ends >> 16, node, at)
        node += steps - 1
        at += steps
    first = node
    for _ in range(irrelevant):
        anchor = below(state, hops + 1 + node - first)
        _step(state, desk, node, anchor if anchor <= hops else first + anchor - hops - 1, at, IRRELEVANT)
        node += 1
        at += 1
    for stranger in range(strangers):
        if stranger == 0:
            desk.x[node] = desk.y[node] = 0
        else:
            _step(state, desk, node, node - 1, at, DISCONNECTED)
            at += 1
        node += 1
    desk.made[0], desk.made[1] = node, at


@kernel
def _label(desk: _Desk) -> int:
    """Return the code of the answer to the question on the desk."""
    dx = desk.x[desk.asked[0]] - desk.x[desk.asked[1]]
    dy = desk.y[desk.asked[0]] - desk.y[desk.asked[1]]
    code: int = _OF[np.int64(dx > 0) - np.int64(dx < 0) + 1, np.int64(dy > 0) - np.int64(dy < 0) + 1]
    return code


@kernel
def _wanted_label(state: U64, desk: _Desk, key: np.uint64, row: int, hops: int) -> int:
    """Return the label a balanced row shall have: every run of nine rows (eight at one hop) has each once."""
    kinds = 8 if hops == 1 else 9
    seek(state, key, row // kinds, _BALANCE)
    order = desk.order
    for label in range(kinds):
        order[label] = label
    _shuffle(state, order, 0, kinds)
    code: int = order[row % kinds]
    return code


@kernel
def _draw_question(state: U64, desk: _Desk, hops: int, exact: bool) -> None:
    """Lay out a chain and choose what is asked of it."""
    desk.x[0] = desk.y[0] = 0
    for node in range(1, hops + 1):
        _step(state, desk, node, node - 1, node - 1, CHAIN)
    if exact:
        desk.asked[0] = hops * below(state, 2)
        desk.asked[1] = hops - desk.asked[0]
    else:
        desk.asked[0] = below(state, hops + 1)
        desk.asked[1] = (desk.asked[0] + 1 + below(state, hops)) % (hops + 1)


@kernel
def _draw_structure(
    chain: U64, extra: U64, desk: _Desk, hops: int, exact: bool, wanted: int, counts: NoiseCounts
) -> None:
    """Lay out one story: who stands where, what is asked, under which names, and in which order it is told."""
    _draw_question(chain, desk, hops, exact)
    while wanted >= 0 and _label(desk) != wanted:
        _draw_question(chain, desk, hops, exact)
    _add_noise(extra, desk, hops, counts)
    nodes, sentences = desk.made[0], desk.made[1]
    for name in range(len(desk.names)):
        desk.names[name] = name
    _take_names(chain, desk.names, 0, hops + 1)
    _take_names(extra, desk.names, hops + 1, nodes)
    for sentence in range(sentences):
        desk.order[sentence] = sentence
    _shuffle(chain, desk.order, 0, hops)
    _shuffle(extra, desk.order, hops, sentences)


class _Rules(NamedTuple):
    """What the kernel needs of a `Sampler`: keys of layout and wording, and the choices."""

    layout: np.uint64
    wording: np.uint64
    hops: int
    exact: bool
    balance: bool
    counts: NoiseCounts


@kernel
def _tell(chain: U64, extra: U64, desk: _Desk, hops: int, phrases: I64, out: Layout, at: int) -> int:
    """Write the story's sentences from place ``at`` on, each worded at random; return the place behind them.

    Chain and noise keep their own order and wording, and noise is mixed in at random places.
    """
    told, added, sentences = 0, hops, desk.made[1]
    while told < hops or added < sentences:
        noise = 0
        if added < sentences:
            noise = int(below(extra, hops - told + sentences - added) < sentences - added)
        link = desk.links[desk.order[told + noise * (added - told)]]
        added, told = added + noise, told + 1 - noise
        drawn = word(desk.streams, STATE * noise)
        turned = np.int64(drawn & np.uint64(1))
        node, anchor = (link >> (16 * turned)) & 0xFFFF, (link >> (16 - 16 * turned)) & 0xFFFF
        relation = _TURNED[turned, (link >> 32) & 0xFF]
        out.head[at], out.tail[at], out.relation[at] = desk.names[node], desk.names[anchor], relation
        out.phrase[at] = ((drawn >> np.uint64(1)) * np.uint64(phrases[relation])) >> np.uint64(31)
        out.role[at] = link >> 40
        at += 1
    return at


@kernel
def _fill(rules: _Rules, rows: I64, phrases: I64, desk: _Desk, out: Layout) -> None:
    """Sample the given rows."""
    chain, extra = desk.chain, desk.extra
    at, wanted = 0, -1
    out.offsets[0] = 0
    for place in range(len(rows)):
        row = rows[place]
        if rules.balance:
            wanted = _wanted_label(chain, desk, rules.layout, row, rules.hops)
        seek(chain, rules.layout, row, _CHAIN_DRAWS)
        seek(extra, rules.layout, row, _NOISE_DRAWS)
        _draw_structure(chain, extra, desk, rules.hops, rules.exact, wanted, rules.counts)
        seek(chain, rules.wording, row, _CHAIN_WORDING)
        seek(extra, rules.wording, row, _NOISE_WORDING)
        at = _tell(chain, extra, desk, rules.hops, phrases, out, at)
        out.offsets[place + 1] = at
        out.query[place, 0], out.query[place, 1] = desk.names[desk.asked[0]], desk.names[desk.asked[1]]
        out.label[place] = _label(desk)
        out.hops[place] = abs(desk.asked[0] - desk.asked[1])


@dataclass(frozen=True, slots=True)
class Sampler:
    """Everything besides the row numbers that a block of rows depends on.

    Attributes:
        hops: links of the chain.
        protocol: one of `PROTOCOLS`.
        split: one of `SPLITS`; splits are separate key spaces.
        seed: any whole number.
        noise: how many distractors are added.
        bank: name of the phrase bank, which the wording is keyed by; the structure is the same for all banks.
        phrases: [9] int64, phrases the bank has for each relation.
        pool: how many names there are.
        balance: give every label the same share (`exact` only).
    """

    hops: int
    protocol: str
    split: str
    seed: int
    noise: NoiseCounts
    bank: str
    phrases: I64
    pool: int
    balance: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown_name("protocol", self.protocol, PROTOCOLS)
        if self.split not in SPLITS:
            raise unknown_name("split", self.split, SPLITS)
        if self.balance and self.protocol != "exact":
            raise InputError(
                "labels are balanced at an exact number of hops only; use the protocol 'exact' with balance"
            )
        if self.agents > self.pool:
            raise InputError(f"{self.hops} hops can need {self.agents} agents, and there are {self.pool} names")

    @property
    def agents(self) -> int:
        """The most agents a story can have."""
        return self.hops + 1 + self.noise.agents


def sample(sampler: Sampler, rows: I64) -> Layout:
    """Sample rows by their numbers.

    Args:
        sampler: what they depend on.
        rows: [n] int64, from 0; a number always gives the same row, whatever stands beside it.

    Returns:
        The block.
    """
    structure = (GENERATOR_VERSION, sampler.protocol, sampler.split, sampler.hops, sampler.seed)
    rules = _Rules(
        derive_key("layout", *structure),
        derive_key("wording", sampler.bank, *structure),
        sampler.hops,
        sampler.protocol == "exact",
        sampler.balance,
        sampler.noise,
    )
    agents, sentences, count = sampler.agents, sampler.hops + sampler.noise.sentences, len(rows)
    ends = sampler.hops * (sampler.hops + 1) // 2 if sampler.noise.supporting[1] else 0
    streams = np.zeros(2 * STATE, np.uint64)
    desk = _Desk(
        streams=streams,
        chain=streams[:STATE],
        extra=streams[STATE:],
        x=np.zeros(agents, np.int64),
        y=np.zeros(agents, np.int64),
        links=np.zeros(sentences, np.int64),
        order=np.zeros(max(sentences, len(VECTORS)), np.int64),
        names=np.zeros(sampler.pool, np.int64),
        asked=np.zeros(2, np.int64),
        pairs=np.zeros(ends + 1, np.int64),
        made=np.zeros(2, np.int64),
    )
    room = count * sentences
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
    _fill(rules, rows, sampler.phrases, desk, layout)
    used = int(layout.offsets[-1])
    told = {name: getattr(layout, name)[:used] for name in ("head", "relation", "tail", "role", "phrase")}
    return layout._replace(**told)
