"""Failures that the network of this host may have caused are collected only if it works."""

import asyncio
import re
from collections.abc import Sequence
from functools import partial

import pytest

from mtasts_daemon.errors import DnsError, DnsServerFailure
from mtasts_daemon.policy.dns_answer import DnsAnswer
from mtasts_daemon.tlsrpt.collect import network_check
from mtasts_daemon.tlsrpt.collect.network_check import NetworkCheck
from tests.fakes.resolver import FakeResolver


class HeldResolver(FakeResolver):
    """A resolver that answers when ``answer`` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.pending: list[asyncio.Future[DnsAnswer[str]]] = []

    def a(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        self.asked.append(name)
        future: asyncio.Future[DnsAnswer[str]] = asyncio.get_running_loop().create_future()
        self.pending.append(future)
        return future


class World:
    def __init__(self) -> None:
        self.resolver = HeldResolver()
        self.check = NetworkCheck(lambda: self.resolver)
        self.calls: list[int] = []

    def call(self, *numbers: int) -> None:
        for number in numbers:
            self.check.call_if_working(partial(self.calls.append, number))

    async def answer(self, error: DnsError | None = None) -> Sequence[int]:
        """Answer the question under way, and return all calls until now."""
        future = self.resolver.pending.pop(0)
        answered = asyncio.Event()
        future.add_done_callback(lambda _done: answered.set())
        if error is None:
            future.set_result(DnsAnswer(self.resolver.asked[-1], (), 60, exists=False))
        else:
            future.set_exception(error)
        await answered.wait()
        return self.calls


async def test_calls_are_made_after_an_answer() -> None:
    world = World()
    world.call(1)
    assert world.calls == []
    assert await world.answer() == [1]


async def test_calls_are_dropped_if_the_resolver_fails() -> None:
    world = World()
    world.call(1)
    assert await world.answer(DnsServerFailure()) == []


async def test_later_call_waits_for_a_check_of_its_own() -> None:
    world = World()
    world.call(1)
    world.call(2, 3)
    assert len(world.resolver.pending) == 1
    # The network worked before the failures 2 and 3, not after them.
    assert await world.answer() == [1]
    assert await world.answer(DnsServerFailure()) == [1]
    world.call(4)
    assert await world.answer() == [1, 4]


async def test_each_check_asks_for_a_name_that_no_resolver_has_cached() -> None:
    world = World()
    for number in range(3):
        world.call(number)
        await world.answer()
    assert len(set(world.resolver.asked)) == 3
    assert all(re.fullmatch(r"[0-9a-f]{16}\.com", name) for name in world.resolver.asked)


async def test_number_of_waiting_calls_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_check, "_MAX_WAITING", 3)
    world = World()
    world.call(0, 1, 2, 3, 4)
    await world.answer()
    assert await world.answer() == [0, 1, 2]
