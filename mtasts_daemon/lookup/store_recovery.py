"""Check the SQLite files of policies and of other parts while the daemon runs, and write cached policies back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from .. import errors
from ..log import log_event
from ..policy.cache_entry import next_due, on_load
from ..ports import Clock
from ..store.file_recovery import FileRecovery, Recoverable
from ..store.policy_store import SqliteStore
from .service import PolicyService

__all__ = ["StoreRecovery"]

_EVERY = 60.0


class StoreRecovery:
    """Checks the files once a minute. ``run`` is the body of a background task."""

    def __init__(
        self,
        store: SqliteStore,
        others: Sequence[Recoverable],
        service: PolicyService,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._files = FileRecovery(others, service.counters, clock)
        self._service = service
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Check now and then once a minute."""
        while True:
            await self._files.guarded(self._store, self.check)
            await self._files.check()
            await self._sleep(_EVERY)

    async def check(self) -> None:
        """Recover the store's file if needed, and read the names in it. Raises ``StoreError``."""
        if await self._files.recover(self._store):
            self._service.policy_cache.store_replaced()
            log_event("store-restored", policies=await self._write_back())
        try:
            await self._store.learn_names()
        except errors.StoreError as error:
            # Until the names are known, the store is read for every domain.
            log_event("store-read-failed", level=logging.ERROR, once_a_minute="", error=error)

    async def _write_back(self) -> int:
        """Store cached policies that are missing or older in the file, and use newer ones. Return the number stored."""
        count, cache = 0, self._service.policy_cache
        for slot in cache.slots():
            if slot.entry is None or slot.entry.held is None:
                continue
            stored = await self._store.get(slot.domain)
            entry = slot.entry
            before = None if stored is None else stored.held
            if entry.held is None or (before is not None and before.fetched_at == entry.held.fetched_at):
                continue
            if stored is None or before is None or before.fetched_at < entry.held.fetched_at:
                await self._store.put(entry, next_due(entry, self._service.settings.rules))
                count += 1
            elif slot.flight is None:
                cache.hold(slot, on_load(stored, self._clock.wall()))
        return count
