"""How a story's answer is reached, as text: what the worked examples of a prompt show."""

from __future__ import annotations

from harness.task import Example
from stepgame.errors import InputError
from stepgame.read import read_sentence
from stepgame.relations import Relation
from stepgame.solve import solve

__all__ = ["WORKING_SLOTS", "can_be_worked", "working"]

WORKING_SLOTS = ("links", "offsets", "total", "facts")
"""Slots of a worked example's reply; see `working`."""


def working(example: Example) -> dict[str, str]:
    """Solve an example and write down how.

    Returns:
        ``links``: the shortest chain of links from the agent asked about to the other, one a line, in words;
        ``offsets``: the same with each link's (dx, dy) in steps; ``total``: their sum, (dx, dy); ``facts``: what every
        sentence of the story says, one a line, as ``relation(head, tail)``.

    Raises:
        InputError: if the story cannot be read or answered.
    """
    path = solve(list(example.story), example.question).path
    facts = [read_sentence(sentence) for sentence in example.story]
    said = [f"{place}. {link.head} is {_words(link.relation)} {link.tail}" for place, link in enumerate(path, 1)]
    vectors = [link.relation.vector for link in path]
    x, y = (sum(vector[axis] for vector in vectors) for axis in (0, 1))
    return {
        "links": "\n".join(f"{line}." for line in said),
        "offsets": "\n".join(f"{line}: ({dx}, {dy})" for line, (dx, dy) in zip(said, vectors, strict=True)),
        "total": f"({x}, {y})",
        "facts": "\n".join(f"{fact.relation.label}({fact.head}, {fact.tail})" for fact in facts),
    }


def can_be_worked(example: Example) -> bool:
    """Whether an example's story can be solved, and to its own answer."""
    try:
        return solve(list(example.story), example.question).label == example.gold
    except InputError:
        return False


def _words(relation: Relation) -> str:
    """Return a relation as it stands between two agents."""
    if relation in (Relation.ABOVE, Relation.BELOW):
        return relation.label
    return "on the spot of" if relation is Relation.OVERLAP else f"{relation.label} of"
