"""A model's own words for a conversation: its tokenizer and chat template, which need no weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.models.adapters import model_source
from harness.models.base import ModelRequest, Prompt
from harness.models.builtin import quiet_transformers
from stepgame.errors import InputError, require

__all__ = ["load_tokenizer", "plain_text", "render_chat", "render_prompts", "unloadable"]


def render_chat(tokenizer: Any, prompt: Prompt) -> str:
    """Return the exact text that a model reads for a prompt.

    A model with a chat template gets the conversation through it, with the header of the assistant's turn at the end.
    One without completes plain text: the turns' contents and the prompt's cue, blank lines between them; what the
    assistant says in worked examples stands behind the cue too.

    Args:
        tokenizer: the model's, of transformers.
        prompt: what is asked.
    """
    if tokenizer.chat_template is None:
        return plain_text(prompt)
    turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
    rendered: str = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return rendered


def plain_text(prompt: Prompt) -> str:
    """Return a prompt as text to be completed, for models without a chat template."""
    cue = prompt.cue
    parts = [
        f"{cue} {message.content}"
        if message.role == "assistant" and not message.content.startswith(cue)
        else message.content
        for message in prompt.messages
    ]
    return "\n\n".join([*parts, cue] if cue else parts)


def load_tokenizer(request: ModelRequest) -> Any:
    """Load a model's tokenizer from a folder, the hub, or the built-in model.

    Raises:
        InputError: if it is not to be had.
    """
    transformers: Any = require("transformers", "hf", "a model's chat template")
    quiet_transformers()
    source, _ = model_source(request)
    # A whole checkpoint may have brought tokens of its own.
    if request.adapter is not None and request.adapter.kind == "weights":
        source = str(request.adapter.folder)
    place = {"revision": request.revision} if request.revision else {}
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **place)
    except (OSError, ValueError, KeyError) as error:
        raise unloadable(request, error) from None


def render_prompts(request: ModelRequest, prompts: Sequence[Prompt]) -> list[str]:
    """Return what a model would read for some prompts, without loading its weights."""
    tokenizer = load_tokenizer(request)
    return [render_chat(tokenizer, prompt) for prompt in prompts]


def unloadable(request: ModelRequest, error: Exception) -> InputError:
    """Return the one line that says why transformers cannot load a model."""
    reason = str(error).strip().split("\n", maxsplit=1)[0]
    if Path(request.target).is_dir():
        return InputError(f"model folder {request.target!r} cannot be loaded by transformers: {reason}")
    at = f" at revision {request.revision!r}" if request.revision else ""
    return InputError(
        f"model {request.target!r}{at} is no local folder, and the Hugging Face hub does not give it: {reason}"
    )
