"""A store in a dictionary that fails or hangs on demand, and entries for it."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mtasts_daemon.errors import StoreError
from mtasts_daemon.policy.cache_entry import CacheEntry, HeldPolicy
from mtasts_daemon.policy.mtasts import parse_policy
from mtasts_daemon.store.policy_store import StoreLimits

DAY = 86400.0
NOW = 20_000 * DAY
"""Midnight UTC of a day in 2024."""

BODY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 604800\r\n"


def policy_entry(
    domain: str, *, at: float = NOW, body: bytes = BODY, first_used: float | None = None, last_used: float | None = None
) -> CacheEntry:
    """Return an entry whose policy was fetched at ``at`` and, by default, also looked up then."""
    policy = parse_policy(body)
    held = HeldPolicy("20240101", body, policy, at, at + policy.max_age)
    return CacheEntry(
        domain,
        held,
        first_used=at if first_used is None else first_used,
        last_used=at if last_used is None else last_used,
    )


class FakeStore:
    """Keeps entries. Operations are named like their methods: ``get``, ``put``, ``due``, ..."""

    def __init__(self, limits: StoreLimits | None = None) -> None:
        self.entries: dict[str, CacheEntry] = {}
        self.due_at: dict[str, float | None] = {}
        self.calls: Counter[str] = Counter()
        self.closed = False
        self.knows_names = False
        """True if ``may_hold`` reports domains that are not stored."""
        self.limits = limits or StoreLimits()
        self.failures: defaultdict[str, deque[StoreError]] = defaultdict(deque)
        self.gates: dict[str, asyncio.Event] = {}

    def fail(self, operation: str, error: StoreError | None = None, *, times: int = 1) -> None:
        """Let the next calls of ``operation`` raise ``error``."""
        self.failures[operation].extend([error or StoreError("as the test demands")] * times)

    def hang(self, operation: str) -> asyncio.Event:
        """Let every call of ``operation`` wait until the event is set."""
        return self.gates.setdefault(operation, asyncio.Event())

    async def _begin(self, operation: str) -> None:
        self.calls[operation] += 1
        if self.closed:
            raise StoreError("it is closed")
        await asyncio.sleep(0)  # let other tasks run, as a real store does
        if gate := self.gates.get(operation):
            await gate.wait()
        if self.failures[operation]:
            raise self.failures[operation].popleft()

    def may_hold(self, domain: str) -> bool:
        return not self.knows_names or domain in self.entries

    async def get(self, domain: str) -> CacheEntry | None:
        await self._begin("get")
        return self.entries.get(domain)

    async def put(self, entry: CacheEntry, due: float | None) -> None:
        await self._begin("put")
        self.entries[entry.domain] = entry
        self.due_at[entry.domain] = due

    async def touch(self, used: Iterable[tuple[str, float]]) -> None:
        moves = list(used)
        await self._begin("touch")
        for domain, moment in moves:
            entry = self.entries.get(domain)
            if entry is not None and entry.last_used < moment:
                self.entries[domain] = replace(entry, last_used=moment)

    async def delete(self, domain: str) -> bool:
        await self._begin("delete")
        return self._drop(domain)

    async def due(self, now: float, used_since: float, limit: int) -> Sequence[CacheEntry]:
        await self._begin("due")
        moments = sorted((due, domain) for domain, due in self.due_at.items() if due is not None and due <= now)
        found = (self.entries[domain] for _, domain in moments)
        return [entry for entry in found if entry.last_used >= used_since][:limit]

    async def page(self, after: str, limit: int) -> Sequence[CacheEntry]:
        await self._begin("page")
        return [self.entries[domain] for domain in sorted(self.entries) if domain > after][:limit]

    async def count(self) -> int:
        await self._begin("count")
        return len(self.entries)

    async def tidy(self, now: float) -> int:
        await self._begin("tidy")
        before = len(self.entries)
        for entry in list(self.entries.values()):
            if (entry.held.valid_until if entry.held else entry.last_used) < now - 30 * DAY:
                self._drop(entry.domain)
        order = sorted(self.entries.values(), key=lambda entry: (not _on_one_day(entry), entry.last_used))
        while order and (len(self.entries) > self.limits.max_policies or self._size() > self.limits.max_bytes):
            self._drop(order.pop(0).domain)
        return before - len(self.entries)

    async def close(self) -> None:
        self.closed = True

    def _drop(self, domain: str) -> bool:
        self.due_at.pop(domain, None)
        return self.entries.pop(domain, None) is not None

    def _size(self) -> int:
        return sum(len(entry.held.body) for entry in self.entries.values() if entry.held)


def _on_one_day(entry: CacheEntry) -> bool:
    return entry.first_used // DAY == entry.last_used // DAY
