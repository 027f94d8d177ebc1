"""The result of a check: findings and conclusions from its evidence. Pure."""

from dataclasses import dataclass
from typing import Any

from ...notify.alert import Severity
from ...policy.mtasts import Mode, StsPolicy
from .conclusion import SenderConclusion, conclude
from .evidence import CheckEvidence, EndpointEvidence, MxHostEvidence
from .finding import CheckFinding, FindingList
from .mx_findings import add_dane_findings, add_mx_findings, uses_dane
from .policy_findings import add_policy_findings, add_tlsrpt_findings

__all__ = ["EXIT_ERRORS", "EXIT_OK", "EXIT_UNCHECKED", "EXIT_WARNINGS", "SCHEMA_VERSION", "CheckResult", "judge"]

SCHEMA_VERSION = 1
"""Version of the JSON form; incremented only if a name changes its meaning or is removed."""

_MAX_PATTERNS = 200
_UNDECIDED = (
    "dns-unavailable", "domain-not-found", "mx-lookup-failed", "mx-null", "mx-and-address-missing",
    "policy-not-checked", "dane-not-checked",
)  # fmt: skip
"""Findings with which a domain may have transport security, or needs none."""

EXIT_OK, EXIT_WARNINGS, EXIT_ERRORS, EXIT_UNCHECKED = 0, 1, 2, 75


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The evidence, findings and conclusions of one check."""

    evidence: CheckEvidence
    findings: tuple[CheckFinding, ...]
    conclusions: tuple[SenderConclusion, ...]

    @property
    def domain(self) -> str:
        """The domain, in A-labels."""
        return self.evidence.domain

    @property
    def problems(self) -> tuple[CheckFinding, ...]:
        """The errors and warnings, worst first."""
        return tuple(finding for finding in self.findings if finding.severity in (Severity.ERROR, Severity.WARNING))

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity is severity for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """2 with errors, 75 if something could not be checked from here, 1 with warnings, otherwise 0."""
        if self.count(Severity.ERROR):
            return EXIT_ERRORS
        if any(finding.ours for finding in self.findings):
            return EXIT_UNCHECKED
        return EXIT_WARNINGS if self.count(Severity.WARNING) else EXIT_OK

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values; docs/checking.md documents the names, which are stable."""
        evidence = self.evidence
        policy = evidence.policy_host.policy
        record = evidence.sts.record
        return {
            "schema": SCHEMA_VERSION,
            "domain": evidence.domain,
            "at": evidence.at,
            "exit_code": self.exit_code,
            "conclusions": [conclusion.as_json() for conclusion in self.conclusions],
            "findings": [finding.as_json() for finding in self.findings],
            "sts": {
                "id": record.id if record is not None else None,
                "ttl": evidence.sts.answer.ttl if evidence.sts.answer is not None else None,
                "dnssec": evidence.sts.answer.authenticated if evidence.sts.answer is not None else None,
            },
            "policy": _policy_json(policy),
            "policy_host": [_endpoint_json(endpoint) for endpoint in evidence.policy_host.endpoints],
            "mx": [_host_json(host, evidence) for host in evidence.hosts],
            "tlsrpt": {"found": evidence.tlsrpt.found, "rua": [rua.uri for rua in evidence.tlsrpt.rua]},
            "resolver_validates": evidence.validates,
            "port25": evidence.port25,
        }


def judge(evidence: CheckEvidence, *, mine: bool = False) -> CheckResult:
    """Return findings and conclusion of the evidence. ``mine`` adds advice for someone who runs the domain."""
    found = FindingList(evidence.domain)
    add_mx_findings(found, evidence, mine=mine)
    add_policy_findings(found, evidence, mine=mine)
    add_dane_findings(found, evidence, mine=mine)
    add_tlsrpt_findings(found, evidence, mine=mine)
    policy = evidence.policy
    undecided = found.has(_UNDECIDED)
    protected = (policy is not None and policy.mode is not Mode.NONE) or uses_dane(evidence)
    broken = evidence.sts.record is not None and policy is None
    if not protected and not undecided and not broken and evidence.sts.failure is None:
        found.add("no-transport-security")
    return CheckResult(evidence, found.sorted(), conclude(evidence))


def _policy_json(policy: StsPolicy | None) -> dict[str, Any] | None:
    if policy is None:
        return None
    patterns = [pattern.text for pattern in policy.mx[:_MAX_PATTERNS]]
    return {"mode": policy.mode.value, "max_age": policy.max_age, "mx": patterns}


def _endpoint_json(endpoint: EndpointEvidence) -> dict[str, Any]:
    tls = endpoint.tls
    return {
        "address": endpoint.address,
        "problem": endpoint.problem or (tls.problem_for(endpoint.host) if tls is not None else None),
        "tls": tls.session.version if tls is not None else None,
        "not_after": tls.leaf.not_after if tls is not None else None,
        "sha256": tls.leaf.sha256 if tls is not None else None,
    }


def _host_json(host: MxHostEvidence, evidence: CheckEvidence) -> dict[str, Any]:
    policy = evidence.policy_host.policy
    return {
        "host": host.host,
        "preference": host.preference,
        "permitted": None if policy is None or not policy.mx else policy.permits(host.host),
        "dane": host.dane.status.value if host.dane is not None else None,
        "tlsa": [
            f"{record.usage} {record.selector} {record.matching_type} {record.data.hex()[:128]}"
            for record in (host.dane.records if host.dane is not None else ())
        ],
        "addresses": [
            {
                "address": session.address,
                "at": session.at,
                "seconds": round(session.seconds, 3),
                "connected": session.connected,
                "problem": session.problem,
                "detail": session.detail,
                "banner": session.banner,
                "starttls": session.starttls,
                "tls": tls.session.version if tls is not None else None,
                "cipher": tls.session.cipher if tls is not None else None,
                "certificate_problem": tls.problem_for(session.host) if tls is not None else None,
                "names": list(tls.leaf.names[:20]) if tls is not None else [],
                "not_after": tls.leaf.not_after if tls is not None else None,
                "issuer": tls.leaf.issuer if tls is not None else None,
                "sha256": tls.leaf.sha256 if tls is not None else None,
                "spki_sha256": tls.leaf.spki_sha256 if tls is not None else None,
                "dane_problem": host.dane_refused.get(session.address),
                "requiretls": session.requiretls,
            }
            for session in host.sessions
            for tls in (session.tls,)
        ],
    }
