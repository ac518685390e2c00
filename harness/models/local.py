"""What backends that run weights themselves share: prompts and options as tokens.

They decide what a number means, so every engine takes them from here:

- A model with a chat template is asked through it, and options follow the header of the assistant's turn directly,
  without a blank, because that is where a chat model begins its own answers.
- A model without one completes plain text, and options follow the cue after one blank, as words do in running text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.models.base import Prompt
from harness.models.chat import render_chat
from harness.trie import split_options

__all__ = ["Encoded", "Encoder"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as a model reads it.

    Attributes:
        text: after the chat template.
        ids: its tokens.
    """

    text: str
    ids: tuple[int, ...]


class Encoder:
    """Turns prompts and options into tokens, each once.

    Args:
        tokenizer: of transformers, a fast one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._chat = tokenizer.chat_template is not None
        self._encoded: dict[Prompt, Encoded] = {}
        self._tails: dict[tuple[str, tuple[str, ...]], tuple[tuple[int, ...], ...]] = {}

    def forget(self) -> None:
        """Drop the prompts that were encoded so far."""
        self._encoded.clear()

    def encode(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Return each prompt's text and tokens."""
        missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._encoded))
        if missing:
            texts = [render_chat(self._tokenizer, prompt) for prompt in missing]
            ids = self._tokenizer(texts, add_special_tokens=not self._chat)["input_ids"]
            for prompt, text, each in zip(missing, texts, ids, strict=True):
                self._encoded[prompt] = Encoded(text, tuple(each))
        return [self._encoded[prompt] for prompt in prompts]

    def options(self, prompt: Encoded, options: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Return each option's tokens behind the prompt, checked at the border.

        Raises:
            InputError: if an option cannot be scored on its own; see `harness.trie.split_options`.
        """
        lead = "" if self._chat else " "
        # What stands behind a special token is tokenised on its own, so the border need be checked once an ending.
        cut = max((prompt.text.rfind(token) for token in self._tokenizer.all_special_tokens), default=-1)
        tail = prompt.text[max(cut, 0) :]
        key = (tail, options)
        if cut < 0 or key not in self._tails:
            special = cut < 0 and not self._chat
            texts = [tail, *(tail + lead + option for option in options)]
            before, *whole = self._tokenizer(texts, add_special_tokens=special)["input_ids"]
            found = split_options(before, whole, options)
            if cut < 0:
                return found
            self._tails[key] = found
        return self._tails[key]
