"""One connection of the public listener: policy requests are answered here, all others by aiohttp.

A policy request in a usual form (one complete head, no body, one Host) is answered from prepared bytes inside
one callback: aiohttp takes three times as long for it. Anything else, including every malformed request, goes to
aiohttp, which then keeps the connection. This protocol stays in front of it and bounds the bytes and the time that a
client takes.

A connection begins with the plain socket and gets one of asyncio's transports only when it needs it: for TLS, for
aiohttp, or if the client does not read. A transport with its tasks takes longer than a policy request.
"""

import asyncio
import re
import socket
import ssl
from typing import Any, Protocol

from .client_address import UNIX_PEER
from .request_bytes import HEAD_LIMIT, RequestBytes

__all__ = ["PublicConnection", "policy_request"]

_HANDSHAKE_SECONDS = 10.0
_READ_BYTES = HEAD_LIMIT + 1
"""Bytes read at once from a plain socket: more cannot be a policy request."""

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
        self._socket: socket.socket | None = None
        """The accepted socket, until a transport or the end of the connection."""
        self._is_waiting = False
        """The loop calls ``_receive`` when bytes arrive on the socket."""
        self._unsent = b""
        self._closes = False
        """The connection ends after ``_unsent``."""
        self.handover: asyncio.Task[None] | None = None
        """Gives the socket to a transport; it ends after a few turns of the loop."""
        self._aborted = False
        self._transport: asyncio.Transport | None = None
        self.inner: Any = None
        """aiohttp's protocol, once a request was not in its usual form."""
        self._bytes = RequestBytes()
        self._tls = tls
        self._handshake: asyncio.Task[None] | None = None
        self._early: list[bytes] = []

    # -- the plain socket --------------------------------------------------------------------------------------

    def start(self, sock: socket.socket, peer: object) -> None:
        """Admit the client of an accepted socket, and read what it has sent; otherwise close the socket."""
        if isinstance(peer, tuple):
            self.peer = str(peer[0])
        self._socket = sock
        if not self._site.admit(self):
            self._end()
        elif self._tls is not None:
            self._hand_over()
        else:
            self._receive()

    def _receive(self) -> None:
        sock = self._socket
        if sock is None:  # closed by ``admit``, because there are too many connections
            return
        try:
            data = sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            self._wait()
            return
        except OSError:  # the client disconnected
            data = b""
        if data:
            self._respond(data, sock)
        else:
            self._end()

    def _respond(self, data: bytes, sock: socket.socket) -> None:
        """Answer a policy request; leave other bytes, and a response that the socket does not take, to a transport."""
        response = self._site.quick_response(data)
        if response is None:
            self._early.append(data)
            self._hand_over()
            return
        text, closes = response
        self.silent_since = self._loop.time()
        try:
            sent = sock.send(text)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:  # the client disconnected
            self._end()
            return
        if sent < len(text):
            self._unsent, self._closes = text[sent:], closes
            self._hand_over()
        elif closes:
            self._end()
        else:
            self._wait()

    def _wait(self) -> None:
        if not self._is_waiting:
            assert self._socket is not None
            self._is_waiting = True
            # The number, because asyncio formats a new socket object twice: four system calls.
            self._loop.add_reader(self._socket.fileno(), self._receive)

    def _release_socket(self) -> socket.socket | None:
        sock, self._socket = self._socket, None
        if sock is not None and self._is_waiting:
            self._loop.remove_reader(sock.fileno())
        return sock

    def _end(self) -> None:
        sock = self._release_socket()
        if sock is not None:
            sock.close()
            self._site.release(self)

    def _hand_over(self) -> None:
        """Let a transport continue with the socket; it calls ``connection_made``."""
        sock = self._release_socket()
        assert sock is not None
        self.handover = self._loop.create_task(self._take_transport(sock))

    async def _take_transport(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self, sock)
        except OSError:
            sock.close()
            self._site.release(self)

    # -- asyncio's transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Continue on the transport with what was received and not yet sent."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        if self._aborted:
            self.abort()
        elif self._tls is not None:
            # Started here and not by the server, so that a client counts from its first packet.
            self._handshake = self._loop.create_task(self._start_tls(self._tls))
        else:
            self._continue()

    def _continue(self) -> None:
        assert self._transport is not None
        if self._unsent:
            self._transport.write(self._unsent)
            self._unsent = b""
            if self._closes:
                self._transport.close()
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

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
        self._continue()

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
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()
        else:
            self._end()

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
