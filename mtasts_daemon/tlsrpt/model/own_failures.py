"""Convert findings of the daemon that Postfix cannot see to failure details; they never count as sessions.

A policy that cannot be fetched, an MX host that Postfix skips, and a lookup that DNSSEC rejects leave no TLS session,
so libtlsrpt does not report them. Each finding is one attempt (RFC 8460 section 4.4: the count of attempted sessions
that met the failure). Failures that libtlsrpt reports are excluded, so that
nothing is counted twice. Failures of this
host itself have no result type and are not reported.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ...errors import (
    DnsServerFailure,
    MtaStsError,
    PolicyConnectFailed,
    PolicyFetchBusy,
    PolicyHostLookupFailed,
    PolicyTimeout,
)
from ...policy.cache_entry import CacheEntry
from ...policy.dane import DaneVerdict, HostStatus, HostVerdict, MxStatus
from ...policy.dns_answer import TlsaRecord
from ...policy.findings import Finding, MxHostsFinding, PolicyProblem
from ...policy.mtasts import StsPolicy
from .event import Failure, Policy, PolicyType

__all__ = ["MX_MISMATCH", "OwnFailure", "own_failures", "sts_policy"]

MX_MISMATCH = "mtasts-policy-mx-mismatch"
"""Reason code of an MX host that the policy does not list, for which RFC 8460 section 4.3 has no result type."""

_MAX_HOSTS = 10

# A failed lookup or connection may be caused by the domain, or by this host's resolver or Internet connection.
_UNCERTAIN_SLUGS = frozenset(
    {DnsServerFailure.slug, PolicyHostLookupFailed.slug, PolicyConnectFailed.slug, PolicyTimeout.slug}
)


class OwnFailure(NamedTuple):
    """Policy domain, its policy, and the failure of one attempt."""

    domain: str
    policy: Policy
    failure: Failure

    @property
    def needs_network_check(self) -> bool:
        """Return True if the resolver or the Internet connection of this host may be the cause."""
        return self.failure.reason_code in _UNCERTAIN_SLUGS


def _leaves(kind: type[MtaStsError]) -> Iterator[type[MtaStsError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _leaves(below)


_RESULTS = {
    leaf.slug: leaf.tlsrpt_result
    for leaf in _leaves(MtaStsError)
    # A request rejected by a limit of this host is not a failure of the domain.
    if leaf.slug and leaf.tlsrpt_result and leaf is not PolicyFetchBusy
}


def own_failures(finding: Finding) -> Iterator[OwnFailure]:
    """Yield the failures of a finding; most findings have none."""
    if isinstance(finding, PolicyProblem):
        return _policy_problem(finding)
    if isinstance(finding, MxHostsFinding):
        return _unlisted_hosts(finding)
    return _dane_problems(finding.verdict)


def sts_policy(domain: str, policy: StsPolicy | None) -> Policy:
    """Return an MTA-STS policy in the form in which libtlsrpt reports it for sessions of the domain."""
    if policy is None:
        return Policy(PolicyType.STS, domain)
    return Policy(PolicyType.STS, domain, policy.lines, tuple(pattern.text for pattern in policy.mx))


def _policy_problem(finding: PolicyProblem) -> Iterator[OwnFailure]:
    result = _RESULTS.get(finding.problem)
    if result is not None:
        policy = _policy_of(finding.entry)
        yield OwnFailure(finding.entry.domain, policy, Failure(result, reason_code=finding.problem))


def _policy_of(entry: CacheEntry) -> Policy:
    """Return the cached policy, which is applied while no new one can be fetched (RFC 8461 section 3.3)."""
    return sts_policy(entry.domain, entry.held.policy if entry.held is not None else None)


def _unlisted_hosts(finding: MxHostsFinding) -> Iterator[OwnFailure]:
    # RFC 8461 section 4.1. In testing mode mail is delivered to them, and no session shows the mismatch.
    unlisted = [host for host in finding.hosts[:_MAX_HOSTS] if not finding.policy.permits_any((host,))]
    if not unlisted:
        return
    policy = sts_policy(finding.domain, finding.policy)
    for host in unlisted:
        failure = Failure("validation-failure", mx_host=host, reason_code=MX_MISMATCH)
        yield OwnFailure(finding.domain, policy, failure)


def _dane_problems(verdict: DaneVerdict) -> Iterator[OwnFailure]:
    domain = verdict.next_hop.policy_domain
    if verdict.mx is MxStatus.FAILED and verdict.reason == DnsServerFailure.slug:
        # A validating resolver answers SERVFAIL for bogus records (RFC 4035 section 5.5).
        failure = Failure("dnssec-invalid", reason_code=verdict.reason)
        yield OwnFailure(domain, Policy(PolicyType.TLSA, domain), failure)
    if verdict.mx is not MxStatus.SECURE:
        return
    for host in verdict.hosts:
        problem = _host_problem(host)
        if problem is not None:
            strings = tuple(map(_tlsa_string, host.records))
            yield OwnFailure(domain, Policy(PolicyType.TLSA, host.tlsa_base or host.host, strings), problem)


def _host_problem(host: HostVerdict) -> Failure | None:
    if host.status is HostStatus.ERROR and host.reason == DnsServerFailure.slug:
        return Failure("dnssec-invalid", mx_host=host.host, reason_code=host.reason)
    # Whole certificates and keys go to OpenSSL, and if that finds them unusable Postfix reports it to libtlsrpt itself.
    if host.status is HostStatus.UNUSABLE and all(record.matching_type for record in host.records):
        return Failure("tlsa-invalid", mx_host=host.host, reason_code=host.reason)
    return None


def _tlsa_string(record: TlsaRecord) -> str:
    return f"{record.usage} {record.selector} {record.matching_type} {record.data.hex().upper()}"
