"""TLS reporting beside the lookups: what is collected, kept and delivered, as one part of the daemon.

Whatever goes wrong here is told and counted; it never stops a lookup, and never the start of the daemon.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from ..config.tlsrpt import TlsrptSettings
from ..errors import StoreError
from ..observe import tell
from ..policy.notes import Note, Noted
from .collect import Collector, SocketSettings
from .database import Caps, TlsrptDatabase, open_database
from .event import Failure, Policy
from .known import noted_by

__all__ = ["TlsrptService"]

_STOP_WITHIN = 2.0
"""Seconds at the end for what is queued to be committed."""

_FIXED = ("socket", "socket_owner", "socket_group", "socket_mode", "database", "max_failure_details")


class TlsrptService:
    """Off until there is a socket: one that is configured, or those that systemd passed on."""

    def __init__(self, settings: TlsrptSettings, inherited: Sequence[socket.socket]) -> None:
        self.settings = settings
        self.database: TlsrptDatabase | None = None
        """Open while TLS results are collected."""
        self.collectors: list[Collector] = []
        self._inherited = inherited
        self._noted: Noted = noted_by(self._collect)

    async def start(self, store: Path) -> None:
        """Open the database, beside ``store`` unless it is configured, and begin to receive."""
        wanted = self._sockets()
        if not wanted:
            return
        path = self.settings.file(store)
        caps = Caps(failures=self.settings.max_failure_details)
        try:
            self.database = await asyncio.to_thread(open_database, path, now=time.time(), caps=caps)
        except StoreError as error:
            tell("tlsrpt-off", level=logging.ERROR, path=path, error=error)
            return
        for problem in self.database.problems:
            tell("tlsrpt-database-problem", level=logging.WARNING, path=path, error=problem)
        for where in wanted:
            self._receive(where, self.database)

    def _sockets(self) -> list[SocketSettings | socket.socket]:
        settings, wanted = self.settings, list[SocketSettings | socket.socket](self._inherited)
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
            tell("tlsrpt-not-listening", level=logging.ERROR, address=address, error=error.strerror or error)
            return
        self.collectors.append(collector)
        tell("tlsrpt-listening", address=address)

    # -- our own knowledge ---------------------------------------------------------------------------------

    def noted(self, note: Note) -> None:
        """Have the failures that the note tells of collected."""
        if self.collectors:
            self._noted(note)

    def _collect(self, domain: str, policy: Policy, failure: Failure) -> None:
        self.collectors[0].note(domain, policy, failure)

    # -- the rest of a life --------------------------------------------------------------------------------

    def configure(self, settings: TlsrptSettings) -> None:
        """Go by other settings from now on; the socket and the database stay as they are until a restart."""
        old, self.settings = self.settings, settings
        if any(getattr(old, name) != getattr(settings, name) for name in _FIXED):
            tell("restart-needed", level=logging.WARNING, section="tlsrpt")

    async def stop_collecting(self) -> None:
        """Receive no more, and commit what has come."""
        stopped = await asyncio.gather(*(asyncio.to_thread(one.stop, _STOP_WITHIN) for one in self.collectors))
        if not all(stopped):
            tell("tlsrpt-not-committed", level=logging.ERROR, meaning="the disk did not take the last results in time")

    async def close(self) -> None:
        """Let go of the database."""
        if self.database is not None:
            try:
                await self.database.close()
            except StoreError as error:
                tell("tlsrpt-database-problem", level=logging.ERROR, error=error)
