"""The sockets for lookups: those of the configuration and those passed by systemd."""

import asyncio
import contextlib
import errno
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config.values import Listen
from ..log import log_event
from ..postfix import socketmap, tcp_table
from ..sockets import bind_unix
from .server import LookupServer

__all__ = ["Listeners", "bind_listener", "port_of"]

_BACKLOG = 4096

_FOUND_WITHIN = 5.0
"""Seconds for the address of a host name."""

# From 3.13 on a server removes its Unix socket's path when it closes; systemd's is not ours to remove.
_LEAVE_PATH: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
_CODECS: dict[str, ModuleType] = {"socketmap": socketmap, "tcp_table": tcp_table}


class Listeners:
    """Opens and closes listening sockets, so that the open ones are always those wanted."""

    def __init__(self, lookups: LookupServer) -> None:
        self._lookups = lookups
        self._servers: dict[str, tuple[asyncio.Server, str]] = {}
        self._inherited: set[str] = set()
        self._failures: dict[str, str] = {}
        self._missing: list[Listen] = []

    @property
    def addresses(self) -> tuple[str, ...]:
        """Open listeners."""
        return tuple(self._servers)

    @property
    def failures(self) -> Mapping[str, str]:
        """Wanted listeners that could not be opened: address to reason."""
        return self._failures

    async def inherit(self, protocol: str, text: str, sock: socket.socket) -> None:
        """Serve a socket that is listening already; ``change`` does not close it."""
        self._inherited.add(text)
        await self._serve(protocol, text, sock, "")

    async def open(self, wanted: Sequence[Listen], unix_mode: int) -> None:
        """Open what can be opened, at the start; ``retry`` tries the rest again.

        Raises OSError if no listener is open then.
        """
        last: OSError | None = None
        for listen in wanted:
            try:
                await self._open(listen, unix_mode)
            except OSError as error:
                last = error
                reason = error.strerror or str(error)
                self._missing.append(listen)
                self._failures[str(listen)] = reason
                log_event("listen-failed", level=logging.ERROR, error=reason, effect="retried every 30 s")
        if last is not None and not self._servers:
            raise last

    async def retry(self, unix_mode: int) -> None:
        """Open listeners that failed at the start."""
        for listen in list(self._missing):
            with contextlib.suppress(OSError):
                await self._open(listen, unix_mode)
                self._missing.remove(listen)
                self._failures.pop(str(listen), None)

    async def _open(self, listen: Listen, unix_mode: int) -> None:
        try:
            sock = await bind_listener(listen.host, listen.port, listen.path, unix_mode)
            await self._serve(listen.protocol, str(listen), sock, listen.path)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {listen}: {error.strerror or error}") from error

    async def change(self, wanted: Sequence[Listen], unix_mode: int) -> None:
        """Open wanted listeners that are missing, then close those that are not wanted.

        Raises OSError, with the address in its text, before anything is closed.
        """
        opened: list[str] = []
        for listen in wanted:
            text = str(listen)
            if text in self._servers:
                self._permit(text, unix_mode)
                continue
            try:
                await self._open(listen, unix_mode)
            except OSError:
                for other in opened:
                    self._close(other)
                raise
            opened.append(text)
        self._missing.clear()
        self._failures.clear()
        for text in set(self._servers) - self._inherited - set(map(str, wanted)):
            self._close(text)

    def _permit(self, text: str, unix_mode: int) -> None:
        path = self._servers[text][1]
        if path:
            Path(path).chmod(unix_mode)

    def close(self) -> None:
        """Stop accepting. Existing connections stay open."""
        for text in list(self._servers):
            self._close(text)

    async def _serve(self, protocol: str, text: str, sock: socket.socket, path: str) -> None:
        codec, loop = _CODECS[protocol], asyncio.get_running_loop()

        def connected() -> asyncio.Protocol:
            return self._lookups.protocol(codec)

        unix = sock.family == socket.AF_UNIX
        make: Any = partial(loop.create_unix_server, **_LEAVE_PATH) if unix else loop.create_server
        server: asyncio.Server = await make(connected, sock=sock, backlog=_BACKLOG)
        self._servers[text] = (server, path)
        log_event("listening", address=text, **port_of(sock))

    def _close(self, text: str) -> None:
        server, path = self._servers.pop(text)
        server.close()
        if path:
            with contextlib.suppress(OSError):
                Path(path).unlink()


def port_of(sock: socket.socket) -> dict[str, Any]:
    """Return the log field of the port, if there is one; port 0 lets the system choose."""
    return {} if sock.family == socket.AF_UNIX else {"port": sock.getsockname()[1]}


async def bind_listener(host: str, port: int, path: str, unix_mode: int) -> socket.socket:
    """Return a socket bound to the path, or without a path to host and port. Raises OSError.

    If the host is a name, only this listener waits for the resolver, for ``_FOUND_WITHIN`` seconds.
    """
    if path:
        return bind_unix(path, socket.SOCK_STREAM, unix_mode)
    try:
        return _bind_inet(_addresses(host, port, socket.AI_NUMERICHOST))
    except socket.gaierror:
        return _bind_inet(await _found(host, port))


_AddressInfo = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]


def _addresses(host: str, port: int, flags: int = 0) -> _AddressInfo:
    # As bytes: for text, Python would import the IDNA codec.
    return socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | flags)


async def _found(host: str, port: int) -> _AddressInfo:
    """Return the addresses of a host name. Raises OSError, also without an answer in time."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[_AddressInfo] = loop.create_future()

    def deliver(take: Callable[[Any], None], value: object) -> None:
        if not found.done():
            take(value)

    def look_up() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            try:
                addresses = _addresses(host, port)
            except OSError as error:
                loop.call_soon_threadsafe(deliver, found.set_exception, error)
            else:
                loop.call_soon_threadsafe(deliver, found.set_result, addresses)

    # Not a thread of the loop's executor: the end of the process would wait for the resolver.
    threading.Thread(target=look_up, name="listen-address", daemon=True).start()
    try:
        async with asyncio.timeout(_FOUND_WITHIN):
            return await found
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, f"the resolver did not return the address of {host} in time") from None


def _bind_inet(found: _AddressInfo) -> socket.socket:
    family, kind, number, _, name = found[0]
    sock = socket.socket(family, kind, number)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
    except OSError:
        sock.close()
        raise
    return sock
