"""Key records of signatures, kept for a while: a reporter signs all its mails with one key."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from ...policy.dns_answer import DnsAnswer

__all__ = ["KeyCache"]

_MAX_NAMES = 1000
_MAX_BYTES = 4096
"""Larger answers are not kept."""

_MAX_SECONDS = 600.0
"""A key that was revoked is trusted at most this much longer."""


class KeyCache:
    """Looks up TXT records and keeps the answers for their TTL. For one event loop; ``now`` is monotonic."""

    def __init__(self, lookup: Callable[[str], Awaitable[DnsAnswer[bytes]]], now: Callable[[], float]) -> None:
        self._lookup = lookup
        self._now = now
        self._known: OrderedDict[str, tuple[float, Sequence[bytes]]] = OrderedDict()

    async def __call__(self, name: str) -> Sequence[bytes]:
        """Return the records. Raises ``DnsError``, which is not kept."""
        found = self._known.get(name)
        if found is not None and self._now() < found[0]:
            return found[1]
        answer = await self._lookup(name)
        self._known.pop(name, None)
        if sum(map(len, answer.records)) <= _MAX_BYTES:
            self._known[name] = self._now() + min(answer.ttl, _MAX_SECONDS), answer.records
            if len(self._known) > _MAX_NAMES:
                self._known.popitem(last=False)
        return answer.records
