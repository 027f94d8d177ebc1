"""The policy domains in memory, within limits of number and of bytes.

A domain that is not here may still have a stored policy: ``CacheSlot.unread`` is True until the store was read. Slots
that a flight or a lookup uses are pinned, and so are policies that the store does not have: they are never evicted.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..policy.cache_entry import CacheEntry
from ..policy.mtasts import StsPolicy
from .eviction import EvictionQueue
from .single_flight import InFlight

__all__ = ["CacheSlot", "PolicyCache", "policy_weight", "weight"]

_MAX_SKIPPED = 16
"""Slots in use that one eviction skips."""

_MIN_PINNED_BYTES = 1 << 20
"""Bytes that may be pinned even if ``max_bytes`` is smaller."""


class CacheSlot:
    """One policy domain. A reply made from ``entry`` holds until ``changes`` grows."""

    __slots__ = (
        "changes",
        "domain",
        "entry",
        "flight",
        "pins",
        "read_failure",
        "resident",
        "save_due",
        "stored_use",
        "unread",
        "unsaved",
        "used",
    )

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.entry: CacheEntry | None = None
        self.changes = 0
        self.flight: InFlight | None = None
        self.pins = 0
        """Users of ``entry``: flights, lookups that wait for DANE, and 1 if ``unsaved``."""
        self.resident = False
        """The cache finds this slot by its domain."""
        self.unread = True
        """The store may have a policy of this domain that is not here."""
        self.read_failure = ""
        """Why the store could not be read; empty while it has not answered."""
        self.unsaved = False
        """The store lacks this entry, because it could not be written."""
        self.save_due = False
        """The next sweep writes it to the store."""
        self.used = True
        """Looked up since the last sweep."""
        self.stored_use = 0.0
        """``last_used`` of the entry in the store; 0 while it is that of ``entry``."""

    @property
    def weight(self) -> int:
        """Bytes of ``entry`` that the cache counts."""
        return weight(self.entry)

    @property
    def read_pending(self) -> bool:
        """Return True if a stored policy may be missing here."""
        return self.unread and (self.entry is None or self.entry.held is None)


class PolicyCache:
    """The slots. Evictable ones are in the order of their last use, as far as it is known."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        """Of policies; everything else in a slot is bounded by their number."""
        self.min_pinned_bytes = _MIN_PINNED_BYTES
        self.store_generation = 0
        """Incremented when the store's file was replaced; what was read before may no longer be true."""
        self._idle: dict[str, CacheSlot] = {}
        self._evictable = EvictionQueue(self._idle)
        self._pinned: dict[str, CacheSlot] = {}
        self.idle_bytes = 0
        self.pinned_bytes = 0
        """Of all pinned slots, including those dropped from the cache while a lookup used them."""

    def __len__(self) -> int:
        return len(self._idle) + len(self._pinned)

    @property
    def bytes(self) -> int:
        """Bytes of policies."""
        return self.idle_bytes + self.pinned_bytes

    def configure(self, max_entries: int, max_bytes: int) -> None:
        """Take over new limits."""
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self._make_room()

    def get(self, domain: str) -> CacheSlot | None:
        """Return the domain's slot, or None."""
        return self._idle.get(domain) or self._pinned.get(domain)

    def slots(self) -> Sequence[CacheSlot]:
        """Return all slots, as they are now."""
        return [*self._idle.values(), *self._pinned.values()]

    def admit(self, slot: CacheSlot) -> CacheSlot:
        """Add a slot, whose domain must have none; it may be evicted at the next change unless it is pinned."""
        slot.resident = True
        self._idle[slot.domain] = slot
        self.idle_bytes += slot.weight
        return slot

    def pin(self, slot: CacheSlot) -> None:
        """Keep the slot until ``unpin`` was called as often."""
        slot.pins += 1
        if slot.pins > 1:
            return
        self.pinned_bytes += slot.weight
        if slot.resident:
            del self._idle[slot.domain]
            self.idle_bytes -= slot.weight
            self._pinned[slot.domain] = slot
            self._make_room()

    def admit_pinned(self, slot: CacheSlot) -> None:
        """Do ``admit`` and ``pin`` at once, as every first lookup of a domain does."""
        slot.resident = True
        slot.pins += 1
        self.pinned_bytes += slot.weight
        self._pinned[slot.domain] = slot
        self._make_room()

    def unpin(self, slot: CacheSlot) -> None:
        """Undo one ``pin``. The slot may be evicted at once."""
        slot.pins -= 1
        if slot.pins:
            return
        self.pinned_bytes -= slot.weight
        if slot.resident:
            del self._pinned[slot.domain]
            self._idle[slot.domain] = slot
            self.idle_bytes += slot.weight
            self._make_room()

    def hold(self, slot: CacheSlot, entry: CacheEntry) -> None:
        """Replace the slot's entry; replies made from the one before no longer hold."""
        growth = weight(entry) - slot.weight
        slot.entry = entry
        slot.changes += 1
        if slot.pins:
            self.pinned_bytes += growth
        elif slot.resident:
            self.idle_bytes += growth
        self._make_room()

    def mark_used(self, slot: CacheSlot, moment: float) -> None:
        """Set when the slot's domain was last looked up; replies made before still hold."""
        assert slot.entry is not None
        slot.stored_use = slot.stored_use or slot.entry.last_used
        slot.entry = replace(slot.entry, last_used=moment)

    def mark_unsaved(self, slot: CacheSlot, unsaved: bool) -> None:
        """Note if the store lacks the slot's entry; it is then the only copy and stays."""
        if slot.unsaved is not unsaved:
            slot.unsaved = unsaved
            if unsaved:
                self.pin(slot)
            else:
                self.unpin(slot)

    def drop(self, slot: CacheSlot) -> None:
        """Remove the slot; replies made from it no longer hold. Lookups that use it keep its entry."""
        if slot.resident:
            slot.resident = False
            if slot.pins:
                del self._pinned[slot.domain]
            else:
                del self._idle[slot.domain]
                self.idle_bytes -= slot.weight
        slot.changes += 1
        if slot.unsaved:
            slot.unsaved = False
            self.unpin(slot)
        if not slot.pins:
            slot.entry, slot.unread = None, True

    def store_replaced(self) -> None:
        """Read the store again for every domain without a policy: another file may have one."""
        self.store_generation += 1
        for slot in self.slots():
            slot.unread = True
            if slot.read_pending:
                slot.changes += 1

    def has_room(self, slot: CacheSlot, needed: int, *, stored: bool) -> bool:
        """Return True if a pinned slot may take an entry of ``needed`` bytes.

        Policies that are not ``stored`` yet may use half of what may be pinned, so that an attacker who fills it
        while the disk is full does not keep stored policies from being read.
        """
        others = self.pinned_bytes - (slot.weight if slot.pins else 0)
        limit = max(self.max_bytes // 2, self.min_pinned_bytes)
        return others == 0 or others + needed <= (limit if stored else limit // 2)

    def _make_room(self) -> None:
        skipped = 0
        while self._idle and (len(self) > self.max_entries or self.bytes > self.max_bytes):
            domain = self._evictable.pop()
            slot = self._idle[domain]
            if slot.used and skipped < min(_MAX_SKIPPED, len(self._idle)):
                skipped += 1
                self._idle[domain] = self._idle.pop(domain)
            else:
                self.drop(slot)


def weight(entry: CacheEntry | None) -> int:
    """Return the memory of an entry's policy in bytes, within 10 % for large ones."""
    return 0 if entry is None or entry.held is None else policy_weight(entry.held.body, entry.held.policy)


def policy_weight(body: bytes, policy: StsPolicy) -> int:
    """Return the memory of a policy in bytes: its body, and each pattern as an object with its text."""
    return 512 + len(body) + sum(105 + len(pattern.text) for pattern in policy.mx)
