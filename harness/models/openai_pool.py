"""Many questions to one server: bounded, adaptive concurrency, retries, and no task without a slot.

The verbs of a model are plain calls, and the client is asynchronous; an event loop in a thread of its own joins the
two, so that the harness also works where a loop runs already, as in a notebook. Nothing in here knows the protocol
that is spoken: the one who asks raises `TransientError` or `FinalError`, and everything else follows from these.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

from harness.models.base import Failure

__all__ = ["FinalError", "Limiter", "Pool", "RetryPolicy", "Traffic", "TransientError", "retry_after"]

Question = TypeVar("Question", bound=Hashable)
Reply = TypeVar("Reply")


class TransientError(RuntimeError):
    """The question may be answered when it is asked again.

    Args:
        message: what happened, in one line.
        overload: the server has too much to do: fewer questions at a time will help.
        unreachable: no connection came about at all.
        wait: seconds the server asks to wait, if it does.
    """

    def __init__(
        self, message: str, *, overload: bool = False, unreachable: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(message)
        self.overload = overload
        self.unreachable = unreachable
        self.wait = wait


class FinalError(RuntimeError):
    """The server has refused the question and would refuse it again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after what wait a question is asked again.

    The wait before attempt i + 1 is drawn uniformly from 0 to ``min(max_backoff, backoff * 2**i)`` ("full jitter"),
    so that questions that failed together do not come back together; what the server asks for comes on top.

    Attributes:
        max_retries: attempts after the first one.
        backoff: bound of the first wait, in seconds.
        max_backoff: largest bound of a wait, in seconds.
        max_wait: longest wait in seconds that a server may ask for; beyond it the question is given up.
        scale: factor on every wait, including those the server asks for; below 1 only against servers of one's own.
    """

    max_retries: int = 8
    backoff: float = 1.0
    max_backoff: float = 60.0
    max_wait: float = 600.0
    scale: float = 1.0

    def pause(self, attempt: int) -> float:
        """Draw the wait after the attempt of that number, counted from 0, in seconds before `scale`."""
        # The exponent is bounded because 2.0**1024 overflows.
        return random.uniform(0, min(self.max_backoff, self.backoff * 2.0 ** min(attempt, 64)))


@dataclass(slots=True)
class Traffic:
    """What went over the wire so far.

    Attributes:
        requests: attempts made.
        retries: attempts that were not a question's first.
        overloads: attempts that the server refused because it had too much to do.
        waited: seconds that servers asked to wait, summed over their replies, before `RetryPolicy.scale`.
        peak: most requests in flight at once.
        lowest: lowest that overloads brought the limit of concurrency down to; 0 while there were none.
    """

    requests: int = 0
    retries: int = 0
    overloads: int = 0
    waited: float = 0.0
    peak: int = 0
    lowest: int = 0


class Limiter:
    """How many requests may be in flight: additive increase, multiplicative decrease, as in TCP.

    A reply raises the limit by 1/limit, so by about one a round; an overload halves it. Requests that were under way
    at the time of a halving do not cause another: they say nothing of the new limit.

    Args:
        most: upper bound, and where the limit starts.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.busy = 0
        self._epoch = 0
        self._until = 0.0
        self._freed = asyncio.Event()

    async def acquire(self) -> int:
        """Wait for a slot; returns what `release` takes."""
        while True:
            left = self._until - asyncio.get_running_loop().time()
            if left > 0:
                await asyncio.sleep(left)
            elif self.busy < int(self.limit):
                self.busy += 1
                return self._epoch
            else:
                self._freed.clear()
                await self._freed.wait()

    def release(self, epoch: int, *, answered: bool, overload: bool) -> None:
        """Give a slot back.

        Args:
            epoch: what `acquire` returned.
            answered: the request was answered.
            overload: it was refused for overload.
        """
        self.busy -= 1
        if answered:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)
        elif overload and epoch == self._epoch:
            self.limit = max(1.0, self.limit / 2)
            self._epoch += 1
        self._freed.set()

    def pause(self, seconds: float) -> None:
        """Let no request start for some seconds."""
        self._until = max(self._until, asyncio.get_running_loop().time() + seconds)


class Pool(Generic[Question, Reply]):
    """Asks questions, at most so many at a time, each until it is answered or given up.

    Args:
        ask: asks one question once; raises `TransientError` or `FinalError`. Any other exception ends `run`.
        policy: when to ask again.
        concurrency: most requests in flight.
        close: called in the loop when the pool is done with, to close the client.
    """

    def __init__(
        self,
        ask: Callable[[Question], Awaitable[Reply]],
        policy: RetryPolicy,
        concurrency: int,
        close: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.traffic = Traffic()
        self.limiter = Limiter(concurrency)
        self._ask = ask
        self._policy = policy
        self._queue: deque[tuple[Question, Future[Reply | Failure]]] = deque()
        self._tasks: set[asyncio.Task[Reply | Failure]] = set()
        self._workers: set[asyncio.Task[None]] = set()
        self._ahead: dict[Question, Future[Reply | Failure]] = {}
        # False until something was reached, and again after a question was given up with nothing reached meanwhile:
        # a server that is gone then costs one attempt a question, not a full round of waits each.
        self._reached = False
        self._answered = 0
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="stepgame-openai", daemon=True)
        thread.start()
        self._finalizer = weakref.finalize(self, _shut, self._loop, thread, close)

    @property
    def reached(self) -> bool:
        """Whether a connection came about, as far as is known by now."""
        return self._reached

    def run(self, now: Sequence[Question], ahead: Sequence[Question] = ()) -> list[Reply | Failure]:
        """Ask some questions and wait for all replies.

        Args:
            now: the questions to answer.
            ahead: questions that the next call will ask; they take the slots that ``now`` leaves idle at its end.

        Returns:
            A reply or a failure for each of ``now``, in order.
        """
        futures = [self._claim(question) for question in now]
        kept = {question: self._claim(question) for question in dict.fromkeys(ahead)}
        for stale in self._ahead.values():
            stale.cancel()
        self._ahead = kept
        try:
            return [future.result() for future in futures]
        finally:
            if not all(future.done() for future in futures):
                self.cancel()

    def cancel(self) -> None:
        """Drop every question that is not answered yet."""
        for future in self._ahead.values():
            future.cancel()
        self._ahead = {}
        # Waited for, so that what is asked next is not dropped with it.
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result()

    def close(self) -> None:
        """Drop what is under way, close the client and end the thread."""
        if self._finalizer.alive:
            self.cancel()
        self._finalizer()

    def _claim(self, question: Question) -> Future[Reply | Failure]:
        """Return the reply of a question that was asked ahead, or ask it."""
        if question in self._ahead:
            return self._ahead.pop(question)
        return self._submit(question)

    def _submit(self, question: Question) -> Future[Reply | Failure]:
        future: Future[Reply | Failure] = Future()
        self._queue.append((question, future))
        self._loop.call_soon_threadsafe(self._staff)
        return future

    def _staff(self) -> None:
        # Workers end when there is nothing to do, so an idle pool holds no reference to itself and can be collected.
        if self._queue and len(self._workers) < self.limiter.most:
            worker = self._loop.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _drop(self) -> None:
        for _, future in self._queue:
            future.cancel()
        self._queue.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._workers)

    async def _work(self) -> None:
        while self._queue:
            question, future = self._queue.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            task = asyncio.ensure_future(self._answer(question))
            self._tasks.add(task)
            await asyncio.wait((task,))
            self._tasks.discard(task)
            if task.cancelled():
                future.set_exception(asyncio.CancelledError())
            elif error := task.exception():
                future.set_exception(error)
            else:
                future.set_result(task.result())

    async def _answer(self, question: Question) -> Reply | Failure:
        attempt = 0
        answered = self._answered
        while True:
            reply = await self._attempt(question, attempt)
            if not isinstance(reply, TransientError):
                return reply
            attempt += 1
            hopeless = reply.unreachable and not self._reached
            too_long = reply.wait is not None and reply.wait > self._policy.max_wait
            if hopeless or too_long or attempt > self._policy.max_retries:
                if reply.unreachable and self._answered == answered:
                    self._reached = False
                return Failure(f"{reply} (given up after {attempt} attempt{'s' if attempt > 1 else ''})")
            await asyncio.sleep((self._policy.pause(attempt - 1) + (reply.wait or 0)) * self._policy.scale)

    async def _attempt(self, question: Question, attempt: int) -> Reply | Failure | TransientError:
        """Ask once, in a slot."""
        fault: TransientError | None = None
        answered = False
        epoch = await self.limiter.acquire()
        self.traffic.requests += 1
        self.traffic.retries += attempt > 0
        self.traffic.peak = max(self.traffic.peak, self.limiter.busy)
        try:
            reply = await self._ask(question)
            answered = True
            self._answered += 1
            return reply
        except FinalError as error:
            return Failure(str(error))
        except TransientError as error:
            fault = error
            return error
        finally:
            self._reached = self._reached or not (fault and fault.unreachable)
            self.limiter.release(epoch, answered=answered, overload=fault is not None and fault.overload)
            if fault is not None:
                self._note(fault)

    def _note(self, fault: TransientError) -> None:
        if fault.overload:
            self.traffic.overloads += 1
            limit = int(self.limiter.limit)
            self.traffic.lowest = min(self.traffic.lowest or limit, limit)
        if fault.wait is None:
            return
        self.traffic.waited += fault.wait
        if fault.overload and fault.wait <= self._policy.max_wait:
            # Such limits hold for the whole account, so asking anything else meanwhile would only be refused too.
            self.limiter.pause(fault.wait * self._policy.scale)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return how many seconds a reply asks to wait; None if it does not say so in a way that can be read.

    Args:
        headers: of the reply, found in any case of letters by ``get``; ``Retry-After`` in seconds or as an HTTP date
            (RFC 9110, section 10.2.3), or ``retry-after-ms``.
        now: what a date is compared with; the present when omitted.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) / unit
        except ValueError:
            try:
                date = parsedate_to_datetime(text)
            except ValueError:
                continue
            # A date of "-0000" has no zone; HTTP dates are in UTC.
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            seconds = (date - (now or datetime.now(UTC))).total_seconds()
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _shut(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, close: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await close()
        loop.stop()

    if loop.is_closed():
        return
    loop.call_soon_threadsafe(lambda: loop.create_task(end()))
    # The garbage collector may run this in the loop's own thread, which cannot wait for itself.
    if threading.current_thread() is not thread:
        thread.join(timeout=10)
        if not thread.is_alive():
            loop.close()
