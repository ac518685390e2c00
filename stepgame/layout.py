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
def _detour_ends(state: U64, desk: _Desk, nodes: int, shortest: int, longest: int) -> int:
    """Choose two unasked chain agents that a supporting path may join; return their distance, 0 if none."""
    x, y, asked = desk.x, desk.y, desk.asked
    found = 0
    for choosing in (False, True):
        # First pass: count the pairs. Second pass: take the chosen one.
        chosen = below(state, found) if choosing and found else -1
        seen = 0
        for a in range(nodes):
            if a in (asked[0], asked[1]):
                continue
            for b in range(a + 1, nodes):
                distance = abs(x[a] - x[b]) + abs(y[a] - y[b])
                if b in (asked[0], asked[1]) or distance < shortest or distance > longest:
                    continue
                if seen == chosen:
                    desk.ends[0], desk.ends[1] = a, b
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
def _within(state: U64, bounds: tuple[int, int]) -> int:
    """Draw a whole number from an inclusive range."""
    return bounds[0] + below(state, bounds[1] - bounds[0] + 1)


@compiled
def _add_noise(state: U64, desk: _Desk, hops: int, counts: NoiseCounts) -> None:
    """Append the three kinds of noise to the story on the desk."""
    nodes, sentences = desk.made[0], desk.made[1]
    strangers = _within(state, counts.disconnected)
    irrelevant = _within(state, counts.irrelevant)
    shortest, longest = counts.supporting[0] + 1, counts.supporting[1] + 1
    if not counts.anywhere:
        shortest = longest = _within(state, counts.supporting) + 1
    if longest > 1:
        distance = _detour_ends(state, desk, hops + 1, shortest, longest)
        if distance:
            _support(state, desk.x, desk.y, desk.links[sentences:], desk.ends, distance, nodes)
            nodes += distance - 1
            sentences += distance
    first = nodes
    for _ in range(irrelevant):
        anchor = below(state, hops + 1 + nodes - first)
        anchor = anchor if anchor <= hops else first + anchor - hops - 1
        sentences += _wander(state, desk.x, desk.y, desk.links[sentences:], 1, nodes, anchor, IRRELEVANT)
        nodes += 1
    sentences += _wander(state, desk.x, desk.y, desk.links[sentences:], strangers, nodes, -1, DISCONNECTED)
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
def _label(desk: _Desk) -> int:
    """Return the code of the answer to the question on the desk."""
    dx = desk.x[desk.asked[0]] - desk.x[desk.asked[1]]
    dy = desk.y[desk.asked[0]] - desk.y[desk.asked[1]]
    code: int = _OF[np.sign(dx) + 1, np.sign(dy) + 1]
    return code


@compiled
def _wanted_label(state: U64, key: np.uint64, row: int, hops: int) -> int:
    """Return the label a balanced row shall have: every run of nine rows (eight at one hop) has each once."""
    kinds = 8 if hops == 1 else 9
    seek(state, key, row // kinds, _BALANCE)
    order = np.arange(kinds)
    for place in range(row % kinds + 1):
        _take_name(state, order, place)
    code: int = order[row % kinds]
    return code


@compiled
def _draw_question(state: U64, desk: _Desk, hops: int, exact: bool) -> None:
    """Lay out a chain and choose what is asked of it."""
    desk.x[0] = desk.y[0] = 0
    _wander(state, desk.x, desk.y, desk.links, hops, 1, 0, CHAIN)
    if exact:
        desk.asked[0] = hops * below(state, 2)
        desk.asked[1] = hops - desk.asked[0]
    else:
        desk.asked[0] = below(state, hops + 1)
        desk.asked[1] = (desk.asked[0] + 1 + below(state, hops)) % (hops + 1)


@compiled
def _draw_structure(
    chain: U64, extra: U64, desk: _Desk, hops: int, exact: bool, wanted: int, counts: NoiseCounts
) -> None:
    """Lay out one story: who stands where, what is asked, which links are told, under which names."""
    _draw_question(chain, desk, hops, exact)
    while wanted >= 0 and _label(desk) != wanted:
        _draw_question(chain, desk, hops, exact)
    desk.made[0], desk.made[1] = hops + 1, hops
    _add_noise(extra, desk, hops, counts)
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


class _Rules(NamedTuple):
    """What the kernel needs of a `Sampler`: keys of layout and wording, and the choices."""

    layout: np.uint64
    wording: np.uint64
    hops: int
    exact: bool
    balance: bool
    counts: NoiseCounts


@compiled
def _fill(rules: _Rules, rows: I64, phrases: I64, desk: _Desk, out: Layout) -> None:
    """Sample the given rows."""
    chain, extra = np.zeros(STATE, np.uint64), np.zeros(STATE, np.uint64)
    at, wanted = 0, -1
    out.offsets[0] = 0
    for place, row in enumerate(rows):
        if rules.balance:
            wanted = _wanted_label(chain, rules.layout, row, rules.hops)
        seek(chain, rules.layout, row, _CHAIN_DRAWS)
        seek(extra, rules.layout, row, _NOISE_DRAWS)
        _draw_structure(chain, extra, desk, rules.hops, rules.exact, wanted, rules.counts)
        seek(chain, rules.wording, row, _CHAIN_WORDING)
        seek(extra, rules.wording, row, _NOISE_WORDING)
        _draw_wording(chain, extra, desk, rules.hops, phrases)
        for sentence in desk.order[: desk.made[1]]:
            out.head[at] = desk.names[desk.links[sentence, 0]]
            out.tail[at] = desk.names[desk.links[sentence, 1]]
            out.role[at] = desk.links[sentence, 2]
            out.relation[at], out.phrase[at] = desk.codes[sentence, 0], desk.codes[sentence, 1]
            at += 1
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
