"""Try the addresses of a host as RFC 8305 describes, so that a dead address family costs little time."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any, Final, Generic, TypeVar

from .address_filter import Address

__all__ = ["ATTEMPT_DELAY", "AllAttemptsFailed", "Race", "alternate"]

T = TypeVar("T")

ATTEMPT_DELAY: Final = 0.25
"""Seconds between two attempts (RFC 8305 section 5)."""

_ATTEMPTS_MAX: Final = 4

Won = Callable[[], None]
Attempt = Callable[[Address, Won], Coroutine[Any, Any, T]]


def alternate(first: Iterable[T], second: Iterable[T]) -> list[T]:
    """Return the items of both in turn (RFC 8305 section 4)."""
    return [item for item in chain(*zip_longest(first, second)) if item is not None]


class AllAttemptsFailed(Exception):
    """No attempt connected; ``Race.failures`` says why."""


class Race(Generic[T]):
    """Staggered attempts at up to four addresses; the first connection is kept and the others are cancelled.

    ``attempt`` gets an address and a function to call when it has connected. ``later`` yields more addresses, those
    of the family whose DNS answer is late; None means that there are none to come.
    """

    def __init__(
        self, addresses: Sequence[Address], later: Coroutine[Any, Any, Sequence[Address]] | None, attempt: Attempt[T]
    ) -> None:
        self._queue = deque(addresses)
        self._later = None if later is None else asyncio.create_task(later, name="late addresses")
        self._attempt = attempt
        self._running: set[asyncio.Task[T]] = set()
        self._winner: asyncio.Task[T] | None = None
        self._started = 0
        self._next_at = 0.0
        self.failures: list[Exception] = []

    async def run(self) -> T:
        """Return the result of the attempt that won, or raise its exception. Raises ``AllAttemptsFailed``."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                now = loop.time()
                if self._may_start() and (not self._running or now >= self._next_at):
                    self._start(now + ATTEMPT_DELAY)
                waiting: set[asyncio.Future[Any]] = {*self._running}
                if self._later is not None and self._winner is None and self._started < _ATTEMPTS_MAX:
                    waiting.add(self._later)
                if not waiting:
                    raise AllAttemptsFailed
                delay = max(0.0, self._next_at - loop.time()) if self._may_start() else None
                done, _ = await asyncio.wait(waiting, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
                if self._winner is not None and self._winner in done:
                    return self._winner.result()
                self._collect(done)
        finally:
            await self._stop()

    def _may_start(self) -> bool:
        return self._winner is None and bool(self._queue) and self._started < _ATTEMPTS_MAX

    def _start(self, next_at: float) -> None:
        self._started += 1
        self._next_at = next_at
        self._running.add(asyncio.create_task(self._try(self._queue.popleft()), name="attempt"))

    async def _try(self, address: Address) -> T:
        task = asyncio.current_task()

        def won() -> None:
            if self._winner is None:
                self._winner = task
            for other in self._running:
                if other is not self._winner:
                    other.cancel()

        return await self._attempt(address, won)

    def _collect(self, done: Iterable["asyncio.Future[Any]"]) -> None:
        for ended in done:
            if ended is self._later:
                self._later = None
                self._queue = deque(alternate(ended.result(), self._queue))
                continue
            self._running.discard(ended)
            if not ended.cancelled() and isinstance(error := ended.exception(), Exception):
                self.failures.append(error)
                self._next_at = 0.0

    async def _stop(self) -> None:
        tasks = [*self._running, *(() if self._later is None else (self._later,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
