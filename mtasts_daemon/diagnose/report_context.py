"""What checks know about a domain, for the advice on received TLS reports. Pure."""

from collections.abc import Mapping, Sequence

from ..tlsrpt.receive.advice import Change
from .check.result import CheckResult
from .watch.history import TimelineEntry

__all__ = ["certificate_expiries", "policy_mode", "timeline_changes"]

_WORDS: Mapping[str, str] = {
    "policy-id": "the policy id became {value}",
    "policy": "the policy became {value}",
    "mx": "the MX hosts became {value}",
    "certificate": "{subject} got another certificate (SHA-256 {value})",
    "tlsa": "the TLSA records of {subject} became {value}",
}


def timeline_changes(entries: Sequence[TimelineEntry]) -> list[Change]:
    """Return the changes among the facts: a fact that is the first of its kind and subject is none."""
    found: list[Change] = []
    seen: set[tuple[str, str]] = set()
    for entry in sorted(entries, key=lambda one: one.since):
        if (entry.kind, entry.subject) in seen:
            text = _WORDS.get(entry.kind, "{subject}: {value}").format(
                subject=entry.subject or "the policy host", value=entry.value[:100]
            )
            found.append(Change(entry.since, entry.kind, text))
        seen.add((entry.kind, entry.subject))
    return found


def certificate_expiries(result: CheckResult | None) -> dict[str, float]:
    """Return when the certificate that an MX host sends expires; of several the earliest."""
    found: dict[str, float] = {}
    for host in result.evidence.hosts if result is not None else ():
        for session in host.sessions:
            if session.tls is not None and session.tls.leaf.readable:
                moment = session.tls.leaf.not_after
                found[host.host] = min(moment, found.get(host.host, moment))
    return found


def policy_mode(result: CheckResult | None) -> str:
    """Return the mode of the domain's policy, or empty text if there is none."""
    policy = None if result is None else result.evidence.policy_host.policy
    return "" if policy is None else policy.mode.value
