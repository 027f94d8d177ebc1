"""The thread of the public listener: its event loop, the servers on it, and the certificates."""

import asyncio
import importlib
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..config.sections.public import CertificateSettings, PublicSettings
from ..log import log_event
from .acceptor import PublicAcceptor
from .counters import PublicCounters

if TYPE_CHECKING:  # aiohttp and cryptography are imported on this thread, if at all
    from .certificates import Certificates, LoadedCertificate
    from .site import PublicSite

__all__ = ["PublicListener", "PublicThread"]

T = TypeVar("T")

_CERTIFICATE_SECONDS = 30.0
"""Time between two checks of whether certificate files changed."""
_LISTEN_BACKLOG = 1024


@dataclass(slots=True)
class PublicListener:
    """A listening socket. The main loop opens it; once ``server`` is set, the public thread owns and closes it."""

    sock: socket.socket
    tls: bool
    path: str = ""
    inherited: bool = False
    server: PublicAcceptor | None = None


class PublicThread:
    """Runs ``PublicSite`` on a thread. Methods are for the main loop."""

    def __init__(self, counters: PublicCounters) -> None:
        self._counters = counters
        self._thread = threading.Thread(target=self._run, name="public", daemon=True)
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._site: PublicSite | None = None
        self._certificates: Certificates | None = None
        self._stopping: asyncio.Event | None = None

    async def start(self) -> None:
        """Start the thread and wait until its site is there; imports take a good part of a second."""
        self._thread.start()
        await asyncio.wrap_future(self._started)

    def is_alive(self) -> bool:
        """Return True while the thread runs."""
        return self._thread.is_alive()

    @property
    def certificates_loaded(self) -> "Sequence[LoadedCertificate]":
        """Certificates in use."""
        return () if self._certificates is None else self._certificates.loaded

    @property
    def problems(self) -> Sequence[str]:
        """Certificate files that cannot be used, one sentence each."""
        return () if self._certificates is None else self._certificates.problems

    def call(self, change: "Callable[[PublicSite], object]") -> None:
        """Call ``change`` with the site on the thread, after all earlier calls."""
        assert self._loop is not None and self._site is not None
        self._loop.call_soon_threadsafe(change, self._site)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on the thread's loop."""
        assert self._loop is not None
        if not self._thread.is_alive():
            coroutine.close()
            raise RuntimeError("the public thread ended")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    async def take(
        self, settings: PublicSettings, new: Sequence[PublicListener], closing: Sequence[PublicListener]
    ) -> None:
        """Serve the new listeners and close others. Runs on the thread."""
        assert self._site is not None
        self._site.trusted_proxies = settings.trusted_proxies
        self._site.max_connections = settings.max_connections
        if settings.certificates or self._certificates is not None:
            self._use_certificates(settings.certificates)
        for listener in closing:
            close_listener(listener)
        for listener in new:
            self._serve(listener, self._site)

    def _use_certificates(self, settings: "Sequence[CertificateSettings]") -> None:
        if self._certificates is None:
            self._certificates = importlib.import_module("mtasts_daemon.public.certificates").Certificates()
        self._certificates.use([(one.certificate_file, one.key_file) for one in settings])

    def _serve(self, listener: PublicListener, site: "PublicSite") -> None:
        context = None
        if listener.tls:
            if self._certificates is None:
                self._use_certificates(())
            assert self._certificates is not None
            context = self._certificates.context
        listener.server = PublicAcceptor(listener.sock, site, context, _LISTEN_BACKLOG)

    async def stop(self, listeners: Sequence[PublicListener]) -> None:
        """Close listeners and connections, and end the thread."""
        if self._thread.is_alive():
            await self.run(self._end(listeners))

    async def _end(self, listeners: Sequence[PublicListener]) -> None:
        assert self._site is not None and self._stopping is not None
        for listener in listeners:
            close_listener(listener)
        await self._site.close()
        self._stopping.set()

    # -- on the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            site = importlib.import_module("mtasts_daemon.public.site").PublicSite
            asyncio.run(self._live(site))
        except BaseException as error:
            logging.getLogger(__name__).exception("public-thread-failed")
            if not self._started.done():
                self._started.set_exception(RuntimeError(f"the public thread did not start: {error}"))

    async def _live(self, make: "Callable[[PublicCounters], PublicSite]") -> None:
        self._site, self._loop, self._stopping = make(self._counters), asyncio.get_running_loop(), asyncio.Event()
        self._started.set_result(None)
        tasks = [self._loop.create_task(self._site.sweep()), self._loop.create_task(self._reload_certificates())]
        await self._stopping.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reload_certificates(self) -> None:
        while True:
            await asyncio.sleep(_CERTIFICATE_SECONDS)
            try:
                if self._certificates is not None:
                    self._certificates.reload_changed()
            except Exception as error:  # a bug: the certificates in use stay
                log_event("public-certificate-load-failed", level=logging.ERROR, error=error)


def close_listener(listener: PublicListener) -> None:
    """Stop accepting and close the socket, on the thread that owns it."""
    if listener.server is not None:
        listener.server.close()
    else:
        listener.sock.close()
