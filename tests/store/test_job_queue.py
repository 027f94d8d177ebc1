"""Jobs run on the thread in batches, in order and within bounds, and every caller gets a result."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mtasts_daemon.errors import StoreError
from mtasts_daemon.store.job_queue import BATCH_LIMIT, QUEUE_LIMIT, JobQueue
from tests.event_loop import idle


class Thread:
    """Record each batch, double each number, and block on demand."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(1, "test")
        self.batches: list[list[int]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def run(self, jobs: Sequence[int]) -> list[object]:
        self.batches.append(list(jobs))
        self.begun.set()
        self.go_on.wait()
        if 13 in jobs:
            raise ZeroDivisionError("thirteen")
        return [StoreError(f"no {job}") if job < 0 else 2 * job for job in jobs]

    async def hold_up(self, jobs: JobQueue[int]) -> asyncio.Future[int]:
        self.go_on.clear()
        first = jobs.submit(0)
        await asyncio.get_running_loop().run_in_executor(None, self.begun.wait)
        return first


@pytest.fixture
def thread() -> Thread:
    return Thread()


async def test_jobs_of_one_turn_of_the_loop_form_one_batch(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run)
    assert await asyncio.gather(*(jobs.submit(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert thread.batches == [[0, 1, 2, 3, 4]]


async def test_jobs_that_come_while_a_batch_runs_form_the_next(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run)
    first = await thread.hold_up(jobs)
    rest = []
    for number in range(1, 4):
        rest.append(jobs.submit(number))
        await idle()
    thread.go_on.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6]
    assert thread.batches == [[0], [1, 2, 3]]


async def test_batch_is_bounded_and_the_rest_follows(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run)
    await asyncio.gather(*(jobs.submit(100) for _ in range(BATCH_LIMIT + 1)))
    assert [len(batch) for batch in thread.batches] == [BATCH_LIMIT, 1]


async def test_full_queue_raises_store_error(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run)
    first = await thread.hold_up(jobs)
    waiting = [jobs.submit(1) for _ in range(QUEUE_LIMIT)]
    with pytest.raises(StoreError, match="too many"):
        await jobs.submit(1)
    thread.go_on.set()
    assert await asyncio.gather(first, *waiting) == [0] + [2] * QUEUE_LIMIT
    assert await jobs.submit(1) == 2


async def test_error_is_raised_to_its_own_caller_only(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run)
    good, bad, worse = (jobs.submit(number) for number in (1, -1, -2))
    assert await good == 2
    with pytest.raises(StoreError, match="no -1"):
        await bad
    with pytest.raises(StoreError, match="no -2"):
        await worse


async def test_unexpected_exception_fails_the_batch_and_the_next_one_runs(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run)
    results = await asyncio.gather(jobs.submit(13), jobs.submit(1), return_exceptions=True)
    assert [type(result) for result in results] == [StoreError, StoreError]
    assert await jobs.submit(1) == 2


async def test_cancelled_caller_does_not_affect_others(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run)
    first = await thread.hold_up(jobs)
    gone, other = jobs.submit(1), jobs.submit(2)
    gone.cancel()
    thread.go_on.set()
    assert await asyncio.gather(*(first, other)) == [0, 4]
    assert thread.batches == [[0], [1, 2]]


async def test_drain_waits_for_all_queued_jobs(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run)
    await jobs.drain()
    futures = [jobs.submit(100) for _ in range(2 * BATCH_LIMIT)]
    await jobs.drain()
    assert all(future.done() for future in futures)


async def test_submit_after_the_executor_ended_raises_store_error(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run)
    thread.executor.shutdown()
    with pytest.raises(StoreError):
        await jobs.submit(1)


def test_thread_ends_after_the_loop_was_closed(thread: Thread) -> None:
    async def main() -> None:
        waiting = await thread.hold_up(JobQueue(thread.executor, thread.run))
        assert not waiting.done()

    asyncio.run(main())
    thread.go_on.set()
    thread.executor.shutdown(wait=True)


async def test_deadline_fails_all_callers_and_their_jobs_still_run(thread: Thread) -> None:
    jobs = JobQueue(thread.executor, thread.run, deadline=0.01, batch_limit=1)
    thread.go_on.clear()
    for future in (jobs.submit(0), jobs.submit(1)):
        with pytest.raises(StoreError, match=r"has not answered for 0\.01 s"):
            await future
    with pytest.raises(StoreError, match="has not answered"):
        await jobs.submit(2)
    assert jobs.hangs
    thread.go_on.set()
    await jobs.drain()
    assert thread.batches == [[0], [1]]
    assert not jobs.hangs
