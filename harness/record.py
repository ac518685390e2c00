"""What a run leaves on disk: a frozen manifest, appended samples, and results written last.

    manifest.json    everything that defines the run, written before the first question
    samples.jsonl    one line an answer, appended as it comes; of several lines with one id the last counts
    results.json     counts and accuracies, written by an atomic rename when everything has been asked

The lock that keeps a second process out is held on ``samples.jsonl`` itself, so it vanishes with the process
however that ends, and a run folder holds nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from harness.shapes import check_manifest, check_results, check_sample, decode
from stepgame.errors import InputError
from stepgame.files import atomic_path, write_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FORMAT",
    "MANIFEST",
    "RESULTS",
    "SAMPLES",
    "TRAINING",
    "Run",
    "RunFolder",
    "hash_of_prompt",
    "load_run",
    "read_json",
]

FORMAT = 1
"""Version of the run folder's layout; raised when a reader of the old one would misread the new one."""

MANIFEST, SAMPLES, RESULTS, TRAINING = "manifest.json", "samples.jsonl", "results.json", "training.json"

Line = dict[str, Any]


class Run:
    """A run folder, read.

    Attributes:
        path: the folder.
        manifest: what defines the run.
        results: counts and accuracies; None while the run is unfinished.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], results: dict[str, Any] | None) -> None:
        self.path = path
        self.manifest = manifest
        self.results = results

    def __repr__(self) -> str:
        done = "unfinished" if self.results is None else f"{self.results['answered']} answered"
        return f"Run({str(self.path)!r}, {self.manifest['model']['spec']}, {done})"

    def samples(self) -> Iterator[Line]:
        """Iterate over the samples, one line for each id, the last that was written.

        A torn last line is left out. Memory is bounded by the number of samples, not by their size.
        """
        path = self.path / SAMPLES
        places = _last_lines(path)
        with path.open("rb") as file:
            for number, place in places:
                file.seek(place)
                yield _parse(path, number, file.readline())

    def accuracy(self, by: str = "k_hop") -> pd.DataFrame:
        """Return accuracies with 95 % Wilson intervals.

        Args:
            by: a column of the samples to group by, such as ``k_hop``, ``gold`` or ``prediction``.

        Returns:
            One row a group, in order, with columns n, correct, errors, unparsed, accuracy, low and high; accuracies
            in [0, 1]. n counts errors, which the accuracy leaves out.

        Raises:
            InputError: if the samples have no such column.
        """
        import pandas as pd

        from harness.stats import wilson

        rows = []
        for line in self.samples():
            if by not in line:
                raise InputError(f"{self.path / SAMPLES}: samples have no column {by!r}; they have {', '.join(line)}")
            answered = line.get("error") is None
            # What was said stays out of the table: it may hold half a character, for which its texts have no form.
            rows.append((line[by], answered, answered and line.get("prediction") is None, bool(line.get("correct"))))
        frame = pd.DataFrame(rows, columns=[by, "answered", "unparsed", "right"])
        counts = frame.groupby(by, sort=True, dropna=False).agg(
            n=("answered", "size"), correct=("right", "sum"), answered=("answered", "sum"), unparsed=("unparsed", "sum")
        )
        bounds = [wilson(int(c), int(n)) for c, n in zip(counts["correct"], counts["answered"], strict=True)]
        counts["errors"] = counts["n"] - counts["answered"]
        counts["accuracy"] = counts["correct"] / counts["answered"]
        counts["low"] = [bound.low for bound in bounds]
        counts["high"] = [bound.high for bound in bounds]
        return counts[["n", "correct", "errors", "unparsed", "accuracy", "low", "high"]]


def load_run(path: str | Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        InputError: if it is no run folder, or a file in it cannot be read or holds what no run writes.
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{path} is no run folder: it has no {MANIFEST}; expected what `stepgame run --out` writes")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise InputError(f"{folder / MANIFEST}: format {manifest.get('format')!r}; this version reads format {FORMAT}")
    check_manifest(str(folder / MANIFEST), manifest)
    results = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else None
    if results is not None:
        check_results(str(folder / RESULTS), results)
    return Run(folder, manifest, results)


class RunFolder:
    """A run folder, held for writing; use as a context manager.

    Entering makes the folder if needed and takes the lock; only then is it safe to look at what is there.

    Args:
        path: the folder.

    Raises:
        InputError: on entering, if another process holds it, or the path is not a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._made = False

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; expected a folder")
        self._made = not self.path.exists()
        while self._descriptor < 0:
            self.path.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._lock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not (self.path / MANIFEST).exists():
            # Nothing was asked: leave no trace of the attempt.
            (self.path / SAMPLES).unlink(missing_ok=True)
            if self._made:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
        os.close(self._descriptor)
        self._descriptor = -1

    def _lock(self) -> int:
        """Open and lock the samples; -1 if the file was replaced between the two."""
        path = self.path / SAMPLES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"{self.path} is being written by another process; wait for it, or choose another folder"
            ) from None
        os.close(descriptor)
        return -1

    def clear(self) -> None:
        """Remove what an earlier run left, the manifest last."""
        (self.path / RESULTS).unlink(missing_ok=True)
        os.ftruncate(self._descriptor, 0)
        (self.path / TRAINING).unlink(missing_ok=True)
        (self.path / MANIFEST).unlink(missing_ok=True)

    def write_manifest(self, manifest: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> None:
        """Freeze what defines the run.

        Args:
            manifest: what defines it.
            training: record of how its adapter was trained, which is kept beside it; None for none.
        """
        if training is not None:
            write_text(self.path / TRAINING, _pretty(training))
        write_text(self.path / MANIFEST, _pretty(manifest))

    def append(self, lines: Iterable[Line]) -> None:
        """Append samples and hand them to the system at once, so that a killed process loses none of them.

        Raises:
            OSError: if the disk is full; the samples that were there stay, and nothing half-written does.
        """
        data = "".join(_dump(line) + "\n" for line in lines).encode()
        size = os.fstat(self._descriptor).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            # Whole lines that fitted are kept.
            kept = data.rfind(b"\n", 0, written) + 1
            os.ftruncate(self._descriptor, size + kept)
            raise OSError(error.errno, error.strerror, str(self.path / SAMPLES)) from None

    def recorded(self) -> list[Line]:
        """Return the recorded samples, the last line for each id; a torn last line is cut off the file."""
        path = self.path / SAMPLES
        data_end = _end_of_lines(path)
        if data_end < os.fstat(self._descriptor).st_size:
            os.ftruncate(self._descriptor, data_end)
        return list(Run(self.path, {}, None).samples())

    def seconds(self) -> float:
        """Return the asking time of every line, those that were later replaced included."""
        path = self.path / SAMPLES
        with path.open("rb") as file:
            numbered = enumerate(file, 1)
            return math.fsum(_parse(path, place, line)["seconds"] for place, line in numbered if line.endswith(b"\n"))

    def replace_samples(self, lines: Iterable[Line]) -> None:
        """Put other lines in the place of all samples, atomically; the folder stays locked."""
        with atomic_path(self.path / SAMPLES) as part:
            descriptor = os.open(part, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            # Locked before it takes the name, so that there is no moment at which another process could get in.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with part.open("w", encoding="utf-8") as file:
                file.writelines(_dump(line) + "\n" for line in lines)
        os.close(self._descriptor)
        self._descriptor = descriptor

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results, with the hash of the samples they follow from."""
        os.fsync(self._descriptor)
        digest = hashlib.sha256((self.path / SAMPLES).read_bytes()).hexdigest()
        write_text(self.path / RESULTS, _pretty({"format": FORMAT, **results, "samples_sha256": digest}))

    def unfinish(self) -> None:
        """Remove the results, because samples will follow."""
        (self.path / RESULTS).unlink(missing_ok=True)


def _dump(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A server cut a character in two: JSON can write half of one, UTF-8 cannot.
        return json.dumps(line, allow_nan=False)
    return text


def _pretty(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def hash_of_prompt(prompt: str | list[dict[str, str]]) -> str:
    """Return a sample's ``prompt_sha256``: of the text that the model read, or of the messages that a server got."""
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: if the file holds something else.
    """
    try:
        record = decode(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(record).__name__}")
    return record


def _parse(path: Path, number: int, line: bytes) -> Line:
    where = f"{path}, line {number}"
    try:
        record = decode(line.decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error}); the file was changed by hand") from None
    check_sample(where, record)
    sample: Line = record
    return sample


def _last_lines(path: Path) -> list[tuple[int, int]]:
    """Return number and byte offset of the last whole line of each id, ids in the order of their first line."""
    places: dict[str, tuple[int, int]] = {}
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                places[_parse(path, number, line)["id"]] = number, place
            place += len(line)
    return list(places.values())


def _end_of_lines(path: Path) -> int:
    """Return the offset behind the last newline."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        end = file.tell()
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
