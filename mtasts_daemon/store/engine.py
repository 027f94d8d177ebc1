"""What is done with the store's SQLite file; runs on the store's threads, never on the event loop."""

import contextlib
import itertools
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import StoreDamaged, StoreError
from ..policy.cache_entry import CacheEntry
from . import database
from . import schema as schema
from .lock import StoreLock

__all__ = ["DUE", "PAGE", "Call", "Engine", "Opened", "Read", "Report", "StoreCounters", "StoreLimits"]

_KEPT_AFTER_EXPIRY = 30 * 86400
"""Seconds that an expired policy stays, for the operator to look at."""

_PUTS_BETWEEN_CHECKS = 1000
"""Puts after which the limits are enforced without waiting for ``tidy``."""

T = TypeVar("T")
Call = Callable[[sqlite3.Connection], T]
Read = str | Call[Any]
"""A domain to get, or any other question."""

Report = Callable[[StoreError], object]

_SELECT = "SELECT {} FROM entry WHERE {}"
# One statement however many domains: each gives up the interpreter's lock, and has to wait to have it back.
_GET = _SELECT.format(schema.COLUMNS, "domain IN (SELECT value FROM json_each(?))")
DUE = "due_at <= ? AND last_used >= ? ORDER BY due_at"
PAGE = "domain > ? ORDER BY domain"
_PUT = "INSERT OR REPLACE INTO entry ({}, due_at, mode) VALUES ({})"
_PUT = _PUT.format(schema.COLUMNS, ", ".join("?" * (schema.COLUMNS.count(",") + 3)))
_TOUCH = "UPDATE entry SET last_used = ? WHERE domain = ? AND last_used < ?"
_EXPIRE = "DELETE FROM entry WHERE coalesce(valid_until, last_used) < ?"
_ONE_DAY = "CAST(first_used / 86400 AS INTEGER) = CAST(last_used / 86400 AS INTEGER)"
_EVICT = "DELETE FROM entry WHERE rowid IN (SELECT rowid FROM entry WHERE {} ORDER BY last_used LIMIT ?)"
_EVICTIONS = (("one-day", _EVICT.format(_ONE_DAY)), ("least-recent", _EVICT.format("1")))
"""Who goes first, by the reason it is counted under."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What the store may hold; ``max_bytes`` is octets in use. ``put`` may exceed both by 1,000 entries."""

    max_policies: int = 200_000
    max_bytes: int = 1 << 30


@dataclass(slots=True)
class StoreCounters:
    """What happened since the store was opened; plain numbers, to be read at any time."""

    gets: int = 0
    puts: int = 0
    failures: int = 0
    """Calls that raised a ``StoreError``."""
    damaged_rows: int = 0
    """Rows passed over because they made no sense or could not be read."""
    commits: int = 0
    commit_seconds: float = 0.0
    """Time spent in transactions, from BEGIN to the end of COMMIT."""
    removed: Counter[str] = field(default_factory=Counter)
    """Entries that ``tidy`` or a limit removed, by reason: ``expired``, ``one-day``, ``least-recent``."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening found: whether nothing is stored yet, and what is to be told to the operator."""

    empty: bool
    problems: Sequence[StoreError] = ()


class Engine:
    """The connections, and what is done with them: everything here runs on the threads."""

    def __init__(self, limits: StoreLimits, report: Report) -> None:
        self.counters = StoreCounters()
        self._limits = limits
        self._report = report
        self._unchecked = 0
        self._writing: sqlite3.Connection | None = None
        self._reading: sqlite3.Connection | None = None
        self._lock = StoreLock()
        self._place: database.DatabaseFile | None = None

    def lock(self, path: str) -> bool:
        """Whether no other process writes the file, nor will until ``close_writing``. Raises ``StoreError``."""
        return path == database.MEMORY or self._lock.take(path)

    def open_writing(self, path: str, now: float) -> Opened:
        """Open for writing; a damaged file is set aside and begun anew."""
        problems: tuple[StoreError, ...] = ()
        try:
            empty = self._begin(path)
        except StoreDamaged as damage:
            aside = database.set_aside(path, now)
            problems = (StoreDamaged(f"{damage.detail}; set aside as {aside.name!a}"),)
            empty = self._begin(path)
        if path == database.MEMORY:  # nobody else can reach it, so its one connection serves both, on one thread
            self._reading = self._writing
            return Opened(empty, problems)
        self._place = database.DatabaseFile(path)
        return Opened(empty, problems)

    def displaced(self) -> bool:
        """Whether the file that was opened is no more where it was. From any thread."""
        return self._place is not None and (self._reading is None or self._place.is_lost())

    def renew(self, now: float) -> Opened:
        """Go on with what was in the file in its place, or with what is there now; what had happened comes first.

        On the writing thread, while the reading one waits.
        """
        place = self._place
        if place is None:
            raise _not_open()
        if self._writing is not None:
            place.rescue(self._writing)
        self.close_reading()
        place.clear(self._close)
        opened = self.open_writing(place.path, now)
        self.open_reading(place.path)
        return Opened(opened.empty, (place.settle(), *opened.problems))

    def _begin(self, path: str) -> bool:
        connection = database.open_writing(path, schema.SCHEMA)
        try:
            empty = connection.execute("SELECT 1 FROM entry LIMIT 1").fetchone() is None
        except sqlite3.Error as error:
            connection.close()
            raise StoreDamaged(database.as_store_error(error).detail) from None
        self._writing = connection
        return empty

    def open_reading(self, path: str) -> Opened:
        """Open for reading only; every write then fails."""
        self._reading = database.open_reading(path, schema.SCHEMA, one_thread=False)
        return Opened(empty=False)

    def close_reading(self) -> None:
        """Let go of the reading connection."""
        if self._reading is not None and self._reading is not self._writing:
            self._reading.close()
            self._reading = None

    def close_writing(self) -> None:
        """Let go of the writing connection and of the lock, on the thread that opened it."""
        self._close()
        self._lock.release()

    def _close(self) -> None:
        # The last connection to close moves the log into the file and removes it.
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    def read(self, jobs: Sequence[Read]) -> list[object]:
        """All domains in one query, and each other question in its own."""
        connection = self._reading
        if connection is None:
            return [_not_open()] * len(jobs)
        found = self._get([job for job in jobs if isinstance(job, str)], connection)
        return [found.get(job) if isinstance(job, str) else _attempt(job, connection) for job in jobs]

    def _get(self, domains: Sequence[str], connection: sqlite3.Connection) -> dict[str, CacheEntry | StoreError]:
        if not domains:
            return {}
        try:
            rows = connection.execute(_GET, (json.dumps(domains),)).fetchall()
        except sqlite3.Error as error:
            if len(domains) == 1:
                return {domains[0]: database.as_store_error(error)}
            # One damaged page must not fail those who merely asked at the same time.
            return {key: found for domain in domains for key, found in self._get([domain], connection).items()}
        return {entry.domain: entry for entry in self._entries(rows)}

    def select(
        self, where: str, values: Sequence[object], limit: int, connection: sqlite3.Connection
    ) -> list[CacheEntry]:
        """Up to ``limit`` good entries."""
        try:
            # Closed at once: an unfinished query would keep the log from being moved into the file.
            with contextlib.closing(connection.execute(_SELECT.format(schema.COLUMNS, where), values)) as rows:
                return list(itertools.islice(self._entries(rows), limit))
        except sqlite3.DatabaseError as error:
            if not isinstance(database.as_store_error(error), StoreDamaged):
                raise
            return list(itertools.islice(self._entries(self._readable(where, values, connection)), limit))

    def _readable(
        self, where: str, values: Sequence[object], connection: sqlite3.Connection
    ) -> Iterator[tuple[object, ...]]:
        """The rows one by one, found by an index alone, so that a damaged page hides only those that are on it."""
        for rowid in connection.execute(_SELECT.format("rowid", where), values).fetchall():
            try:
                yield from connection.execute(_SELECT.format(schema.COLUMNS, "rowid = ?"), rowid).fetchall()
            except sqlite3.DatabaseError as error:
                self._pass_over(database.as_store_error(error))

    def _entries(self, rows: Iterable[tuple[object, ...]]) -> Iterator[CacheEntry]:
        """The entries of the rows; those that make no sense are reported, counted and left out."""
        for row in rows:
            try:
                yield schema.entry_of(row)
            except StoreDamaged as damage:
                self._pass_over(damage)

    def _pass_over(self, damage: StoreError) -> None:
        self.counters.damaged_rows += 1
        self._report(damage)

    def write(self, jobs: Sequence[Call[object]]) -> list[object]:
        """All jobs in one transaction. One that fails alone fails only itself; a failed COMMIT fails all."""
        connection = self._writing
        if connection is None:
            return [_not_open() if self._reading is None else StoreError("it is open for reading only")] * len(jobs)
        begun = time.perf_counter()
        results: list[object] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                results.append(_attempt(job, connection))
                if not connection.in_transaction:  # SQLite gave up all of it: the disk is full, or fails
                    return results[-1:] * len(jobs)
            if self._unchecked >= _PUTS_BETWEEN_CHECKS:
                self._evict(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            return [database.as_store_error(error)] * len(jobs)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self.counters.commits += 1
        self.counters.commit_seconds += time.perf_counter() - begun
        return results

    def count(self, connection: sqlite3.Connection) -> int:
        """How many rows there are."""
        (count,) = connection.execute("SELECT count(*) FROM entry").fetchone()
        return int(count)

    def names(self, connection: sqlite3.Connection) -> set[str]:
        """All domains."""
        return {str(domain) for (domain,) in connection.execute("SELECT domain FROM entry")}

    def put(self, row: Sequence[object], connection: sqlite3.Connection) -> None:
        """Keep the row: ``COLUMNS``, the moment it is due, and its policy's mode."""
        self._unchecked += 1
        connection.execute(_PUT, row)

    def touch(self, used: Sequence[tuple[str, float]], connection: sqlite3.Connection) -> None:
        """Move ``last_used`` forward."""
        connection.executemany(_TOUCH, ((moment, domain, moment) for domain, moment in used))

    def delete(self, domain: str, connection: sqlite3.Connection) -> bool:
        """Drop the row; whether there was one."""
        return connection.execute("DELETE FROM entry WHERE domain = ?", (domain,)).rowcount > 0

    def tidy(self, now: float, connection: sqlite3.Connection) -> int:
        """Drop what expired 30 days before ``now`` and what exceeds the limits; how many went."""
        expired = connection.execute(_EXPIRE, (now - _KEPT_AFTER_EXPIRY,)).rowcount
        self.counters.removed["expired"] += expired
        return expired + self._evict(connection)

    def _evict(self, connection: sqlite3.Connection) -> int:
        """Bring the table within its limits; how many entries went."""
        self._unchecked = 0
        gone = 0
        while excess := self._excess(connection):
            for reason, statement in _EVICTIONS:
                removed = connection.execute(statement, (excess,)).rowcount
                self.counters.removed[reason] += removed
                gone += removed
                excess -= removed
        return gone

    def _excess(self, connection: sqlite3.Connection) -> int:
        """How many entries are to go before looking again."""
        count, over, used = self.count(connection), 0, _used_bytes(connection)
        if used > self._limits.max_bytes:  # as many as would make it fit, were all alike; at least one
            over = -(-count * (used - self._limits.max_bytes) // used)
        return max(count - self._limits.max_policies, over, 0)


def _not_open() -> StoreError:
    return StoreError("its file cannot be opened")


def _attempt(job: Call[object], connection: sqlite3.Connection) -> object:
    try:
        return job(connection)
    except (sqlite3.Error, ValueError, OverflowError) as error:
        return database.as_store_error(error)


def _used_bytes(connection: sqlite3.Connection) -> int:
    # Freed pages stay in the file and are used again, so they do not count.
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size)
