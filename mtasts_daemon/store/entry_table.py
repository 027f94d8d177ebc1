"""The statements of the policy store. Functions run on the database's threads, never on the event loop."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import StoreDamaged, StoreError
from ..policy.cache_entry import CacheEntry
from .database import DatabaseCounters, Job, as_store_error, attempt, open_reading
from .schema import COLUMNS, SCHEMA, entry_of

__all__ = ["DUE_KEYS", "PAGE_KEYS", "EntryTable", "Read", "Report", "StoreCounters", "StoreLimits"]

_KEPT_AFTER_EXPIRY = 30 * 86400
"""Seconds that an expired policy is kept, for the operator to read."""

_PUTS_BETWEEN_CHECKS = 1000
"""Puts after which the limits are enforced without waiting for ``tidy``."""

_LOADED_BYTES = 256 * 1024 * 1024
"""Bytes of rows that are read into memory while the file cannot be written."""

Read = str | Job[Any]
"""A domain to get, or another query."""

Report = Callable[[StoreError], object]

_SELECT = "SELECT {} FROM entry WHERE {}"
# One statement for all domains: each statement releases the interpreter's lock and has to wait to get it back.
_GET = _SELECT.format(COLUMNS, "domain IN (SELECT value FROM json_each(?))")
# Found in an index alone, so that a damaged page hides only the rows that are on it.
DUE_KEYS = "SELECT rowid FROM entry WHERE due_at <= ? AND last_used >= ? ORDER BY due_at LIMIT ? OFFSET ?"
PAGE_KEYS = "SELECT domain FROM entry WHERE domain > ? ORDER BY domain LIMIT ? OFFSET ?"
_STORED = f"{COLUMNS}, due_at, mode"
_PUT = "INSERT OR REPLACE INTO entry ({}) VALUES ({})"
_PUT = _PUT.format(_STORED, ", ".join("?" * (_STORED.count(",") + 1)))
_TOUCH = "UPDATE entry SET last_used = ? WHERE domain = ? AND last_used < ?"
_EXPIRE = "DELETE FROM entry WHERE coalesce(valid_until, last_used) < ? RETURNING domain"
_ONE_DAY = "CAST(first_used / 86400 AS INTEGER) = CAST(last_used / 86400 AS INTEGER)"
_EVICT = """
    DELETE FROM entry WHERE rowid IN (SELECT rowid FROM entry WHERE {} ORDER BY last_used LIMIT ?) RETURNING domain
"""
_EVICTIONS = (("one-day", _EVICT.format(_ONE_DAY)), ("least-recent", _EVICT.format("1")))
"""The order of eviction, by the reason that is counted."""
# The first version has no mode.
_OLD_ROW = _SELECT.format(f"{COLUMNS}, due_at, NULL", "rowid = ?")
_ALL = "SELECT rowid FROM entry ORDER BY last_used DESC"
_NEWER = "SELECT 1 FROM entry WHERE domain = ? AND coalesce(fetched_at, 0) > ?"


class StoreLimits(NamedTuple):
    """The limits of the store; ``max_bytes`` counts bytes in use. Puts may exceed both by 1,000 entries."""

    max_policies: int = 200_000
    max_bytes: int = 1 << 30


@dataclass(slots=True)
class StoreCounters(DatabaseCounters):
    """Counts since the store was opened; plain numbers, read at any time."""

    gets: int = 0
    puts: int = 0
    damaged_rows: int = 0
    """Rows skipped because their values are not valid or could not be read."""
    removed: Counter[str] = field(default_factory=Counter)
    """Entries removed by ``tidy`` or a limit, by reason: ``expired``, ``one-day``, ``least-recent``."""


class EntryTable:
    """Read and write rows of the policy store. ``report`` is called for each damaged row."""

    def __init__(self, limits: StoreLimits, report: Report) -> None:
        self.counters = StoreCounters()
        self._limits = limits
        self._report = report
        self._unchecked = 0

    # -- reads -------------------------------------------------------------------------------------------------

    def run_reads(self, jobs: Sequence[Read], connection: sqlite3.Connection) -> list[object]:
        """Run a batch: all domains in one query, and each other query separately."""
        found = self._get([job for job in jobs if isinstance(job, str)], connection)
        return [found.get(job) if isinstance(job, str) else attempt(job, connection) for job in jobs]

    def _get(self, domains: Sequence[str], connection: sqlite3.Connection) -> dict[str, CacheEntry | StoreError]:
        if not domains:
            return {}
        try:
            rows = connection.execute(_GET, (json.dumps(domains),)).fetchall()
        except sqlite3.Error as error:
            if len(domains) == 1:
                return {domains[0]: as_store_error(error)}
            # One damaged page must not fail the callers that are in the same batch.
            return {key: found for domain in domains for key, found in self._get([domain], connection).items()}
        return {entry.domain: entry for entry in self._entries(rows)}

    @staticmethod
    def keys(statement: str, values: Sequence[object], connection: sqlite3.Connection) -> list[tuple[Any]]:
        """Run ``DUE_KEYS`` or ``PAGE_KEYS``. Return row ids or domains."""
        return connection.execute(statement, values).fetchall()

    def entries(self, keys: Sequence[tuple[Any]], connection: sqlite3.Connection) -> list[CacheEntry]:
        """Return the entries with the given row ids or domains; skip those that are gone or damaged."""
        found: list[CacheEntry] = []
        for (key,) in keys:
            statement = _SELECT.format(COLUMNS, "rowid = ?" if isinstance(key, int) else "domain = ?")
            try:
                found += self._entries(connection.execute(statement, (key,)).fetchall())
            except sqlite3.DatabaseError as error:
                damage = as_store_error(error)
                if not isinstance(damage, StoreDamaged):
                    raise
                self._skip(damage)
        return found

    def _entries(self, rows: Iterable[tuple[object, ...]]) -> Iterator[CacheEntry]:
        for row in rows:
            try:
                yield entry_of(row)
            except StoreDamaged as damage:
                self._skip(damage)

    def _skip(self, damage: StoreError) -> None:
        self.counters.damaged_rows += 1
        self._report(damage)

    @staticmethod
    def is_empty(connection: sqlite3.Connection) -> bool:
        """Return True if there are no rows."""
        return connection.execute("SELECT 1 FROM entry LIMIT 1").fetchone() is None

    @staticmethod
    def count(connection: sqlite3.Connection) -> int:
        """Return the number of rows."""
        (count,) = connection.execute("SELECT count(*) FROM entry").fetchone()
        return int(count)

    @staticmethod
    def names(connection: sqlite3.Connection) -> set[str]:
        """Return all domains."""
        return {str(domain) for (domain,) in connection.execute("SELECT domain FROM entry")}

    # -- writes; each returns the domains that were removed ----------------------------------------------------

    def put(self, row: Sequence[object], connection: sqlite3.Connection) -> list[str]:
        """Store the row: ``COLUMNS``, when it is due, and its policy's mode."""
        self._unchecked += 1
        connection.execute(_PUT, row)
        return self._evict(connection) if self._unchecked >= _PUTS_BETWEEN_CHECKS else []

    @staticmethod
    def touch(used: Sequence[tuple[str, float]], connection: sqlite3.Connection) -> None:
        """Move ``last_used`` forward."""
        connection.executemany(_TOUCH, ((moment, domain, moment) for domain, moment in used))

    @staticmethod
    def delete(domain: str, connection: sqlite3.Connection) -> list[str]:
        """Remove the row."""
        return _removed(connection, "DELETE FROM entry WHERE domain = ? RETURNING domain", domain)

    def tidy(self, now: float, connection: sqlite3.Connection) -> list[str]:
        """Remove what expired 30 days before ``now`` and what exceeds the limits."""
        expired = _removed(connection, _EXPIRE, now - _KEPT_AFTER_EXPIRY)
        self.counters.removed["expired"] += len(expired)
        return expired + self._evict(connection)

    def _evict(self, connection: sqlite3.Connection) -> list[str]:
        self._unchecked = 0
        gone: list[str] = []
        while excess := self._excess(connection):
            for reason, statement in _EVICTIONS:
                removed = _removed(connection, statement, excess)
                self.counters.removed[reason] += len(removed)
                gone += removed
                excess -= len(removed)
        return gone

    def _excess(self, connection: sqlite3.Connection) -> int:
        """Return how many entries to remove before measuring again."""
        count, over, used = self.count(connection), 0, _used_bytes(connection)
        if used > self._limits.max_bytes:  # the number that would be right if all were of the same size; at least one
            over = -(-count * (used - self._limits.max_bytes) // used)
        return max(count - self._limits.max_policies, over, 0)

    # -- in memory while the file cannot be written ------------------------------------------------------------

    def load(self, path: str, memory: sqlite3.Connection) -> int:
        """Copy the most recently used rows of the file into memory, up to 256 MiB. Return their number."""
        file = open_reading(path, SCHEMA, one_thread=False, any_version=True)
        loaded = size = 0
        try:
            for (rowid,) in file.execute(_ALL).fetchall():
                try:
                    row = file.execute(_OLD_ROW, (rowid,)).fetchone()
                    entry = entry_of(row[:-2])
                except (sqlite3.DatabaseError, StoreDamaged) as error:
                    self._skip(as_store_error(error))
                    continue
                held = entry.held
                size += 1024 + (0 if held is None else len(held.body))
                if size > _LOADED_BYTES or loaded >= self._limits.max_policies:
                    break
                memory.execute(_PUT, (*row[:-1], None if held is None else held.policy.mode.value))
                loaded += 1
        except sqlite3.Error as error:
            raise as_store_error(error) from None
        finally:
            file.close()
        return loaded

    @staticmethod
    def write_back(memory: sqlite3.Connection, file: sqlite3.Connection) -> int:
        """Copy rows to the file, unless the file has a later fetch of the policy. Return their number."""
        written = 0
        fetched_at = COLUMNS.split(", ").index("fetched_at")
        file.execute("BEGIN IMMEDIATE")
        try:
            for row in memory.execute(_SELECT.format(_STORED, "1")):
                if file.execute(_NEWER, (row[0], row[fetched_at] or 0)).fetchone() is None:
                    file.execute(_PUT, row)
                    written += 1
            file.execute("COMMIT")
        finally:
            if file.in_transaction:
                file.execute("ROLLBACK")
        return written


def _removed(connection: sqlite3.Connection, statement: str, value: object) -> list[str]:
    return [str(domain) for (domain,) in connection.execute(statement, (value,)).fetchall()]


def _used_bytes(connection: sqlite3.Connection) -> int:
    # Freed pages stay in the file and are used again, so they do not count.
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size)
