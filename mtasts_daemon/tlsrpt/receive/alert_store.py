"""Alerts and silences in the reports database."""

from collections.abc import Iterable, Sequence

from .alert_rules import ReportAlert, Silence
from .database import Job, SqlConnection

__all__ = ["AlertChanges", "add_silence", "open_alerts", "remove_silence", "silences", "update_alerts"]

_RAISE_AGAIN = 7 * 86400
"""An alert that ended is new again after this many seconds; before, it flaps."""

AlertChanges = tuple[list[ReportAlert], list[tuple[str, str, str]]]
"""Alerts that are new, and (domain, kind, subject) of those that ended."""


def update_alerts(
    now: float, holding: Iterable[ReportAlert], silenced: Iterable[ReportAlert] = ()
) -> Job[AlertChanges]:
    """Return the job that records which alerts hold now and returns the changes.

    ``silenced`` ones hold, too, but are not shown. They are new when their silence ends.
    """
    found = {(alert.domain, alert.kind.value, alert.subject): alert for alert in holding}
    silent = [(alert.domain, alert.kind.value, alert.subject) for alert in silenced]

    def job(connection: SqlConnection) -> AlertChanges:
        for key in silent:
            connection.execute("DELETE FROM alert WHERE domain = ? AND kind = ? AND subject = ?", key)
        known = {
            (domain, kind, subject): ended
            for domain, kind, subject, ended in connection.execute(
                "SELECT domain, kind, subject, ended_at FROM alert"
            ).fetchall()
        }
        new = []
        for key, alert in found.items():
            ended = known.get(key, 0)
            if key not in known or (ended is not None and ended < now - _RAISE_AGAIN):
                new.append(alert)
            connection.execute(
                "INSERT INTO alert (domain, kind, subject, detail, hint, since, ended_at)"
                " VALUES (?, ?, ?, ?, ?, ?, NULL) ON CONFLICT (domain, kind, subject) DO UPDATE SET"
                " detail = excluded.detail, hint = excluded.hint, ended_at = NULL",
                (*key, alert.sentence, alert.hint, int(now)),
            )
        over = [key for key, ended in known.items() if ended is None and key not in found]
        for key in over:
            connection.execute(
                "UPDATE alert SET ended_at = ? WHERE domain = ? AND kind = ? AND subject = ?", (int(now), *key)
            )
        connection.execute("DELETE FROM alert WHERE ended_at < ?", (int(now) - 30 * 86400,))
        return new, over

    return job


def open_alerts(domain: str = "") -> Job[list[dict[str, object]]]:
    """Return the alerts that hold, of one domain or of all."""
    names = ("domain", "kind", "subject", "sentence", "hint", "since")

    def job(connection: SqlConnection) -> list[dict[str, object]]:
        rows: Sequence[Sequence[object]] = connection.execute(
            "SELECT domain, kind, subject, detail, hint, since FROM alert WHERE ended_at IS NULL"
            " AND (? = '' OR domain = ?) ORDER BY since DESC, domain, kind, subject",
            (domain, domain),
        ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]

    return job


def add_silence(domain: str, kind: str, subject: str, reason: str, until: float, now: float) -> Job[int]:
    """Return the job that adds a silence; its result is the silence's id."""

    def job(connection: SqlConnection) -> int:
        row = connection.execute(
            "INSERT INTO silence (domain, kind, subject, reason, until_at, created_at) VALUES (?, ?, ?, ?, ?, ?)"
            " RETURNING id",
            (domain, kind, subject, reason, int(until), int(now)),
        ).fetchone()
        return int(row[0])

    return job


def remove_silence(number: int) -> Job[bool]:
    """Return the job that removes a silence; its result is False if there is none."""

    def job(connection: SqlConnection) -> bool:
        return connection.execute("DELETE FROM silence WHERE id = ?", (number,)).rowcount > 0

    return job


def silences(now: float) -> Job[list[Silence]]:
    """Return the silences in force."""

    def job(connection: SqlConnection) -> list[Silence]:
        rows = connection.execute(
            "SELECT id, domain, kind, subject, reason, until_at FROM silence WHERE until_at > ? ORDER BY id",
            (int(now),),
        ).fetchall()
        return [
            Silence(int(number), domain, kind, subject, reason, int(until))
            for number, domain, kind, subject, reason, until in rows
        ]

    return job
