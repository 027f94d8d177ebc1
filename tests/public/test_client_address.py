"""The client's address, with and without proxies."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.public.client_address import UNIX_PEER, client_address, client_network, is_trusted

PROXIES = (ip_network("127.0.0.0/8"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["198.51.100.1, 203.0.113.9, 2001:db8::5"], "203.0.113.9"),
        ("127.0.0.1", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9, unknown"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("::ffff:127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        (UNIX_PEER, ["203.0.113.9"], "203.0.113.9"),
        (UNIX_PEER, [UNIX_PEER], UNIX_PEER),
    ],
)
def test_client_is_the_last_address_that_no_proxy_has(peer: str, forwarded: list[str], client: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == client


@given(st.text(max_size=40), st.lists(st.text(max_size=60), max_size=4))
def test_client_address_survives_any_header(peer: str, forwarded: list[str]) -> None:
    client_address(peer, forwarded, PROXIES)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_client_network_is_the_address_or_its_64(address: str, network: str) -> None:
    assert client_network(address) == network


def test_trust_covers_proxies_and_unix_sockets_only() -> None:
    assert is_trusted(UNIX_PEER, ())
    assert is_trusted("2001:db8::1", PROXIES)
    assert not is_trusted("192.0.2.1", PROXIES)
    assert not is_trusted("", PROXIES)
