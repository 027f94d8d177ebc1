"""The addresses of this host, so that no policy host can make it connect to itself."""

import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from .address_filter import Address

__all__ = ["OwnAddresses"]

_READ_LIMIT = 4 << 20
"""Octets of a kernel table; a router's table of routes may be larger, and is then read in part."""


class OwnAddresses:
    """Reads Linux's tables of local addresses, no more often than once in ``hold`` seconds.

    Where a table is missing (another kernel, another sandbox) its addresses are not known, and nothing is raised.
    ``/proc/self`` is there under systemd's ``ProcSubset=pid`` too, and needs no netlink socket.
    """

    def __init__(
        self, folder: Path = Path("/proc/self/net"), hold: float = 60.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._hold = hold
        self._monotonic = monotonic
        self._read_at: float | None = None
        self._known: frozenset[Address] = frozenset()

    def __call__(self) -> frozenset[Address]:
        """All addresses of all interfaces, the loopback's included."""
        now = self._monotonic()
        if self._read_at is None or now - self._read_at >= self._hold:
            self._read_at = now
            self._known = frozenset((*_ipv4(self._read("fib_trie")), *_ipv6(self._read("if_inet6"))))
        return self._known

    def _read(self, name: str) -> list[str]:
        try:
            with (self._folder / name).open(encoding="ascii", errors="replace") as table:
                return table.read(_READ_LIMIT).splitlines()
        except OSError:
            return []


def _ipv4(lines: list[str]) -> Iterator[IPv4Address]:
    """Of fib_trie's leaves (``|-- ADDRESS``) those with a line ``/32 host LOCAL`` under them."""
    leaf = ""
    for line in lines:
        words = line.split()
        if words[:1] == ["|--"] and len(words) == 2:
            leaf = words[1]
        elif words == ["/32", "host", "LOCAL"]:
            try:
                yield IPv4Address(leaf)
            except ValueError:
                continue


def _ipv6(lines: list[str]) -> Iterator[IPv6Address]:
    """The first column of if_inet6: 32 hexadecimal digits."""
    for line in lines:
        try:
            yield IPv6Address(bytes.fromhex(line.split()[0]))
        except (ValueError, IndexError):
            continue
