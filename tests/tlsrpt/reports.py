"""Rows and reports for tests."""

from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyType
from mtasts_daemon.tlsrpt.model.report import Report, Reporter, compress_report
from mtasts_daemon.tlsrpt.model.tally import DayRows, PolicyRows

__all__ = ["BODY", "DAY", "MX", "REPORT", "REPORTER", "ROWS", "STS", "TLSA", "row"]

DAY = "2026-09-21"
MX = "mx1.example.net"
REPORTER = Reporter("Example Mail Ltd.", "postmaster@sender.example")

STS = Policy(
    PolicyType.STS,
    "example.com",
    ("version: STSv1", "mode: enforce", "mx: *.example.net", "max_age: 86400"),
    ("*.example.net",),
)
TLSA = Policy(PolicyType.TLSA, MX, ("3 1 1 1F850A337E6DB9C609C522D136A475638CC43E1ED424F8EEC8513D747D1D085D",))
_NONE = Policy(PolicyType.NO_POLICY_FOUND, "example.com")
_ALL_KNOWN = Failure(
    "certificate-host-mismatch", "192.0.2.1", MX, "mx1", "2001:db8::25", "https://example.net/x", "wrong_name"
)


def row(policy: Policy, successful: int = 0, failed: int = 0, **failures: int) -> PolicyRows:
    """Return rows with sessions, and failures by result type (with underscores)."""
    found = ((Failure(name.replace("_", "-")), count) for name, count in failures.items())
    return PolicyRows(policy, successful, failed, tuple(found))


ROWS = DayRows(
    "example.com",
    (
        PolicyRows(STS, 5326, 303, ((_ALL_KNOWN, 200), (Failure("certificate-expired"), 103))),
        row(TLSA, 7),
        row(_NONE, 0, 2, starttls_not_supported=2, sts_policy_fetch_error=4),
    ),
)
REPORT = Report(DAY, "example.com", "5065427c23d347cab6e0946ea0e8c4be@sender.example")
BODY = compress_report(REPORT.content(ROWS, REPORTER))
