"""Reading from the reports database for the page, the API and the commands.

Each function makes a job for ``ReportsDatabase.read``. Days are UTC, ``YYYY-MM-DD``, and ranges include both ends.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from .database import Job, SqlConnection
from .totals import DayTotals, DomainTotals, FailingHost, ReporterTotals

__all__ = [
    "ReportFilter",
    "StoredReport",
    "all_reports",
    "day_totals",
    "domain_totals",
    "dropped",
    "failing_hosts",
    "known_domains",
    "raw_report",
    "report_details",
    "reporters",
    "stored_reports",
]

_MAX_RAW = 32 << 20


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
        rows = connection.execute(
            "SELECT submitter, day, reports, successful, failed FROM tally"
            " WHERE domain = ? AND day >= ? AND day <= ? AND result_type = '' AND mx_host = ''",
            (domain, since, until),
        ).fetchall()
        sums: dict[str, list[Any]] = {}
        for submitter, day, reports, successful, failed in rows:
            one = sums.setdefault(submitter, [0, 0, 0, []])
            one[0] += int(reports)
            one[1] += int(successful)
            one[2] += int(failed)
            one[3].append(day)
        found = [
            ReporterTotals(submitter, reports, successful, failed, tuple(sorted(days)))
            for submitter, (reports, successful, failed, days) in sums.items()
        ]
        return sorted(found, key=lambda one: (-(one.successful + one.failed), one.submitter))

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
            ("r.day >= ?", asked.since),
            ("r.day <= ?", asked.until),
            ("r.id < ?", asked.before),
            ("EXISTS (SELECT 1 FROM detail t WHERE t.report = r.id AND t.result_type = ?)", asked.result_type),
        ):
            if value:
                where += f" AND {condition}"
                values.append(value)
        if asked.trusted is not None:
            where += " AND r.trusted = ?"
            values.append(int(asked.trusted))
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
        return [row[0] for row in connection.execute("SELECT DISTINCT domain FROM report ORDER BY domain").fetchall()]

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
