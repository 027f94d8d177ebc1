"""Let aiohttp speak HTTP over a connection that exists already.

The connection is a ``TlsStream``: its bytes are counted below TLS, and a connection that ends without close_notify is
distinguished from one that ends properly. Nothing is pooled, and aiohttp resolves and connects to nothing.
"""

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from .. import __version__, errors
from .tls_stream import StreamClosed, StreamTooLarge, TlsStream

__all__ = ["MAX_RECEIVED", "HttpConnection"]

MAX_RECEIVED = 1 << 20
"""Bytes of one connection, TLS included: certificates, head, body and the waste of small chunks."""

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD = 256 * 1024
_MAX_FIELDS = 2000


class HttpConnection:
    """One HTTP exchange over a ``TlsStream``. An async context manager; leaving it drops the connection."""

    def __init__(self, stream: TlsStream, headers: Mapping[str, str]) -> None:
        self._stream = stream
        self._protocol = ResponseHandler(asyncio.get_running_loop())
        self._protocol.connection_made(_Transport(stream))
        self._pump = asyncio.create_task(self._receive(), name="https receive")
        self.truncated = False
        """The connection ended without close_notify."""
        limits = {"max_line_size": _MAX_HEAD, "max_field_size": _MAX_HEAD, **_MORE_LIMITS}
        self.session = aiohttp.ClientSession(
            connector=_Established(self._protocol),
            headers={**headers, "Connection": "close", "User-Agent": f"mtasts-daemon/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,
            **limits,
        )

    async def __aenter__(self) -> "HttpConnection":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pump.cancel()
        self._stream.abort()
        # Not session.close(): a second cancellation could end it before it began, and its connector pools nothing.
        self.session.detach()
        await asyncio.gather(self._pump, return_exceptions=True)

    async def _receive(self) -> None:
        """Pass on what the peer sends, until the end of the connection."""
        lost: Exception
        head: bytes | None = b""
        try:
            while data := await self._stream.receive():
                if head is not None:
                    # aiohttp refuses a whole answer for bytes after its body. In a piece of its own the head is
                    # out before they are seen (RFC 9112 section 6.3: they are not part of the message).
                    head, data = self._pass_head(head, data)
                if data:
                    self._protocol.data_received(data)
            lost = errors.PolicyHttpBroken("the connection was closed before the answer ended")
        except StreamClosed:
            self.truncated = True
            lost = errors.PolicyHttpBroken("the connection ended without close_notify before the answer ended")
        except StreamTooLarge:
            self.truncated = True
            lost = errors.PolicyTooLarge(f"more than {MAX_RECEIVED} bytes came")
        except OSError as error:
            self.truncated = True
            lost = errors.PolicyHttpBroken(f"the connection was lost ({type(error).__name__})")
        self._protocol.connection_lost(lost)

    def _pass_head(self, head: bytes, data: bytes) -> tuple[bytes | None, bytes]:
        """Pass on ``data`` up to the end of the head; return the head's last bytes, or None, and the rest."""
        seen = head + data
        end = seen.find(_HEAD_END)
        cut = len(data) if end < 0 else end + len(_HEAD_END) - len(head)
        self._protocol.data_received(data[:cut])
        return (seen[-3:], b"") if end < 0 else (None, data[cut:])


class _Established(aiohttp.BaseConnector):
    """Gives aiohttp the one connection there is."""

    def __init__(self, protocol: ResponseHandler) -> None:
        super().__init__(force_close=True, limit=0)
        self._protocol: ResponseHandler | None = protocol

    async def _create_connection(self, *_: Any, **__: Any) -> ResponseHandler:
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            raise errors.PolicyHttpBroken("the connection was closed before the answer ended")
        return protocol


class _Transport(asyncio.Transport):
    """As much of a transport as aiohttp uses."""

    def __init__(self, stream: TlsStream) -> None:
        super().__init__()
        self._stream = stream
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._stream.write(bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._closing = True
        self._stream.abort()

    def pause_reading(self) -> None:
        """Do nothing: all that a connection may send is small enough to keep."""

    def resume_reading(self) -> None:
        """Do nothing, as ``pause_reading``."""


def _more_limits() -> dict[str, Any]:
    """Return the limit on the number of header fields, which aiohttp has since 3.14."""
    known = inspect.signature(aiohttp.ClientSession.__init__).parameters
    return {"max_headers": _MAX_FIELDS} if "max_headers" in known else {}


_MORE_LIMITS = _more_limits()
