"""Reject addresses of policy hosts that must not be connected to.

The owner of a domain controls its DNS answers. An address there may point at a machine that only this host can reach:
itself, its network, the far end of a tunnel. Rejected are all networks of the IANA IPv4 and IPv6 Special-Purpose
Address Registries, everything that is not global unicast, and this host's own addresses.
"""

from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

__all__ = ["Address", "IPNetwork", "embedded_ipv4", "network_prefix", "refusal_reason"]

Address = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_V4 = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this network, RFC 791"),
        ("10.0.0.0/8", "private use, RFC 1918"),
        ("100.64.0.0/10", "shared address space, RFC 6598"),
        ("127.0.0.0/8", "loopback, RFC 1122"),
        ("169.254.0.0/16", "link-local, RFC 3927"),
        ("172.16.0.0/12", "private use, RFC 1918"),
        ("192.0.0.0/24", "IETF protocol assignments, RFC 6890"),
        ("192.0.2.0/24", "documentation, RFC 5737"),
        ("192.31.196.0/24", "AS112, RFC 7535"),
        ("192.52.193.0/24", "AMT, RFC 7450"),
        ("192.88.99.0/24", "6to4 relay anycast, RFC 7526"),
        ("192.168.0.0/16", "private use, RFC 1918"),
        ("192.175.48.0/24", "AS112, RFC 7534"),
        ("198.18.0.0/15", "benchmarking, RFC 2544"),
        ("198.51.100.0/24", "documentation, RFC 5737"),
        ("203.0.113.0/24", "documentation, RFC 5737"),
        ("224.0.0.0/4", "multicast, RFC 5771"),
        ("255.255.255.255/32", "limited broadcast, RFC 919"),
        ("240.0.0.0/4", "reserved, RFC 1112"),
    )
)

_V6 = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "unspecified, RFC 4291"),
        ("::1/128", "loopback, RFC 4291"),
        ("::/96", "IPv4-compatible, RFC 4291"),
        ("64:ff9b:1::/48", "local-use IPv4/IPv6 translation, RFC 8215"),
        ("100::/64", "discard-only, RFC 6666"),
        ("100:0:0:1::/64", "dummy prefix, RFC 9780"),
        ("2001::/32", "Teredo, RFC 4380"),
        ("2001:10::/28", "ORCHID, RFC 4843"),
        ("2001:20::/28", "ORCHIDv2, RFC 7343"),
        ("2001::/23", "IETF protocol assignments, RFC 2928"),
        ("2001:db8::/32", "documentation, RFC 3849"),
        ("2002::/16", "6to4, RFC 3056"),
        ("2620:4f:8000::/48", "AS112, RFC 7534"),
        ("3fff::/20", "documentation, RFC 9637"),
        ("5f00::/16", "segment routing, RFC 9602"),
        ("fc00::/7", "unique local, RFC 4193"),
        ("fe80::/10", "link-local, RFC 4291"),
        ("fec0::/10", "site-local, RFC 3879"),
        ("ff00::/8", "multicast, RFC 4291"),
    )
)

_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")


def refusal_reason(address: str | Address, allowed: tuple[IPNetwork, ...], own: Container[Address]) -> str | None:
    """Return why ``address`` must not be connected to, or None if it may be.

    ``allowed`` networks take precedence. ``own`` are the addresses of this host. Of an IPv4-mapped address, and of one
    in 64:ff9b::/96 (NAT64), the embedded IPv4 address is checked. The other tunnels (6to4, Teredo, IPv4-compatible) are
    rejected.
    """
    if isinstance(address, str):
        try:
            address = ip_address(address)
        except ValueError:
            return "not an IP address"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "an address with a zone, RFC 4007"
    outer, address = address, embedded_ipv4(address)
    if any(outer in network or address in network for network in allowed):
        return None
    if address in own:
        return "an address of this host"
    for network, reason in _V4 if isinstance(address, IPv4Address) else _V6:
        if address in network:
            return reason
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "not global unicast, RFC 4291"
    # Networks that later versions of the registries, and of ipaddress, add.
    return None if address.is_global else "not globally reachable"


def embedded_ipv4(address: Address) -> Address:
    """Return the IPv4 address in an IPv4-mapped or NAT64 address, or ``address`` itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            # RFC 6052 section 2.2: with a /96 the last 32 bits
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def network_prefix(address: Address) -> tuple[int, int]:
    """Return a key for the network of ``address``: its IPv4 /24 or its IPv6 /56."""
    address = embedded_ipv4(address)
    return (4, int(address) >> 8) if isinstance(address, IPv4Address) else (6, int(address) >> 72)
