"""TLS reporting beside the lookups: what is collected, kept and delivered, as one part of the daemon.

Whatever goes wrong here is told and counted; it never stops a lookup, and never the start of the daemon.
"""

import asyncio
import importlib
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..clock import ClockStability
from ..config import Config
from ..errors import ConfigError, StoreError
from ..log import log_event
from ..policy.findings import Finding, FindingSink
from ..ports import Clock, Resolver
from .collect.collector import Collector, CollectorCounters, SocketSettings
from .database.connection import Caps, TlsrptDatabase, open_database
from .database.overview import DeliveryCounters
from .model.event import Failure, Policy
from .model.own_failures import noted_by

if TYPE_CHECKING:
    from .send.deliverer import Deliverer

__all__ = ["TlsrptService"]

_SENDING = "mtasts_daemon.tlsrpt.send.factory"

_STOP_WITHIN = 2.0
"""Seconds at the end for what is queued to be committed, and for reports under way."""

_ASK_AGAIN = 15.0
"""Seconds between looks whether another process still sends."""

_FIXED = ("socket", "socket_owner", "socket_group", "socket_mode", "database", "max_failure_details")


class TlsrptService:
    """Off until there is a socket: one that is configured, or those that systemd passed on."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        inherited: Sequence[socket.socket],
        resolver: Callable[[], Resolver],
        clock: Clock,
    ) -> None:
        self.database: TlsrptDatabase | None = None
        """Open while TLS results are collected."""
        self.collectors: list[Collector] = []
        self.deliverer: Deliverer | None = None
        """What sends reports, while it does."""
        self.delivered = DeliveryCounters()
        """What became of reports since the start, whoever sent them: each reload has another deliverer."""
        self.path = config.tlsrpt.file(config.store.file(environ))
        """The database's file."""
        self._config = config
        self._environ = environ
        self._inherited = inherited
        self._resolver = resolver
        self._clock = clock
        self._steadiness = ClockStability(clock.wall(), clock.monotonic())
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._delivering: asyncio.Task[None] | None = None
        self._noted: FindingSink = noted_by(self._collect)

    async def start(self) -> None:
        """Open the database and begin to receive."""
        wanted = self._sockets()
        if not wanted:
            return
        caps = Caps(failures=self._config.tlsrpt.max_failure_details)
        try:
            self.database = await asyncio.to_thread(open_database, self.path, now=self._clock.wall(), caps=caps)
        except StoreError as error:
            log_event("tlsrpt-off", level=logging.ERROR, path=self.path, error=error)
            return
        for problem in self.database.problems:
            log_event("tlsrpt-database-problem", level=logging.WARNING, path=self.path, error=problem)
        for where in wanted:
            self._receive(where, self.database)

    def _sockets(self) -> list[SocketSettings | socket.socket]:
        settings, wanted = self._config.tlsrpt, list[SocketSettings | socket.socket](self._inherited)
        passed = {sock.getsockname() for sock in self._inherited}
        if settings.socket is not None and str(settings.socket) not in passed:
            owner, group = settings.socket_owner or "", settings.socket_group or ""
            wanted.append(SocketSettings(str(settings.socket), owner, group, settings.socket_mode))
        return wanted

    def _receive(self, where: SocketSettings | socket.socket, database: TlsrptDatabase) -> None:
        address = where.path if isinstance(where, SocketSettings) else where.getsockname()
        collector = Collector(where, database)
        try:
            collector.start()
        except OSError as error:
            log_event("tlsrpt-not-listening", level=logging.ERROR, address=address, error=error.strerror or error)
            return
        self.collectors.append(collector)
        log_event("tlsrpt-listening", address=address)

    @property
    def collected(self) -> CollectorCounters:
        """What came on all sockets, as of now."""
        return CollectorCounters.total(collector.counters for collector in self.collectors)

    # -- our own knowledge ---------------------------------------------------------------------------------

    def on_finding(self, note: Finding) -> None:
        """Have the failures that the note tells of collected."""
        if self.collectors:
            self._noted(note)

    def _collect(self, domain: str, policy: Policy, failure: Failure) -> None:
        self.collectors[0].note(domain, policy, failure)

    # -- reports -------------------------------------------------------------------------------------------

    async def deliver(self) -> None:
        """Send reports until ``stop``, always by the configuration in force."""
        if self.database is None or self._stopping.is_set():
            return
        self._delivering = asyncio.current_task()
        # With all that HTTPS needs; lookups do not wait for it.
        sending = await asyncio.to_thread(importlib.import_module, _SENDING)
        lock = sending.SendingLock(self.path)
        try:
            while not lock.take() and not self._stopping.is_set():
                log_event("tlsrpt-another-sends", level=logging.WARNING, once_a_minute="", path=self.path)
                await self._changes(_ASK_AGAIN)
            while not self._stopping.is_set():
                self._changed.clear()
                await self._deliver_until_changed(sending, self.database)
        finally:
            lock.close()

    async def _deliver_until_changed(self, sending: Any, database: TlsrptDatabase) -> None:
        try:
            resolver = self._resolver()
            deliverer: Deliverer = sending.deliverer_for(
                self._config, self._environ, database, resolver, self._clock, self.delivered, self._steadiness
            )
        except ConfigError as error:
            log_event("tlsrpt-not-sending", level=logging.ERROR, error=error)
            await self._changed.wait()
            return
        self.deliverer = deliverer
        running = asyncio.create_task(deliverer.run(), name="reports")
        try:
            await self._changed.wait()
            await self._finished(deliverer)
            await deliverer.stop(_STOP_WITHIN)
            await running
        finally:
            running.cancel()
            self.deliverer = None

    async def _finished(self, deliverer: "Deliverer") -> None:
        """Wait for reports under way, which would be sent again otherwise; the daemon's end does not wait for that."""
        finishing = asyncio.create_task(deliverer.finish(), name="reports finish")
        stopping = asyncio.create_task(self._stopping.wait(), name="reports stop")
        try:
            await asyncio.wait({finishing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            finishing.cancel()
            stopping.cancel()

    async def _changes(self, within: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()

    async def recover(self, now: float) -> Sequence[StoreError]:
        """As the database does, where there is one."""
        found = () if self.database is None else await self.database.recover(now)
        if found:
            # What was planned may not be in the file that is there now.
            self._changed.set()
        return found

    # -- the rest of a life --------------------------------------------------------------------------------

    def configure(self, config: Config) -> None:
        """Go by another configuration from now on; the socket and the database stay as they are until a restart."""
        old, self._config = self._config, config
        if any(getattr(old.tlsrpt, name) != getattr(config.tlsrpt, name) for name in _FIXED):
            log_event("restart-needed", level=logging.WARNING, section="tlsrpt")
        # Also the files of secrets may be other ones now.
        self._changed.set()

    async def stop(self) -> None:
        """Receive and send no more; commit what has come, and what has become of reports under way."""
        self._stopping.set()
        self._changed.set()
        await self._stop_collecting()
        if self._delivering is not None:
            # Seldom as long as that: the deliverer has been told by now, and waits no longer than _STOP_WITHIN itself.
            await asyncio.wait({self._delivering}, timeout=_STOP_WITHIN + 0.5)

    async def _stop_collecting(self) -> None:
        stopped = await asyncio.gather(*(asyncio.to_thread(one.stop, _STOP_WITHIN) for one in self.collectors))
        if not all(stopped):
            log_event("tlsrpt-not-committed", level=logging.ERROR, meaning="the last results were not written in time")

    async def close(self) -> None:
        """Let go of the database."""
        if self.database is not None:
            try:
                await self.database.close()
            except StoreError as error:
                log_event("tlsrpt-database-problem", level=logging.ERROR, error=error)
