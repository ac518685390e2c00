"""Numbers that tell rows apart, and how far their questions reach, for whole columns of stories.

A row's keys are 64-bit hashes: among n rows the chance that any two different ones share a key is about n^2 / 2^65.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepgame.bulk import Readings
from stepgame.compiled import compiled
from stepgame.layout import I32, I64
from stepgame.philox import U64
from stepgame.relations import Relation
from stepgame.render import U8

__all__ = ["Keys", "layout_keys", "text_keys"]

_SEED = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0xFF51AFD7ED558CCD)
_SECOND = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(32)

_RADIUS = 64
"""Layouts that agree within this many links of every agent count as the same."""

_INVERSE = np.array([relation.inverse for relation in Relation], np.int64)
_ASKED_HEAD, _ASKED_TAIL = np.uint64(2), np.uint64(3)


class Keys(NamedTuple):
    """What tells n rows apart by their text.

    Attributes:
        exact: [n] uint64, equal for rows with the same sentences in the same order and the same question.
        unordered: [n] uint64, equal for rows with the same sentences in any order and the same question.
    """

    exact: U64
    unordered: U64


@compiled
def _stir(state: np.uint64, value: np.uint64) -> np.uint64:
    mixed: np.uint64 = (state ^ value) * _PRIME
    mixed = (mixed ^ (mixed >> _SHIFT)) * _SECOND
    return mixed ^ (mixed >> _SHIFT)


@compiled
def _hash_texts(data: U8, offsets: I32, out: U64) -> None:
    for row in range(len(out)):
        state = _SEED
        for at in range(offsets[row], offsets[row + 1]):
            state = (state ^ np.uint64(data[at])) * _PRIME
            state = state ^ (state >> _SHIFT)
        out[row] = _stir(state, np.uint64(offsets[row + 1] - offsets[row]))


@compiled
def _hash_rows(bounds: I32, sentences: U64, questions: U64, exact: U64, unordered: U64) -> None:
    for row in range(len(questions)):
        ordered, total = questions[row], np.uint64(0)
        for sentence in sentences[bounds[row] : bounds[row + 1]]:
            ordered = _stir(ordered, sentence)
            total += _stir(_SEED, sentence)
        exact[row], unordered[row] = ordered, _stir(questions[row], total)


def _hash_column(texts: pa.StringArray) -> U64:
    _, offsets, data = texts.buffers()
    out = np.empty(len(texts), np.uint64)
    places = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    _hash_texts(np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), places, out)
    return out


def text_keys(bounds: I32, sentences: pa.StringArray, questions: pa.StringArray) -> Keys:
    """Hash n rows by their text.

    Args:
        bounds: [n + 1] int32, where each row's sentences begin.
        sentences: of all rows, one after the other.
        questions: [n].

    Returns:
        The keys; neither labels nor names of rows have a part in them.
    """
    keys = Keys(np.empty(len(questions), np.uint64), np.empty(len(questions), np.uint64))
    _hash_rows(bounds, _hash_column(sentences), _hash_column(questions), *keys)
    return keys


@compiled
def _number(key: np.uint64, table: U64, stamps: I64, ids: I64, stamp: int, count: int) -> int:
    """Return an agent's number within its story, ``count`` for one not seen before."""
    slot = np.int64((key * _PRIME) >> _SHIFT) & (len(table) - 1)
    while stamps[slot] == stamp and table[slot] != key:
        slot = (slot + 1) & (len(table) - 1)
    if stamps[slot] != stamp:
        table[slot], stamps[slot], ids[slot] = key, stamp, count
    return int(ids[slot])


@compiled
def _layout_key(links: I64, asked: I64, colours: U64) -> np.uint64:
    """Hash a graph of links by colour refinement; ``colours`` is [2, agents] working memory."""
    agents = colours.shape[1]
    colours[0, :] = np.uint64(1)
    colours[0, asked[0]], colours[0, asked[1]] = _ASKED_HEAD, _ASKED_TAIL
    for _ in range(min(agents, _RADIUS)):
        for agent in range(agents):
            colours[1, agent] = _stir(_SEED, colours[0, agent])
        for link in range(len(links)):
            head, tail, code = links[link]
            colours[1, head] += _stir(np.uint64(code + 16), colours[0, tail])
            colours[1, tail] += _stir(np.uint64(_INVERSE[code] + 16), colours[0, head])
        colours[0, :] = colours[1, :]
    total = np.uint64(agents)
    for agent in range(agents):
        total += _stir(_PRIME, colours[0, agent])
    return _stir(total, np.uint64(len(links)))


@compiled
def _distance(links: I64, asked: I64, steps: I64) -> int:
    """Count the links of the shortest chain between the two asked agents; -1 where there is none."""
    steps[:] = -1
    steps[asked[0]] = 0
    for step in range(1, len(steps) + 1):
        grown = False
        for link in range(len(links)):
            head, tail = links[link, 0], links[link, 1]
            if steps[head] == step - 1 and steps[tail] < 0:
                steps[tail], grown = step, True
            elif steps[tail] == step - 1 and steps[head] < 0:
                steps[head], grown = step, True
        if steps[asked[1]] >= 0 or not grown:
            break
    return int(steps[asked[1]])


@compiled
def _survey(
    bounds: I32, relation: NDArray[np.int8], names: U64, asked_names: U64, most: int, keys: U64, hops: I64
) -> None:
    """Hash and measure story by story; ``names`` is [sentences, 2], ``most`` the most sentences of a story."""
    size = 16
    while size < 6 * (most + 1):
        size *= 2
    table, stamps, ids = np.zeros(size, np.uint64), np.full(size, -1, np.int64), np.zeros(size, np.int64)
    links, asked = np.empty((most, 3), np.int64), np.empty(2, np.int64)
    colours, steps = np.empty((2, 2 * most + 2), np.uint64), np.empty(2 * most + 2, np.int64)
    for story in range(len(keys)):
        count = made = 0
        for row in range(bounds[story], bounds[story + 1]):
            if relation[row] < 0:
                continue
            for side in range(2):
                links[made, side] = _number(names[row, side], table, stamps, ids, story, count)
                count = max(count, links[made, side] + 1)
            links[made, 2] = relation[row]
            made += 1
        for side in range(2):
            asked[side] = _number(asked_names[story, side], table, stamps, ids, story, count)
            count = max(count, asked[side] + 1)
        keys[story] = _layout_key(links[:made], asked, colours[:, :count])
        hops[story] = _distance(links[:made], asked, steps[:count])


def layout_keys(bounds: I32, readings: Readings, asked_head: U64, asked_tail: U64) -> tuple[U64, I64]:
    """Hash n stories by what they say, and measure how far apart the agents of their questions are.

    Args:
        bounds: [n + 1] int32, where each story's sentences begin.
        readings: of all sentences.
        asked_head: [n] uint64, the question's head as a number, in the numbering of the readings.
        asked_tail: [n] uint64, the question's tail.

    Returns:
        [n] uint64, equal for stories that say and ask the same whatever their agents are called, however their
        sentences are worded and ordered; and [n] int64, links of the shortest chain of sentences between the
        two asked agents, -1 where there is none. Sentences that cannot be read have no part in either.
    """
    keys, hops = np.empty(len(asked_head), np.uint64), np.empty(len(asked_head), np.int64)
    most = int(np.diff(bounds).max(initial=0))
    names = np.stack([readings.head, readings.tail], axis=1)
    _survey(bounds, readings.relation, names, np.stack([asked_head, asked_tail], axis=1), most, keys, hops)
    return keys, hops
