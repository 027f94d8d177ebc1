"""Drift: inconsistencies of a published domain that appeared after publishing. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..diagnose.check.catalogue import CATALOGUE
from ..diagnose.check.evidence import CheckEvidence, CheckFailure, MxHostEvidence
from ..notify.alert import Severity
from ..policy.mtasts import Mode
from ..smtp.probe import OUR_PROBLEMS
from .dns_records import RecordChange, RecordDifference
from .policy_text import PublishedPolicy, policy_host_of

__all__ = ["DRIFT_SLUGS", "DriftFinding", "drift_findings"]

DRIFT_SLUGS = (
    "publish-record-broken",
    "publish-record-missing",
    "publish-text-missing",
    "publish-id-differs",
    "publish-host-unreachable",
    "publish-text-differs",
    "publish-certificate-expires",
    "publish-mx-not-permitted",
    "publish-mx-broken",
    "publish-mx-certificate-expires",
    "publish-tlsrpt-differs",
    "publish-removal-ready",
)
"""All slugs; they are stable."""

_CERTIFICATE_DAYS = 14
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class DriftFinding:
    """One thing that is wrong. ``slug`` is stable."""

    slug: str
    severity: Severity
    subject: str
    sentence: str
    remedy: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Key that identifies the finding in the next check."""
        return self.slug, self.subject


def drift_findings(
    live: PublishedPolicy | None, evidence: CheckEvidence, differences: Sequence[RecordDifference] = ()
) -> tuple[DriftFinding, ...]:
    """Return the problems of a domain whose policy ``live`` is being served.

    Failures of this host are not reported: see ``CheckFailure.ours``.
    """
    found = [*_record(live, evidence), *_policy_host(live, evidence), *_certificates(evidence)]
    if live is not None:
        found += _mx(live, evidence)
    found += _other_records(differences)
    return tuple({finding.key: finding for finding in found}.values())


def _record(live: PublishedPolicy | None, evidence: CheckEvidence) -> Iterator[DriftFinding]:
    name, sts = f"_mta-sts.{evidence.domain}", evidence.sts
    write = "Write the TXT record: mtastsctl publish records, or publish apply."
    if sts.failure is not None:
        if not sts.failure.ours:
            yield _theirs("publish-record-broken", Severity.ERROR, name, sts.failure)
    elif sts.record is None:
        if live is not None:
            sentence = "a policy is served, but no TXT record announces it"
            yield DriftFinding("publish-record-missing", Severity.ERROR, name, sentence, write)
    elif live is None:
        sentence = "the TXT record announces a policy, but none is served"
        remedy = "Publish the domain, or delete the record."
        yield DriftFinding("publish-text-missing", Severity.ERROR, name, sentence, remedy)
    elif sts.record.id != live.id:
        sentence = f"the id in DNS is {sts.record.id}, that of the policy being served is {live.id}"
        yield DriftFinding("publish-id-differs", Severity.ERROR, name, sentence, write)


def _policy_host(live: PublishedPolicy | None, evidence: CheckEvidence) -> Iterator[DriftFinding]:
    host, found = policy_host_of(evidence.domain), evidence.policy_host
    if live is None or evidence.sts.failure is not None:
        return
    if not found.present and found.failure is None:
        sentence = "the policy host has no address"
        yield DriftFinding("publish-host-unreachable", Severity.ERROR, host, sentence, "Publish its records.")
    elif found.failure is not None:
        if not found.failure.ours:
            yield _theirs("publish-host-unreachable", Severity.ERROR, host, found.failure)
    elif found.body is not None and found.body != live.text:
        yield DriftFinding(
            "publish-text-differs",
            Severity.ERROR,
            host,
            "senders are given another text than this daemon serves",
            "Point the policy host and the reverse proxy to this daemon, and switch off caches between.",
        )


def _theirs(slug: str, severity: Severity, subject: str, failure: CheckFailure) -> DriftFinding:
    kind = CATALOGUE.get(failure.slug)
    return DriftFinding(slug, severity, subject, failure.sentence, kind.remedy if kind is not None else "")


def _certificates(evidence: CheckEvidence) -> Iterator[DriftFinding]:
    host = policy_host_of(evidence.domain)
    ends = [endpoint.tls.leaf.not_after for endpoint in evidence.policy_host.endpoints if endpoint.tls is not None]
    yield from _expiry("publish-certificate-expires", host, ends, evidence.at)


def _expiry(slug: str, host: str, ends: Sequence[float], now: float) -> Iterator[DriftFinding]:
    first = min((end for end in ends if end), default=None)
    if first is not None and 0 < first - now < _CERTIFICATE_DAYS * _DAY:
        sentence = f"the certificate expires in {(first - now) / _DAY:.0f} days"
        yield DriftFinding(slug, Severity.WARNING, host, sentence, "Renew the certificate; renewal seems not to work.")


def _mx(live: PublishedPolicy, evidence: CheckEvidence) -> Iterator[DriftFinding]:
    if live.policy.mode is Mode.NONE:
        return
    severity = Severity.ERROR if live.policy.mode is Mode.ENFORCE else Severity.WARNING
    for host in evidence.hosts:
        if not live.policy.permits(host.host):
            sentence = "the policy does not permit this MX host"
            remedy = "Add it to publish.domains, or remove the MX record; senders that enforce pass it over."
            yield DriftFinding("publish-mx-not-permitted", severity, host.host, sentence, remedy)
        yield from _sessions(host, severity, evidence.at)


def _sessions(host: MxHostEvidence, severity: Severity, now: float) -> Iterator[DriftFinding]:
    for session in host.sessions:
        slug = session.problem
        if slug in OUR_PROBLEMS or slug == "smtp-address-refused":
            continue
        if slug is None:
            slug = "starttls-not-offered" if session.tls is None else session.tls.problem_for(host.host)
        if slug is not None:
            kind = CATALOGUE.get(slug)
            sentence, remedy = (slug, "") if kind is None else (kind.sentence, kind.remedy)
            yield DriftFinding("publish-mx-broken", severity, f"{host.host} [{session.address}]", sentence, remedy)
    ends = [session.tls.leaf.not_after for session in host.sessions if session.tls is not None]
    yield from _expiry("publish-mx-certificate-expires", host.host, ends, now)


def _other_records(differences: Sequence[RecordDifference]) -> Iterator[DriftFinding]:
    for one in differences:
        if one.change is RecordChange.UNKNOWN or one.name.startswith(("_mta-sts.", "mta-sts.")):
            continue
        sentence = f"the {one.kind.value} record does not ask for reports as configured"
        yield DriftFinding("publish-tlsrpt-differs", Severity.WARNING, one.name, sentence, f"Write: {one.wanted}")
