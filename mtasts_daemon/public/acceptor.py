"""Accepts the connections of one listening socket, several for each wake-up of the loop.

asyncio's server starts a task and a transport for each connection, which takes longer than the response to a policy
request. ``PublicConnection`` begins with the plain socket instead.
"""

import asyncio
import logging
import socket
import ssl

from ..log import log_event
from .connection import PublicConnection, Site

__all__ = ["PublicAcceptor"]

_AT_ONCE = 32
"""Connections accepted before others get a turn."""
_PAUSE_SECONDS = 1.0
"""Time without accepting after an error such as a lack of file descriptors."""


class PublicAcceptor:
    """Owns the listening socket. Runs on the public thread only; ``tls`` for HTTPS."""

    def __init__(self, sock: socket.socket, site: Site, tls: ssl.SSLContext | None, backlog: int) -> None:
        self._sock = sock
        self._site = site
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(backlog)
        self._loop.add_reader(sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                log_event("public-accept-failed", level=logging.ERROR, once_a_minute="", error=error)
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            sock.setblocking(False)
            PublicConnection(self._site, self._loop, self._tls).start(sock, peer)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Stop accepting and close the socket."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
