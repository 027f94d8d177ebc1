"""One lookup in a running daemon, as Postfix makes it: a socketmap or tcp_table request and its reply."""

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ..errors import FrameError
from ..postfix.socketmap import REPLY_LIMIT
from ..sockets import connect_unix

if TYPE_CHECKING:
    from ..config.values import Listen

__all__ = ["LookupReply", "ask"]

_PREFIX_LIMIT = 10
_LINE_LIMIT = 4096
_TCP_TABLE_CODES = {b"200": "OK", b"400": "TEMP", b"500": "NOTFOUND"}


@dataclass(frozen=True, slots=True)
class LookupReply:
    """A reply as Postfix reads it: ``code`` is OK, NOTFOUND, TEMP, TIMEOUT or PERM."""

    code: str
    text: str


def ask(listen: "Listen", map_name: str, key: str, timeout: float) -> LookupReply:
    """Return the reply for ``key``. Raise OSError (including TimeoutError) or FrameError.

    tcp_table has no map names, so ``map_name`` is ignored there.
    """
    raw = key.encode("utf-8", "surrogateescape")
    with _connected(listen, timeout) as sock:
        if listen.protocol == "tcp_table":
            sock.sendall(b"get %b\n" % quote_from_bytes(raw, safe=":[]").encode())
            return _tcp_table_reply(_read_line(sock))
        request = b"%b %b" % (map_name.encode(), raw)
        sock.sendall(b"%d:%b," % (len(request), request))
        code, _, text = _read_netstring(sock).decode("ascii", "backslashreplace").partition(" ")
    return LookupReply(code, text)


def _connected(listen: "Listen", timeout: float) -> socket.socket:
    if listen.path:
        return connect_unix(listen.path, timeout)
    return socket.create_connection((listen.host, listen.port), timeout)


def _read_netstring(sock: socket.socket) -> bytes:
    received = b""
    while b":" not in received:
        received += _receive(sock)
        if b":" not in received[:_PREFIX_LIMIT] and len(received) >= _PREFIX_LIMIT:
            raise FrameError("the reply is not a netstring")
    digits, _, payload = received.partition(b":")
    if not digits.isdigit() or int(digits) > REPLY_LIMIT:
        raise FrameError("the reply is not a netstring, or longer than Postfix reads")
    length = int(digits)
    while len(payload) < length + 1:
        payload += _receive(sock)
    if payload[length:] != b",":
        raise FrameError("the reply does not end with its comma")
    return payload[:length]


def _read_line(sock: socket.socket) -> bytes:
    received = b""
    while b"\n" not in received:
        received += _receive(sock)
        if len(received) > _LINE_LIMIT:
            raise FrameError("the reply is longer than Postfix reads")
    return received.partition(b"\n")[0]


def _tcp_table_reply(line: bytes) -> LookupReply:
    code, _, text = line.partition(b" ")
    if code not in _TCP_TABLE_CODES:
        raise FrameError("the reply does not begin with 200, 400 or 500")
    return LookupReply(_TCP_TABLE_CODES[code], unquote_to_bytes(text).decode("ascii", "backslashreplace"))


def _receive(sock: socket.socket) -> bytes:
    received = sock.recv(65536)
    if not received:
        raise FrameError("the connection was closed before the reply was complete")
    return received
