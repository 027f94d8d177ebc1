"""The address of the client behind a trusted reverse proxy, and the network that limits apply to."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

__all__ = ["UNIX_PEER", "client_address", "client_network", "is_trusted"]

UNIX_PEER = "unix"
"""Peer of a Unix socket: always a proxy of this host, so it is trusted."""

_MAX_HOPS = 16
"""Entries of X-Forwarded-For that are read, from the right."""

Networks = Sequence[IPv4Network | IPv6Network]


@lru_cache(maxsize=1024)  # parsed twice for each connection, and proxies open many
def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            address = IPv6Address(int(address))
        return address.ipv4_mapped or address
    return address


def is_trusted(peer: str, proxies: Networks) -> bool:
    """Return True if ``peer`` is a Unix socket or belongs to one of the proxies' networks."""
    if peer == UNIX_PEER:
        return True
    address = _parsed(peer)
    return address is not None and any(address in network for network in proxies)


def client_address(peer: str, forwarded_for: Sequence[str], proxies: Networks) -> str:
    """Return the client's address: the right-most address of X-Forwarded-For that is not a trusted proxy.

    ``forwarded_for`` holds the values of that header in order. It is ignored if ``peer`` is not trusted, because any
    client can send it. An entry that is not an address ends the search: the entries left of it were not
    written by a trusted proxy either.
    """
    client = peer
    hops = [hop for value in forwarded_for for hop in value.split(",")][-_MAX_HOPS:]
    for hop in reversed(hops):
        if not is_trusted(client, proxies):
            break
        address = _parsed(hop.strip())
        if address is None:
            break
        client = str(address)
    return client


def client_network(address: str) -> str:
    """Return the network that per-client limits count by: the address for IPv4, its /64 for IPv6."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed) if parsed is not None else address
