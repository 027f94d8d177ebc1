"""What the history of checks says about received reports: expiries, the mode, changes and problems."""

from pathlib import Path

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.diagnose.check.evidence import CheckEvidence
from mtasts_daemon.diagnose.check.result import judge
from mtasts_daemon.diagnose.report_context import certificate_ends, context_from_file
from mtasts_daemon.diagnose.watch.history import CheckHistory, TimelineEntry
from mtasts_daemon.errors import StoreError
from mtasts_daemon.tlsrpt.receive.advice import NO_CONTEXT, CertificateEnd
from tests.diagnose.evidences import DOMAIN, HOST, dead_resolver, evidence, expired, session

DAY = 86400.0
T = 1.8e9  # 2027-01-15 08:00 UTC


async def recorded(tmp_path: Path, *seen: CheckEvidence) -> Config:
    """Record the checks, and return the configuration that leads to their history."""
    history = CheckHistory(str(tmp_path / "check.sqlite"))
    await history.open(T)
    try:
        for one in seen:
            await history.record(judge(one))
    finally:
        await history.close()
    return Config.model_validate({"check": {"database": str(tmp_path / "check.sqlite")}})


def certificate(value: str, since: float, subject: str = f"{HOST} 192.0.2.1") -> TimelineEntry:
    return TimelineEntry("certificate", subject, value, since, since)


OLD, NEW = "aa valid until 2027-01-20T08:00:00Z", "bb valid until 2027-04-20T08:00:00Z"


def test_certificate_in_use_at_its_expiry_is_named() -> None:
    found = certificate_ends([certificate(OLD, T), certificate(NEW, T + 6 * DAY)])
    assert found == (CertificateEnd(HOST, T + 95 * DAY), CertificateEnd(HOST, T + 5 * DAY))


def test_certificate_renewed_before_its_expiry_is_not_named() -> None:
    assert certificate_ends([certificate(OLD, T), certificate(NEW, T + 4 * DAY)]) == (
        CertificateEnd(HOST, T + 95 * DAY),
    )


@pytest.mark.parametrize("value", ["", "aa", "aa valid until", "aa valid until soon", "\x00 valid until 9"])
def test_certificate_without_a_readable_moment_is_skipped(value: str) -> None:
    assert certificate_ends([certificate(value, T)]) == ()


async def test_history_gives_mode_expiry_changes_and_problems(tmp_path: Path) -> None:
    renewed = evidence(T + 2 * DAY, record_id="2", one=session(T, sha256="cc" * 32))
    config = await recorded(tmp_path, evidence(T), expired(T + DAY), renewed)
    found = context_from_file(config, {}, DOMAIN, 0.0)
    assert found.mode == "enforce"
    assert CertificateEnd(HOST, T + 365 * DAY) in found.ends
    texts = [(change.at - T, change.text) for change in found.changes]
    problem = f"{HOST}: the certificate has expired (192.0.2.1: certificate has expired)"
    assert (DAY, f"a check found: {problem}") in texts
    assert (2 * DAY, f"no check found any more: {problem}") in texts
    assert (2 * DAY, "the policy id became 2") in texts
    assert [at for at, _ in texts] == sorted(at for at, _ in texts)


async def test_reports_about_a_host_use_the_checks_of_the_domain_above(tmp_path: Path) -> None:
    config = await recorded(tmp_path, evidence(T))
    found = context_from_file(config, {}, HOST, 0.0)
    assert found.ends
    assert not found.mode
    assert context_from_file(config, {}, "other.example", 0.0) == NO_CONTEXT


async def test_mode_of_a_policy_that_the_last_check_did_not_see_is_empty(tmp_path: Path) -> None:
    config = await recorded(tmp_path, evidence(T), dead_resolver(T + DAY))
    assert context_from_file(config, {}, DOMAIN, 0.0).mode == ""


async def test_first_fact_of_its_kind_is_no_change(tmp_path: Path) -> None:
    config = await recorded(tmp_path, evidence(T))
    assert context_from_file(config, {}, DOMAIN, 0.0).changes == ()


def test_missing_history_gives_no_context(tmp_path: Path) -> None:
    config = Config.model_validate({"check": {"database": str(tmp_path / "no.sqlite")}})
    assert context_from_file(config, {}, DOMAIN, 0.0) == NO_CONTEXT


def test_damaged_history_raises_store_error(tmp_path: Path) -> None:
    (tmp_path / "check.sqlite").write_bytes(b"SQLite format 3\x00" + b"rubbish" * 1000)
    config = Config.model_validate({"check": {"database": str(tmp_path / "check.sqlite")}})
    with pytest.raises(StoreError):
        context_from_file(config, {}, DOMAIN, 0.0)


def test_history_that_cannot_be_reached_raises_store_error(tmp_path: Path) -> None:
    # As root no directory is closed, but a name can be too long.
    config = Config.model_validate({"check": {"database": str(tmp_path / ("x" * 300) / "check.sqlite")}})
    with pytest.raises(StoreError, match="name too long"):
        context_from_file(config, {}, DOMAIN, 0.0)
