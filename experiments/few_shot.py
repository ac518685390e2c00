"""What the experiments on few-shot tasks share: their data, the encoder of small machines, pipelines done once, tables.

Real tasks come from ``--data kshot=FOLDER``, with ``TASK/16-SEED/{train,dev,test}.{tsv,csv}`` and
``TASK/unlabelled.json`` in it (the layout of LM-BFF's splits, as ZhengxiangShi/PowerfulPromptFT has them); the text
that warms the encoder up from ``--data text=FILE``, or one that is warm already from ``--data encoder=FOLDER``. Without
these, only ``--quick`` runs: on sentences of StepGame.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from experiments.common import Planned
from stepgame.errors import InputError

__all__ = [
    "MINILM",
    "FewShot",
    "Scale",
    "base_model",
    "few_shot_data",
    "figures",
    "measure",
    "paired",
    "scales",
    "spread",
]

MINILM = "minilm"
"""The encoder of `adapters.pcp.encoder`, warmed up."""
FOLDERS = {"sst2": "SST-2", "cola": "CoLA", "mrpc": "MRPC", "rte": "RTE"}
"""Folders of the tasks whose name is not the folder's own."""
SENTENCES = "stepgame-sentences"
"""The task of --quick: one sentence of StepGame, and four answers."""
ANSWERS = ("left", "right", "above", "below")
TASK = """\
name = "stepgame-sentences"
cloze = "{a} {b} It is [MASK]."
causal = "{a} {b}\\nIt is [MASK]"
words = { left = ["left"], right = ["right"], above = ["above"], below = ["below"] }
"""


@dataclass(frozen=True)
class Scale:
    """One size of an experiment on few-shot tasks.

    Attributes:
        model: what is trained.
        tasks: which ones; none for --quick's own.
        seeds: of the draws of labelled texts, and of the trainings.
        unlabelled: texts that are pre-trained on; None for all.
        tested: texts that are tested on; likewise.
        steps: of fine-tuning.
        batch: texts of a step of it.
        lr: learning rate of it.
        pretrain_steps: of pre-training.
        pretrain_batch: texts of a step of it.
        pretrain_lr: learning rate of it.
        max_tokens: where long texts are cut off; None for 128, and 256 with pairs.
        warm_steps: steps that warm the encoder up.
        eval_every: steps between validations; None for a fifth of all.
    """

    model: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    unlabelled: int | None
    tested: int | None
    steps: int
    batch: int
    lr: float
    pretrain_steps: int
    pretrain_batch: int
    pretrain_lr: float
    max_tokens: int | None
    warm_steps: int = 0
    eval_every: int | None = None

    def settings(self, seed: int, model: str) -> dict[str, Any]:
        """Return what every pipeline of this size has in common."""
        return {
            "model": model,
            "steps": self.steps,
            "batch": self.batch,
            "lr": self.lr,
            "weight_decay": 0.01,
            "pretrain_steps": self.pretrain_steps,
            "pretrain_batch": self.pretrain_batch,
            "pretrain_lr": self.pretrain_lr,
            "max_tokens": self.max_tokens,
            "eval_every": self.eval_every,
            "seed": seed,
        }


def scales(tasks: tuple[str, ...], *, cpu_seeds: tuple[int, ...] = (13, 21, 42)) -> dict[str, Scale]:
    """Return the sizes of an experiment.

    Args:
        tasks: that it is about.
        cpu_seeds: seeds on a CPU.
    """
    seeds, paper_seeds = (13, 21, 42), (13, 21, 42, 87, 100)
    gpu = Scale("FacebookAI/roberta-base", tasks, seeds, 5000, 2000, 1000, 8, 2e-5, 1500, 128, 1e-4, None)
    return {
        "quick": Scale("smollm2", (SENTENCES,), (0,), 8, 4, 1, 2, 2e-5, 1, 2, 2e-5, 128),
        "cpu": Scale(MINILM, tasks, cpu_seeds, 500, 200, 40, 8, 1e-4, 40, 16, 3e-4, 96, 300),
        "gpu": gpu,
        "paper": replace(
            gpu,
            model="FacebookAI/roberta-large",
            seeds=paper_seeds,
            unlabelled=None,
            tested=None,
            lr=1e-5,
            pretrain_steps=5000,
            eval_every=100,
        ),
    }


@dataclass(frozen=True)
class FewShot:
    """The files of one task and seed.

    Attributes:
        task: name, or file.
        folder: with train, dev and test.
        unlabelled: file.
    """

    task: str
    folder: Path
    unlabelled: Path

    def settings(self) -> dict[str, Any]:
        """Return them as a pipeline takes them."""
        return {"task": self.task, "labelled": self.folder, "unlabelled": self.unlabelled}


def few_shot_data(
    work: Path,
    scale: Scale,
    files: Mapping[str, str],
    task: str,
    seed: int,
    choose: Callable[[Sequence[str]], bool] = lambda _: True,
    *,
    dry_run: bool = False,
) -> FewShot:
    """Write a task's files, with as many unlabelled and tested texts as the scale has.

    Args:
        work: where they go.
        scale: how many.
        files: of ``--data``.
        task: its name; that of --quick's own.
        seed: which draw of labelled texts.
        choose: which unlabelled texts may be taken.
        dry_run: whether only to say where they would be.

    Raises:
        InputError: if the task is not there.
    """
    folder = work / f"{task}-{seed}"
    source = Path(files.get("kshot", "")) / FOLDERS.get(task, task)
    if dry_run and scale.unlabelled is None:
        return FewShot(task, source / f"16-{seed}", source / "unlabelled.json")
    if dry_run:
        return FewShot(task, folder, folder / "unlabelled.jsonl")
    if task == SENTENCES:
        return _sentences(work, scale, seed)
    from adapters.pcp.readers import find_split, read_texts
    from adapters.pcp.tasks import load_task

    known = load_task(task)
    splits = {name: find_split(source / f"16-{seed}", name) for name in ("train", "dev", "test")}
    missing = [name for name, path in splits.items() if path is None]
    if missing or not (source / "unlabelled.json").is_file():
        raise InputError(f"--data kshot: {source} lacks 16-{seed}/{missing[0] if missing else ''} or unlabelled.json")
    read = {name: read_texts(path, known, labelled=True) for name, path in splits.items() if path is not None}
    # TREC's test texts hold some of its training texts, and so some of the few.
    labelled = {each.texts for name in ("train", "dev") for each in read[name]}
    read["test"] = _sample([each for each in read["test"] if each.texts not in labelled], scale.tested, seed)
    for name, texts in read.items():
        _write(folder / f"{name}.jsonl", [_row(each.texts, known.labels[each.label or 0][0]) for each in texts])
    taken = labelled | {each.texts for each in read["test"]}
    others = [each for each in read_texts(source / "unlabelled.json", known, labelled=False) if each.texts not in taken]
    fit = [each for each in others if choose(each.texts)]
    rows = [_row(each.texts, None if each.label is None else known.labels[each.label][0]) for each in fit]
    return FewShot(task, folder, _write(folder / "unlabelled.jsonl", _sample(rows, scale.unlabelled, seed)))


def base_model(options: Any, scale: Scale, files: Mapping[str, str]) -> str:
    """Return the model that a scale begins with; where it is the small machines' encoder, make it and warm it up.

    Args:
        options: of the command line; with ``dry_run`` the commands are only printed.
        scale: of the experiment.
        files: of ``--data``.

    Raises:
        InputError: if there is no text to warm it up on.
    """
    if scale.model != MINILM:
        return scale.model
    if "encoder" in files:
        return files["encoder"]
    if "text" not in files:
        raise InputError(
            "--data text=FILE is missing; give running text to warm the encoder up on, one text a line, or a warm one "
            "with --data encoder=FOLDER"
        )
    encoder = options.work / "encoder"
    warm = {
        "model": str(encoder),
        "task": "sst2",
        "method": "tapt",
        "skip": ("fine-tune",),
        "unlabelled": files["text"],
        "pretrain_steps": scale.warm_steps,
        "pretrain_batch": 32,
        "pretrain_lr": 5e-4,
        "max_tokens": 64,
    }
    training = Planned("warm", "pcp", warm)
    if options.dry_run:
        print(f"python -m adapters.pcp.encoder --out {encoder}", training.command(options.work), sep="\n")
    else:
        from adapters.pcp.encoder import write_encoder

        if not encoder.exists():
            write_encoder(encoder)
        training.done(options.work)
    return str(options.work / "warm")


def measure(training: Planned, work: Path) -> dict[str, Any]:
    """Do a pipeline unless that was done before; return its result, and keep no weights."""
    _, result = training.done(work)
    for path in (work / training.name).rglob("*.safetensors"):
        path.unlink()
    return result


def figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tables hold of a pipeline: its accuracy, and what share of its pseudo-labels was right, if any."""
    labels = result["stages"].get("label-ft", {}).get("labels", {})
    return {"accuracy": result["test_accuracy"], "pseudo_label_accuracy": labels.get("accuracy", "")}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation; the latter is not a number for a single value."""
    return mean(values), stdev(values) if len(values) > 1 else math.nan


def paired(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Return the mean of paired differences, with its 95 % interval and p-value by Student's t."""
    from scipy import stats

    differences = [a - b for a, b in zip(one, other, strict=True)]
    centre, deviation = spread(differences)
    if not deviation > 0:
        return {"difference": centre, "low": math.nan, "high": math.nan, "p": math.nan}
    half = stats.t.ppf(0.975, len(differences) - 1) * deviation / math.sqrt(len(differences))
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return {"difference": centre, "low": centre - half, "high": centre + half, "p": p}


def _sentences(work: Path, scale: Scale, seed: int) -> FewShot:
    """Make --quick's task: stories of one sentence, answered by one of four relations."""
    from stepgame.generate import generate

    folder, task = work / f"{SENTENCES}-{seed}", work / f"{SENTENCES}.toml"
    work.mkdir(parents=True, exist_ok=True)
    task.write_text(TASK, encoding="utf-8")
    tested = scale.tested or 0
    wanted = tested + (scale.unlabelled or 0)
    stories = generate(1, 80 + 4 * wanted, seed=seed, split="train").table.to_pylist()
    rows = {(" ".join(each["story"]), each["question"]): each["label"] for each in stories}
    known = {label: [texts for texts, own in rows.items() if own == label] for label in ANSWERS}
    train = [_row(texts, label) for label, found in known.items() for texts in found[:4]]
    rest = [_row(texts, label) for label, found in known.items() for texts in found[4:]]
    random.Random(seed).shuffle(rest)
    _write(folder / "train.jsonl", train)
    _write(folder / "dev.jsonl", rest[:8])
    _write(folder / "test.jsonl", rest[8 : 8 + tested])
    return FewShot(str(task), folder, _write(folder / "unlabelled.jsonl", rest[8 + tested : 8 + wanted]))


def _row(texts: Sequence[str], label: str | None) -> dict[str, Any]:
    return {**{f"text_{key}": text for key, text in zip("ab", texts, strict=False)}, "label": label}


def _sample(rows: Sequence[Any], count: int | None, seed: int) -> list[Any]:
    return list(rows) if count is None or len(rows) <= count else random.Random(seed).sample(list(rows), count)


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
