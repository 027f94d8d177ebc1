"""The public listener: sockets opened on the main loop, served on a thread with an event loop of its own.

Strangers can slow down that thread, but not lookups. A failure does not stop the daemon: ``configure`` reports an
address that cannot be opened, and the daemon tries again.
"""

import asyncio
import importlib
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..config import Config
from ..config.sections.public import PublicListen, PublicSettings
from ..log import log_event
from ..lookup.listeners import bind_listener, port_of
from .counters import PublicCounters
from .thread import PublicListener, PublicThread

if TYPE_CHECKING:  # aiohttp and cryptography are imported on the public thread, if at all
    from .certificates import LoadedCertificate
    from .site import PublicHandler, PublicSite

__all__ = ["PublicServer"]

T = TypeVar("T")

_BACKLOG = 1024
_CROSSING_SECONDS = 10.0
"""Time that the main loop waits for the public thread; it may be busy with imports."""


class PublicServer:
    """The public listener as the main loop sees it. All methods are for the main loop unless they say otherwise."""

    name = "public"

    def __init__(self, counters: PublicCounters) -> None:
        self.counters = counters
        self._settings = PublicSettings()
        self._open: dict[str, PublicListener] = {}
        self._routes: dict[tuple[str, str], tuple[PublicHandler, int, float]] = {}
        self._policies: dict[bytes, bytes] = {}
        """Policies being served, for a restarted thread; the site has its own copy."""
        self._ask: Callable[[str], Coroutine[Any, Any, bool]] | None = None
        self._changing = asyncio.Lock()
        self._closed = False
        self._main = asyncio.get_running_loop()
        self._thread: PublicThread | None = None

    @property
    def addresses(self) -> Sequence[str]:
        """Addresses that are served now."""
        return tuple(text for text, listener in self._open.items() if listener.server is not None)

    @property
    def problems(self) -> Sequence[str]:
        """Certificate files that cannot be used, one sentence each."""
        return () if self._thread is None else self._thread.problems

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

    def change_policies(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Serve these policy texts, by lower-case host name, from now on; None ends one."""
        if self._thread is not None:
            self._thread.call(lambda site: site.change_policies(changes))
        self._policies.update((host, text) for host, text in changes.items() if text is not None)
        for host, text in changes.items():
            if text is None:
                self._policies.pop(host, None)

    def add_ask(self, may_have: Callable[[str], Coroutine[Any, Any, bool]]) -> None:
        """Answer ``/ask`` for Caddy; ``may_have`` runs on the main loop."""
        self._ask = may_have

    async def on_main(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on the main loop. For handlers, on the public thread."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._main))

    def inherit(self, text: str, sock: socket.socket, *, tls: bool) -> None:
        """Serve a listening socket that the service manager passed; ``configure`` leaves it open."""
        sock.setblocking(False)
        self._open[text] = PublicListener(sock, tls, inherited=True)

    async def configure(self, config: Config) -> None:
        """Listen where ``config.public`` says and nowhere else.

        Raises OSError if an address cannot be opened or the thread does not respond; the others are served.
        """
        async with self._changing:
            if self._closed:
                return
            self._settings = config.public
            wanted = {str(listen): listen for listen in self._settings.listen}
            failed: list[str] = []
            for text, listen in wanted.items():
                if text not in self._open:
                    await self._bind(text, listen, failed)
            gone = [text for text, one in self._open.items() if text not in wanted and not one.inherited]
            try:
                await self._serve(gone)
            except (TimeoutError, CancelledError, RuntimeError) as error:
                failed.append(str(error) or "the public thread does not respond")
            if failed:
                raise OSError(0, "; ".join(failed))

    async def _bind(self, text: str, listen: PublicListen, failed: list[str]) -> None:
        try:
            sock = await bind_listener(listen.host, listen.port, listen.path, self._settings.unix_mode)
            try:
                sock.listen(_BACKLOG)
                sock.setblocking(False)
            except OSError:
                sock.close()
                raise
        except (OSError, ValueError) as error:
            failed.append(f"cannot listen on {text}: {getattr(error, 'strerror', None) or error}")
        else:
            self._open[text] = PublicListener(sock, listen.tls, listen.path)

    async def _serve(self, gone: Sequence[str]) -> None:
        """Let the thread serve the open listeners and close those in ``gone``."""
        closing = [self._open.pop(text) for text in gone]
        new = [(text, one) for text, one in self._open.items() if one.server is None]
        if self._thread is None and not self._open:
            for listener in closing:
                _unlink(listener)
            return
        if self._thread is None or not self._thread.is_alive():
            thread = PublicThread(self.counters)
            async with asyncio.timeout(_CROSSING_SECONDS):
                await thread.start()
            thread.call(self._populate)
            self._thread = thread
            # Listeners of an earlier thread ended with it.
            new = list(self._open.items())
        async with asyncio.timeout(_CROSSING_SECONDS):
            await self._thread.run(self._thread.take(self._settings, [one for _, one in new], closing))
        for listener in closing:
            _unlink(listener)
        for text, listener in new:
            log_event("public-listening", address=text, **port_of(listener.sock))

    def _populate(self, site: "PublicSite") -> None:
        for (method, path), (handler, max_body, seconds) in list(self._routes.items()):
            site.add_route(method, path, handler, max_body=max_body, seconds=seconds)
        site.change_policies(dict(self._policies))
        ask = self._ask
        if ask is not None:
            handlers = importlib.import_module("mtasts_daemon.public.ask")
            handler = handlers.ask_handler(lambda name: self.on_main(ask(name)), time.monotonic)
            site.add_route("GET", handlers.ASK_PATH, handler)

    async def stop(self) -> None:
        """Stop listening and abort all connections."""
        self._closed = True
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
