"""A client of the admin listeners that sends raw bytes if needed."""

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

__all__ = ["Admin", "Answer"]


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Admin:
    """One of the listeners: a Unix socket's path, or an address and port."""

    def __init__(self, address: str | Path | tuple[str, int]) -> None:
        self.address = address

    @classmethod
    def on(cls, log_line: str) -> Self:
        """Return the TCP listener that a log line names."""
        return cls(("127.0.0.1", int(log_line.rpartition("port=")[2])))

    def connect(self) -> socket.socket:
        """Return a connection."""
        address = str(self.address) if isinstance(self.address, Path) else self.address
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.settimeout(120)
        sock.connect(address)
        return sock

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Send one request; underscores in the names of headers are hyphens."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.connect()
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, sent, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET a path."""
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: object = None, **headers: str) -> Answer:
        """POST to a path, as an authorised client."""
        return self.ask("POST", path, body, **{"X_MTASTS_Request": "test", **headers})

    def raw(self, octets: bytes) -> bytes:
        """Send and return all bytes received until the end, which may come before all is sent."""
        received = b""
        with self.connect() as sock, contextlib.suppress(OSError):
            sock.sendall(octets)
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(65536):
                received += more
        return received
