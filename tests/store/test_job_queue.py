"""Calls go to the thread together, in order, within bounds, and every caller hears."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mtasts_daemon.errors import StoreError
from mtasts_daemon.store.job_queue import BATCH_LIMIT, QUEUE_LIMIT, Batches


class Thread:
    """The other side: notes each batch, doubles each number, and can be held up."""

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

    async def hold_up(self, batches: Batches[int]) -> asyncio.Future[int]:
        self.go_on.clear()
        first = batches.submit(0)
        await asyncio.get_running_loop().run_in_executor(None, self.begun.wait)
        return first


@pytest.fixture
def thread() -> Thread:
    return Thread()


def test_what_is_asked_in_one_turn_of_the_loop_goes_over_together(thread: Thread) -> None:
    async def main() -> None:
        batches = Batches(thread.executor, thread.run)
        assert await asyncio.gather(*(batches.submit(number) for number in range(5))) == [0, 2, 4, 6, 8]
        assert thread.batches == [[0, 1, 2, 3, 4]]

    asyncio.run(main())


def test_what_queues_up_while_a_batch_runs_goes_into_the_next(thread: Thread) -> None:
    async def main() -> None:
        batches = Batches(thread.executor, thread.run)
        first = await thread.hold_up(batches)
        rest = []
        for number in range(1, 4):
            rest.append(batches.submit(number))
            await asyncio.sleep(0)
        thread.go_on.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6]
        assert thread.batches == [[0], [1, 2, 3]]

    asyncio.run(main())


def test_a_batch_is_bounded_and_the_rest_follows(thread: Thread) -> None:
    async def main() -> None:
        batches = Batches(thread.executor, thread.run)
        await asyncio.gather(*(batches.submit(100) for _ in range(BATCH_LIMIT + 1)))
        assert [len(batch) for batch in thread.batches] == [BATCH_LIMIT, 1]

    asyncio.run(main())


def test_the_queue_is_bounded_and_says_so(thread: Thread) -> None:
    async def main() -> None:
        batches = Batches(thread.executor, thread.run)
        first = await thread.hold_up(batches)
        waiting = [batches.submit(1) for _ in range(QUEUE_LIMIT)]
        with pytest.raises(StoreError, match="too many"):
            await batches.submit(1)
        thread.go_on.set()
        assert await asyncio.gather(first, *waiting) == [0] + [2] * QUEUE_LIMIT
        assert await batches.submit(1) == 2

    asyncio.run(main())


def test_an_error_reaches_its_own_caller_only(thread: Thread) -> None:
    async def main() -> None:
        batches = Batches(thread.executor, thread.run)
        good, bad, worse = (batches.submit(number) for number in (1, -1, -2))
        assert await good == 2
        with pytest.raises(StoreError, match="no -1"):
            await bad
        with pytest.raises(StoreError, match="no -2"):
            await worse

    asyncio.run(main())


def test_an_unexpected_exception_reaches_every_caller_as_a_store_error_and_the_next_batch_runs(thread: Thread) -> None:
    async def main() -> None:
        batches = Batches(thread.executor, thread.run)
        results = await asyncio.gather(batches.submit(13), batches.submit(1), return_exceptions=True)
        assert [type(result) for result in results] == [StoreError, StoreError]
        assert await batches.submit(1) == 2

    asyncio.run(main())


def test_a_caller_that_went_away_disturbs_nobody(thread: Thread) -> None:
    async def main() -> None:
        batches = Batches(thread.executor, thread.run)
        first = await thread.hold_up(batches)
        gone, other = batches.submit(1), batches.submit(2)
        gone.cancel()
        thread.go_on.set()
        assert await asyncio.gather(*(first, other)) == [0, 4]
        assert thread.batches == [[0], [1, 2]]

    asyncio.run(main())


def test_drain_waits_for_all_that_is_queued(thread: Thread) -> None:
    async def main() -> None:
        batches = Batches(thread.executor, thread.run)
        await batches.drain()
        futures = [batches.submit(100) for _ in range(2 * BATCH_LIMIT)]
        await batches.drain()
        assert all(future.done() for future in futures)

    asyncio.run(main())


def test_after_the_executor_ended_callers_get_a_store_error(thread: Thread) -> None:
    async def main() -> None:
        batches = Batches(thread.executor, thread.run)
        thread.executor.shutdown()
        with pytest.raises(StoreError):
            await batches.submit(1)

    asyncio.run(main())


def test_a_loop_that_ended_first_leaves_the_thread_able_to_end(thread: Thread) -> None:
    async def main() -> None:
        waiting = await thread.hold_up(Batches(thread.executor, thread.run))
        assert not waiting.done()

    asyncio.run(main())
    thread.go_on.set()
    thread.executor.shutdown(wait=True)
