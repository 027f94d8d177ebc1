"""Looks after what is in memory: it is to be in the store too, and to be of a time that has come.

Used from one event loop, between lookups.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from .. import errors
from ..log import log_event
from ..policy.cache_entry import CacheEntry, CacheRules, next_due, on_load, settled_until
from ..ports import Clock, Store
from .policy_cache import CacheSlot, PolicyCache

__all__ = ["Maintenance"]

_SWEEP_CHUNK = 2000
_TOUCH_AFTER = 3600.0
_PAGE = 500


class Maintenance:
    """Keeps the slots of ``memory`` in ``store``; ``rules`` gives those in force."""

    def __init__(self, memory: PolicyCache, store: Store, clock: Clock, rules: Callable[[], CacheRules]) -> None:
        self._memory = memory
        self._store = store
        self._clock = clock
        self._rules = rules

    async def save(self, slot: CacheSlot) -> bool:
        """Store the slot's entry; whether that was done. Where it was not, ``sweep`` tries again."""
        entry = slot.entry
        if entry is None:  # dropped
            return True
        try:
            await self._put(entry)
        except errors.StoreError as error:
            slot.unsaved = True
            log_event("store-write-failed", level=logging.ERROR, once_a_minute="", error=error)
            return False
        slot.unsaved = False
        return True

    async def sweep(self) -> None:
        """Note which domains are in use, and let go of what nobody asked for since the last sweep.

        What could not be stored before is stored now, where the disk is well again, and let go of only then.
        """
        touched: list[tuple[str, float]] = []
        slots = self._memory.slots()
        for begin in range(0, len(slots), _SWEEP_CHUNK):
            now = self._clock.wall()
            for slot in slots[begin : begin + _SWEEP_CHUNK]:
                self._sweep_one(slot, now, touched)
            await asyncio.sleep(0)
        await self._save_again(slots)
        if touched:
            try:
                await self._store.touch(touched)
            except errors.StoreError as error:
                log_event("store-write-failed", level=logging.ERROR, once_a_minute="", error=error)

    def _sweep_one(self, slot: CacheSlot, now: float, touched: list[tuple[str, float]]) -> None:
        entry, used = slot.entry, slot.used
        slot.used = False
        if slot.flight is not None or entry is None:
            return
        if used and entry.held is not None and abs(now - entry.last_used) >= _TOUCH_AFTER:
            self._memory.hold(slot, replace(entry, last_used=now))
            touched.append((slot.domain, now))
        elif not used and not slot.unsaved and settled_until(entry, now) <= now:
            self._memory.drop(slot)

    async def _save_again(self, slots: Iterable[CacheSlot]) -> None:
        for slot in slots:
            if slot.unsaved and slot.flight is None and not await self.save(slot):
                return  # the disk is not well yet

    async def clock_set(self) -> None:
        """Forget what was judged and seen by a clock that was wrong; policies begin their lives now.

        Otherwise a refresh that failed, years ahead, would be tried again then.
        """
        now = self._clock.wall()
        for slot in self._memory.slots():
            slot.changes += 1
            if slot.flight is None and slot.entry is not None:
                sound = on_load(slot.entry, now)
                if sound is not slot.entry:
                    self._memory.hold(slot, sound)
                    slot.unsaved = sound.held is not None  # ``sweep`` stores it
        after = ""
        while page := await self._store.page(after, _PAGE):
            wrong = [entry for entry in page if on_load(entry, now) is not entry]
            absent = [entry for entry in wrong if self._memory.get(entry.domain) is None]
            await asyncio.gather(*(self._put(on_load(entry, now)) for entry in absent))
            after = page[-1].domain

    async def _put(self, entry: CacheEntry) -> None:
        await self._store.put(entry, next_due(entry, self._rules()))
