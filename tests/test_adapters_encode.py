"""Conversations as tokens: whose each one is, for several chat templates, against an account written by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

from adapters.encode import TEMPLATE, Encoder
from harness.models.base import Message, Prompt
from harness.models.chat import plain_text
from harness.task import Example
from stepgame.errors import InputError
from tests.tiny import tokenizer

LOOP = "{% for m in messages %}"
PLAIN_MARKERS = LOOP + "<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
STRIPPING = (
    LOOP + "{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'system' %}<<SYS>>{{ m.content | trim }}<</SYS>>"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
DROPS_SYSTEM = LOOP + "{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
SWAPS = "{% for m in messages | reverse %}<{{ m.role }}>{{ m.content }}{% endfor %}"
SHOUTS = LOOP + "{{ m.role }}: {{ m.content | upper }}\n{% endfor %}"
ALTERNATES = (
    LOOP + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{{ m.content }}\n{% endfor %}"
)

Piece = tuple[str, int]


def chatml(messages: list[Message]) -> list[Piece]:
    """SmolLM2's own template, by hand."""
    pieces = []
    if messages[0].role != "system":
        default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
        pieces.append((f"<|im_start|>system\n{default}<|im_end|>\n", TEMPLATE))
    for turn, message in enumerate(messages):
        ends = turn if message.role == "assistant" else TEMPLATE
        pieces += [(f"<|im_start|>{message.role}\n", TEMPLATE), (message.content, turn)]
        pieces += [("<|im_end|>", ends), ("\n", TEMPLATE)]
    return pieces


def plain_markers(messages: list[Message]) -> list[Piece]:
    return [
        piece
        for turn, message in enumerate(messages)
        for piece in ((f"<|{message.role}|>\n", TEMPLATE), (message.content, turn), ("\n", TEMPLATE))
    ]


def stripping(messages: list[Message]) -> list[Piece]:
    around = {"user": ("[INST] ", " [/INST]"), "system": ("<<SYS>>", "<</SYS>>"), "assistant": (" ", "")}
    pieces: list[Piece] = []
    for turn, message in enumerate(messages):
        before, behind = around[message.role]
        pieces += [(before, TEMPLATE), (message.content.strip(), turn), (behind, TEMPLATE)]
        if message.role == "assistant":
            pieces.append((" <|im_end|>", turn))
    return pieces


def no_template(messages: list[Message]) -> list[Piece]:
    pieces: list[Piece] = []
    for turn, message in enumerate(messages):
        pieces += [("\n\n" if turn else "", TEMPLATE)]
        if message.role == "assistant" and not message.content.strip().startswith("Answer:"):
            pieces.append(("Answer: ", TEMPLATE))
        pieces.append((message.content.strip(), turn))
    return [*pieces, ("<|im_end|>", len(messages) - 1)]


TEMPLATES = {
    "own": (None, chatml),
    "markers": (PLAIN_MARKERS, plain_markers),
    "stripping": (STRIPPING, stripping),
    "none": ("", no_template),
}


def encoder(template: str | None) -> Encoder:
    words = copy.deepcopy(tokenizer())
    if template is not None:
        words.chat_template = template or None
    return Encoder(words)


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {name: encoder(template) for name, (template, _) in TEMPLATES.items()}


# The tokenizer has no tokens for control characters; no template can know private ones, which the encoder marks with.
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn"]), min_size=1, max_size=30)
contents = st.one_of(
    texts, st.sampled_from(["upper-left", " two  blanks ", "line\nline\n", "émoji 🙂🙂", "日本語", "<|x|>"])
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    turns = [Message("system", draw(contents))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Message("user", draw(contents)), Message("assistant", draw(contents))]
    return turns


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations())
def test_every_character_is_owned_by_its_turn(name: str, messages: list[Message], encoders: dict[str, Encoder]) -> None:
    assume(all(message.content.strip() for message in messages))
    assume(not any(special in message.content for message in messages for special in ("<|im_", "<|endoftext")))
    pieces = TEMPLATES[name][1](messages)
    text = "".join(piece for piece, _ in pieces)
    owner_of = [owner for piece, owner in pieces for _ in piece]
    tokens = encoders[name].encode("e", messages, "Answer:")
    words = encoders[name].tokenizer
    assert words.decode(tokens.ids, clean_up_tokenization_spaces=False) == text
    offsets = words(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert len(offsets) == len(tokens.owners)
    covered: dict[int, set[int]] = {}
    for (start, end), owner in zip(offsets, tokens.owners, strict=True):
        # A token's owner is the last turn that it holds a character of, and the template only if of none.
        assert owner == max(owner_of[start:end], default=TEMPLATE), (text[start:end], owner)
        covered.setdefault(owner, set()).update(range(start, end))
    for turn in range(len(messages)):
        own = {place for place, owner in enumerate(owner_of) if owner == turn}
        lost = own - covered.get(turn, set())
        # What a turn lacks can only be in a token that it shares with the next one.
        assert all(any(place in covered.get(later, ()) for later in range(turn + 1, len(messages))) for place in lost)
    assert tokens.owners[tokens.answer] == len(messages) - 1
    assert len(messages) - 1 not in tokens.owners[: tokens.answer]


def test_plain_text_is_what_the_harness_asks() -> None:
    example = Example("e", (), "Where is A?", ("left",), "left")
    turns = (Message("system", "Be brief."), Message("user", "Where is A?"))
    asked = plain_text(Prompt(turns, "Answer:", example))
    made = encoder("")
    tokens = made.encode("e", (*turns, Message("assistant", "left")), "Answer:")
    words: Any = made.tokenizer
    assert words.decode(tokens.ids) == asked + " left" + words.eos_token
    assert words.decode(tokens.ids[tokens.answer :]) == " left" + words.eos_token
    # Without a cue an option is scored behind a blank; a text that is written begins a paragraph.
    option = made.encode("e", (*turns, Message("assistant", "left")), option=True)
    assert words.decode(option.ids) == plain_text(Prompt(turns, "", example)) + " left" + words.eos_token
    assert "?\n\nleft" in words.decode(made.encode("e", (*turns, Message("assistant", "left"))).ids)


def test_cut_keeps_the_first_tokens() -> None:
    tokens = encoder(None).encode("e", [Message("user", "Where?"), Message("assistant", "Left of it.")])
    assert tokens.cut(None) is tokens
    assert tokens.cut(len(tokens.ids)) is tokens
    cut = tokens.cut(tokens.answer + 1)
    assert cut.ids == tokens.ids[: tokens.answer + 1]
    assert len(cut.owners) == len(cut.ids)


@pytest.mark.parametrize("template", [DROPS_SYSTEM, SWAPS, SHOUTS, ALTERNATES])
def test_templates_that_change_turns_are_refused_naming_the_example(template: str) -> None:
    turns = [Message("system", "Be brief."), Message("user", "Where is it?"), Message("assistant", "to the left")]
    with pytest.raises(InputError, match="example lima_7"):
        encoder(template).encode("lima_7", turns)


def test_a_template_that_drops_only_system_turns_takes_the_rest() -> None:
    tokens = encoder(DROPS_SYSTEM).encode("e", [Message("user", "Where?"), Message("assistant", "left")])
    assert set(tokens.owners) == {TEMPLATE, 0, 1}


@pytest.mark.parametrize(
    "turns", [[], [Message("user", "Where?")], [Message("user", "Where?"), Message("assistant", " \n")]]
)
def test_a_conversation_needs_an_answer(turns: list[Message]) -> None:
    with pytest.raises(InputError, match="example e: the last turn must be the assistant's"):
        encoder(None).encode("e", turns)
