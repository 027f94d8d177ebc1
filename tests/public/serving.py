"""A public server on a socket of its own, and a raw client for it."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network

from mtasts_daemon.config import Config
from mtasts_daemon.config.sections.public import PublicSettings
from mtasts_daemon.public.counters import PublicCounters
from mtasts_daemon.public.server import PublicServer

BODY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 86400\r\n"
POLICIES: Mapping[bytes, bytes | None] = {b"mta-sts.example.com": BODY}
LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass
class Served:
    """A running server. ``ask`` sends bytes and returns all that comes back until the server closes or is silent."""

    server: PublicServer
    sock: socket.socket
    port: int
    counters: PublicCounters
    clients: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, tls: ssl.SSLContext | None = None, name: str = "") -> "Client":
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=tls, server_hostname=name if tls else None
        )
        self.clients.append(writer)
        return Client(reader, writer)

    async def ask(self, request: bytes) -> bytes:
        client = await self.connect()
        return await client.ask(request)


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the response, whose length has to be stated; empty if there is none."""
        self.writer.write(request)
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if request.startswith(b"HEAD") or b" 304 " in head:
            length = 0
        return head + await self.reader.readexactly(length)

    async def is_closed(self) -> bool:
        """Wait until the server has closed the connection."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def serving(
    policies: Mapping[bytes, bytes | None] = POLICIES,
    *,
    trusted: bool = False,
    tls: bool = False,
    settings: PublicSettings | None = None,
) -> AsyncIterator[Served]:
    """Serve the policies on a free port of the loopback interface."""
    sock = socket.create_server(("127.0.0.1", 0))
    counters = PublicCounters()
    server = PublicServer(counters)
    server.change_policies(policies)
    server.inherit("test", sock, tls=tls)
    await server.configure(Config(public=settings or PublicSettings(trusted_proxies=LOOPBACK if trusted else ())))
    served = Served(server, sock, sock.getsockname()[1], counters)
    try:
        yield served
    finally:
        for writer in served.clients:
            writer.close()
        await server.stop()
