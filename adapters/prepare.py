"""Examples as what a method learns from: tokenised, cut to length, weighed, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapters.encode import TEMPLATE, Encoder, TokenisedConversation
from adapters.examples import TrainingExample
from adapters.method import BaseModel, Features, Method
from harness.progress import say
from stepgame.errors import InputError

__all__ = ["Parts", "Prepared", "PreparedData", "parts_of", "prepare"]


class Parts(NamedTuple):
    """How many tokens of an example are whose.

    Attributes:
        instruction: of turns that are not the assistant's.
        output: of the assistant's turns, with the tokens that end them.
        template: of neither.
    """

    instruction: int
    output: int
    template: int


class Prepared(NamedTuple):
    """One example.

    Attributes:
        example: where it came from.
        tokens: what is left of it.
        features: what is learnt from it.
    """

    example: TrainingExample
    tokens: TokenisedConversation
    features: Features

    @property
    def parts(self) -> Parts:
        """How many of its tokens are whose."""
        return parts_of(self.tokens, self.example)


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Examples that are ready, and what became of the others.

    Attributes:
        examples: those that are learnt from.
        shortened: how many of them lost their end.
        left_out: how many others lost all of their output, and are not learnt from.
    """

    examples: tuple[Prepared, ...]
    shortened: int
    left_out: int

    @property
    def rows(self) -> list[Features]:
        """What is learnt from."""
        return [each.features for each in self.examples]

    def record(self) -> dict[str, Any]:
        """Return what the manifest says of them."""
        parts = [each.parts for each in self.examples]
        total = Parts(*(sum(counts) for counts in zip(*parts, strict=True)))
        lengths = [len(each.tokens.ids) for each in self.examples]
        return {
            "examples": len(lengths),
            "tokens": sum(lengths),
            "instruction_tokens": total.instruction,
            "output_tokens": total.output,
            "template_tokens": total.template,
            "length_ratio": round(total.instruction / max(total.output, 1), 4),
            "longest": max(lengths),
            "longest_prompt": max(each.features.prompt for each in self.examples),
            "shortened": self.shortened,
            "left_out": self.left_out,
        }


def prepare(
    method: Method, tokenizer: Any, examples: Sequence[TrainingExample], base: BaseModel, max_tokens: int | None
) -> PreparedData:
    """Tokenise and weigh examples; say how many had to be cut.

    The end is cut off, as is usual, so that what is left is what a model would have read up to there. An example of
    whose output nothing is left is left out, whatever the method, so that methods can be compared on the same examples.

    Args:
        method: weighs the tokens.
        tokenizer: of transformers.
        examples: what is to be learnt from.
        base: the model.
        max_tokens: longest example; None for as many as the model has positions, beyond which it is an error.

    Raises:
        InputError: naming the example; or if nothing is left of any.
    """
    encoder, bound = Encoder(tokenizer), base.positions
    if max_tokens is not None and bound is not None and max_tokens > bound:
        raise InputError(f"--max-tokens {max_tokens} is more than the {bound} positions of {base.spec!r}; lower it")
    found, shortened, left_out = [], 0, 0
    for example in examples:
        asked = example.asked
        option = asked is not None and example.messages[-1].content == asked.gold
        whole = encoder.encode(example.id, example.messages, example.cue, option=option)
        length = len(whole.ids)
        if max_tokens is None and bound is not None and length > bound:
            raise InputError(
                f"example {example.id} has {length} tokens, more than the {bound} positions of {base.spec!r}; leave it "
                f"out, or cut long examples off by --max-tokens {bound}"
            )
        tokens = whole.cut(max_tokens)
        try:
            features = method.features(tokens, example.messages)
        except InputError as error:
            raise InputError(f"example {example.id}: {error}") from None
        if features is not None:
            found.append(Prepared(example, tokens, features))
            shortened += tokens is not whole
        elif tokens is not whole:
            left_out += 1
        else:
            raise InputError(f"example {example.id}: no token of it is learnt from")
    if left_out and not found:
        raise InputError(f"--max-tokens {max_tokens} leaves nothing of the output of any example; raise it")
    if shortened or left_out:
        say(
            f"of {len(examples)} examples {shortened} are cut off at --max-tokens {max_tokens}, and {left_out} are "
            "left out because nothing of their output would be left"
        )
    return PreparedData(tuple(found), shortened, left_out)


def parts_of(tokens: TokenisedConversation, example: TrainingExample) -> Parts:
    """Count whose the tokens of an example are."""
    template = sum(owner == TEMPLATE for owner in tokens.owners)
    output = sum(owner != TEMPLATE and example.messages[owner].role == "assistant" for owner in tokens.owners)
    return Parts(len(tokens.owners) - template - output, output, template)
