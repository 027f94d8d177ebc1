"""A mail exchanger for probes, behaving well or badly; several addresses of 127.0.0.0/8 share one port.

async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour("mx.example.com")}) as server:
    server.port, server.commands
"""

import asyncio
import contextlib
import socket
import ssl
import warnings
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from tests.fakes.ca import Ca, Flaw
from tests.fakes.tls import ServerTls

__all__ = ["MxBehaviour", "MxManner", "ProbedSmtp"]


class MxManner(StrEnum):
    """The behaviour towards a client."""

    GOOD = "good"
    NO_STARTTLS = "no-starttls"
    REJECT_STARTTLS = "reject-starttls"
    TLS11 = "tls-1.1"
    CLOSE_TLS = "close-tls"
    GARBAGE_TLS = "garbage-tls"
    INJECT = "inject"
    """Send a plaintext reply right after the reply to STARTTLS."""
    GREETING_554 = "greeting-554"
    EHLO_550 = "ehlo-550"
    EHLO_TLS_550 = "ehlo-tls-550"
    SILENT = "silent"
    CLOSE = "close"
    GARBAGE = "garbage"
    FLOOD = "flood"
    FLOOD_TLS = "flood-tls"
    LONG = "long"
    """Send valid replies, but more bytes than a session may take."""
    UNANSWERED = "unanswered"
    """Never complete the TCP handshake."""


@dataclass(frozen=True, slots=True)
class MxBehaviour:
    """One server: the name in its greeting and certificate, and its behaviour."""

    name: str
    manner: MxManner = MxManner.GOOD
    flaw: Flaw = Flaw.GOOD
    requiretls: bool = False
    certificate_names: tuple[str, ...] = ()
    greeting: str = "ESMTP"
    expires: datetime | None = None
    """The end of the certificate's life, instead of that of ``flaw``."""


class ProbedSmtp:
    """The servers; ``behaviours`` maps addresses to them. ``commands`` holds the commands received."""

    def __init__(self, ca: Ca, behaviours: dict[str, MxBehaviour]) -> None:
        self.ca = ca
        self.behaviours = behaviours
        self.commands: list[tuple[str, str]] = []
        self.connections: list[str] = []
        self.arrived = asyncio.Event()
        self.port = 0
        self._servers: list[asyncio.Server] = []
        self._full: list[socket.socket] = []
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        for attempt in range(20):
            try:
                for address, behaviour in self.behaviours.items():
                    if behaviour.manner is MxManner.UNANSWERED:
                        self._full += _full_queue(address, self.port)
                        self.port = self._full[0].getsockname()[1]
                        continue
                    self._servers.append(await asyncio.start_server(self._serve, address, self.port))
                    self.port = self._servers[-1].sockets[0].getsockname()[1]
                return self
            except OSError:
                if attempt == 19:
                    raise
                await self._stop()
                self.port = 0
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        for taken in self._full:
            taken.close()
        self._full.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        self.connections.append(address)
        self.arrived.set()
        self._open.add(writer)
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
            await _Conversation(self, self.behaviours[address], address, reader, writer).run()
        self._open.discard(writer)
        writer.close()

    def context(self, behaviour: MxBehaviour) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = behaviour.certificate_names or (behaviour.name,)
        context.load_cert_chain(self.ca.issue(*names, flaw=behaviour.flaw, expires=behaviour.expires))
        if behaviour.manner is MxManner.TLS11:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        return context


def _full_queue(address: str, port: int) -> list[socket.socket]:
    """Listen with a full queue of connections, so that the kernel drops each further attempt to connect."""
    sockets = [listener := socket.create_server((address, port), backlog=0)]
    with contextlib.suppress(TimeoutError):
        while True:
            sockets.append(client := socket.socket())
            client.settimeout(0.2)
            client.connect(listener.getsockname())
    return sockets


def _long_reply(code: int) -> bytes:
    lines = [b"%d-%b\r\n" % (code, b"x" * 1900)] * 90
    return b"".join((*lines, b"%d end\r\n" % code))


class _Conversation:
    def __init__(
        self,
        server: ProbedSmtp,
        behaviour: MxBehaviour,
        address: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.server, self.behaviour, self.address = server, behaviour, address
        self.reader, self.writer = reader, writer
        self.tls: ServerTls | None = None
        self.buffer = b""

    async def run(self) -> None:
        manner, name = self.behaviour.manner, self.behaviour.name
        if manner is MxManner.SILENT:
            await self.reader.read()
        elif manner is MxManner.CLOSE:
            return
        elif manner is MxManner.GARBAGE:
            await self.print_out(b"\x00\xff\x80 SSH-2.0-OpenSSH\r\n")
        elif manner is MxManner.FLOOD:
            while True:
                await self.print_out(b"220-" + b"x" * 60 + b"\r\n")
        elif manner is MxManner.LONG:
            await self.print_out(_long_reply(220))
            await self.commands_until_end()
        elif manner is MxManner.GREETING_554:
            await self.print_out(b"554 5.7.1 not \x1b[31mtoday\r\n")
            await self.commands_until_end()
        else:
            await self.print_out(f"220 {name} {self.behaviour.greeting}\r\n".encode())
            await self.commands_until_end()

    async def commands_until_end(self) -> None:
        while line := await self.line():
            verb = line.upper().partition(" ")[0]
            self.server.commands.append((self.address, line))
            if verb == "QUIT":
                await self.print_out(b"221 bye\r\n")
                return
            if verb == "EHLO":
                await self.ehlo()
            elif verb == "STARTTLS":
                await self.starttls()
            else:
                await self.print_out(b"500 no\r\n")

    async def ehlo(self) -> None:
        manner = self.behaviour.manner
        if manner is MxManner.EHLO_550 or (manner is MxManner.EHLO_TLS_550 and self.tls is not None):
            await self.print_out(b"550 no\r\n")
            return
        if manner is MxManner.LONG:
            await self.print_out(_long_reply(250))
            return
        if manner is MxManner.FLOOD_TLS and self.tls is not None:
            while True:
                await self.print_out(b"250-X\r\n" * 1000)
        offered = [self.behaviour.name, "PIPELINING", "SIZE 1000"]
        if self.tls is None and manner is not MxManner.NO_STARTTLS:
            offered.append("STARTTLS")
        if self.tls is not None and self.behaviour.requiretls:
            offered.append("REQUIRETLS")
        lines = [f"250-{word}" for word in offered[:-1]] + [f"250 {offered[-1]}"]
        await self.print_out("".join(f"{line}\r\n" for line in lines).encode())

    async def starttls(self) -> None:
        manner = self.behaviour.manner
        if manner is MxManner.REJECT_STARTTLS:
            await self.print_out(b"454 TLS not available\r\n")
            return
        await self.print_out(b"220 go\r\n250 injected\r\n" if manner is MxManner.INJECT else b"220 go\r\n")
        if manner is MxManner.CLOSE_TLS:
            await self.reader.read(1)
            self.writer.close()
            raise OSError("closed")
        if manner is MxManner.GARBAGE_TLS:
            await self.reader.read(65536)
            await self.print_out(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            raise OSError("not TLS")
        self.buffer = b""
        self.tls = ServerTls(self.server.context(self.behaviour))

    async def line(self) -> str:
        while b"\n" not in self.buffer:
            data = await self.reader.read(65536)
            if not data:
                return ""
            if self.tls is not None:
                try:
                    data = self.tls.receive(data)
                finally:
                    self.writer.write(self.tls.pending())
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode("latin-1").rstrip("\r")

    async def print_out(self, data: bytes) -> None:
        if self.tls is not None:
            self.tls.send(data)
            data = self.tls.pending()
        self.writer.write(data)
        await self.writer.drain()
