"""Limits on concurrent policy fetches: in all, per network, and for live and new policies.

A waiting fetch starts when the total and its network have room, in order of arrival. A first fetch that has lasted
``PATIENCE`` seconds is cancelled if others wait for its slot, so that policy hosts that hang do not hold every slot.
All of it runs on one event loop.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Final

from .. import errors

__all__ = ["PATIENCE", "FetchLimiter"]

PATIENCE: Final = 5.0
"""Seconds that a first fetch may take while others wait for its slot."""


class Quota:
    """``limit`` slots, of which live and new fetches may hold three quarters each."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        share = limit - limit // 4
        self._share = [share, share]

    def has_room(self, live: bool) -> bool:
        """Return True if a fetch of this kind may start."""
        return self._free > 0 and self._share[live] > 0

    def change(self, live: bool, slots: int) -> None:
        """Return ``slots`` slots, or take them if negative."""
        self._free += slots
        self._share[live] += slots


class _Network:
    def __init__(self, limit: int) -> None:
        self.quota = Quota(limit)
        self.queues: tuple[deque[Ticket], deque[Ticket]] = deque(), deque()
        self.users = 0


class Ticket:
    """One fetch, waiting (``turn`` is not done) or holding a slot."""

    def __init__(self, number: int, network: _Network, live: bool) -> None:
        self.number = number
        self.network = network
        self.live = live
        self.turn: asyncio.Future[None] | None = None
        self.holds = self.offered = False
        self.limit: asyncio.Timeout | None = None

    def __lt__(self, other: "Ticket") -> bool:
        return self.number < other.number

    @property
    def waits(self) -> bool:
        """True until the fetch has a slot or has left."""
        return not self.holds and self.turn is not None and not self.turn.done()


class FetchLimiter:
    """``limit`` slots in all and ``per_network`` in each network; at most ``waiting`` fetches wait for one.

    A first fetch yields after ``patience`` seconds.
    """

    def __init__(self, limit: int, per_network: int, waiting: int = 10_000, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._total = Quota(limit)
        self._per_network = per_network
        self._networks: dict[Hashable, _Network] = {}
        self._waiting, self._waiting_limit = 0, waiting
        self._arrivals = 0
        self._heads: tuple[list[Ticket], list[Ticket]] = [], []
        """Heaps of new and live tickets, the first in order of arrival of each network that has room."""
        self._old: dict[Ticket, None] = {}
        """First fetches that hold a slot for longer than ``PATIENCE``, the oldest first."""

    @asynccontextmanager
    async def slot(self, key: Hashable, live: bool, deadline: float) -> AsyncIterator[None]:
        """Wait for a slot in the network ``key``, and hold it until ``deadline`` of the event loop's clock.

        Raises ``PolicyFetchBusy`` if no slot comes free in time, if too many fetches wait, or if a first fetch is
        cancelled in favour of others; ``PolicyTimeout`` at the deadline.
        """
        network = self._networks.setdefault(key, _Network(self._per_network))
        self._arrivals += 1
        ticket = Ticket(self._arrivals, network, live)
        network.users += 1
        timer: asyncio.TimerHandle | None = None
        try:
            if network.quota.has_room(live) and self._total.has_room(live):
                self._take(ticket)
            else:
                await self._wait(ticket, deadline)
            if not live:
                timer = asyncio.get_running_loop().call_later(self._patience, self._grow_old, ticket)
            limit = ticket.limit = asyncio.timeout_at(deadline)
            try:
                async with limit:
                    yield
            except TimeoutError:
                if limit.when() == deadline:
                    raise errors.PolicyTimeout from None
                raise errors.PolicyFetchBusy(f"cancelled after {self._patience:g} s because others wait") from None
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(key, ticket)

    async def _wait(self, ticket: Ticket, deadline: float) -> None:
        if self._waiting >= self._waiting_limit:
            raise errors.PolicyFetchBusy(f"{self._waiting} fetches are waiting")
        network = ticket.network
        ticket.turn = asyncio.get_running_loop().create_future()
        network.queues[ticket.live].append(ticket)
        self._waiting += 1
        self._offer(network)
        if (old := self._holder_before(ticket)) is not None:
            self._cancel(old)
        try:
            async with asyncio.timeout_at(deadline):
                await ticket.turn
        except TimeoutError:
            raise errors.PolicyFetchBusy("no slot came free in time") from None
        finally:
            self._waiting -= 1

    def _take(self, ticket: Ticket) -> None:
        ticket.holds = True
        self._total.change(ticket.live, -1)
        ticket.network.quota.change(ticket.live, -1)

    def _leave(self, key: Hashable, ticket: Ticket) -> None:
        network = ticket.network
        self._old.pop(ticket, None)
        network.users -= 1
        if not network.users:
            del self._networks[key]
        if ticket.holds:
            self._total.change(ticket.live, 1)
            network.quota.change(ticket.live, 1)
        elif ticket.turn is not None:
            ticket.turn.cancel()
        self._offer(network)
        while (first := min(filter(None, map(self._head, (True, False))), default=None)) is not None:
            heapq.heappop(self._heads[first.live])
            self._take(first)
            if first.turn is not None:
                first.turn.set_result(None)
            self._offer(first.network)

    def _offer(self, network: _Network) -> None:
        """Put the first waiting tickets of ``network`` on the heaps if it has room."""
        for live, queue in enumerate(network.queues):
            while queue and not queue[0].waits:
                queue.popleft()
            if queue and not queue[0].offered and network.quota.has_room(bool(live)):
                queue[0].offered = True
                heapq.heappush(self._heads[live], queue[0])

    def _head(self, live: bool) -> Ticket | None:
        """Return the first ticket that may start now."""
        heads = self._heads[live]
        while heads and self._total.has_room(live):
            first = heads[0]
            if first.waits and first.network.quota.has_room(live):
                return first
            heapq.heappop(heads).offered = False
            self._offer(first.network)
        return None

    # -- slow first fetches --------------------------------------------------------------------------------

    def _grow_old(self, ticket: Ticket) -> None:
        network = ticket.network
        in_network = any(waiting.waits for queue in network.queues for waiting in queue)
        in_all = any(
            head.waits
            for live, heads in enumerate(self._heads)
            for head in heads
            if not self._total.has_room(bool(live))
        )
        self._old[ticket] = None
        if in_network or in_all:
            self._cancel(ticket)

    def _holder_before(self, waiting: Ticket) -> Ticket | None:
        """Return the oldest slow fetch whose slot ``waiting`` could take."""
        anywhere = waiting.network.quota.has_room(waiting.live)
        return next((old for old in self._old if anywhere or old.network is waiting.network), None)

    def _cancel(self, ticket: Ticket) -> None:
        self._old.pop(ticket, None)
        if ticket.limit is not None and not ticket.limit.expired():
            ticket.limit.reschedule(asyncio.get_running_loop().time())
