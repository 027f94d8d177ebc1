"""Reading from the reports database for the page, the API and the commands.

Each function makes a job for ``ReportsDatabase.read``. Days are UTC, ``YYYY-MM-DD``, and ranges include both ends.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from .database import Job, SqlConnection
from .totals import DayTotals, DomainTotals, FailingHost, ReporterTotals, UnauthenticatedTotals

__all__ = [
    "ReportFilter",
    "StoredReport",
    "all_reports",
    "day_totals",
    "domain_totals",
    "dropped",
    "failing_hosts",
    "known_domains",
    "only_unauthenticated",
    "raw_report",
    "report_details",
    "reporter_days",
    "reporters",
    "stored_reports",
    "unauthenticated_count",
]

_MAX_RAW = 32 << 20
_MAX_UNAUTHENTICATED = 1000
"""Domains with only unauthenticated reports that are listed: strangers can report any name below an own domain."""

_WITHIN = "r.day || '' >= ? AND r.day || '' <= ?"
"""A range of days that is not searched by an index on the day: reports are read by domain or newest first."""


@dataclass(frozen=True, slots=True)
class ReportFilter:
    """Which reports to list; empty values match all. ``before`` is the last id of the previous page."""

    domain: str = ""
    submitter: str = ""
    result_type: str = ""
    since: str = ""
    until: str = ""
    trusted: bool | None = None
    before: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class StoredReport:
    """The content of one report about one domain, and its origin."""

    id: int
    domain: str
    day: str
    submitter: str
    organization: str
    contact: str
    report_id: str
    revision: int
    counted: bool
    trusted: bool
    method: str
    identity: str
    auth_detail: str
    source: str
    successful: int
    failed: int
    duplicates: int
    deviations: tuple[str, ...]
    begin: int
    end: int
    received_at: int


def domain_totals(since: str, until: str) -> Job[list[DomainTotals]]:
    """Return the domains that were reported about, the one with the largest failed share first."""

    def job(connection: SqlConnection) -> list[DomainTotals]:
        rows = connection.execute(
            "SELECT domain, SUM(reports), SUM(successful), SUM(failed), MIN(day), MAX(day) FROM day_total"
            " WHERE day >= ? AND day <= ? AND result_type = '' GROUP BY domain",
            (since, until),
        ).fetchall()
        found = [
            DomainTotals(domain, int(reports), int(ok), int(bad), first, last)
            for domain, reports, ok, bad, first, last in rows
        ]
        return sorted(found, key=lambda one: (-one.failed_share, -one.failed, one.domain))

    return job


def only_unauthenticated(since: str, until: str) -> Job[list[UnauthenticatedTotals]]:
    """Return the domains that have only unauthenticated reports, the one with most reports first; at most 1,000."""

    def job(connection: SqlConnection) -> list[UnauthenticatedTotals]:
        rows = connection.execute(
            "SELECT domain, reports, first_day, last_day FROM (SELECT r.domain AS domain, COUNT(*) AS reports,"  # noqa: S608
            f" MIN(r.day) AS first_day, MAX(r.day) AS last_day FROM report r WHERE r.trusted = 0 AND {_WITHIN}"
            " GROUP BY r.domain) g WHERE NOT EXISTS (SELECT 1 FROM day_total t WHERE t.domain = g.domain"
            " AND t.day >= ? AND t.day <= ?) ORDER BY reports DESC, domain LIMIT ?",
            (since, until, since, until, _MAX_UNAUTHENTICATED),
        ).fetchall()
        return [UnauthenticatedTotals(domain, int(reports), first, last) for domain, reports, first, last in rows]

    return job


def unauthenticated_count(domain: str, since: str, until: str) -> Job[int]:
    """Return the number of unauthenticated reports about a domain."""

    def job(connection: SqlConnection) -> int:
        (count,) = connection.execute(
            f"SELECT COUNT(*) FROM report r WHERE r.domain = ? AND r.trusted = 0 AND {_WITHIN}",  # noqa: S608
            (domain, since, until),
        ).fetchone()
        return int(count)

    return job


def day_totals(domain: str, since: str, until: str, submitter: str = "") -> Job[list[DayTotals]]:
    """Return the days of a domain that have reports, in order."""

    def job(connection: SqlConnection) -> list[DayTotals]:
        table, more, values = "day_total", "", [domain, since, until]
        if submitter:
            table, more = "tally", " AND submitter = ?"
            values.append(submitter)
        rows = connection.execute(
            f"SELECT day, result_type, SUM(reports), SUM(successful), SUM(failed) FROM {table}"  # noqa: S608
            f" WHERE domain = ? AND day >= ? AND day <= ?{more} GROUP BY day, result_type ORDER BY day, result_type",
            values,
        ).fetchall()
        days: dict[str, DayTotals] = {}
        for day, result_type, reports, successful, failed in rows:
            if result_type == "":
                days[day] = DayTotals(day, int(reports), int(successful), int(failed), {})
            elif day in days:
                days[day].types[result_type] = int(failed)
        return list(days.values())

    return job


def reporters(domain: str, since: str, until: str) -> Job[list[ReporterTotals]]:
    """Return the reporters of a domain, by the number of sessions."""

    def job(connection: SqlConnection) -> list[ReporterTotals]:
        # A submitter has one such row a day.
        rows = connection.execute(
            "SELECT submitter, SUM(reports), SUM(successful), SUM(failed), COUNT(*), MIN(day), MAX(day) FROM tally"
            " WHERE domain = ? AND day >= ? AND day <= ? AND result_type = '' AND mx_host = '' GROUP BY submitter",
            (domain, since, until),
        ).fetchall()
        found = [
            ReporterTotals(submitter, int(reports), int(ok), int(bad), int(days), first, last)
            for submitter, reports, ok, bad, days, first, last in rows
        ]
        return sorted(found, key=lambda one: (-(one.successful + one.failed), one.submitter))

    return job


def reporter_days(domain: str, since: str, until: str) -> Job[dict[str, list[str]]]:
    """Return the days that each reporter of a domain reported, in order."""

    def job(connection: SqlConnection) -> dict[str, list[str]]:
        rows = connection.execute(
            "SELECT submitter, day FROM tally WHERE domain = ? AND day >= ? AND day <= ? AND result_type = ''"
            " AND mx_host = '' ORDER BY submitter, day",
            (domain, since, until),
        ).fetchall()
        found: dict[str, list[str]] = {}
        for submitter, day in rows:
            found.setdefault(submitter, []).append(day)
        return found

    return job


def failing_hosts(
    domain: str, since: str, until: str, submitter: str = "", result_type: str = ""
) -> Job[list[FailingHost]]:
    """Return the failures by result type and MX host, the most frequent first."""

    def job(connection: SqlConnection) -> list[FailingHost]:
        where, values = "domain = ? AND day >= ? AND day <= ? AND result_type <> ''", [domain, since, until]
        for name, value in (("submitter", submitter), ("result_type", result_type)):
            if value:
                where += f" AND {name} = ?"
                values.append(value)
        rows = connection.execute(
            "SELECT result_type, mx_host, SUM(failed), MIN(day), MAX(day), COUNT(DISTINCT submitter) FROM tally"  # noqa: S608
            f" WHERE {where} GROUP BY result_type, mx_host ORDER BY 3 DESC, 1, 2 LIMIT 500",
            values,
        ).fetchall()
        return [FailingHost(row[0], row[1], int(row[2]), row[3], row[4], int(row[5])) for row in rows]

    return job


_COLUMNS = (
    "r.id, r.domain, r.day, r.submitter, d.organization, d.contact, r.report_id, r.revision, r.counted, r.trusted,"
    " d.method, d.identity, d.auth_detail, d.source, r.successful, r.failed, r.duplicates, d.deviations, r.begin_at,"
    " r.end_at, r.received_at"
)


_FIELDS = tuple(field.name for field in fields(StoredReport))


def _stored(row: Sequence[Any]) -> StoredReport:
    values = dict(zip(_FIELDS, row, strict=True))
    for name in ("counted", "trusted"):
        values[name] = bool(values[name])
    values["deviations"] = tuple(values["deviations"].split(",")) if values["deviations"] else ()
    return StoredReport(**values)


def stored_reports(asked: ReportFilter) -> Job[list[StoredReport]]:
    """Return the reports that match, newest first."""

    def job(connection: SqlConnection) -> list[StoredReport]:
        where, values = "1 = 1", list[Any]()
        for condition, value in (
            ("r.domain = ?", asked.domain),
            ("r.submitter = ?", asked.submitter),
            ("r.day || '' >= ?", asked.since),
            ("r.day || '' <= ?", asked.until),
            ("r.id < ?", asked.before),
            ("EXISTS (SELECT 1 FROM detail t WHERE t.report = r.id AND t.result_type = ?)", asked.result_type),
        ):
            if value:
                where += f" AND {condition}"
                values.append(value)
        if asked.trusted is not None:
            # Literally, as in the condition of the index report_untrusted.
            where += f" AND r.trusted = {int(asked.trusted)}"
        # The documents of the listed reports only: a domain may have many thousands.
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM (SELECT * FROM report r WHERE {where} ORDER BY r.id DESC LIMIT ?) r"  # noqa: S608
            " JOIN document d ON d.id = r.document ORDER BY r.id DESC",
            (*values, asked.limit),
        ).fetchall()
        return [_stored(row) for row in rows]

    return job


def report_details(number: int) -> Job[tuple[StoredReport, list[dict[str, Any]]] | None]:
    """Return a report with its failure details, or None."""
    names = (
        "policy_type",
        "result_type",
        "sessions",
        "mx_host",
        "sending_ip",
        "receiving_ip",
        "helo",
        "info",
        "reason",
    )

    def job(connection: SqlConnection) -> tuple[StoredReport, list[dict[str, Any]]] | None:
        row = connection.execute(
            f"SELECT {_COLUMNS} FROM report r JOIN document d ON d.id = r.document WHERE r.id = ?",  # noqa: S608
            (number,),
        ).fetchone()
        if row is None:
            return None
        details = connection.execute(
            f"SELECT {', '.join(names)} FROM detail WHERE report = ? ORDER BY position",  # noqa: S608
            (number,),
        ).fetchall()
        return _stored(row), [dict(zip(names, one, strict=True)) for one in details]

    return job


def raw_report(number: int) -> Job[bytes | None]:
    """Return the JSON text of a report as received, or None if it has expired."""

    def job(connection: SqlConnection) -> bytes | None:
        row = connection.execute(
            "SELECT d.body FROM report r JOIN document d ON d.id = r.document WHERE r.id = ?", (number,)
        ).fetchone()
        if row is None or row[0] is None:
            return None
        return zlib.decompressobj().decompress(bytes(row[0]), _MAX_RAW)

    return job


def known_domains() -> Job[list[str]]:
    """Return all domains with stored data."""

    def job(connection: SqlConnection) -> list[str]:
        # One search for each domain; DISTINCT reads the whole index.
        rows = connection.execute(
            "WITH RECURSIVE known(domain) AS (SELECT MIN(domain) FROM report UNION ALL"
            " SELECT (SELECT MIN(r.domain) FROM report r WHERE r.domain > known.domain) FROM known"
            " WHERE known.domain IS NOT NULL) SELECT domain FROM known WHERE domain IS NOT NULL ORDER BY domain"
        ).fetchall()
        return [row[0] for row in rows]

    return job


def dropped(since: str) -> Job[dict[str, int]]:
    """Return reports that were dropped, by reason."""

    def job(connection: SqlConnection) -> dict[str, int]:
        rows = connection.execute(
            "SELECT subject, SUM(reports) FROM arrival WHERE kind = 'dropped' AND day >= ? GROUP BY subject", (since,)
        ).fetchall()
        return {subject: int(count) for subject, count in rows}

    return job


def all_reports(
    read: Callable[[Job[list[StoredReport]]], list[StoredReport]], asked: ReportFilter
) -> Iterator[StoredReport]:
    """Yield all reports that match, a page at a time."""
    page = replace(asked, limit=500)
    while True:
        found = read(stored_reports(page))
        yield from found
        if len(found) < page.limit:
            return
        page = replace(page, before=found[-1].id)
