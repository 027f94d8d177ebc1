"""HTTPS through the proxy that the operator configured (CONNECT, RFC 9110 section 9.3.6)."""

import re

from .. import errors
from ..config.values import HostPort
from ..text import sanitize
from .errors import reason_of
from .tls_stream import TlsStream

__all__ = ["open_tunnel"]

_MAX_HEAD = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?\r?\n")


async def open_tunnel(proxy: HostPort, host: str, port: int, *, limit: int) -> TlsStream:
    """Return a connection to ``host`` through ``proxy``. Raises ``ProxyFailed``; the caller sets the time limit."""
    try:
        stream = await TlsStream.connect(proxy.host, proxy.port, limit=limit)
    except OSError as error:
        raise errors.ProxyFailed(f"{proxy}: {reason_of(error)}") from error
    try:
        await stream.send(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode("ascii"))
        await _read_head(stream)
    except OSError as error:
        stream.abort()
        raise errors.ProxyFailed(f"{proxy}: {reason_of(error)}") from error
    except BaseException:
        stream.abort()
        raise
    return stream


async def _read_head(stream: TlsStream) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive()
        head += data
        if not data or len(head) > _MAX_HEAD:
            raise errors.ProxyFailed("no complete answer to CONNECT")
    status = _STATUS.match(head)
    if status is None or not head.endswith(b"\r\n\r\n"):
        raise errors.ProxyFailed("the answer to CONNECT is not HTTP")
    if not status[1].startswith(b"2"):
        raise errors.ProxyFailed(sanitize(b" ".join(filter(None, status.groups())).decode("latin-1")))
