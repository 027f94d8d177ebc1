"""How many policies are fetched at once: over all, from one network, and for whom.

``https_queue`` says whose turn it is; here fetches wait for it, and are ended when they are to give way.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

from .. import errors
from .fetch_queue import FetchQueue, Ticket

__all__ = ["FetchSlots"]


class FetchSlots:
    """Slots for ``limit`` fetches, ``per_network`` of them in one network; ``waiting`` more may queue.

    The queues of live and of new fetches are bounded each by itself.
    """

    def __init__(self, limit: int, per_network: int, waiting: int) -> None:
        self._queue = FetchQueue(limit, per_network)
        self._under_way_limit = limit + waiting
        self._under_way = {True: 0, False: 0}
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        """Of those that wait."""
        self._limits: dict[Ticket, asyncio.Timeout] = {}
        """Of those that hold a slot: what ends them."""
        self._timer: asyncio.TimerHandle | None = None
        """The one for all, where somebody waits for another to give way."""

    @contextmanager
    def entered(self, live: bool) -> Iterator[None]:
        """Count a fetch from its beginning to its end; raises ``PolicyFetchBusy`` when too many are under way."""
        if self._under_way[live] >= self._under_way_limit:
            raise errors.PolicyFetchBusy(f"{self._under_way[live]} are under way or waiting")
        self._under_way[live] += 1
        try:
            yield
        finally:
            self._under_way[live] -= 1

    @asynccontextmanager
    async def held(self, network: Hashable, live: bool, deadline: float) -> AsyncIterator[None]:
        """Wait for a slot in ``network`` and over all, and hold both until the event loop's clock is at ``deadline``.

        Raises ``PolicyFetchBusy`` when the deadline comes before the slot, or when a new fetch has lasted long and
        others wait; ``PolicyTimeout`` when it comes after that.
        """
        loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            raise errors.PolicyFetchBusy("no slot came free in time")
        place = Ticket(network, live)
        try:
            if not self._queue.arrive(place, loop.time()):
                await self._turn(place, deadline)
            if self._queue.given_up is place:  # the event loop stood still between its turn and now
                raise errors.PolicyFetchBusy("it lasted while others waited")
            limit = self._limits[place] = asyncio.timeout_at(deadline)
            try:
                async with limit:
                    yield
            except TimeoutError:
                if limit.when() == deadline:
                    raise errors.PolicyTimeout from None
                raise errors.PolicyFetchBusy("it lasted while others waited") from None
        finally:
            self._limits.pop(place, None)
            self._queue.leave(place, loop.time())
            if self._turns or self._timer is not None:
                self._go_on()

    async def _turn(self, place: Ticket, deadline: float) -> None:
        turn = self._turns[place] = asyncio.get_running_loop().create_future()
        self._go_on()
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except TimeoutError:
            raise errors.PolicyFetchBusy("no slot came free in time") from None
        finally:
            self._turns.pop(place, None)

    def _go_on(self) -> None:
        """Let in who has a turn; end who is to give way, or see to it when the time has come."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for place in self._queue.advance(now):
            turn = self._turns.pop(place)
            if not turn.done():  # else it is about to leave, because its time is up
                turn.set_result(None)
        overdue = self._queue.overdue(now)
        if overdue is not None and (limit := self._limits.get(overdue)) is not None and not limit.expired():
            limit.reschedule(now)
        if self._timer is not None:
            self._timer.cancel()
        moment = self._queue.moment()
        self._timer = None if moment is None else loop.call_at(moment, self._go_on)
