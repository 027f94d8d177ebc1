"""The receiving process: its parts, and one life of it; ``receiving_process`` starts it and gives it its configuration.

It ends when its standard input ends. Signals are for the daemon, which passes on what they mean: a service manager
sends SIGTERM to both.
"""

import asyncio
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import log
from ..admin.receiving_parts import ReceivingParts
from ..admin.receiving_site import make_receiving_site
from ..clock import SystemClock
from ..config import Config
from ..counters import Counters
from ..diagnose.check.service import CheckService
from ..diagnose.watch.watch import DomainWatch
from ..dns.resolver import DnsResolver
from ..notify.part import NotifyPart
from ..public.check_part import PublicCheckPart
from ..public.counters import PublicCounters
from ..public.server import PublicServer
from ..public.tls_reports import mount_tls_reports
from ..store.file_recovery import FileRecovery
from ..tlsrpt.receive.service import ReceiveService
from .parts import OptionalParts
from .publishing import Publishing
from .tasks import Tasks
from .tuning import give_way_to_lookups
from .wiring import resolver_for

__all__ = ["ReceivingSide", "main"]

_RETRY_EVERY = 30.0
_CLOSE_RESOLVER_AFTER = 60.0
_NAME = "mtasts-receive"


def main(arguments: Mapping[str, Any]) -> None:
    """Run until standard input ends. ``arguments``: descriptors of sockets, as ``ReceivingProcess`` passes them."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    give_way_to_lookups()
    with suppress(OSError):  # as ``ps`` shows it
        Path("/proc/self/comm").write_text(_NAME)
    asyncio.run(ReceivingSide(arguments, os.environ).run())


class ReceivingSide:
    """Checks, received reports, publishing, the public HTTP server and alerts."""

    def __init__(self, arguments: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environ = environ
        self._clock = SystemClock()
        self._counters = Counters()
        self._tasks = Tasks(self._counters)
        self._optional = OptionalParts(self._counters)
        self._stop = asyncio.Event()
        self._configs: asyncio.Queue[tuple[int, Config] | None] = asyncio.Queue()
        self._number = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def run(self) -> None:
        """Run until standard input ends."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read_configs, args=(loop,), name="configuration", daemon=True).start()
        first = await self._configs.get()
        if first is not None:
            await self._serve(*first)

    def _read_configs(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while True:
                # The daemon is the only writer.
                found = pickle.load(sys.stdin.buffer)  # noqa: S301
                loop.call_soon_threadsafe(self._configs.put_nowait, found)
        except EOFError:
            pass
        finally:  # also if the program was replaced by another version, which cannot read it
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._configs.put_nowait, None)

    async def _serve(self, number: int, config: Config) -> None:
        self._resolver = self._use(config)
        parts = self._make_parts()
        site = await make_receiving_site(parts)
        admin = socket.socket(fileno=self._arguments["admin"])
        admin.setblocking(False)
        path = admin.getsockname()
        server = await asyncio.get_running_loop().create_unix_server(site.connected, sock=admin)
        await self._configure(number, config)
        self._tasks.supervise(parts.receive.run, "received-reports")
        self._tasks.supervise(self._publishing.watch.run, "publish-watch")
        self._tasks.supervise(FileRecovery([parts.watch], self._counters, self._clock).run, "file-recovery")
        self._tasks.supervise(self._follow, "configuration")
        self._tasks.supervise(self._retry, "retry-parts")
        await self._stop.wait()
        server.close()
        await site.close()
        await self._optional.stop()
        await self._tasks.cancel()
        await self._resolver.close()
        with suppress(OSError):  # the daemon does this too, unless it was killed
            await asyncio.to_thread(_remove, Path(path))

    def _make_parts(self) -> ReceivingParts:
        """Make the parts and add them to the optional ones, in the order to configure them."""
        clock, environ, optional = self._clock, self._environ, self._optional
        inherited = [socket.socket(fileno=number) for number in self._arguments["lmtp"]]
        notify = NotifyPart(environ)
        receive = ReceiveService(
            environ,
            lambda: self._resolver,
            clock,
            notify,
            inherited=inherited,
            is_published=lambda domain: self._publishing.publishes(domain),
        )
        checks = CheckService()
        watch = DomainWatch(checks.evidence, notify, clock, environ)
        public = PublicServer(PublicCounters())
        for number, address, tls in self._arguments["public"]:
            public.inherit(address, socket.socket(fileno=number), tls=tls)
        mount_tls_reports(public, receive)
        self._publishing = Publishing(environ, lambda: self._resolver, public, receive, notify, clock)
        # The receiver after the published domains: reports about domains that are not known yet would be dropped.
        # The public listener at the end, so that it never serves less than before a restart.
        check_page = PublicCheckPart(public, checks)
        for part in (notify, checks, watch, check_page, *self._publishing.parts, receive, public):
            optional.add(part)
        return ReceivingParts(
            receive=receive,
            publish=self._publishing.operations,
            public=public,
            checks=checks,
            watch=watch,
            counters=self._counters,
            clock=clock,
            failures=lambda: {**self._tasks.failing, **optional.failures},
            configured=self._configured,
        )

    def _configured(self, number: int) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._number >= number:
            done.set_result(None)
        else:
            self._waiting.append((number, done))
        return done

    def _use(self, config: Config) -> DnsResolver:
        self._config = config
        log.configure(config.log.level, config.log.format, self._environ)
        return resolver_for(config)

    async def _configure(self, number: int, config: Config) -> None:
        await self._optional.configure(config)
        self._number = number
        waiting, self._waiting = self._waiting, []
        for wanted, done in waiting:
            if wanted > number:
                self._waiting.append((wanted, done))
            elif not done.done():
                done.set_result(None)

    async def _follow(self) -> None:
        """Take over each new configuration, until there is none."""
        while (following := await self._configs.get()) is not None:
            number, config = following
            old, self._resolver = self._resolver, self._use(config)
            self._tasks.spawn(_close_later(old), "close-old-resolver")
            await self._configure(number, config)
        self._stop.set()

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_EVERY)
            await self._optional.retry(self._config)


def _remove(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


async def _close_later(resolver: DnsResolver) -> None:
    try:
        await asyncio.sleep(_CLOSE_RESOLVER_AFTER)
    finally:  # also if the process ends earlier
        await resolver.close()
