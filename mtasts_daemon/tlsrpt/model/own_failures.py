"""What Postfix cannot see, from the daemon's own notes: failure details for the reports, never sessions.

A policy that cannot be had, an MX host that Postfix passes over, and a lookup that DNSSEC refuses leave no TLS
session, so libtlsrpt is told nothing of them. Each note is one attempt (RFC 8460 section 4.4: the count of attempted
sessions that met the failure). What libtlsrpt is told of all the same is left to it, so that nothing counts twice.
"""

from collections.abc import Callable, Iterator

from ...errors import DnsServerFailure, MtaStsError, PolicyFetchBusy
from ...policy.cache_entry import CacheEntry
from ...policy.dane import DaneVerdict, HostStatus, HostVerdict, MxStatus
from ...policy.dns_answer import TlsaRecord
from ...policy.findings import Finding, FindingSink, HostsSeen, PolicyProblem
from ...policy.mtasts import StsPolicy
from .event import Failure, Policy, PolicyType

__all__ = ["MX_MISMATCH", "Known", "known_failures", "noted_by", "sts_policy"]

MX_MISMATCH = "mtasts-policy-mx-mismatch"
"""The reason code of an MX host that the policy does not list, for which RFC 8460 section 4.3 has no result type."""

_MAX_HOSTS = 10

Known = tuple[str, Policy, Failure]
"""A policy domain, its policy, and a failure that one attempt met."""

# What our own limits refused is no failure of the domain's.
_OURS = (PolicyFetchBusy.slug,)


def _leaves(kind: type[MtaStsError]) -> Iterator[type[MtaStsError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _leaves(below)


_RESULTS = {
    leaf.slug: leaf.tlsrpt_result
    for leaf in _leaves(MtaStsError)
    if leaf.slug and leaf.tlsrpt_result and leaf.slug not in _OURS
}


def noted_by(collect: Callable[[str, Policy, Failure], object]) -> FindingSink:
    """What takes notes and has each of their failures collected."""

    def on_finding(note: Finding) -> None:
        for domain, policy, failure in known_failures(note):
            collect(domain, policy, failure)

    return on_finding


def known_failures(note: Finding) -> Iterator[Known]:
    """The failures that a note tells of; most tell of none."""
    if isinstance(note, PolicyProblem):
        return _policy_problem(note)
    if isinstance(note, HostsSeen):
        return _unlisted_hosts(note)
    return _dane_problems(note.verdict)


def sts_policy(domain: str, policy: StsPolicy | None) -> Policy:
    """An MTA-STS policy as libtlsrpt would tell it, for a domain whose sessions it tells of as well."""
    if policy is None:
        return Policy(PolicyType.STS, domain)
    return Policy(PolicyType.STS, domain, policy.lines, tuple(pattern.text for pattern in policy.mx))


def _policy_problem(note: PolicyProblem) -> Iterator[Known]:
    result = _RESULTS.get(note.problem)
    if result is not None:
        yield note.entry.domain, _policy_of(note.entry), Failure(result, reason_code=note.problem)


def _policy_of(entry: CacheEntry) -> Policy:
    """The cached policy, which is applied while no new one can be had (RFC 8461 section 3.3)."""
    return sts_policy(entry.domain, entry.held.policy if entry.held is not None else None)


def _unlisted_hosts(note: HostsSeen) -> Iterator[Known]:
    # RFC 8461 section 4.1. In testing mode they are delivered to all the same, and nothing else tells of them.
    unlisted = [host for host in note.hosts[:_MAX_HOSTS] if not note.policy.permits_any((host,))]
    if not unlisted:
        return
    policy = sts_policy(note.domain, note.policy)
    for host in unlisted:
        yield note.domain, policy, Failure("validation-failure", mx_host=host, reason_code=MX_MISMATCH)


def _dane_problems(verdict: DaneVerdict) -> Iterator[Known]:
    domain = verdict.next_hop.policy_domain
    if verdict.mx is MxStatus.FAILED and verdict.reason == DnsServerFailure.slug:
        # A validating resolver answers so for what is bogus (RFC 4035 section 5.5).
        yield domain, Policy(PolicyType.TLSA, domain), Failure("dnssec-invalid", reason_code=verdict.reason)
    if verdict.mx is not MxStatus.SECURE:
        return
    for host in verdict.hosts:
        failure = _host_problem(host)
        if failure is not None:
            strings = tuple(map(_tlsa_string, host.records))
            yield domain, Policy(PolicyType.TLSA, host.tlsa_base or host.host, strings), failure


def _host_problem(host: HostVerdict) -> Failure | None:
    if host.status is HostStatus.ERROR and host.reason == DnsServerFailure.slug:
        return Failure("dnssec-invalid", mx_host=host.host, reason_code=host.reason)
    # Whole certificates and keys go to OpenSSL, and when that finds them unusable Postfix tells libtlsrpt itself.
    if host.status is HostStatus.UNUSABLE and all(record.matching_type for record in host.records):
        return Failure("tlsa-invalid", mx_host=host.host, reason_code=host.reason)
    return None


def _tlsa_string(record: TlsaRecord) -> str:
    return f"{record.usage} {record.selector} {record.matching_type} {record.data.hex().upper()}"
