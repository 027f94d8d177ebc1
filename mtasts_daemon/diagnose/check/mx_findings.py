"""Findings about MX records, MX hosts and DANE. Pure: evidence in, findings out."""

from ...policy.dane import HostStatus, MxStatus
from ...policy.mtasts import Mode
from ...smtp.probe import SmtpSession
from .catalogue import CATALOGUE, Demand
from .evidence import CheckEvidence, MxHostEvidence
from .finding import FindingList

__all__ = ["add_dane_findings", "add_mx_findings", "policy_demand", "uses_dane"]

_DAY = 86400
_MAX_LISTED = 50
"""Hosts or patterns that are named one by one; a policy may have thousands."""
_UNREACHED = frozenset({"smtp-connect-refused", "smtp-connect-timeout", "smtp-connect-failed"})
_UNTRIED = frozenset({"smtp-no-route", "smtp-busy"})


def policy_demand(evidence: CheckEvidence) -> Demand:
    """Return how strictly the policy makes senders authenticate."""
    policy = evidence.policy
    if policy is None or policy.mode is Mode.NONE:
        return Demand.NONE
    return Demand.ENFORCED if policy.mode is Mode.ENFORCE else Demand.TESTING


def uses_dane(evidence: CheckEvidence) -> bool:
    """Return True if TLSA records make senders authenticate an MX host, whether or not it could be probed from here.

    A failed lookup counts: senders defer the mail.
    """
    statuses = {host.dane.status for host in evidence.hosts if host.dane is not None}
    return bool(statuses & {HostStatus.USABLE, HostStatus.ERROR})


def add_mx_findings(found: FindingList, evidence: CheckEvidence, *, mine: bool) -> None:
    """Add findings about the MX records and the sessions with their hosts."""
    mx = evidence.mx
    if mx.failure is not None:
        found.add("dns-unavailable" if mx.failure.ours else "mx-lookup-failed", detail=mx.failure.sentence)
        return
    if mx.answer is not None and not mx.answer.records and not mx.answer.exists:
        found.add("domain-not-found")
        return
    if mx.null:
        found.add("mx-null")
        return
    if mx.names_null:
        found.add("mx-null-not-alone")
    if mx.implicit and any(host.addresses or host.address_failures for host in evidence.hosts):
        found.add("mx-missing")
    if evidence.hosts_left_out:
        found.add("mx-more-hosts", detail=f"{evidence.hosts_left_out} more")
    _add_patterns(found, evidence)
    if evidence.port25 is False:
        found.add("port25-blocked")
    for host in evidence.hosts:
        _add_host(found, evidence, host, mine=mine)
        if host.addresses and not host.probed:
            found.add("mx-not-probed", host.host)
        if host.addresses_left_out:
            found.add("mx-more-addresses", host.host, f"{host.addresses_left_out} more")
    _add_requiretls(found, evidence)
    if mine and evidence.hosts and not any(":" in text for host in evidence.hosts for text in host.addresses):
        found.add("mx-ipv6-advised")


def _add_patterns(found: FindingList, evidence: CheckEvidence) -> None:
    policy, hosts = evidence.policy, evidence.mx.hosts
    if policy is None or not policy.mx or not hosts or policy.mode is Mode.NONE:
        return
    demand = policy_demand(evidence)
    if not policy.permits_any(hosts):
        found.add("policy-mx-none-match", detail=f"the MX hosts are {', '.join(hosts[:10])}", demand=demand)
    else:
        patterns = {pattern.text for pattern in policy.mx}
        for host in hosts[:_MAX_LISTED]:
            if host not in patterns and f"*.{host.partition('.')[2]}" not in patterns:
                found.add("policy-mx-mismatch", host, demand=demand)
    covered = {*hosts, *(f"*.{host.partition('.')[2]}" for host in hosts)}
    unused = [pattern.text for pattern in policy.mx if pattern.text not in covered]
    for text in unused[:_MAX_LISTED]:
        found.add("policy-pattern-unused", text, f"and {len(unused) - 1} more" if len(unused) > _MAX_LISTED else "")


def _add_host(found: FindingList, evidence: CheckEvidence, host: MxHostEvidence, *, mine: bool) -> None:
    if host.host.rpartition(".")[2].isdigit():
        found.add("mx-not-hostname", host.host)
        return
    if not host.addresses:
        theirs = [failure for failure in host.address_failures if not failure.ours]
        if theirs:
            found.add("mx-address-lookup-failed", host.host, theirs[0].sentence)
        elif host.address_failures:
            found.add("dns-unavailable", detail=host.address_failures[0].sentence)
        else:
            found.add("mx-and-address-missing" if evidence.mx.implicit else "mx-no-address", host.host)
        return
    if host.alias_of is not None:
        found.add("mx-alias", host.host, f"of {host.alias_of}")
    tried = [session for session in host.sessions if session.problem not in _UNTRIED]
    reached = [session for session in tried if session.problem not in _UNREACHED]
    for session in host.sessions:
        if session.problem in _UNTRIED and not reached:
            found.add(session.problem, host.host, session.address)
        elif session.problem in _UNREACHED and evidence.port25 is not False:
            slug = "smtp-address-failed" if reached else session.problem
            found.add(slug, host.host, session.address)
    demand = _host_demand(evidence, host)
    for session in reached:
        _add_session(found, evidence, session, demand, mine=mine)


def _host_demand(evidence: CheckEvidence, host: MxHostEvidence) -> Demand:
    """Return how strictly senders demand TLS of the host."""
    uses_dane = host.dane is not None and host.dane.status in (HostStatus.USABLE, HostStatus.UNUSABLE)
    return Demand.ENFORCED if uses_dane else policy_demand(evidence)


def _add_session(
    found: FindingList, evidence: CheckEvidence, session: SmtpSession, demand: Demand, *, mine: bool
) -> None:
    where = session.address
    if session.problem is not None:
        detail = f"{where}: {session.detail}" if session.detail else where
        found.add(session.problem, session.host, detail, demand)
    if session.tls is None:
        return
    policy, leaf = policy_demand(evidence), session.tls.leaf
    problem = session.tls.problem_for(session.host)
    if problem is not None:
        found.add(problem, session.host, f"{where}: {_certificate_detail(session, problem)}", policy)
    elif session.problem is None:
        found.add("smtp-ok", session.host, f"{where}: {session.tls.session.version}")
    left = leaf.not_after - evidence.at
    if problem is None and left < 14 * _DAY:
        found.add("certificate-expires", session.host, f"{where}: in {max(0, int(left // _DAY))} days", policy)
    elif problem is None and mine and left < 30 * _DAY:
        found.add("certificate-expires-soon", session.host, f"{where}: in {int(left // _DAY)} days")


def _certificate_detail(session: SmtpSession, problem: str) -> str:
    tls = session.tls
    if tls is None:
        return ""
    if problem == "certificate-name-mismatch":
        names = ", ".join(tls.leaf.names[:5]) + (", ..." if len(tls.leaf.names) > 5 else "")
        return f"it is for {names or 'no DNS name'}"
    return tls.refused.detail if tls.refused is not None else ""


def _add_requiretls(found: FindingList, evidence: CheckEvidence) -> None:
    """REQUIRETLS helps only if every host that may be used announces it."""
    under_tls = [session for host in evidence.hosts for session in host.sessions if session.offered_tls]
    announcing = [session for session in under_tls if session.requiretls]
    if announcing and len(announcing) < len(under_tls):
        for session in under_tls:
            if not session.requiretls:
                found.add("requiretls-partial", session.host, f"not at {session.address}")
    elif announcing:
        found.add("requiretls-announced", detail="on all MX hosts")


def add_dane_findings(found: FindingList, evidence: CheckEvidence, *, mine: bool) -> None:
    """Add findings about the TLSA records."""
    dane = evidence.dane
    if dane is None or evidence.mx.failure is not None or not evidence.mx.hosts:
        return
    if evidence.validates is False:
        found.add("dane-not-checked")
        return
    statuses = {host.dane.status for host in evidence.hosts if host.dane is not None}
    if dane.mx is not MxStatus.SECURE or not statuses & {HostStatus.USABLE, HostStatus.UNUSABLE, HostStatus.ERROR}:
        found.add("dane-missing", detail="the MX records are not signed" if dane.mx is MxStatus.INSECURE else "")
        return
    for host in evidence.hosts:
        if host.dane is None:
            continue
        if host.dane.status is HostStatus.USABLE:
            _add_usable(found, evidence, host, mine=mine)
        elif host.dane.status is HostStatus.UNUSABLE:
            found.add("dane-unusable", host.host)
        elif host.dane.status is HostStatus.ERROR:
            failed = host.dane.failed
            detail = f"{failed.rrtype.name} {failed.name}: {host.dane.reason}" if failed else host.dane.reason
            found.add("dane-lookup-failed", host.host, detail)
        elif host.dane.status is HostStatus.NONE and HostStatus.USABLE in statuses:
            found.add("dane-partial", host.host)


def _add_usable(found: FindingList, evidence: CheckEvidence, host: MxHostEvidence, *, mine: bool) -> None:
    before = len(found.found)
    for session in host.sessions:
        if session.problem in _UNTRIED | _UNREACHED:
            continue
        if session.tls is None:
            found.add("dane-no-starttls", host.host, f"{session.address}: {_sentence(session.problem)}")
        elif (refused := host.dane_refused.get(session.address)) is not None:
            found.add("dane-mismatch", host.host, f"{session.address}: {refused}")
    if len(found.found) == before and any(session.tls for session in host.sessions):
        found.add("dane-ok", host.host)
    records = host.dane.records if host.dane is not None else ()
    if mine and len([record for record in records if record.usage == 3]) == len(records) == 1:
        found.add("dane-next-key", host.host)


def _sentence(slug: str | None) -> str:
    kind = CATALOGUE.get(slug or "")
    return kind.sentence if kind is not None else str(slug)
