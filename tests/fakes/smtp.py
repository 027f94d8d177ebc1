"""A mail exchanger that keeps all messages, with or without STARTTLS.

In a test::

    async with MailSink("mx.example.com", certificate=ca.issue("mx.example.com")) as sink:
        sink.address             # ("127.0.0.1", 40123)
        sink.messages            # the delivered messages and their TLS versions

By hand (``--port 25`` needs the right to bind it; messages are printed)::

    python -m tests.fakes.smtp --address 127.0.0.1 --port 2525 --ca-dir DIR [--flaw expired] mx.example.com
    python -m tests.fakes.smtp --plaintext mx.example.com
"""

import argparse
import asyncio
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.fakes.ca import Ca, Flaw

__all__ = ["MailSink", "Message"]


class Message(NamedTuple):
    """One accepted message: recipients, TLS version (None: no TLS) and the SNI of its session."""

    recipients: tuple[str, ...]
    tls: str | None
    sni: str | None
    content: bytes


class MailSink:
    """The server; an async context manager, or ``start`` and ``close``. Port 0 takes a free one.

    ``certificate`` is a PEM file with key and chain; without one STARTTLS is not offered, as if an attacker removed it.
    ``connections`` counts all that were accepted, whether or not a message came.
    """

    def __init__(
        self,
        name: str,
        *,
        certificate: Path | None,
        address: str = "127.0.0.1",
        port: int = 0,
        on_message: Callable[[Message], None] | None = None,
    ) -> None:
        self.name = name
        self.address = (address, port)
        self.messages: list[Message] = []
        self.connections = 0
        self._on_message = on_message
        self._sni: dict[ssl.SSLObject, str | None] = {}
        self._context = self._tls_context(certificate)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen. Raises OSError if the address is not available."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, *self.address)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is None:
            return
        self._server.close()
        for transport in tuple(self._open):
            transport.abort()
        await self._server.wait_closed()
        self._server = None

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the message (the name is aiosmtpd's)."""
        tls = server.transport.get_extra_info("ssl_object") if server.transport is not None else None
        content = envelope.content or b""
        message = Message(
            tuple(envelope.rcpt_tos),
            tls.version() if tls is not None else None,
            self._sni.pop(tls, None) if tls is not None else None,
            content if isinstance(content, bytes) else content.encode(),
        )
        self.messages.append(message)
        if self._on_message is not None:
            self._on_message(message)
        return "250 taken"

    def _session(self) -> SMTP:
        return _Session(self, self._context, self._open)

    def _tls_context(self, certificate: Path | None) -> ssl.SSLContext | None:
        if certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

        def seen(tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            if isinstance(tls, ssl.SSLObject):
                self._sni[tls] = name

        context.sni_callback = seen
        return context


class _Session(SMTP):
    """aiosmtpd's session, which also counts and can be dropped from outside."""

    def __init__(self, sink: MailSink, context: ssl.SSLContext | None, open_ones: set[asyncio.Transport]) -> None:
        super().__init__(sink, hostname=sink.name, tls_context=context, loop=asyncio.get_running_loop())
        self._sink = sink
        self._open_ones = open_ones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self.transport is None:  # it is called again after STARTTLS
            self._sink.connections += 1
        self._open_ones.add(transport)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport is not None:
            self._open_ones.discard(self.transport)
        super().connection_lost(error)


async def _serve(given: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    certificate = None if given.plaintext else Ca(given.ca_dir).issue(given.name, flaw=given.flaw)
    sink = MailSink(
        given.name,
        certificate=certificate,
        address=given.address,
        port=given.port,
        on_message=lambda message: print(*message.recipients, message.tls or "in the clear", flush=True),
    )
    async with sink:
        print(*sink.address, flush=True)
        await ended.wait()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.smtp", description="A mail exchanger that keeps mail.")
    parser.add_argument("name", help="what it calls itself, and what its certificate is for")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=2525)
    offer = parser.add_mutually_exclusive_group(required=True)
    offer.add_argument("--plaintext", action="store_true", help="do not offer STARTTLS")
    offer.add_argument("--ca-dir", type=Path, help="gets ca.pem and the certificate")
    parser.add_argument("--flaw", type=Flaw, choices=list(Flaw), default=Flaw.GOOD, help="of the certificate")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
