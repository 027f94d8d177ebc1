"""Count reports since the start of the process and in the database."""

import sqlite3
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial

from ...text import utc_day
from ..model.delivery_result import Result
from ..model.report import DAY, day_begins
from .connection import TlsrptDatabase

__all__ = ["DAYS", "DeliveryCounters", "ReportTotals", "reports"]

DAYS = 7
"""Days for which finished reports are counted."""


@dataclass(slots=True)
class DeliveryCounters:
    """Counters since the start of the process."""

    made: int = 0
    """Reports made."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Report units without report, by the slug of the reason."""
    delivered: dict[str, int] = field(default_factory=lambda: {"https": 0, "mail": 0})
    """Accepted reports by transport."""
    failures: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((Result.DEFERRED, Result.REFUSED, Result.GONE), 0)
    )
    """Failed delivery attempts by result."""
    unhandled: int = 0

    def count_attempt(self, transport: str, result: Result) -> None:
        """Count a delivery attempt."""
        if result is Result.DELIVERED:
            self.delivered[transport] += 1
        else:
            self.failures[result] += 1


@dataclass(frozen=True, slots=True)
class ReportTotals:
    """Counts of deliveries; finished ones of the last ``DAYS``. A report unit without a report yet counts as one."""

    waiting: int = 0
    due: int = 0
    """Waiting deliveries that are due."""
    delivered: int = 0
    refused: int = 0
    failed: int = 0
    """Given up after ``retry_for``."""
    suppressed: int = 0
    waits_since: float | None = None
    """When the earliest day with a waiting report ended, in seconds since the epoch."""


async def reports(database: TlsrptDatabase, now: float) -> ReportTotals:
    """Return the counts at ``now``. Expensive; call it at most once a minute. Raises ``StoreError``."""
    return await database.read(partial(_reports, now))


_DAYS = "SELECT DISTINCT day FROM report_unit WHERE day >= ? AND day < ?"
_PLANNED = "SELECT 1 FROM plan WHERE day = ? LIMIT 1"
_UNDECIDED = """
    SELECT count(*), coalesce(sum(next_at <= ?), 0), min(day) FROM plan INDEXED BY plan_due WHERE state = 'waiting'
"""
_PENDING = """
    SELECT count(*), coalesce(sum(next_at <= ?), 0), min(day) FROM delivery INDEXED BY delivery_due
    WHERE state = 'pending'
"""
_DONE = "SELECT state, count(*) FROM delivery WHERE day >= ? GROUP BY state"


def _reports(now: float, connection: sqlite3.Connection) -> ReportTotals:
    today = utc_day(now)
    first = (date.fromisoformat(today) - timedelta(days=DAYS)).isoformat()
    undecided, undecided_due, earliest_undecided = connection.execute(_UNDECIDED, (now,)).fetchone()
    pending, pending_due, earliest_pending = connection.execute(_PENDING, (now,)).fetchone()
    # A day is planned soon after it ends; an unplanned one shows that no process sends reports.
    days = [day for (day,) in connection.execute(_DAYS, (first, today)).fetchall()]
    unplanned = [day for day in days if connection.execute(_PLANNED, (day,)).fetchone() is None]
    done = dict(connection.execute(_DONE, (first,)).fetchall())
    earliest = min(filter(None, [earliest_undecided, earliest_pending, *unplanned]), default=None)
    return ReportTotals(
        waiting=undecided + pending,
        due=undecided_due + pending_due,
        delivered=done.get("delivered", 0),
        refused=done.get("refused", 0),
        failed=done.get("failed", 0),
        suppressed=done.get("skipped", 0),
        waits_since=None if earliest is None else _end(earliest),
    )


def _end(day: str) -> float | None:
    try:
        return float(day_begins(day) + DAY)
    except ValueError:  # a damaged row
        return None
