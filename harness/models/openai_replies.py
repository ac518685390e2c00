"""Reading what a server of the OpenAI protocol sent, trusting nothing in it.

Every function takes the decoded JSON of one reply and either returns a value of `harness.models.base` or raises:
`TransientError` for a reply that is broken, `FinalError` for one that is whole and holds no answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from harness.models.base import Completion, FinishReason, Scores
from harness.models.openai_pool import FinalError, TransientError
from stepgame.errors import InputError

__all__ = ["Json", "UnscoredError", "chat_completion", "echo_scores", "parse_object", "plain_completion"]

Json = dict[str, Any]

_STOP = {"stop", "eos", "eos_token", "stop_sequence", "end_turn"}
"""What servers call an end that the model or a stop text chose; "stop" is the standard's word."""
_LENGTH = {"length", "max_tokens"}


class UnscoredError(TransientError):
    """A whole reply without the log-probabilities that were asked for."""


def parse_object(text: str) -> Json:
    """Decode a reply that must be a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        _broken(f"the reply is not valid JSON: {text[:80]!r}")
    if not isinstance(value, dict):
        _broken(f"the reply is not a JSON object: {text[:80]!r}")
    return value


def chat_completion(reply: Json) -> Completion:
    """Read the reply of a chat endpoint to a question with one answer."""
    choice = _choices(reply, 1)[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        _broken("a choice has no message")
    return _completion(reply, choice, message.get("content"), message.get("refusal"))


def plain_completion(reply: Json) -> Completion:
    """Read the reply of a completions endpoint to a question with one answer."""
    choice = _choices(reply, 1)[0]
    return _completion(reply, choice, choice.get("text"), None)


def echo_scores(reply: Json, endings: Sequence[str], names: Sequence[str]) -> Scores:
    """Read option scores from prompts that the server echoed with the log-probabilities of their tokens.

    The log-likelihood of an ending is the sum over its tokens, which are those from the ending's first character on.
    The texts of these tokens must spell the ending exactly and the tokens before must be the same for every ending;
    otherwise the ending's probability as a continuation of the prompt is not defined, or not what was read.

    Args:
        reply: with one choice for each ending, by index.
        endings: the texts behind the common prompt, with their leading blanks.
        names: the options' names for messages.

    Raises:
        InputError: if the tokenizer merges an ending with the prompt's end.
        UnscoredError: if the reply is whole and holds no log-probabilities of the prompt.
    """
    columns = [_token_columns(choice) for choice in _choices(reply, len(endings))]
    # A token that the server wrote behind each prompt is no part of the option. The usage of some servers counts one
    # that is not shown, so what is shown beyond the prompts decides.
    shown = sum(len(tokens) for tokens, _, _ in columns)
    written = (shown - _usage(reply)[0]) // len(endings)
    if written not in (0, 1) or shown != _usage(reply)[0] + written * len(endings):
        raise UnscoredError("the reply does not show the tokens of exactly what was asked")
    heads, tails = [], []
    for (tokens, logprobs, offsets), ending, name in zip(columns, endings, names, strict=True):
        end = len(tokens) - written
        start = _border(tokens[:end], offsets[:end], ending)
        if start is None:
            raise InputError(
                f"option {name!r} merges with the prompt's last tokens, or is not spelt by whole ones, in this "
                "server's tokenizer, so it cannot be scored on its own; use --score generate"
            )
        heads.append(tokens[:start])
        tails.append(list(zip(tokens[start:end], logprobs[start:end], strict=True)))
    if any(head != heads[0] for head in heads):
        raise InputError(
            "the options change how the prompt before them is tokenised by this server; use --score generate"
        )
    spelt = {tuple(token for token, _ in tail[: place + 1]) for tail in tails for place in range(len(tail))}
    sums = tuple(math.fsum(_number(value) for _, value in tail) for tail in tails)
    return Scores(sums, tuple(map(len, tails)), len(heads[0]), len(spelt))


def _completion(reply: Json, choice: Json, text: Any, refusal: Any) -> Completion:
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise FinalError("the server's content filter withheld the answer")
    if reason in ("tool_calls", "function_call"):
        raise FinalError("the model called a tool instead of answering")
    finish: FinishReason
    if reason in _STOP:
        finish = "stop"
    elif reason in _LENGTH:
        finish = "length"
    else:
        _broken(f"the answer ended for no known reason: finish_reason is {reason!r}")
    tokens_in, tokens_out = _usage(reply)
    if text is None and isinstance(refusal, str):
        text = refusal
    if text is None and finish == "length" and tokens_out > 0:
        # A reasoning model that used up its tokens before it wrote anything: an empty answer, and the model's own.
        text = ""
    if not isinstance(text, str):
        _broken("an answer has no text")
    return Completion(text, tokens_in, tokens_out, finish)


def _choices(reply: Json, count: int) -> list[Json]:
    """Return the choices by index, checked to be as many as were asked for."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        problem = reply.get("error") or "it has no choices"
        _broken(f"the reply holds no answer: {str(problem)[:200]}")
    if len(choices) != count:
        _broken(f"the reply holds {len(choices)} choices instead of {count}")
    by_index = {choice.get("index", place): choice for place, choice in enumerate(choices)}
    if set(by_index) != set(range(count)):
        _broken("the choices are not numbered from 0")
    return [by_index[place] for place in range(count)]


def _usage(reply: Json) -> tuple[int, int]:
    """Return tokens in and out; 0 where the server does not say."""
    usage = reply.get("usage")
    counts = [usage.get(key) if isinstance(usage, dict) else None for key in ("prompt_tokens", "completion_tokens")]
    tokens_in, tokens_out = (count if isinstance(count, int) else 0 for count in counts)
    return tokens_in, tokens_out


def _token_columns(choice: Json) -> tuple[list[str], list[Any], list[int]]:
    found = choice.get("logprobs")
    names = ("tokens", "token_logprobs", "text_offset")
    columns = (
        [list(found[name]) for name in names if isinstance(found.get(name), list)] if isinstance(found, dict) else []
    )
    if len(columns) != len(names):
        raise UnscoredError("the reply holds no log-probabilities of the prompt's tokens")
    tokens, logprobs, offsets = columns
    if len({len(column) for column in columns}) != 1:
        _broken("tokens, their log-probabilities and their offsets differ in number")
    if not all(isinstance(token, str) for token in tokens) or not all(isinstance(place, int) for place in offsets):
        _broken("the tokens' texts or offsets are not what the protocol says")
    return tokens, logprobs, offsets


def _border(tokens: Sequence[str], offsets: Sequence[int], ending: str) -> int | None:
    """Return which token the ending begins with; None if no token begins where it does.

    Measured from the end, because some servers count the text of a begin token that is not part of the prompt.
    """
    if not tokens or not ending:
        return None
    begin = offsets[-1] + len(tokens[-1]) - len(ending)
    place = next((place for place, offset in enumerate(offsets) if offset >= begin), None)
    if place is None or offsets[place] != begin or "".join(tokens[place:]) != ending:
        return None
    return place


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _broken(f"a token's log-probability is {value!r}")
    return float(value)


def _broken(message: str) -> NoReturn:
    raise TransientError(message)
