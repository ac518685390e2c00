"""What a leaderboard row is: its columns, how a cell is written, and how a finished run becomes a row.

`COLUMNS` is the one place where the columns are described. After them come four columns for every k,
``n_k, acc_k, low_k, high_k`` in rising k: always for k = 1..10, and for further k as soon as one row of the
board has asked them; k is 0 for tasks that know no hops. Cells of a k that was not asked are empty.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from leaderboards.data import name_of
from leaderboards.markup import visible
from stepgame.errors import InputError
from stepgame.hops import format_hops

if TYPE_CHECKING:
    from harness import Run

__all__ = [
    "CHANCE",
    "COLUMNS",
    "DECIDING_ARGS",
    "IDENTITY",
    "MAX_CELL",
    "PER_K",
    "SCHEMA",
    "STANDARD_HOPS",
    "Column",
    "cell",
    "deciding",
    "header",
    "hops_of_header",
    "is_formula",
    "measured",
    "row_of",
    "settings_of",
]

SCHEMA = 2
"""Version of the schema; a board of another version is refused rather than guessed at."""

CHANCE = 1 / 9
"""Accuracy of guessing among the nine labels."""

STANDARD_HOPS = range(1, 11)
"""The k whose columns every board has."""

MAX_CELL = 32_767
"""Characters a cell may hold: what spreadsheets read, and well under what `csv` reads."""


class Column(NamedTuple):
    """A column of the board.

    Attributes:
        name: the header's word.
        meaning: what the cell holds, with its unit.
    """

    name: str
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column("model", "model as it was asked for, without backend prefix: smollm2, an id or path, oracle, ..."),
    Column("backend", "engine that ran it: hf, vllm, openai; a baseline's own name"),
    Column("revision", "revision of the model; empty where the model has none"),
    Column("model_hash", "content hash of the model's weights; empty where nobody can know it (an API)"),
    Column("model_args", "further settings of the model and its engine, as JSON with sorted keys"),
    Column("dtype", "number format of the weights while asking; empty for models without weights"),
    Column("adapter", "adapter's method, for instance dept, or its kind where a folder names none; empty for none"),
    Column("adapter_hash", "content hash of the adapter; empty for none"),
    Column("task", "name of the task, for instance stepgame"),
    Column("data", "name that leaderboards/data.toml gives the stories, by their hash; empty for others"),
    Column("protocol", "official or exact; empty where a file gave the stories and does not say"),
    Column("noise", "yes or no; empty where a file gave the stories and does not say"),
    Column("bank", "phrase bank of the stories"),
    Column("split", "split of the stories: train, validation or test"),
    Column("seed", "seed of the stories"),
    Column("hops", "the k asked, for instance 1-10"),
    Column("data_sha256", "hash of the stories asked; only rows that share it are comparable story by story"),
    Column("prompt", "name and version of the prompt template, for instance zero-shot@1"),
    Column("prompt_sha256", "hash of the prompt template"),
    Column("score", "choice (log-likelihood of the nine options) or generate (answer read from text)"),
    Column("sampling", "sampling parameters as JSON with sorted keys; empty for none"),
    Column("extraction", "how an answer was read out of text; empty for choice"),
    Column("run_seed", "seed of the asking, which the random baseline draws by"),
    Column("n", "stories asked"),
    Column("mean", "unweighted mean over k of the accuracy, 0 to 1"),
    Column("chance_centred", "(mean - chance) / (1 - chance): 0 is guessing, 1 is perfect"),
    Column("errors", "stories that infrastructure kept from being answered; 0 in every published row"),
    Column("unparsed", "answers from which no label could be read; they count as not correct"),
    Column("opposite", "wrong answers that are the gold label's inverse; empty where labels are not the nine"),
    Column("one_axis", "wrong answers with exactly one of the two signs wrong, opposites left out"),
    Column("both_axes", "all other wrong answers that could be read"),
    Column("seconds", "wall time of the asking, loading not counted"),
    Column("examples_per_second", "n / seconds; empty where the asking took no measurable time"),
    Column("hardware", "machine, processor, cores, memory and GPU"),
    Column("version", "stepgame version that made the run"),
    Column("commit", "git commit of the code that made the run; empty outside a checkout"),
    Column("dirty", "no; or yes when the code had changes not in the commit, or lay outside a checkout"),
    Column("date", "when the run began, UTC, ISO 8601"),
    Column("command", "command line that made the run, quoted for a POSIX shell"),
    Column("samples_sha256", "hash of the run's samples.jsonl, every answer included"),
    Column("schema", "version of this schema"),
)
"""Every column before those of single k, in order."""

PER_K: tuple[Column, ...] = (
    Column("n", "stories of this k"),
    Column("acc", "accuracy on them, 0 to 1"),
    Column("low", "lower end of its 95 % Wilson interval"),
    Column("high", "upper end of its 95 % Wilson interval"),
)
"""The columns of one k; in the header each is followed by ``_k`` and the k, for instance ``acc_k3``."""

IDENTITY: tuple[str, ...] = (
    "model_hash",
    "model_args",
    "dtype",
    "adapter",
    "adapter_hash",
    "data_sha256",
    "prompt_sha256",
    "score",
    "sampling",
    "extraction",
)
"""Columns that say what was measured; ``model`` and ``revision`` stand in for an unknown ``model_hash``.
Two rows alike in these are the same measurement, whoever made it and on whatever machine: the hardware and the speed
are circumstances, and so is most of how an engine was set up; see `deciding`. The backend decides nothing by its name:
a model asked by ``hf`` and the same one asked by ``vllm`` are one measurement, while a server's address and an
installed model's settings decide."""

_VLLM_ARGS = (
    "config_format disable_sliding_window hf_config_path hf_overrides kv_cache_dtype load_format max_model_len "
    "rope_scaling rope_theta tokenizer_mode"
).split()
"""Arguments of vLLM's engine that change a model, and stand in a record only where somebody gave them. The longest
context in force, which always stands there, is the model's own without such an argument."""

DECIDING_ARGS: dict[str, tuple[str, ...]] = {
    "hf": ("chat_template_sha256",),
    "vllm": ("quantization", "chat_template_sha256", *(f"model_args.{name}" for name in _VLLM_ARGS)),
    # A server's address stands for weights that nobody can look at.
    "openai": ("api", "base_url", "extra_body"),
}
"""For engines that put on record all of their set-up, what of ``model_args`` decides the answers; of any other backend
everything does. Left out are memory, batching, devices, the way attention is computed, versions and what a server says
of itself: who changes one of these and asks again has not measured anything else, and may not choose the better of two.
So is ``option_scoring``: every way gives an option the same log-likelihood up to rounding, and whether a model is a
masked one, which has another, is known from its weights."""

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_FORMULA_STARTS = tuple("=+-@＝＋－＠")  # spreadsheets take the wide forms as well
_SEPARATOR = re.compile(r"([;\t\r\n])")
"""What begins another cell, in countries whose lists are separated by semicolons, or where a quote is not seen."""
_K_COLUMN = re.compile(r"n_k(0|[1-9][0-9]{0,8})")


def _risky(piece: str) -> bool:
    return piece.lstrip(' "').startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(piece)


def is_formula(text: str) -> bool:
    """Say whether a spreadsheet may take a text, or what follows a separator in it, for a formula.

    Numbers with a sign are none.
    """
    return any(map(_risky, _SEPARATOR.split(text)))


def cell(value: object) -> str:
    """Write one value as a cell that no spreadsheet will execute and no terminal will act on.

    Characters that do not print (control characters, line breaks, text-direction marks, lone surrogates)
    become visible backslash escapes. What a spreadsheet would take for a formula, at the beginning or behind a
    separator (`is_formula`), gets an apostrophe before it, unless it is a number. Numbers are to be formatted by the
    caller.

    Args:
        value: what to write; ``None`` is an empty cell, a boolean is yes or no.

    Returns:
        One line of printable text.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return visible("".join(f"'{piece}" if _risky(piece) else piece for piece in _SEPARATOR.split(str(value))))


def header(hops: Iterable[int]) -> list[str]:
    """List the column names of a board whose rows have asked ``hops``; the standard k are always there."""
    asked = sorted({*STANDARD_HOPS, *hops})
    return [column.name for column in COLUMNS] + [f"{column.name}_k{k}" for k in asked for column in PER_K]


def hops_of_header(names: Sequence[str]) -> list[int]:
    """Return the k a header has columns for, by its ``n_k`` columns; it is not checked otherwise."""
    return [int(match[1]) for name in names if (match := _K_COLUMN.fullmatch(name))]


def settings_of(text: str) -> dict[str, Any]:
    """Read a cell of settings: values by name, those of a block within by ``block.name``.

    Args:
        text: of the cell; what is no JSON object stands under the name ``""``.
    """
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return {"": text}
    flat: dict[str, Any] = {}
    for name, value in found.items():
        flat |= {f"{name}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def deciding(cells: Mapping[str, str]) -> dict[str, Any]:
    """Return what of a row's ``model_args`` decides the answers; see `DECIDING_ARGS`."""
    known = DECIDING_ARGS.get(cells["backend"])
    return {
        name: value
        for name, value in settings_of(cells["model_args"]).items()
        if value is not None and (known is None or name in ("", *known) or name.partition(".")[0] in known)
    }


def measured(cells: Mapping[str, str], columns: Iterable[str] = IDENTITY) -> tuple[str, ...]:
    """Return a row's cells that say what was measured, of ``model_args`` what decides the answers alone.

    Args:
        cells: the row.
        columns: which.
    """
    return tuple(_canonical(deciding(cells)) or "" if name == "model_args" else cells[name] for name in columns)


class _Record:
    """Reads a run's JSON records by dotted path and names the file and field of what is missing."""

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self.where = where
        self.values = values

    def get(self, path: str) -> Any:
        """Return the value at a dotted path, or ``None`` where there is none."""
        found: Any = self.values
        for key in path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def need(self, path: str) -> Any:
        """Return the value at a dotted path.

        Raises:
            InputError: if there is none.
        """
        found = self.get(path)
        if found is None:
            raise InputError(f"{self.where} has no {path!r}; it was not written by this version, run again")
        return found

    def count(self, path: str) -> int:
        """Return the whole number of at least 0 at a dotted path.

        Raises:
            InputError: if there is none or it is something else.
        """
        found = self.need(path)
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise InputError(f"{self.where}: {path} is {found!r}; expected a whole number of at least 0")
        return found

    def number(self, path: str, digits: int) -> str:
        """Return the number at a dotted path with a fixed number of decimals.

        Raises:
            InputError: if there is none, or it is not a finite number.
        """
        found = self.need(path)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise InputError(f"{self.where}: {path} is {found!r}; expected a finite number")
        return f"{found:.{digits}f}"


def _named(name: object, version: object) -> str:
    return f"{name}" if version is None else f"{name}@{version}"


def _canonical(value: object) -> str | None:
    """Write a parameter block the same way every time; a bare name stays bare, an empty block is nothing."""
    if not value:
        return None
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _of_weights(content_hash: object) -> object:
    """Leave out a server's description of itself, which has the place of a hash where nobody can see weights."""
    return None if str(content_hash).startswith("server-description-") else content_hash


def _hardware(record: _Record) -> str:
    """Put the hardware block into one readable cell, leaving out what is not known."""
    cores, memory, gpu = (record.get(f"hardware.{key}") for key in ("cores", "memory_gib", "gpu"))
    gpus = ", ".join(map(str, gpu)) if isinstance(gpu, list) else gpu
    parts = (
        record.get("hardware.machine"),
        record.get("hardware.cpu"),
        f"{cores} cores" if cores else None,
        f"{memory:.0f} GiB" if isinstance(memory, int | float) else None,
        f"GPU {gpus}" if gpus else None,
    )
    return ", ".join(str(part) for part in parts if part)


def _per_k(results: _Record) -> dict[str, str]:
    """Build the four cells of every k that was asked."""
    cells: dict[str, str] = {}
    for entry in results.need("by_k"):
        record = _Record(f"{results.where}, by_k", entry)
        k = record.count("k")
        cells[f"n_k{k}"] = str(record.count("n"))
        cells[f"acc_k{k}"] = record.number("accuracy", 4)
        cells[f"low_k{k}"] = record.number("low", 4)
        cells[f"high_k{k}"] = record.number("high", 4)
    return cells


def row_of(run: Run) -> dict[str, str]:
    """Build the leaderboard row of a finished run.

    Nothing is judged here: whether the run may be published is for `leaderboards.board.publish` to say.

    Args:
        run: a run with results.

    Returns:
        Cells by column name, ready to be written: the columns of `COLUMNS` in order, then those of the k
        that were asked. Accuracies have four decimals, seconds three and rates two.

    Raises:
        InputError: if the run is unfinished, its answers are missing, or its records lack a field the row needs.
    """
    if run.results is None:
        raise InputError(f"{run.path}: the run is unfinished; run: stepgame resume {shlex.quote(str(run.path))}")
    manifest = _Record(str(run.path / "manifest.json"), run.manifest)
    results = _Record(str(run.path / "results.json"), run.results)
    per_k = _per_k(results)
    hops = sorted(hops_of_header(list(per_k)))
    values = _values(manifest, results, hops) | _kinds(run)
    cells = {name: cell(value) for name, value in values.items()} | per_k
    for name, text in cells.items():
        if len(text) > MAX_CELL:
            raise InputError(
                f"{run.path}: its {name} is {len(text):,} characters long; a board's cell holds {MAX_CELL:,}"
            )
    return {name: cells[name] for name in header(hops) if name in cells}


def _kinds(run: Run) -> dict[str, object]:
    """Count a run's wrong answers by kind; empty for tasks whose labels are not the nine relations."""
    # Imported here, because reading a board must not load what asks models.
    from harness.error_kinds import KINDS, count_kinds
    from harness.pairing import read_samples
    from stepgame.relations import NAMES

    samples = [each for each in read_samples(run).values() if not each.error]
    if not all(each.gold in NAMES and each.prediction in (None, *NAMES) for each in samples):
        return dict.fromkeys(KINDS)
    found = count_kinds((each.gold, each.prediction) for each in samples)
    return {each.kind: each.count for each in found.kinds}


def _values(manifest: _Record, results: _Record, hops: Sequence[int]) -> dict[str, object]:
    """Collect what the columns of `COLUMNS` hold."""
    backend = manifest.need("model.backend")
    commit = manifest.get("git.commit")
    rate = results.get("examples_per_second")
    return {
        "model": str(manifest.need("model.spec")).removeprefix(f"{backend}:"),
        "backend": backend,
        "revision": manifest.get("model.revision"),
        "model_hash": _of_weights(manifest.get("model.content_hash")),
        "model_args": _canonical(manifest.get("model.args")),
        "dtype": manifest.get("model.dtype"),
        "adapter": manifest.get("adapter.method") or manifest.get("adapter.kind"),
        "adapter_hash": manifest.get("adapter.content_hash"),
        "task": manifest.need("task.name"),
        "data": name_of(str(manifest.need("task.data_sha256"))),
        "protocol": manifest.get("task.params.protocol"),
        "noise": manifest.get("task.params.noise"),
        "bank": manifest.get("task.params.bank"),
        "split": manifest.get("task.params.split"),
        "seed": manifest.get("task.params.seed"),
        "hops": format_hops(hops),
        "data_sha256": manifest.need("task.data_sha256"),
        "prompt": _named(manifest.need("prompt.name"), manifest.get("prompt.version")),
        "prompt_sha256": manifest.need("prompt.sha256"),
        "score": manifest.need("score"),
        "sampling": _canonical(manifest.get("sampling")),
        "extraction": _canonical(manifest.get("extraction")),
        "run_seed": manifest.get("seed"),
        "n": results.count("n"),
        "mean": results.number("mean_accuracy", 4),
        "chance_centred": results.number("chance_centred", 4),
        "errors": results.count("errors"),
        "unparsed": results.count("unparsed"),
        "seconds": results.number("seconds", 3),
        "examples_per_second": None if rate is None else results.number("examples_per_second", 2),
        "hardware": _hardware(manifest),
        "version": manifest.need("stepgame_version"),
        "commit": commit,
        "dirty": commit is None or manifest.need("git.dirty"),
        "date": manifest.need("created"),
        "command": shlex.join(map(str, manifest.need("command"))),
        "samples_sha256": results.need("samples_sha256"),
        "schema": SCHEMA,
    }
