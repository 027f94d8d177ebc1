"""This program's own reports through its own receiver."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from mtasts_daemon.tlsrpt.model.mail import message
from mtasts_daemon.tlsrpt.model.signing import Key, Signer
from mtasts_daemon.tlsrpt.receive.intake import Intake, IntakeSettings
from mtasts_daemon.tlsrpt.receive.model import ReportSource
from mtasts_daemon.tlsrpt.receive.queries import ReportFilter, StoredReport, report_details, stored_reports
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite
from tests.tlsrpt.model.test_signing import ED25519, RSA, record
from tests.tlsrpt.reports import BODY, MX, REPORT

NOW = 1_790_121_600.0
"""23 September 2026."""


@pytest.mark.parametrize("key", [RSA, ED25519])
async def test_signed_report_of_ours_is_trusted_and_complete(tmp_path: Path, key: Key) -> None:
    sent = message(REPORT, BODY, tag="0" * 20, sender="tlsrpt@sender.example", to="a@example.com", created_at=NOW)
    signed = Signer("sender.example", "tlsrpt2026", key).signed(sent, NOW)

    async def lookup(name: str) -> Sequence[bytes]:
        assert name == "tlsrpt2026._domainkey.sender.example"
        return (record(key),)

    database = open_sqlite(str(tmp_path / "received.sqlite"), lambda: NOW, lambda problem: None)
    settings = IntakeSettings(frozenset({"example.com", "example.net"}))

    async def take() -> None:
        accepted = await Intake(database, settings, lookup, lambda: NOW).take_mail(signed, ReportSource.LMTP)
        assert accepted.new == ("example.com", MX)

    await take()
    found: dict[str, StoredReport] = {one.domain: one for one in database.read(stored_reports(ReportFilter()))}
    ours = found["example.com"]
    assert (ours.method, ours.identity, ours.counted) == ("dkim", "sender.example", True)
    # Failures that only the daemon knows are in the details only (RFC 8460 section 4.2).
    assert ours.deviations == ("totals-disagree",)
    assert (ours.submitter, ours.report_id, ours.day) == ("sender.example", REPORT.report_id, REPORT.day)
    assert (ours.successful, ours.failed) == (5326, 305)
    assert (found[MX].successful, found[MX].failed) == (7, 0)
    shown = database.read(report_details(ours.id))
    assert shown is not None
    assert {(one["result_type"], one["sessions"]) for one in shown[1]} == {
        ("certificate-host-mismatch", 200),
        ("certificate-expired", 103),
        ("starttls-not-supported", 2),
        ("sts-policy-fetch-error", 4),
    }
    database.close()
