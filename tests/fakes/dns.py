"""A DNS server with configured answers over UDP and TCP; it can misbehave for each name.

In a test::

    async with FakeDns({"example.com": ["MX 10 mx.example.com.", "! MX delay 0.2"]}) as dns:
        dns.address              # ("127.0.0.1", 40123)
        dns.load("...")          # another zone, while it runs
        dns.count("example.com", "MX")

By hand (SIGHUP reads the file again; a file that does not parse leaves the old zone in place)::

    python -m tests.fakes.dns --address 127.0.0.1 --port 5353 [--ad] zone.txt

The syntax of zones is in ``tests.fakes.dns_zone``; ``--help`` prints it.
"""

import argparse
import asyncio
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.fakes import dns_zone
from tests.fakes.dns_zone import Behaviour, Zone, ZoneData, respond

__all__ = ["FakeDns", "Query"]

_CACHE_MAX = 20_000
_QUERIES_MAX = 200_000


class Query(NamedTuple):
    """A received query: the name in lower case without the final dot, the type's mnemonic, the transport."""

    name: str
    rdtype: str
    tcp: bool = False


class FakeDns:
    """The server; an async context manager, or ``start`` and ``close``.

    Port 0 takes a free one, the same for UDP and TCP. ``queries`` keeps the last 200,000. Raises
    ``ValueError`` or ``dns.exception.DNSException`` for a zone that does not parse.
    """

    def __init__(
        self, zone: Zone = "", *, address: str = "127.0.0.1", port: int = 0, authenticated: bool = False
    ) -> None:
        self.address = (address, port)
        self.authenticated = authenticated
        self.queries: deque[Query] = deque(maxlen=_QUERIES_MAX)
        self._data = ZoneData(zone)
        self._cache: dict[tuple[bytes, bool], tuple[bytes, Query]] = {}
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._connections: set[asyncio.Transport] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    def load(self, zone: Zone) -> None:
        """Serve another zone from now on; one that does not parse raises and changes nothing."""
        self._data = ZoneData(zone)
        self._cache.clear()

    def count(self, name: str | None = None, rdtype: str | None = None, *, tcp: bool | None = None) -> int:
        """Return the number of received queries that match all arguments."""
        return sum(
            (name is None or query.name == name)
            and (rdtype is None or query.rdtype == rdtype)
            and (tcp is None or query.tcp is tcp)
            for query in self.queries
        )

    async def start(self) -> None:
        """Bind and answer. Raises OSError if the address is not available."""
        loop = asyncio.get_running_loop()
        address, port = self.address
        for attempt in range(20):
            self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), (address, port))
            bound = self._udp.get_extra_info("sockname")[1]
            try:
                self._tcp = await loop.create_server(lambda: _Tcp(self, self._connections), address, bound)
            except OSError:
                self._udp.abort()
                if port or attempt == 19:
                    raise
            else:
                self.address = (address, bound)
                return

    async def close(self) -> None:
        """Stop answering and drop every connection and pending reply."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        for connection in tuple(self._connections):
            connection.abort()
        self._udp = self._tcp = None
        await asyncio.sleep(0)

    def answer(self, wire: bytes, asker: "_Asker") -> None:
        """Answer one query, at once or later."""
        cached = self._cache.get((wire[2:], asker.tcp))
        if cached is not None:
            self.queries.append(cached[1])
            asker.send(wire[:2] + cached[0])
            return
        try:
            query = dns.message.from_wire(wire)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return
        name = question.name.to_text(omit_final_dot=True).lower()
        seen = Query("" if name == "." else name, dns.rdatatype.to_text(question.rdtype), asker.tcp)
        self.queries.append(seen)
        behaviour = self._data.behaviour(question.name, question.rdtype)
        if behaviour.truncate and not asker.tcp:
            behaviour = Behaviour(truncate=True)
        reply = self._reply(query, behaviour, asker.tcp)
        if behaviour.delay:
            self._later(behaviour.delay, lambda: _deliver(query, behaviour, reply, asker))
            return
        if not (behaviour.silent or behaviour.cut or behaviour.forge) and len(self._cache) < _CACHE_MAX:
            self._cache[wire[2:], asker.tcp] = (reply[2:], seen)
        _deliver(query, behaviour, reply, asker)

    def _reply(self, query: dns.message.Message, behaviour: Behaviour, tcp: bool) -> bytes:
        if behaviour.garbage is not None:
            return query.id.to_bytes(2, "big") + behaviour.garbage
        response = respond(self._data, query, self.authenticated)
        wire = response.to_wire(max_size=65535, want_shuffle=False)
        if not tcp and (behaviour.truncate or len(wire) > max(512, query.payload)):
            response.answer.clear()
            response.authority.clear()
            response.flags |= dns.flags.TC
            response.set_rcode(dns.rcode.NOERROR)
            wire = response.to_wire()
        return wire

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        def due() -> None:
            self._timers.discard(timer)
            act()

        timer = asyncio.get_running_loop().call_later(delay, due)
        self._timers.add(timer)


def _deliver(query: dns.message.Message, behaviour: Behaviour, reply: bytes, asker: "_Asker") -> None:
    if asker.tcp and behaviour.cut:
        asker.cut()
        return
    for forgery in sorted(behaviour.forge) if not asker.tcp else ():
        forged = dns.message.make_response(query, recursion_available=True)
        name, rdtype = query.question[0].name, query.question[0].rdtype
        if forgery == "forge-id":
            forged.id ^= 0x5555
        elif forgery == "forge-name":
            name = dns.name.from_text("forged.invalid")
        elif forgery == "forge-type":
            rdtype = dns.rdatatype.HINFO
        forged.question[0] = dns.rrset.RRset(name, dns.rdataclass.IN, rdtype)
        if forgery == "forge-port":
            asker.send_from_elsewhere(forged.to_wire())
        else:
            asker.send(forged.to_wire())
    if not behaviour.silent:
        asker.send(reply)


class _Asker(Protocol):
    """The connection to the client."""

    tcp: bool

    def send(self, wire: bytes) -> None: ...

    def send_from_elsewhere(self, wire: bytes) -> None: ...

    def cut(self) -> None: ...


class _UdpAsker:
    tcp = False

    def __init__(self, transport: asyncio.DatagramTransport, address: tuple[str, int]) -> None:
        self._transport = transport
        self._address = address

    def send(self, wire: bytes) -> None:
        self._transport.sendto(wire, self._address)

    def send_from_elsewhere(self, wire: bytes) -> None:
        own: socket.socket = self._transport.get_extra_info("socket")
        with socket.socket(own.family, socket.SOCK_DGRAM) as stranger:
            stranger.bind((own.getsockname()[0], 0))
            stranger.sendto(wire, self._address)

    def cut(self) -> None:
        raise AssertionError("UDP has no connection")


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: FakeDns) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override] # as asyncio says
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.answer(data, _UdpAsker(self._transport, addr))


class _Tcp(asyncio.Protocol):
    tcp = True

    def __init__(self, server: FakeDns, connections: set[asyncio.Transport]) -> None:
        self._server = server
        self._connections = connections
        self._buffer = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as asyncio says
        self._transport = transport
        self._connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + (size := int.from_bytes(self._buffer[:2], "big")):
            wire, self._buffer = self._buffer[2 : 2 + size], self._buffer[2 + size :]
            self._server.answer(wire, self)

    def send(self, wire: bytes) -> None:
        self._transport.write(len(wire).to_bytes(2, "big") + wire)

    def send_from_elsewhere(self, wire: bytes) -> None:
        raise AssertionError("TCP is not forged")

    def cut(self) -> None:
        self._transport.abort()


async def _serve(path: Path, server: FakeDns) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    async with server:

        def reload() -> None:
            try:
                server.load(path.read_text())
                print(f"read {path} again", file=sys.stderr, flush=True)
            except (OSError, ValueError, dns.exception.DNSException) as error:
                print(f"{path}: {error}; the old zone stays", file=sys.stderr, flush=True)

        loop.add_signal_handler(signal.SIGHUP, reload)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        print(*server.address, flush=True)
        await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fakes.dns",
        description=dns_zone.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("zone", type=Path, help="the zone file")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5353)
    parser.add_argument("--ad", action="store_true", help="answers are authenticated until a directive says otherwise")
    given = parser.parse_args()
    server = FakeDns(given.zone.read_text(), address=given.address, port=given.port, authenticated=given.ad)
    asyncio.run(_serve(given.zone, server))


if __name__ == "__main__":
    main()
