"""The event loop of an async test, which runs the test and its fixtures in one task."""

import asyncio
import importlib
import importlib.util
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

__all__ = ["WatchedLoop", "WorkerTask", "advance", "both_loops", "idle", "run_watched", "stop_clock", "until"]

T = TypeVar("T")

both_loops = pytest.mark.parametrize(
    "event_loop", [name for name in ("asyncio", "uvloop") if importlib.util.find_spec(name)], indirect=True
)
"""Run an async test on each of the two event loops that the daemon may run on."""


class _IdleSelector(selectors.DefaultSelector):
    """Resolve the futures in ``waiters`` as soon as no callback is ready to run and no descriptor is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.waiters: list[asyncio.Future[None]] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0 or not self.waiters:  # 0: callbacks are ready
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            for waiter in self.waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self.waiters.clear()
        return ready


class WatchedLoop(asyncio.SelectorEventLoop):
    """The event loop of asyncio, which knows when it is idle, and whose clock can be stopped and advanced."""

    def __init__(self) -> None:
        self._idle_selector = _IdleSelector()
        self._advanced = 0.0
        self._stopped_at: float | None = None
        super().__init__(self._idle_selector)

    def time(self) -> float:
        return (super().time() if self._stopped_at is None else self._stopped_at) + self._advanced

    async def idle(self) -> None:
        waiter = self.create_future()
        self._idle_selector.waiters.append(waiter)
        await waiter

    def stop_clock(self) -> None:
        self._stopped_at = super().time()

    def advance(self, seconds: float) -> None:
        self._advanced += seconds


def _running() -> WatchedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, WatchedLoop)
    return loop


async def idle() -> None:
    """Wait until all other tasks wait for a timer, a socket, a thread or a future that the test resolves."""
    await _running().idle()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is true, of another thread or process for example. Only the limit of the test ends the wait."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def stop_clock() -> None:
    """Let no timer of the running loop end except by ``advance``."""
    _running().stop_clock()


async def advance(seconds: float) -> None:
    """Wait for idle, let the timers of the running loop end that end within ``seconds``, and wait for idle again."""
    await idle()
    _running().advance(seconds)
    await idle()


def run_watched(main: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop of its own, as ``asyncio.run`` does; for hypothesis, which calls no async test."""
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        return runner.run(main)


class WorkerTask:
    """A task that runs awaitables one after the other, on an event loop of its own: asyncio's or uvloop's.

    Timeouts and task groups belong to a task, so a fixture that enters one has to leave it in the same task.
    """

    def __init__(self, loop: str) -> None:
        factory = WatchedLoop if loop == "asyncio" else importlib.import_module(loop).new_event_loop
        self._runner = asyncio.Runner(loop_factory=factory)
        self._loop = self._runner.get_loop()
        self._closing = False
        self._queue: asyncio.Queue[tuple[Awaitable[Any], asyncio.Future[Any]]] = asyncio.Queue()
        self._task = self._loop.create_task(self._work(), name="test")

    def run(self, step: Awaitable[T]) -> T:
        """Run it in the task and return its result."""
        done: asyncio.Future[T] = self._loop.create_future()
        self._queue.put_nowait((step, done))
        try:
            return self._loop.run_until_complete(done)
        finally:
            if not done.done():  # interrupted, by pytest-timeout for example: the task must be free for the next step
                done.cancel()
                self._task.cancel()

    def close(self) -> None:
        """Cancel all tasks and close the loop."""
        self._closing = True
        self._runner.close()

    async def _work(self) -> None:
        while not self._closing:
            step, done = await self._queue.get()
            try:
                result = await step
            except BaseException as error:  # of pytest too, which raises it in turn
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)
            del step, done
