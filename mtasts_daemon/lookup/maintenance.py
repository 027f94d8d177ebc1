"""Maintenance of the policy cache: saves policies, marks domains as used, and repairs moments after a clock jump.

Used from one event loop, between lookups.
"""

import asyncio
import heapq
import logging
from collections.abc import Iterable, Sequence

from .. import errors
from ..log import log_event
from ..policy.cache_entry import CacheEntry, CacheRules, next_due, on_load, settled_until
from ..ports import Clock, Store
from .policy_cache import CacheSlot, PolicyCache

__all__ = ["Maintenance"]

_SLOTS_AT_ONCE = 500
_WRITES_AT_ONCE = 100
"""Slots visited, and entries written, in one turn of the event loop: lookups wait no longer than that takes."""

_USED_AFTER = 45.0
"""Seconds between two updates of ``last_used``; with the 15 s between two sweeps it is true to the minute."""

_STORE_USE_AFTER = 3600.0
"""Seconds after which ``last_used`` is always written to the store."""

_STORE_USES = 25
"""Domains in one sweep for which it is written earlier, those written longest ago first. 10,000 active domains written
every minute were 15 GB a day."""

_PROBE_EVERY = 60.0
"""Seconds between two attempts to write while writes fail."""


class Maintenance:
    """Keeps the slots of ``policy_cache`` in ``store``."""

    def __init__(self, policy_cache: PolicyCache, store: Store, clock: Clock, rules: CacheRules) -> None:
        self._cache = policy_cache
        self._store = store
        self._clock = clock
        self._rules = rules
        self._failed_at: float | None = None
        self._repaired_to: str | None = None

    @property
    def writes_fail(self) -> bool:
        """True if the last write failed: nothing is fetched again until one succeeds."""
        return self._failed_at is not None

    def configure(self, rules: CacheRules) -> None:
        """Take over other rules."""
        self._rules = rules

    async def save(self, slot: CacheSlot) -> bool:
        """Store the slot's entry; return False if that fails. ``sweep`` then tries again."""
        entry = slot.entry
        if entry is None:  # dropped
            return True
        try:
            await self._put(entry)
        except errors.StoreError as error:
            self._write_failed(error)
            if slot.resident:
                self._cache.mark_unsaved(slot, True)
                slot.save_due = True
            return False
        self._failed_at = None
        if slot.entry is entry:
            slot.save_due = False
            self._cache.mark_unsaved(slot, False)
        return True

    def _write_failed(self, error: errors.StoreError) -> None:
        self._failed_at = self._clock.monotonic()
        log_event("store-write-failed", level=logging.ERROR, once_a_minute="", error=error)

    def _may_write(self) -> bool:
        return self._failed_at is None or self._clock.monotonic() - self._failed_at >= _PROBE_EVERY

    async def sweep(self) -> None:
        """Mark domains as used, and drop those not looked up since the last sweep.

        Entries that could not be stored are stored now, and dropped only then. While writes fail, one write a
        minute is attempted.
        """
        used: list[CacheSlot] = []
        slots = self._cache.slots()
        for begin in range(0, len(slots), _SLOTS_AT_ONCE):
            now = self._clock.wall()
            for slot in slots[begin : begin + _SLOTS_AT_ONCE]:
                self._sweep_one(slot, now, used)
            await asyncio.sleep(0)
        await self._save_again(slots)
        if used and self._may_write():
            touched = _to_touch(used)
            try:
                await self._store.touch(touched)
                self._failed_at = None
            except errors.StoreError as error:
                self._write_failed(error)

    def _sweep_one(self, slot: CacheSlot, now: float, used: list[CacheSlot]) -> None:
        entry, was_used = slot.entry, slot.used
        slot.used = False
        if slot.flight is not None or entry is None or not slot.resident:
            return
        if was_used and entry.held is not None and abs(now - entry.last_used) >= _USED_AFTER:
            self._cache.mark_used(slot, now)
            used.append(slot)
        elif not was_used and not slot.pins and not slot.save_due and settled_until(entry, now) <= now:
            self._cache.drop(slot)

    async def _save_again(self, slots: Iterable[CacheSlot]) -> None:
        waiting = [slot for slot in slots if slot.save_due and slot.flight is None and slot.resident]
        if self.writes_fail and not waiting and self._may_write():
            self._failed_at = None  # no entry to write: the next write shows it
        while waiting and self._may_write():
            # After a failure, one write shows if the disk works again.
            batch = waiting[: 1 if self.writes_fail else _WRITES_AT_ONCE]
            if not all(await asyncio.gather(*(self.save(slot) for slot in batch))):
                return
            del waiting[: len(batch)]

    # -- a clock that was set --------------------------------------------------------------------------------

    async def repair_clock(self) -> None:
        """Discard times that a wrong clock recorded; the lives of policies start now.

        Otherwise a refresh that failed years ahead would be tried again then. Raises ``StoreError``;
        ``continue_repair`` then goes on with the stored entries.
        """
        slots = self._cache.slots()
        for slot in slots:
            slot.changes += 1  # no reply made by the wrong clock holds
        for begin in range(0, len(slots), _SLOTS_AT_ONCE):
            now = self._clock.wall()
            for slot in slots[begin : begin + _SLOTS_AT_ONCE]:
                self._repair_one(slot, now)
            await asyncio.sleep(0)
        self._repaired_to = ""
        await self.continue_repair()

    def _repair_one(self, slot: CacheSlot, now: float) -> None:
        sound = None if slot.entry is None else on_load(slot.entry, now)
        if sound is not None and sound is not slot.entry:
            self._cache.hold(slot, sound)
            slot.save_due = sound.held is not None  # ``sweep`` stores it

    async def continue_repair(self) -> None:
        """Repair the stored entries that an interrupted repair has not reached. Raises ``StoreError``."""
        now = self._clock.wall()
        while (after := self._repaired_to) is not None:
            page = await self._store.page(after, _WRITES_AT_ONCE)
            wrong = [entry for entry in page if on_load(entry, now) is not entry]
            absent = [entry for entry in wrong if self._cache.get(entry.domain) is None]
            await asyncio.gather(*(self._put(on_load(entry, now)) for entry in absent))
            self._repaired_to = page[-1].domain if page else None

    async def _put(self, entry: CacheEntry) -> None:
        await self._store.put(entry, next_due(entry, self._rules))


def _to_touch(used: Sequence[CacheSlot]) -> list[tuple[str, float]]:
    """Return the domains whose ``last_used`` the store gets now, and the time."""
    chosen = {slot.domain for slot in heapq.nsmallest(_STORE_USES, used, key=lambda slot: slot.stored_use)}
    touched = []
    for slot in used:
        entry = slot.entry
        late = entry is not None and abs(entry.last_used - slot.stored_use) >= _STORE_USE_AFTER
        if entry is not None and (late or slot.domain in chosen):
            slot.stored_use = entry.last_used
            touched.append((slot.domain, entry.last_used))
    return touched
