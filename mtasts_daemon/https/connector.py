"""aiohttp's connector, bounded below HTTP and barred from names.

aiohttp 3.11 limits a line of the head but not their number, and no version limits chunk extensions, trailers or
interim responses; so the octets of a whole connection are counted before aiohttp sees them.
"""

import asyncio
import socket
import ssl

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from .. import errors
from ..policy.mtasts import MAX_BODY

__all__ = ["MAX_RECEIVED", "BoundedConnector", "NoNames"]

MAX_RECEIVED = 4 * MAX_BODY
"""Octets of one connection, TLS apart: a body, its head, and the waste of small chunks."""


class BoundedConnector(aiohttp.TCPConnector):
    """Connects to addresses only, lets ``MAX_RECEIVED`` octets through, and drops a connection at its end.

    Nothing is pooled: aiohttp knows a connection by its address, not by the name its certificate was checked for.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(resolver=NoNames(), ssl=tls, force_close=True, limit=0)
        self._connected: set[asyncio.Transport] = set()

    def drop(self) -> None:
        """Abort every connection; ``close`` alone waits for each peer's close_notify in aiohttp 3.11."""
        for transport in self._connected:
            transport.abort()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  the name is aiohttp's
    ) -> aiohttp.connector.Connection:
        """As aiohttp's, with the counter put in between."""
        connection = await super().connect(req, traces, timeout)
        transport, protocol = connection.transport, connection.protocol
        if transport is not None and protocol is not None:
            transport.set_protocol(_Bounded(protocol, transport))
            self._connected.add(transport)
            connection.add_callback(lambda: self._ended(transport))
        return connection

    def _ended(self, transport: asyncio.Transport) -> None:
        # without waiting for the peer's close_notify: a hostile one would keep the socket open beyond its slot
        self._connected.discard(transport)
        transport.abort()


class NoNames(AbstractResolver):
    """Resolves nothing; aiohttp's own choice would be a resolver that bypasses the vetting."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Always ``OSError``."""
        raise OSError(f"{host} is not an address")

    async def close(self) -> None:
        """Nothing is held."""


class _Bounded(asyncio.Protocol):
    """Stands between the transport and aiohttp's protocol, and counts."""

    def __init__(self, protocol: asyncio.Protocol, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self._left = MAX_RECEIVED

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            self._protocol.data_received(data)
        else:
            self._protocol.connection_lost(errors.PolicyTooLarge(f"more than {MAX_RECEIVED} octets came"))
            self._transport.abort()

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._left >= 0:
            # in our own words, because aiohttp would take its own as leave to connect and ask once more
            lost = "closed" if exc is None else f"lost ({type(exc).__name__})"
            self._protocol.connection_lost(
                errors.PolicyHttpBroken(f"the connection was {lost} before the answer ended")
            )

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
