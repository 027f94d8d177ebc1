"""Advice and alerts from the days of a domain."""

from datetime import UTC, date, datetime, timedelta

import pytest

from mtasts_daemon.tlsrpt.receive.advice import (
    AdviceFacts,
    CertificateEnd,
    Change,
    ReportContext,
    advise,
    clean_days,
)
from mtasts_daemon.tlsrpt.receive.alert_rules import AlertKind, ReportAlert, Silence, is_silenced, raised_alerts
from mtasts_daemon.tlsrpt.receive.totals import DayTotals, FailingHost, ReporterTotals

TODAY = "2026-05-24"


def ago(days: int) -> str:
    return (date.fromisoformat(TODAY) - timedelta(days=days)).isoformat()


def days(*counts: tuple[int, int, int]) -> list[DayTotals]:
    """(days ago, successful, failed) each."""
    found = [DayTotals(ago(n), 1, ok, bad, {"certificate-expired": bad} if bad else {}) for n, ok, bad in counts]
    return sorted(found, key=lambda one: one.day)


def reporter(name: str, *which: int) -> ReporterTotals:
    return ReporterTotals(name, len(which), 10, 0, len(which), ago(max(which)), ago(min(which)))


def facts(found: list[DayTotals], reporters: list[ReporterTotals], **more: object) -> AdviceFacts:
    return AdviceFacts("example.com", TODAY, found, reporters, **{"failures": (), **more})  # type: ignore[arg-type]


CLEAN = days(*((n, 100, 0) for n in range(1, 22)))
NINE = [reporter(f"reporter{n}.example", *range(1, 22)) for n in range(9)]


def test_clean_days_from_several_reporters_make_enforce_safe() -> None:
    (advice,) = advise(facts(CLEAN, NINE))
    assert (advice.good, advice.sentence) == (True, "21 clean days from 9 reporters: `enforce` is safe.")
    assert "2100 sessions" in advice.evidence


def test_enforced_policy_with_clean_days_works() -> None:
    (advice,) = advise(facts(CLEAN, NINE, context=ReportContext("enforce")))
    assert advice.slug == "enforce-works"


@pytest.mark.parametrize(
    ("found", "reporters"),
    [
        (CLEAN[-13:], NINE),
        (CLEAN, NINE[:1]),
        (days(*((n, 0, 0) for n in range(1, 22))), NINE),
        (days((20, 100, 0), (1, 100, 0)), NINE),
    ],
)
def test_little_evidence_is_too_early(found: list[DayTotals], reporters: list[ReporterTotals]) -> None:
    (advice,) = advise(facts(found, reporters))
    assert advice.slug == "too-early"


def test_days_without_reports_are_no_clean_days() -> None:
    assert len(clean_days(days((9, 10, 0), (5, 10, 1), (2, 10, 0), (1, 10, 0)))) == 2


def test_old_reports_are_no_evidence() -> None:
    (advice,) = advise(facts(days(*((n, 100, 0) for n in range(10, 31))), NINE))
    assert (advice.slug, advice.good) == ("reports-stopped", False)


def test_no_report_at_all_is_not_good() -> None:
    (advice,) = advise(facts([], []))
    assert (advice.slug, advice.good) == ("no-reports", False)


def test_domain_with_only_unauthenticated_reports_is_not_called_unreported() -> None:
    (advice,) = advise(facts([], [], untrusted=3))
    assert advice.sentence == "Only unauthenticated reports about example.com have come in: 3."


EXPIRED = FailingHost("certificate-expired", "mx2.example.com", 12, "2026-05-20", "2026-05-23", 3)
EXPIRY = datetime(2026, 5, 20, 2, 0, tzinfo=UTC).timestamp()


def ends(*moments: float, host: str = "mx2.example.com") -> ReportContext:
    return ReportContext(ends=[CertificateEnd(host, moment) for moment in moments])


def test_expired_certificate_is_named_with_its_moment() -> None:
    (advice,) = advise(facts(CLEAN, NINE, failures=[EXPIRED], context=ends(EXPIRY)))
    assert advice.sentence == (
        "mx2.example.com's certificate expired on 20 May 2026 at 02:00 UTC;"
        " failures were first reported for 20 May 2026."
    )
    assert advice.hint.startswith("renew the certificate")


def test_certificate_that_was_renewed_meanwhile_is_not_blamed() -> None:
    (advice,) = advise(facts(CLEAN, NINE, failures=[EXPIRED], context=ends(EXPIRY + 90 * 86400)))
    assert "expired on" not in advice.sentence


def test_of_several_expiries_the_last_before_the_failures_is_named() -> None:
    context = ends(EXPIRY - 400 * 86400, EXPIRY, EXPIRY + 90 * 86400)
    (advice,) = advise(facts(CLEAN, NINE, failures=[EXPIRED], context=context))
    assert "expired on 20 May 2026 at 02:00 UTC" in advice.sentence


def test_expiry_of_another_host_explains_nothing() -> None:
    (advice,) = advise(facts(CLEAN, NINE, failures=[EXPIRED], context=ends(EXPIRY, host="mx1.example.com")))
    assert "expired on" not in advice.sentence


def test_expired_certificate_of_the_policy_host_is_named() -> None:
    failure = FailingHost("sts-webpki-invalid", "", 12, "2026-05-20", "2026-05-23", 3)
    (advice,) = advise(facts(CLEAN, NINE, failures=[failure], context=ends(EXPIRY, host="mta-sts.example.com")))
    assert advice.sentence.startswith("mta-sts.example.com's certificate expired on 20 May 2026 at 02:00 UTC;")


def test_problem_that_a_check_found_is_evidence_and_no_change() -> None:
    problem = Change(EXPIRY, "problem", "a check found: mx2.example.com: the certificate has expired")
    (advice,) = advise(facts(CLEAN, NINE, failures=[EXPIRED], context=ReportContext(changes=[problem])))
    assert "when this changed" not in advice.sentence
    assert any("20 May 2026 at 02:00 UTC: a check found" in line for line in advice.evidence)


def test_change_at_the_time_of_the_first_failure_stands_next_to_it() -> None:
    near = Change(EXPIRY, "certificate", "mx2.example.com got another certificate")
    far = Change(EXPIRY - 10 * 86400, "mx", "the MX hosts became others")
    (advice,) = advise(facts(CLEAN, NINE, failures=[EXPIRED], context=ReportContext(changes=[far, near])))
    assert "when this changed: mx2.example.com got another certificate" in advice.sentence
    assert not any("others" in line for line in advice.evidence)


# -- alerts ------------------------------------------------------------------------------------------------


def kinds(found: list[ReportAlert]) -> list[tuple[AlertKind, str]]:
    return [(alert.kind, alert.subject) for alert in found]


USUAL = days(*((n, 100, 1) for n in range(2, 16)))


def test_new_failure_is_raised_once_per_type_and_host() -> None:
    new = FailingHost("certificate-expired", "mx2.example.com", 4, ago(1), ago(1), 2)
    old = FailingHost("certificate-expired", "mx1.example.com", 4, ago(20), ago(1), 2)
    assert kinds(raised_alerts("example.com", TODAY, USUAL, {}, [new, old])) == [
        (AlertKind.NEW_FAILURE, "certificate-expired mx2.example.com")
    ]


def test_failures_of_the_first_days_ever_are_not_new() -> None:
    new = FailingHost("certificate-expired", "mx2.example.com", 4, ago(1), ago(1), 2)
    assert raised_alerts("example.com", TODAY, days((1, 10, 4)), {}, [new]) == []


@pytest.mark.parametrize(
    ("ok", "bad", "expected"), [(90, 10, True), (96, 4, True), (98, 2, False), (3, 6, False), (100, 0, False)]
)
def test_failed_share_is_compared_with_the_fortnight_before(ok: int, bad: int, expected: bool) -> None:
    found = raised_alerts("example.com", TODAY, [*USUAL, *days((1, ok, bad))], {}, [])
    assert (AlertKind.FAILED_SHARE, "") in kinds(found) if expected else found == []


def test_today_is_not_compared_because_it_is_not_over() -> None:
    assert raised_alerts("example.com", TODAY, [*USUAL, *days((0, 1, 99))], {}, []) == []


def test_daily_reporter_that_is_silent_is_raised_for_a_while() -> None:
    silent = range(6, 20)
    weekly, present, gone = (6, 13, 20), range(1, 20), range(20, 34)
    reported = {"google.com": silent, "weekly.example": weekly, "microsoft.com": present, "gone.example": gone}
    days = {name: sorted(ago(number) for number in which) for name, which in reported.items()}
    found = raised_alerts("example.com", TODAY, USUAL, days, [])
    assert kinds(found) == [(AlertKind.REPORTER_SILENT, "google.com")]


@pytest.mark.parametrize(
    ("silence", "covered"),
    [
        (Silence(1, "", "", "", "x", 100), True),
        (Silence(1, "example.com", "new-failure", "", "x", 100), True),
        (Silence(1, "example.com", "new-failure", "a mx", "x", 100), True),
        (Silence(1, "other.example", "", "", "x", 100), False),
        (Silence(1, "", "failed-share", "", "x", 100), False),
        (Silence(1, "", "", "b mx", "x", 100), False),
        (Silence(1, "", "", "", "x", 50), False),
    ],
)
def test_silence_covers_what_it_names_until_it_ends(silence: Silence, covered: bool) -> None:
    alert = ReportAlert("example.com", AlertKind.NEW_FAILURE, "a mx", "", "")
    assert is_silenced(alert, [silence], 60.0) is covered
