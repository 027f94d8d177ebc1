"""Own and supervise the daemon's asyncio tasks."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from ..counters import Counters

__all__ = ["Tasks"]

_RESTART_FIRST = 1.0
_RESTART_MOST = 60.0
_STABLE_AFTER = 300.0
"""Seconds without a failure after which a background task is restarted without back-off again."""


class Tasks:
    """Every task of the daemon, so that none is lost and all can be cancelled. Used from one event loop."""

    def __init__(self, counters: Counters, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._counters = counters
        self._sleep = sleep
        self._failing: dict[str, str] = {}

    @property
    def failing(self) -> Mapping[str, str]:
        """Background tasks that failed and have not run stably since: name to last error."""
        return self._failing

    def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        """Start a task that ends. An exception is logged as ``task-failed`` and counted."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def supervise(self, run: Callable[[], Awaitable[object]], name: str) -> None:
        """Start a background task. After an exception it is restarted, after 1 s at first and at most 60 s."""
        self.spawn(self._supervised(run, name), name)

    async def _supervised(self, run: Callable[[], Awaitable[object]], name: str) -> None:
        loop, delay = asyncio.get_running_loop(), _RESTART_FIRST
        while True:
            stable = loop.call_later(_STABLE_AFTER, self._failing.pop, name, None)
            started = loop.time()
            try:
                await run()
            except Exception as error:
                self._report(name, error)
                self._failing[name] = f"{type(error).__name__}: {error}"
            else:
                self._failing.pop(name, None)
                return
            finally:
                stable.cancel()
            if loop.time() - started >= _STABLE_AFTER:
                delay = _RESTART_FIRST
            await self._sleep(delay)
            delay = min(delay * 2, _RESTART_MOST)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._report(task.get_name(), error)

    def _report(self, name: str, error: BaseException) -> None:
        self._counters.unhandled += 1
        logging.getLogger(__name__).error("task-failed", exc_info=error, extra={"fields": {"task": name}})

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
