"""The server side of TLS over a MemoryBIO, with the ClientHello read first.

asyncio's TLS chooses no context before the version is negotiated and drops the alert of a failed handshake. Hosts that
fail in a defined way need both.
"""

import contextlib
import ssl

__all__ = ["ServerTls", "client_hello_sni"]

_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0


def client_hello_sni(data: bytes) -> str | None:
    """Return the name in the server_name extension (RFC 6066 section 3), "" without one, None if incomplete.

    The ClientHello must lie in one record, as those of OpenSSL do. Raises ``ValueError`` for anything else.
    """
    if len(data) < 5:
        return None
    length = 5 + int.from_bytes(data[3:5], "big")
    if data[0] != _HANDSHAKE:
        raise ValueError("not a TLS handshake")
    if len(data) < length:
        return None
    hello = data[5:length]
    if not hello or hello[0] != _CLIENT_HELLO:
        raise ValueError("not a ClientHello")
    rest = hello[4 + 2 + 32 :]
    rest = rest[1 + rest[0] :]  # session id
    rest = rest[2 + int.from_bytes(rest[:2], "big") :]  # cipher suites
    rest = rest[1 + rest[0] :]  # compression methods
    rest = rest[2:]
    while len(rest) >= 4:
        kind, size = int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big")
        if kind == _SERVER_NAME and rest[6] == _HOST_NAME:
            return rest[9 : 4 + size].decode("ascii")
        rest = rest[4 + size :]
    return ""


class ServerTls:
    """One TLS session as bytes in and bytes out."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._stands = False

    def receive(self, data: bytes) -> bytes:
        """Feed received bytes and return the plaintext. Raises ``ssl.SSLError``; ``pending`` then holds the alert."""
        self._incoming.write(data)
        said = bytearray()
        try:
            if not self._stands:
                self._tls.do_handshake()
                self._stands = True
            while piece := self._tls.read(65536):
                said += piece
        except ssl.SSLWantReadError:
            pass
        return bytes(said)

    def send(self, data: bytes) -> None:
        """Encrypt; ``pending`` then holds the result."""
        if data:
            self._tls.write(data)

    def end(self) -> None:
        """Send close_notify."""
        with contextlib.suppress(ssl.SSLError):  # the client's own close_notify is not waited for
            self._tls.unwrap()

    def pending(self) -> bytes:
        """Return the bytes to send."""
        return self._outgoing.read()
