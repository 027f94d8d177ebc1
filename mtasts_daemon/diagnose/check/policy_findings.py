"""Findings about the record, the policy host, the policy, and TLS reporting. Pure: evidence in, findings out."""

import re
from datetime import UTC, datetime

from ...policy.mtasts import Mode, StsPolicy
from .catalogue import CATALOGUE
from .evidence import CheckEvidence, EndpointEvidence
from .finding import FindingList

__all__ = ["add_policy_findings", "add_tlsrpt_findings"]

_DAY = 86400
_WEEK = 7 * _DAY
_EXPIRES_WITHIN, _EXPIRES_SOON = 14 * _DAY, 30 * _DAY
_TESTING_LONG = 90 * _DAY
_ID_DATE = re.compile(r"(20[0-9]{2})(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])")


def add_policy_findings(found: FindingList, evidence: CheckEvidence, *, mine: bool) -> None:
    """Add findings about the ``_mta-sts`` record, the policy host and the policy."""
    sts, host = evidence.sts, evidence.policy_host
    if sts.failure is not None:
        if sts.failure.ours:
            found.add("dns-unavailable", detail=sts.failure.sentence)
        elif sts.failure.slug in CATALOGUE:
            found.add(sts.failure.slug, f"_mta-sts.{evidence.domain}", _detail(sts.failure.sentence))
        else:
            found.add("sts-lookup-failed", f"_mta-sts.{evidence.domain}", sts.failure.sentence)
    elif sts.record is None:
        found.add("sts-record-missing")
    else:
        found.add("sts-record-ok", f"_mta-sts.{evidence.domain}", f"id {sts.record.id}")
    if sts.answer is not None and sts.answer.canonical not in ("", sts.answer.name):
        found.add("sts-record-alias", f"_mta-sts.{evidence.domain}", f"of {sts.answer.canonical}")
    if sts.record is None:
        if host.policy is not None:
            found.add("sts-policy-without-record")
        return
    _add_policy_host(found, evidence, mine=mine)
    if host.policy is not None:
        _add_policy(found, evidence, host.policy, mine=mine)


def _add_policy_host(found: FindingList, evidence: CheckEvidence, *, mine: bool) -> None:
    host = evidence.policy_host
    name = f"mta-sts.{evidence.domain}"
    if host.failure is not None:
        if host.failure.ours or host.failure.slug not in CATALOGUE:
            found.add("policy-not-checked", name, host.failure.sentence)
        else:
            found.add(host.failure.slug, name, _detail(host.failure.sentence))
        return
    for endpoint in host.endpoints:
        if endpoint.problem is not None:
            if endpoint.problem != "smtp-no-route":
                found.add("policy-host-address-failed", name, f"{endpoint.address}: {_endpoint_problem(endpoint)}")
        elif endpoint.tls is not None:
            left = endpoint.tls.leaf.not_after - evidence.at
            if endpoint.tls.problem_for(endpoint.host) is not None:
                found.add("policy-host-address-failed", name, f"{endpoint.address}: {_endpoint_problem(endpoint)}")
            elif left < _EXPIRES_WITHIN:
                found.add("policy-host-certificate-expires", name, f"in {max(0, int(left // _DAY))} days")
            elif mine and left < _EXPIRES_SOON:
                found.add("certificate-expires-soon", name, f"in {int(left // _DAY)} days")


def _endpoint_problem(endpoint: EndpointEvidence) -> str:
    slug = endpoint.problem or (endpoint.tls and endpoint.tls.problem_for(endpoint.host)) or "unknown"
    kind = CATALOGUE.get(slug)
    text = kind.sentence if kind is not None else slug
    return text.replace(" on port 25", "").replace("to port 25", f"to port {endpoint.port}")


def _add_policy(found: FindingList, evidence: CheckEvidence, policy: StsPolicy, *, mine: bool) -> None:
    if policy.mode is Mode.ENFORCE:
        found.add("policy-ok", detail=f"max_age {policy.max_age}")
    elif policy.mode is Mode.TESTING:
        found.add("policy-mode-testing")
        since = _id_date(evidence.sts.record.id if evidence.sts.record else "")
        if mine and since is not None and evidence.at - since > _TESTING_LONG:
            found.add("policy-testing-long", detail=f"the id dates from {datetime.fromtimestamp(since, UTC):%Y-%m-%d}")
    else:
        found.add("policy-mode-none")
        return
    if policy.max_age < _DAY:
        found.add("policy-max-age-short", detail=f"{policy.max_age} seconds")
    elif mine and policy.max_age < _WEEK:
        found.add("policy-max-age-advised", detail=f"{policy.max_age} seconds")


def _id_date(record_id: str) -> float | None:
    """Return the time that an id such as 20240131T120000 names; by custom ids are dates."""
    match = _ID_DATE.match(record_id)
    if match is None:
        return None
    try:
        return datetime(int(match[1]), int(match[2]), int(match[3]), tzinfo=UTC).timestamp()
    except ValueError:
        return None


def add_tlsrpt_findings(found: FindingList, evidence: CheckEvidence, *, mine: bool) -> None:
    """Add findings about the ``_smtp._tls`` record and its addresses."""
    tlsrpt, name = evidence.tlsrpt, f"_smtp._tls.{evidence.domain}"
    if tlsrpt.failure is not None:
        if tlsrpt.failure.ours:
            found.add("dns-unavailable", detail=tlsrpt.failure.sentence)
        elif tlsrpt.failure.slug in CATALOGUE:
            found.add(tlsrpt.failure.slug, name, _detail(tlsrpt.failure.sentence))
        else:
            found.add("tlsrpt-lookup-failed", name, tlsrpt.failure.sentence)
        return
    if not tlsrpt.found:
        found.add("tlsrpt-missing")
        if mine and not evidence.mx.null:
            found.add("tlsrpt-advised")
        return
    for problem in tlsrpt.problems:
        found.add("tlsrpt-rua-invalid", name, problem)
    for rua in tlsrpt.rua:
        if rua.failure is not None and not rua.failure.ours:
            found.add("tlsrpt-rua-unreachable", rua.uri, rua.failure.sentence)
    if not found.has(("tlsrpt-rua-invalid", "tlsrpt-rua-unreachable")):
        found.add("tlsrpt-ok", name, ", ".join(rua.uri for rua in tlsrpt.rua))


def _detail(sentence: str) -> str:
    """Return the facts, without the sentence that the catalogue has."""
    return sentence.partition(": ")[2]
