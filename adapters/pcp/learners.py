"""What each stage trains: a module, the rows that it learns from, and how a class is predicted with it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, set_seed

from adapters.causal import CausalModule
from adapters.encode import Encoder
from adapters.method import BaseModel, Features, answer_features
from adapters.pcp.config import PipelineSettings
from adapters.pcp.data import Asker, Corpus
from adapters.pcp.modules import ClassifierModule, GapModule, MaskedModule, MatchModule
from adapters.pcp.readers import Text
from adapters.pcp.rows import IGNORED, Masker, Row, RowBatches, Visits, as_features
from adapters.pcp.soft import soften
from adapters.pcp.tasks import STEPGAME, ClozeTask
from adapters.processes import processes
from adapters.trainer import MicroBatches
from adapters.training import first_place, load_weights
from harness.models.base import Failure, Identity, Message, ModelRequest, Prompt
from harness.models.hf import HFModel
from harness.models.local import Encoder as PromptEncoder
from harness.models.masked import MaskedModel, gap_positions, option_ids, with_masks
from stepgame.errors import InputError

__all__ = [
    "Bench",
    "Labelled",
    "Learner",
    "classifier",
    "first_tokens",
    "gap_filler",
    "pair_tokens",
    "predictor",
    "pretrainer",
    "self_trainer",
]

MAX_TOKENS = (128, 256)
"""Longest example of one text and of two, in tokens, where nothing is said; those of the paper."""
HELD, MOST_HELD = 20, 200
"""One text of so many is kept from pre-training to find its best step; and at most how many."""
DROPPED = 0.15
"""Share of words that augmentation takes out of a text."""
_HELD_VISITS = 1 << 40
"""Visits from here on are those of the texts kept from pre-training."""

Predict = Callable[[Sequence[Text]], list[list[float]]]
"""From texts to the probability of each class."""


@dataclass(frozen=True)
class Bench:
    """What all stages of a pipeline have in common.

    Attributes:
        settings: of the pipeline.
        task: with its hard template.
        base: the model that it begins with.
        request: that model, for messages.
        tokenizer: its own.
        corpus: what is learnt from.
        masked: whether it is a masked language model; a decoder otherwise.
    """

    settings: PipelineSettings
    task: ClozeTask
    base: BaseModel
    request: ModelRequest
    tokenizer: Any
    corpus: Corpus
    masked: bool

    @property
    def pad(self) -> int:
        """Id that fills rows up."""
        return int(self.tokenizer.pad_token_id or 0)

    def most(self, texts: Sequence[str]) -> int:
        """Return how many tokens an example of one or two texts may have."""
        wanted = self.settings.train.max_tokens or MAX_TOKENS[len(texts) - 1]
        return wanted if self.base.positions is None else min(wanted, self.base.positions)

    def load(self, source: BaseModel, cls: Any = None, **more: Any) -> Any:
        """Load a model's weights in float32, to be trained; what starts at random is drawn by the seed."""
        set_seed(self.settings.train.seed)
        cls = cls or (AutoModelForMaskedLM if self.masked else None)
        return load_weights(source, self.request, "float32", first_place(self.settings.train), cls, **more)

    @cached_property
    def asker(self) -> Asker:
        """How the task is asked with its hard template."""
        return self.ask(self.task, self.tokenizer)

    def task_record(self) -> dict[str, Any]:
        """Return what decides how the task is asked, as manifests hold it."""
        if self.masked or self.task.name != STEPGAME or not self.settings.asks:
            return self.task.record()
        asker = self.asker
        return {"name": self.task.name, "words": list(asker.options), "prompt": asker.prompt_record()}

    def ask(self, task: ClozeTask, tokenizer: Any) -> Asker:
        """Return how a form of the task is asked."""
        train = self.settings.train
        return Asker(
            task,
            tokenizer,
            masked=self.masked,
            max_tokens=self.most("ab" if task.pair else "a"),
            stories=self.corpus.stories,
            prompt=train.prompt or "zero-shot",
        )


class _Tokens(NamedTuple):
    """Tokens of one or two texts, and which of them each is of; empty for models that do not tell."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]


class Labelled(NamedTuple):
    """A text with the class that a model gave it."""

    text: Text
    label: int


class Learner(NamedTuple):
    """What a stage trains.

    Attributes:
        module: gives the summed loss of a batch.
        model: of transformers, that is saved.
        tokenizer: saved with it.
        rows: what is learnt from.
        held: what the loss is validated on.
        batches: makes batches of both.
        predict: predicts classes; None for pre-training.
        asker: how the model is asked; None where it is not asked in words.
    """

    module: Any
    model: Any
    tokenizer: Any
    rows: Any
    held: Sequence[Any]
    batches: Any
    predict: Predict | None
    asker: Asker | None


def classifier(bench: Bench, source: BaseModel) -> Learner:
    """Return conventional fine-tuning: a fresh classification head."""
    tokenizer, train = bench.tokenizer, bench.settings.train
    model = bench.load(source, AutoModelForSequenceClassification, num_labels=len(bench.task.words))
    model.config.pad_token_id = bench.pad
    module, batches = ClassifierModule(model), RowBatches(train.micro_tokens, bench.pad)
    most = bench.most(bench.corpus.labelled[0].texts)

    def row(text: Text) -> Row:
        ids, segments = pair_tokens(tokenizer, text.texts, most)
        target = 0 if text.label is None else text.label
        return Row(ids, (target, *[IGNORED] * (len(ids) - 1)), segments)

    @torch.inference_mode()
    def predict(texts: Sequence[Text]) -> list[list[float]]:
        model.eval()
        found: list[list[float]] = []
        for start in range(0, len(texts), train.batch):
            batch = batches.tensors([row(text) for text in texts[start : start + train.batch]])
            placed = {key: value.to(model.device) for key, value in batch.items()}
            found += module.logits(placed).softmax(-1).tolist()
        return found

    rows, held = ([row(text) for text in part] for part in (bench.corpus.labelled, bench.corpus.dev))
    return Learner(module, model, tokenizer, rows, held, batches, predict, None)


def gap_filler(bench: Bench, source: BaseModel) -> Learner:
    """Return prompt-based fine-tuning: the label word in the template's gap."""
    model, tokenizer, asker = _asked(bench, source)
    train, corpus = bench.settings.train, bench.corpus
    predict = predictor(model, tokenizer, asker, bench)
    if bench.masked:
        module: Any = GapModule(model, [ids[0] for ids in option_ids(tokenizer, asker.options)])
        batches: Any = RowBatches(train.micro_tokens, bench.pad)
        rows, held = (_gaps(bench, tokenizer, asker, part) for part in (corpus.labelled, corpus.dev))
        return Learner(module, model, tokenizer, rows, held, batches, predict, asker)
    encoder = Encoder(tokenizer)
    learnt, kept = (
        [_answered(bench, encoder, asker, Labelled(text, text.label or 0)) for text in part]
        for part in (corpus.labelled, corpus.dev)
    )
    batches = MicroBatches(train.micro_tokens, bench.pad)
    return Learner(CausalModule(model), model, tokenizer, learnt, kept, batches, predict, asker)


class _Match(NamedTuple):
    """A labelled text beside an unlabelled one, as it is and augmented."""

    labelled: Row
    weak: Row
    strong: Row
    number: int

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.labelled.ids, *self.weak.ids, *self.strong.ids)

    @property
    def weight(self) -> float:
        return self.labelled.weight


class _MatchBatches(RowBatches):
    """Batches of `_Match`, and plain ones for validation."""

    def tensors(self, rows: Sequence[Any], *, response: bool = False) -> dict[str, Any]:
        if not isinstance(rows[0], _Match):
            return super().tensors(rows, response=response)
        plain = super().tensors
        parts = {key: plain([getattr(row, key) for row in rows]) for key in ("labelled", "weak", "strong")}
        return {**parts, "numbers": torch.tensor([row.number for row in rows])}


def self_trainer(bench: Bench, source: BaseModel) -> Learner:
    """Return self-training over prompt-based fine-tuning; see `adapters.pcp.modules.MatchModule`."""
    model, tokenizer, asker = _asked(bench, source)
    settings, corpus = bench.settings, bench.corpus
    words = first_tokens(bench, tokenizer, asker)
    gap = GapModule(model, words)
    module = MatchModule(gap, settings.cutoff, len(corpus.unlabelled), flex=settings.flex)
    known = _gaps(bench, tokenizer, asker, corpus.labelled)
    plain = _gaps(bench, tokenizer, asker, corpus.unlabelled)

    def match(number: int, visit: int) -> _Match:
        draw = np.random.default_rng([settings.train.seed, visit])
        text = corpus.unlabelled[number]
        fewer = text._replace(texts=tuple(_thinned(each, draw) for each in text.texts))
        strong = _gap(bench, tokenizer, asker.make_prompt(fewer), None)
        return _Match(known[int(draw.integers(len(known)))], plain[number], strong, number)

    visits = settings.steps("fine-tune") * settings.train.batch
    rows = Visits(len(plain), visits, settings.train.seed, match)
    held = _gaps(bench, tokenizer, asker, corpus.dev)
    batches = _MatchBatches(settings.train.micro_tokens, bench.pad)
    return Learner(module, model, tokenizer, rows, held, batches, predictor(model, tokenizer, asker, bench), asker)


def pretrainer(bench: Bench, source: BaseModel, labelled: Sequence[Labelled] | None) -> Learner:
    """Return continued pre-training: on texts in their template with pseudo-labels, or on raw texts.

    Args:
        bench: of the pipeline.
        source: the model that goes on.
        labelled: texts with pseudo-labels; None for the raw texts (TAPT, Gururangan et al. 2020).
    """
    model, tokenizer, settings = bench.load(source), bench.tokenizer, bench.settings
    if not bench.masked:
        texts = _causal_texts(bench, labelled)
        learnt, held = ([texts[place] for place in part] for part in _divided(len(texts), settings.train.seed))
        batches: Any = MicroBatches(settings.train.micro_tokens, bench.pad)
        return Learner(CausalModule(model), model, tokenizer, learnt, held, batches, None, None)
    rows, words = _masked_texts(bench, labelled)
    special = frozenset(tokenizer.all_special_ids)
    mask = Masker(settings.mask_rate, tokenizer.mask_token_id, len(tokenizer), special, settings.train.seed)
    visits = settings.steps("pretrain") * settings.batch("pretrain") * processes()
    own, apart = _divided(len(rows), settings.train.seed)

    def masked(place: int, visit: int) -> Row:
        return mask(rows[place], visit, words[place] if settings.mask_label else None)

    visited = Visits(len(own), visits, settings.train.seed, lambda number, visit: masked(own[number], visit))
    kept = [masked(place, _HELD_VISITS + place) for place in apart]
    batches = RowBatches(settings.train.micro_tokens, bench.pad)
    return Learner(MaskedModule(model), model, tokenizer, visited, kept, batches, None, None)


def predictor(model: Any, tokenizer: Any, asker: Asker, bench: Bench) -> Predict:
    """Return a prediction by the harness's own scoring of options, so that a run gives the same answers."""

    def predict(texts: Sequence[Text]) -> list[list[float]]:
        model.eval()
        identity = Identity(bench.base.content_hash, dtype=str(model.dtype).removeprefix("torch."))
        kept = getattr(model, "generation_config", None)
        cls: Any = MaskedModel if bench.masked else HFModel
        asked = cls(model, tokenizer, identity, bench.settings.train.micro_tokens)
        prompts = [asker.prompt(text) for text in texts]
        found: list[list[float]] = [[] for _ in prompts]
        for batch in asked.batches(prompts):
            part = [prompts[place] for place in batch]
            for place, scores in zip(batch, asked.choose(part, [asker.options] * len(part)), strict=True):
                if isinstance(scores, Failure):
                    raise InputError(f"text {texts[place].id}: {scores.error}")
                found[place] = _softmax(scores.logprobs)
        if kept is not None:
            model.generation_config = kept
        return found

    return predict


def _softmax(logprobs: Sequence[float]) -> list[float]:
    top = max(logprobs)
    values = [math.exp(value - top) for value in logprobs]
    return [value / math.fsum(values) for value in values]


def _asked(bench: Bench, source: BaseModel) -> tuple[Any, Any, Asker]:
    """Return a model, its tokenizer and how it is asked; with a soft template all three are new."""
    model = bench.load(source)
    if bench.settings.template == "hard":
        return model, bench.tokenizer, bench.asker
    tokenizer = copy.deepcopy(bench.tokenizer)
    return model, tokenizer, bench.ask(soften(bench.task, model, tokenizer, masked=bench.masked), tokenizer)


def _gaps(bench: Bench, tokenizer: Any, asker: Asker, texts: Sequence[Text]) -> list[Row]:
    return [_gap(bench, tokenizer, asker.prompt(text), text.label) for text in texts]


def _gap(bench: Bench, tokenizer: Any, prompt: Prompt, label: int | None) -> Row:
    """Return a question whose gap has the class as its target; any class where it has none."""
    if bench.masked:
        name = prompt.example.id
        ids: Sequence[int] = tokenizer(with_masks(tokenizer, prompt.messages[0].content, 1, name))["input_ids"]
        place = gap_positions(tokenizer, ids, 1, name)[0]
    else:
        ids = PromptEncoder(tokenizer).encode([prompt])[0].ids
        place = len(ids) - 1
    targets = [IGNORED] * len(ids)
    targets[place] = 0 if label is None else label
    return Row(tuple(ids), tuple(targets))


def first_tokens(bench: Bench, tokenizer: Any, asker: Asker) -> list[int]:
    """Return the tokens by which self-training tells the label words apart.

    Args:
        bench: of the pipeline.
        tokenizer: the model's, with the words of a soft template if there is one.
        asker: how the task is asked.

    Raises:
        InputError: naming a word that begins as another does.
    """
    if bench.masked:
        return [ids[0] for ids in option_ids(tokenizer, asker.options)]
    encoder = PromptEncoder(tokenizer)
    prompt = encoder.encode([asker.prompt(bench.corpus.labelled[0])])[0]
    firsts: dict[int, str] = {}
    for word, ids in zip(asker.options, encoder.options(prompt, asker.options), strict=True):
        if ids[0] in firsts:
            raise InputError(
                f"label words {firsts[ids[0]]!r} and {word!r} begin with the same token, by which self-training tells "
                "words apart; choose others in a task file"
            )
        firsts[ids[0]] = word
    return list(firsts)


def _answered(bench: Bench, encoder: Encoder, asker: Asker, each: Labelled) -> Features:
    """Return a question with its label word as answer."""
    prompt = asker.prompt(each.text)
    messages = (*prompt.messages, Message("assistant", asker.options[each.label]))
    features = answer_features(encoder.encode(each.text.id, messages, prompt.cue, option=True), messages)
    if features is None:
        raise InputError(f"text {each.text.id}: this model's tokenizer makes no token of its label word")
    _check_length(bench, len(features.ids), each.text)
    return features


def _check_length(bench: Bench, length: int, text: Text) -> None:
    if bench.base.positions is not None and length > bench.base.positions:
        raise InputError(
            f"text {text.id} has {length} tokens, more than the {bench.base.positions} positions of {bench.base.spec!r}"
        )


def _causal_texts(bench: Bench, labelled: Sequence[Labelled] | None) -> list[Features]:
    if labelled is not None:
        asker, encoder = bench.asker, Encoder(bench.tokenizer)
        return [as_features(_answered(bench, encoder, asker, each).ids) for each in labelled]
    end = [] if bench.tokenizer.eos_token_id is None else [bench.tokenizer.eos_token_id]
    return [as_features([*ids, *end]) for ids, _ in _raw(bench, len(end))]


def _masked_texts(bench: Bench, labelled: Sequence[Labelled] | None) -> tuple[list[Row], list[int | None]]:
    """Return texts, and where the label word of each stands."""
    if labelled is None:
        rows = [Row(ids, (), segments) for ids, segments in _raw(bench)]
        return rows, [None] * len(rows)
    asker = bench.asker
    words = [ids[0] for ids in option_ids(bench.tokenizer, asker.options)]
    rows, places = [], []
    for text, label in labelled:
        gap = _gap(bench, bench.tokenizer, asker.prompt(text), None)
        place = next(place for place, target in enumerate(gap.targets) if target != IGNORED)
        rows.append(Row((*gap.ids[:place], words[label], *gap.ids[place + 1 :]), ()))
        places.append(place)
    return rows, list(places)


def _raw(bench: Bench, less: int = 0) -> list[_Tokens]:
    """Return the tokens of the raw unlabelled texts, so many less than they may be."""
    kind = bench.settings.pair_separator
    found = []
    for text in bench.corpus.unlabelled:
        most = bench.most(text.texts) - less
        joined = {"blank": [" ".join(text.texts)], "line": ["\n".join(text.texts)], "apart": list(text.texts)}.get(kind)
        for each in [text.texts] if joined is None else [(one,) for one in joined]:
            ids, segments = pair_tokens(bench.tokenizer, each, most)
            found.append(_Tokens(ids, segments if len(each) > 1 else ()))
    return found


def pair_tokens(tokenizer: Any, texts: Sequence[str], most: int) -> _Tokens:
    """Return the tokens of a text, or of a pair with the model's own separator: a decoder's is its end of sequence.

    Args:
        tokenizer: the model's.
        texts: one, or two.
        most: tokens that there may be; the longer text is cut first.
    """
    encoding = tokenizer(*texts, truncation=True, max_length=most)
    owners = encoding.sequence_ids()
    border = owners.index(1) if 1 in owners else 0
    if border and owners[border - 1] == 0 and tokenizer.eos_token_id is not None:
        encoding = tokenizer(*texts, truncation=True, max_length=most - 1)
        ids, border = encoding["input_ids"], encoding.sequence_ids().index(1)
        return _Tokens((*ids[:border], tokenizer.eos_token_id, *ids[border:]), ())
    return _Tokens(tuple(encoding["input_ids"]), tuple(encoding.get("token_type_ids", ())))


def _thinned(text: str, draw: np.random.Generator) -> str:
    """Return a text without some of its words (Wei & Zou 2019); one is left."""
    words = text.split()
    kept = [word for word, number in zip(words, draw.random(len(words)), strict=True) if number >= DROPPED]
    return " ".join(kept or words[:1])


def _divided(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the places of what is learnt from, and of the few that are kept to find the best step."""
    order = [int(place) for place in np.random.default_rng([seed, count]).permutation(count)]
    held = min(count // HELD, MOST_HELD)
    return order[held:], order[:held]
