"""Single flights: one piece of work for all lookups that wait for it, each flight with a deadline."""

import asyncio
from collections.abc import Callable

from ..ports import Clock

__all__ = ["InFlight", "SingleFlight"]


class InFlight:
    """One piece of work under way, and the lookups that wait for it."""

    __slots__ = ("_waiters", "committing", "deadline_passed", "started")

    def __init__(self, started: float) -> None:
        self.started = started
        self.deadline_passed = False
        """Lookups no longer wait for it."""
        self.committing = False
        """Its result is in memory and not stored yet."""
        self._waiters: list[Callable[[float], None]] = []

    def when_settled(self, waiter: Callable[[float], None]) -> None:
        """Call ``waiter`` once, with the wall-clock moment at which the lookup is judged."""
        self._waiters.append(waiter)

    def settle(self, now: float) -> int:
        """Call all waiters and return their number."""
        waiters, self._waiters = self._waiters, []
        bugs: list[Exception] = []
        for waiter in waiters:
            try:
                waiter(now)
            except Exception as bug:
                # One missed answer defers mail; the other waiters must still be answered.
                bugs.append(bug)
        if bugs:
            raise ExceptionGroup("waiting lookups were not answered", bugs)
        return len(waiters)


class SingleFlight:
    """All flights under way. Lookups wait for one until it is ``deadline`` seconds old; its work then goes on."""

    def __init__(self, clock: Clock, deadline: float) -> None:
        self.deadline = deadline
        self.deadline_passed = 0
        """Lookups that a deadline released."""
        self._clock = clock
        # In order of their start, and so of their deadlines.
        self._flights: dict[InFlight, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._flights)

    def begin(self) -> InFlight:
        """Return a new flight. The caller must always ``end`` it."""
        flight = InFlight(self._clock.monotonic())
        self._flights[flight] = None
        if self._timer is None:
            self._schedule(flight)
        return flight

    def end(self, flight: InFlight) -> None:
        """Settle the flight: its work is done."""
        self._flights.pop(flight, None)
        flight.settle(self._clock.wall())

    def release_waiters(self) -> None:
        """Settle all flights under way now, and later ones as soon as they begin."""
        self.deadline = 0.0
        if self._timer is not None:
            self._timer.cancel()
        self._on_deadline()

    def _schedule(self, oldest: InFlight) -> None:
        wait = oldest.started + self.deadline - self._clock.monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(wait, 0.0), self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        limit = self._clock.monotonic() - self.deadline
        while self._flights:
            oldest = next(iter(self._flights))
            if oldest.started > limit:
                self._schedule(oldest)
                return
            del self._flights[oldest]
            oldest.deadline_passed = True
            try:
                self.deadline_passed += oldest.settle(self._clock.wall())
            except BaseException:
                if self._flights:
                    self._schedule(next(iter(self._flights)))
                raise
