"""Make a row again from the answers of its run, and hold it against the board.

Nothing that a run says of itself is trusted: every reply is judged again, against stories made again from the manifest,
and the prompts are held against the manifest's words. Who made up the replies themselves is beyond this, and so is what
stands around those words alike in every prompt of a run: that may be a chat template's.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leaderboards.board import Board, Row, sha256_of
from leaderboards.parts import reading
from leaderboards.schema import row_of
from stepgame.errors import InputError

if TYPE_CHECKING:
    from harness import Run
    from harness.models.base import Message
    from harness.plan import Plan

__all__ = ["Frames", "Verified", "verify"]

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DATE = re.compile(
    rf"(?:[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}|[0-9]{{1,2}} {_MONTH} [0-9]{{4}}|{_MONTH} [0-9]{{1,2}}, [0-9]{{4}})"
)
"""A date as chat templates write today's."""


class Verified(NamedTuple):
    """What verifying showed.

    Attributes:
        row: the run's row, made again.
        line: the line of the board that holds this measurement; None if there is none.
        differences: for each column that differs, what the board has and what the run gives.
    """

    row: Row
    line: int | None
    differences: dict[str, tuple[str, str]]

    @property
    def holds(self) -> bool:
        """Whether the board has exactly this row."""
        return self.line is not None and not self.differences


def verify(run: str | Path, board: str | Path, *, allow_files: bool = False) -> Verified:
    """Recompute a run's row from its samples, and compare it with the board's row of the same measurement.

    The run's folder is only read: it is judged again in a copy.

    Args:
        run: the folder of a finished run.
        board: the CSV file.
        allow_files: open the files that the run's manifest names, such as a bank or a file of stories. A manifest
            from elsewhere may name any file of this machine.

    Raises:
        InputError: if the run cannot be read or judged again, its prompts are not those of its manifest, it names
            files that it may not, or the board cannot be read.
    """
    from harness.record import load_run

    folder = Path(run)
    if not Path(board).is_file():
        raise InputError(f"{board} is no file; expected a leaderboard's CSV")
    book = Board.read(board)
    loaded = load_run(folder)
    if loaded.results is None:
        raise InputError(f"{folder}: the run is unfinished; there is no row to verify")
    with reading(folder):
        row = _made_again(loaded, allow_files)
    for place, other in enumerate(book.rows):
        if other.identity == row.identity:
            names = [name for name in other.cells if other.cells[name] != row.cells.get(name, "")]
            differences = {name: (other.cells[name], row.cells.get(name, "")) for name in names}
            return Verified(row, book.line(place), differences)
    return Verified(row, None, {})


def _made_again(run: Run, allow_files: bool) -> Row:
    """Judge a copy of a run again, and return its row."""
    from harness.record import MANIFEST, RESULTS, SAMPLES, Run
    from harness.run import plan_to_judge, rescore

    if not allow_files:
        _refuse_files(run)
    plan = plan_to_judge(run)
    if plan.prompt.sha256 != run.manifest["prompt"]["sha256"]:
        raise InputError(f"{run.path / MANIFEST}: the prompt's hash is not that of its words; one of them was changed")
    _check_samples(run, plan)
    samples = sha256_of(run.path / SAMPLES)
    with tempfile.TemporaryDirectory(prefix="stepgame-verify-") as name:
        copy = Path(name) / "run"
        copy.mkdir()
        for part in (MANIFEST, SAMPLES, RESULTS):
            shutil.copyfile(run.path / part, copy / part)
        judged = rescore(copy)
        # Judging rewrites the file; the hash that the board promises is of the answers as they were recorded.
        results = {**(judged.results or {}), "samples_sha256": samples}
        return Row(row_of(Run(copy, run.manifest, results)))


def _refuse_files(run: Run) -> None:
    """Refuse a run whose stories come from files that its manifest names.

    Raises:
        InputError: naming the setting.
    """
    for name, value in _files_of(run.manifest["task"]["params"]):
        raise InputError(
            f"{run.path}: its manifest names the file {value[:200]!r} as its {name}, and could name any file of this "
            "machine; add --allow-files if this one may be opened"
        )


def _files_of(params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield settings of a task that are files, or may be: what is built in goes by a known name."""
    from stepgame.bank import builtin_banks
    from stepgame.names import SCHEMES

    known = {"bank": builtin_banks(), "names": SCHEMES}
    for name, value in params.items():
        for text in _texts(value):
            if name in known:
                suspect = text not in known[name]
            else:
                # Further tasks have settings of their own; a word without slash and suffix names no file.
                suspect = name in ("file", "data") or "/" in text or "\\" in text or bool(Path(text).suffix)
            if suspect:
                yield name, text


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a setting."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _check_samples(run: Run, plan: Plan) -> None:
    """Check that every story of the plan was answered, and nothing else, asked in the manifest's words.

    Raises:
        InputError: naming the first sample that is not, or the first story without one.
    """
    from harness.models.registry import BACKENDS, ENGINES
    from harness.record import SAMPLES, hash_of_prompt

    examples = {example.id: example for example in plan.task.examples}
    missing = dict.fromkeys(examples)
    frames = Frames()
    for line in run.samples():
        where = f"{run.path / SAMPLES}: sample {str(line['id'])[:80]!r}"
        example = examples.get(line["id"])
        if example is None:
            raise InputError(f"{where} is none of the stories that were asked")
        del missing[example.id]
        if line["error"] is not None:
            again = f"stepgame resume {shlex.quote(str(run.path))}"
            raise InputError(f"{where} ended in an error and was not answered; ask it again: {again}")
        for name, value in (("k_hop", example.k_hop), ("gold", example.gold), ("options", list(example.options))):
            if line[name] != value:
                raise InputError(f"{where}: {name} is not its story's; the file was changed by hand")
        if hash_of_prompt(line["prompt"]) != line["prompt_sha256"]:
            raise InputError(f"{where}: prompt_sha256 is not the hash of its prompt; one of them was changed")
        turns = plan.prompt.render(example).messages
        # A baseline reads the question alone; how an installed model puts a prompt into words is its own affair.
        asked = turns if plan.request.backend in ENGINES else turns[-1:]
        if plan.request.backend in BACKENDS and (fault := frames.fault(line["prompt"], asked)):
            raise InputError(f"{where}: {fault}")
    if missing:
        raise InputError(
            f"{run.path / SAMPLES}: {len(missing)} of {len(examples)} stories have no sample, for instance "
            f"{next(iter(missing))[:80]!r}; a row counts every story, so none may be left out"
        )


class Frames:
    """What stands around the manifest's words in the prompts of a run.

    Messages to a server are recorded as they are. A text is a chat template's or a plain completion's, which frame the
    turns, trim them, and put a mask in a gap: so it holds the turns' words in their order, and what is left without
    them is the same in all of a run's prompts that have as many gaps. Only blanks beside the turns may differ, and a
    date, which some templates write.
    """

    def __init__(self) -> None:
        self._known: dict[int, list[str]] = {}

    def fault(self, recorded: Any, turns: Sequence[Message]) -> str | None:
        """Say what is wrong with a recorded prompt; None for nothing.

        Args:
            recorded: the text, or the messages.
            turns: the conversation it must hold.
        """
        from harness.models.base import MASK

        otherwise = "its prompt does not ask its story in the manifest's words"
        if not isinstance(recorded, str):
            return None if recorded == [asdict(turn) for turn in turns] else otherwise
        parts = [part.strip() for turn in turns for part in turn.content.split(MASK)]
        known = self._known.get(len(parts))
        if known is not None and _fits(recorded, known, parts):
            return None
        found = _around(recorded, parts)
        if found is None:
            return otherwise
        if known is None:
            self._known[len(parts)] = found
            return None
        return (
            "around the manifest's words its prompt has others than the samples before it; a model's chat template "
            "writes the same around every question, so one of them was changed by hand"
        )


def _around(text: str, parts: Sequence[str]) -> list[str] | None:
    """Return what stands before, between and behind some parts of a text; None if it does not hold them in order."""
    around, place = [], 0
    for part in parts:
        # An answer that is shown may be as short as "a", which is no answer within "assistant".
        found = re.compile(rf"(?<!\w){re.escape(part)}(?!\w)").search(text, place)
        if found is None:
            return None
        around.append(text[place : found.start()])
        place = found.end()
    return [*around, text[place:]]


def _fits(text: str, around: Sequence[str], parts: Sequence[str]) -> bool:
    """Say whether a text is made of some parts and of what stands around them, whatever the date in that."""
    if text == "".join(chain.from_iterable(zip_longest(around, parts, fillvalue=""))):
        return True
    dated = [_DATE.pattern.join(map(re.escape, _DATE.split(piece.strip()))) for piece in around]
    pattern = r"\s*".join(chain.from_iterable(zip_longest(dated, map(re.escape, parts), fillvalue="")))
    return re.fullmatch(rf"\s*{pattern}", text) is not None
