"""The lookup server: framing, order, limits, and no lost lookup."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from mtasts_daemon.policy.decision import Override
from mtasts_daemon.postfix import tcp_table
from tests.admin.served import Served
from tests.event_loop import idle
from tests.fakes.fetcher import policy_text

SECURE = b"OK secure match=mx.example.com servername=hostname"


@pytest.fixture
async def world(settings: Mapping[str, Any]) -> AsyncIterator[Served]:
    async with Served(**settings) as world:
        yield world


async def test_a_policy_is_answered_and_the_second_time_from_the_ready_replies(world: Served) -> None:
    world.publish("example.com", "1")
    peer = await world.connect()
    assert await peer.lookup("example.com") == SECURE
    assert await peer.lookup("example.com") == SECURE
    assert (world.counters.lookups, world.counters.cache_hits) == (2, 1)


async def test_a_request_may_come_one_byte_at_a_time(world: Served) -> None:
    peer = await world.connect()
    for byte in b"19:postfix example.org,":
        peer.send(bytes([byte]))
        await peer.writer.drain()
        await idle()
    assert await peer.reply() == b"NOTFOUND "


async def test_replies_leave_in_the_order_of_their_requests_however_long_one_takes(world: Served) -> None:
    world.publish("slow.example", "1")
    world.publish("example.com", "1", policy_text("enforce", "mx.fast.example"))
    gate = world.fetcher.gates["slow.example"] = asyncio.Event()
    peer = await world.connect()
    assert (await peer.lookup("example.com")).startswith(b"OK secure match=mx.fast.example")
    peer.ask("slow.example", "example.com", ".com", "slow.example", "example.net")
    other = await world.connect()
    assert await other.lookup(".com") == b"NOTFOUND "
    gate.set()
    replies = [await peer.reply() for _ in range(5)]
    assert [reply[:27] for reply in replies] == [
        SECURE[:27],
        b"OK secure match=mx.fast.exa",
        b"NOTFOUND ",
        SECURE[:27],
        b"NOTFOUND ",
    ]
    assert len(world.fetcher.fetches) == 2


async def test_thousands_of_pipelined_lookups_are_all_answered_in_order(world: Served) -> None:
    world.publish("example.com", "1")
    peer = await world.connect()
    asked = 3000
    for number in range(asked):
        peer.ask("example.com" if number % 3 == 0 else f"d{number}.example")
    for number in range(asked):
        assert await peer.reply() == (SECURE if number % 3 == 0 else b"NOTFOUND ")


@pytest.mark.parametrize(
    "key",
    [".com", "192.0.2.1", "[192.0.2.1]", "[IPv6:2001:db8::1]:25", "com", "", "a b", "/run/lmtp", "x" * 300, "\udcff"],
)
async def test_a_key_that_can_have_no_policy_is_not_found_at_no_cost(world: Served, key: str) -> None:
    peer = await world.connect()
    request = b"postfix " + key.encode("utf-8", "surrogateescape")
    peer.send(b"%d:%b," % (len(request), request))
    assert await peer.reply() == b"NOTFOUND "
    assert world.resolver.queries == []


@pytest.mark.parametrize("key", ["EXAMPLE.com", "example.com.", "[Example.Com]:587", "example.com:submission"])
async def test_all_ways_to_write_a_next_hop_ask_for_the_same_policy(world: Served, key: str) -> None:
    world.publish("example.com", "1")
    assert await (await world.connect()).lookup(key) == SECURE


async def test_map_name_selects_the_dialect_in_any_letter_case(world: Served) -> None:
    world.publish("example.com", "1")
    peer = await world.connect()
    assert b"policy_type=sts" in await peer.lookup("example.com", "PostFix-TLSRPT")
    assert await peer.lookup("example.com", "nonsense") == SECURE
    assert await peer.lookup("example.com", "POSTFIX") == SECURE


async def test_only_100_unknown_map_names_are_remembered_and_logged(
    world: Served, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await world.connect()
    for number in [*range(300), *range(50)]:
        await peer.lookup(".com", f"name{number}")
    assert [record.getMessage() for record in caplog.records] == ["unknown-map-name"] * 100


@pytest.mark.parametrize(
    "rubbish", [b"x", b"GET / HTTP/1.1\r\n", b"3:abcX", b"99999999:", b"-1:a,", b"12345678901234567890"]
)
async def test_a_malformed_frame_closes_that_connection_only(world: Served, rubbish: bytes) -> None:
    good, bad = await world.connect(), await world.connect()
    assert await bad.lookup("example.com") == b"NOTFOUND "
    bad.ask("example.com")
    bad.send(rubbish)
    assert await bad.reply() == b"NOTFOUND "
    assert await bad.closed()
    assert world.counters.malformed_frames == 1
    assert await good.lookup("example.com") == b"NOTFOUND "


async def test_waiting_request_is_answered_before_a_malformed_one_closes(world: Served) -> None:
    world.publish("example.com", "1")
    gate = world.fetcher.gates["example.com"] = asyncio.Event()
    peer = await world.connect()
    peer.ask("example.com")
    peer.send(b"nonsense")
    await idle()
    gate.set()
    assert await peer.reply() == SECURE
    assert await peer.closed()


async def test_a_client_that_shuts_down_its_side_still_gets_its_replies(world: Served) -> None:
    world.publish("example.com", "1")
    gate = world.fetcher.gates["example.com"] = asyncio.Event()
    peer = await world.connect()
    peer.ask("example.com")
    peer.writer.write_eof()
    await idle()
    gate.set()
    assert await peer.reply() == SECURE
    assert await peer.closed()


async def test_a_client_that_goes_away_leaves_the_discovery_to_others(world: Served) -> None:
    world.publish("example.com", "1")
    gate = world.fetcher.gates["example.com"] = asyncio.Event()
    leaving, staying = await world.connect(), await world.connect()
    leaving.ask("example.com")
    staying.ask("example.com")
    await idle()
    leaving.writer.transport.abort()
    await idle()
    gate.set()
    assert await staying.reply() == SECURE


@pytest.mark.settings(max_connections=2)
async def test_at_the_limit_of_connections_the_one_idle_the_longest_makes_room(world: Served) -> None:
    first, second = await world.connect(), await world.connect()
    await second.lookup(".com")
    world.clock.advance(1)
    await first.lookup(".com")
    third = await world.connect()
    assert await third.lookup(".com") == b"NOTFOUND "
    assert await second.closed()
    assert await first.lookup(".com") == b"NOTFOUND "


@pytest.mark.settings(max_connections=3)
async def test_a_burst_of_connections_leaves_no_more_than_the_limit(world: Served) -> None:
    first = await world.connect()
    await first.lookup(".com")
    burst = []
    for _ in range(30):
        world.clock.advance(1)
        burst.append(await world.connect())
    assert await asyncio.gather(*(peer.closed() for peer in (first, *burst[:-3]))) == [True] * 28
    for peer in burst[-3:]:
        assert await peer.lookup(".com") == b"NOTFOUND "
    assert len(world.lookups.connections) == 3


async def test_a_reload_is_seen_by_the_next_lookup(world: Served) -> None:
    peer = await world.connect()
    assert await peer.lookup("example.com") == b"NOTFOUND "
    world.configure(overrides={"example.com": Override("partner", reply="encrypt")})
    world.lookups.reconfigured()
    assert await peer.lookup("example.com") == b"OK encrypt"


async def test_a_fixed_reply_for_new_postfix_is_withheld_from_an_old_one_with_the_reason(world: Served) -> None:
    reply = "secure match=a.example policy_type=sts mx_host_pattern=a.example { policy_string = version: STSv1 }"
    world.configure(overrides={"example.com": Override("partner", reply=reply)})
    peer = await world.connect()
    assert await peer.lookup("example.com", "postfix-tlsrpt") == b"OK " + reply.encode()
    assert (await peer.lookup("example.com")).startswith(b"TEMP mtasts-daemon: example.com: ")


async def test_drain_answers_waiting_lookups_and_closes_idle_connections(world: Served) -> None:
    world.publish("example.com", "1")
    gate = world.fetcher.gates["example.com"] = asyncio.Event()
    resting, waiting = await world.connect(), await world.connect()
    await resting.lookup(".com")
    waiting.ask("example.com")
    await idle()
    drained = asyncio.create_task(world.lookups.drain(5))
    assert await resting.closed()
    gate.set()
    assert await waiting.reply() == SECURE
    assert await waiting.closed()
    await drained


async def test_drain_ends_at_its_timeout(world: Served) -> None:
    world.publish("example.com", "1")
    world.fetcher.gates["example.com"] = asyncio.Event()
    peer = await world.connect()
    peer.ask("example.com")
    await idle()
    await world.lookups.drain(0.05)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await peer.reply()


@pytest.mark.settings(codec=tcp_table)
async def test_tcp_table_speaks_its_own_words(world: Served) -> None:
    world.publish("example.com", "1")
    peer = await world.connect()
    peer.send(b"get example.com\nget .com\nget example%2Ecom\n")
    assert await peer.reader.readline() == b"200 " + SECURE[3:] + b"\n"
    assert await peer.reader.readline() == b"500 not found\n"
    assert await peer.reader.readline() == b"200 " + SECURE[3:] + b"\n"


@pytest.mark.parametrize("rubbish", [b"put a b\n", b"get %zz\n", b"\n", b"x" * 40000])
@pytest.mark.settings(codec=tcp_table)
async def test_a_malformed_line_closes_that_connection(world: Served, rubbish: bytes) -> None:
    peer = await world.connect()
    peer.send(b"get .com\n" + rubbish)
    assert await peer.reader.readline() == b"500 not found\n"
    assert await peer.closed()


@pytest.mark.settings(codec=tcp_table)
async def test_a_reply_too_long_for_tcp_table_is_shortened_and_counted(world: Served) -> None:
    world.publish("example.com", "1", policy_text("enforce", *(f"mx{n}.example.com" for n in range(400))))
    peer = await world.connect()
    peer.send(b"get example.com\n")
    line = await peer.reader.readline()
    assert line.startswith(b"200 secure match=mx0.example.com:") and len(line) <= 4096
    assert world.counters.replies_shortened == 1
