"""The conclusion: what three kinds of sender do with mail to the domain. Pure: evidence in, outcomes out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ...policy.dane import HostStatus, MxStatus
from ...policy.mtasts import Mode, StsPolicy
from ...policy.precedence import DaneLevel, DaneMode, dane_level
from ...smtp.certificates import LeafCertificate
from ...smtp.probe import OUR_PROBLEMS, SmtpSession
from .catalogue import CATALOGUE
from .evidence import CheckEvidence, MxHostEvidence

__all__ = ["HostOutcome", "MailOutcome", "Sender", "SenderConclusion", "conclude"]


class Sender(Enum):
    """The kinds of sender; the values are stable."""

    MTA_STS = "mta-sts"
    """MTA-STS only, as Gmail."""
    DANE_FIRST = "dane-first"
    """DANE where it is published, otherwise MTA-STS: Postfix with this program."""
    BOTH = "both"
    """Both must succeed where both are published, as Microsoft."""

    @property
    def title(self) -> str:
        """The sender as a person reads it."""
        return _TITLES[self]


_TITLES = {
    Sender.MTA_STS: "MTA-STS only (Gmail)",
    Sender.DANE_FIRST: "DANE first (Postfix with mtasts-daemon)",
    Sender.BOTH: "DANE and MTA-STS (Microsoft)",
}


class MailOutcome(Enum):
    """What happens to the mail; the values are stable."""

    AUTHENTICATED = "authenticated"
    UNAUTHENTICATED = "unauthenticated"
    DEFERRED = "deferred"
    REJECTED = "rejected"
    """The domain accepts no mail, does not exist, or has no host with an address: senders return the mail."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HostOutcome:
    """A sender's action at one MX host, and the reason."""

    host: str
    delivery: MailOutcome
    reason: str


@dataclass(frozen=True, slots=True)
class SenderConclusion:
    """A sender's action with mail; ``hosts`` are in order of preference.

    ``host`` is the one it delivers to, otherwise the first that the reason is about, or None.
    """

    sender: Sender
    delivery: MailOutcome
    reason: str
    host: str | None = None
    hosts: tuple[HostOutcome, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the conclusion as JSON values; the names are stable."""
        return {
            "sender": self.sender.value,
            "delivery": self.delivery.value,
            "reason": self.reason,
            "host": self.host,
            "hosts": [
                {"host": host.host, "delivery": host.delivery.value, "reason": host.reason} for host in self.hosts
            ],
        }


# What a sender does at one address, and why.
_Step = tuple[MailOutcome, str]
_Rule = Callable[[MxHostEvidence, SmtpSession], _Step]


def conclude(evidence: CheckEvidence) -> tuple[SenderConclusion, ...]:
    """Return the conclusion for each kind of sender."""
    without = _without_hosts(evidence)
    if without is not None:
        return tuple(SenderConclusion(sender, *without) for sender in Sender)
    conclusions = (_known(_deliver(sender, _RULES[sender](evidence), evidence), evidence) for sender in Sender)
    return tuple(_with_null_mx(one) if evidence.mx.names_null else one for one in conclusions)


def _with_null_mx(conclusion: SenderConclusion) -> SenderConclusion:
    """Return the conclusion if one of several MX records is a null MX, which RFC 7505 forbids and leaves undefined."""
    if conclusion.delivery is MailOutcome.REJECTED:
        return conclusion
    if conclusion.sender is Sender.DANE_FIRST:
        # Postfix drops all MX records if one of them is a null MX.
        return SenderConclusion(conclusion.sender, MailOutcome.REJECTED, "one of the MX records is a null MX")
    reason = "one of the MX records is a null MX: some senders return the mail, others ignore the record"
    return replace(conclusion, delivery=MailOutcome.UNKNOWN, reason=reason, host=None)


def _known(conclusion: SenderConclusion, evidence: CheckEvidence) -> SenderConclusion:
    """Return the conclusion, or an unknown one if it depends on what this host could not see."""
    sender, delivery = conclusion.sender, conclusion.delivery
    if delivery not in (MailOutcome.AUTHENTICATED, MailOutcome.UNAUTHENTICATED):
        return conclusion
    if sender is not Sender.MTA_STS and evidence.validates is False:
        reason = "the resolver of this host does not validate DNSSEC, so whether DANE applies is not known"
    elif _policy_unseen(evidence) and (sender is Sender.BOTH or delivery is MailOutcome.UNAUTHENTICATED):
        reason = "the policy could not be fetched from here"
    else:
        return conclusion
    return replace(conclusion, delivery=MailOutcome.UNKNOWN, reason=reason, host=None)


def _policy_unseen(evidence: CheckEvidence) -> bool:
    """Return True if there may be a policy that other senders can fetch."""
    failures = (evidence.sts.failure, evidence.policy_host.failure)
    return any(failure is not None and failure.ours for failure in failures)


def _without_hosts(evidence: CheckEvidence) -> _Step | None:
    mx = evidence.mx
    if mx.failure is not None:
        if mx.failure.ours:
            return MailOutcome.UNKNOWN, "the resolver of this host does not answer"
        return MailOutcome.DEFERRED, "the MX records cannot be looked up"
    if mx.null:
        return MailOutcome.REJECTED, "the domain accepts no mail (null MX)"
    if not mx.hosts:
        return MailOutcome.REJECTED, "the domain does not exist"
    return None


def _deliver(sender: Sender, rule: _Rule, evidence: CheckEvidence) -> SenderConclusion:
    hosts = tuple(HostOutcome(host.host, *_at_host(host, rule, evidence)) for host in evidence.hosts)
    for outcome in hosts:
        if outcome.delivery in (MailOutcome.AUTHENTICATED, MailOutcome.UNAUTHENTICATED):
            return SenderConclusion(sender, outcome.delivery, outcome.reason, outcome.host, hosts)
    unknown = next((outcome for outcome in hosts if outcome.delivery is MailOutcome.UNKNOWN), None)
    if unknown is not None or evidence.hosts_left_out:
        host, reason = (unknown.host, unknown.reason) if unknown else (None, "not all hosts were probed")
        return SenderConclusion(sender, MailOutcome.UNKNOWN, reason, host, hosts)
    # Postfix returns the mail only if no host has an address (smtp_defer_if_no_mx_address_found).
    last = next((outcome for outcome in hosts if outcome.delivery is not MailOutcome.REJECTED), hosts[0])
    return SenderConclusion(sender, last.delivery, last.reason, last.host, hosts)


def _at_host(host: MxHostEvidence, rule: _Rule, evidence: CheckEvidence) -> _Step:
    """Return the outcome at the host: its addresses are tried in turn until one accepts the mail."""
    if not host.addresses:
        return _without_address(host, evidence)
    if not host.sessions:
        return MailOutcome.UNKNOWN, "it was not probed"
    steps = [_at_address(host, session, rule, evidence) for session in host.sessions]
    for wanted in ((MailOutcome.AUTHENTICATED, MailOutcome.UNAUTHENTICATED), (MailOutcome.UNKNOWN,)):
        for step in steps:
            if step[0] in wanted:
                return step
    return steps[0]


def _without_address(host: MxHostEvidence, evidence: CheckEvidence) -> _Step:
    if host.host.rpartition(".")[2].isdigit():
        if _enforced(evidence) is not None:
            return MailOutcome.DEFERRED, _NOT_PERMITTED
        # Postfix connects to the address.
        return MailOutcome.UNKNOWN, "the MX record holds an address, which some senders use and others reject"
    if any(failure.ours for failure in host.address_failures):
        return MailOutcome.UNKNOWN, "its address is not known"
    if host.address_failures:
        return MailOutcome.DEFERRED, "its address cannot be looked up"
    return MailOutcome.REJECTED, "it has no address"


def _at_address(host: MxHostEvidence, session: SmtpSession, rule: _Rule, evidence: CheckEvidence) -> _Step:
    step = rule(host, session)
    if step[0] is not MailOutcome.DEFERRED or session.tls is not None or step[1] in _CERTAIN:
        return step
    # The session failed because of this host, so it says nothing about other senders.
    ours = session.problem in OUR_PROBLEMS or (not session.connected and evidence.port25 is False)
    if ours:
        return MailOutcome.UNKNOWN, "it could not be probed from here"
    if session.problem == _REJECTS_US:
        return MailOutcome.UNKNOWN, "it rejects this host in its greeting, and may accept others"
    if not session.connected and host.addresses_left_out:
        return MailOutcome.UNKNOWN, "not all of its addresses were probed"
    return step


# -- what each kind of sender demands ------------------------------------------------------------------------

_NOT_PERMITTED = "the policy does not permit this MX host"
_NO_TLSA = "it has no usable TLSA records, and DANE is required"
_TLSA_FAILED = "its TLSA records cannot be looked up"
_CERTAIN = frozenset({_NOT_PERMITTED, _NO_TLSA, _TLSA_FAILED})
_REJECTS_US = "smtp-greeting-rejected"


def _mta_sts(evidence: CheckEvidence) -> _Rule:
    policy = _enforced(evidence)
    if policy is None:
        return lambda _host, session: _opportunistic(session)
    return lambda host, session: _by_policy(policy, host, session)


def _dane_first(evidence: CheckEvidence) -> _Rule:
    policy, verdict = _enforced(evidence), evidence.dane
    level = dane_level(verdict, policy is not None, DaneMode.ON).level
    if level is DaneLevel.SECURE and policy is not None:
        return lambda host, session: _by_postfix_policy(policy, host, session)
    only = level is DaneLevel.DANE_ONLY
    if only or level is DaneLevel.DANE or (verdict is not None and verdict.mx is MxStatus.SECURE):
        # Without a policy the reply is NOTFOUND, and Postfix does the same at its own level, dane.
        return lambda host, session: _by_dane(host, session, only=only)
    return lambda _host, session: _opportunistic(session)


def _both(evidence: CheckEvidence) -> _Rule:
    policy, verdict = _enforced(evidence), evidence.dane
    signed = verdict is not None and verdict.mx is MxStatus.SECURE

    def rule(host: MxHostEvidence, session: SmtpSession) -> _Step:
        by_dane = _by_dane(host, session, only=False) if signed else _opportunistic(session)
        if policy is None or by_dane[0] is MailOutcome.DEFERRED:
            return by_dane
        by_policy = _by_policy(policy, host, session)
        return (
            by_policy
            if by_policy[0] is MailOutcome.DEFERRED or by_dane[0] is not MailOutcome.AUTHENTICATED
            else by_dane
        )

    return rule


_RULES: dict[Sender, Callable[[CheckEvidence], _Rule]] = {
    Sender.MTA_STS: _mta_sts,
    Sender.DANE_FIRST: _dane_first,
    Sender.BOTH: _both,
}


def _enforced(evidence: CheckEvidence) -> StsPolicy | None:
    policy = evidence.policy
    return policy if policy is not None and policy.mode is Mode.ENFORCE else None


def _opportunistic(session: SmtpSession) -> _Step:
    if session.tls is not None and session.problem is None:
        return MailOutcome.UNAUTHENTICATED, "over TLS, without checking the certificate"
    if not session.connected or session.problem not in _CLEAR_WORKS:
        return MailOutcome.DEFERRED, f"it {_sentence(session.problem)}"
    return MailOutcome.UNAUTHENTICATED, f"in the clear: it {_sentence(session.problem)}"


_CLEAR_WORKS = frozenset(
    {"starttls-not-offered", "starttls-rejected", "tls-version-old", "tls-handshake-failed", "smtp-ehlo-tls-failed"}
)
"""Problems after which an opportunistic sender delivers without TLS."""


def _by_policy(policy: StsPolicy, host: MxHostEvidence, session: SmtpSession) -> _Step:
    """RFC 8461 section 5: the host is permitted, and its certificate is valid for its own name (section 4.2)."""
    if not policy.permits(host.host):
        return MailOutcome.DEFERRED, _NOT_PERMITTED
    return _authenticated(session, session.tls.problem_for(host.host) if session.tls else None, "by MTA-STS")


def _by_postfix_policy(policy: StsPolicy, host: MxHostEvidence, session: SmtpSession) -> _Step:
    """As Postfix does on ``secure match=...``: the certificate has a name that the policy's patterns permit."""
    if not policy.permits(host.host):
        return MailOutcome.DEFERRED, _NOT_PERMITTED
    problem = None
    if session.tls is not None:
        refused = session.tls.refused
        fits = _fits_policy(session.tls.leaf, policy)
        problem = refused.slug if refused is not None else None if fits else "certificate-name-mismatch"
    return _authenticated(session, problem, "by MTA-STS")


def _fits_policy(leaf: LeafCertificate, policy: StsPolicy) -> bool:
    """Return True if a name is permitted. In time linear in names and patterns: both are a stranger's to choose."""
    names = set(leaf.names)
    wildcards = {pattern.text[2:] for pattern in policy.mx if pattern.wildcard}
    for name in names:
        labels = name.removeprefix("*.").split(".")
        first = 0 if name.startswith("*.") else 1
        if any(".".join(labels[at:]) in wildcards for at in range(first, len(labels))):
            return True
    exact = (pattern.text for pattern in policy.mx if not pattern.wildcard)
    return any(text in names or f"*.{text.partition('.')[2]}" in names for text in exact)


def _by_dane(host: MxHostEvidence, session: SmtpSession, *, only: bool) -> _Step:
    """RFC 7672 section 2.2, as Postfix does at the level ``dane``, or ``dane-only``."""
    status = host.dane.status if host.dane is not None else HostStatus.NONE
    if status is HostStatus.ERROR:
        return MailOutcome.DEFERRED, _TLSA_FAILED
    if status is HostStatus.USABLE:
        if session.tls is not None and host.dane_refused.get(session.address) is not None:
            return MailOutcome.DEFERRED, f"DANE fails: {host.dane_refused[session.address]}"
        return _authenticated(session, None, "by DANE")
    if only:
        return MailOutcome.DEFERRED, _NO_TLSA
    if status is HostStatus.UNUSABLE and session.tls is None:
        return MailOutcome.DEFERRED, f"TLS is required (unusable TLSA records): it {_sentence(session.problem)}"
    return _opportunistic(session)


def _authenticated(session: SmtpSession, problem: str | None, by: str) -> _Step:
    if session.tls is None or session.problem is not None:
        return MailOutcome.DEFERRED, f"it {_sentence(session.problem)}"
    if problem is not None:
        return MailOutcome.DEFERRED, _sentence(problem)
    return MailOutcome.AUTHENTICATED, f"authenticated {by}"


def _sentence(slug: str | None) -> str:
    kind = CATALOGUE.get(slug or "")
    return kind.sentence if kind is not None else "was not probed"
