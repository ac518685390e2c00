"""The published sampling procedure in plain Python: the peer of `stepgame.generate`.

One story at a time, with `random`, dictionaries and `str.format`, as one would write it from the paper (Shi, Zhang &
Lipani, AAAI 2022): a chain of k links over the eight directions, a question about any two of its agents, three kinds
of noise, and the label from the agents' positions. The wording comes from the same phrase bank.
"""

from __future__ import annotations

import random
import string
from typing import Any, NamedTuple

from stepgame.bank import Bank

__all__ = ["PlainGenerator"]

Point = tuple[int, int]

DIRECTIONS: dict[str, Point] = {
    "left": (-1, 0),
    "right": (1, 0),
    "above": (0, 1),
    "below": (0, -1),
    "upper-left": (-1, 1),
    "upper-right": (1, 1),
    "lower-left": (-1, -1),
    "lower-right": (1, -1),
}
STEPS = list(DIRECTIONS.values())
RELATIONS = {step: name for name, step in DIRECTIONS.items()} | {(0, 0): "overlap"}


def sign(value: int) -> int:
    """Return -1, 0 or 1."""
    return (value > 0) - (value < 0)


def relation(head: Point, tail: Point) -> str:
    """Name where ``head`` lies as seen from ``tail``."""
    return RELATIONS[sign(head[0] - tail[0]), sign(head[1] - tail[1])]


class Link(NamedTuple):
    """A sentence to be: two agents one step apart, by number, and what the sentence is for."""

    first: int
    second: int
    role: str


class PlainGenerator:
    """Generates stories one by one.

    Args:
        bank: the wording.
        seed: of the random numbers.
    """

    def __init__(self, bank: Bank, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.question = bank.question
        self.phrases: dict[str, list[tuple[str, str]]] = {}
        for phrase in bank:
            self.phrases.setdefault(phrase.relation.label, []).append((phrase.name, phrase.pattern))

    def generate(self, hops: int, n: int, noise: bool = True) -> list[dict[str, Any]]:
        """Return n stories.

        Args:
            hops: links of the chain, 1 to 10; agents are named by the 26 letters.
            n: how many stories.
            noise: add the three kinds of distractor sentences.

        Returns:
            Dictionaries with story (a list of sentences), question, label, k_hop, hops and facts (head, relation,
            tail, role and phrase of each sentence).
        """
        return [self.story(hops, noise) for _ in range(n)]

    def story(self, hops: int, noise: bool = True) -> dict[str, Any]:
        """Return one story; see `generate`."""
        places: list[Point] = [(0, 0)]
        links: list[Link] = []
        for _ in range(hops):
            self.hang(places, links, len(places) - 1, "chain")
        head, tail = self.random.sample(range(hops + 1), 2)
        if noise:
            self.add_noise(places, links, hops, {head, tail})
        names = self.random.sample(string.ascii_uppercase, len(places))
        self.random.shuffle(links)
        facts = [self.tell(link, places, names) for link in links]
        return {
            "story": [sentence for sentence, _ in facts],
            "question": self.question.format(head=names[head], tail=names[tail]),
            "label": relation(places[head], places[tail]),
            "k_hop": hops,
            "hops": abs(head - tail),
            "facts": [fact for _, fact in facts],
        }

    def hang(self, places: list[Point], links: list[Link], anchor: int, role: str) -> None:
        """Add an agent one random step away from another."""
        dx, dy = self.random.choice(STEPS)
        x, y = places[anchor]
        links.append(Link(len(places), anchor, role))
        places.append((x + dx, y + dy))

    def add_noise(self, places: list[Point], links: list[Link], hops: int, asked: set[int]) -> None:
        """Add a supporting path, irrelevant agents and a chain of strangers."""
        most = (hops + 1) // 3 + 1
        if hops > 3:
            self.add_support(places, links, [agent for agent in range(hops + 1) if agent not in asked])
        anchors = list(range(hops + 1))
        for _ in range(self.random.randint(1, most)):
            anchor = self.random.choice(anchors)
            anchors.append(len(places))
            self.hang(places, links, anchor, "irrelevant")
        places.append((0, 0))
        for _ in range(self.random.randint(2, max(2, most)) - 1):
            self.hang(places, links, len(places) - 1, "disconnected")

    def add_support(self, places: list[Point], links: list[Link], unasked: list[int]) -> None:
        """Join two unasked agents 2 to 7 steps apart by unit steps in random order, if there are such two."""
        pairs = [
            (a, b)
            for i, a in enumerate(unasked)
            for b in unasked[i + 1 :]
            if 2 <= abs(places[a][0] - places[b][0]) + abs(places[a][1] - places[b][1]) <= 7
        ]
        if not pairs:
            return
        here, goal = self.random.choice(pairs)
        (x, y), (goal_x, goal_y) = places[here], places[goal]
        right, up = goal_x - x, goal_y - y
        steps = [(sign(right), 0)] * abs(right) + [(0, sign(up))] * abs(up)
        self.random.shuffle(steps)
        for dx, dy in steps[:-1]:
            x, y = x + dx, y + dy
            places.append((x, y))
            links.append(Link(len(places) - 1, here, "supporting"))
            here = len(places) - 1
        links.append(Link(goal, here, "supporting"))

    def tell(self, link: Link, places: list[Point], names: list[str]) -> tuple[str, tuple[str, str, str, str, str]]:
        """Word a link: the sentence, and the fact it states."""
        head, tail = link.first, link.second
        if self.random.random() < 0.5:
            head, tail = tail, head
        what = relation(places[head], places[tail])
        phrase, pattern = self.random.choice(self.phrases[what])
        sentence = pattern.format(head=names[head], tail=names[tail])
        return sentence, (names[head], what, names[tail], link.role, phrase)
