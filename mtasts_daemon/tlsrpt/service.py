"""TLS reporting as one part of the daemon: collects TLS results, stores them and sends reports.

Failures here are logged and counted. They never stop a lookup or the start of the daemon.
"""

import asyncio
import importlib
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..clock import ClockStability
from ..config import Config
from ..errors import ConfigError, StoreError
from ..https.untrusted_loop import UntrustedLoop
from ..log import log_event
from ..policy.findings import Finding
from ..ports import Clock, Resolver
from .collect.collector import Collector, CollectorCounters, SocketSettings
from .collect.network_check import NetworkCheck
from .database.connection import Caps, TlsrptDatabase, open_database
from .database.overview import DeliveryCounters
from .model.own_failures import OwnFailure, own_failures

if TYPE_CHECKING:
    from .send.deliverer import Deliverer

__all__ = ["TlsrptService"]

_SENDING = "mtasts_daemon.tlsrpt.send.factory"

_STOP_SECONDS = 2.0
"""Seconds at the end for queued results to be committed, and for deliveries under way."""

_LOCK_SECONDS = 15.0
"""Seconds between attempts to take the sending lock from another process."""

_FIXED = ("socket", "socket_owner", "socket_group", "socket_mode", "database", "max_failure_details")


class TlsrptService:
    """Collects if there is a socket: a configured one, or some that systemd passed."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        inherited: Sequence[socket.socket],
        resolver: Callable[[], Resolver],
        clock: Clock,
        untrusted_loop: UntrustedLoop | None = None,
    ) -> None:
        self.database: TlsrptDatabase | None = None
        """Open while TLS results are collected."""
        self.collectors: list[Collector] = []
        self.deliverer: Deliverer | None = None
        """The deliverer while reports are sent."""
        self.delivered = DeliveryCounters()
        """Counts since the start; each reload makes a new deliverer that continues them."""
        self.path = config.tlsrpt.file(config.store.file(environ))
        """The database's file."""
        self._config = config
        self._environ = environ
        self._inherited = inherited
        self._resolver = resolver
        self._clock = clock
        self._untrusted_loop = untrusted_loop
        self._stability = ClockStability(clock.wall(), clock.monotonic())
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._delivering: asyncio.Task[None] | None = None
        self._network_check = NetworkCheck(resolver)
        self._sockets: list[SocketSettings | socket.socket] = []
        """The sockets that are configured or inherited and not yet received on."""

    async def start(self) -> None:
        """Open the database and begin to receive. ``recover`` tries again what fails."""
        settings, self._sockets = self._config.tlsrpt, list(self._inherited)
        passed = {sock.getsockname() for sock in self._inherited}
        if settings.socket is not None and str(settings.socket) not in passed:
            owner, group = settings.socket_owner or "", settings.socket_group or ""
            self._sockets.append(SocketSettings(str(settings.socket), owner, group, settings.socket_mode))
        if self._sockets:
            await self._open()

    async def _open(self) -> None:
        if self.database is None:
            caps = Caps(failures=self._config.tlsrpt.max_failure_details)
            try:
                self.database = await asyncio.to_thread(open_database, self.path, now=self._clock.wall(), caps=caps)
            except StoreError as error:
                log_event("tlsrpt-off", level=logging.ERROR, path=self.path, error=error)
                return
            for problem in self.database.problems:
                log_event("tlsrpt-database-problem", level=logging.WARNING, path=self.path, error=problem)
            self._changed.set()
        self._sockets = [where for where in self._sockets if not self._receive(where, self.database)]

    def _receive(self, where: SocketSettings | socket.socket, database: TlsrptDatabase) -> bool:
        """Begin to receive on a socket. Return False if that may succeed later."""
        address = where.path if isinstance(where, SocketSettings) else where.getsockname()
        collector = Collector(where, database, clock=self._clock)
        try:
            collector.start()
        except OSError as error:
            log_event("tlsrpt-not-listening", level=logging.ERROR, address=address, error=error.strerror or error)
            return not isinstance(where, SocketSettings)
        self.collectors.append(collector)
        log_event("tlsrpt-listening", address=address)
        return True

    @property
    def collected(self) -> CollectorCounters:
        """Return the sums over all sockets."""
        return CollectorCounters.total(collector.counters for collector in self.collectors)

    # -- failures that the daemon finds itself -----------------------------------------------------------------

    def on_finding(self, finding: Finding) -> None:
        """Collect the failures of a finding, unless this host's resolver or Internet connection is at fault."""
        if not self.collectors:
            return
        for failure in own_failures(finding):
            if failure.needs_network_check:
                self._network_check.call_if_working(partial(self._collect, failure))
            else:
                self._collect(failure)

    def _collect(self, failure: OwnFailure) -> None:
        self.collectors[0].note(failure.domain, failure.policy, failure.failure)

    # -- reports -----------------------------------------------------------------------------------------------

    async def deliver(self) -> None:
        """Send reports until ``stop``, by the configuration in force."""
        if not (self.collectors or self._sockets):
            return
        self._delivering = asyncio.current_task()
        database = await self._opened()
        if database is None:
            return
        # Imports all that HTTPS needs; lookups do not wait for it.
        sending = await asyncio.to_thread(importlib.import_module, _SENDING)
        lock = sending.SendingLock(self.path)
        try:
            while not self._stopping.is_set():
                # Cleared before the state is examined, so that no change is missed and each wait really waits.
                self._changed.clear()
                if lock.take():
                    await self._deliver_until_changed(sending, database)
                else:
                    log_event("tlsrpt-another-sends", level=logging.WARNING, once_a_minute="", path=self.path)
                    await self._wait_for_change(_LOCK_SECONDS)
        finally:
            lock.close()

    async def _opened(self) -> TlsrptDatabase | None:
        """Wait until the database is open. Return None if the daemon stops before."""
        while not self._stopping.is_set():
            self._changed.clear()
            if self.database is not None:
                return self.database
            await self._changed.wait()
        return None

    async def _deliver_until_changed(self, sending: Any, database: TlsrptDatabase) -> None:
        try:
            resolver = self._resolver()
            deliverer: Deliverer = sending.deliverer_for(
                self._config,
                self._environ,
                database,
                resolver,
                self._clock,
                self.delivered,
                self._stability,
                self._untrusted_loop,
            )
        except ConfigError as error:
            log_event("tlsrpt-not-sending", level=logging.ERROR, error=error)
            await self._changed.wait()
            return
        self.deliverer = deliverer
        running = asyncio.create_task(deliverer.run(), name="reports")
        changed = asyncio.create_task(self._changed.wait(), name="reports change")
        try:
            await asyncio.wait({running, changed}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await self._finished(deliverer)
                await deliverer.stop(_STOP_SECONDS)
            await running
        finally:
            running.cancel()
            changed.cancel()
            self.deliverer = None

    async def _finished(self, deliverer: "Deliverer") -> None:
        """Wait for deliveries under way, which would be repeated otherwise; the end of the daemon does not wait."""
        finishing = asyncio.create_task(deliverer.finish(), name="reports finish")
        stopping = asyncio.create_task(self._stopping.wait(), name="reports stop")
        try:
            await asyncio.wait({finishing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            finishing.cancel()
            stopping.cancel()

    async def _wait_for_change(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def recover(self, now: float) -> Sequence[StoreError]:
        """Start what could not be started, and reopen the database if it was deleted or replaced.

        Return the problems found. Raises ``StoreError``.
        """
        if self._sockets and not self._stopping.is_set():
            await self._open()
        found = () if self.database is None else await self.database.recover(now)
        if found:
            # The plan may not be in the file that is there now.
            self._changed.set()
        return found

    # -- reload and shutdown -----------------------------------------------------------------------------------

    def configure(self, config: Config) -> None:
        """Take over another configuration; the socket and the database need a restart."""
        old, self._config = self._config, config
        if any(getattr(old.tlsrpt, name) != getattr(config.tlsrpt, name) for name in _FIXED):
            log_event("restart-needed", level=logging.WARNING, section="tlsrpt")
        # The files of secrets may have changed as well.
        self._changed.set()

    async def stop(self) -> None:
        """Stop receiving and sending; commit queued results and the state of deliveries under way."""
        self._stopping.set()
        self._changed.set()
        await self._stop_collecting()
        if self._delivering is not None:
            # The deliverer itself waits no longer than _STOP_SECONDS.
            await asyncio.wait({self._delivering}, timeout=_STOP_SECONDS + 0.5)

    async def _stop_collecting(self) -> None:
        stopped = await asyncio.gather(*(asyncio.to_thread(one.stop, _STOP_SECONDS) for one in self.collectors))
        if not all(stopped):
            log_event("tlsrpt-not-committed", level=logging.ERROR, meaning="the last results were not written in time")

    async def close(self) -> None:
        """Close the database."""
        if self.database is not None:
            try:
                await self.database.close()
            except StoreError as error:
                log_event("tlsrpt-database-problem", level=logging.ERROR, error=error)
