"""The addresses of this host, so that no policy host can make it connect to itself."""

import fcntl
import socket
import struct
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from .address_filter import Address

__all__ = ["LocalAddresses", "has_route"]

_SIOCGIFCONF = 0x8912
_IFCONF_SIZE = 1 << 18
"""Bytes for the list of IPv4 addresses: room for 6,500."""
_IFREQ_SIZE = 40 if struct.calcsize("P") == 8 else 32


_FAR = ((socket.AF_INET, "198.41.0.4"), (socket.AF_INET6, "2001:503:ba3e::2:30"))
"""Public addresses, those of a.root-servers.net."""


def has_route() -> bool:
    """Return True if this host has a route to public addresses, in IPv4 or IPv6. Nothing is sent."""
    for family, address in _FAR:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return True
    return False


class LocalAddresses(Collection[Address]):
    """All addresses of this host. ``in`` asks the kernel, which costs four system calls; iterating lists them.

    The kernel sends packets for an own address from that very address. Connecting a UDP socket sends nothing. The
    kernel's table of local addresses in /proc contains all routes, which are a million on a router.
    """

    def __init__(self, if_inet6: Path = Path("/proc/self/net/if_inet6")) -> None:
        self._if_inet6 = if_inet6

    def __call__(self) -> "LocalAddresses":
        """Return the addresses as of now."""
        return self

    def __contains__(self, address: object) -> bool:
        """Return True if ``address`` belongs to this host; False also if the kernel has no route to it."""
        if not isinstance(address, Address):
            return False
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                # Any port will do, because nothing is sent; 9 is discard.
                probe.connect((str(address), 9))
                return bool(probe.getsockname()[0] == str(address))
        except OSError:
            return False

    def __iter__(self) -> Iterator[Address]:
        yield from _ipv4()
        yield from _ipv6(self._if_inet6)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _ipv4() -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses of the interfaces, netdevice(7); none if the kernel does not list them."""
    space = array("B", bytes(_IFCONF_SIZE))
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("iP", len(space), space.buffer_info()[0])
        (length, _) = struct.unpack("iP", fcntl.ioctl(any_socket, _SIOCGIFCONF, request))
        for start in range(0, length, _IFREQ_SIZE):
            # ifr_name has 16 bytes; the address is in the second four bytes of the sockaddr_in behind it.
            yield IPv4Address(space[start + 20 : start + 24].tobytes())


def _ipv6(if_inet6: Path) -> Iterator[IPv6Address]:
    """Yield the first column of if_inet6: 32 hexadecimal digits."""
    try:
        lines = if_inet6.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError, IndexError):
            yield IPv6Address(bytes.fromhex(line.split()[0]))
