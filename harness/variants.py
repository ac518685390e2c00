"""StepGame stories told in another way, with the answer that follows: what invariance probes ask.

``renamed``: the agents have other names, the same throughout a story. ``shuffled``: the sentences stand in another
order. ``reversed``: the question's two agents have changed places, so the answer is the inverse relation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from typing import Any, TypeVar

from harness.task import Example, Extraction
from harness.tasks.stepgame import StepGame
from stepgame.errors import InputError, unknown_name
from stepgame.read import mask, read_question
from stepgame.relations import Relation

__all__ = ["ORIGINAL", "VARIANTS", "StepGameVariant", "agents_of", "expected_answer", "vary"]

ORIGINAL = "original"
"""What stories are called that are told as they are."""

VARIANTS = ("renamed", "shuffled", "reversed")
"""The ways to tell a story otherwise."""

T = TypeVar("T")

_NAME = re.compile(r"\b[A-ZÀ-ÖØ-Þ]\w*")
_ATTEMPTS = 32


def agents_of(example: Example) -> list[str]:
    """Return the agents that an example's story and question name, sorted."""
    return sorted({name for text in (*example.story, example.question) for name in mask(text)[1]})


def expected_answer(variant: str, answer: str) -> str:
    """Return what a consistent model answers to a variant.

    Args:
        variant: one of `VARIANTS`.
        answer: its answer to the original.
    """
    return Relation.parse(answer).inverse.label if variant == "reversed" else answer


def vary(example: Example, variant: str, seed: int = 0, pool: Sequence[str] = ()) -> Example | None:
    """Tell an example in another way.

    Its id gets the variant behind a ``~``. The result is a pure function of the arguments.

    Args:
        example: the original.
        variant: one of `VARIANTS`.
        seed: of the new names or the new order.
        pool: names that ``renamed`` draws from; those of the example are always among them.

    Returns:
        The variant, different from the original; None where there is none, as of a single sentence's order.

    Raises:
        InputError: if there is no such variant, or the question cannot be read.
    """
    if variant == "renamed":
        told = _renamed(example, seed, pool)
    elif variant == "shuffled":
        told = _shuffled(example, seed)
    elif variant == "reversed":
        told = _reversed(example)
    else:
        raise unknown_name("variant", variant, VARIANTS)
    if told is None:
        return None
    return replace(told, id=f"{example.id}~{variant}", gold=expected_answer(variant, example.gold))


def _renamed(example: Example, seed: int, pool: Sequence[str]) -> Example | None:
    agents = agents_of(example)
    names = sorted({*agents, *pool})
    for attempt in range(_ATTEMPTS if len(names) > 1 else 0):
        cycle = _order(names, seed, example.id, attempt)
        # One cycle through all names: no two agents get the same name, and none keeps its own.
        new = {name: cycle[(place + 1) % len(cycle)] for place, name in enumerate(cycle)}
        texts = [_substitute(text, new) for text in (*example.story, example.question)]
        whole = [text for text in texts if text is not None]
        # A name can turn a phrase into another, as A does before "step"; other names then do not.
        if len(whole) == len(texts):
            return replace(example, story=tuple(whole[:-1]), question=whole[-1])
    return None


def _shuffled(example: Example, seed: int) -> Example | None:
    places = range(len(example.story))
    for attempt in range(_ATTEMPTS):
        order = _order(places, seed, example.id, attempt)
        story = tuple(example.story[place] for place in order)
        if story != example.story:
            return replace(example, story=story)
    return None


def _reversed(example: Example) -> Example | None:
    head, tail = read_question(example.question)
    question = _substitute(example.question, {head: tail, tail: head})
    return None if question is None else replace(example, question=question)


def _substitute(text: str, names: Mapping[str, str]) -> str | None:
    """Put other names in a text's agents' places; None if it would then read differently."""
    shape, agents = mask(text)
    wanted = (shape, tuple(names.get(agent, agent) for agent in agents))
    spots = [match for match in _NAME.finditer(text) if match.group() in agents]
    # A capital letter may be an article or a compass point instead; the reader knows which, so it is asked.
    for kept in range(len(spots)):
        for left in combinations(spots, kept):
            told, end = [], 0
            for spot in spots:
                if spot not in left:
                    told += [text[end : spot.start()], names.get(spot.group(), spot.group())]
                    end = spot.end()
            new = "".join([*told, text[end:]])
            if mask(new) == wanted:
                return new
    return None


def _order(items: Iterable[T], seed: int, sample: str, attempt: int) -> list[T]:
    """Return items in an order that is a pure function of the arguments."""

    def key(item: T) -> bytes:
        return hashlib.blake2b(f"{seed}\0{sample}\0{attempt}\0{item}".encode(), digest_size=16).digest()

    return sorted(items, key=key)


class StepGameVariant:
    """StepGame stories, each told in another way.

    Args:
        variant: one of `VARIANTS`; or ``"original"``, the stories as they are.
        variant_seed: of the new names or the new order.
        stories: parameters of `harness.tasks.stepgame.StepGame`, which makes the originals.

    Raises:
        InputError: if a parameter is wrong, a question cannot be read, or no story has such a variant.
    """

    name = "stepgame-variant"
    prompt = StepGame.prompt
    extraction = StepGame.extraction

    def __init__(self, *, variant: str = ORIGINAL, variant_seed: int = 0, **stories: Any) -> None:
        if variant not in (ORIGINAL, *VARIANTS):
            raise unknown_name("variant", variant, (ORIGINAL, *VARIANTS))
        self._base = StepGame(**stories)
        self._variant, self._seed = variant, variant_seed
        if not self.examples:
            raise InputError(f"none of the {len(self._base.examples)} stories has a variant {variant!r}")

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Keyword arguments that make this task again."""
        return {"variant": self._variant, "variant_seed": self._seed, **self._base.parameters}

    @cached_property
    def data_sha256(self) -> str:
        """Hash of what is asked: stories, questions, labels and lengths, in order."""
        digest = hashlib.sha256()
        for each in self.examples:
            row = [each.story, each.question, each.gold, each.k_hop]
            digest.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        return digest.hexdigest()

    @property
    def generator_version(self) -> str | None:
        """Version of the generator of the originals; None for data from a file."""
        return self._base.generator_version

    @cached_property
    def examples(self) -> Sequence[Example]:
        """The variants, in the order of their originals; stories that have none are left out."""
        originals = self._base.examples
        if self._variant == ORIGINAL:
            return originals
        pool = sorted({name for example in originals for name in agents_of(example)})
        told = (vary(example, self._variant, self._seed, pool) for example in originals)
        return [each for each in told if each is not None]

    def training(self, per_hop: int, hops: Sequence[int] | None = None) -> Sequence[Example]:
        """Return original stories of the training split; see `harness.tasks.stepgame.StepGame.training`."""
        return self._base.training(per_hop, hops)

    def extract(self, text: str, example: Example) -> Extraction:
        """Read one of the nine labels out of free text."""
        return self._base.extract(text, example)
