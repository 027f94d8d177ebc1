"""HTTPS to untrusted hosts: their addresses, their certificates, a proxy."""

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_network

import pytest

from mtasts_daemon import errors
from mtasts_daemon.config.values import HostPort
from mtasts_daemon.https import client
from mtasts_daemon.https.policy_fetcher import HttpsPolicyFetcher
from mtasts_daemon.https.tls_stream import TlsStream
from mtasts_daemon.https.trust_anchors import client_tls
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.ports import FetchedBody
from tests.event_loop import advance
from tests.fakes.ca import Ca, Flaw
from tests.fakes.https import POLICY, Behaviour
from tests.fakes.resolver import FakeResolver
from tests.https.https_world import DOMAIN, HOST, World

# -- addresses ---------------------------------------------------------------------------------------------


async def test_only_vetted_addresses_are_connected_to(ca: Ca) -> None:
    async with World(ca, Behaviour(), allowed=(ip_network("127.0.0.2"),)) as world:
        world.resolver.put(HOST, RRType.A, ["127.0.0.1", "10.0.0.1", "127.0.0.2"])
        world.resolver.put(HOST, RRType.AAAA, ["::1", "fe80::1%lo", "not an address"])
        assert (await world.fetch()).body == POLICY
        assert world.host.connections == 1
        assert not world.host.requests[0].headers["host"].startswith("127.")


async def test_policy_host_with_no_address_to_connect_to_is_refused_with_the_reason(ca: Ca) -> None:
    async with World(ca, Behaviour(), allowed=()) as world:
        with pytest.raises(errors.PolicyAddressRefused, match=r"127\.0\.0\.1: loopback, RFC 1122"):
            await world.fetch()
        world.resolver.put(HOST, RRType.A, ["\x1b]0;title\x07"])
        with pytest.raises(errors.PolicyAddressRefused, match="not an IP address") as caught:
            await world.fetch()
        assert caught.value.sentence.isprintable()
        assert world.host.connections == 0


async def test_this_host_is_not_connected_to(ca: Ca) -> None:
    own = frozenset({ip_network("8.8.8.8").network_address})
    async with World(ca, Behaviour(), allowed=(), own=lambda: own) as world:
        world.resolver.put(HOST, RRType.A, ["8.8.8.8"])
        with pytest.raises(errors.PolicyAddressRefused, match="of this host"):
            await world.fetch()


async def test_next_address_is_tried_if_one_refuses_or_is_silent(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        await world.host.stop()
        await world.host.start("127.0.0.1", world.host.port)
        with closing(socket.create_server(("127.0.0.3", world.host.port))):
            world.resolver.put(HOST, RRType.AAAA, ["::ffff:127.0.0.2"])
            world.resolver.put(HOST, RRType.A, ["127.0.0.3", "127.0.0.1"])
            assert (await world.fetch()).body == POLICY


async def test_failure_to_connect_to_any_address_is_reported(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        await world.host.stop()
        world.resolver.put(HOST, RRType.A, [f"127.0.0.{number}" for number in range(1, 200)])
        with pytest.raises(errors.PolicyConnectFailed, match="Connection refused"):
            await world.fetch()


async def test_certificate_error_at_every_address_is_reported(ca: Ca) -> None:
    async with World(ca, Behaviour(certificate=Flaw.EXPIRED)) as world:
        world.resolver.put(HOST, RRType.A, ["127.0.0.1", "127.0.0.2"])
        with pytest.raises(errors.WebPkiExpired):
            await world.fetch()
        assert world.host.connections == 2


# -- DNS ---------------------------------------------------------------------------------------------------


async def test_and_aaaa_are_asked_for_once_each(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        await world.fetch()
        assert sorted(world.resolver.queries) == [(HOST, RRType.A), (HOST, RRType.AAAA)]


async def test_missing_address_differs_from_a_failed_lookup(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        world.resolver.forget(HOST, RRType.A)
        with pytest.raises(errors.PolicyHostNotFound, match=HOST):
            await world.fetch()
        world.resolver.fail(HOST, RRType.AAAA, errors.DnsServerFailure("bogus"))
        with pytest.raises(errors.PolicyHostLookupFailed, match="bogus"):
            await world.fetch()


async def test_one_failing_family_does_not_hide_the_other(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        world.resolver.fail(HOST, RRType.AAAA, errors.DnsServerFailure())
        assert (await world.fetch()).body == POLICY


LONGEST = ".".join(["a" * 49, *["a" * 48] * 4])
"""Its policy host's name has 253 characters."""


@pytest.mark.parametrize(
    "domain", [LONGEST + "b", "a" * 64 + ".com", "", "a..com", ".com", "b\u00fccher.example", "a b", "a\n"]
)
async def test_policy_domain_whose_policy_host_cannot_be_a_host_name_is_not_asked_for(ca: Ca, domain: str) -> None:
    async with World(ca, Behaviour()) as world:
        with pytest.raises(errors.PolicyHostNotFound, match="is not a host name") as caught:
            await world.fetch(domain)
        assert caught.value.sentence.isprintable()
        assert world.resolver.queries == []


async def test_longest_policy_host_and_the_longest_label_are_asked_for(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        world.host.behaviours["*"] = Behaviour()
        for domain in (LONGEST, "a" * 63):
            world.resolver.put(f"mta-sts.{domain}", RRType.A, ["127.0.0.1"])
            assert (await world.fetch(domain)).body == POLICY


# -- TLS ---------------------------------------------------------------------------------------------------


def test_finite_field_diffie_hellman_is_not_offered() -> None:
    offered = client_tls(None)
    # With finite-field Diffie-Hellman of TLS 1.2 twelve fetches held up every lookup for 24 seconds.
    exchanges = {cipher["kea"] for cipher in offered.get_ciphers()}
    assert "kx-dhe" not in exchanges
    assert {"kx-any", "kx-ecdhe"} <= exchanges
    assert offered.security_level == ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).security_level


# -- RFC 8305 ----------------------------------------------------------------------------------------------

BLACK_HOLE = "127.0.99.1"


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Leave connections to ``BLACK_HOLE`` unanswered: its backlog is full."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((BLACK_HOLE, port))
        listener.listen(0)
        with socket.create_connection((BLACK_HOLE, port)), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex((BLACK_HOLE, port))
            yield


@pytest.mark.parametrize("dead", [RRType.A, RRType.AAAA])
async def test_dead_address_family_does_not_cost_the_whole_timeout(ca: Ca, dead: RRType) -> None:
    async with World(ca, Behaviour()) as world:
        await world.host.stop()
        await world.host.start("127.0.0.1", world.host.port)
        alive = RRType.AAAA if dead is RRType.A else RRType.A
        with black_hole(world.host.port):
            world.resolver.put(HOST, dead, [f"::ffff:{BLACK_HOLE}"])
            world.resolver.put(HOST, alive, ["::ffff:127.0.0.1"])
            started = time.monotonic()
            assert (await world.fetch()).body == POLICY
            assert time.monotonic() - started < 5  # and not the 10 s of the whole fetch


@pytest.mark.parametrize("silent", [RRType.A, RRType.AAAA])
async def test_unanswered_address_question_does_not_cost_the_whole_timeout(ca: Ca, silent: RRType) -> None:
    async with World(ca, Behaviour()) as world:
        world.resolver.forget(HOST, RRType.A)
        world.resolver.put(HOST, RRType.AAAA if silent is RRType.A else RRType.A, ["::ffff:127.0.0.1"])
        world.resolver.gates[HOST, silent] = asyncio.Event()
        started = time.monotonic()
        assert (await world.fetch()).body == POLICY
        assert time.monotonic() - started < 5  # and not the 10 s of the whole fetch


async def test_late_family_is_used_when_the_first_refuses(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        await world.host.stop()
        await world.host.start("127.0.0.1", world.host.port)
        world.resolver.put(HOST, RRType.A, ["127.0.0.9"])
        world.resolver.put(HOST, RRType.AAAA, ["::ffff:127.0.0.1"])
        gate = world.resolver.gates[HOST, RRType.AAAA] = asyncio.Event()
        fetch = asyncio.create_task(world.fetch())
        await advance(0.2)  # RFC 8305 section 3: the wait for AAAA is shorter
        assert not fetch.done()
        gate.set()
        assert (await fetch).body == POLICY


# -- failures of this host ---------------------------------------------------------------------------------


def own_failure(world: World) -> str | None:
    return world.fetcher.own_failure


async def test_missing_route_is_our_failure(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_route(*_: object, **__: object) -> TlsStream:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    async with World(ca, Behaviour()) as world:
        with monkeypatch.context() as patch:
            patch.setattr(TlsStream, "connect", no_route)
            with pytest.raises(errors.NoRoute, match="ENETUNREACH") as caught:
                await world.fetch()
        assert caught.value.tlsrpt_result is None
        # It is shown while this host has no route at all: a stranger chooses the family of a policy host.
        monkeypatch.setattr(client, "has_route", lambda: True)
        assert own_failure(world) is None
        monkeypatch.setattr(client, "has_route", lambda: False)
        assert "no route" in (own_failure(world) or "")
        await world.fetch()
        assert own_failure(world) is None


async def test_unreachable_resolver_is_our_failure(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        for rrtype in (RRType.A, RRType.AAAA):
            world.resolver.fail(HOST, rrtype, errors.DnsUnreachable("refused"))
        with pytest.raises(errors.ResolverUnreachable) as caught:
            await world.fetch()
        assert caught.value.tlsrpt_result is None


# -- proxy -------------------------------------------------------------------------------------------------


async def proxied(world: World, answer: bytes | None) -> tuple[FetchedBody, bytes]:
    """Fetch through a proxy that gives ``answer`` to CONNECT; None connects. Return the policy and the request."""
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer or b"HTTP/1.1 200 Connection established\r\n\r\n")
        if answer is None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", world.host.port)
            await asyncio.gather(copied(reader, far_writer), copied(far_reader, writer), return_exceptions=True)
            far_writer.transport.abort()
        writer.close()

    async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.write_eof()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    fetcher = HttpsPolicyFetcher(
        FakeResolver(), ca_file=world.settings["ca_file"], port=world.host.port, proxy=HostPort("127.0.0.1", port)
    )
    try:
        return await fetcher.fetch(DOMAIN, live=False), bytes(seen)
    finally:
        await fetcher.close()
        server.close()


async def test_proxy_connects_to_the_policy_host_by_its_name(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        fetched, request = await proxied(world, None)
        assert fetched.body == POLICY
        where = f"{HOST}:{world.host.port}"
        assert request == f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"HTTP/1.1 403 Forbidden by policy\r\n\r\n", "403 Forbidden by policy"),
        (b"SSH-2.0\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "no complete answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "no complete answer"),
    ],
)
async def test_proxy_that_does_not_connect_is_our_failure(ca: Ca, answer: bytes, detail: str) -> None:
    async with World(ca, Behaviour()) as world:
        with pytest.raises(errors.ProxyFailed, match=detail) as caught:
            await proxied(world, answer)
        assert caught.value.tlsrpt_result is None
