"""Calls from the event loop to a thread, in batches.

Each hand-over and each way back wakes a thread once, however many callers it serves. What is asked for while a
batch runs queues up and goes into the next.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from ..errors import StoreError

__all__ = ["Batches"]

QUEUE_LIMIT = 10_000
"""Calls that may wait for the thread; when more do, the disk hangs, and calls fail at once."""

BATCH_LIMIT = 256
"""Calls that go over together; bounds what one query or transaction holds (64 KiB each)."""

J = TypeVar("J")


class Batches(Generic[J]):
    """Hands jobs to a one-thread executor, in order. Lives on the running event loop.

    ``run``, on the thread, gives one result per job; a ``StoreError`` among them is raised to its caller.
    """

    def __init__(self, executor: ThreadPoolExecutor, run: Callable[[Sequence[J]], Sequence[object]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = executor
        self._run = run
        self._queue: deque[tuple[J, asyncio.Future[Any]]] = deque()
        self._busy = False
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, job: J) -> asyncio.Future[Any]:
        """The job's result to be; it runs even if its caller goes. Raises ``StoreError`` when too many wait."""
        if len(self._queue) >= QUEUE_LIMIT:
            raise StoreError("too many calls are waiting for the disk")
        future = self._loop.create_future()
        self._queue.append((job, future))
        if not self._busy:
            self._busy = True
            self._idle.clear()
            # Not at once, so that whatever else this turn of the loop asks for goes along.
            self._loop.call_soon(self._hand_over)
        return future

    async def drain(self) -> None:
        """Wait until nothing is queued or under way."""
        await self._idle.wait()

    def _hand_over(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_LIMIT))]
        try:
            self._executor.submit(self._work, batch)
        except RuntimeError as error:  # the executor or the interpreter is being shut down
            self._deliver(batch, [StoreError(str(error))] * len(batch))

    def _work(self, batch: Sequence[tuple[J, asyncio.Future[Any]]]) -> None:
        results: Sequence[object]
        try:
            results = self._run([job for job, _ in batch])
        except Exception as error:  # whatever it is, nobody may be left waiting
            results = [StoreError(ascii(error))] * len(batch)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, batch, results)

    def _deliver(self, batch: Sequence[tuple[J, asyncio.Future[Any]]], results: Sequence[object]) -> None:
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # the caller was cancelled
                continue
            if isinstance(result, StoreError):
                # One of its own for each, so that no two callers share a traceback.
                future.set_exception(type(result)(result.detail))
            else:
                future.set_result(result)
        if self._queue:
            self._hand_over()
        else:
            self._busy = False
            self._idle.set()
