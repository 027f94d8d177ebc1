"""A PolicyService with fakes, and functions to query it."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Self

from mtasts_daemon.clock import SystemClock
from mtasts_daemon.log import Counters
from mtasts_daemon.lookup.service import LookupOutcome, PendingLookup, PolicyService
from mtasts_daemon.lookup.settings import Settings
from mtasts_daemon.policy.decision import Decision, Dialect, Zone
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.policy.next_hop import NextHop, parse_key
from tests.fakes.clock import FakeClock
from tests.fakes.fetcher import FakeFetcher, policy_text
from tests.fakes.resolver import FakeResolver
from tests.fakes.store import FakeStore

__all__ = ["PLAIN", "TLSRPT", "World"]

PLAIN = Zone("postfix")
TLSRPT = Zone("postfix-tlsrpt", Dialect.TLSRPT, "may")


class World:
    """A PolicyService with fakes of all ports. Create it inside a running event loop."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.resolver = FakeResolver()
        self.fetcher = FakeFetcher()
        self.store = FakeStore()
        self.counters = Counters()
        self.tasks: set[asyncio.Task[object]] = set()
        self.settings = Settings({"postfix": PLAIN, "postfix-tlsrpt": TLSRPT}, "postfix", **settings)
        self.service = self.make_service()

    def make_service(self) -> PolicyService:
        """Return a service with an empty cache, as after a restart."""
        clock = SystemClock() if self.settings.deadline < 1 else self.clock
        return PolicyService(
            self.settings,
            resolver=self.resolver,
            fetcher=self.fetcher,
            store=self.store,
            clock=clock,
            spawn=self.spawn,
            counters=self.counters,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> object:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def publish(self, domain: str, record_id: str, body: bytes | None = None) -> None:
        """Publish the domain's TXT record and policy."""
        self.resolver.put(f"_mta-sts.{domain}", RRType.TXT, [f"v=STSv1; id={record_id};".encode()])
        self.fetcher.bodies[domain] = policy_text() if body is None else body

    def configure(self, **settings: Any) -> None:
        """Change the service's settings, as a reload does."""
        self.settings = replace(self.settings, **settings)
        self.service.configure(self.settings)

    async def ask(self, key: str, zone: Zone = PLAIN) -> Decision:
        """Look up ``key`` and return the decision."""
        hop = parse_key(key.encode())
        assert isinstance(hop, NextHop)
        found = self.service.lookup(hop, zone)
        if isinstance(found, PendingLookup):
            done: asyncio.Future[LookupOutcome] = asyncio.get_running_loop().create_future()
            found.flight.when_settled(partial(self._resume, found, done))
            found = await done
        return found.decision

    def _resume(self, pending: PendingLookup, done: "asyncio.Future[LookupOutcome]", now: float) -> None:
        # Called by the flight, as the server's connections are.
        found = self.service.resume(pending, now)
        if isinstance(found, PendingLookup):
            found.flight.when_settled(partial(self._resume, found, done))
        else:
            done.set_result(found)

    def txt_questions(self, domain: str) -> int:
        """Return the number of TXT queries."""
        return self.resolver.queries.count((f"_mta-sts.{domain}", RRType.TXT))
