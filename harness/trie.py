"""The options of a question as a trie of tokens, so that what they share is scored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepgame.errors import InputError

__all__ = ["Trie", "build_trie", "split_options"]

ROOT = -1


@dataclass(frozen=True, slots=True)
class Trie:
    """Option tokens, each distinct beginning once, in an order that puts parents first.

    Only tokens that something follows have to be fed to a model: the probability of a last token is read off its
    parent. These are the *inner* nodes.

    Attributes:
        inner: token of each inner node.
        parent: inner node before each inner node; `ROOT` where the prompt itself is.
        steps: for each option the (inner node, token) pairs whose log-probabilities sum to its log-likelihood.
    """

    inner: tuple[int, ...]
    parent: tuple[int, ...]
    steps: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def depth(self) -> tuple[int, ...]:
        """Tokens from the prompt to each inner node: 1 for an option's first token."""
        depths: list[int] = []
        for parent in self.parent:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)

    @property
    def scored(self) -> int:
        """How many different tokens are scored."""
        return len({step for steps in self.steps for step in steps})


def build_trie(options: Sequence[tuple[int, ...]]) -> Trie:
    """Build the trie of some options.

    Args:
        options: tokens of each option; none empty, no two alike.
    """
    nodes: dict[tuple[int, ...], int] = {}
    parent: list[int] = []
    for tokens in options:
        for end in range(1, len(tokens)):
            path = tokens[:end]
            if path not in nodes:
                nodes[path] = len(parent)
                parent.append(nodes.get(path[:-1], ROOT))
    steps = tuple(
        tuple((nodes.get(tokens[:end], ROOT), tokens[end]) for end in range(len(tokens))) for tokens in options
    )
    return Trie(tuple(path[-1] for path in nodes), tuple(parent), steps)


def split_options(
    prompt: Sequence[int], whole: Sequence[Sequence[int]], options: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """Cut the prompt's tokens off those of prompt and option together.

    Args:
        prompt: tokens of the prompt.
        whole: tokens of the prompt with each option behind it.
        options: the options' texts, for messages.

    Returns:
        The tokens of each option.

    Raises:
        InputError: if an option changes the prompt's own tokens, adds none, or has those of another option:
            its probability as a continuation would then not be defined.
    """
    found: dict[tuple[int, ...], str] = {}
    for tokens, option in zip(whole, options, strict=True):
        tail = tuple(tokens[len(prompt) :])
        if list(tokens[: len(prompt)]) != list(prompt):
            raise InputError(
                f"option {option!r} merges with the prompt's last tokens in this model's tokenizer, so it cannot be "
                "scored on its own; end the prompt differently, or use --score generate"
            )
        if not tail:
            raise InputError(f"option {option!r} adds no token in this model's tokenizer; use --score generate")
        if tail in found:
            raise InputError(f"options {found[tail]!r} and {option!r} have the same tokens; use --score generate")
        found[tail] = option
    return tuple(found)
