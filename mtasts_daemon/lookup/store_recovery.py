"""Looks after the files of the store and of TLS results while the daemon runs.

A file that was removed or replaced still takes what is put into it, and nobody finds it at the next start.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from .. import errors
from ..log import log_event
from ..policy.cache_entry import next_due
from ..ports import Clock
from ..store.policy_store import SqliteStore
from .service import PolicyService

__all__ = ["StoreRecovery"]

_EVERY = 60.0


class Kept(Protocol):
    """What is kept in a file."""

    @property
    def path(self) -> str | Path:
        """The file."""

    async def recover(self, now: float) -> Sequence[errors.StoreError]:
        """Put right what became of the file: what that was. Raises ``StoreError`` where that fails."""


class StoreRecovery:
    """Run ``run`` as a task."""

    def __init__(
        self,
        store: SqliteStore,
        tls_results: Kept,
        service: PolicyService,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._tls_results = tls_results
        self._service = service
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Look now and once a minute, for ever."""
        while True:
            await self._attempt(self._store, self.look)
            await self._attempt(self._tls_results, partial(self._put_right, self._tls_results))
            await self._sleep(_EVERY)

    async def _attempt(self, kept: Kept, look: Callable[[], Awaitable[object]]) -> None:
        try:
            await look()
        except errors.StoreError as error:
            log_event("store-file-changed", level=logging.ERROR, path=kept.path, error=error)
        except Exception:
            # A bug; the next look may well do.
            self._service.counters.unhandled += 1
            logging.getLogger(__name__).exception("store-watch-failed")

    async def look(self) -> None:
        """Put right what became of the store's file, and learn what is in it. Raises ``StoreError``."""
        if await self._put_right(self._store):
            log_event("store-restored", policies=await self._put_back())
        try:
            await self._store.learn_names()
        except errors.StoreError as error:
            # Until that is known, the store is asked for every domain.
            log_event("store-read-failed", level=logging.ERROR, once_a_minute="", error=error)

    async def _put_right(self, kept: Kept) -> bool:
        """Whether something had become of the file. Raises ``StoreError`` where that cannot be put right."""
        found = await kept.recover(self._clock.wall())
        for problem in found:
            log_event("store-file-changed", level=logging.ERROR, path=kept.path, what=problem.detail)
        return bool(found)

    async def _put_back(self) -> int:
        """Store what is known and not stored, or stored in an older state; how many policies that were."""
        count = 0
        for slot in self._service.policy_cache.slots():
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
