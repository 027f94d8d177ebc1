"""Tasks: none is lost, and a background task that fails is restarted."""

import asyncio
import logging

import pytest

from mtasts_daemon.counters import Counters
from mtasts_daemon.daemon.tasks import Tasks


class Waits:
    """Replacement of asyncio.sleep: record the delays and return at once, until it must hang."""

    def __init__(self, until: int) -> None:
        self.delays: list[float] = []
        self.until = until
        self.reached = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        if len(self.delays) >= self.until:
            self.reached.set()
            await asyncio.Event().wait()


async def fail() -> None:
    raise ZeroDivisionError("a bug")


async def test_failed_task_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    counters, logged = Counters(), asyncio.Event()
    handler = logging.Handler()
    handler.emit = lambda record: logged.set()  # type: ignore[method-assign]
    logger = logging.getLogger("mtasts_daemon.daemon.tasks")
    logger.addHandler(handler)
    tasks = Tasks(counters)
    tasks.spawn(fail(), "the task's name")
    await logged.wait()
    logger.removeHandler(handler)
    await tasks.cancel()
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "task-failed")
    assert vars(record)["fields"] == {"task": "the task's name"}
    assert record.exc_info is not None and record.exc_info[0] is ZeroDivisionError
    assert counters.unhandled == 1


async def test_background_task_is_restarted_with_back_off(caplog: pytest.LogCaptureFixture) -> None:
    counters, waits = Counters(), Waits(until=8)
    tasks = Tasks(counters, waits.sleep)
    tasks.supervise(fail, "refresher")
    await waits.reached.wait()
    assert waits.delays == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert counters.unhandled == 8 == len(caplog.records)
    assert tasks.failing == {"refresher": "ZeroDivisionError: a bug"}
    await tasks.cancel()


async def test_background_task_that_returns_is_not_restarted() -> None:
    ended = asyncio.Event()
    waits = Waits(until=1)
    runs: list[int] = []

    async def fail_once() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise OSError
        ended.set()

    async def go_on(_seconds: float) -> None:
        waits.delays.append(_seconds)

    tasks = Tasks(Counters(), go_on)
    tasks.supervise(fail_once, "delivery")
    await ended.wait()
    await tasks.cancel()
    assert (len(runs), waits.delays, tasks.failing) == (2, [1.0], {})
