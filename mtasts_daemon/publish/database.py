"""The database of published domains: the state of each domain, and the history of its changes.

One SQLite file, managed by ``store.database``. Everything is loaded at the start; every change is committed before it
takes effect, so that a restart knows until when senders may hold a policy.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ..errors import MtaStsError, StoreDamaged, StoreError
from ..store.database import Database, DatabaseCounters, Options, Schema, set_aside
from .policy_text import PublishedPolicy
from .state import DomainState, PublishPhase

__all__ = ["PublishDatabase", "PublishEvent"]

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
    ("CREATE TABLE serving (id INTEGER PRIMARY KEY CHECK (id = 1), seconds REAL NOT NULL)",),
)
_SCHEMA = Schema(application_id=0x4D545350, table="domain", migrations=_MIGRATIONS)  # MTSP

_COLUMNS = "domain, text, live_since, held_until, phase, phase_since, mx_hosts, forced_id, forced_reason, dns_id"
_PUT = f"INSERT OR REPLACE INTO domain ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_LOAD = f"SELECT {_COLUMNS} FROM domain"  # noqa: S608


@dataclass(frozen=True, slots=True)
class PublishEvent:
    """A change of a domain, with its cause or object in ``detail``."""

    domain: str
    at: float
    event: str
    detail: str = ""


class PublishDatabase:
    """The open file. ``open`` is called first; calls raise ``StoreError`` and work again once the cause is gone."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.problems: Sequence[StoreError] = ()
        """Problems found at opening: a damaged file that was renamed, rows that cannot be read."""
        self.served = 0.0
        """The serving clock as last stored."""
        self._database = _database(self.path)

    async def open(self, now: float) -> list[DomainState]:
        """Open the file, making it (0600), and return all states."""
        problems = list(await self._database.open(now))
        try:
            states, bad = await self._database.read(_load)
        except StoreDamaged as damage:
            await self._database.close()
            aside = set_aside(self.path, now)
            problems.append(StoreDamaged(f"{damage.detail}; set aside as {aside.name!a}"))
            self._database = _database(self.path)
            await self._database.open(now)
            states, bad = [], 0
        served = await self._database.read(lambda one: one.execute("SELECT seconds FROM serving").fetchone())
        self.served = served[0] if served and isinstance(served[0], float) and isfinite(served[0]) else now
        if bad:
            problems.append(StoreDamaged(f"{bad} domains cannot be read and are published again"))
        self.problems = tuple(problems)
        return list(states)

    async def put(self, states: Iterable[DomainState], events: Iterable[PublishEvent] = (), *, served: float) -> None:
        """Store the states and the serving clock, and add to the history, in one transaction."""
        rows = [_row(state) for state in states]
        history = [(event.domain, event.at, event.event, event.detail) for event in events]
        await self._database.write(lambda connection: _put(connection, rows, history, served))
        self.served = served

    async def history(self, domain: str) -> list[PublishEvent]:
        """Return the domain's events, the newest first."""
        query = "SELECT domain, at, event, detail FROM history WHERE domain = ? ORDER BY id DESC LIMIT ?"
        rows = await self._database.read(lambda one: one.execute(query, (domain, _HISTORY_ROWS)).fetchall())
        return [PublishEvent(*row) for row in rows]

    async def recover(self, now: float) -> bool:
        """Reopen the file if it was deleted or replaced. Return True if so: all states must be put again."""
        return bool(await self._database.recover(now))

    async def close(self) -> None:
        """Finish pending work and close the file. Raises ``StoreError`` if the disk hangs."""
        await self._database.close()


def _database(path: str) -> Database:
    return Database(path, _SCHEMA, Options("publish"), DatabaseCounters())


def _load(connection: sqlite3.Connection) -> tuple[list[DomainState], int]:
    """Return the states and the number of rows that cannot be read."""
    states: list[DomainState] = []
    # Many domains have the same text: they share one object, which is validated once.
    texts: dict[bytes, bytes] = {}
    bad = 0
    for row in connection.execute(_LOAD):
        try:
            states.append(_state(row, texts))
        except (TypeError, ValueError, MtaStsError):  # a damaged row costs its own domain only
            bad += 1
    return states, bad


def _put(
    connection: sqlite3.Connection,
    rows: Sequence[Sequence[object]],
    history: Sequence[tuple[str, float, str, str]],
    served: float,
) -> None:
    connection.execute("INSERT OR REPLACE INTO serving (id, seconds) VALUES (1, ?)", (served,))
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
