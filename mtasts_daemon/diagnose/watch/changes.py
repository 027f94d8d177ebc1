"""Changes between two checks of a domain. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ...notify.alert import Alert, Severity
from ...smtp.certificates import LeafCertificate
from ...smtp.probe import OUR_PROBLEMS
from ..check.finding import CheckFinding
from ..check.result import CheckResult

__all__ = ["VALID_UNTIL", "Fact", "FindingChanges", "OpenFinding", "alerts_for", "changes", "facts_of"]

_MAX_VALUE = 2000
VALID_UNTIL = " valid until "
_PROBLEMS = (Severity.ERROR, Severity.WARNING)


@dataclass(frozen=True, slots=True)
class OpenFinding:
    """A problem that an earlier check found. ``confirmed`` says that a second check found it too."""

    slug: str
    subject: str
    severity: Severity
    sentence: str
    since: float
    confirmed: bool


@dataclass(frozen=True, slots=True)
class FindingChanges:
    """``added`` are seen for the first time, ``confirmed`` for the second, ``fixed`` no more.

    A problem stays open, in none of these, as long as nothing shows that it is fixed.
    """

    added: tuple[CheckFinding, ...] = ()
    confirmed: tuple[CheckFinding, ...] = ()
    persisting: tuple[CheckFinding, ...] = ()
    fixed: tuple[OpenFinding, ...] = ()


def changes(before: Collection[OpenFinding], result: CheckResult) -> FindingChanges:
    """Compare a result with the problems of earlier checks.

    If something could not be checked because of this host, nothing counts as fixed: the absence proves nothing. That
    holds for the problems of a host if only that host could not be probed, and for its confirmed problems if it has a
    new one, which may hide or continue them: an expired certificate no longer expires soon.
    """
    known = {(finding.slug, finding.subject): finding for finding in before}
    found = {finding.key: finding for finding in result.findings if finding.severity in _PROBLEMS}
    added = tuple(finding for key, finding in found.items() if key not in known)
    complete = not any(finding.ours and finding.slug not in OUR_PROBLEMS for finding in result.findings)
    unprobed = {finding.subject for finding in result.findings if finding.slug in OUR_PROBLEMS}
    unclear = {finding.subject for finding in added}
    gone = (
        finding
        for key, finding in known.items()
        if key not in found
        and finding.subject not in unprobed
        and not (finding.confirmed and finding.subject in unclear)
    )
    return FindingChanges(
        added=added,
        confirmed=tuple(finding for key, finding in found.items() if key in known and not known[key].confirmed),
        persisting=tuple(finding for key, finding in found.items() if key in known and known[key].confirmed),
        fixed=tuple(gone) if complete else (),
    )


def alerts_for(domain: str, change: FindingChanges, at: float) -> Iterator[Alert]:
    """Yield an alert for each problem that a second check confirmed, and for each confirmed one that is fixed."""
    for finding in change.confirmed:
        details: Mapping[str, str] = {"domain": domain, "rule": finding.rfc, "seen": finding.detail}
        details = {name: value for name, value in details.items() if value}
        text = f"{finding.subject}: {finding.sentence}" if finding.subject != domain else finding.sentence
        yield Alert(finding.slug, finding.severity, domain, text, at, finding.remedy, details)
    for old in change.fixed:
        if old.confirmed:
            text = f"no longer: {old.sentence}"
            yield Alert(old.slug, old.severity, domain, text, at, details={"domain": domain}, resolved=True)


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that may change without being wrong. ``kind`` is policy-id, policy, mx, certificate or tlsa.

    ``subject`` is the host, or host and address, that it belongs to; ``value`` is one printable line. That of a
    certificate is its SHA-256 digest, and ``VALID_UNTIL`` with the moment of its expiry.
    """

    kind: str
    subject: str
    value: str


def facts_of(result: CheckResult) -> tuple[Fact, ...]:
    """Return the facts that a check established."""
    return tuple(dict.fromkeys(_facts(result)))


def _facts(result: CheckResult) -> Iterator[Fact]:
    evidence = result.evidence
    if evidence.sts.record is not None:
        yield Fact("policy-id", "", evidence.sts.record.id)
    policy = evidence.policy_host.policy
    if policy is not None:
        yield Fact("policy", "", "; ".join(policy.lines[1:])[:_MAX_VALUE])
    for endpoint in evidence.policy_host.endpoints:
        if endpoint.tls is not None:
            yield Fact("certificate", endpoint.host, _certificate(endpoint.tls.leaf))
    if evidence.mx.answer is not None:
        yield Fact("mx", "", ", ".join(evidence.mx.hosts[:20]) or "none")
    for host in evidence.hosts:
        for session in host.sessions:
            if session.tls is not None:
                yield Fact("certificate", f"{host.host} {session.address}", _certificate(session.tls.leaf))
        records = host.dane.records if host.dane is not None else ()
        if records:
            texts = sorted(
                f"{record.usage} {record.selector} {record.matching_type} {record.data.hex()[:128]}"
                for record in records[:20]
            )
            yield Fact("tlsa", host.host, ", ".join(texts))


def _certificate(leaf: LeafCertificate) -> str:
    if not leaf.readable:
        return leaf.sha256
    return f"{leaf.sha256}{VALID_UNTIL}{datetime.fromtimestamp(leaf.not_after, UTC):%Y-%m-%dT%H:%M:%SZ}"
