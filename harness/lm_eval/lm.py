"""Our models as an ``LM`` of lm-evaluation-harness.

Requests with the same context are scored together: the options of a question as a trie behind one pass over it, which
is what `harness.choice` does for our own tasks. How texts become tokens is lm-eval's own affair (`TemplateLM`), so that
its scores are those of its ``hf`` model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tqdm import tqdm

from harness.models.base import BackendError, Completion, Failure, Sampling, Scores, TokenModel
from stepgame.errors import InputError, require

api: Any = require("lm_eval.api.model", "lm-eval", "tasks of lm-eval")
utils: Any = require("lm_eval.utils", "lm-eval", "tasks of lm-eval")
model_utils: Any = require("lm_eval.models.utils", "lm-eval", "tasks of lm-eval")

__all__ = ["StepGameLM"]

BATCH = 64
"""Contexts that are asked together."""
MAX_NEW_TOKENS = 256
"""Longest reply where a task does not say; lm-eval's own."""

_GO_ON = "what was answered is kept, go on with --resume"

Tokens = tuple[int, ...]
Pair = tuple[Any, Sequence[int], Sequence[int]]


class StepGameLM(api.TemplateLM):  # type: ignore[misc]
    """One of our models, loaded.

    Args:
        model: on transformers or vLLM, with or without an adapter.
        seed: of draws.
        greedy: whether tasks look at whether greedy decoding gives the continuation.
    """

    def __init__(self, model: TokenModel, *, seed: int, greedy: bool) -> None:
        super().__init__()
        self.tokenizer = model.tokenizer
        self._model = model
        self._seed = seed
        self._greedy: Any = getattr(model, "is_greedy", None) if greedy else None

    @property
    def eot_token_id(self) -> int:
        """Token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Token before a text that nothing stands before."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        """Most tokens of a context and what follows it."""
        return self._model.room

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval names cached requests by."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokenise a text as lm-eval's ``hf`` model does: with what the tokenizer adds, once."""
        bos = self.tokenizer.bos_token
        settings = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and bos and string.startswith(bos):
            settings = {"add_special_tokens": False}
        ids: list[int] = self.tokenizer.encode(string, **settings)
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation in the model's own words."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, cut into windows as long as the model takes."""
        cut: list[list[Pair]] = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            # A window's prediction is one longer than what is read of it.
            windows = utils.get_rolling_token_windows(ids, self.prefix_token_id, self.max_length - 1, 1)
            cut.append([(None, *pair) for pair in map(utils.make_disjoint_window, windows)])
        values = iter(self._loglikelihood_tokens([pair for pairs in cut for pair in pairs]))
        sums = [math.fsum(next(values)[0] for _ in pairs) for pairs in cut]
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        """Score continuations, those of one context from one pass over it."""
        groups: dict[Tokens, dict[Tokens, list[int]]] = {}
        for place, (_, context, continuation) in enumerate(requests):
            cut = self._cut(context, continuation)
            groups.setdefault(cut[0], {}).setdefault(cut[1], []).append(place)
        found: list[Any] = [None] * len(requests)
        bar = tqdm(total=len(requests), desc="scoring", leave=False)
        # Longest first, so that a batch holds contexts of about one length.
        for batch in _batches(sorted(groups, key=lambda each: -len(each))):
            options = [list(groups[context]) for context in batch]
            scored = self._ask(partial(self._model.score_tokens, batch, options))
            for context, scores in zip(batch, scored, strict=True):
                for (tokens, places), value in zip(groups[context].items(), _checked(scores).logprobs, strict=True):
                    answer = (value, self._greedy is not None and self._greedy(context, tokens))
                    for place in places:
                        found[place] = answer
                        if requests[place][0] is not None:
                            self.cache_hook.add_partial("loglikelihood", requests[place][0], answer)
                    bar.update(len(places))
        bar.close()
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Complete contexts."""
        groups: dict[Sampling, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(self._sampling(request.args[1]), []).append(place)
        found = [""] * len(requests)
        bar = tqdm(total=len(requests), desc="generating", leave=False)
        for sampling, places in groups.items():
            room = self.max_length - sampling.max_tokens
            if room < 1:
                raise InputError(f"the task's replies of {sampling.max_tokens} tokens leave this model no room to read")
            prompts = {place: tuple(self.tok_encode(requests[place].args[0])[-room:]) for place in places}
            for batch in _batches(sorted(places, key=lambda place: -len(prompts[place]))):
                names = [f"{requests[place].task_name}-{requests[place].doc_id}" for place in batch]
                asked = [prompts[place] for place in batch]
                replies = self._ask(partial(self._model.complete_tokens, asked, names, sampling))
                for place, reply in zip(batch, replies, strict=True):
                    found[place] = _checked(reply).text
                    self.cache_hook.add_partial("generate_until", requests[place].args, found[place])
                bar.update(len(batch))
        bar.close()
        return found

    def _sampling(self, given: dict[str, Any]) -> Sampling:
        settings = model_utils.normalize_gen_kwargs(given, MAX_NEW_TOKENS)
        until = [text for text in settings["until"] if text]
        known = {"do_sample", "until", "max_gen_toks", "temperature", "top_p"}
        odd = {key for key, value in settings.items() if key not in known and value is not None}
        if odd:
            raise InputError(f"the task's generation setting {min(odd)!r} is none that our backends have")
        return Sampling(
            max_tokens=settings["max_gen_toks"],
            temperature=settings.get("temperature") or 0.0,
            top_p=settings.get("top_p") or 1.0,
            seed=self._seed,
            stop=tuple(until),
        )

    def _cut(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[Tokens, Tokens]:
        """Cut a context off from the left where both do not fit; lm-eval's ``hf`` model keeps one token more."""
        if len(continuation) >= self.max_length:
            raise InputError(f"a continuation of {len(continuation)} tokens exceeds the model's {self.max_length}")
        room = self.max_length - len(continuation)
        return tuple(context[-room:]), tuple(continuation)

    def _ask(self, ask: Callable[[], list[Any]]) -> list[Any]:
        try:
            return ask()
        except BackendError as error:
            raise InputError(f"the backend gave no answers: {error}; {_GO_ON}") from None


def _checked(reply: Any) -> Any:
    """Return a reply that is none of infrastructure's failures; lm-eval has no place for those."""
    if isinstance(reply, Failure):
        raise InputError(f"a request got no answer: {reply.error}; {_GO_ON}")
    if isinstance(reply, Scores) and not reply.finite:
        raise InputError("a log-likelihood is not a number; the model's weights or dtype overflow")
    assert isinstance(reply, Scores | Completion)
    return reply


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
