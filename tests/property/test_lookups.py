"""Many requests in one piece, split anywhere: parsed correctly and answered in order."""

import asyncio
import itertools
from collections.abc import Iterable
from types import ModuleType
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mtasts_daemon.clock import SystemClock
from mtasts_daemon.lookup.server import LookupServer
from mtasts_daemon.lookup.service import PolicyService
from mtasts_daemon.postfix import socketmap, tcp_table
from tests.event_loop import idle, run_watched
from tests.fakes.daemon import World
from tests.fakes.fetcher import policy_text

POLICY_DOMAINS = ["one.example", "two.example", "three.example"]
KEYS = [*POLICY_DOMAINS, "none.example", "a,b.example", "9:x,.example", ",", "", ".example"]


class Wire:
    """The transport of one connection: keeps what is written, and whether it was closed."""

    def __init__(self, lookups: LookupServer, codec: ModuleType) -> None:
        self.written = b""
        self.writes = 0
        self.closed = False
        self.protocol = lookups.protocol(codec)
        self.protocol.connection_made(cast("asyncio.Transport", self))

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.closed = True

    def __getattr__(self, name: str) -> Any:
        return lambda: None  # pausing and resuming change nothing here


def request(codec: ModuleType, key: str) -> bytes:
    if codec is tcp_table:
        return b"get %b\n" % key.encode()
    return b"%d:postfix %b," % (8 + len(key), key.encode())


def lookups_of(world: World) -> LookupServer:
    service = PolicyService(
        world.settings,
        resolver=world.resolver,
        fetcher=world.fetcher,
        store=world.store,
        clock=SystemClock(),
        spawn=world.spawn,
        counters=world.counters,
    )
    return LookupServer(service, world.counters, max_connections=99, max_replies=100)


async def asked(lookups: LookupServer, codec: ModuleType, pieces: Iterable[bytes]) -> Wire:
    """Return a connection after the pieces were received and all possible answers were sent."""
    wire = Wire(lookups, codec)
    for piece in pieces:
        wire.protocol.data_received(piece)
    await idle()
    return wire


async def answers(codec: ModuleType, warm: list[str], batch: list[str], cuts: list[int]) -> tuple[bytes, bytes]:
    """Return the replies to a batch received in pieces, and to its requests one by one."""
    world = World()
    for domain in POLICY_DOMAINS:
        world.publish(domain, "1", policy_text("enforce", f"mx.{domain}"))
    lookups = lookups_of(world)
    for key in warm:
        await asked(lookups, codec, [request(codec, key)])
    sent = b"".join(request(codec, key) for key in batch)
    places = sorted({0, *(cut % (len(sent) + 1) for cut in cuts), len(sent)})
    together = await asked(lookups, codec, (sent[begin:end] for begin, end in itertools.pairwise(places)))
    assert not together.closed
    alone = [await asked(lookups, codec, [request(codec, key)]) for key in batch]
    return together.written, b"".join(wire.written for wire in alone)


@given(
    st.sampled_from([socketmap, tcp_table]),
    st.lists(st.sampled_from(KEYS), max_size=4),
    st.lists(st.sampled_from(KEYS), max_size=8),
    st.lists(st.integers(0, 500), max_size=3),
)
# The last request without its end.
@example(socketmap, ["none.example"], ["none.example"] * 3, [3 * 24 - 1])
# Cached ones arrive while an earlier one waits.
@example(socketmap, ["none.example"], ["one.example", "none.example", "none.example"], [23])
def test_a_batch_is_answered_as_its_requests_are_one_by_one(
    codec: ModuleType, warm: list[str], batch: list[str], cuts: list[int]
) -> None:
    together, alone = run_watched(answers(codec, warm, batch, cuts))
    assert together == alone


@pytest.mark.parametrize("codec", [socketmap, tcp_table])
async def test_a_batch_of_requests_asked_before_is_answered_in_one_write(codec: ModuleType) -> None:
    world = World()
    lookups = lookups_of(world)
    await asked(lookups, codec, [request(codec, "none.example")])
    together = await asked(lookups, codec, [request(codec, "none.example") * 50])
    assert together.writes == 1
    assert together.written.count(codec.FRAME_ENDING) == 50
    assert world.counters.cache_hits == 50
    assert world.counters.lookups == 51
