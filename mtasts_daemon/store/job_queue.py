"""Hand jobs from an event loop to a thread, in batches.

Each hand-over and each return wakes a thread once, however many callers it serves. Jobs that are submitted while a
batch runs go into the next one.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from ..errors import StoreError

__all__ = ["JobQueue"]

QUEUE_LIMIT = 10_000
"""Jobs that may wait for the thread. If more do, the disk hangs, and further jobs fail at once."""

BATCH_LIMIT = 256
"""Default of the jobs in one batch. Bounds what one transaction holds (64 KiB each)."""

J = TypeVar("J")


class JobQueue(Generic[J]):
    """Run jobs on a one-thread executor, in order. Belongs to the running event loop.

    ``run``, called on the thread, returns one result per job; an exception among them is raised to that job's caller.
    If a batch takes longer than ``deadline`` seconds, all callers get a ``StoreError``, and so do later ones at once
    until the thread returns. Their jobs still run.
    """

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        run: Callable[[Sequence[J]], Sequence[object]],
        *,
        deadline: float = 60.0,
        batch_limit: int = BATCH_LIMIT,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._executor = executor
        self._run = run
        self._deadline = deadline
        self._batch_limit = batch_limit
        self._queue: deque[tuple[J, asyncio.Future[Any]]] = deque()
        self._under_way: Sequence[tuple[J, asyncio.Future[Any]]] = ()
        self._timer: asyncio.TimerHandle | None = None
        self.hangs = False
        """The batch that is running has exceeded the deadline."""
        self._busy = False
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, job: J) -> asyncio.Future[Any]:
        """Return a future of the job's result; the job runs even if its caller is cancelled.

        Raises ``StoreError`` if the disk hangs or too many jobs wait.
        """
        if self.hangs:
            raise self._no_answer()
        if len(self._queue) >= QUEUE_LIMIT:
            raise StoreError("too many calls are waiting for the disk")
        future = self.loop.create_future()
        self._queue.append((job, future))
        if not self._busy:
            self._busy = True
            self._idle.clear()
            # Not at once, so that jobs submitted later in this turn of the loop go into the same batch.
            self.loop.call_soon(self._hand_over)
        return future

    async def drain(self) -> None:
        """Wait until no job is queued or running."""
        await self._idle.wait()

    def _hand_over(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch_limit))]
        self._under_way = batch
        self._timer = self.loop.call_later(self._deadline, self._deadline_passed)
        try:
            self._executor.submit(self._work, batch)
        except RuntimeError as error:  # the executor or the interpreter is shutting down
            self._deliver(batch, [StoreError(str(error))] * len(batch))

    def _deadline_passed(self) -> None:
        self.hangs = True
        for _, future in (*self._under_way, *self._queue):
            if not future.done():
                future.set_exception(self._no_answer())

    def _no_answer(self) -> StoreError:
        return StoreError(f"the disk has not answered for {self._deadline:g} s")

    def _work(self, batch: Sequence[tuple[J, asyncio.Future[Any]]]) -> None:
        results: Sequence[object]
        try:
            results = self._run([job for job, _ in batch])
        except Exception as error:  # no caller may be left waiting
            results = [StoreError(ascii(error))] * len(batch)
        with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits
            self.loop.call_soon_threadsafe(self._deliver, batch, results)

    def _deliver(self, batch: Sequence[tuple[J, asyncio.Future[Any]]], results: Sequence[object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.hangs = False
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # the caller was cancelled or has got a StoreError
                continue
            if isinstance(result, StoreError):
                # A new instance for each, so that no two callers share a traceback.
                future.set_exception(type(result)(result.detail))
            elif isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if self._queue:
            self._hand_over()
        else:
            self._busy = False
            self._under_way = ()
            self._idle.set()
