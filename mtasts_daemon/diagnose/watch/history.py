"""The history of watched domains in an SQLite file of its own: checks, problems over time, and facts over time."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ...errors import StoreError
from ...notify.alert import Severity
from ...store.database import Database, DatabaseCounters, Options, Schema
from ..check.result import CheckResult
from .changes import Fact, FindingChanges, OpenFinding, changes, facts_of

__all__ = [
    "CHECK_SCHEMA",
    "CheckHistory",
    "CheckRow",
    "ProblemRow",
    "TimelineEntry",
    "read_checks",
    "read_problems",
    "read_timeline",
]

T = TypeVar("T")

_KEEP_SECONDS = 400 * 86400
_MAX_ROWS = 1000

CHECK_SCHEMA = Schema(
    application_id=0x4D545343,  # MTSC
    table="checks",
    migrations=(
        (
            "CREATE TABLE checks (domain TEXT NOT NULL, at REAL NOT NULL, exit_code INTEGER NOT NULL,"
            " errors INTEGER NOT NULL, warnings INTEGER NOT NULL, outcomes TEXT NOT NULL, PRIMARY KEY (domain, at))"
            " WITHOUT ROWID",
            "CREATE TABLE problems (domain TEXT NOT NULL, slug TEXT NOT NULL, subject TEXT NOT NULL,"
            " severity TEXT NOT NULL, sentence TEXT NOT NULL, since REAL NOT NULL, last_seen REAL NOT NULL,"
            " confirmed INTEGER NOT NULL, gone_at REAL, PRIMARY KEY (domain, slug, subject, since)) WITHOUT ROWID",
            "CREATE TABLE timeline (domain TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,"
            " value TEXT NOT NULL, since REAL NOT NULL, last_seen REAL NOT NULL,"
            " PRIMARY KEY (domain, kind, subject, since)) WITHOUT ROWID",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One check: its exit code, the number of errors and warnings, and the outcome for each kind of sender."""

    at: float
    exit_code: int
    errors: int
    warnings: int
    outcomes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """A fact, and from when to when checks saw it. ``kind`` as in ``Fact``."""

    kind: str
    subject: str
    value: str
    since: float
    last_seen: float


ProblemRow = tuple[str, str, str, str, float, float, int, float | None]
"""A problem: (slug, subject, severity, sentence, since, last_seen, confirmed, gone_at)."""


class CheckHistory:
    """The open file. ``open`` is called first; calls raise ``StoreError`` and work again once the cause is gone."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._database = Database(path, CHECK_SCHEMA, Options("check-history"), DatabaseCounters())

    async def open(self, now: float) -> Sequence[StoreError]:
        """Open or create the file; a damaged one is renamed and replaced. Return the problems found."""
        return await self._database.open(now)

    async def recover(self, now: float) -> Sequence[StoreError]:
        """Begin a new file if this one was deleted or replaced. Return the problems found."""
        return await self._database.recover(now)

    async def close(self) -> None:
        """Finish pending work and close the file."""
        await self._database.close()

    async def record(self, result: CheckResult) -> FindingChanges:
        """Store a result, and return what changed."""
        return await self._database.write(partial(_record, result))

    async def open_problems(self, domain: str) -> tuple[OpenFinding, ...]:
        """Return the problems of the domain that the last checks saw."""
        found: tuple[OpenFinding, ...] = await self._database.read(partial(_open_problems, domain))
        return found

    async def timeline(self, domain: str, since: float = 0.0, until: float = 1e15) -> tuple[TimelineEntry, ...]:
        """Return the facts that checks saw between two times (seconds since the epoch), the newest 1,000 in order."""
        return await self.read(partial(read_timeline, domain, since, until))

    async def checks(self, domain: str, limit: int = 100) -> tuple[CheckRow, ...]:
        """Return the last checks of the domain, newest first."""
        return await self.read(partial(read_checks, domain, limit))

    async def problems(self, domain: str, limit: int = 200) -> tuple[ProblemRow, ...]:
        """Return problems, open ones first."""
        return await self.read(partial(read_problems, domain, limit))

    async def read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run a read on the reading thread."""
        found: T = await self._database.read(job)
        return found

    async def tidy(self, now: float) -> None:
        """Remove entries older than 400 days."""
        old = now - _KEEP_SECONDS

        def tidy(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM checks WHERE at < ?", (old,))
            connection.execute("DELETE FROM problems WHERE gone_at < ?", (old,))
            connection.execute("DELETE FROM timeline WHERE last_seen < ?", (old,))

        await self._database.write(tidy)


# -- statements --------------------------------------------------------------------------------------------

_TIMELINE = """
    SELECT kind, subject, value, since, last_seen FROM timeline WHERE domain = ? AND last_seen >= ? AND since <= ?
    ORDER BY since DESC, kind DESC, subject DESC LIMIT ?
"""
_CHECKS = "SELECT at, exit_code, errors, warnings, outcomes FROM checks WHERE domain = ? ORDER BY at DESC LIMIT ?"
_PROBLEMS = """
    SELECT slug, subject, severity, sentence, since, last_seen, confirmed, gone_at FROM problems
    WHERE domain = ? ORDER BY gone_at IS NOT NULL, since DESC LIMIT ?
"""
_OPEN_PROBLEMS = """
    SELECT slug, subject, severity, sentence, since, confirmed FROM problems
    WHERE domain = ? AND gone_at IS NULL ORDER BY since, slug, subject LIMIT ?
"""
_UPDATE_PROBLEM = """
    UPDATE problems SET last_seen = ?, confirmed = 1, severity = ?, sentence = ?
    WHERE domain = ? AND slug = ? AND subject = ? AND gone_at IS NULL
"""
_END_PROBLEM = "UPDATE problems SET gone_at = ? WHERE domain = ? AND slug = ? AND subject = ? AND gone_at IS NULL"
_NEWEST_FACT = """
    SELECT value, since FROM timeline WHERE domain = ? AND kind = ? AND subject = ? ORDER BY since DESC LIMIT 1
"""
_EXTEND_FACT = """
    UPDATE timeline SET last_seen = max(last_seen, ?) WHERE domain = ? AND kind = ? AND subject = ? AND since = ?
"""


def read_timeline(domain: str, since: float, until: float, connection: sqlite3.Connection) -> tuple[TimelineEntry, ...]:
    """Return the facts that checks saw between two times (seconds since the epoch), the newest 1,000 in order."""
    rows = connection.execute(_TIMELINE, (domain, since, until, _MAX_ROWS)).fetchall()
    return tuple(TimelineEntry(*row) for row in reversed(rows))


def read_checks(domain: str, limit: int, connection: sqlite3.Connection) -> tuple[CheckRow, ...]:
    """Return the last checks of the domain, newest first."""
    rows = connection.execute(_CHECKS, (domain, min(limit, _MAX_ROWS))).fetchall()
    return tuple(
        CheckRow(at, code, errors, warnings, tuple(text.split(","))) for at, code, errors, warnings, text in rows
    )


def read_problems(domain: str, limit: int, connection: sqlite3.Connection) -> tuple[ProblemRow, ...]:
    """Return problems, open ones first."""
    return tuple(connection.execute(_PROBLEMS, (domain, min(limit, _MAX_ROWS))).fetchall())


def _open_problems(domain: str, connection: sqlite3.Connection) -> tuple[OpenFinding, ...]:
    return tuple(
        OpenFinding(slug, subject, Severity(severity), sentence, since, bool(confirmed))
        for slug, subject, severity, sentence, since, confirmed in connection.execute(
            _OPEN_PROBLEMS, (domain, _MAX_ROWS)
        )
    )


def _record(result: CheckResult, connection: sqlite3.Connection) -> FindingChanges:
    at, domain, run = result.evidence.at, result.domain, connection.execute
    change = changes(_open_problems(domain, connection), result)
    outcomes = ",".join(conclusion.delivery.value for conclusion in result.conclusions)
    row = domain, at, result.exit_code, result.count(Severity.ERROR), result.count(Severity.WARNING), outcomes
    run("INSERT OR REPLACE INTO checks VALUES (?, ?, ?, ?, ?, ?)", row)
    for finding in change.added:
        values = domain, finding.slug, finding.subject, finding.severity.value, finding.text, at, at
        run("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?, ?, ?, ?, 0, NULL)", values)
    for finding in (*change.confirmed, *change.persisting):
        seen = at, finding.severity.value, finding.text
        run(_UPDATE_PROBLEM, (*seen, domain, finding.slug, finding.subject))
    for old in change.fixed:
        run(_END_PROBLEM, (at, domain, old.slug, old.subject))
    for fact in facts_of(result):
        _record_fact(domain, fact, at, connection)
    return change


def _record_fact(domain: str, fact: Fact, at: float, connection: sqlite3.Connection) -> None:
    """Extend the newest entry if it has the same value, otherwise add one."""
    key = domain, fact.kind, fact.subject
    found = connection.execute(_NEWEST_FACT, key).fetchone()
    if found is not None and found[0] == fact.value:
        connection.execute(_EXTEND_FACT, (at, *key, found[1]))
    else:
        connection.execute("INSERT OR REPLACE INTO timeline VALUES (?, ?, ?, ?, ?, ?)", (*key, fact.value, at, at))
