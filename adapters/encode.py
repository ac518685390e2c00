"""Conversations as tokens, each token knowing whose it is: the template's, or a turn's.

A model's chat template decides the text; which of its characters came from which turn is found by rendering it once
with placeholders in the turns' place, for each order of roles. The pieces between the placeholders are the template's
own words. The real text must then be those pieces with the real contents between them; a template that drops, reorders
or rewrites what it is given does not pass, and the example is named.

Models without a chat template read plain text as `harness.models.chat.plain_text` has it: blank lines between turns,
the cue before each answer, and the end-of-sequence token behind the last one. An option that is scored without a cue
completes the text, behind a blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.models.base import Message
from stepgame.errors import InputError

__all__ = ["TEMPLATE", "Encoder", "TokenisedConversation"]

TEMPLATE = -1
"""Owner of the tokens that are the template's own."""


@dataclass(frozen=True, slots=True)
class TokenisedConversation:
    """A conversation as a model reads it.

    Attributes:
        ids: its tokens.
        owners: for each token the number of the turn that it belongs to, or `TEMPLATE`. The token that ends an
            assistant's turn belongs to that turn: a model has to learn to stop.
        answer: place of the last turn's first token; what stands before is the prompt, the turn's header included.
    """

    ids: tuple[int, ...]
    owners: tuple[int, ...]
    answer: int

    def cut(self, length: int | None) -> TokenisedConversation:
        """Return the first tokens of it, or itself where it is no longer than that."""
        if length is None or len(self.ids) <= length:
            return self
        return TokenisedConversation(self.ids[:length], self.owners[:length], self.answer)


class _Span(NamedTuple):
    """Characters of a turn's content: [start, end)."""

    start: int
    end: int


class Encoder:
    """Turns conversations into tokens.

    Args:
        tokenizer: of transformers, a fast one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._chat = tokenizer.chat_template is not None
        self._special = frozenset(tokenizer.all_special_ids)
        self._pieces: dict[tuple[str, ...], list[str]] = {}

    def encode(
        self, name: str, messages: Sequence[Message], cue: str = "", *, option: bool = False
    ) -> TokenisedConversation:
        """Tokenise a conversation.

        Args:
            name: of the example, for messages.
            messages: the turns; the last one is the assistant's.
            cue: what stands before an answer, for models without a chat template.
            option: whether the answer is an option as the harness scores it.

        Raises:
            InputError: if there is no answer, or the template does not keep the turns as they are.
        """
        if not messages or messages[-1].role != "assistant" or not messages[-1].content.strip():
            raise InputError(f"example {name}: the last turn must be the assistant's, and not empty")
        text, spans = self._lay_out(name, messages) if self._chat else self._plain(messages, cue, option)
        encoding = self.tokenizer(text, add_special_tokens=not self._chat, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        owners = _owners(offsets, spans)
        self._own_ends(ids, [text[start:end] for start, end in offsets], owners, messages)
        answer = next((place for place, owner in enumerate(owners) if owner == len(messages) - 1), None)
        if not answer:
            raise InputError(f"example {name}: this model's tokenizer makes no tokens of the answer, or none before it")
        return TokenisedConversation(tuple(ids), tuple(owners), answer)

    def _lay_out(self, name: str, messages: Sequence[Message]) -> tuple[str, list[_Span]]:
        """Return the text that the chat template makes, and where each turn's content lies in it."""
        text = self._render(name, messages)
        pieces = self._template(name, tuple(message.role for message in messages))
        for contents in ([m.content for m in messages], [m.content.strip() for m in messages]):
            spans, parts, end = [], [pieces[0]], len(pieces[0])
            for content, piece in zip(contents, pieces[1:], strict=True):
                spans.append(_Span(end, end + len(content)))
                parts += [content, piece]
                end += len(content) + len(piece)
            if "".join(parts) == text:
                return text, spans
        raise InputError(
            f"example {name}: the model's chat template rewrites, drops or reorders its turns, so that it cannot be "
            "told which tokens are whose; leave the example out, or give the tokenizer a plainer template"
        )

    def _template(self, name: str, roles: tuple[str, ...]) -> list[str]:
        """Return the template's own words before, between and behind turns of these roles."""
        if roles not in self._pieces:
            # Characters for private use: no template can know them.
            marks = [f"\ue000{place}\ue001" for place in range(len(roles))]
            turns = [Message(role, mark) for role, mark in zip(roles, marks, strict=True)]  # type: ignore[arg-type]
            rest = self._render(name, turns)
            pieces = []
            for mark in marks:
                piece, found, rest = rest.partition(mark)
                if not found:
                    raise InputError(
                        f"example {name}: the model's chat template drops or reorders turns of the roles "
                        f"{', '.join(roles)}; leave the example out, or give the tokenizer a plainer template"
                    )
                pieces.append(piece)
            self._pieces[roles] = [*pieces, rest]
        return self._pieces[roles]

    def _render(self, name: str, messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception as error:
            # Templates raise jinja2's errors for roles or orders they do not take.
            if type(error).__module__.partition(".")[0] != "jinja2":
                raise
            raise InputError(
                f"example {name}: the model's chat template does not take turns of the roles "
                f"{', '.join(message.role for message in messages)}: {error}"
            ) from None
        return text

    def _plain(self, messages: Sequence[Message], cue: str, option: bool) -> tuple[str, list[_Span]]:
        text, spans = "", []
        for place, message in enumerate(messages):
            content = message.content.strip()
            completes = option and not cue and place == len(messages) - 1
            text += "" if not place else " " if completes else "\n\n"
            if message.role == "assistant" and not (cue and content.startswith(cue)):
                text += f"{cue} " if cue else ""
            spans.append(_Span(len(text), len(text) + len(content)))
            text += content
        return text + (self.tokenizer.eos_token or ""), spans

    def _own_ends(
        self, ids: Sequence[int], texts: Sequence[str], owners: list[int], messages: Sequence[Message]
    ) -> None:
        """Give the special token behind an assistant's turn to it, and the blanks between them (Llama 2 has some)."""
        for turn, message in enumerate(messages):
            if message.role != "assistant" or turn not in owners:
                continue
            start = place = len(owners) - owners[::-1].index(turn)
            while place < len(ids) and owners[place] == TEMPLATE and ids[place] not in self._special:
                if texts[place].strip():
                    break
                place += 1
            if place < len(ids) and owners[place] == TEMPLATE and ids[place] in self._special:
                owners[start : place + 1] = [turn] * (place + 1 - start)


def _owners(offsets: Sequence[tuple[int, int]], spans: Sequence[_Span]) -> list[int]:
    """Return whose each token is: the turn's of which it holds a character, the later one's if of two."""
    owners, turn = [], 0
    for start, end in offsets:
        while turn < len(spans) and spans[turn].end <= start:
            turn += 1
        owner, later = TEMPLATE, turn
        while end > start and later < len(spans) and spans[later].start < end:
            if spans[later].end > spans[later].start:
                owner = later
            later += 1
        owners.append(owner)
    return owners
