"""Advice for a domain from received reports, as sentences with their evidence. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from .totals import DayTotals, FailingHost, ReporterTotals

__all__ = [
    "NO_CONTEXT",
    "Advice",
    "AdviceFacts",
    "CertificateEnd",
    "Change",
    "ReportContext",
    "advise",
    "changes_near",
    "clean_days",
    "failure_hint",
]

_CLEAN_DAYS = 14
_REPORTERS = 2
_SESSIONS = 10
_STALE_DAYS = 4
_NEAR_DAYS = 1

_HINTS: Mapping[str, str] = {
    "starttls-not-supported": "make every MX host offer STARTTLS on port 25 on all of its addresses",
    "certificate-host-mismatch": "issue a certificate that contains the name of the MX host",
    "certificate-expired": "renew the certificate and reload the mail server",
    "certificate-not-trusted": "send the full certificate chain of a public authority",
    "validation-failure": "compare the MX hosts with the mx patterns of the policy, and check their TLS settings",
    "tlsa-invalid": "publish TLSA records that match the certificate in use (RFC 7671 section 8.4: the next one first)",
    "dnssec-invalid": "check the zone's DNSSEC signatures and its DS record",
    "dane-required": "publish usable TLSA records for every MX host",
    "sts-policy-fetch-error": "check that https://mta-sts.DOMAIN/.well-known/mta-sts.txt answers with status 200",
    "sts-policy-invalid": "check the text of the policy and the _mta-sts TXT record",
    "sts-webpki-invalid": "renew the certificate of the policy host mta-sts.DOMAIN",
}


def failure_hint(result_type: str, domain: str) -> str:
    """Return what to do about failures of this type."""
    hint = _HINTS.get(result_type, "see the failure reasons in the reports")
    return hint.replace("DOMAIN", domain)


@dataclass(frozen=True, slots=True)
class Change:
    """Something that checks saw change. ``at`` is in seconds since the epoch.

    ``kind`` is policy-id, policy, certificate, tlsa, mx or problem.
    """

    at: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class CertificateEnd:
    """When a certificate that a host used expired or expires, in seconds since the epoch."""

    host: str
    at: float


@dataclass(frozen=True, slots=True)
class ReportContext:
    """What the history of checks adds to the reports about a domain. ``mode`` is that of its policy, or empty."""

    mode: str = ""
    ends: Sequence[CertificateEnd] = ()
    changes: Sequence[Change] = ()


NO_CONTEXT = ReportContext()
"""Nothing is known: the domain is not watched."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One conclusion. ``slug`` is stable; ``good`` is False if action is needed."""

    slug: str
    good: bool
    sentence: str
    evidence: tuple[str, ...]
    hint: str = ""


@dataclass(frozen=True, slots=True)
class AdviceFacts:
    """The facts about a domain that advice follows from. ``untrusted`` counts unauthenticated reports."""

    domain: str
    today: str
    days: Sequence[DayTotals]
    reporters: Sequence[ReporterTotals]
    failures: Sequence[FailingHost]
    context: ReportContext = NO_CONTEXT
    untrusted: int = 0


def clean_days(days: Sequence[DayTotals]) -> Sequence[DayTotals]:
    """Return the newest days without a failure. Days without reports prove nothing and are not counted."""
    clean: list[DayTotals] = []
    for day in reversed(days):
        if day.failed or any(day.types.values()):
            break
        clean.append(day)
    return clean[::-1]


def changes_near(day: str, changes: Sequence[Change]) -> list[Change]:
    """Return what changed on the day or the day before."""
    begin = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp()
    return [change for change in changes if begin - _NEAR_DAYS * 86400 <= change.at < begin + 86400]


def advise(facts: AdviceFacts) -> list[Advice]:
    """Return the conclusions, problems first."""
    if not facts.days and not facts.reporters and facts.untrusted:
        return [
            Advice(
                "only-unauthenticated-reports",
                False,
                f"Only unauthenticated reports about {facts.domain} have come in: {facts.untrusted}.",
                (),
                f"list them with mtastsctl reports list --untrusted --domain {facts.domain}; reports show ID says why",
            )
        ]
    if not facts.days:
        return [
            Advice(
                "no-reports",
                False,
                f"No trusted report about {facts.domain} has come in.",
                (),
                f"publish a TXT record at _smtp._tls.{facts.domain} that names this receiver in rua",
            )
        ]
    found = [_about_failure(facts, one) for one in facts.failures if _is_recent(facts, one.last_day)]
    stale = _stale(facts)
    if stale is not None:
        found.append(stale)
    elif not found:
        found += _about_clean_days(facts)
    return found


def _is_recent(facts: AdviceFacts, day: str) -> bool:
    return date.fromisoformat(day) >= date.fromisoformat(facts.today) - timedelta(days=_CLEAN_DAYS)


def _stale(facts: AdviceFacts) -> Advice | None:
    last = facts.days[-1].day
    age = (date.fromisoformat(facts.today) - date.fromisoformat(last)).days
    if age <= _STALE_DAYS:
        return None
    return Advice(
        "reports-stopped",
        False,
        f"No trusted report has come in for {age} days; the last one is about {_shown(last)}.",
        (f"last day with reports: {last}",),
        f"check the TXT record of _smtp._tls.{facts.domain} and that its address accepts mail",
    )


def _about_clean_days(facts: AdviceFacts) -> list[Advice]:
    clean = clean_days(facts.days)
    first = clean[0].day if clean else ""
    names = [one.submitter for one in facts.reporters if one.last_day >= first] if clean else []
    sessions = sum(day.successful for day in clean)
    evidence = (
        f"{len(clean)} days with reports and without failures since {first}" if clean else "no clean day",
        f"{sessions} sessions",
        f"reporters: {', '.join(names[:10])}" if names else "no reporters",
    )
    start = f"{_count(len(clean), 'clean day')} from {_count(len(names), 'reporter')}"
    if len(clean) < _CLEAN_DAYS or len(names) < _REPORTERS or sessions < _SESSIONS:
        wanted = f"{_CLEAN_DAYS} days from {_REPORTERS} reporters with {_SESSIONS} sessions"
        return [Advice("too-early", True, f"{start}: too early for a conclusion.", (*evidence, f"needed: {wanted}"))]
    if facts.context.mode == "enforce":
        return [Advice("enforce-works", True, f"{start}: `enforce` works.", evidence)]
    return [Advice("enforce-safe", True, f"{start}: `enforce` is safe.", evidence, "set mode: enforce in the policy")]


def _about_failure(facts: AdviceFacts, one: FailingHost) -> Advice:
    host = one.mx_host or "an unnamed host"
    began = changes_near(one.first_day, facts.context.changes)
    evidence = [
        f"{one.failed} sessions failed with {one.result_type} at {host}",
        f"reported by {_count(one.reporters, 'reporter')} from {one.first_day} to {one.last_day}",
        *(f"{_moment(change.at)}: {change.text}" for change in began),
    ]
    expired = _expired(facts, one)
    changed = [change for change in began if change.kind != "problem"]
    if expired is not None:
        sentence = (
            f"{expired.host}'s certificate expired on {_moment(expired.at)}; failures were first reported for"
            f" {_shown(one.first_day)}."
        )
        evidence.append(f"certificate of {expired.host} valid until {_moment(expired.at)}")
    elif changed:
        sentence = (
            f"{host} fails with {one.result_type} since {_shown(one.first_day)}, when this changed: {changed[0].text}."
        )
    else:
        sentence = f"{host} fails with {one.result_type} since {_shown(one.first_day)}."
    return Advice("failing-host", False, sentence, tuple(evidence), failure_hint(one.result_type, facts.domain))


def _expired(facts: AdviceFacts, one: FailingHost) -> CertificateEnd | None:
    """Return the expiry that explains the failures, or None.

    A certificate that expires after the last failure was renewed meanwhile, and says nothing about these failures.
    """
    if one.result_type == "certificate-expired":
        hosts = {one.mx_host}
    elif one.result_type == "sts-webpki-invalid":
        hosts = {f"mta-sts.{facts.domain}"}
    else:
        return None
    begin = datetime.combine(date.fromisoformat(one.first_day), datetime.min.time(), UTC).timestamp()
    last = datetime.combine(date.fromisoformat(one.last_day), datetime.max.time(), UTC).timestamp()
    ends = [end for end in facts.context.ends if end.host in hosts and end.at <= last]
    # The last one before the first failures were over; failures of a day may come before the expiry on that day.
    early = [end for end in ends if end.at < begin + 86400]
    if early:
        return max(early, key=lambda end: end.at)
    return min(ends, key=lambda end: end.at, default=None)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shown(day: str) -> str:
    found = date.fromisoformat(day)
    return f"{found.day} {found:%B %Y}"


def _moment(at: float) -> str:
    found = datetime.fromtimestamp(at, UTC)
    return f"{found.day} {found:%B %Y at %H:%M} UTC"
