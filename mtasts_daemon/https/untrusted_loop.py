"""A thread with an event loop of its own, for connections to untrusted hosts.

Policy fetches, report delivery over HTTPS and SMTP probes run here, with their TLS handshakes. Lookups run on the
main loop, which is uvloop if available. uvloop closes the descriptor of a socket made elsewhere when the peer resets
the connection (its issue 653); the Python socket then names a number that may belong to another connection. The
standard event loop does not do this, so connections whose peer is untrusted are made on it only.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["UntrustedLoop", "UntrustedLoopClosed", "UntrustedLoopFailed"]

T = TypeVar("T")

_JOIN_SECONDS = 5.0

_NICE = 10
"""Nice value of the thread, so that Linux prefers lookups. With 200 fetches/s on one core p99 of lookups was 4.9 ms
without it and is 1.7 ms."""


class UntrustedLoopClosed(RuntimeError):
    """The loop was closed before or during the work."""


class UntrustedLoopFailed(RuntimeError):
    """No thread can be started; the next call tries again."""


class UntrustedLoop:
    """One thread that runs a standard asyncio event loop; it starts with the first ``run``.

    Use ``run`` from any other event loop. Work and caller share nothing but the future: objects passed to the work
    must be immutable or thread-safe.
    """

    def __init__(self, name: str = "untrusted-hosts") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.SelectorEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``work()`` on the thread and return its result, or raise its exception.

        Cancelling the caller cancels the work. Raises ``UntrustedLoopClosed`` after ``close``, and for work that
        ``close`` interrupts; ``UntrustedLoopFailed`` if no thread can be started now.
        """
        with self._lock:
            if self._closed:
                raise UntrustedLoopClosed("the loop for untrusted hosts is closed")
            loop = self._start()
            submitted = asyncio.run_coroutine_threadsafe(work(), loop)
        try:
            return await asyncio.wrap_future(submitted)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._closed and (caller is None or not caller.cancelling()):
                raise UntrustedLoopClosed("the loop for untrusted hosts was closed") from None
            raise

    async def close(self) -> None:
        """Cancel the work, and end the thread."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread.is_alive():
            loop.call_soon_threadsafe(loop.stop)
            # Not on the default executor: its threads may all be waiting for something else.
            ended = asyncio.get_running_loop().create_future()
            waiting = threading.Thread(target=_join, args=(thread, asyncio.get_running_loop(), ended), daemon=True)
            waiting.start()
            await ended

    def _start(self) -> asyncio.SelectorEventLoop:
        if self._loop is None:
            # Not new_event_loop(): the policy of this process may make uvloop's.
            loop = asyncio.SelectorEventLoop()
            thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # a limit of threads
                loop.close()
                raise UntrustedLoopFailed(str(error)) from None
            # Only now: work for a loop that nothing runs would never end.
            self._loop, self._thread = loop, thread
        return self._loop


def _serve(loop: asyncio.SelectorEventLoop) -> None:
    with suppress(OSError):  # where a sandbox forbids it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        # Everything submitted before the stop has a task by now, because callbacks run in order.
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        # Aborted transports close their sockets in later turns: some for TLS, one for TCP.
        for _ in range(10):
            loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def _join(thread: threading.Thread, loop: asyncio.AbstractEventLoop, ended: "asyncio.Future[None]") -> None:
    thread.join(_JOIN_SECONDS)
    loop.call_soon_threadsafe(ended.set_result, None)
