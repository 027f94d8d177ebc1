"""The sockets of the admin listeners. The HTTP server is imported after they are open, because that is slow."""

import asyncio
import importlib
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..config import Config
from ..config.files import read_token
from ..config.sections.admin import AdminSettings
from ..log import log_event
from ..lookup.listeners import bind_listener, port_of

__all__ = ["AdminListeners", "ListenerSite"]

_SITE = "mtasts_daemon.admin.api"


class ListenerSite(Protocol):
    """The HTTP server of one listener."""

    token: str | None
    """Token that clients must send, or None."""

    def connected(self) -> asyncio.Protocol:
        """Return the protocol for a new connection."""

    async def close(self) -> None:
        """Close all connections."""


@dataclass(slots=True)
class _Listener:
    sock: socket.socket
    path: str
    token: str | None
    writable: bool
    server: asyncio.Server | None = None
    site: ListenerSite | None = None


class AdminListeners:
    """At most two listeners: a read-write Unix socket and a read-only TCP address. An optional part."""

    name = "admin"

    def __init__(self, environ: Mapping[str, str], control: object) -> None:
        self._environ = environ
        self._control = control
        self._open: dict[str, _Listener] = {}
        self._make: Callable[..., Any] | None = None
        self._serving = asyncio.Lock()
        self._closed = False

    async def configure(self, config: Config) -> None:
        """Open, close and serve listeners as configured. Raise OSError if one cannot be opened; the others serve."""
        try:
            await self.change(config.admin)
        except OSError:
            await self.serve()
            raise
        await self.serve()

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        await self.close()

    async def change(self, settings: AdminSettings) -> None:
        """Listen on the addresses of ``settings`` only. Raise OSError if one cannot be opened; then none is closed.

        The TCP address is not opened without its token. Connections to new listeners wait until ``serve`` is called.
        """
        wanted: dict[str, tuple[str, int, str]] = {}
        path = settings.socket_path(self._environ)
        if path is not None:
            wanted[str(path)] = ("", 0, str(path))
        if settings.listen is not None:
            wanted[str(settings.listen)] = (settings.listen.host, settings.listen.port, "")
        failures: list[OSError] = []
        token = None
        if settings.token_file is not None and settings.listen is not None:
            try:
                token = _token(settings.token_file)
            except OSError as error:
                failures.append(error)
                del wanted[str(settings.listen)]
        opened: dict[str, _Listener] = {}
        try:
            for address, (host, port, unix) in wanted.items():
                if address in self._open:
                    continue
                try:
                    sock = await _listen(address, host, port, unix, settings.socket_mode)
                except OSError as error:
                    failures.append(error)
                    continue
                opened[address] = _Listener(sock, unix, None if unix else token, bool(unix))
            if self._closed:
                raise OSError(0, "the daemon is stopping")
        except BaseException:  # includes cancellation
            for listener in opened.values():
                _release(listener)
            raise
        self._open |= opened
        if failures:
            raise OSError(0, "; ".join(error.strerror or str(error) for error in failures))
        for address in set(self._open) - set(wanted):
            _release(self._open.pop(address))
        self._permit(settings.socket_mode, token)

    def _permit(self, socket_mode: int, token: str | None) -> None:
        for listener in self._open.values():
            if listener.path:
                with suppress(OSError):
                    Path(listener.path).chmod(socket_mode)
            else:
                listener.token = token
            if listener.site is not None:
                listener.site.token = listener.token

    async def serve(self) -> None:
        """Serve the new listeners. The first call imports the HTTP server, which takes about half a second."""
        if not self._open:
            return
        if self._make is None:
            self._make = (await asyncio.to_thread(importlib.import_module, _SITE)).make_site
        async with self._serving:
            for address, listener in list(self._open.items()):
                if listener.server is None:
                    await self._begin(address, listener, self._make)

    async def _begin(self, address: str, listener: _Listener, make: Callable[..., Any]) -> None:
        site: ListenerSite = await make(self._control, writable=listener.writable)
        if self._open.get(address) is not listener:  # closed meanwhile
            await site.close()
            return
        site.token = listener.token
        listener.site = site
        loop = asyncio.get_running_loop()
        listen = loop.create_unix_server if listener.path else loop.create_server
        listener.server = await listen(site.connected, sock=listener.sock)
        log_event("admin-listening", address=address, **port_of(listener.sock))

    async def close(self) -> None:
        """Stop listening and close all connections; a ``change`` in progress fails."""
        self._closed = True
        for address in list(self._open):
            listener = self._open.pop(address)
            _release(listener)
            if listener.site is not None:
                await listener.site.close()


async def _listen(address: str, host: str, port: int, path: str, mode: int) -> socket.socket:
    try:
        sock = await bind_listener(host, port, path, mode)
        sock.listen()
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock


def _release(listener: _Listener) -> None:
    if listener.server is not None:
        listener.server.close()
    listener.sock.close()
    if listener.path:
        with suppress(OSError):
            Path(listener.path).unlink()


def _token(path: Path) -> str:
    try:
        return read_token(path)
    except ValueError as error:
        raise OSError(0, str(error)) from None
