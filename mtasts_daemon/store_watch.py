"""Looks after the store's file while the daemon runs.

A file that was removed or replaced still takes what is put into it, and nobody finds it at the next start.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from . import errors
from .observe import tell
from .policy.entry import next_due
from .ports.api import Clock
from .ports.store import SqliteStore
from .service import PolicyService

__all__ = ["StoreWatch"]

_EVERY = 60.0


class StoreWatch:
    """Run ``run`` as a task."""

    def __init__(
        self,
        store: SqliteStore,
        service: PolicyService,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._service = service
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Look now and once a minute, for ever."""
        while True:
            try:
                await self.look()
            except errors.StoreError as error:
                tell("store-file-changed", level=logging.ERROR, path=self._store.path, error=error)
            except Exception:
                # A bug; the next look may well do.
                self._service.counters.unhandled += 1
                logging.getLogger(__name__).exception("store-watch-failed")
            await self._sleep(_EVERY)

    async def look(self) -> None:
        """Put right what became of the file; raises ``StoreError`` where that fails. And learn what is in it."""
        found = await self._store.look_after(self._clock.wall())
        for problem in found:
            tell("store-file-changed", level=logging.ERROR, path=self._store.path, what=problem.detail)
        if found:
            tell("store-put-back", policies=await self._put_back())
        try:
            await self._store.learn_names()
        except errors.StoreError as error:
            # Until that is known, the store is asked for every domain.
            tell("store-read-failed", level=logging.ERROR, once_a_minute="", error=error)

    async def _put_back(self) -> int:
        """Store what is known and not stored, or stored in an older state; how many policies that were."""
        count = 0
        for slot in self._service.memory.slots():
            if slot.entry is None or slot.entry.held is None:
                continue
            stored = await self._store.get(slot.domain)
            entry = slot.entry
            before = None if stored is None else stored.held
            if entry.held is None or (before is not None and before.fetched_at >= entry.held.fetched_at):
                continue
            await self._store.put(entry, next_due(entry, self._service.settings.rules))
            count += 1
        return count
