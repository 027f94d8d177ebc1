"""Send DNS queries to one resolver: over a few UDP sockets shared by many queries, and over TCP for long replies.

A forger off the path must guess the random source port, which the kernel chooses, and one of 65536 random ids. Sockets
are connected, so the kernel drops datagrams from other addresses and ports (RFC 5452 section 9), and are replaced
regularly.
"""

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from ..counters import Durations
from ..errors import DnsError
from ..policy.dns_answer import DnsAnswer, RRType
from . import message

__all__ = ["DnsCounters", "Exchange", "Network", "UnusableAddress", "Upstream", "is_trusted"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UDP_LIMIT: Final = 4096
"""A reply of at least this size may have been cut by the kernel, and is requested again over TCP."""

_SOCKETS: Final = 8
_SOCKET_QUERIES: Final = 2000
_SOCKET_SECONDS: Final = 60.0
_BURST: Final = 64
"""Replies read at one wake-up, so that a flood cannot block the loop."""
_RECEIVE_BUFFER: Final = 1 << 20


@dataclass(slots=True)
class DnsCounters:
    """Counts since the start."""

    queries: dict[RRType, int] = field(default_factory=lambda: dict.fromkeys(RRType, 0))
    """Questions asked, by type; each counts once, however often it was sent."""
    failures: dict[tuple[RRType, str], int] = field(default_factory=dict)
    """Questions that ended in an error, by type and the error's slug."""
    retries: int = 0
    """Questions sent once more, to the same resolver or another one."""
    unexpected: int = 0
    """Replies dropped because no query with their id was waiting at their port: late, or forged."""
    mismatched: int = 0
    """Replies dropped because they repeat another question than the one with their id: forged."""
    tcp_fallbacks: int = 0
    """Questions asked again over TCP because the reply did not fit."""
    durations: Durations = field(default_factory=Durations)
    """Times of answered questions."""


class Exchange:
    """One question in flight, and the future of its answer."""

    __slots__ = (
        "deadline",
        "edns",
        "error",
        "future",
        "losses",
        "message_id",
        "name",
        "question",
        "rdtype",
        "refusals",
        "retry_at",
        "upstream",
        "waiting",
    )

    def __init__(
        self, name: str, rdtype: RRType, question: bytes, deadline: float, future: "asyncio.Future[DnsAnswer[Any]]"
    ) -> None:
        self.name = name
        self.rdtype = rdtype
        self.question = question
        self.deadline = deadline
        self.future = future
        self.retry_at = deadline
        self.refusals = 0
        self.losses = 0
        """Tries that the network refused to carry."""
        self.edns = True
        self.error: DnsError | None = None
        self.upstream: Upstream
        self.message_id = 0
        self.waiting: dict[int, Exchange] = {}
        """The socket's exchanges, in which this one waits for a UDP reply under ``message_id``."""

    def forget(self) -> None:
        """Stop waiting for a UDP reply; one that still arrives is late."""
        if self.waiting.get(self.message_id) is self:
            del self.waiting[self.message_id]


class _Socket:
    """One connected UDP socket and the exchanges that wait for its replies."""

    __slots__ = ("left", "retire_at", "socket", "waiting")

    def __init__(self, connected: socket.socket, retire_at: float) -> None:
        self.socket = connected
        self.waiting: dict[int, Exchange] = {}
        self.left = _SOCKET_QUERIES
        self.retire_at = retire_at


_FORWARDERS: Final = frozenset({ipaddress.ip_address("127.0.0.11")})

Received = Callable[[Exchange, bytes], None]
Lost = Callable[[list[Exchange], OSError], None]


class UnusableAddress(Exception):
    """An address that this host cannot use now, such as one with the zone of a missing interface."""


class Upstream:
    """One resolver. Opens nothing before the first query; belongs to one event loop.

    ``received`` is called with each reply that matches its exchange, ``lost`` with the exchanges whose query or
    reply the network refused to carry. ``rank`` is the place in the list of resolvers. Raises ValueError when
    the address is not a numeric one.
    """

    def __init__(
        self,
        rank: int,
        address: str,
        port: int,
        *,
        trust_ad: Iterable[Network],
        counters: DnsCounters,
        received: Received,
        lost: Lost,
    ) -> None:
        self.rank = rank
        self.address = address
        self.port = port
        self.trusted = is_trusted(address, trust_ad)
        self.silences = 0
        """Consecutive tries without a reply."""
        self.edns = True
        """False once the resolver has shown that it rejects EDNS."""
        try:
            numeric = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror as error:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise ValueError(f"not an IP address: {address!r}") from error
            raise UnusableAddress(error.strerror or str(error)) from error
        self._family: socket.AddressFamily = numeric[0][0]
        self._peer: tuple[Any, ...] = numeric[0][4]
        self._counters = counters
        self._received = received
        self._lost = lost
        self._sockets: list[_Socket] = []
        self._retired: list[_Socket] = []

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def send(self, exchange: Exchange, now: float) -> None:
        """Send the query over UDP; ``received`` or ``lost`` may follow, ``lost`` even before this returns."""
        exchange.upstream = self
        random = int.from_bytes(os.urandom(4), "big")
        try:
            chosen = self._choose(random >> 16, now)
        except OSError as error:
            self._lost([exchange], error)
            return
        waiting = chosen.waiting
        message_id = random & 0xFFFF
        while message_id in waiting:
            message_id = int.from_bytes(os.urandom(2), "big")
        waiting[message_id] = exchange
        exchange.message_id = message_id
        exchange.waiting = waiting
        try:
            chosen.socket.send(message.encode_query(message_id, exchange.question, edns=exchange.edns and self.edns))
        except BlockingIOError:
            return  # the same as a lost packet: there is another try
        except OSError as error:
            self._give_up(chosen, error)

    def tidy(self) -> None:
        """Close the retired sockets at which no exchange waits."""
        if self._retired:
            done = [retired for retired in self._retired if not retired.waiting]
            self._retired = [retired for retired in self._retired if retired.waiting]
            for retired in done:
                _close(retired)

    def is_open(self) -> bool:
        """Return True if any socket is open."""
        return bool(self._sockets or self._retired)

    def close(self) -> None:
        """Close every socket, even if exchanges wait there."""
        for opened in self._sockets + self._retired:
            _close(opened)
        self._sockets, self._retired = [], []

    def retire(self) -> None:
        """Send no more queries; ``tidy`` closes the sockets after the last replies."""
        self._retired += self._sockets
        self._sockets = []

    async def ask_over_tcp(self, question: bytes, *, edns: bool = True) -> bytes:
        """Return the whole reply to a question, over a TCP connection of its own (RFC 7766).

        Raises OSError, or EOFError when the connection ends early. The caller sets the deadline.
        """
        message_id = int.from_bytes(os.urandom(2), "big")
        query = message.encode_query(message_id, question, edns=edns and self.edns)
        reader, writer = await asyncio.open_connection(self.address, self.port)
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.transport.abort()
        return reply if reply[:2] == query[:2] else b""

    def _choose(self, random: int, now: float) -> _Socket:
        at = min(random % _SOCKETS, len(self._sockets))
        current = self._sockets[at] if at < len(self._sockets) else None
        if current is None or current.left <= 0 or now >= current.retire_at:
            try:
                fresh = self._open(now)
            except OSError:
                if not self._sockets:
                    raise
                return self._sockets[at - 1]  # perhaps no descriptor is free: keep using an old socket
            if current is not None:
                self._retired.append(current)
            self._sockets[at : at + 1] = [fresh]
            current = fresh
        current.left -= 1
        return current

    def _open(self, now: float) -> _Socket:
        opened = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            opened.connect(self._peer)
            fresh = _Socket(opened, now + _SOCKET_SECONDS)
            asyncio.get_running_loop().add_reader(opened.fileno(), self._read, fresh)
        except OSError:
            opened.close()
            raise
        return fresh

    def _read(self, readable: _Socket) -> None:
        waiting, receive = readable.waiting, readable.socket.recv
        for _ in range(_BURST):
            try:
                reply = receive(UDP_LIMIT)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error: port or host unreachable
                self._give_up(readable, error)
                return
            exchange = waiting.get(int.from_bytes(reply[:2], "big"))
            if exchange is None:
                self._counters.unexpected += 1
            elif not message.matches(reply, exchange.question):
                self._counters.mismatched += 1
            else:
                del waiting[exchange.message_id]
                self._received(exchange, reply)
                if not waiting:
                    return  # saves a call that finds nothing; if there is more, the loop calls again

    def _give_up(self, broken: _Socket, error: OSError) -> None:
        """Close a socket that reported an error: libuv, which uvloop uses, stops watching it."""
        self._sockets = [opened for opened in self._sockets if opened is not broken]
        self._retired = [opened for opened in self._retired if opened is not broken]
        _close(broken)
        lost = list(broken.waiting.values())
        broken.waiting.clear()
        self._lost(lost, error)


def _close(opened: _Socket) -> None:
    asyncio.get_running_loop().remove_reader(opened.socket.fileno())
    opened.socket.close()


def is_trusted(address: str, networks: Iterable[Network]) -> bool:
    """Return True if the AD bit of the resolver at ``address`` is trusted: on loopback, or in ``networks``.

    Docker's forwarder has a loopback address, but passes on the bit of a resolver elsewhere.
    """
    numeric = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(numeric, ipaddress.IPv6Address) and numeric.ipv4_mapped:
        numeric = numeric.ipv4_mapped
    if any(numeric in network for network in networks):
        return True
    return numeric.is_loopback and numeric not in _FORWARDERS
