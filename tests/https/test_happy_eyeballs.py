"""Staggered attempts at the addresses of a host (RFC 8305)."""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import pytest

from mtasts_daemon.https.address_filter import Address
from mtasts_daemon.https.happy_eyeballs import ATTEMPT_DELAY, AllAttemptsFailed, Race, alternate

DEAD, ALIVE, REFUSING = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))


class Hosts:
    """Three addresses that behave as they are named; ``tried`` has the moment of each attempt."""

    def __init__(self) -> None:
        self.tried: list[tuple[Address, float]] = []
        self.cancelled: list[Address] = []

    async def attempt(self, address: Address, won: Callable[[], None]) -> str:
        self.tried.append((address, asyncio.get_running_loop().time()))
        if address == REFUSING:
            raise ConnectionRefusedError
        try:
            if address == DEAD:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append(address)
            raise
        won()
        return str(address)


def test_alternate_takes_items_in_turn() -> None:
    assert alternate("abc", "12") == ["a", "1", "b", "2", "c"]
    assert alternate("", "12") == ["1", "2"]


async def test_dead_address_costs_one_attempt_delay() -> None:
    hosts = Hosts()
    assert await Race([DEAD, ALIVE], None, hosts.attempt).run() == str(ALIVE)
    (_, first), (_, second) = hosts.tried
    assert ATTEMPT_DELAY * 0.9 <= second - first < ATTEMPT_DELAY * 3
    assert hosts.cancelled == [DEAD]


async def test_refusing_address_costs_no_delay() -> None:
    hosts = Hosts()
    assert await Race([REFUSING, REFUSING, ALIVE], None, hosts.attempt).run() == str(ALIVE)
    assert hosts.tried[-1][1] - hosts.tried[0][1] < ATTEMPT_DELAY


async def test_late_addresses_are_tried_next() -> None:
    async def later() -> Sequence[Address]:
        await asyncio.sleep(0.02)
        return [ALIVE]

    hosts = Hosts()
    assert await Race([DEAD, DEAD, DEAD], later(), hosts.attempt).run() == str(ALIVE)
    assert [address for address, _ in hosts.tried] == [DEAD, ALIVE]


async def test_late_addresses_are_awaited_when_all_others_failed() -> None:
    async def later() -> Sequence[Address]:
        await asyncio.sleep(0.02)
        return [ALIVE]

    assert await Race([REFUSING], later(), Hosts().attempt).run() == str(ALIVE)


async def test_late_addresses_that_never_come_are_cancelled_with_the_race() -> None:
    never = asyncio.Event()

    async def later() -> Sequence[Address]:
        try:
            await asyncio.Event().wait()
        finally:
            never.set()
        return []

    assert await Race([ALIVE], later(), Hosts().attempt).run() == str(ALIVE)
    assert never.is_set()


async def test_race_fails_when_every_attempt_failed() -> None:
    race = Race([REFUSING, REFUSING], None, Hosts().attempt)
    with pytest.raises(AllAttemptsFailed):
        await race.run()
    assert [type(error) for error in race.failures] == [ConnectionRefusedError] * 2


async def test_no_more_than_four_addresses_are_tried() -> None:
    hosts = Hosts()
    race = Race([REFUSING] * 10, None, hosts.attempt)
    with pytest.raises(AllAttemptsFailed):
        await race.run()
    assert len(hosts.tried) == 4


async def test_failure_after_the_connection_is_final() -> None:
    async def attempt(address: Address, won: Callable[[], None]) -> str:
        won()
        await asyncio.sleep(0)
        raise ValueError(str(address))

    with pytest.raises(ValueError, match=str(ALIVE)):
        await Race([ALIVE, DEAD], None, attempt).run()


async def test_cancelled_race_cancels_its_attempts() -> None:
    hosts = Hosts()
    running = asyncio.create_task(Race([DEAD, DEAD], None, hosts.attempt).run())
    for _ in range(3):  # the race starts, then its attempt
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert hosts.cancelled == [DEAD]
