"""The database of published domains: the state of each domain, and the history of its changes.

One SQLite file with one connection, used on one thread. Everything is loaded at the start; every change is committed
before it takes effect, so that a restart knows until when senders may hold a policy.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import MtaStsError, StoreDamaged, StoreError
from ..store import database as sqlite_file
from .policy_text import PublishedPolicy
from .state import DomainState, PublishPhase

__all__ = ["PublishDatabase", "PublishEvent"]

T = TypeVar("T")

_HISTORY_SECONDS = 400 * 86400.0
_HISTORY_ROWS = 1000
"""Events of a domain that are returned."""

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE domain (
            domain TEXT NOT NULL PRIMARY KEY,
            text BLOB,
            live_since REAL NOT NULL,
            held_until REAL NOT NULL,
            phase TEXT NOT NULL,
            phase_since REAL NOT NULL,
            mx_hosts TEXT,
            forced_id TEXT NOT NULL,
            forced_reason TEXT NOT NULL,
            dns_id TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE history (
            id INTEGER PRIMARY KEY,
            domain TEXT NOT NULL,
            at REAL NOT NULL,
            event TEXT NOT NULL,
            detail TEXT NOT NULL
        )
        """,
        "CREATE INDEX history_domain ON history (domain, id)",
        "CREATE INDEX history_at ON history (at)",
    ),
)
_SCHEMA = sqlite_file.Schema(application_id=0x4D545350, table="domain", migrations=_MIGRATIONS)  # MTSP

_COLUMNS = "domain, text, live_since, held_until, phase, phase_since, mx_hosts, forced_id, forced_reason, dns_id"
_PUT = f"INSERT OR REPLACE INTO domain ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_LOAD = f"SELECT {_COLUMNS} FROM domain"  # noqa: S608


@dataclass(frozen=True, slots=True)
class PublishEvent:
    """A change of a domain: what happened, and to what or why."""

    domain: str
    at: float
    event: str
    detail: str = ""


class PublishDatabase:
    """The open file. ``open`` is called first; calls raise ``StoreError`` and work again once the cause is gone."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.problems: Sequence[StoreError] = ()
        """What opening found: a damaged file that was set aside, rows that cannot be read."""
        self._connection: sqlite3.Connection | None = None
        self._file: sqlite_file.DatabaseFile | None = None
        self._thread = ThreadPoolExecutor(1, "publish-database")

    async def open(self, now: float) -> list[DomainState]:
        """Open the file, making it (0600), and return all states."""
        return await self._run(lambda: self._open(now))

    def _open(self, now: float) -> list[DomainState]:
        problems: list[StoreError] = []
        try:
            self._connection = sqlite_file.open_writing(self.path, _SCHEMA, one_thread=False)
            states = self._load(problems)
        except StoreDamaged as damage:
            self._close()
            aside = sqlite_file.set_aside(self.path, now)
            problems.append(StoreDamaged(f"{damage.detail}; set aside as {aside.name!a}"))
            self._connection = sqlite_file.open_writing(self.path, _SCHEMA, one_thread=False)
            states = []
        self._file = None if self.path == sqlite_file.MEMORY else sqlite_file.DatabaseFile(self.path)
        self.problems = tuple(problems)
        return states

    def _load(self, problems: list[StoreError]) -> list[DomainState]:
        assert self._connection is not None
        states: list[DomainState] = []
        # Many domains have the same text: they share one object, which is validated once.
        texts: dict[bytes, bytes] = {}
        bad = 0
        try:
            for row in self._connection.execute(_LOAD):
                try:
                    states.append(_state(row, texts))
                except (TypeError, ValueError, MtaStsError):  # a damaged row costs its own domain only
                    bad += 1
        except sqlite3.Error as error:
            raise sqlite_file.as_store_error(error) from None
        if bad:
            problems.append(StoreDamaged(f"{bad} domains cannot be read and are published again"))
        return states

    async def put(self, states: Iterable[DomainState], events: Iterable[PublishEvent] = ()) -> None:
        """Keep the states and add to the history, in one transaction."""
        kept, noted = list(states), list(events)

        def put(connection: sqlite3.Connection) -> None:
            history = [(event.domain, event.at, event.event, event.detail) for event in noted]
            _put(connection, [_row(state) for state in kept], history)

        await self._run(lambda: self._write(put))

    async def history(self, domain: str) -> list[PublishEvent]:
        """Return the domain's events, the newest first."""
        query = "SELECT domain, at, event, detail FROM history WHERE domain = ? ORDER BY id DESC LIMIT ?"
        rows = await self._run(lambda: self._write(lambda one: one.execute(query, (domain, _HISTORY_ROWS)).fetchall()))
        return [PublishEvent(*row) for row in rows]

    async def is_lost(self) -> bool:
        """Return True if the file was removed or replaced: all states have to be put into a new one."""
        return await self._run(lambda: self._file is not None and self._file.is_lost())

    async def reopen(self, now: float, states: Iterable[DomainState]) -> None:
        """Begin a new file with ``states``, after the old one was lost."""
        rows = [_row(state) for state in states]

        def reopen() -> None:
            self._close()
            self._open(now)
            self._write(lambda connection: _put(connection, rows, []))

        await self._run(reopen)

    def _write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            raise StoreError("its file cannot be opened")
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = job(connection)
            connection.execute("COMMIT")
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise sqlite_file.as_store_error(error) from None
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return result

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except RuntimeError:
            raise StoreError("it is closed") from None

    async def close(self) -> None:
        """Finish pending work and close the file."""
        try:
            await self._run(self._close)
        except StoreError:
            return
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _put(
    connection: sqlite3.Connection,
    rows: Sequence[Sequence[object]],
    history: Sequence[tuple[str, float, str, str]],
) -> None:
    connection.executemany(_PUT, rows)
    if history:
        connection.executemany("INSERT INTO history (domain, at, event, detail) VALUES (?, ?, ?, ?)", history)
        newest = max(at for _, at, _, _ in history)
        connection.execute("DELETE FROM history WHERE at < ?", (newest - _HISTORY_SECONDS,))


def _row(state: DomainState) -> tuple[object, ...]:
    return (
        state.domain,
        state.text,
        state.live_since,
        state.held_until,
        state.phase.value,
        state.phase_since,
        None if state.mx_hosts is None else json.dumps(state.mx_hosts),
        state.forced_id,
        state.forced_reason,
        state.dns_id,
    )


def _state(row: Sequence[object], texts: dict[bytes, bytes]) -> DomainState:
    """Return the state in a row. Raises TypeError, ValueError or ``MtaStsError`` if the row is damaged."""
    domain, text, live_since, held_until, phase, phase_since, mx_hosts, forced_id, forced_reason, dns_id = row
    if text is not None:
        if not isinstance(text, bytes):
            raise TypeError("text")
        if text not in texts:
            PublishedPolicy.from_text(text)
        text = texts.setdefault(text, text)
    words = (domain, forced_id, forced_reason, dns_id)
    numbers = (live_since, held_until, phase_since)
    if not all(isinstance(one, str) for one in words) or not all(isinstance(one, float) for one in numbers):
        raise TypeError("a column has another type")
    hosts = None if mx_hosts is None else tuple(map(str, json.loads(str(mx_hosts))))
    return DomainState(
        str(domain),
        text,
        float(str(live_since)),
        float(str(held_until)),
        PublishPhase(phase),
        float(str(phase_since)),
        hosts,
        str(forced_id),
        str(forced_reason),
        str(dns_id),
    )
