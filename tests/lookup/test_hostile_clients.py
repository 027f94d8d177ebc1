"""Clients that send endless requests, do not read, or hold connections: their cost is limited."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from mtasts_daemon.counters import LabelledCounter
from mtasts_daemon.lookup.policy_cache import CacheSlot
from mtasts_daemon.lookup.reply_cache import CachedReply, ReplyCache
from tests.admin.served import Peer, Served
from tests.event_loop import idle, until
from tests.fakes.fetcher import policy_text

MANY_HOSTS = policy_text("enforce", *(f"mx{n}.{'x' * 60}.example.com" for n in range(490)))


@pytest.fixture
async def world(settings: Mapping[str, Any]) -> AsyncIterator[Served]:
    async with Served(**settings) as world:
        yield world


def stop_reading(peer: Peer) -> None:
    """Fill the client's own buffer, too."""
    assert isinstance(peer.writer.transport, asyncio.Transport)
    peer.writer.transport.pause_reading()


def unsent(world: Served) -> int:
    """Return the bytes of replies that the client has not read yet."""
    (connection,) = world.lookups.connections
    assert connection._transport is not None
    return connection._transport.get_write_buffer_size()


def read_again(peer: Peer) -> None:
    assert isinstance(peer.writer.transport, asyncio.Transport)
    peer.writer.transport.resume_reading()


async def test_a_client_that_does_not_read_is_not_read_from(world: Served) -> None:
    world.publish("example.com", "1", MANY_HOSTS)
    peer = await world.connect()
    expected = await peer.lookup("example.com")
    stop_reading(peer)
    asked = 2000
    for _ in range(asked):
        peer.ask("example.com")
    await idle()
    assert unsent(world) < 2_000_000 < asked * len(expected)
    read_again(peer)
    for _ in range(asked):
        assert await peer.reply() == expected


async def test_client_that_does_not_read_replies_of_waiting_lookups_is_paused(world: Served) -> None:
    world.publish("example.com", "1", MANY_HOSTS)
    peer = await world.connect()
    expected = await peer.lookup("example.com")
    stop_reading(peer)
    asked = 1000
    for number in range(asked):
        peer.ask(f"new{number}.example", "example.com")
    before = -1
    while before != unsent(world):
        before = unsent(world)
        await idle()
    # The limit of queued replies for one connection, not all that it requested.
    assert unsent(world) < 300 * len(expected) < asked * len(expected)
    read_again(peer)
    for _ in range(asked):
        assert await peer.reply() == b"NOTFOUND "
        assert await peer.reply() == expected


@pytest.mark.settings(max_connections=2)
async def test_a_client_that_does_not_read_cannot_keep_its_place_from_others_at_the_limit(world: Served) -> None:
    world.publish("example.com", "1", MANY_HOSTS)
    mute = await world.connect()
    await mute.lookup("example.com")
    stop_reading(mute)
    for _ in range(500):
        mute.ask("example.com")
    await idle()
    await until(lambda: unsent(world) > 0)
    (connection,) = world.lookups.connections
    for _ in range(10):
        world.clock.advance(0.01)  # of two connections used at the same moment either may be closed
        other = await world.connect()
        assert await other.lookup(".com") == b"NOTFOUND "
        assert len(world.lookups.connections) <= 2
    assert connection not in world.lookups.connections


# -- ready replies -----------------------------------------------------------------------------------------


@pytest.mark.settings(max_replies=10)
async def test_cached_replies_are_bounded_in_number(world: Served) -> None:
    peer = await world.connect()
    for number in range(30):
        await peer.lookup(f"d{number}.example")
    assert len(world.lookups.reply_cache) == 10


@pytest.mark.settings(max_reply_bytes=80000)
async def test_cached_replies_are_bounded_in_bytes_of_requests_and_replies(world: Served) -> None:
    world.publish("example.com", "1", MANY_HOSTS)
    peer = await world.connect()
    expected = await peer.lookup("example.com")
    for key in ("eXample.com", "exAmple.com", "exaMple.com", "examPle.com"):
        assert await peer.lookup(key) == expected
    assert len(world.lookups.reply_cache) == 2
    for number in range(20):
        await peer.lookup("d.example", name="x" * 9000 + str(number))
    assert len(world.lookups.reply_cache) < 10


def test_bytes_of_cached_replies_are_counted_back() -> None:
    ready = ReplyCache(100, 1000)

    def keep(request: bytes) -> None:
        ready.put(request, CachedReply(b"x" * 400, LabelledCounter(), CacheSlot("example.com"), 0, 0.0))

    for _ in range(10):
        keep(b"again")
    keep(b"one")
    assert len(ready) == 2
    ready.clear()
    keep(b"two")
    keep(b"three")
    assert len(ready) == 2


def test_replies_that_hold_until_the_same_second_share_its_moment() -> None:
    def until(moment: float) -> float:
        return CachedReply(b"x", LabelledCounter(), CacheSlot("example.com"), 0, moment).until

    assert until(7.25) is until(7.75)
    assert until(7.25) == 7.0
    assert until(float("inf")) == float("inf")
