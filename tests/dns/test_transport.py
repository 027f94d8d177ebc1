"""Accepted and dropped replies, sockets, TCP, and trust in the AD bit."""

import asyncio
import ipaddress
import os
import resource
import socket
from typing import Any

import dns.message
import pytest

from mtasts_daemon.dns import transport
from mtasts_daemon.dns.transport import is_trusted
from mtasts_daemon.errors import DnsError, DnsMalformed, DnsServerFailure, DnsTimeout, DnsUnreachable
from tests.dns.asking import HOST, asking, error_of
from tests.event_loop import both_loops, until
from tests.fakes.dns import FakeDns

# -- forged, late and broken replies --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forgery", "unexpected", "mismatched"),
    [("forge-id", 1, 0), ("forge-name", 0, 1), ("forge-type", 0, 1), ("forge-port", 0, 0)],
)
@both_loops
async def test_forged_reply_is_dropped_and_the_true_one_taken(forgery: str, unexpected: int, mismatched: int) -> None:
    async with FakeDns({"host.example": ["A 192.0.2.1", f"! A {forgery}"]}) as server, asking(server) as resolver:
        assert (await resolver.a("host.example")).records == ("192.0.2.1",)
        assert resolver.counters.unexpected == unexpected
        assert resolver.counters.mismatched == mismatched
        assert resolver.counters.retries == 0


@both_loops
async def test_late_reply_is_dropped_and_counted() -> None:
    async with (
        FakeDns({"host.example": ["A 192.0.2.1", "! A delay 0.3"]}) as server,
        asking(server, limit=0.05, try_timeout=0.05) as resolver,
    ):
        assert await error_of(resolver.a("host.example")) is DnsTimeout
        await until(lambda: resolver.counters.unexpected == 1)


@both_loops
async def test_garbage_is_as_good_as_no_reply() -> None:
    garbage = {"empty.example": "", "short.example": "ff", "long.example": "8180000100000000" + "00" * 2000}
    zone = {name: [f"! A garbage {data}"] for name, data in garbage.items()}
    async with FakeDns(zone) as server, asking(server, limit=0.5) as resolver:
        errors = await asyncio.gather(*(error_of(resolver.a(name)) for name in garbage))
        assert errors == [DnsTimeout] * 3
        await until(lambda: resolver.counters.mismatched >= 3)


@both_loops
async def test_reply_that_cannot_be_read_is_malformed_when_no_other_resolver_does_better() -> None:
    broken = {"host.example": ["! A raw c00002"]}

    async with FakeDns(broken) as first, FakeDns(broken) as second, asking(first, second) as resolver:
        assert await error_of(resolver.a("host.example")) is DnsMalformed
        second.load(HOST)
        assert (await resolver.a("host.example")).records == ("192.0.2.1",)


@both_loops
async def test_id_is_never_twice_in_flight_at_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    spare = iter([(7).to_bytes(2, "big"), *(number.to_bytes(2, "big") for number in range(100, 200))])

    def random(size: int) -> bytes:
        return b"\0\0\0\7" if size == 4 else next(spare)

    zone = {f"d{number}.example": [f'TXT "{number}"', "! TXT delay 0.1"] for number in range(20)}

    async with FakeDns(zone) as server, asking(server) as resolver:
        monkeypatch.setattr(os, "urandom", random)
        answers = await asyncio.gather(*(resolver.txt(f"d{number}.example") for number in range(20)))
        assert [answer.records for answer in answers] == [(str(number).encode(),) for number in range(20)]


class _Ports(asyncio.DatagramProtocol):
    """Answers every query with an empty answer, and records the clients' addresses."""

    def __init__(self) -> None:
        self.ports: set[int] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.ports.add(addr[1])
        self.transport.sendto(dns.message.make_response(dns.message.from_wire(data)).to_wire(), addr)


@both_loops
async def test_sockets_are_shared_and_replaced_after_some_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_SOCKET_QUERIES", 10)
    endpoint, server = await asyncio.get_running_loop().create_datagram_endpoint(_Ports, ("127.0.0.1", 0))
    async with asking(endpoint.get_extra_info("sockname")) as resolver:
        for _ in range(300):
            await resolver.a("host.example")
        assert 16 <= len(server.ports) <= 60
    endpoint.close()


@both_loops
async def test_without_descriptors_for_more_sockets_those_there_are_serve_on() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with FakeDns(HOST) as server, asking(server) as resolver:
        await resolver.a("host.example")
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            with pytest.raises(OSError, match="Too many open files"):
                socket.socket()
            for _ in range(30):
                assert (await resolver.a("host.example")).records == ("192.0.2.1",)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# -- TCP ------------------------------------------------------------------------------------------------------


@both_loops
async def test_truncated_reply_is_asked_for_again_over_tcp() -> None:
    zone = {
        "resent.example": ["A 192.0.2.1", "! A truncate"],
        "large.example": [f"A 192.0.2.{number}" for number in range(200)],
    }

    async with FakeDns(zone) as server, asking(server) as resolver:
        assert (await resolver.a("resent.example")).records == ("192.0.2.1",)
        assert len((await resolver.a("large.example")).records) == 200
        assert server.count(tcp=True) == resolver.counters.tcp_fallbacks == 2


@both_loops
async def test_thousand_records_are_refused() -> None:
    zone = {"large.example": [f"A 10.0.{number // 256}.{number % 256}" for number in range(1000)]}

    async with FakeDns(zone) as server, asking(server) as resolver:
        assert await error_of(resolver.a("large.example")) is DnsMalformed


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("cut", DnsUnreachable), ("silent", DnsTimeout), ("garbage 8180", DnsMalformed), ("servfail", DnsServerFailure)],
)
@both_loops
async def test_failure_over_tcp_has_an_error_of_its_own(behaviour: str, error: type[DnsError]) -> None:
    async with (
        FakeDns({"host.example": ["A 192.0.2.1", "! A truncate", f"! A {behaviour}"]}) as server,
        asking(server, try_timeout=0.2) as resolver,
    ):
        assert await error_of(resolver.a("host.example")) is error
        assert server.count(tcp=True) >= 1


# -- trust -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "networks", "trusted"),
    [
        ("127.0.0.1", (), True),
        ("127.0.0.53", (), True),
        ("::1", (), True),
        ("::ffff:127.0.0.1", (), True),
        ("192.0.2.1", (), False),
        ("192.0.2.1", ("192.0.2.0/24",), True),
        ("192.0.2.1", ("2001:db8::/32",), False),
        ("2001:db8::1", ("192.0.2.0/24", "2001:db8::/32"), True),
        ("fe80::1%lo", ("fe80::/10",), True),
        ("0.0.0.0", (), False),
    ],
)
def test_ad_is_believed_from_loopback_and_listed_networks(
    address: str, networks: tuple[str, ...], trusted: bool
) -> None:
    assert is_trusted(address, [ipaddress.ip_network(network) for network in networks]) is trusted
