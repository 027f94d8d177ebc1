"""Failures of DNS are collected only if the resolver itself works."""

import asyncio
from functools import partial

from mtasts_daemon.errors import DnsServerFailure
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.tlsrpt.collect import resolver_check
from mtasts_daemon.tlsrpt.collect.resolver_check import ResolverCheck
from tests.fakes.clock import FakeClock
from tests.fakes.resolver import FakeResolver


class World:
    def __init__(self) -> None:
        self.resolver, self.clock = FakeResolver(), FakeClock()
        self.check = ResolverCheck(lambda: self.resolver, self.clock)
        self.calls: list[int] = []

    async def call(self, *numbers: int) -> list[int]:
        gate = self.resolver.gates["", RRType.NS] = asyncio.Event()
        for number in numbers:
            self.check.call_if_working(partial(self.calls.append, number))
        gate.set()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()),
                             return_exceptions=True)  # fmt: skip
        await asyncio.sleep(0)
        return self.calls


async def test_calls_are_made_if_the_resolver_answers() -> None:
    world = World()
    assert await world.call(1, 2) == [1, 2]
    assert world.resolver.queries == [("", RRType.NS)]


async def test_calls_are_dropped_if_the_resolver_fails() -> None:
    world = World()
    world.resolver.fail("", RRType.NS, DnsServerFailure())
    assert await world.call(1, 2) == []


async def test_result_is_used_for_a_minute_and_then_asked_again() -> None:
    world = World()
    await world.call(1)
    world.resolver.fail("", RRType.NS, DnsServerFailure())
    assert await world.call(2) == [1, 2]
    world.clock.advance(60)
    assert await world.call(3) == [1, 2]
    assert await world.call(4) == [1, 2]
    assert len(world.resolver.queries) == 2


async def test_number_of_waiting_calls_is_bounded() -> None:
    world = World()
    most = resolver_check._MAX_WAITING
    assert await world.call(*range(most + 1)) == list(range(most))
