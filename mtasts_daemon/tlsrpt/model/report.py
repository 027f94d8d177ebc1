"""Make reports (RFC 8460 section 4) and their names from the results of a day.

A report covers one policy domain and one UTC day. Its content depends on the arguments only, so that the report id is
sufficient to identify a saved report.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from .event import Failure, Policy, PolicyType
from .tally import DayRows, PolicyRows, Sums, policy_digest, without_details

__all__ = [
    "DAY",
    "Report",
    "Reporter",
    "compress_report",
    "day_begins",
    "decompress_report",
    "has_failures",
    "merge_rows",
]

DAY = 86400
"""Length of a UTC day in seconds."""

_MAX_FAILURES = 1000
"""Maximum number of distinct failures of one policy in a report merged from the rows of several domains."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """Reporting organization: its name in one line, and an e-mail address whose domain is the submitter."""

    organization: str
    contact: str

    @property
    def submitter(self) -> str:
        """Return the domain of the contact address, which TLS-Report-Submitter names (RFC 8460 section 5.3)."""
        return self.contact.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Report:
    """Names of one report. ``report_id`` is ``UNIQUE@SUBMITTER``, with letters and digits before the @."""

    day: str
    domain: str
    report_id: str

    @property
    def submitter(self) -> str:
        """Return the domain of the reporting organization."""
        return self.report_id.rpartition("@")[2]

    @property
    def file_name(self) -> str:
        """Return the file name: submitter, policy domain, first and last second, unique id (RFC 8460 section 5.1)."""
        begin = day_begins(self.day)
        unique = self.report_id.partition("@")[0]
        return f"{self.submitter}!{self.domain}!{begin}!{begin + DAY - 1}!{unique}.json.gz"

    def content(self, rows: DayRows, reporter: Reporter) -> dict[str, Any]:
        """Return the report as JSON values (RFC 8460 section 4.4), without members whose value is unknown."""
        return {
            "organization-name": reporter.organization,
            "date-range": {"start-datetime": f"{self.day}T00:00:00Z", "end-datetime": f"{self.day}T23:59:59Z"},
            "contact-info": reporter.contact,
            "report-id": self.report_id,
            "policies": [_policy(row) for row in rows.policies],
        }


def day_begins(day: str) -> int:
    """Return the start of the UTC day ``YYYY-MM-DD`` in seconds since the epoch. Raises ``ValueError`` if invalid."""
    found = date.fromisoformat(day)
    if found.isoformat() != day:
        raise ValueError(f"{day} is not YYYY-MM-DD")
    return (datetime.combine(found, time(), UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


def compress_report(content: Mapping[str, Any]) -> bytes:
    """Compress a report for delivery (RFC 8460 section 5.2). Equal reports give the same bytes."""
    return gzip.compress(json.dumps(content, separators=(",", ":")).encode("ascii"), 6, mtime=0)


def decompress_report(body: bytes) -> dict[str, Any]:
    """Decompress a report that ``compress_report`` returned. Not for untrusted data."""
    content: dict[str, Any] = json.loads(gzip.decompress(body))
    return content


def has_failures(rows: DayRows) -> bool:
    """Return True if the day has any failure."""
    return any(row.failed or row.failures for row in rows.policies)


def merge_rows(rows: DayRows, others: Iterable[DayRows]) -> DayRows:
    """Merge the domain's rows with the rows of other domains whose sessions used its TLSA records.

    The policy domain of DANE is the TLSA base domain, that is, the MX host (RFC 8460 section 1.1).
    """
    sums: dict[Policy, Sums] = {}
    for row in (*rows.policies, *(row for other in others for row in _about(rows.domain, other))):
        if row.policy not in sums:
            sums[row.policy] = Sums(policy_digest(row.policy))
        sums[row.policy].add(row.successful, row.failed, dict(row.failures))
    return DayRows(rows.domain, tuple(_rows(policy, found) for policy, found in sums.items()))


def _about(domain: str, rows: DayRows) -> Iterable[PolicyRows]:
    return (row for row in rows.policies if row.policy.type is PolicyType.TLSA and row.policy.domain == domain)


def _rows(policy: Policy, sums: Sums) -> PolicyRows:
    ordered = sorted(sums.failures.items(), key=lambda item: -item[1])
    kept = dict(ordered[:_MAX_FAILURES])
    for failure, count in ordered[_MAX_FAILURES:]:
        other = without_details(failure)
        kept[other] = kept.get(other, 0) + count
    return PolicyRows(policy, sums.successful, sums.failed, tuple(kept.items()))


def _policy(row: PolicyRows) -> dict[str, Any]:
    # The keys are those of the template in section 4.4; the text below it uses different names for two of them.
    policy: dict[str, Any] = {"policy-type": row.policy.type.rfc_name}
    if row.policy.strings:
        policy["policy-string"] = list(row.policy.strings)
    policy["policy-domain"] = row.policy.domain
    if row.policy.mx_hosts:
        # erratum 6241: an array
        policy["mx-host"] = list(row.policy.mx_hosts)
    content: dict[str, Any] = {
        "policy": policy,
        # Sessions only. The daemon's own findings are in the failure details, whose sum may be larger (section 4.2).
        "summary": {
            "total-successful-session-count": row.successful,
            "total-failure-session-count": row.failed,
        },
    }
    if row.failures:
        content["failure-details"] = [_failure(failure, count) for failure, count in row.failures]
    return content


def _failure(failure: Failure, count: int) -> dict[str, Any]:
    known = {
        "result-type": failure.result_type,
        "sending-mta-ip": failure.sending_ip,
        "receiving-mx-hostname": failure.mx_host,
        "receiving-mx-helo": failure.helo,
        "receiving-ip": failure.receiving_ip,
        "failed-session-count": count,
        "additional-information": failure.info,
        "failure-reason-code": failure.reason_code,
    }
    return {key: value for key, value in known.items() if value != ""}
