"""What is known in memory of policy domains, within limits of number and of bytes.

It is a view: every policy is in the store too, so whatever is dropped here comes back at the next lookup.
"""

from collections import OrderedDict
from collections.abc import Sequence

from ..policy.cache_entry import CacheEntry
from .single_flight import InFlight

__all__ = ["CacheSlot", "PolicyCache"]

_SPARED = 16
"""Slots in use that are passed over at most, before one of them has to go."""


class CacheSlot:
    """One policy domain. A reply made from ``entry`` holds only while there were no more ``changes``."""

    __slots__ = ("changes", "domain", "entry", "flight", "unread", "unsaved", "used")

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.entry: CacheEntry | None = None
        self.changes = 0
        self.flight: InFlight | None = None
        self.unread = False
        """What the store has could not be read."""
        self.unsaved = False
        """The store has no entry of it, or an older one, because it could not be written."""
        self.used = True
        """Asked for since the last sweep."""

    @property
    def read_failed(self) -> bool:
        """Whether there may be a policy in the store that is missing here."""
        return self.unread and (self.entry is None or self.entry.held is None)


class PolicyCache:
    """The slots, in the order in which they came, those in use behind the others."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        """Of policies, roughly; what else a slot takes is bounded by their number."""
        # An ordered one, because in a plain dict the first is found behind all that were removed before it.
        self._slots: OrderedDict[str, CacheSlot] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, domain: str) -> CacheSlot | None:
        """The domain's slot."""
        return self._slots.get(domain)

    def slots(self) -> Sequence[CacheSlot]:
        """All slots, as they are now."""
        return list(self._slots.values())

    def admit(self, domain: str) -> CacheSlot:
        """A new slot, with nothing in it yet."""
        slot = self._slots[domain] = CacheSlot(domain)
        self._make_room()
        return slot

    def hold(self, slot: CacheSlot, entry: CacheEntry) -> None:
        """Let the slot have another entry; replies made from the one before no longer hold."""
        self._bytes += _weight(entry) - _weight(slot.entry)
        slot.entry = entry
        slot.changes += 1
        self._make_room()

    def drop(self, slot: CacheSlot) -> None:
        """Forget the slot; replies made from it no longer hold."""
        if self._slots.get(slot.domain) is slot:
            del self._slots[slot.domain]
            self._bytes -= _weight(slot.entry)
            slot.entry = None
            slot.changes += 1

    def _make_room(self) -> None:
        passed_over = 0
        while len(self._slots) > self.max_entries or self._bytes > self.max_bytes:
            slot = next(iter(self._slots.values()))
            spared = slot.used and passed_over < min(_SPARED, len(self._slots))
            if slot.flight is None and not spared:
                self.drop(slot)
                continue
            if passed_over > _SPARED + len(self._slots):
                return  # all of them are in flight; they are bounded by the connections that wait
            passed_over += 1
            self._slots.move_to_end(slot.domain)


def _weight(entry: CacheEntry | None) -> int:
    """Bytes that an entry's policy takes, roughly: its body, and its patterns as objects."""
    if entry is None or entry.held is None:
        return 0
    return 512 + len(entry.held.body) + 160 * len(entry.held.policy.mx)
