"""The TLSRPT database: what was collected, the reports made of it, and what became of them.

One SQLite file. Writes take turns on one connection, reads on another, whichever thread they come from; reads go on
beside a write. ``read`` and ``write`` are for the event loop, ``read_now`` and ``write_now`` for other threads. Every
write is one transaction, committed on return: it outlives kill -9.

Days are UTC, ``YYYY-MM-DD``; moments are seconds since the epoch.
"""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from ...errors import StoreDamaged, StoreError
from ...store import database
from ..model.event import Failure, Policy, PolicyType, TlsrptEvent
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
    "day_of",
    "open_database",
    "open_database_read_only",
]

T = TypeVar("T")
A = TypeVar("A")
Job = Callable[[sqlite3.Connection], T]

_DEFAULT_CAPS = Caps()
_NONE: Mapping[Row, int] = MappingProxyType({})

_CLOSE_WITHIN = 3.0
"""Seconds that ``close`` grants a disk that hangs."""


def day_of(moment: float) -> str:
    """The UTC day of the moment."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True, slots=True)
class SavedReport:
    """A report as it was made, to be repeated byte for byte; ``body`` is None once it will not be sent again."""

    report_id: str
    created_at: float
    digest: str
    body: bytes | None


class TlsrptDatabase:
    """The open file. Made by ``open_database``. Calls raise ``StoreError``; later ones work when the cause has gone."""

    def __init__(
        self,
        path: str,
        writing: sqlite3.Connection | None,
        reading: sqlite3.Connection,
        caps: Caps,
        problems: Sequence[StoreError],
    ) -> None:
        self.problems = problems
        """What opening came across, for the log: a damaged file that was set aside."""
        self.generation = 0
        """Which opening this is: rows that were told of in another one are perhaps others now."""
        self._caps = caps
        self._place = database.DatabaseFile(path)
        self._writing = writing
        self._reading: sqlite3.Connection | None = reading
        self._write_turn = threading.Lock()
        self._read_turn = threading.Lock()
        self._closed = False
        self._threads = ThreadPoolExecutor(2, "tlsrpt-database")

    # -- any question ------------------------------------------------------------------------------------------

    async def read(self, job: Job[T]) -> T:
        """What ``job`` gives on a connection that cannot write, in a snapshot of its own; it runs on a thread."""
        return await self._on_thread(self.read_now, job)

    async def write(self, job: Job[T]) -> T:
        """What ``job`` gives within a transaction, which is committed on return and undone where it raises."""
        return await self._on_thread(self.write_now, job)

    def read_now(self, job: Job[T]) -> T:
        """``read``, on this thread."""
        with self._read_turn:
            return self._transaction(self._reading, "BEGIN", job)

    def write_now(self, job: Job[T]) -> T:
        """``write``, on this thread."""
        with self._write_turn:
            if self._writing is None and self._reading is not None:
                raise StoreError("it is open for reading only")
            return self._transaction(self._writing, "BEGIN IMMEDIATE", job)

    def _transaction(self, connection: sqlite3.Connection | None, begin: str, job: Job[T]) -> T:
        if connection is None:
            raise StoreError("it is closed" if self._closed else "its file cannot be opened")
        try:
            connection.execute(begin)
            result = job(connection)
            connection.execute("COMMIT")
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise database.as_store_error(error) from None
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return result

    async def _on_thread(self, call: Callable[[A], T], value: A) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call, value)
        except RuntimeError:
            if self._closed:
                raise StoreError("it is closed") from None
            raise

    # -- what is collected -------------------------------------------------------------------------------------

    def add(self, tally: Tally, again: Mapping[Row, int] = _NONE, generation: int = 0) -> Added:
        """Add the tally, and more successful sessions to rows known of the same day and ``opening``, on this thread.

        That is not the event loop's. What exceeds the caps is folded in ``tally`` itself. Raises ``RowsGone``.
        """

        def add(connection: sqlite3.Connection) -> Added:
            if again and generation != self.generation:
                raise RowsGone
            add_again(again, connection)
            return add_tally(tally, self._caps, connection)

        return self.write_now(add)

    def add_events(self, events: Iterable[tuple[str, TlsrptEvent]]) -> int:
        """Add events, each with its day, in one transaction on this thread; how many sessions were not kept."""
        tallies: dict[str, Tally] = {}
        for day, event in events:
            tallies.setdefault(day, Tally(day)).add(event)
        return self.add_tallies(tallies.values())

    def add_tallies(self, tallies: Iterable[Tally], also: Job[None] | None = None) -> int:
        """Add those of several days, and do something else, in one transaction on this thread; as ``add_events``."""

        def add(connection: sqlite3.Connection) -> int:
            refused = sum(add_tally(tally, self._caps, connection).refused for tally in tallies)
            if also is not None:
                also(connection)
            return refused

        return self.write_now(add)

    async def add_failures(self, day: str, domain: str, policy: Policy, failure: Failure, count: int = 1) -> None:
        """Add failures that no session told of: the sessions stay as they are. ``Collector.note`` does many."""
        tally = Tally(day)
        tally.add_failure(domain, policy, failure, count)
        await self.write(partial(add_tally, tally, self._caps))

    async def expire(self, before_day: str) -> int:
        """Forget the days before; how many policy domains' days that were."""
        return await self.write(partial(_expire, before_day))

    # -- what is there -----------------------------------------------------------------------------------------

    async def days(self) -> list[DaySums]:
        """The days, the oldest first."""
        rows = await self.read(lambda connection: connection.execute(_DAYS).fetchall())
        return [DaySums(*row) for row in rows]

    async def domains(self, day: str, after: str = "", limit: int = 1000) -> list[str]:
        """The policy domains of the day that sort behind ``after``, sorted; fewer than ``limit`` are the last."""
        rows = await self.read(lambda connection: connection.execute(_DOMAINS, (day, after, limit)).fetchall())
        return [domain for (domain,) in rows]

    async def day_rows(self, day: str, domain: str) -> DayRows:
        """All that is known of one policy domain's day."""
        found = await self.read(partial(_day_rows, _ONE, (day, domain)))
        return found[0] if found else DayRows(domain, ())

    async def rows_of(self, day: str, domains: Sequence[str]) -> list[DayRows]:
        """The same of several; those of which nothing is known are left out."""
        return await self.read(partial(_day_rows, _SOME, (day, json.dumps(domains))))

    async def day_pages(self, day: str, after: str = "", limit: int = 200) -> list[DayRows]:
        """The same of many: the domains that sort behind ``after``; fewer than ``limit`` are the last."""
        return await self.read(partial(_day_rows, _PAGE, (day, after, limit)))

    # -- reports -----------------------------------------------------------------------------------------------

    async def due_domains(
        self, before_day: str, after: tuple[str, str] = ("", ""), limit: int = 200
    ) -> list[tuple[str, str]]:
        """Days before ``before_day``, with their policy domains, of which there is no report yet.

        Those that sort behind ``after``, in that order; fewer than ``limit`` are the last.
        """
        return await self.read(lambda connection: connection.execute(_DUE, (before_day, *after, limit)).fetchall())

    async def save_report(self, day: str, domain: str, report: SavedReport) -> SavedReport:
        """Keep the report, unless there is one: the one that is kept, which is the one to send."""
        return (await self.save_reports(day, {domain: report}))[domain]

    async def save_reports(self, day: str, reports: Mapping[str, SavedReport]) -> dict[str, SavedReport]:
        """The same for many policy domains of a day, in one transaction."""
        return await self.write(partial(_save, day, reports))

    async def load_report(self, day: str, domain: str) -> SavedReport | None:
        """The report, if it was made."""
        return await self.read(partial(_report, day, domain))

    # -- its file ----------------------------------------------------------------------------------------------

    async def recover(self, now: float) -> Sequence[StoreError]:
        """Go on in a new file with all that was in it, where it was removed, and in the new one, where it was replaced.

        What had happened, for the log. Raises ``StoreError`` where that cannot be done, until it can.
        """
        return await self._on_thread(self._look_after, now)

    def _look_after(self, now: float) -> Sequence[StoreError]:
        if self._closed or not self._place.is_lost():
            return ()
        with self._read_turn, self._write_turn:
            if not self._place.is_lost() or self._closed:  # it may be back
                return ()
            if self._writing is not None:
                self._place.rescue(self._writing)
            self.generation += 1
            self._place.clear(self._let_go)
            self._writing, self._reading, problems = _open(self._place.path, now)
            what = self._place.settle()
            self._place = database.DatabaseFile(self._place.path)
            return (what, *problems)

    async def close(self) -> None:
        """Finish what is under way and let go of the file. Raises ``StoreError`` where the disk hangs for 3 s."""
        if self._closed:
            return
        closing = asyncio.get_running_loop().run_in_executor(self._threads, self.close_now)
        self._threads.shutdown(wait=False)
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                await asyncio.shield(closing)
        except TimeoutError:
            raise StoreError("it did not finish writing in time") from None

    def close_now(self) -> None:
        """``close``, on this thread, however long it takes."""
        with self._read_turn, self._write_turn:
            self._closed = True
            self._let_go()
        self._threads.shutdown(wait=False)

    def _let_go(self) -> None:
        # The last connection to close moves the log into the file and removes it.
        for connection in (self._reading, self._writing):
            if connection is not None:
                connection.close()
        self._reading = self._writing = None


# -- statements --------------------------------------------------------------------------------------------

_DAYS = """
    SELECT day, count(DISTINCT subject.id), coalesce(sum(successful + failed), 0), coalesce(sum(failed), 0)
    FROM subject LEFT JOIN tally ON subject = subject.id GROUP BY day ORDER BY day
"""
_DOMAINS = "SELECT domain FROM subject WHERE day = ? AND domain > ? ORDER BY domain LIMIT ?"
_DUE = """
    SELECT day, domain FROM subject WHERE day < ?1 AND (day, domain) > (?2, ?3) AND NOT EXISTS (
        SELECT 1 FROM report WHERE report.day = subject.day AND report.domain = subject.domain
    ) ORDER BY day, domain LIMIT ?4
"""
_ONE = "SELECT id, domain FROM subject WHERE day = ? AND domain = ?"
_SOME = "SELECT id, domain FROM subject WHERE day = ? AND domain IN (SELECT value FROM json_each(?))"
_PAGE = "SELECT id, domain FROM subject WHERE day = ? AND domain > ? ORDER BY domain LIMIT ?"
_TALLY = """
    SELECT subject, policy, policy.type, policy.domain, strings, mx_hosts, successful, failed FROM json_each(?) AS row
    CROSS JOIN tally ON subject = row.value JOIN policy ON policy.id = tally.policy
    ORDER BY policy.domain, policy.id
"""
_FAILURES = """
    SELECT subject, policy, count, result_type, sending_ip, mx_host, helo, receiving_ip, info, reason_code
    FROM json_each(?) AS row CROSS JOIN failure ON subject = row.value
    ORDER BY subject, policy, count DESC, result_type, sending_ip, mx_host, helo, receiving_ip, info, reason_code
"""
_SAVE_REPORT = (
    "INSERT OR IGNORE INTO report (day, domain, report_id, created_at, digest, body) VALUES (?, ?, ?, ?, ?, ?)"
)
_REPORT = "SELECT report_id, created_at, digest, body FROM report WHERE day = ? AND domain = ?"
_EXPIRE = (
    "DELETE FROM failure WHERE subject IN (SELECT id FROM subject WHERE day < ?)",
    "DELETE FROM tally WHERE subject IN (SELECT id FROM subject WHERE day < ?)",
    "DELETE FROM report WHERE day < ?",
    "DELETE FROM plan WHERE day < ?",
    "DELETE FROM delivery WHERE day < ?",
)
_UNUSED_POLICIES = "DELETE FROM policy WHERE NOT EXISTS (SELECT 1 FROM tally WHERE tally.policy = policy.id)"


def _expire(before_day: str, connection: sqlite3.Connection) -> int:
    for statement in _EXPIRE:
        connection.execute(statement, (before_day,))
    gone = connection.execute("DELETE FROM subject WHERE day < ?", (before_day,)).rowcount
    if gone:
        connection.execute(_UNUSED_POLICIES)
    return gone


def _report(day: str, domain: str, connection: sqlite3.Connection) -> SavedReport | None:
    row = connection.execute(_REPORT, (day, domain)).fetchone()
    return SavedReport(*row) if row else None


def _save(day: str, reports: Mapping[str, SavedReport], connection: sqlite3.Connection) -> dict[str, SavedReport]:
    kept: dict[str, SavedReport] = {}
    for domain, report in reports.items():
        values = (day, domain, report.report_id, report.created_at, report.digest, report.body)
        connection.execute(_SAVE_REPORT, values)
        kept[domain] = _report(day, domain, connection) or report
    return kept


def _day_rows(which: str, values: Sequence[object], connection: sqlite3.Connection) -> list[DayRows]:
    subjects = connection.execute(which, values).fetchall()
    ids = json.dumps([subject for subject, _ in subjects])
    failures: dict[tuple[int, int], list[tuple[Failure, int]]] = {}
    for subject, policy, count, *details in connection.execute(_FAILURES, (ids,)):
        failures.setdefault((subject, policy), []).append((Failure(*details), count))
    policies: dict[int, list[PolicyRows]] = {}
    for subject, policy, kind, domain, strings, mx_hosts, successful, failed in connection.execute(_TALLY, (ids,)):
        try:
            found = Policy(PolicyType(kind), domain, tuple(json.loads(strings)), tuple(json.loads(mx_hosts)))
        except (TypeError, ValueError):  # a damaged row spoils itself and not the whole answer
            continue
        details = tuple(failures.get((subject, policy), ()))
        policies.setdefault(subject, []).append(PolicyRows(found, successful, failed, details))
    return [DayRows(domain, tuple(policies.get(subject, ()))) for subject, domain in subjects]


# -- opening -----------------------------------------------------------------------------------------------


def open_database(path: str | Path, *, now: float, caps: Caps = _DEFAULT_CAPS) -> TlsrptDatabase:
    """Open the file for this process, making it (0600) and its last folder; a short wait for the disk.

    A damaged file is set aside, which ``problems`` tells, and a new one begun. Raises ``StoreSchemaNewer``, with the
    file left as it was, or another ``StoreError`` where it cannot be used.
    """
    writing, reading, problems = _open(str(path), now)
    return TlsrptDatabase(str(path), writing, reading, caps, problems)


def open_database_read_only(path: str | Path) -> TlsrptDatabase:
    """Open the file for reading, also beside the daemon that writes it; all that writes raises ``StoreError``."""
    reading = database.open_reading(str(path), SCHEMA, one_thread=False)
    return TlsrptDatabase(str(path), None, reading, _DEFAULT_CAPS, ())


def _open(path: str, now: float) -> tuple[sqlite3.Connection, sqlite3.Connection, Sequence[StoreError]]:
    """The connections that write and read, and what opening came across."""
    problems: list[StoreError] = []
    try:
        writing = _begin(path)
    except StoreDamaged as damage:
        aside = database.set_aside(path, now)
        problems.append(StoreDamaged(f"{damage.detail}; set aside as {aside.name!a}"))
        writing = _begin(path)
    try:
        return writing, database.open_reading(path, SCHEMA, one_thread=False), problems
    except StoreError:
        writing.close()
        raise


def _begin(path: str) -> sqlite3.Connection:
    connection = database.open_writing(path, SCHEMA, one_thread=False)
    try:
        connection.execute("SELECT 1 FROM tally LIMIT 1").fetchone()
    except sqlite3.Error as error:
        connection.close()
        raise StoreDamaged(database.as_store_error(error).detail) from None
    return connection
