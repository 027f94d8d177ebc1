"""Rules for alerts about received reports. Pure: days in, alerts out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from .advice import failure_hint
from .totals import DayTotals, FailingHost

__all__ = ["AlertKind", "AlertRules", "ReportAlert", "Silence", "is_silenced", "raised_alerts"]


class AlertKind(StrEnum):
    """The kinds of alerts; the values are stable."""

    NEW_FAILURE = "new-failure"
    FAILED_SHARE = "failed-share"
    REPORTER_SILENT = "reporter-silent"


@dataclass(frozen=True, slots=True)
class ReportAlert:
    """A condition that holds now. ``subject`` distinguishes alerts of one kind."""

    domain: str
    kind: AlertKind
    subject: str
    sentence: str
    hint: str


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts that are not sent. Empty ``kind`` and ``subject`` match all; ``until`` is seconds since the epoch."""

    id: int
    domain: str
    kind: str
    subject: str
    reason: str
    until: int


@dataclass(frozen=True, slots=True)
class AlertRules:
    """The thresholds."""

    new_days: int = 3
    known_days: int = 30
    share_factor: float = 3.0
    share_sessions: int = 10
    baseline_days: int = 14
    silent_days: int = 3
    daily_reports: int = 12
    """A reporter with reports on this many of ``baseline_days`` is a daily one."""


def is_silenced(alert: ReportAlert, silences: Iterable[Silence], now: float) -> bool:
    """Return True if a silence covers the alert now."""
    return any(
        silence.until > now
        and silence.domain in ("", alert.domain)
        and silence.kind in ("", alert.kind.value)
        and silence.subject in ("", alert.subject)
        for silence in silences
    )


def raised_alerts(
    domain: str,
    today: str,
    days: Sequence[DayTotals],
    reporters: Mapping[str, Sequence[str]],
    failures: Sequence[FailingHost],
    rules: AlertRules = AlertRules(),
) -> list[ReportAlert]:
    """Return the alerts of a domain that hold today. ``failures`` covers ``known_days``, ``first_day`` within them.

    ``reporters`` has the days that each one reported, in order.
    """
    return [
        *_new_failures(domain, today, days, failures, rules),
        *_failed_share(domain, today, days, rules),
        *_silent(domain, today, reporters, rules),
    ]


def _before(today: str, days: int) -> str:
    return (date.fromisoformat(today) - timedelta(days=days)).isoformat()


def _new_failures(
    domain: str, today: str, days: Sequence[DayTotals], failures: Sequence[FailingHost], rules: AlertRules
) -> Iterable[ReportAlert]:
    # Without a day before, everything would be new.
    if not days or days[0].day >= _before(today, rules.new_days):
        return
    for one in failures:
        if one.failed and one.first_day >= _before(today, rules.new_days):
            host = one.mx_host or "an unnamed host"
            yield ReportAlert(
                domain,
                AlertKind.NEW_FAILURE,
                f"{one.result_type} {one.mx_host}".strip(),
                f"new failure {one.result_type} at {host}: {one.failed} sessions since {one.first_day},"
                f" {one.reporters} reporters",
                failure_hint(one.result_type, domain),
            )


def _failed_share(domain: str, today: str, days: Sequence[DayTotals], rules: AlertRules) -> Iterable[ReportAlert]:
    recent = [day for day in days if _before(today, rules.new_days) <= day.day < today]
    if not recent:
        return
    last = recent[-1]
    total = last.successful + last.failed
    before = [day for day in days if _before(last.day, rules.baseline_days) <= day.day < last.day]
    sessions = sum(day.successful + day.failed for day in before)
    if total < rules.share_sessions or sessions == 0 or not last.failed:
        return
    baseline = sum(day.failed for day in before) / sessions
    share = last.failed / total
    if share > rules.share_factor * baseline:
        yield ReportAlert(
            domain,
            AlertKind.FAILED_SHARE,
            "",
            f"{share:.1%} of {total} sessions failed on {last.day}, {baseline:.1%} in the {rules.baseline_days}"
            " days before",
            "see the failing hosts of that day",
        )


def _silent(
    domain: str, today: str, reporters: Mapping[str, Sequence[str]], rules: AlertRules
) -> Iterable[ReportAlert]:
    for submitter, days in reporters.items():
        last = days[-1] if days else ""
        # A report about a day comes on the next one.
        if not last or last >= _before(today, rules.silent_days + 1) or last < _before(today, rules.baseline_days):
            continue
        usual = [day for day in days if day > _before(last, rules.baseline_days)]
        if len(usual) >= rules.daily_reports:
            yield ReportAlert(
                domain,
                AlertKind.REPORTER_SILENT,
                submitter,
                f"{submitter} reported daily and has been silent since {last}",
                f"check that the rua address of _smtp._tls.{domain} accepts mail",
            )
