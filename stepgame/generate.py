"""Generate stories: any number of hops, with or without noise, in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepgame.bank import Bank, load_bank
from stepgame.errors import InputError
from stepgame.hops import format_hops, parse_hops
from stepgame.layout import GENERATOR_VERSION, ROLES, Layout, Sampler, sample
from stepgame.relations import NAMES
from stepgame.render import Renderer, letter_names
from stepgame.stories import FACT, SCHEMA, Stories

__all__ = ["BLOCK", "Recipe", "generate", "stream"]

BLOCK = 16384
"""Rows sampled and written at a time; it bounds memory and has no influence on the rows."""

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
    """

    hops: tuple[int, ...]
    per_hop: int
    noise: bool = False
    protocol: str = "official"
    bank: str = "core"
    split: str = "test"
    seed: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        if self.per_hop < 1:
            raise InputError(f"{self.per_hop} stories per hop; expected at least 1")
        if self.first < 0 or self.first + self.per_hop > _INT64 - 1:
            raise InputError(f"first row {self.first} is out of range; expected 0 to {_INT64 - 1 - self.per_hop}")
        if not -_INT64 <= self.seed < _INT64:
            raise InputError(f"seed {self.seed} does not fit 64 bits")
        self.sampler(self.hops[0], load_bank(self.bank))

    def sampler(self, hops: int, bank: Bank) -> Sampler:
        """Return what the rows of one length depend on."""
        counts = np.array([len(group) for group in bank.phrases], np.int64)
        return Sampler(hops, self.protocol, self.split, self.seed, self.noise, bank.name, counts)

    def describe(self) -> dict[str, Any]:
        """Return the recipe as plain data, with the versions that the rows also depend on."""
        bank = load_bank(self.bank)
        bank_identity = {"bank": bank.name, "bank_version": bank.version, "bank_sha256": bank.sha256}
        hops = {"hops": format_hops(self.hops)}
        return {"generator_version": GENERATOR_VERSION, **asdict(self), **hops, **bank_identity}


def _named(codes: Any, names: pa.StringArray, width: pa.DataType) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, width), names)


class _Tabulator:
    """Turns layouts of one length into tables."""

    def __init__(self, recipe: Recipe, hops: int, bank: Bank) -> None:
        self.recipe, self.hops, self.bank = recipe, hops, bank
        self.sampler = recipe.sampler(hops, bank)
        names = letter_names(self.sampler.pool)
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
            _named(codes.astype(np.int16), self.phrases, pa.int16()),
        ]
        return pa.ListArray.from_arrays(layout.offsets, pa.StructArray.from_arrays(fields, fields=list(FACT)))

    def table(self, first: int, count: int) -> pa.Table:
        layout = sample(self.sampler, first, count)
        codes = self.renderer.codes(layout.relation, layout.phrase)
        sentences = self.renderer.sentences(codes, layout.head, layout.tail)
        index = pa.array(np.arange(first, first + count, dtype=np.int64))
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


def stream(recipe: Recipe) -> Iterator[Stories]:
    """Yield the recipe's stories in order, at most `BLOCK` rows of one length at a time."""
    bank = load_bank(recipe.bank)
    metadata = recipe.describe()
    last = recipe.first + recipe.per_hop
    for hops in recipe.hops:
        tabulator = _Tabulator(recipe, hops, bank)
        for first in range(recipe.first, last, BLOCK):
            yield Stories(tabulator.table(first, min(BLOCK, last - first)), metadata)


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

    Returns:
        n stories for each length, lengths ascending.

    Raises:
        InputError: on an argument out of range or an unknown name.
    """
    recipe = Recipe(parse_hops(hops), n, noise, protocol, str(bank), split, seed, first)
    return Stories.concat(stream(recipe))
