"""One connection of the public listener: policy requests are answered here, all others by aiohttp.

A policy request in a usual form (one complete head, no body, one Host) is answered from prepared bytes inside
``data_received``: aiohttp takes three times as long for it, and that time would be taken from lookups, because
both threads share the interpreter lock. Anything else, including every malformed request, goes to aiohttp, which
then keeps the connection. This protocol stays in front of it and bounds the bytes and the time that a client takes.
"""

import asyncio
import re
import ssl
from typing import Any, Protocol

from .client_address import UNIX_PEER
from .request_bytes import HEAD_LIMIT, RequestBytes

__all__ = ["PublicConnection", "policy_request"]

_HANDSHAKE_SECONDS = 10.0

# A name, a colon and printable characters; RFC 9112 section 5. No obsolete folding and no bare CR or LF.
_POLICY_REQUEST = re.compile(
    rb"GET /\.well-known/mta-sts\.txt HTTP/1\.([01])\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+)\r\n"
)
_HOST = re.compile(rb"(?:\A|\r\n)host:[\t ]*([^\r]*?)[\t ]*(?=\r\n)", re.IGNORECASE)
# Fields that change how the message or the connection ends.
_FRAMING = re.compile(
    rb"(?:\A|\r\n)(?:content-length|transfer-encoding|keep-alive|proxy-connection|upgrade|expect|te"
    rb"|trailer|http2-settings):",
    re.IGNORECASE,
)
# Apache sends keep-alive; nginx by default, curl scripts and many libraries send close.
_CONNECTION = re.compile(rb"(?:\A|\r\n)connection:[\t ]*([^\r]*?)[\t ]*(?=\r\n)", re.IGNORECASE)


def policy_request(data: bytes) -> tuple[bytes, bool] | None:
    """Return the Host of ``data`` if it is exactly one policy request in a usual form, otherwise None.

    The second value is True if the connection is closed after the response.
    """
    match = _POLICY_REQUEST.fullmatch(data) if len(data) <= HEAD_LIMIT else None
    if match is None:
        return None
    version, fields = match.groups()
    if _FRAMING.search(fields):
        return None
    hosts, options = _HOST.findall(fields), [option.lower() for option in _CONNECTION.findall(fields)]
    if len(hosts) != 1 or len(options) > 1:
        return None
    if options == [b"close"] or (version == b"0" and not options):
        return hosts[0], True
    if version == b"1" and options in ([], [b"keep-alive"]):
        return hosts[0], False
    return None


class Site(Protocol):
    """Answers the requests of all connections."""

    def admit(self, connection: "PublicConnection") -> bool:
        """Count a new connection; return False if it must be closed."""

    def release(self, connection: "PublicConnection") -> None:
        """Forget a connection that ended."""

    def quick_response(self, data: bytes) -> tuple[bytes, bool] | None:
        """Return the response to a policy request in a usual form and True if it is the last one, otherwise None."""

    def request_handler(self, connection: "PublicConnection") -> Any:
        """Return aiohttp's protocol for the connection."""


class PublicConnection(asyncio.Protocol):
    """Bounds one client. Runs on the public thread only.

    ``silent_since`` is the loop time since which the connection waits for a complete request; infinite while one is
    answered.
    """

    def __init__(self, site: Site, loop: asyncio.AbstractEventLoop, tls: ssl.SSLContext | None = None) -> None:
        self.silent_since = loop.time()
        self.peer = UNIX_PEER
        self.network: str | None = None
        """Network that the per-client limit counts by; None for a trusted proxy."""
        self.trusted = False
        self._site = site
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self.inner: Any = None
        """aiohttp's protocol, once a request was not in its usual form."""
        self._bytes = RequestBytes()
        self._tls = tls
        self._handshake: asyncio.Task[None] | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the client or close the connection."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0])
        if not self._site.admit(self):
            self.abort()
        elif self._tls is not None:
            # Started here and not by the server, so that a client counts from its first packet.
            self._handshake = self._loop.create_task(self._start_tls(self._tls))

    async def _start_tls(self, tls: ssl.SSLContext) -> None:
        assert self._transport is not None
        raw = self._transport
        try:
            secured = await self._loop.start_tls(
                raw, self, tls, server_side=True, ssl_handshake_timeout=_HANDSHAKE_SECONDS
            )
        except (OSError, asyncio.CancelledError, RuntimeError):  # TLS failed, or the client is slow or disconnected
            secured = None
        self._handshake = None
        if secured is None:
            raw.abort()
            self._site.release(self)
            return
        self._transport = secured
        for data in self._early:
            self.data_received(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        """Answer a policy request, or pass the bytes to aiohttp within the limits."""
        if self._handshake is not None:
            # TLS is there, but its transport is not known yet: the task runs in the next turn of the loop.
            self._early.append(data)
            return
        if self._transport is None or self._transport.is_closing():
            return
        if self.inner is None:
            response = self._site.quick_response(data)
            if response is not None:
                self._transport.write(response[0])
                self.silent_since = self._loop.time()
                if response[1]:
                    self._transport.close()
                return
            self.inner = self._site.request_handler(self)
            self.inner.connection_made(self._transport)
        if self._bytes.admit(data):
            self.inner.data_received(data)
        else:
            self.abort()

    def begin(self, max_body: int) -> None:
        """Note that a request is being answered, whose body may have ``max_body`` bytes."""
        self.silent_since = float("inf")
        self._bytes.begin(max_body)

    def end(self, *, complete: bool) -> None:
        """Note that the request has been answered; ``complete`` says that all of its body was read.

        If it was not, aiohttp reads and drops some more before it closes the connection, so that the client sees the
        response: the limits of this request stay in force.
        """
        self.silent_since = self._loop.time()
        if complete:
            self._bytes.end()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool | None:
        """Let aiohttp finish a response; otherwise close."""
        return self.inner.eof_received() if self.inner is not None else None

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read its responses."""
        if self.inner is not None:
            self.inner.pause_writing()
        elif self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        if self.inner is not None:
            self.inner.resume_writing()
        elif self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection and end aiohttp's request."""
        self._site.release(self)
        if self.inner is not None:
            self.inner.connection_lost(exc)
