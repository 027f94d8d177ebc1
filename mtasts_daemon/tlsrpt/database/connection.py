"""The TLSRPT database: TLS results, the reports made of them, and their deliveries.

The data is in one SQLite file, managed by ``store.database``. ``read`` and ``write`` are for the event loop,
``read_now`` and ``write_now`` for other threads. Every write is one transaction.

Days are UTC, ``YYYY-MM-DD``; moments are seconds since the epoch.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from ...errors import StoreError
from ...store.database import Database, DatabaseCounters, Options
from ..model.event import Failure, Policy, PolicyType
from ..model.tally import DayRows, DaySums, PolicyRows, Tally
from .schema import SCHEMA
from .writes import Added, Caps, Row, RowsGone, add_again, add_tally

__all__ = [
    "Caps",
    "DayRows",
    "DaySums",
    "PolicyRows",
    "SavedReport",
    "TlsrptDatabase",
    "open_database",
    "open_database_read_only",
]

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

_DEFAULT_CAPS = Caps()
_NONE: Mapping[Row, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SavedReport:
    """Saved report; retries send the same bytes. ``body`` is None if the report will not be sent again."""

    report_id: str
    created_at: float
    digest: str
    body: bytes | None


class TlsrptDatabase:
    """Open database, returned by ``open_database``. Calls raise ``StoreError`` and can be retried later."""

    def __init__(self, database: Database, caps: Caps) -> None:
        self.problems: Sequence[StoreError] = ()
        """Problems found at opening, for the log, such as a damaged file that was renamed."""
        self._database = database
        self._caps = caps

    @property
    def generation(self) -> int:
        """Return the generation, incremented at every reopen. Rows from an earlier generation are invalid."""
        return self._database.generation

    # -- any job -----------------------------------------------------------------------------------------------

    async def read(self, job: Job[T]) -> T:
        """Run ``job`` in a snapshot of its own on the reading thread and return its result."""
        found: T = await self._database.read(job)
        return found

    async def write(self, job: Job[T]) -> T:
        """Run ``job`` in a transaction and return its result after the commit. Roll back if it raises."""
        return await self._database.write(job)

    def read_now(self, job: Job[T]) -> T:
        """Do what ``read`` does and block this thread."""
        return self._database.read_now(job)

    def write_now(self, job: Job[T]) -> T:
        """Do what ``write`` does and block this thread."""
        return self._database.write_now(job)

    # -- collecting --------------------------------------------------------------------------------------------

    def add(self, tally: Tally, again: Mapping[Row, int] = _NONE, generation: int = 0) -> Added:
        """Add the tally, and ``again`` successful sessions to rows of the same day and ``generation``.

        Blocks this thread. Sums beyond the caps are folded in ``tally`` itself. Raises ``RowsGone``.
        """

        def add(connection: sqlite3.Connection) -> Added:
            if again and generation != self.generation:
                raise RowsGone
            add_again(again, connection)
            return add_tally(tally, self._caps, connection)

        return self.write_now(add)

    def add_tallies(self, tallies: Iterable[Tally], also: Job[None] | None = None) -> int:
        """Add tallies of several days and run ``also`` in one transaction. Blocks this thread.

        Return the number of sessions that exceeded the caps.
        """

        def add(connection: sqlite3.Connection) -> int:
            refused = sum(add_tally(tally, self._caps, connection).refused for tally in tallies)
            if also is not None:
                also(connection)
            return refused

        return self.write_now(add)

    async def expire(self, before_day: str) -> int:
        """Delete the days before ``before_day``. Return the number of report units deleted."""
        return await self.write(partial(_expire, before_day))

    # -- reading -----------------------------------------------------------------------------------------------

    async def days(self) -> list[DaySums]:
        """Return the days, the oldest first."""
        rows = await self.read(lambda connection: connection.execute(_DAYS).fetchall())
        return [DaySums(*row) for row in rows]

    async def domains(self, day: str, after: str = "", limit: int = 1000) -> list[str]:
        """Return policy domains of the day after ``after``, sorted. Fewer than ``limit`` means that no more follow."""
        rows = await self.read(lambda connection: connection.execute(_DOMAINS, (day, after, limit)).fetchall())
        return [domain for (domain,) in rows]

    async def day_rows(self, day: str, domain: str) -> DayRows:
        """Return the results of one policy domain's day."""
        found = await self.read(partial(_day_rows, _ONE, (day, domain)))
        return found[0] if found else DayRows(domain, ())

    async def rows_of(self, day: str, domains: Sequence[str]) -> list[DayRows]:
        """Return the results of several domains; those without results are left out."""
        return await self.read(partial(_day_rows, _SOME, (day, json.dumps(domains))))

    async def day_pages(self, day: str, after: str = "", limit: int = 200) -> list[DayRows]:
        """Return the results of domains after ``after``, sorted. Fewer than ``limit`` means that no more follow."""
        return await self.read(partial(_day_rows, _PAGE, (day, after, limit)))

    async def load_report(self, day: str, domain: str) -> SavedReport | None:
        """Return the saved report, or None."""
        return await self.read(partial(_report, day, domain))

    # -- the file ----------------------------------------------------------------------------------------------

    async def recover(self, now: float) -> Sequence[StoreError]:
        """Reopen the file if it was deleted or replaced. Return the problems found; raises ``StoreError``."""
        return await self._database.recover(now)

    async def close(self) -> None:
        """Commit queued writes and close the file. Raises ``StoreError`` if the disk hangs for 3 s."""
        await self._database.close()

    def close_now(self) -> None:
        """Do what ``close`` does, and wait for the disk."""
        self._database.close_now()


# -- statements --------------------------------------------------------------------------------------------

_DAYS = """
    SELECT day, count(DISTINCT report_unit.id), coalesce(sum(successful + failed), 0), coalesce(sum(failed), 0)
    FROM report_unit LEFT JOIN tally ON unit = report_unit.id GROUP BY day ORDER BY day
"""
_DOMAINS = "SELECT domain FROM report_unit WHERE day = ? AND domain > ? ORDER BY domain LIMIT ?"
_ONE = "SELECT id, domain FROM report_unit WHERE day = ? AND domain = ?"
_SOME = "SELECT id, domain FROM report_unit WHERE day = ? AND domain IN (SELECT value FROM json_each(?))"
_PAGE = "SELECT id, domain FROM report_unit WHERE day = ? AND domain > ? ORDER BY domain LIMIT ?"
_TALLY = """
    SELECT unit, policy, policy.type, policy.domain, strings, mx_hosts, successful, failed FROM json_each(?) AS row
    CROSS JOIN tally ON unit = row.value JOIN policy ON policy.id = tally.policy
    ORDER BY policy.domain, policy.id
"""
_FAILURES = """
    SELECT unit, policy, count, result_type, sending_ip, mx_host, helo, receiving_ip, info, reason_code
    FROM json_each(?) AS row CROSS JOIN failure ON unit = row.value
    ORDER BY unit, policy, count DESC, result_type, sending_ip, mx_host, helo, receiving_ip, info, reason_code
"""
_REPORT = "SELECT report_id, created_at, digest, body FROM report WHERE day = ? AND domain = ?"
_EXPIRE = (
    "DELETE FROM failure WHERE unit IN (SELECT id FROM report_unit WHERE day < ?)",
    "DELETE FROM tally WHERE unit IN (SELECT id FROM report_unit WHERE day < ?)",
    "DELETE FROM report WHERE day < ?",
    "DELETE FROM plan WHERE day < ?",
    "DELETE FROM delivery WHERE day < ?",
)
_UNUSED_POLICIES = "DELETE FROM policy WHERE NOT EXISTS (SELECT 1 FROM tally WHERE tally.policy = policy.id)"


def _expire(before_day: str, connection: sqlite3.Connection) -> int:
    for statement in _EXPIRE:
        connection.execute(statement, (before_day,))
    gone = connection.execute("DELETE FROM report_unit WHERE day < ?", (before_day,)).rowcount
    if gone:
        connection.execute(_UNUSED_POLICIES)
    return gone


def _report(day: str, domain: str, connection: sqlite3.Connection) -> SavedReport | None:
    row = connection.execute(_REPORT, (day, domain)).fetchone()
    return SavedReport(*row) if row else None


def _day_rows(which: str, values: Sequence[object], connection: sqlite3.Connection) -> list[DayRows]:
    units = connection.execute(which, values).fetchall()
    ids = json.dumps([unit for unit, _ in units])
    failures: dict[tuple[int, int], list[tuple[Failure, int]]] = {}
    for unit, policy, count, *details in connection.execute(_FAILURES, (ids,)):
        failures.setdefault((unit, policy), []).append((Failure(*details), count))
    policies: dict[int, list[PolicyRows]] = {}
    for unit, policy, kind, domain, strings, mx_hosts, successful, failed in connection.execute(_TALLY, (ids,)):
        try:
            found = Policy(PolicyType(kind), domain, tuple(json.loads(strings)), tuple(json.loads(mx_hosts)))
        except (TypeError, ValueError):  # skip a damaged row alone
            continue
        details = tuple(failures.get((unit, policy), ()))
        policies.setdefault(unit, []).append(PolicyRows(found, successful, failed, details))
    return [DayRows(domain, tuple(policies.get(unit, ()))) for unit, domain in units]


# -- opening -----------------------------------------------------------------------------------------------


def open_database(
    path: str | Path, *, now: float, caps: Caps = _DEFAULT_CAPS, keep_damaged: bool = False
) -> TlsrptDatabase:
    """Open the file for this process; create it (0600) and its last folder if missing. Blocks this thread.

    A damaged file is renamed and a new one started; see ``problems``. With ``keep_damaged``, which is for commands that
    run next to the daemon, ``StoreDamaged`` is raised instead. Raises ``StoreSchemaNewer``, with the file left
    untouched, or another ``StoreError``.
    """
    database = Database(path, SCHEMA, Options("tlsrpt", keep_damaged=keep_damaged), DatabaseCounters())
    opened = TlsrptDatabase(database, caps)
    opened.problems = database.open_now(now)
    return opened


def open_database_read_only(path: str | Path) -> TlsrptDatabase:
    """Open the file for reading, also while the daemon writes it. Every write raises ``StoreError``."""
    database = Database(path, SCHEMA, Options("tlsrpt", read_only=True), DatabaseCounters())
    database.open_now(0.0)
    return TlsrptDatabase(database, _DEFAULT_CAPS)
