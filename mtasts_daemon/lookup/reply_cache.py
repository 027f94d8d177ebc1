"""Replies kept ready by the bytes of their request, within limits of number and of bytes."""

from collections import OrderedDict
from collections.abc import Callable

from ..counters import LabelledCounter
from .policy_cache import CacheSlot

__all__ = ["Ready", "ReplyCache"]


class Ready:
    """A reply as it is sent, and what it stands on: it holds until a moment, and while its slot is as it was.

    It does not hold on to the slot's entry, whose policy may be large and is bounded by ``Memory`` alone.
    """

    __slots__ = ("changes", "reply", "slot", "tally", "until")

    def __init__(self, reply: bytes, tally: LabelledCounter, slot: CacheSlot, changes: int, until: float) -> None:
        self.reply = reply
        self.tally = tally
        self.slot = slot
        self.changes = changes
        self.until = until


class ReplyCache:
    """Ready replies by the bytes of their request: at most ``limit``, with ``max_bytes`` of requests and replies.

    Whoever sends mail can make a request of his own for each subdomain of his, with a policy of 64 KiB.
    """

    def __init__(self, limit: int, max_bytes: int) -> None:
        self.limit = limit
        self.max_bytes = max_bytes
        # An ordered one, because in a plain dict the first is found behind all that were removed before it.
        self._replies: OrderedDict[bytes, Ready] = OrderedDict()
        self._bytes = 0
        self.get: Callable[[bytes], Ready | None] = self._replies.get

    def __len__(self) -> int:
        return len(self._replies)

    def keep(self, request: bytes, ready: Ready) -> None:
        """Keep one; the oldest go when there are too many."""
        self._drop(request)
        self._replies[request] = ready
        self._bytes += len(request) + len(ready.reply)
        while len(self._replies) > self.limit or self._bytes > self.max_bytes:
            self._drop(next(iter(self._replies)))

    def clear(self) -> None:
        """Forget all of them, as when the configuration changed."""
        self._replies.clear()
        self._bytes = 0

    def _drop(self, request: bytes) -> None:
        dropped = self._replies.pop(request, None)
        if dropped is not None:
            self._bytes -= len(request) + len(dropped.reply)
