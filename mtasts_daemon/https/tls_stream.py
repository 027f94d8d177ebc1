"""A TCP stream to an untrusted host that can begin TLS.

Every byte is counted below TLS, so that renegotiation, empty records and oversized certificates are bounded too.
TLS runs over memory BIOs: asyncio's own transport would neither count those bytes nor keep the chain.
"""

import asyncio
import ssl
import warnings
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Self

__all__ = ["TLS_OLD", "StreamClosed", "StreamTooLarge", "TlsSession", "TlsStream", "probe_context", "tls_problem"]

_CHUNK = 16384
_MAX_CERTIFICATES = 10
"""Certificates of a chain that are kept."""

TLS_OLD = "tls-version-old"
_OLD_REASONS = frozenset({"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"})


class StreamClosed(OSError):
    """The peer closed the connection."""


class StreamTooLarge(OSError):
    """The peer sent more bytes than a session may take."""


@dataclass(frozen=True, slots=True)
class TlsSession:
    """The result of a handshake; ``chain`` holds the DER certificates as sent, leaf first."""

    version: str
    cipher: str
    chain: tuple[bytes, ...]


def probe_context(alpn: str | None = None) -> ssl.SSLContext:
    """Return a client context that completes handshakes with any certificate, to read it.

    TLS 1.2 is the oldest version (BCP 195). Finite-field Diffie-Hellman is not offered: the peer would choose its
    size, and with it the time that the handshake takes here.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    offered = [cipher["name"] for cipher in context.get_ciphers() if cipher["kea"] != "kx-dhe"]
    context.set_ciphers(":".join(offered))
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


def tls_problem(error: ssl.SSLError) -> tuple[str, str]:
    """Return the slug and the detail of a failed handshake."""
    reason = str(getattr(error, "reason", None) or "TLS error")
    return (TLS_OLD if reason in _OLD_REASONS else "tls-handshake-failed"), reason


class TlsStream:
    """One connection. Use as an async context manager; leaving it drops the connection at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int) -> None:
        self._reader = reader
        self._writer = writer
        self._left = limit
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    @classmethod
    async def connect(cls, host: IPv4Address | IPv6Address | str, port: int, *, limit: int) -> Self:
        """Connect to an address, or to a trusted host by its name. Raises ``OSError``."""
        reader, writer = await asyncio.open_connection(str(host), port, limit=_CHUNK)
        return cls(reader, writer, limit)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # abort(), not close(): a peer that does not read must not keep the socket open.
        self.abort()

    @property
    def local_address(self) -> str:
        """The address of this end."""
        return str(self._writer.get_extra_info("sockname")[0])

    async def receive(self) -> bytes:
        """Return the next bytes, or none at the end. Raises ``OSError``.

        Under TLS only a close_notify is an end; a connection closed without one raises ``StreamClosed``.
        """
        if self._tls is None:
            return await self._read()
        while True:
            try:
                return self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                await self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def write(self, data: bytes) -> None:
        """Send ``data`` under TLS without waiting; the caller bounds how much it writes."""
        if self._tls is not None:
            self._tls.write(data)
            self._writer.write(self._outgoing.read())

    def abort(self) -> None:
        """Drop the connection at once."""
        self._writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises ``OSError``."""
        if self._tls is None:
            self._writer.write(data)
            await self._writer.drain()
        else:
            self._tls.write(data)
            await self._flush()

    async def start_tls(self, context: ssl.SSLContext, server_name: str | None) -> TlsSession:
        """Run the handshake. Raises ``ssl.SSLError`` and ``OSError``."""
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLError:
                await self._flush()
                raise
        await self._flush()
        self._tls = tls
        return TlsSession(tls.version() or "", (tls.cipher() or ("", "", 0))[0], _sent_chain(tls))

    async def _read(self) -> bytes:
        data = await self._reader.read(_CHUNK)
        self._left -= len(data)
        if self._left < 0:
            raise StreamTooLarge("more bytes than a session may take")
        return data

    async def _feed(self) -> None:
        data = await self._read()
        if not data:
            raise StreamClosed("closed by the peer")
        self._incoming.write(data)

    async def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._writer.write(data)
            await self._writer.drain()


def _sent_chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the peer's certificates as DER; public since Python 3.13, and the same method below it before."""
    found: Any = getattr(tls, "get_unverified_chain", None)
    if found is not None:
        return tuple(bytes(der) for der in found()[:_MAX_CERTIFICATES])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner: Any = getattr(tls, "_sslobj")  # noqa: B009  mypy knows no such attribute
        chain = inner.get_unverified_chain() or ()
    return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain[:_MAX_CERTIFICATES])
