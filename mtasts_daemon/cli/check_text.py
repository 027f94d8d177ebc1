"""The result of a check as a person reads it: conclusion, what to fix, one row per MX host and address, details."""

import time
from collections.abc import Iterator

from ..diagnose.check.conclusion import MailOutcome, SenderConclusion
from ..diagnose.check.evidence import MxHostEvidence
from ..diagnose.check.finding import CheckFinding
from ..diagnose.check.result import CheckResult
from ..notify.alert import Severity
from ..smtp.probe import SmtpSession
from .output import colored, escape, table

__all__ = ["check_text", "headline"]

_GOOD = {MailOutcome.AUTHENTICATED: True, MailOutcome.DEFERRED: False}
_HEADLINES = {
    MailOutcome.AUTHENTICATED: "delivered with authentication",
    MailOutcome.UNAUTHENTICATED: "delivered without authentication",
    MailOutcome.DEFERRED: "deferred",
    MailOutcome.REJECTED: "not deliverable",
}
_TITLES = (
    "MX host", "address", "TCP", "STARTTLS", "TLS", "chain", "name", "expires", "pattern", "TLSA", "REQUIRETLS",
)  # fmt: skip
_DAY = 86400
_UNCHECKED = ("dane-not-checked", "mx-not-probed")


def check_text(result: CheckResult, *, verbose: bool = False) -> str:
    """Return the text of a result; every remote character in it is printable."""
    lines = [headline(result), ""]
    width = max(len(conclusion.sender.title) for conclusion in result.conclusions)
    lines += [_conclusion(conclusion, width) for conclusion in result.conclusions]
    problems = result.problems
    if problems:
        lines += ["", "To fix:"]
        lines += [line for finding in problems for line in _finding(finding)]
    ours = [finding for finding in result.findings if finding.ours or finding.slug in _UNCHECKED]
    if ours:
        lines += ["", "Not checked:"]
        lines += [line for finding in ours for line in _finding(finding)]
    if result.evidence.hosts:
        lines += ["", table(_TITLES, [row for host in result.evidence.hosts for row in _rows(host, result)])]
    if verbose:
        lines += ["", *_details(result)]
    return "\n".join(lines)


def headline(result: CheckResult) -> str:
    """Return the conclusion in one line."""
    found = {conclusion.delivery for conclusion in result.conclusions}
    if result.evidence.mx.null:
        text = "the domain accepts no mail (null MX)"
    elif len(found) > 1:
        text = "it depends on the sender"
    elif found == {MailOutcome.UNKNOWN}:
        text = "the outcome is unknown"
    else:
        (outcome,) = found
        text = f"mail is {colored(_GOOD.get(outcome), _HEADLINES[outcome])}"
    errors, warnings = result.count(Severity.ERROR), result.count(Severity.WARNING)
    counted = [_counted(errors, "error"), _counted(warnings, "warning")]
    problems = ", ".join(part for part in counted if part) or "no problems"
    return f"{_domain(result.domain)}: {text}; {problems}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}" if count else ""


def _domain(domain: str) -> str:
    """Return the domain, with its Unicode form if it has one."""
    if "xn--" not in domain:
        return domain
    import idna

    try:
        return f"{domain} ({escape(idna.decode(domain))})"
    except idna.IDNAError:
        return domain


def _conclusion(conclusion: SenderConclusion, width: int) -> str:
    delivery = colored(_GOOD.get(conclusion.delivery), conclusion.delivery.value.ljust(15))
    at = f"{conclusion.host}: " if conclusion.host else ""
    return f"  {conclusion.sender.title.ljust(width)}  {delivery}  {escape(at + conclusion.reason)}"


def _finding(finding: CheckFinding) -> Iterator[str]:
    good = False if finding.severity is Severity.ERROR else None
    rule = f", {finding.rfc}" if finding.rfc else ""
    yield f"  {colored(good, finding.severity.value.ljust(7))}  {escape(finding.text)} [{finding.slug}{rule}]"
    if finding.remedy:
        yield f"           {finding.remedy}"


def _rows(host: MxHostEvidence, result: CheckResult) -> Iterator[list[str]]:
    policy = result.evidence.policy
    pattern = "-" if policy is None or not policy.mx else "yes" if policy.permits(host.host) else "NO"
    if not host.sessions:
        text = "not probed" if host.addresses else "lookup failed" if host.address_failures else "no address"
        yield [escape(host.host), text, *["-"] * 6, pattern, _tlsa(host, None), "-"]
    for session in host.sessions:
        yield [escape(host.host), session.address, *_cells(session, result.evidence.at), pattern,
               _tlsa(host, session), "yes" if session.requiretls else "-" if session.tls is None else "no"]  # fmt: skip


def _cells(session: SmtpSession, now: float) -> list[str]:
    tcp = "yes" if session.connected else "?" if session.problem in ("smtp-no-route", "smtp-busy") else "NO"
    if not session.connected:
        return [tcp, *["-"] * 5]
    starttls = "yes" if session.starttls else "NO" if session.offered else "-"
    tls = session.tls
    if tls is None:
        return [tcp, starttls, "FAILED" if session.starttls else "-", "-", "-", "-"]
    chain = "ok" if tls.refused is None else tls.refused.slug.removeprefix("certificate-")
    name = "ok" if tls.leaf.names_host(session.host) else "MISMATCH"
    days = int((tls.leaf.not_after - now) // _DAY)
    return [tcp, starttls, tls.session.version.removeprefix("TLSv"), chain, name, f"{days} d"]


def _tlsa(host: MxHostEvidence, session: SmtpSession | None) -> str:
    status = host.dane.status.value if host.dane is not None else "-"
    if status != "usable":
        return {"none": "none", "unusable": "UNUSABLE", "error": "ERROR"}.get(status, "-")
    if session is None or session.tls is None:
        return "usable"
    return "ok" if host.dane_refused.get(session.address) is None else "MISMATCH"


def _details(result: CheckResult) -> Iterator[str]:
    """Yield everything else that was seen: other findings, the policy, sessions, TLSA records."""
    yield "Details:"
    for finding in result.findings:
        if finding not in result.problems and not finding.ours and finding.slug not in _UNCHECKED:
            yield from _finding(finding)
    policy = result.evidence.policy_host.policy
    if policy is not None:
        yield "  policy:"
        yield from (f"    {line}" for line in policy.lines[:100])
    for endpoint in result.evidence.policy_host.endpoints:
        tls = endpoint.tls
        if tls is not None:
            until = _date(tls.leaf.not_after)
            yield f"  {endpoint.host} [{endpoint.address}]: {tls.session.version}, {_issuer(tls.leaf.issuer)}, {until}"
    for host in result.evidence.hosts:
        yield from _host_details(host)
    for conclusion in result.conclusions:
        if conclusion.hosts:
            yield f"  {conclusion.sender.title}:"
        for outcome in conclusion.hosts:
            yield f"    {escape(outcome.host)}: {outcome.delivery.value}, {escape(outcome.reason)}"


def _host_details(host: MxHostEvidence) -> Iterator[str]:
    for session in host.sessions:
        seen = f"  {escape(host.host)} [{session.address}] at {_date(session.at)}, {session.seconds:.1f} s"
        yield f"{seen}: {escape(session.banner) or 'no greeting'}"
        if session.detail:
            yield f"    {session.problem}: {escape(session.detail)}"
        if session.tls is not None:
            leaf = session.tls.leaf
            tls = session.tls.session
            yield f"    {tls.version} {tls.cipher}, {leaf.key}, until {_date(leaf.not_after)}"
            yield f"    names: {escape(', '.join(leaf.names[:20])) or 'none'}"
            yield f"    issuer: {_issuer(leaf.issuer)}"
            yield f"    SHA-256 {leaf.sha256}, key {leaf.spki_sha256}"
    for record in host.dane.records if host.dane is not None else ():
        data = record.data.hex()[:128]
        yield f"    TLSA {record.usage} {record.selector} {record.matching_type} {data}"


def _issuer(text: str) -> str:
    return escape(text) or "unknown issuer"


def _date(moment: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
    except (ValueError, OverflowError, OSError):
        return "an impossible date"
