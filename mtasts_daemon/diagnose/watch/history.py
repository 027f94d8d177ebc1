"""The history of watched domains in an SQLite file of its own: checks, problems over time, and facts over time.

Everything here blocks; the watch calls it on a thread, one call at a time. Other programs may read the file while the
daemon runs (``CheckHistory.reading``).
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from ...errors import StoreDamaged
from ...notify.alert import Severity
from ...store.database import Schema, as_store_error, open_reading, open_writing, set_aside
from ..check.result import CheckResult
from .changes import FindingChanges, OpenFinding, changes, facts_of

__all__ = ["CHECK_SCHEMA", "CheckHistory", "CheckRow", "TimelineEntry"]

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


class CheckHistory:
    """The open file. Every method raises ``StoreError``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def writing(cls, path: str, now: float) -> Self:
        """Open or create the file; a damaged one is renamed and replaced."""
        try:
            return cls(open_writing(path, CHECK_SCHEMA, one_thread=False))
        except StoreDamaged:
            set_aside(path, now)
            return cls(open_writing(path, CHECK_SCHEMA, one_thread=False))

    @classmethod
    def reading(cls, path: str) -> Self:
        """Open the file to read, also while the daemon writes it."""
        return cls(open_reading(path, CHECK_SCHEMA, one_thread=False))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def record(self, result: CheckResult) -> FindingChanges:
        """Store a result, and return what changed."""
        at, domain = result.evidence.at, result.domain
        with self._transaction():
            change = changes(self.open_problems(domain), result)
            outcomes = ",".join(conclusion.delivery.value for conclusion in result.conclusions)
            row = (domain, at, result.exit_code, result.count(Severity.ERROR), result.count(Severity.WARNING), outcomes)
            self._run("INSERT OR REPLACE INTO checks VALUES (?, ?, ?, ?, ?, ?)", *row)
            for finding in change.added:
                values = (domain, finding.slug, finding.subject, finding.severity.value, finding.text, at, at)
                self._run("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?, ?, ?, ?, 0, NULL)", *values)
            for finding in (*change.confirmed, *change.persisting):
                self._run(
                    "UPDATE problems SET last_seen = ?, confirmed = 1, severity = ?, sentence = ?"
                    " WHERE domain = ? AND slug = ? AND subject = ? AND gone_at IS NULL",
                    *(at, finding.severity.value, finding.text, domain, finding.slug, finding.subject),
                )
            for old in change.fixed:
                self._run(
                    "UPDATE problems SET gone_at = ? WHERE domain = ? AND slug = ? AND subject = ? AND gone_at IS NULL",
                    *(at, domain, old.slug, old.subject),
                )
            for fact in facts_of(result):
                self._see(domain, fact.kind, fact.subject, fact.value, at)
        return change

    def _see(self, domain: str, kind: str, subject: str, value: str, at: float) -> None:
        """Extend the newest entry if it has the same value, otherwise add one."""
        found = self._run(
            "SELECT value, since FROM timeline WHERE domain = ? AND kind = ? AND subject = ?"
            " ORDER BY since DESC LIMIT 1",
            *(domain, kind, subject),
        ).fetchone()
        if found is not None and found[0] == value:
            self._run(
                "UPDATE timeline SET last_seen = max(last_seen, ?) WHERE domain = ? AND kind = ? AND subject = ?"
                " AND since = ?",
                *(at, domain, kind, subject, found[1]),
            )
        else:
            values = (domain, kind, subject, value, at, at)
            self._run("INSERT OR REPLACE INTO timeline VALUES (?, ?, ?, ?, ?, ?)", *values)

    def open_problems(self, domain: str) -> tuple[OpenFinding, ...]:
        """Return the problems of the domain that the last checks saw."""
        rows = self._run(
            "SELECT slug, subject, severity, sentence, since, confirmed FROM problems"
            " WHERE domain = ? AND gone_at IS NULL ORDER BY since, slug, subject LIMIT ?",
            *(domain, _MAX_ROWS),
        )
        return tuple(
            OpenFinding(slug, subject, Severity(severity), sentence, since, bool(confirmed))
            for slug, subject, severity, sentence, since, confirmed in rows
        )

    def timeline(self, domain: str, since: float = 0.0, until: float = 1e15) -> tuple[TimelineEntry, ...]:
        """Return the facts that checks saw between two times (seconds since the epoch), oldest first."""
        rows = self._run(
            "SELECT kind, subject, value, since, last_seen FROM timeline"
            " WHERE domain = ? AND last_seen >= ? AND since <= ? ORDER BY since, kind, subject LIMIT ?",
            *(domain, since, until, _MAX_ROWS),
        )
        return tuple(TimelineEntry(*row) for row in rows)

    def checks(self, domain: str, limit: int = 100) -> tuple[CheckRow, ...]:
        """Return the last checks of the domain, newest first."""
        rows = self._run(
            "SELECT at, exit_code, errors, warnings, outcomes FROM checks WHERE domain = ? ORDER BY at DESC LIMIT ?",
            *(domain, min(limit, _MAX_ROWS)),
        )
        return tuple(
            CheckRow(at, code, errors, warnings, tuple(text.split(","))) for at, code, errors, warnings, text in rows
        )

    def problems(self, domain: str, limit: int = 200) -> tuple[tuple[Any, ...], ...]:
        """Return problems, open ones first.

        Each is (slug, subject, severity, sentence, since, last_seen, confirmed, gone_at).
        """
        rows = self._run(
            "SELECT slug, subject, severity, sentence, since, last_seen, confirmed, gone_at FROM problems"
            " WHERE domain = ? ORDER BY gone_at IS NOT NULL, since DESC LIMIT ?",
            *(domain, min(limit, _MAX_ROWS)),
        )
        return tuple(rows)

    def tidy(self, now: float) -> None:
        """Remove entries older than 400 days."""
        old = now - _KEEP_SECONDS
        with self._transaction():
            self._run("DELETE FROM checks WHERE at < ?", old)
            self._run("DELETE FROM problems WHERE gone_at < ?", old)
            self._run("DELETE FROM timeline WHERE last_seen < ?", old)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _run(self, sql: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, values)
        except (sqlite3.Error, ValueError) as error:
            raise as_store_error(error) from None
