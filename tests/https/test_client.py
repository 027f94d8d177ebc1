"""Which policy host is connected to: its addresses, and what DNS says of them."""

import asyncio
import socket
import ssl
from contextlib import closing
from ipaddress import ip_network

import pytest

from mtasts_daemon import errors
from mtasts_daemon.https.client import client_tls
from mtasts_daemon.https.connector import NoNames
from mtasts_daemon.policy.dns_answer import RRType
from tests.fakes.ca import Ca, Flaw
from tests.fakes.https import POLICY, Behaviour
from tests.https.https_world import HOST, Run, World

# -- addresses ---------------------------------------------------------------------------------------------


def test_only_vetted_addresses_are_connected_to(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour(), allowed=(ip_network("127.0.0.2"),)) as world:
            world.resolver.put(HOST, RRType.A, ["127.0.0.1", "10.0.0.1", "127.0.0.2"])
            world.resolver.put(HOST, RRType.AAAA, ["::1", "fe80::1%lo", "not an address"])
            assert (await world.fetch()).body == POLICY
            assert world.host.connections == 1
            assert not world.host.requests[0].headers["host"].startswith("127.")

    run(check())


def test_a_name_is_never_looked_up_behind_our_back() -> None:
    with pytest.raises(OSError, match="not an address"):
        asyncio.run(NoNames().resolve("localhost"))


def test_a_policy_host_with_no_address_to_connect_to_is_refused_with_the_reason(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour(), allowed=()) as world:
            with pytest.raises(errors.PolicyAddressRefused, match=r"127\.0\.0\.1: loopback, RFC 1122"):
                await world.fetch()
            world.resolver.put(HOST, RRType.A, ["\x1b]0;title\x07"])
            with pytest.raises(errors.PolicyAddressRefused, match="not an IP address") as caught:
                await world.fetch()
            assert caught.value.sentence.isprintable()
            assert world.host.connections == 0

    run(check())


def test_this_host_is_not_connected_to(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour(), allowed=(), own=lambda: frozenset({socket_address})) as world:
            world.resolver.put(HOST, RRType.A, ["8.8.8.8"])
            with pytest.raises(errors.PolicyAddressRefused, match="of this host"):
                await world.fetch()

    socket_address = ip_network("8.8.8.8").network_address
    run(check())


def test_an_address_that_refuses_or_does_not_answer_gives_way_to_the_next(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour(), connect=0.2) as world:
            await world.host.stop()
            await world.host.start("127.0.0.1", world.host.port)
            with closing(socket.create_server(("127.0.0.3", world.host.port))):
                world.resolver.put(HOST, RRType.AAAA, ["::ffff:127.0.0.2"])
                world.resolver.put(HOST, RRType.A, ["127.0.0.3", "127.0.0.1"])
                assert (await world.fetch()).body == POLICY

    run(check())


def test_the_last_address_decides_when_none_can_be_connected_to(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour()) as world:
            await world.host.stop()
            world.resolver.put(HOST, RRType.A, [f"127.0.0.{number}" for number in range(1, 200)])
            with pytest.raises(errors.PolicyConnectFailed, match="Connection refused"):
                await world.fetch()

    run(check())


def test_a_bad_certificate_at_one_address_is_not_tried_again_at_the_next(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour(certificate=Flaw.EXPIRED)) as world:
            world.resolver.put(HOST, RRType.A, ["127.0.0.1", "127.0.0.2"])
            with pytest.raises(errors.WebPkiExpired):
                await world.fetch()
            assert world.host.connections == 1

    run(check())


# -- DNS ---------------------------------------------------------------------------------------------------


def test_a_and_aaaa_are_asked_for_once_each(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour()) as world:
            await world.fetch()
            assert sorted(world.resolver.queries) == [(HOST, RRType.A), (HOST, RRType.AAAA)]

    run(check())


def test_a_policy_host_without_an_address_is_told_from_one_that_dns_failed_for(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour()) as world:
            world.resolver.forget(HOST, RRType.A)
            with pytest.raises(errors.PolicyHostNotFound, match=HOST):
                await world.fetch()
            world.resolver.fail(HOST, RRType.AAAA, errors.DnsServerFailure("bogus"))
            with pytest.raises(errors.PolicyHostLookupFailed, match="bogus"):
                await world.fetch()

    run(check())


def test_one_failing_family_does_not_hide_the_other(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour()) as world:
            world.resolver.fail(HOST, RRType.AAAA, errors.DnsServerFailure())
            assert (await world.fetch()).body == POLICY

    run(check())


LONGEST = ".".join(["a" * 49, *["a" * 48] * 4])
"""Its policy host's name has 253 characters."""


@pytest.mark.parametrize(
    "domain", [LONGEST + "b", "a" * 64 + ".com", "", "a..com", ".com", "b\u00fccher.example", "a b", "a\n"]
)
def test_a_policy_domain_whose_policy_host_cannot_be_a_host_name_is_not_asked_for(
    run: Run[None], ca: Ca, domain: str
) -> None:
    async def check() -> None:
        async with World(ca, Behaviour()) as world:
            with pytest.raises(errors.PolicyHostNotFound, match="is not a host name") as caught:
                await world.fetch(domain)
            assert caught.value.sentence.isprintable()
            assert world.resolver.queries == []

    run(check())


def test_the_longest_policy_host_and_the_longest_label_are_asked_for(run: Run[None], ca: Ca) -> None:
    async def check() -> None:
        async with World(ca, Behaviour()) as world:
            world.host.behaviours["*"] = Behaviour()
            for domain in (LONGEST, "a" * 63):
                world.resolver.put(f"mta-sts.{domain}", RRType.A, ["127.0.0.1"])
                assert (await world.fetch(domain)).body == POLICY

    run(check())


# -- TLS ---------------------------------------------------------------------------------------------------


def test_no_policy_host_chooses_the_size_of_the_numbers_to_be_reckoned_with() -> None:
    offered = client_tls(None)
    # With finite-field Diffie-Hellman of TLS 1.2 twelve fetches held up every lookup for 24 seconds.
    exchanges = {cipher["kea"] for cipher in offered.get_ciphers()}
    assert "kx-dhe" not in exchanges
    assert {"kx-any", "kx-ecdhe"} <= exchanges
    assert offered.security_level == ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).security_level
