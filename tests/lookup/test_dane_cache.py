"""The DANE cache: content, limits and lifetimes."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mtasts_daemon import errors
from mtasts_daemon.lookup import dane_cache
from mtasts_daemon.lookup.dane_cache import CachedVerdict, DaneCache, Destination
from mtasts_daemon.lookup.single_flight import SingleFlight
from mtasts_daemon.policy.dane import DaneVerdict, HostStatus
from mtasts_daemon.policy.dns_answer import MxRecord, RRType, TlsaRecord
from mtasts_daemon.policy.next_hop import NextHop
from tests.event_loop import idle
from tests.fakes.daemon import World

HOST = "mx.example.com"
SIGNED, UNSIGNED, OTHER = NextHop("example.com"), NextHop("unsigned.example"), NextHop("example.net")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        for hop in (SIGNED, OTHER, UNSIGNED):
            signed = hop is not UNSIGNED
            world.resolver.put(hop.policy_domain, RRType.MX, [MxRecord(10, HOST)], authenticated=signed)
        world.resolver.put(HOST, RRType.A, ["192.0.2.1"], authenticated=True)
        world.resolver.put(f"_25._tcp.{HOST}", RRType.TLSA, [TlsaRecord(3, 1, 1, bytes(32))], authenticated=True)
        yield world


@pytest.fixture
async def made(world: World) -> AsyncIterator[DaneCache]:
    flights = SingleFlight(world.clock, 5.0)
    yield DaneCache(world.resolver, world.clock, flights, world.spawn, world.counters)


async def verdict(world: World, made: DaneCache, hop: NextHop) -> DaneVerdict:
    if isinstance(made.verdict(hop), Destination):
        await idle()
    cached = made.verdict(hop)
    assert isinstance(cached, CachedVerdict)
    return cached.verdict


def mx_questions(world: World, hop: NextHop) -> int:
    return world.resolver.queries.count((hop.policy_domain, RRType.MX))


async def test_host_of_an_unsigned_domain_is_not_cached(world: World, made: DaneCache) -> None:
    # An attacker who cuts off the host's TLSA lookups must not be able to remove its cached verdict, too.
    await verdict(world, made, UNSIGNED)
    world.resolver.fail(f"_25._tcp.{HOST}", RRType.TLSA, errors.DnsServerFailure())
    (host,) = (await verdict(world, made, SIGNED)).hosts
    assert host.status is HostStatus.ERROR


async def test_host_verdict_of_one_destination_replaces_a_failure_of_another(world: World, made: DaneCache) -> None:
    await verdict(world, made, OTHER)
    world.resolver.fail(f"_25._tcp.{HOST}", RRType.TLSA, errors.DnsServerFailure())
    (host,) = (await verdict(world, made, SIGNED)).hosts
    assert (host.status, host.since is not None) == (HostStatus.USABLE, True)


async def test_tlsa_records_are_not_kept_in_memory(world: World, made: DaneCache) -> None:
    found = await verdict(world, made, SIGNED)
    assert found.hosts == (found.hosts[0]._replace(status=HostStatus.USABLE, records=()),)


async def test_cleared_verdict_is_asked_again_and_replaces_no_failure(world: World, made: DaneCache) -> None:
    await verdict(world, made, SIGNED)
    made.clear()
    world.resolver.fail(f"_25._tcp.{HOST}", RRType.TLSA, errors.DnsServerFailure())
    (host,) = (await verdict(world, made, SIGNED)).hosts
    assert (host.status, mx_questions(world, SIGNED)) == (HostStatus.ERROR, 2)


async def test_discovery_under_way_at_clear_settles_and_is_not_cached(world: World, made: DaneCache) -> None:
    gate = world.resolver.gates[HOST, RRType.A] = asyncio.Event()
    destination = made.verdict(SIGNED)
    assert isinstance(destination, Destination) and destination.flight is not None
    settled: list[float] = []
    destination.flight.when_settled(settled.append)
    await idle()
    made.clear()
    gate.set()
    await idle()
    assert len(settled) == 1
    assert isinstance(made.verdict(SIGNED), Destination)


async def test_destination_discovered_longest_ago_is_evicted(
    world: World, made: DaneCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dane_cache, "_MAX_DESTINATIONS", 2)

    await verdict(world, made, SIGNED)
    await verdict(world, made, OTHER)
    world.clock.advance(7300)
    await verdict(world, made, SIGNED)
    await verdict(world, made, UNSIGNED)
    assert isinstance(made.verdict(SIGNED), CachedVerdict)
    assert isinstance(made.verdict(OTHER), Destination)


@pytest.mark.parametrize("ttl", [0, 1, 59])
async def test_ttl_under_a_minute_is_raised_to_a_minute(world: World, made: DaneCache, ttl: int) -> None:
    world.resolver.put(SIGNED.policy_domain, RRType.MX, [MxRecord(10, HOST)], authenticated=True, ttl=ttl)
    await verdict(world, made, SIGNED)
    world.clock.advance(59)
    await verdict(world, made, SIGNED)
    assert mx_questions(world, SIGNED) == 1
    world.clock.advance(2)
    await verdict(world, made, SIGNED)
    await idle()
    assert mx_questions(world, SIGNED) == 2
