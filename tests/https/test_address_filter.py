"""Addresses that a policy host may not have: the IANA special-purpose registries, tunnels, and this host."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from mtasts_daemon.https.address_filter import embedded_ipv4, network_prefix, refusal_reason

REFUSED = (
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "IETF"),
    ("192.0.2.0/24", "documentation"),
    ("192.31.196.0/24", "AS112"),
    ("192.52.193.0/24", "AMT"),
    ("192.88.99.0/24", "6to4 relay"),
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "AS112"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/5", "reserved"),
    ("255.255.255.255/32", "broadcast"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::8.8.8.0/120", "compatible"),
    ("::ffff:10.0.0.0/104", "private"),
    ("::ffff:127.0.0.0/104", "loopback"),
    ("::ffff:0:8.8.8.0/120", "not global unicast"),
    ("64:ff9b::10.0.0.0/104", "private"),
    ("64:ff9b::127.0.0.0/104", "loopback"),
    ("64:ff9b:1::/48", "translation"),
    ("100::/64", "discard"),
    ("100:0:0:1::/64", "dummy"),
    ("2001::/32", "Teredo"),
    ("2001:1::/32", "IETF"),
    ("2001:2::/48", "IETF"),
    ("2001:10::/28", "ORCHID"),
    ("2001:20::/28", "ORCHIDv2"),
    ("2001:1ff::/32", "IETF"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("2620:4f:8000::/48", "AS112"),
    ("3fff::/20", "documentation"),
    ("4000::/3", "not global unicast"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "unique local"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)

PERMITTED = (
    "1.0.0.0",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2000::1",
    "2001:200::",
    "2001:db7:ffff::",
    "2001:db9::",
    "2003::",
    "2606:4700::1111",
    "3ffe::",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
)


@pytest.mark.parametrize(("network", "reason"), REFUSED)
def test_first_and_the_last_address_of_a_special_purpose_network_are_refused(network: str, reason: str) -> None:
    parsed = ip_network(network)
    for address in (parsed[0], parsed[-1]):
        found = refusal_reason(str(address), (), frozenset())
        assert found is not None
        assert reason in found


@pytest.mark.parametrize("address", PERMITTED)
def test_public_address_may_be_connected_to(address: str) -> None:
    assert refusal_reason(address, (), frozenset()) is None
    assert refusal_reason(ip_address(address), (), frozenset()) is None


@pytest.mark.parametrize("address", ["", "localhost", "1", "127.1", "0x7f.0.0.1", "0177.0.0.1", "1.2.3.4/32", "[::1]"])
def test_text_that_is_not_one_whole_address_is_refused(address: str) -> None:
    assert refusal_reason(address, (ip_network("0.0.0.0/0"), ip_network("::/0")), frozenset()) == "not an IP address"


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700::1111%1"])
def test_address_with_a_zone_is_refused_even_in_an_allowed_network(address: str) -> None:
    assert "zone" in str(refusal_reason(address, (ip_network("::/0"),), frozenset()))


def test_allowed_network_wins_over_the_registries_and_over_this_host() -> None:
    own = frozenset({ip_address("10.1.2.3")})
    assert refusal_reason("10.1.2.3", (ip_network("192.168.0.0/16"),), own) == "an address of this host"
    assert refusal_reason("10.1.2.3", (ip_network("192.168.0.0/16"), ip_network("10.1.0.0/16")), own) is None
    assert refusal_reason("10.2.0.0", (ip_network("10.1.0.0/16"),), own) is not None


@pytest.mark.parametrize("address", ["::ffff:10.1.2.3", "64:ff9b::10.1.2.3"])
def test_allowing_an_ipv4_network_allows_its_mapped_and_nat64_forms(address: str) -> None:
    assert refusal_reason(address, (ip_network("10.1.0.0/16"),), frozenset()) is None


@pytest.mark.parametrize("address", ["::10.1.2.3", "2002:a01:203::1", "2001:0:a01:203::f5fe:fdfc"])
def test_allowing_an_ipv4_network_allows_no_tunnel_to_it(address: str) -> None:
    assert refusal_reason(address, (ip_network("10.1.0.0/16"),), frozenset()) is not None


@pytest.mark.parametrize("address", ["2002:808:808::1", "2001:0:808:808::f7f7:f7f7", "::8.8.8.8", "64:ff9b:1::808:808"])
def test_tunnel_to_a_public_address_is_refused(address: str) -> None:
    assert refusal_reason(address, (), frozenset()) is not None


def test_tunnel_is_allowed_by_its_own_network() -> None:
    assert refusal_reason("2002:808:808::1", (ip_network("2002::/16"),), frozenset()) is None


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_this_host_is_refused_in_every_form(address: str) -> None:
    own = frozenset({ip_address("8.8.8.8"), ip_address("2606:4700::1")})
    assert refusal_reason(address, (), own) == "an address of this host"
    assert refusal_reason("2606:4700::1", (), own) == "an address of this host"
    assert refusal_reason("2606:4700::2", (), own) is None


def test_packet_to_a_mapped_or_nat64_address_ends_at_the_ipv4_address() -> None:
    assert embedded_ipv4(IPv6Address("::ffff:1.2.3.4")) == IPv4Address("1.2.3.4")
    assert embedded_ipv4(IPv6Address("64:ff9b::1.2.3.4")) == IPv4Address("1.2.3.4")
    assert embedded_ipv4(IPv6Address("2606:4700::1")) == IPv6Address("2606:4700::1")
    assert embedded_ipv4(IPv4Address("1.2.3.4")) == IPv4Address("1.2.3.4")


def test_neighbours_share_a_slash_24_or_a_slash_56() -> None:
    def near(one: str, other: str) -> bool:
        return network_prefix(ip_address(one)) == network_prefix(ip_address(other))

    assert near("8.8.8.0", "8.8.8.255")
    assert not near("8.8.8.255", "8.8.9.0")
    assert near("2606:4700:0:ab00::", "2606:4700:0:abff:ffff::")
    assert not near("2606:4700:0:abff:ffff::", "2606:4700:0:ac00::")
    assert near("64:ff9b::8.8.8.8", "8.8.8.1")
    assert not near("64:ff9b::8.8.8.8", "64:ff9b::8.8.9.8")
