"""How many policies are fetched at once: over all, from one network, and for whom.

A quarter of all slots, and of each network's, is kept for refreshing live policies; so whoever makes this host
look up many new domains, with policy hosts that hang, cannot make known policies expire.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

from .. import errors

__all__ = ["FetchSlots"]


class _Gate:
    """Lets ``limit`` holders in, in the order they came; no more than three quarters of them not ``live``."""

    def __init__(self, limit: int) -> None:
        self._all = asyncio.Semaphore(limit)
        self._new = asyncio.Semaphore(limit - limit // 4)

    def free(self, live: bool) -> bool:
        """Whether ``acquire`` would not wait."""
        return not (self._all.locked() or (not live and self._new.locked()))

    async def acquire(self, live: bool) -> None:
        if live:
            await self._all.acquire()
            return
        # in this order a new fetch that waits holds back no live one
        await self._new.acquire()
        try:
            await self._all.acquire()
        except asyncio.CancelledError:
            self._new.release()
            raise

    def release(self, live: bool) -> None:
        self._all.release()
        if not live:
            self._new.release()


class FetchSlots:
    """Slots for ``limit`` fetches, ``per_network`` of them in one network; ``waiting`` more may queue.

    The queues of live and of new fetches are bounded each by itself.
    """

    def __init__(self, limit: int, per_network: int, waiting: int) -> None:
        self._overall = _Gate(limit)
        self._per_network = per_network
        self._under_way_limit = limit + waiting
        self._under_way = {True: 0, False: 0}
        self._networks: dict[Hashable, tuple[_Gate, int]] = {}
        """Each with how many hold or want a slot of it; dropped at none, so there are never more than fetches."""

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
        """Wait for a slot in ``network`` and over all, and hold both.

        Raises ``PolicyFetchBusy`` when the event loop's clock reaches ``deadline`` first.
        """
        gate, users = self._networks.get(network) or (_Gate(self._per_network), 0)
        self._networks[network] = gate, users + 1
        holding: list[_Gate] = []
        try:
            try:
                # mostly there is nothing to wait for, and then no need of a timer
                async with asyncio.timeout_at(None if gate.free(live) and self._overall.free(live) else deadline):
                    # the network's first, so that those waiting for a slow network hold no slot that others could use
                    for wanted in (gate, self._overall):
                        await wanted.acquire(live)
                        holding.append(wanted)
            except TimeoutError:
                raise errors.PolicyFetchBusy("no slot came free in time") from None
            yield
        finally:
            for held in holding:
                held.release(live)
            _, users = self._networks.pop(network)
            if users > 1:
                self._networks[network] = gate, users - 1
