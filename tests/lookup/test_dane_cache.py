"""DANE walks: what is remembered of them, how much of it, and for how long."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from mtasts_daemon import errors
from mtasts_daemon.lookup import dane_cache
from mtasts_daemon.lookup.dane_cache import CachedVerdict, DaneCache
from mtasts_daemon.lookup.single_flight import InFlight, SingleFlight
from mtasts_daemon.policy.dane import DaneVerdict, HostStatus
from mtasts_daemon.policy.dns_answer import MxRecord, RRType, TlsaRecord
from mtasts_daemon.policy.next_hop import NextHop
from tests.fakes.daemon import World

HOST = "mx.example.com"
SIGNED, UNSIGNED, OTHER = NextHop("example.com"), NextHop("unsigned.example"), NextHop("example.net")


def run(test: Callable[[World, DaneCache], Awaitable[None]]) -> None:
    async def body() -> None:
        world = World()
        flights = SingleFlight(world.clock, 5.0)
        made = DaneCache(world.resolver, world.clock, flights, world.spawn, world.counters)
        for hop in (SIGNED, OTHER, UNSIGNED):
            signed = hop is not UNSIGNED
            world.resolver.put(hop.policy_domain, RRType.MX, [MxRecord(10, HOST)], authenticated=signed)
        world.resolver.put(HOST, RRType.A, ["192.0.2.1"], authenticated=True)
        world.resolver.put(f"_25._tcp.{HOST}", RRType.TLSA, [TlsaRecord(3, 1, 1, bytes(32))], authenticated=True)
        try:
            await test(world, made)
        finally:
            for task in list(world.tasks):
                task.cancel()
            await asyncio.gather(*world.tasks, return_exceptions=True)

    asyncio.run(body())


async def verdict(world: World, made: DaneCache, hop: NextHop) -> DaneVerdict:
    if isinstance(made.standing(hop), InFlight):
        await world.idle()
    standing = made.standing(hop)
    assert isinstance(standing, CachedVerdict)
    return standing.verdict


def mx_questions(world: World, hop: NextHop) -> int:
    return world.resolver.queries.count((hop.policy_domain, RRType.MX))


def test_an_unsigned_domain_that_names_a_host_does_not_stand_in_for_what_was_never_asked() -> None:
    async def test(world: World, made: DaneCache) -> None:
        # Whoever cuts off the host's TLSA lookups must not be able to have its DANE forgotten, too.
        await verdict(world, made, UNSIGNED)
        world.resolver.fail(f"_25._tcp.{HOST}", RRType.TLSA, errors.DnsServerFailure())
        (host,) = (await verdict(world, made, SIGNED)).hosts
        assert host.status is HostStatus.ERROR

    run(test)


def test_what_one_destination_tells_of_a_host_stands_in_for_another() -> None:
    async def test(world: World, made: DaneCache) -> None:
        await verdict(world, made, OTHER)
        world.resolver.fail(f"_25._tcp.{HOST}", RRType.TLSA, errors.DnsServerFailure())
        (host,) = (await verdict(world, made, SIGNED)).hosts
        assert (host.status, host.since is not None) == (HostStatus.USABLE, True)

    run(test)


def test_tlsa_records_are_not_kept_in_memory() -> None:
    async def test(world: World, made: DaneCache) -> None:
        found = await verdict(world, made, SIGNED)
        assert found.hosts == (replace(found.hosts[0], status=HostStatus.USABLE, records=()),)

    run(test)


def test_what_is_forgotten_is_asked_again_and_stands_in_for_nothing() -> None:
    async def test(world: World, made: DaneCache) -> None:
        await verdict(world, made, SIGNED)
        made.forget()
        world.resolver.fail(f"_25._tcp.{HOST}", RRType.TLSA, errors.DnsServerFailure())
        (host,) = (await verdict(world, made, SIGNED)).hosts
        assert (host.status, mx_questions(world, SIGNED)) == (HostStatus.ERROR, 2)

    run(test)


def test_a_walk_under_way_when_all_is_forgotten_ends_and_is_not_remembered() -> None:
    async def test(world: World, made: DaneCache) -> None:
        gate = world.resolver.gates[HOST, RRType.A] = asyncio.Event()
        flight = made.standing(SIGNED)
        assert isinstance(flight, InFlight)
        settled: list[float] = []
        flight.when_settled(settled.append)
        await world.idle()
        made.forget()
        gate.set()
        await world.idle()
        assert len(settled) == 1
        assert isinstance(made.standing(SIGNED), InFlight)

    run(test)


def test_the_destination_walked_to_the_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dane_cache, "_MAX_DESTINATIONS", 2)

    async def test(world: World, made: DaneCache) -> None:
        await verdict(world, made, SIGNED)
        await verdict(world, made, OTHER)
        world.clock.advance(7300)
        await verdict(world, made, SIGNED)
        await verdict(world, made, UNSIGNED)
        assert isinstance(made.standing(SIGNED), CachedVerdict)
        assert isinstance(made.standing(OTHER), InFlight)

    run(test)


@pytest.mark.parametrize("ttl", [0, 1, 59])
def test_a_short_life_is_drawn_out_to_a_minute(ttl: int) -> None:
    async def test(world: World, made: DaneCache) -> None:
        world.resolver.put(SIGNED.policy_domain, RRType.MX, [MxRecord(10, HOST)], authenticated=True, ttl=ttl)
        await verdict(world, made, SIGNED)
        world.clock.advance(59)
        await verdict(world, made, SIGNED)
        assert mx_questions(world, SIGNED) == 1
        world.clock.advance(2)
        await verdict(world, made, SIGNED)
        await world.idle()
        assert mx_questions(world, SIGNED) == 2

    run(test)
