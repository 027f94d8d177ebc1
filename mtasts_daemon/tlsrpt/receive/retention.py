"""Removal from the reports database: of expired reports, and of a domain."""

from dataclasses import dataclass

from ...text import utc_day
from .database import Job, SqlConnection

__all__ = ["Retention", "expire", "forget", "remove_report"]

_DAY = 86400
_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Retention:
    """Retention times in seconds: of daily sums, and of details and raw reports."""

    tallies: int = 400 * _DAY
    details: int = 60 * _DAY


def remove_report(connection: SqlConnection, number: int) -> None:
    """Remove a report that is in no sum, and its document if nothing else refers to it."""
    (document,) = connection.execute("SELECT document FROM report WHERE id = ?", (number,)).fetchone()
    _remove_details(connection, number)
    connection.execute("DELETE FROM report WHERE id = ?", (number,))
    connection.execute(
        "DELETE FROM document WHERE id = ? AND NOT EXISTS (SELECT 1 FROM report WHERE document = ?)",
        (document, document),
    )


def _remove_details(connection: SqlConnection, number: int) -> None:
    connection.execute("DELETE FROM detail WHERE report = ?", (number,))
    connection.execute("DELETE FROM share WHERE report = ?", (number,))


def expire(now: float, retention: Retention) -> Job[bool]:
    """Return the job that removes expired reports, a bounded number at a time. Its result: True if there is more."""

    def job(connection: SqlConnection) -> bool:
        details_before, tallies_before = int(now) - retention.details, int(now) - retention.tallies
        old = connection.execute(
            "SELECT id FROM document WHERE body IS NOT NULL AND received_at < ? ORDER BY received_at LIMIT ?",
            (details_before, _AT_ONCE),
        ).fetchall()
        for (document,) in old:
            for (number,) in connection.execute("SELECT id FROM report WHERE document = ?", (document,)).fetchall():
                _remove_details(connection, number)
            connection.execute("UPDATE document SET body = NULL WHERE id = ?", (document,))
        gone = connection.execute(
            "SELECT id FROM report WHERE received_at < ? ORDER BY received_at LIMIT ?", (tallies_before, _AT_ONCE)
        ).fetchall()
        for (number,) in gone:
            remove_report(connection, number)
        first_day = utc_day(tallies_before)
        connection.execute(
            "DELETE FROM tally WHERE day < ? AND domain IN (SELECT domain FROM day_total WHERE day < ?)",
            (first_day, first_day),
        )
        for table in ("day_total", "arrival"):
            connection.execute(f"DELETE FROM {table} WHERE day < ?", (first_day,))  # noqa: S608
        connection.execute("DELETE FROM silence WHERE until_at < ?", (int(now),))
        return _AT_ONCE in (len(old), len(gone))

    return job


def forget(domain: str) -> Job[int]:
    """Return the job that removes a policy domain. Its result is the number of reports."""

    def job(connection: SqlConnection) -> int:
        numbers = connection.execute("SELECT id FROM report WHERE domain = ?", (domain,)).fetchall()
        for (number,) in numbers:
            remove_report(connection, number)
        for table in ("tally", "day_total", "alert", "silence"):
            connection.execute(f"DELETE FROM {table} WHERE domain = ?", (domain,))  # noqa: S608
        return len(numbers)

    return job
