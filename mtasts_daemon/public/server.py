"""The public listener: sockets opened on the main loop, served on a thread with an event loop of its own.

Strangers can make what runs there slow, and lookups do not notice. Nothing here stops the daemon: an address that
cannot be opened is logged, shown by ``problems`` and tried again.
"""

import asyncio
import logging
import socket
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..log import log_event
from ..lookup.listeners import bound, port_of
from .counters import PublicCounters
from .thread import PublicListener, PublicThread, SiteSettings

if TYPE_CHECKING:  # aiohttp and cryptography are imported on the public thread, if at all
    from .certificates import CertificateFiles, LoadedCertificate
    from .site import PublicHandler, PublicSite

__all__ = ["PublicAddress", "PublicServer", "PublicSetup"]

T = TypeVar("T")

_BACKLOG = 1024
_RETRY_SECONDS = 10.0
_WHOLE = "public listener"
"""Key of the problem that concerns all addresses."""
_CROSSING_SECONDS = 10.0
"""Time that the main loop waits for the public thread; it may be busy with imports."""


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Where to listen: ``path`` of a Unix socket, or ``host`` and ``port``; ``tls`` for HTTPS."""

    tls: bool
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        scheme = "https" if self.tls else "http"
        if self.path:
            return f"{scheme}:unix:{self.path}"
        return f"{scheme}:[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}:{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PublicSetup:
    """What the configuration says of the public listener."""

    addresses: tuple[PublicAddress, ...] = ()
    certificates: "tuple[CertificateFiles, ...]" = ()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    max_connections: int = 1024
    unix_mode: int = 0o660


class PublicServer:
    """The public listener as the main loop sees it. All methods are for the main loop unless they say otherwise."""

    def __init__(self, counters: PublicCounters) -> None:
        self.counters = counters
        self._setup = PublicSetup()
        self._open: dict[str, PublicListener] = {}
        self._failed: dict[str, str] = {}
        self._routes: dict[tuple[str, str], tuple[PublicHandler, int, float]] = {}
        self._policies: Mapping[bytes, bytes] = {}
        self._changing = asyncio.Lock()
        self._retry: asyncio.TimerHandle | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._closed = False
        self._main = asyncio.get_running_loop()
        self._thread: PublicThread | None = None

    @property
    def addresses(self) -> Sequence[str]:
        """Addresses that are served now."""
        return tuple(text for text, listener in self._open.items() if listener.server is not None)

    @property
    def problems(self) -> Sequence[str]:
        """What is configured and does not work, one sentence each."""
        thread = self._thread
        found = [f"{text}: {problem}" for text, problem in self._failed.items()]
        if thread is not None:
            found += thread.problems
        return found

    @property
    def certificates(self) -> "Sequence[LoadedCertificate]":
        """Certificates in use."""
        return () if self._thread is None else self._thread.certificates_loaded

    def add_route(
        self, method: str, path: str, handler: "PublicHandler", *, max_body: int = 0, seconds: float = 30.0
    ) -> None:
        """Mount a handler, as ``PublicSite.add_route`` describes; it runs on the public thread."""
        self._routes[method, path] = (handler, max_body, seconds)
        if self._thread is not None:
            self._thread.call(lambda site: site.add_route(method, path, handler, max_body=max_body, seconds=seconds))

    def use_policies(self, policies: Mapping[bytes, bytes]) -> None:
        """Serve these policy texts from now on, by lower-case host name. The mapping must not change afterwards."""
        self._policies = policies
        if self._thread is not None:
            self._thread.call(lambda site: site.use_policies(policies))

    async def on_main(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on the main loop. For handlers, on the public thread."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._main))

    async def inherit(self, text: str, sock: socket.socket, *, tls: bool) -> None:
        """Serve a listening socket that the service manager passed; ``change`` leaves it open."""
        sock.setblocking(False)
        self._open[text] = PublicListener(sock, tls, inherited=True)

    async def change(self, setup: PublicSetup) -> None:
        """Listen where ``setup`` says and nowhere else. Never raises: see ``problems``."""
        async with self._changing:
            self._setup = setup
            await self._apply()

    async def _apply(self) -> None:
        if self._closed:
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        wanted = {str(address): address for address in self._setup.addresses}
        for text in set(self._failed) - set(wanted) - {_WHOLE}:
            del self._failed[text]
        for text, address in wanted.items():
            if text not in self._open:
                await self._bind(text, address)
        gone = [text for text, one in self._open.items() if text not in wanted and not one.inherited]
        try:
            await self._serve(gone)
        except (OSError, TimeoutError, CancelledError, RuntimeError) as error:
            log_event(
                "public-listener-failed", level=logging.ERROR, error=str(error) or "the public thread does not respond"
            )
            self._failed[""] = "the public thread does not respond"
        if self._failed:
            self._retry = self._main.call_later(_RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._retrying = self._main.create_task(self.change(self._setup), name="public retry")

    async def _bind(self, text: str, address: PublicAddress) -> None:
        try:
            sock = await bound(address.host, address.port, address.path, self._setup.unix_mode)
            try:
                sock.listen(_BACKLOG)
                sock.setblocking(False)
            except OSError:
                sock.close()
                raise
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            if self._failed.get(text) != problem:
                log_event("public-listen-failed", level=logging.ERROR, address=text, error=problem)
            self._failed[text] = problem
            return
        self._failed.pop(text, None)
        self._open[text] = PublicListener(sock, address.tls, address.path)

    async def _serve(self, gone: Sequence[str]) -> None:
        """Have the thread serve what is open, and close what is ``gone``."""
        closing = [self._open.pop(text) for text in gone]
        new = [(text, one) for text, one in self._open.items() if one.server is None]
        if self._thread is None and not self._open:
            for listener in closing:
                _unlink(listener)
            return
        if self._thread is None or not self._thread.is_alive():
            self._thread = PublicThread(self.counters)
            await self._thread.start()
            self._thread.call(self._populate)
        setup = self._setup
        settings = SiteSettings(setup.certificates, setup.trusted_proxies, setup.max_connections)
        async with asyncio.timeout(_CROSSING_SECONDS):
            await self._thread.run(self._thread.take(settings, [one for _, one in new], closing))
        self._failed.pop(_WHOLE, None)
        for listener in closing:
            _unlink(listener)
        for text, listener in new:
            log_event("public-listening", address=text, **port_of(listener.sock))

    def _populate(self, site: "PublicSite") -> None:
        for (method, path), (handler, max_body, seconds) in list(self._routes.items()):
            site.add_route(method, path, handler, max_body=max_body, seconds=seconds)
        site.use_policies(self._policies)

    async def close(self) -> None:
        """Stop listening and abort all connections."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self._thread is not None:
            with suppress(TimeoutError, CancelledError, RuntimeError):
                async with asyncio.timeout(_CROSSING_SECONDS):
                    await self._thread.stop(list(self._open.values()))
        for listener in self._open.values():
            if listener.server is None:
                listener.sock.close()
            _unlink(listener)
        self._open.clear()


def _unlink(listener: PublicListener) -> None:
    if listener.path:
        with suppress(OSError):
            Path(listener.path).unlink()
