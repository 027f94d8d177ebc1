"""Asks a running daemon as Postfix does: one socketmap request, one reply."""

import socket
from dataclasses import dataclass

from ..config.values import Listen
from ..errors import FrameError
from ..postfix.socketmap import REPLY_LIMIT
from ..sockets import connected_unix

__all__ = ["LookupReply", "ask"]

_PREFIX_LIMIT = 10


@dataclass(frozen=True, slots=True)
class LookupReply:
    """A reply as Postfix sees it: ``code`` is OK, NOTFOUND, TEMP, TIMEOUT or PERM."""

    code: str
    text: str


def ask(listen: Listen, map_name: str, key: str, timeout: float) -> LookupReply:
    """The reply for ``key``. Raises OSError (TimeoutError among them) or FrameError."""
    request = f"{map_name} {key}".encode("utf-8", "surrogateescape")
    with _connected(listen, timeout) as sock:
        sock.sendall(b"%d:%b," % (len(request), request))
        payload = _read_netstring(sock)
    code, _, text = payload.decode("ascii", "backslashreplace").partition(" ")
    return LookupReply(code, text)


def _connected(listen: Listen, timeout: float) -> socket.socket:
    if listen.path:
        return connected_unix(listen.path, timeout)
    return socket.create_connection((listen.host, listen.port), timeout)


def _read_netstring(sock: socket.socket) -> bytes:
    received = b""
    while b":" not in received:
        received += _more(sock)
        if b":" not in received[:_PREFIX_LIMIT] and len(received) >= _PREFIX_LIMIT:
            raise FrameError("the reply is not a netstring")
    digits, _, payload = received.partition(b":")
    if not digits.isdigit() or int(digits) > REPLY_LIMIT:
        raise FrameError("the reply is not a netstring, or longer than Postfix reads")
    length = int(digits)
    while len(payload) < length + 1:
        payload += _more(sock)
    if payload[length:] != b",":
        raise FrameError("the reply does not end with its comma")
    return payload[:length]


def _more(sock: socket.socket) -> bytes:
    received = sock.recv(65536)
    if not received:
        raise FrameError("the connection was closed before the reply was complete")
    return received
