"""Limits on concurrent policy fetches: in all, per network, and for live and new policies.

A waiting fetch starts when the total and its network have room, in order of arrival. A first fetch that has lasted
``PATIENCE`` seconds is cancelled if others wait for its slot, so that policy hosts that hang do not hold every slot.
All of it runs on one event loop.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Final

from .. import errors

__all__ = ["PATIENCE", "FetchLimiter"]

PATIENCE: Final = 5.0
"""Seconds that a first fetch may take while others wait for its slot."""


class Ticket:
    """One fetch that waits for a slot or holds one; ``turn`` is done when it has one. Ordered by arrival."""

    def __init__(self, number: int, network: Hashable, live: bool) -> None:
        self.number, self.network, self.live = number, network, live
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timeout: asyncio.Timeout | None = None
        self.slow = self.cancelled = False

    def __lt__(self, other: "Ticket") -> bool:
        return self.number < other.number


class FetchLimiter:
    """``limit`` slots in all and ``per_network`` in each network; at most ``waiting`` fetches wait for one.

    Live and new fetches may each hold three quarters of either limit. A first fetch yields after ``patience`` seconds.
    """

    def __init__(self, limit: int, per_network: int, waiting: int = 10_000, *, patience: float = PATIENCE) -> None:
        self._limit, self._per_network, self._max_waiting, self._patience = limit, per_network, waiting, patience
        self._numbers = count()
        self._held: Counter[tuple[Hashable, bool]] = Counter()
        """Slots held in each network, and in all (network None), by live and by new fetches."""
        self._holding: dict[Ticket, None] = {}  # a set in order of start
        self._waiting: set[Ticket] = set()
        self._ready: tuple[list[Ticket], list[Ticket]] = [], []
        """Heaps of new and of live fetches whose network may have room."""
        self._blocked: defaultdict[tuple[Hashable, bool], list[Ticket]] = defaultdict(list)
        """Heaps of fetches whose network had no room."""

    @asynccontextmanager
    async def slot(self, key: Hashable, live: bool, deadline: float) -> AsyncIterator[None]:
        """Wait for a slot in the network ``key``, and hold it until ``deadline`` of the event loop's clock.

        Raises ``PolicyFetchBusy`` if no slot comes free in time, if too many fetches wait, or if a first fetch is
        cancelled in favour of others; ``PolicyTimeout`` at the deadline.
        """
        ticket, started = Ticket(next(self._numbers), key, live), False
        timer: asyncio.TimerHandle | None = None
        try:
            async with asyncio.timeout_at(deadline) as ticket.timeout:
                if self._room_in_all(live) and self._room_in_network(ticket):
                    self._take(ticket)
                else:
                    self._enqueue(ticket)
                    await ticket.turn
                started = True
                if not live:
                    timer = asyncio.get_running_loop().call_later(self._patience, self._becomes_slow, ticket)
                yield
        except TimeoutError:
            if ticket.cancelled:
                raise errors.PolicyFetchBusy(f"cancelled after {self._patience:g} s because others wait") from None
            if not started:
                raise errors.PolicyFetchBusy("no slot came free in time") from None
            raise errors.PolicyTimeout from None
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(ticket)

    def _room_in_all(self, live: bool) -> bool:
        return self._has_room(self._limit, None, live)

    def _room_in_network(self, ticket: Ticket) -> bool:
        return self._has_room(self._per_network, ticket.network, ticket.live)

    def _has_room(self, limit: int, network: Hashable, live: bool) -> bool:
        of_kind, of_other = self._held[network, live], self._held[network, not live]
        return of_kind + of_other < limit and of_kind < limit - limit // 4

    def _take(self, ticket: Ticket) -> None:
        self._holding[ticket] = None
        self._held.update([(None, ticket.live), (ticket.network, ticket.live)])

    def _enqueue(self, ticket: Ticket) -> None:
        if len(self._waiting) >= self._max_waiting:
            raise errors.PolicyFetchBusy(f"{len(self._waiting)} fetches are waiting")
        self._waiting.add(ticket)
        heappush(self._ready[ticket.live], ticket)
        slow = (held for held in self._holding if held.slow and self._could_replace(held, ticket))
        if (oldest := next(slow, None)) is not None:
            self._cancel(oldest)

    def _leave(self, ticket: Ticket) -> None:
        self._waiting.discard(ticket)
        if ticket in self._holding:
            del self._holding[ticket]
            for scope in (None, ticket.live), (ticket.network, ticket.live):
                self._held[scope] -= 1
                if not self._held[scope]:
                    del self._held[scope]
        for live in False, True:  # the network may have room for one of each kind
            blocked = self._blocked.pop((ticket.network, live), [])
            # A ticket that has left must not take the place of the next one.
            while blocked and not self._waits(blocked[0]):
                heappop(blocked)
            if blocked:
                heappush(self._ready[live], heappop(blocked))
            if blocked:
                self._blocked[ticket.network, live] = blocked
        while first := min(filter(None, map(self._first, (False, True))), default=None):
            self._waiting.remove(heappop(self._ready[first.live]))
            self._take(first)
            first.turn.set_result(None)

    def _waits(self, ticket: Ticket) -> bool:
        return ticket in self._waiting and not ticket.turn.done()

    def _first(self, live: bool) -> Ticket | None:
        """Return the first waiting fetch of this kind that may start now."""
        ready = self._ready[live]
        while ready and self._room_in_all(live):
            if self._waits(ready[0]):
                if self._room_in_network(ready[0]):
                    return ready[0]
                heappush(self._blocked[ready[0].network, live], ready[0])
            heappop(ready)
        return None

    # -- slow first fetches --------------------------------------------------------------------------------

    def _becomes_slow(self, ticket: Ticket) -> None:
        ticket.slow = True
        if any(self._could_replace(ticket, waiting) for waiting in self._waiting):
            self._cancel(ticket)

    def _could_replace(self, slow: Ticket, waiting: Ticket) -> bool:
        """Return True if the slot of ``slow`` is what ``waiting`` lacks."""
        return not slow.cancelled and (waiting.network == slow.network or self._room_in_network(waiting))

    def _cancel(self, ticket: Ticket) -> None:
        if ticket.timeout is not None and not ticket.timeout.expired():
            ticket.cancelled = True
            ticket.timeout.reschedule(asyncio.get_running_loop().time())
