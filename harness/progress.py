"""Progress of a run on stderr: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["Progress", "say"]

EVERY_SECONDS = 30.0
"""How often a line is written where stderr is no terminal."""


def say(message: str) -> None:
    """Write one line to stderr."""
    print(f"stepgame: {message}", file=sys.stderr, flush=True)  # noqa: T201


class Progress:
    """Counts answers; use as a context manager.

    The rate is that of this session, so that answers taken over from an earlier one do not flatter it.

    Args:
        total: questions of the whole run.
        done: answers that were there before this session.
        label: what is being asked, for the line.
    """

    def __init__(self, total: int, done: int, label: str) -> None:
        self._total, self._done, self._label = total, done, label
        self._asked = 0
        self._right = 0
        self._errors = 0
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._start = self._spoken = time.monotonic()
        if sys.stderr.isatty():
            self._open_bar()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, answered: int, right: int, errors: int) -> None:
        """Count a batch.

        Args:
            answered: questions asked, errors included.
            right: answers that are correct.
            errors: questions that got no answer.
        """
        self._asked += answered
        self._right += right
        self._errors += errors
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done + self._asked, note=self._note())
        elif time.monotonic() - self._spoken >= EVERY_SECONDS:
            self._spoken = time.monotonic()
            say(f"{self._label}: {self._done + self._asked} of {self._total}, {self._note()}")

    def _note(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = self._asked / seconds
        left = (self._total - self._done - self._asked) / rate if rate else 0.0
        judged = self._asked - self._errors
        parts = [f"{rate:.1f} a second", f"{left:.0f} s left"]
        if judged:
            parts.append(f"{self._right / judged:.1%} right")
        if self._errors:
            parts.append(f"{self._errors} errors")
        if self._done:
            parts.append(f"{self._done} from before")
        return ", ".join(parts)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(self._label, total=self._total, completed=self._done, note="")
        self._bar.start()
