"""Staggered attempts at the addresses of a host (RFC 8305)."""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import pytest

from mtasts_daemon.https.address_filter import Address
from mtasts_daemon.https.happy_eyeballs import ATTEMPT_DELAY, AllAttemptsFailed, Race, alternate
from tests.event_loop import advance, idle, stop_clock

DEAD, ALIVE, REFUSING = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))


class Hosts:
    """Three addresses that behave like their names."""

    def __init__(self) -> None:
        self.tried: list[Address] = []
        self.cancelled: list[Address] = []

    async def attempt(self, address: Address, won: Callable[[], None]) -> str:
        self.tried.append(address)
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
    stop_clock()
    race = asyncio.create_task(Race([DEAD, ALIVE], None, hosts.attempt).run())
    await advance(ATTEMPT_DELAY * 0.99)
    assert hosts.tried == [DEAD]
    await advance(ATTEMPT_DELAY * 0.02)
    assert await race == str(ALIVE)
    assert hosts.cancelled == [DEAD]


async def test_refusing_address_costs_no_delay() -> None:
    stop_clock()
    assert await Race([REFUSING, REFUSING, ALIVE], None, Hosts().attempt).run() == str(ALIVE)


@pytest.mark.parametrize(("addresses", "tried"), [([DEAD] * 3, [DEAD, ALIVE]), ([REFUSING], [REFUSING, ALIVE])])
async def test_late_addresses_are_tried_next(addresses: list[Address], tried: list[Address]) -> None:
    answer = asyncio.Event()

    async def later() -> Sequence[Address]:
        await answer.wait()
        return [ALIVE]

    hosts = Hosts()
    stop_clock()
    race = asyncio.create_task(Race(addresses, later(), hosts.attempt).run())
    await idle()
    answer.set()
    await advance(ATTEMPT_DELAY)
    assert await race == str(ALIVE)
    assert hosts.tried == tried


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
    await idle()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert hosts.cancelled == [DEAD]
