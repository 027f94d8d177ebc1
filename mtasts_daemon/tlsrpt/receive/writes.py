"""Accepting a report into the reports database: duplicates, revisions and sums."""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...errors import ReceivedReportQuota
from ...text import utc_day
from .authentication import Authentication
from .database import Job, SqlConnection
from .model import RESULT_TYPES, FailureDetail, ReceivedReport, ReportedPolicy, ReportSource
from .retention import remove_report

__all__ = ["Acceptance", "Accepted", "accept", "day_of_range", "share_of"]

_MAX_MX = 20
"""MX hosts of one report whose failures are summed each; failures at further ones are summed without a host.

Then result types that RFC 8460 does not have are summed as one: a report may hold thousands, and each is a row.
"""

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A report to store. ``text`` is its JSON text; ``quota_subject`` names the quota that it counts on.

    ``quota`` is the number of reports a day, or None for what the operator imports.
    """

    report: ReceivedReport
    authentication: Authentication
    source: ReportSource
    submitter: str
    text: bytes
    received_at: int
    quota_subject: str
    quota: int | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The outcome for each policy domain of a report."""

    new: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    foreign: int = 0
    """Policy domains that are not ours."""


def day_of_range(begin: int, end: int) -> str:
    """Return the UTC day that the middle of the range falls on: sender's days do not all begin at midnight UTC."""
    return utc_day((begin + end) // 2)


def share_of(policies: Iterable[ReportedPolicy]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the amounts to add to the sums: (result type, MX host) to (successful, failed) sessions.

    The empty result type has the sums of the summaries.
    """
    found: dict[tuple[str, str], tuple[int, int]] = {("", ""): (0, 0)}
    for policy in policies:
        successful, failed = found["", ""]
        found["", ""] = (successful + policy.successful, failed + policy.failed)
        for failure in policy.failures:
            key = (failure.result_type, failure.mx_host)
            if key not in found and len(found) > _MAX_MX:
                key = (failure.result_type if failure.result_type in RESULT_TYPES else _UNKNOWN, "")
            found[key] = (0, found.get(key, (0, 0))[1] + failure.count)
    return {key: (min(ok, _MOST), min(bad, _MOST)) for key, (ok, bad) in found.items()}


_MOST = 1 << 40
"""Sessions that one report adds to a sum, so that no number of reports overflows it."""


_as_json = json.JSONEncoder(separators=(",", ":")).encode


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(_as_json(parts).encode()).digest()[:16]


def _content_digest(report: ReceivedReport, domain: str, policies: Sequence[ReportedPolicy]) -> bytes:
    content = sorted(
        (
            [p.type, p.successful, p.failed, p.strings, p.mx_hosts, sorted(_plain(failure) for failure in p.failures)]
            for p in policies
        ),
        key=repr,
    )
    return _digest(domain, report.begin, report.end, report.report_id, content)


def _plain(failure: FailureDetail) -> list[str | int]:
    f = failure
    return [f.result_type, f.mx_host, f.sending_ip, f.receiving_ip, f.helo, f.info, f.reason, f.count]


# -- accepting ---------------------------------------------------------------------------------------------


def accept(item: Acceptance, is_ours: Callable[[str], bool]) -> Job[Accepted]:
    """Return the job that stores the report. It raises ``ReceivedReportQuota`` if its submitter sent too many.

    All work without the database is done here, outside the writing thread.
    """
    by_domain: dict[str, list[ReportedPolicy]] = {}
    for policy in item.report.policies:
        by_domain.setdefault(policy.domain, []).append(policy)
    ours = {domain: policies for domain, policies in by_domain.items() if domain and is_ours(domain)}
    foreign = len(by_domain) - len(ours)
    if not ours:
        return _foreign_job(item, foreign)
    packed = zlib.compress(item.text, 6)
    units = [_Unit(item, domain, policies) for domain, policies in ours.items()]

    def job(connection: SqlConnection) -> Accepted:
        _count_arrival(connection, item)
        document: int | None = None
        outcome: dict[str, list[str]] = {"new": [], "revisions": [], "duplicates": []}
        for unit in units:
            revision = unit.next_revision(connection)
            if revision is None:
                outcome["duplicates"].append(unit.domain)
                continue
            if document is None:
                document = _add_document(connection, item, packed)
            unit.add(connection, document, revision)
            outcome["new" if revision == 1 else "revisions"].append(unit.domain)
        if foreign:
            _bump(connection, item, "dropped", "not-ours", foreign)
        return Accepted(tuple(outcome["new"]), tuple(outcome["revisions"]), tuple(outcome["duplicates"]), foreign)

    return job


def _foreign_job(item: Acceptance, foreign: int) -> Job[Accepted]:
    def job(connection: SqlConnection) -> Accepted:
        _count_arrival(connection, item)
        _bump(connection, item, "dropped", "not-ours", max(foreign, 1))
        return Accepted(foreign=max(foreign, 1))

    return job


def _today(item: Acceptance) -> str:
    return utc_day(item.received_at)


def _bump(connection: SqlConnection, item: Acceptance, kind: str, subject: str, count: int) -> int:
    row = connection.execute(
        "INSERT INTO arrival (day, kind, subject, reports) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (day, kind, subject) DO UPDATE SET reports = arrival.reports + excluded.reports"
        " RETURNING reports",
        (_today(item), kind, subject, count),
    ).fetchone()
    return int(row[0])


def _count_arrival(connection: SqlConnection, item: Acceptance) -> None:
    if item.quota is not None and _bump(connection, item, "quota", item.quota_subject, 1) > item.quota:
        raise ReceivedReportQuota(f"{item.quota} a day are accepted")


def _add_document(connection: SqlConnection, item: Acceptance, packed: bytes) -> int:
    verdict, report = item.authentication, item.report
    row = connection.execute(
        "INSERT INTO document (digest, received_at, source, method, identity, auth_detail, organization, contact,"
        " deviations, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            hashlib.sha256(item.text).digest()[:16],
            item.received_at,
            item.source.value,
            verdict.method.value,
            verdict.identity,
            verdict.detail[:300],
            report.organization,
            report.contact,
            ",".join(sorted(one.value for one in report.deviations)),
            packed,
        ),
    ).fetchone()
    return int(row[0])


class _Unit:
    """The content of a report for one of our domains."""

    def __init__(self, item: Acceptance, domain: str, policies: Sequence[ReportedPolicy]) -> None:
        report = item.report
        self.domain = domain
        self._item = item
        self._policies = policies
        self._trusted = item.authentication.trusted
        self._digest = _content_digest(report, domain, policies)
        # Unauthenticated reports have separate keys, so that none can block a genuine one.
        self._key = _digest(
            self._trusted, item.submitter, domain, report.begin, report.end, report.report_id or self._digest.hex()
        )
        self._day = day_of_range(report.begin, report.end)
        self._share = share_of(policies)

    def next_revision(self, connection: SqlConnection) -> int | None:
        """Return the number of this revision, or None if the report is a duplicate, which is counted."""
        same = connection.execute(
            "SELECT r.id, r.report_key, r.trusted, d.identity FROM report r JOIN document d ON d.id = r.document"
            " WHERE r.day = ? AND r.digest = ?",
            (self._day, self._digest),
        ).fetchall()
        for number, key, trusted, identity in same:
            if bytes(key) == self._key or (trusted and self._agrees_with(identity)):
                connection.execute("UPDATE report SET duplicates = duplicates + 1 WHERE id = ?", (number,))
                return None
        for number, _, trusted, _ in same:
            if self._trusted and not trusted:
                remove_report(connection, number)
        (last,) = connection.execute(
            "SELECT COALESCE(MAX(revision), 0) FROM report WHERE day = ? AND report_key = ?", (self._day, self._key)
        ).fetchone()
        return int(last) + 1

    def _agrees_with(self, identity: str) -> bool:
        """Return True if a trusted report with the same content, proven to come from ``identity``, is the same report.

        An unauthenticated report matches every trusted one. In a file that the operator trusts, the submitter is taken
        from the report, and may differ from the signer of the mail.
        """
        if not self._trusted:
            return True
        unsigned = not identity or not self._item.authentication.identity
        return unsigned and bool(self._item.report.report_id)

    def add(self, connection: SqlConnection, document: int, revision: int) -> None:
        """Store the revision. Of all revisions only the newest is counted, if the previous one can be subtracted."""
        counted = self._trusted
        if counted and revision > 1:
            counted = self._take_back(connection)
        item, report = self._item, self._item.report
        successful, failed = self._share["", ""]
        row = connection.execute(
            "INSERT INTO report (document, trusted, submitter, domain, day, begin_at, end_at, report_id, report_key,"
            " digest, revision, counted, successful, failed, duplicates, received_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?) RETURNING id",
            (
                document,
                int(self._trusted),
                item.submitter,
                self.domain,
                self._day,
                report.begin,
                report.end,
                report.report_id,
                self._key,
                self._digest,
                revision,
                int(counted),
                successful,
                failed,
                item.received_at,
            ),
        ).fetchone()
        number = int(row[0])
        self._add_details(connection, number)
        if counted:
            for (result_type, mx_host), (ok, bad) in self._share.items():
                connection.execute(
                    "INSERT INTO share (report, result_type, mx_host, successful, failed) VALUES (?, ?, ?, ?, ?)",
                    (number, result_type, mx_host, ok, bad),
                )
            _sum(connection, self.domain, self._day, item.submitter, self._share, 1)

    def _take_back(self, connection: SqlConnection) -> bool:
        """Subtract the counted revision from the sums. Return False if its share has expired."""
        row = connection.execute(
            "SELECT id, submitter FROM report WHERE day = ? AND report_key = ? AND counted = 1", (self._day, self._key)
        ).fetchone()
        if row is None:
            return False
        number, submitter = row
        share = {
            (result_type, mx_host): (ok, bad)
            for result_type, mx_host, ok, bad in connection.execute(
                "SELECT result_type, mx_host, successful, failed FROM share WHERE report = ?", (number,)
            ).fetchall()
        }
        if not share:
            return False
        _sum(connection, self.domain, self._day, submitter, share, -1)
        connection.execute("UPDATE report SET counted = 0 WHERE id = ?", (number,))
        connection.execute("DELETE FROM share WHERE report = ?", (number,))
        return True

    def _add_details(self, connection: SqlConnection, number: int) -> None:
        position = 0
        for policy in self._policies:
            for failure in policy.failures:
                connection.execute(
                    "INSERT INTO detail (report, position, policy_type, result_type, sessions, mx_host, sending_ip,"
                    " receiving_ip, helo, info, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        number,
                        position,
                        policy.type,
                        failure.result_type,
                        failure.count,
                        failure.mx_host,
                        failure.sending_ip,
                        failure.receiving_ip,
                        failure.helo,
                        failure.info,
                        failure.reason,
                    ),
                )
                position += 1


def _sum(
    connection: SqlConnection,
    domain: str,
    day: str,
    submitter: str,
    share: dict[tuple[str, str], tuple[int, int]],
    sign: int,
) -> None:
    """Add the share to the sums, or subtract it."""
    by_type: dict[str, tuple[int, int]] = {}
    for (result_type, mx_host), (ok, bad) in share.items():
        before = by_type.get(result_type, (0, 0))
        by_type[result_type] = (before[0] + ok, before[1] + bad)
        connection.execute(
            "INSERT INTO tally (domain, day, submitter, result_type, mx_host, reports, successful, failed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (domain, day, submitter, result_type, mx_host) DO UPDATE SET"
            " reports = tally.reports + excluded.reports, successful = tally.successful + excluded.successful,"
            " failed = tally.failed + excluded.failed",
            (domain, day, submitter, result_type, mx_host, sign, sign * ok, sign * bad),
        )
    for result_type, (ok, bad) in by_type.items():
        connection.execute(
            "INSERT INTO day_total (day, domain, result_type, reports, successful, failed) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (day, domain, result_type) DO UPDATE SET reports = day_total.reports + excluded.reports,"
            " successful = day_total.successful + excluded.successful, failed = day_total.failed + excluded.failed",
            (day, domain, result_type, sign, sign * ok, sign * bad),
        )
    if sign < 0:
        connection.execute(
            "DELETE FROM tally WHERE domain = ? AND day = ? AND submitter = ? AND reports <= 0",
            (domain, day, submitter),
        )
        connection.execute("DELETE FROM day_total WHERE domain = ? AND day = ? AND reports <= 0", (domain, day))
