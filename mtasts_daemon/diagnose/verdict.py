"""One sentence about mail to a domain: delivered with authentication, without it, failing, or deferred.

Computed in one place, for the map name that this host's Postfix uses. It takes overrides, failing MX lookups, partial
DANE, deferrals and the TLS results of the last days into account.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum

from ..errors import DnsUnreachable
from ..policy.cache_entry import CacheEntry
from ..policy.dane import DaneVerdict, HostStatus, MxStatus, current_hosts, unmatched
from ..policy.decision import Answer, Decision, Override
from .policy_map import PolicyMap

__all__ = ["MailState", "MailVerdict", "TlsSessions", "mail_verdict"]

_OWN_LEVEL = "Postfix uses its default level"


class MailState(Enum):
    """The kinds of verdict, worst first; the values are in JSON and on the page."""

    DEFERRED = "deferred"
    FAILING = "failing"
    UNAVAILABLE = "unavailable"
    """A policy is published and could not be obtained."""
    UNKNOWN = "unknown"
    """Nothing is cached that is still valid."""
    DEFAULT = "default"
    """Postfix's own level applies."""
    AUTHENTICATED = "authenticated"


@dataclass(frozen=True, slots=True)
class TlsSessions:
    """The sessions with a domain in the last ``days``; ``reason`` and ``mx_host`` are of the most frequent failure."""

    days: int
    total: int
    failed: int
    reason: str = ""
    mx_host: str = ""


@dataclass(frozen=True, slots=True)
class MailVerdict:
    """The verdict for one map name."""

    state: MailState
    sentence: str
    map_name: str
    table: str
    """As in main.cf; empty if it names no table of this daemon."""
    asked: str
    """A sentence on the table and the map name."""

    def as_json(self) -> dict[str, str]:
        """Return JSON values; the names are stable."""
        return asdict(self) | {"state": self.state.value}


def mail_verdict(
    domain: str,
    entry: CacheEntry,
    decision: Decision,
    *,
    now: float,
    asked: PolicyMap,
    override: Override | None = None,
    dane: DaneVerdict | None = None,
    deferred_reason: str = "",
    sessions: TlsSessions | None = None,
) -> MailVerdict:
    """Return the verdict on a decision. ``dane`` is None if DANE was not asked for."""
    state, sentence = _by_decision(domain, entry, decision, now, dane)
    if deferred_reason and state is not MailState.DEFERRED:
        state, sentence = MailState.DEFERRED, f"Mail to {domain} is deferred: {deferred_reason}"
    elif state is not MailState.DEFERRED and sessions is not None and sessions.failed:
        state = MailState.FAILING
    if override is not None:
        sentence = f"{sentence} (override: {override.reason})"
    if sessions is not None and sessions.failed:
        sentence = f"{sentence}. {_failed_sessions(sessions)}"
    return MailVerdict(state, sentence, asked.zone, asked.table, asked.sentence)


def _failed_sessions(sessions: TlsSessions) -> str:
    where = f" at {sessions.mx_host}" if sessions.mx_host else ""
    cause = f": {sessions.reason}{where}" if sessions.reason else ""
    return f"{sessions.failed} of {sessions.total} TLS sessions in the last {sessions.days} days failed{cause}"


_DEFAULT_REASONS: Mapping[str, str] = {
    "no-policy": "{domain} has no TLS policy: " + _OWN_LEVEL,
    "mode-none": "{domain} has withdrawn its policy (mode none): " + _OWN_LEVEL,
    "mode-testing": "The policy of {domain} is in mode testing: " + _OWN_LEVEL,
    "override-skip": "An override skips {domain}: " + _OWN_LEVEL,
}


def _by_decision(
    domain: str, entry: CacheEntry, decision: Decision, now: float, dane: DaneVerdict | None
) -> tuple[MailState, str]:
    deferred = f"Mail to {domain} is deferred: "
    if decision.answer is Answer.TEMP:
        return MailState.DEFERRED, f"{deferred}{decision.text}"
    if dane is not None and dane.reason == "null-mx":
        return MailState.DEFAULT, f"{domain} accepts no mail (null MX)"
    if decision.answer is Answer.FIXED:
        return MailState.DEFAULT, f"An override fixes the reply for {domain}: {decision.text!r}"
    if dane is not None and dane.reason == DnsUnreachable.slug:
        return MailState.DEFERRED, f"{deferred}no resolver of this host answers ({dane.reason})"
    if dane is not None and dane.mx is MxStatus.FAILED:
        return MailState.DEFERRED, f"{deferred}its MX lookup fails ({dane.reason})"
    if decision.answer is Answer.SECURE:
        held = entry.live(now)
        if held is not None and dane is not None and unmatched(held.policy, current_hosts(dane)):
            return MailState.DEFERRED, f"{deferred}its policy permits none of its MX hosts"
        return MailState.AUTHENTICATED, f"Mail to {domain} requires authenticated TLS: its policy is enforced"
    if decision.answer in (Answer.DANE, Answer.DANE_ONLY):
        return _by_dane(domain, decision, dane)
    if decision.reason == "no-policy" and entry.txt is None:
        state = f"{domain} is not in the cache" if entry.held is None else f"The cached policy of {domain} has expired"
        return MailState.UNKNOWN, f"{state}: the next lookup discovers its policy"
    sentence = _DEFAULT_REASONS.get(decision.reason) or (
        f"DANE does not apply to {{domain}} ({decision.reason}): {_OWN_LEVEL}"
        if decision.reason.startswith("dane-")
        else f"The policy of {{domain}} is not available ({decision.reason}): {_OWN_LEVEL}"
    )
    known = decision.reason in _DEFAULT_REASONS or decision.reason.startswith("dane-")
    return MailState.DEFAULT if known else MailState.UNAVAILABLE, sentence.format(domain=domain)


def _by_dane(domain: str, decision: Decision, dane: DaneVerdict | None) -> tuple[MailState, str]:
    hosts = [] if dane is None else [host for host in dane.hosts if host.status is not HostStatus.ABSENT]
    usable = sum(host.status is HostStatus.USABLE for host in hosts)
    if decision.reason == "dane-all-hosts-failed":
        return MailState.DEFERRED, f"Mail to {domain} is deferred: the lookups of all its MX hosts fail"
    if decision.answer is Answer.DANE:
        offered = f"{usable} of {len(hosts)} MX hosts"
        return MailState.DEFAULT, f"Mail to {domain} uses DANE for {offered}, and unverified TLS for the others"
    if usable < len(hosts):
        return (
            MailState.AUTHENTICATED,
            f"Mail to {domain} requires DANE, which {usable} of {len(hosts)} MX hosts offer: only these are used",
        )
    return MailState.AUTHENTICATED, f"Mail to {domain} requires DANE, which all {usable} MX hosts offer"
