"""Generate stories: any number of hops, with or without noise, in batches of bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepgame.bank import Bank, load_bank
from stepgame.errors import InputError
from stepgame.hops import format_hops, parse_hops
from stepgame.layout import (
    GENERATOR_VERSION,
    I64,
    NO_NOISE,
    ROLES,
    Layout,
    NoiseCounts,
    Sampler,
    official_noise,
    sample,
)
from stepgame.names import agent_names
from stepgame.noise import parse_noise_counts
from stepgame.relations import NAMES
from stepgame.render import Renderer
from stepgame.stories import FACT, SCHEMA, Stories
from stepgame.unique import Repeats, count_repeats, fresh_rows

__all__ = ["BLOCK", "Recipe", "Submit", "generate", "make_block", "repeats", "stream"]

T = TypeVar("T")

BLOCK = 16384
"""Most rows sampled and written at a time; it bounds memory and has no influence on the rows."""

_SENTENCES = 1_000_000
"""Most sentences of a block: long stories come in smaller ones."""

_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Recipe:
    """What defines a set of stories; equal recipes give equal bytes.

    Attributes:
        hops: chain lengths, ascending.
        per_hop: stories for each length.
        noise: whether distractor sentences are added; they never change question or answer.
        protocol: ``"official"`` asks about any two agents of the chain, ``"exact"`` about its ends.
        bank: phrase bank, by name or by path.
        split: ``"train"``, ``"validation"`` or ``"test"``; separate key spaces.
        seed: any whole number of 64 bits.
        first: number of the first row of each length.
        names: ``"letters"``, ``"words"`` or a file; see `stepgame.names`.
        noise_counts: text such as ``"disconnected=2,irrelevant=0-3,supporting=1"`` instead of the published
            counts; implies noise. A kind that is not named gets none.
        balance: give every label the same share (protocol ``"exact"``).
        phrases: ``"train"``, ``"heldout"`` or ``"all"``: which of the bank's phrases are used.
        unique: leave out rows alike to earlier ones or to another split's; their numbers are skipped.
    """

    hops: tuple[int, ...]
    per_hop: int
    noise: bool = False
    protocol: str = "official"
    bank: str = "core"
    split: str = "test"
    seed: int = 0
    first: int = 0
    names: str = "letters"
    noise_counts: str = ""
    balance: bool = False
    phrases: str = "all"
    unique: bool = False

    def __post_init__(self) -> None:
        if self.per_hop < 1:
            raise InputError(f"{self.per_hop} stories per hop; expected at least 1")
        if self.per_hop >= _INT64:
            raise InputError(f"{self.per_hop} stories per hop; row numbers have 64 bits, expected fewer")
        if self.first < 0 or self.first + self.per_hop > _INT64 - 1:
            raise InputError(f"first row {self.first} is out of range; expected 0 to {_INT64 - 1 - self.per_hop}")
        if not -_INT64 <= self.seed < _INT64:
            raise InputError(f"seed {self.seed} does not fit 64 bits")
        if self.noise_counts:
            object.__setattr__(self, "noise", True)
        for hops in self.hops:
            self.sampler(hops, load_bank(self.bank).select(self.phrases))

    def counts(self, hops: int) -> NoiseCounts:
        """Return how much noise stories of this length get."""
        if self.noise_counts:
            return parse_noise_counts(self.noise_counts)
        return official_noise(hops) if self.noise else NO_NOISE

    def sampler(self, hops: int, bank: Bank) -> Sampler:
        """Return what the rows of one length depend on."""
        phrases = np.array([len(group) for group in bank.phrases], np.int64)
        counts = self.counts(hops)
        # The clean story has the names of the noisy one, so the pool is as large in both.
        most = max(counts.agents, official_noise(hops).agents)
        pool = len(agent_names(self.names, hops + 1 + most))
        return Sampler(hops, self.protocol, self.split, self.seed, counts, bank.name, phrases, pool, self.balance)

    def describe(self) -> dict[str, Any]:
        """Return the recipe as plain data, with the versions that the rows also depend on."""
        bank = load_bank(self.bank)
        bank_identity = {"bank": bank.name, "bank_version": bank.version, "bank_sha256": bank.sha256}
        hops = {"hops": format_hops(self.hops)}
        return {"generator_version": GENERATOR_VERSION, **asdict(self), **hops, **bank_identity}


def _named(codes: Any, names: pa.StringArray, width: pa.DataType) -> pa.DictionaryArray:
    # Sampled codes are in range; checking them again would cost as much as making them.
    return pa.DictionaryArray.from_arrays(pa.array(codes, width), names, safe=False)


class _Tabulator:
    """Turns layouts of one length into tables."""

    def __init__(self, recipe: Recipe, hops: int, bank: Bank) -> None:
        self.recipe, self.hops, self.bank = recipe, hops, bank
        self.sampler = recipe.sampler(hops, bank)
        names = agent_names(recipe.names, self.sampler.pool)
        self.renderer = Renderer(bank, names)
        self.names = pa.array(names)
        self.relations = pa.array(NAMES)
        self.roles = pa.array(ROLES)
        self.phrases = pa.array([phrase.name for phrase in bank])
        self.prefix = f"{bank.name}-{recipe.protocol}-{recipe.split}-k{hops}-s{recipe.seed}-"

    def facts(self, layout: Layout, codes: Any) -> pa.ListArray:
        fields = [
            _named(layout.head, self.names, pa.int16()),
            _named(layout.relation, self.relations, pa.int8()),
            _named(layout.tail, self.names, pa.int16()),
            _named(layout.role, self.roles, pa.int8()),
            _named(codes, self.phrases, pa.int16()),
        ]
        return pa.ListArray.from_arrays(layout.offsets, pa.StructArray.from_arrays(fields, fields=list(FACT)))

    def table(self, rows: I64) -> pa.Table:
        layout, count = sample(self.sampler, rows), len(rows)
        codes = self.renderer.codes(layout.relation, layout.phrase)
        sentences = self.renderer.sentences(codes, layout.head, layout.tail)
        index = pa.array(rows)
        columns = [
            pc.binary_join_element_wise(self.prefix, index.cast(pa.string()), ""),
            pa.ListArray.from_arrays(layout.offsets, sentences),
            self.renderer.questions(layout.query[:, 0].copy(), layout.query[:, 1].copy()),
            self.relations.take(pa.array(layout.label)),
            pa.array(np.full(count, self.hops, np.int16)),
            pa.array(layout.hops),
            self.facts(layout, codes),
            pa.repeat(self.recipe.split, count),
            pa.array(np.full(count, self.recipe.seed, np.int64)),
            index,
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def _row_numbers(recipe: Recipe, sampler: Sampler, bank: Bank) -> Iterator[I64]:
    if recipe.unique:
        yield from fresh_rows(sampler, bank, recipe.first, recipe.per_hop)
        return
    last = recipe.first + recipe.per_hop
    rows = max(1, min(BLOCK, _SENTENCES // (sampler.hops + sampler.noise.sentences)))
    for first in range(recipe.first, last, rows):
        yield np.arange(first, min(first + rows, last))


Submit = Callable[[Recipe, int, I64], "Future[pa.Table]"]
"""Starts on a block of rows somewhere; see `make_block`."""


@lru_cache(maxsize=8)
def _tabulator(recipe: Recipe, hops: int) -> _Tabulator:
    return _Tabulator(recipe, hops, load_bank(recipe.bank).select(recipe.phrases))


def make_block(recipe: Recipe, hops: int, rows: I64) -> pa.Table:
    """Make some rows of one length, anywhere: they depend on the arguments alone.

    Args:
        recipe: what to generate.
        hops: chain length.
        rows: [n] int64, their numbers.

    Returns:
        n rows of `stepgame.stories.SCHEMA`.
    """
    return _tabulator(recipe, hops).table(rows)


def _in_order(start: Callable[[I64], Future[T]], blocks: Iterator[I64], ahead: int) -> Iterator[T]:
    """Work on blocks at once, a bounded number ahead, and yield the results in the blocks' order."""
    waiting = deque(start(block) for block in islice(blocks, ahead))
    while waiting:
        done = waiting.popleft().result()
        waiting.extend(start(block) for block in islice(blocks, 1))
        yield done


def _starter(pool: ThreadPoolExecutor, tabulator: _Tabulator) -> Callable[[I64], Future[pa.Table]]:
    return lambda rows: pool.submit(tabulator.table, rows)


def stream(
    recipe: Recipe, workers: int = 1, *, submit: Submit | None = None, ahead: int | None = None
) -> Iterator[Stories]:
    """Yield the recipe's stories in order, at most `BLOCK` rows of one length at a time.

    Args:
        recipe: what to generate.
        workers: blocks made at once; the rows and their order are the same for any number.
        submit: where blocks are made instead of in threads of this process.
        ahead: most blocks under way; a few more than ``workers`` when omitted.

    Raises:
        InputError: if ``workers`` is below 1, or the recipe asks for more unique rows than there are.
    """
    if workers < 1:
        raise InputError(f"{workers} workers; expected at least 1")
    bank = load_bank(recipe.bank).select(recipe.phrases)
    metadata = recipe.describe()
    with ThreadPoolExecutor(workers) as pool:
        for hops in recipe.hops:
            tabulator = _Tabulator(recipe, hops, bank)
            blocks = _row_numbers(recipe, tabulator.sampler, bank)
            start = _starter(pool, tabulator) if submit is None else partial(submit, recipe, hops)
            for table in _in_order(start, blocks, ahead or workers + 1):
                yield Stories(table, metadata)


def repeats(recipe: Recipe) -> dict[int, Repeats]:
    """Count, for each length, the recipe's rows that are alike to others; see `stepgame.unique`."""
    if recipe.unique:
        return dict.fromkeys(recipe.hops, Repeats(0, 0))
    bank = load_bank(recipe.bank).select(recipe.phrases)
    return {k: count_repeats(recipe.sampler(k, bank), bank, recipe.first, recipe.per_hop) for k in recipe.hops}


def generate(
    hops: int | str | Iterable[int],
    n: int = 1000,
    *,
    noise: bool = False,
    protocol: str = "official",
    bank: str | Path = "core",
    split: str = "test",
    seed: int = 0,
    first: int = 0,
    names: str | Path = "letters",
    noise_counts: str = "",
    balance: bool = False,
    phrases: str = "all",
    unique: bool = False,
    workers: int = 1,
) -> Stories:
    """Generate stories in memory.

    A row depends on its number and these arguments only, so ``generate(5, n=1, first=777)`` is row 777 of any
    larger set, and the clean stories of a seed are the noisy ones without their noise sentences.

    Args:
        hops: chain lengths: a number, several, or text such as ``"1-10"``.
        n: stories for each length.
        noise: add distractor sentences of three kinds, in the published numbers.
        protocol: ``"official"`` or ``"exact"``; see `stepgame.layout`.
        bank: phrase bank, by name or by path to a TOML file.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: any whole number of 64 bits.
        first: number of the first row.
        names: ``"letters"``, ``"words"`` or a file with one agent name a line.
        noise_counts: for instance ``"disconnected=2,irrelevant=0-3,supporting=1"``, instead of the published counts.
        balance: give every label the same share; needs the protocol ``"exact"``.
        phrases: ``"train"``, ``"heldout"`` or ``"all"`` of the bank's phrases.
        unique: leave out rows alike to earlier ones or to another split's, drawing on.
        workers: threads; they change the speed only.

    Returns:
        n stories for each length, lengths ascending.

    Raises:
        InputError: on an argument out of range or an unknown name.
    """
    recipe = Recipe(
        parse_hops(hops),
        n,
        noise,
        protocol,
        str(bank),
        split,
        seed,
        first,
        names=str(names),
        noise_counts=noise_counts,
        balance=balance,
        phrases=phrases,
        unique=unique,
    )
    return Stories.concat(stream(recipe, workers))
