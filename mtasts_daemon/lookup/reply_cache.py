"""Replies by the bytes of their request, within limits of number and of bytes."""

from collections.abc import Callable
from functools import lru_cache

from ..counters import LabelledCounter
from .eviction import EvictionQueue
from .plan import FOREVER
from .policy_cache import CacheSlot

__all__ = ["CachedReply", "ReplyCache"]


class CachedReply:
    """A reply as it is sent. It holds until a moment, and while ``slot.changes`` stays the same.

    It does not refer to the slot's entry, whose policy may be large and is bounded by the policy cache alone.
    """

    __slots__ = ("changes", "reply", "slot", "tally", "until")

    def __init__(self, reply: bytes, tally: LabelledCounter, slot: CacheSlot, changes: int, until: float) -> None:
        self.reply = reply
        self.tally = tally
        self.slot = slot
        self.changes = changes
        self.until = until if until == FOREVER else _whole_second(until // 1)


@lru_cache(maxsize=256)
def _whole_second(moment: float) -> float:
    """Return one object for equal moments: a full cache has many replies that hold until the same second."""
    return moment


class ReplyCache:
    """At most ``limit`` replies, with ``max_bytes`` of requests and replies.

    A sender of mail can cause a request for each of its subdomains, with a policy of 64 KiB each.
    """

    def __init__(self, limit: int, max_bytes: int) -> None:
        self.limit = limit
        self.max_bytes = max_bytes
        self._replies: dict[bytes, CachedReply] = {}
        self._evictable = EvictionQueue(self._replies)
        self._bytes = 0
        self.get: Callable[[bytes], CachedReply | None] = self._replies.get

    def __len__(self) -> int:
        return len(self._replies)

    def configure(self, limit: int, max_bytes: int) -> None:
        """Take over new limits."""
        self.limit = limit
        self.max_bytes = max_bytes
        self._make_room()

    def put(self, request: bytes, cached: CachedReply) -> None:
        """Add a reply; the oldest ones are dropped if there are too many."""
        self._drop(request)
        self._replies[request] = cached
        self._bytes += len(request) + len(cached.reply)
        self._make_room()

    def clear(self) -> None:
        """Drop all replies, for example because the configuration changed."""
        self._replies.clear()
        self._bytes = 0

    def _make_room(self) -> None:
        while self._replies and (len(self._replies) > self.limit or self._bytes > self.max_bytes):
            self._drop(self._evictable.pop())

    def _drop(self, request: bytes) -> None:
        dropped = self._replies.pop(request, None)
        if dropped is not None:
            self._bytes -= len(request) + len(dropped.reply)
