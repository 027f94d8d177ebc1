"""The thread for received reports, with a separate event loop, so that a flood of reports does not slow lookups."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from ...log import log_event

__all__ = ["ReceiveThread"]

T = TypeVar("T")

_JOIN_SECONDS = 4.0


class ReceiveThread:
    """Runs coroutines on its loop. Methods are for other threads; made and stopped by the main one."""

    def __init__(self) -> None:
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._stopping: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="receive", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Return True while coroutines are run."""
        return self._thread.is_alive()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run the coroutine. Raises ``RuntimeError`` if the thread has ended."""
        loop = self._started.result()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:
            coroutine.close()
            raise

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await the coroutine's result on the caller's loop."""
        return await asyncio.wrap_future(self.submit(coroutine))

    def spawn(self, make: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Run a coroutine until ``stop``; if it raises, log that and start it again after a minute."""

        async def supervised() -> None:
            while True:
                try:
                    await make()
                    return
                except Exception:
                    logging.getLogger(__name__).exception(
                        "tlsrpt-receive-task-failed", extra={"fields": {"task": name}}
                    )
                await asyncio.sleep(60)

        def start() -> None:
            task = asyncio.get_running_loop().create_task(supervised(), name=name)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._started.result().call_soon_threadsafe(start)

    def stop(self) -> None:
        """Cancel all coroutines and end the thread."""
        if self._started.done() and self._stopping is not None:
            with suppress(RuntimeError):
                self._started.result().call_soon_threadsafe(self._stopping.set)
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            log_event("tlsrpt-receive-thread-failed", level=logging.ERROR, error=ascii(error))
            if not self._started.done():
                self._started.set_exception(RuntimeError("the receive thread did not start"))

    async def _live(self) -> None:
        self._stopping = asyncio.Event()
        self._started.set_result(asyncio.get_running_loop())
        await self._stopping.wait()
