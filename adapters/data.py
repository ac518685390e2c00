"""What a training learns from and is validated on: StepGame's own splits, tasks, stories and conversations of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.examples import TrainingExample, data_hash, from_examples, read_chat, read_records
from adapters.settings import TrainSettings
from harness.prompts import load_prompt
from harness.tasks import make_task
from stepgame.errors import InputError, require
from stepgame.hops import parse_hops

__all__ = ["HF", "TrainingData", "load_data", "load_hub_rows"]

HF = "hf-dataset:"
"""What a data set of the hub, or in a folder that the ``datasets`` library reads, is named by."""
STORIES = 1000
"""Stories that are made where no number is given."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Examples to learn from, and others to validate on.

    Attributes:
        name: of the data, for the record.
        training: what is learnt from.
        validation: what is not.
        sha256: hash of both.
    """

    name: str
    training: tuple[TrainingExample, ...]
    validation: tuple[TrainingExample, ...]

    @property
    def sha256(self) -> str:
        """Hash of both."""
        return data_hash([*self.training, *self.validation])


def load_data(settings: TrainSettings) -> TrainingData:
    """Make or read what settings name.

    Raises:
        InputError: if it is not there, is damaged, or holds too little.
    """
    if settings.task is not None:
        return _task(settings, settings.task)
    if settings.data == "stepgame":
        return _stepgame(settings)
    if not isinstance(settings.data, str | Path):
        return _split(settings, "stories", _asked(settings, _of_stories(settings.data)))
    if str(settings.data).startswith(HF):
        return _split(
            settings, str(settings.data), _hugging_face(str(settings.data).removeprefix(HF), skip_bad=settings.skip_bad)
        )
    path = Path(settings.data)
    if not path.exists():
        raise InputError(f"--data {str(path)!r} does not exist; expected stepgame, a file, or {HF}ID")
    if _is_conversations(path):
        return _split(settings, str(path), read_chat(path, skip_bad=settings.skip_bad))
    stories = make_task("stepgame", {"file": [str(path)]}).examples
    return _split(settings, str(path), _asked(settings, stories))


def _stepgame(settings: TrainSettings) -> TrainingData:
    ks = parse_hops(settings.hops)
    count = settings.n or STORIES
    made = {
        "hops": ks,
        "noise": settings.noise,
        "protocol": settings.protocol,
        "bank": settings.bank,
        "seed": settings.seed,
    }
    training = make_task("stepgame", {**made, "split": "train", "per_hop": -(-count // len(ks))}).examples
    # The last few of each k are left out where the number does not divide evenly.
    by_k = {k: [each for each in training if each.k_hop == k] for k in ks}
    wanted = [count // len(ks) + (place < count % len(ks)) for place in range(len(ks))]
    chosen = [each for k, number in zip(ks, wanted, strict=True) for each in by_k[k][:number]]
    held: Any = ()
    if settings.validation:
        held = make_task("stepgame", {**made, "split": "validation", "per_hop": settings.validation}).examples
    return TrainingData("stepgame", tuple(_asked(settings, chosen)), tuple(_asked(settings, held)))


def _task(settings: TrainSettings, name: str) -> TrainingData:
    """Read a task's training split, and as much of its validation split as is asked for."""
    given = {} if settings.data == "stepgame" else {"file": [str(settings.data)]}
    parts: list[tuple[TrainingExample, ...]] = []
    for split, limit in (("train", settings.n), ("validation", settings.validation)):
        if split == "validation" and not limit:
            parts.append(())
            continue
        task = make_task(name, {**given, "split": split, "limit": limit, "seed": settings.seed})
        prompt = load_prompt(settings.prompt or task.prompt, settings.score)
        parts.append(tuple(from_examples(task.examples, prompt)))
    training, held = parts
    if settings.n is not None and len(training) < settings.n:
        raise InputError(f"task {name!r} has {len(training)} training examples; --n {settings.n} is more")
    return TrainingData(name, training, held)


def _asked(settings: TrainSettings, examples: Any) -> list[TrainingExample]:
    return from_examples(examples, load_prompt(settings.prompt or "zero-shot", settings.score))


def _of_stories(data: Any) -> Any:
    from harness.tasks.stepgame import examples_of

    return examples_of(data)


def load_hub_rows(name: str, split: str = "train") -> Any:
    """Return the rows of one split of a data set, mappings by column.

    Args:
        name: ``ID[:CONFIGURATION][@REVISION][#SPLIT]`` on the hub, or the same of a folder that the ``datasets``
            library reads.
        split: where the name says none.

    Raises:
        InputError: if it cannot be loaded.
    """
    datasets: Any = require("datasets", "train", "a Hugging Face data set")
    rest, _, own = name.partition("#")
    rest, _, revision = rest.partition("@")
    identifier, _, configuration = rest.partition(":")
    if not identifier:
        raise InputError(f"{HF} names no data set; expected {HF}ORG/NAME or {HF}FOLDER")
    try:
        return datasets.load_dataset(identifier, configuration or None, split=own or split, revision=revision or None)
    # The library raises errors of its own, of requests, of pyarrow and plain ones for what cannot be read.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())
        raise InputError(f"data set {name!r} cannot be loaded: {type(error).__name__}: {reason}") from None


def _hugging_face(name: str, *, skip_bad: bool) -> list[TrainingExample]:
    rows = load_hub_rows(name)
    numbered = ((f"{name}, row {number}", row, f"row{number}") for number, row in enumerate(rows))
    return read_records(name, numbered, skip_bad=skip_bad)


def _split(settings: TrainSettings, name: str, examples: list[TrainingExample]) -> TrainingData:
    """Keep the first lines of a file, up to a fifth of it, for validation, and learn from the rest."""
    held = min(settings.validation, len(examples) // 5)
    training = examples[held:][: settings.n]
    if settings.n is not None and len(training) < settings.n:
        raise InputError(
            f"{name} holds {len(examples)} examples, {held} of them for validation; --n {settings.n} is more"
        )
    if not training:
        raise InputError(f"{name} holds no examples to learn from")
    return TrainingData(name, tuple(training), tuple(examples[:held]))


def _is_conversations(path: Path) -> bool:
    """Whether a file is JSON lines that tell no story."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    return b'"story"' not in first
