"""The texts of a pipeline, checked against each other; and how a model is asked about one."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from adapters.data import load_data
from adapters.pcp.config import PipelineSettings
from adapters.pcp.readers import Text, find_split, read_texts
from adapters.pcp.tasks import STEPGAME, ClozeTask
from adapters.settings import TrainSettings
from harness.models.base import MASK, Message, Prompt
from harness.progress import say
from harness.prompts import PromptTemplate, load_prompt
from harness.task import Example
from harness.tasks import make_task
from stepgame.errors import InputError
from stepgame.hops import parse_hops

__all__ = ["Asker", "Corpus", "load_corpus"]

SLACK = 2
"""Tokens that a text may grow by when it is cut off and read again."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a pipeline learns from and is measured on.

    Attributes:
        labelled: what is fine-tuned on.
        dev: what chooses the best step.
        test: what the result is measured on.
        unlabelled: texts without labels.
        hidden: the labels that the unlabelled texts came with, for measuring only; None where there was none.
        stories: StepGame's questions by the id of their text; their right answers are taken off.
    """

    labelled: tuple[Text, ...]
    dev: tuple[Text, ...]
    test: tuple[Text, ...]
    unlabelled: tuple[Text, ...]
    hidden: tuple[int | None, ...]
    stories: Mapping[str, Example]

    def record(self) -> dict[str, Any]:
        """Return what the manifest says of it: how many there are, and a hash of all of them."""
        digest = hashlib.sha256()
        for each in (*self.labelled, *self.dev, *self.unlabelled, *self.test):
            digest.update(json.dumps([each.texts, each.label]).encode() + b"\n")
        counts = {key: len(getattr(self, key)) for key in ("labelled", "dev", "test", "unlabelled")}
        return {**counts, "classes": len({each.label for each in self.labelled}), "sha256": digest.hexdigest()}


def load_corpus(settings: PipelineSettings, task: ClozeTask) -> Corpus:
    """Read or make what settings name, and check that it is fit to learn from.

    Raises:
        InputError: if something is missing, damaged or too little, a class has no example, or a text that is learnt
            from stands in the test file too.
    """
    if settings.labelled is None and {"label-ft", "fine-tune"} & set(settings.stages):
        raise InputError("--labelled is missing; give the examples to fine-tune on")
    if settings.needs_unlabelled and settings.unlabelled is None:
        raise InputError(f"--unlabelled is missing, which --method {settings.method} needs")
    found = _stories(settings, task) if task.name == STEPGAME else _files(settings, task)
    # Stories are drawn, whatever their answers; their splits are kept apart by key, though short ones may be alike.
    if found.stories:
        return found
    if settings.labelled is not None:
        _check_classes(task, found.labelled)
    return _without_leaks(found)


def _without_leaks(corpus: Corpus) -> Corpus:
    """Refuse labelled texts that are tested on, and leave unlabelled ones out, saying how many."""
    test = {each.texts for each in corpus.test}
    for flag, part in (("labelled", corpus.labelled), ("dev", corpus.dev)):
        leaked = sum(each.texts in test for each in part)
        if leaked:
            raise InputError(f"{leaked} of the {len(part)} texts of --{flag} stand in the test data too; take them out")
    kept = [place for place, each in enumerate(corpus.unlabelled) if each.texts not in test]
    leaked = len(corpus.unlabelled) - len(kept)
    if leaked and not kept:
        raise InputError(f"all {leaked} texts of --unlabelled stand in the test data too; give others")
    if leaked:
        say(f"{leaked} of {len(corpus.unlabelled)} texts of --unlabelled stand in the test data too and are left out")
    return replace(
        corpus,
        unlabelled=tuple(corpus.unlabelled[place] for place in kept),
        hidden=tuple(corpus.hidden[place] for place in kept),
    )


def _check_classes(task: ClozeTask, labelled: Sequence[Text]) -> None:
    counts = Counter(each.label for each in labelled)
    for place, word in enumerate(task.words):
        if not counts[place]:
            raise InputError(
                f"class {task.labels[place][0] if task.labels[place] else word!r} (label word {word!r}) has no "
                "example in --labelled; give at least one of each class"
            )


def _files(settings: PipelineSettings, task: ClozeTask) -> Corpus:
    sources: dict[str, Any] = {key: getattr(settings, key) for key in ("labelled", "dev", "test", "unlabelled")}
    folder = Path(str(settings.labelled))
    if settings.labelled is not None and folder.is_dir():
        found = {
            key: find_split(folder, name) for key, name in (("labelled", "train"), ("dev", "dev"), ("test", "test"))
        }
        if found["labelled"] is None:
            raise InputError(f"--labelled {folder} holds no train.tsv, .csv, .json or .jsonl")
        sources = {
            key: found.get(key) if key == "labelled" or value is None else value for key, value in sources.items()
        }
    read = {
        key: []
        if source is None
        else read_texts(
            source,
            task,
            labelled=key != "unlabelled",
            skip_bad=settings.train.skip_bad,
            split={"dev": "validation", "test": "test"}.get(key, "train"),
        )
        for key, source in sources.items()
    }
    labelled = read["labelled"] if settings.shots is None else _drawn(read["labelled"], settings, task)
    return Corpus(
        tuple(labelled),
        tuple(read["dev"]),
        tuple(read["test"]),
        tuple(each.without_label() for each in read["unlabelled"]),
        tuple(each.label for each in read["unlabelled"]),
        {},
    )


def _drawn(texts: Sequence[Text], settings: PipelineSettings, task: ClozeTask) -> list[Text]:
    """Draw --shots texts of each class."""
    chosen: list[Text] = []
    shots = settings.shots or 0
    for place, word in enumerate(task.words):
        own = [each for each in texts if each.label == place]
        if len(own) < shots:
            raise InputError(
                f"--shots {shots}: --labelled holds {len(own)} texts of the class with label word {word!r}"
            )
        chosen += random.Random(f"{settings.train.seed}-{place}").sample(own, shots)
    return chosen


class _Story(NamedTuple):
    text: Text
    example: Example


def _stories(settings: PipelineSettings, task: ClozeTask) -> Corpus:
    """Make stories: the first of each k are labelled, those behind them are not."""
    for flag, value, instead in (("shots", settings.shots, "labelled"), ("dev", settings.dev, "validation")):
        if value is not None:
            raise InputError(f"--{flag} does not go with --task {STEPGAME}, whose stories are made; give --{instead} N")
    labelled, unlabelled = _count("labelled", settings.labelled), _count("unlabelled", settings.unlabelled)
    first = _learnt(settings.train, labelled, task)
    known = {each.text.id for each in first}
    more = _learnt(settings.train, labelled + unlabelled, task) if unlabelled else []
    rest = [each for each in more if each.text.id not in known]
    held = load_data(replace(settings.train, n=1)).validation
    dev = [_story(each.asked, task) for each in held if each.asked is not None]
    test: list[_Story] = []
    if settings.test is not None:
        train = settings.train
        asked = {"hops": parse_hops(train.hops), "noise": train.noise, "protocol": train.protocol, "bank": train.bank}
        made = make_task(
            STEPGAME, {**asked, "seed": train.seed, "split": "test", "per_hop": _count("test", settings.test)}
        )
        test = [_story(each, task) for each in made.examples]
    return Corpus(
        tuple(each.text for each in first),
        tuple(each.text for each in dev),
        tuple(each.text for each in test),
        tuple(each.text.without_label() for each in rest),
        tuple(each.text.label for each in rest),
        {each.text.id: each.example for each in (*first, *rest, *dev, *test)},
    )


def _learnt(settings: TrainSettings, count: int, task: ClozeTask) -> list[_Story]:
    if not count:
        return []
    made = load_data(replace(settings, n=count, validation=0)).training
    return [_story(each.asked, task) for each in made if each.asked is not None]


def _story(example: Example, task: ClozeTask) -> _Story:
    label = task.class_of(example.id, example.gold)
    text = Text(example.id, (" ".join(example.story), example.question), label)
    # Whoever asks a model with it cannot learn the answer from it.
    return _Story(text, replace(example, gold=""))


def _count(flag: str, value: Any) -> int:
    if value is None:
        return 0
    if not str(value).isdecimal() or not int(value):
        raise InputError(f"--{flag} {value}: for the task {STEPGAME!r} it is a number of stories that are made, from 1")
    return int(value)


class Asker:
    """Puts a task's texts into the words that a model is asked in.

    Args:
        task: templates and label words.
        tokenizer: the model's.
        masked: whether it is a masked language model; a decoder otherwise.
        max_tokens: longest question, in tokens, to which texts are cut.
        stories: StepGame's questions; see `Corpus`.
        prompt: in whose words a decoder is asked them.

    Raises:
        InputError: if the task has no template for such a model.
    """

    def __init__(
        self,
        task: ClozeTask,
        tokenizer: Any,
        *,
        masked: bool,
        max_tokens: int,
        stories: Mapping[str, Example] | None = None,
        prompt: str = "zero-shot",
    ) -> None:
        self.task = task
        self.masked = masked
        self._tokenizer = tokenizer
        self._stories = stories or {}
        self._prompt: PromptTemplate | None = None
        if not masked and task.name == STEPGAME:
            self._prompt = load_prompt(prompt, "choice")
        elif not (task.cloze if masked else task.causal):
            kind, key = ("a masked language model", "cloze") if masked else ("a decoder", "causal")
            raise InputError(f"task {task.name!r} has no template for {kind}; give it one by the key {key!r}")
        self._most = max_tokens
        self._frame = len(tokenizer(task.render(task.cloze if masked else task.causal, ("", "")))["input_ids"])
        self._prompts: dict[Text, Prompt] = {}

    @property
    def options(self) -> tuple[str, ...]:
        """What a model chooses from, in the order of the classes."""
        if self._prompt is not None:
            return tuple(names[0] for names in self.task.labels)
        return self.task.words

    def prompt_record(self) -> dict[str, Any] | None:
        """Return the prompt in whose words StepGame is asked, as manifests name it; None for a template."""
        return None if self._prompt is None else self._prompt.record()

    def prompt(self, text: Text) -> Prompt:
        """Return what a model is asked about a text; it holds no label."""
        if text not in self._prompts:
            self._prompts[text] = self.make_prompt(text)
        return self._prompts[text]

    def make_prompt(self, text: Text) -> Prompt:
        """Return the same without keeping it, for a text that is asked once."""
        if self._prompt is not None:
            return self._prompt.render(self._stories[text.id])
        question = self._question(text)
        return Prompt((Message("user", question),), "", Example(text.id, (), question, self.options, ""))

    def _question(self, text: Text) -> str:
        """Return a text in its template, cut so that the template is whole."""
        for each in text.texts:
            if MASK in each:
                raise InputError(f"text {text.id} holds {MASK}, which stands for the answer; take it out")
        template = self.task.cloze if self.masked else self.task.causal
        return self.task.render(template, self._cut(text, self._most - self._frame - SLACK)).strip()

    def _cut(self, text: Text, room: int) -> tuple[str, ...]:
        """Cut the ends of texts off, the longest one's first, until they have so many tokens together."""
        texts = text.texts
        encoded = [
            self._tokenizer(each, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            for each in texts
        ]
        keep = [len(each) for each in encoded]
        if not all(keep):
            raise InputError(f"text {text.id} holds nothing that this model's tokenizer makes a token of; take it out")
        if sum(keep) <= room:
            return tuple(texts)
        if room < len(texts):
            raise InputError(f"--max-tokens {self._most} leaves no room for a text beside its template; raise it")
        while sum(keep) > room:
            longest = max(range(len(keep)), key=keep.__getitem__)
            keep[longest] -= 1
        return tuple(each[: places[count - 1][1]] for each, places, count in zip(texts, encoded, keep, strict=True))
