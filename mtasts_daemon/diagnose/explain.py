"""Explain an answer: the steps with their results and RFC sections, the decision, and the text for Postfix.

From the store, or from a live discovery that does not change the running daemon.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .. import errors
from ..dns.dane_discovery import discover_dane
from ..lookup.settings import Settings
from ..policy.cache_entry import (
    CacheEntry,
    PolicyFailed,
    PolicyFetched,
    TxtAbsent,
    TxtFailed,
    TxtFound,
    TxtInvalid,
    next_due,
    transition,
)
from ..policy.dane import DaneVerdict, HostStatus, HostVerdict, MxStatus, current_hosts, unmatched, why_unusable
from ..policy.decision import Override, decide, needs_dane
from ..policy.next_hop import NextHop, parse_key
from ..policy.precedence import DaneMode
from ..ports import PolicyFetcher, Resolver
from ..postfix import socketmap, tcp_table
from ..postfix.reply import NOT_FOUND, Reply, ReplyKind, reply_to
from .explanation import Explanation, Step
from .policy_map import PolicyMap, policy_map
from .verdict import TlsSessions, mail_verdict

__all__ = ["ObservedMail", "explain"]

_BODY_SHOWN = 2000
_DIGEST_SHOWN = 128


@dataclass(frozen=True, slots=True)
class ObservedMail:
    """Facts beyond the policy: the table in main.cf, a deferral, and TLS results."""

    policy_map: PolicyMap | None = None
    """None as if main.cf could not be read."""
    deferred_reason: str = ""
    sessions: TlsSessions | None = None


_NOTHING_OBSERVED = ObservedMail()


async def explain(
    key: str,
    settings: Settings,
    stored: CacheEntry | None,
    now: float,
    live: tuple[Resolver, PolicyFetcher] | None = None,
    validates: bool | None = None,
    verdict: DaneVerdict | None = None,
    observed: ObservedMail = _NOTHING_OBSERVED,
    on_step: Callable[[Step], object] | None = None,
) -> Explanation:
    """Return the explanation of ``key`` at ``now``, from the stored entry or from ``live`` discovery.

    ``validates`` is False if the resolver does not validate DNSSEC: the daemon then does no DANE. ``verdict`` is
    the last one of DANE; a live one replaces it.
    """
    explanation = Explanation(key, on_step=on_step)
    hop = parse_key(key.encode("utf-8", "surrogateescape"))
    if not isinstance(hop, NextHop):
        explanation.add("key", "RFC 8461 3.4", f"{hop.value}; no lookup is made")
        for name in settings.zones:
            explanation.replies[name], explanation.decisions[name] = _shown(NOT_FOUND), hop.slug
        return explanation
    domain = explanation.policy_domain = hop.policy_domain
    explanation.add("policy domain", "RFC 8461 3.4", domain)
    override = settings.overrides.get(domain)
    if override is not None:
        explanation.add("override", "configuration", f"{_override(override)}, because: {override.reason}")
    entry = stored or CacheEntry(domain)
    _add_cached(
        explanation, entry, now, settings, "" if live is not None else "; --live queries DNS and the policy host now"
    )
    if live is not None:
        entry = await _discover(explanation, entry, settings, now, *live)
        verdict = await discover_dane(live[0], hop, {})
    seen = verdict
    if verdict is not None:
        _add_walk(explanation, verdict)
        _add_permitted(explanation, entry, verdict, now)
        verdict = _add_validation(explanation, verdict, validates, settings)
    _add_replies(explanation, entry, settings, now, verdict, seen, observed)
    for reason in dict.fromkeys(explanation.decisions.values()):
        names = ", ".join(name for name, other in explanation.decisions.items() if other == reason)
        explanation.add("decision", "RFC 8461 5", f"{_decision(reason, override)} (map names: {names})")
    return explanation


def _add_replies(
    explanation: Explanation,
    entry: CacheEntry,
    settings: Settings,
    now: float,
    verdict: DaneVerdict | None,
    seen: DaneVerdict | None,
    observed: ObservedMail,
) -> None:
    """Add the reply for each map name, and the verdict for the one in use.

    ``seen`` is the verdict of DANE even if the resolver does not validate: it shows the state of the MX lookup.
    """
    domain = entry.domain
    asked = observed.policy_map or policy_map(None, settings.zones, settings.default_zone)
    override = settings.overrides.get(domain)
    for name, zone in settings.zones.items():
        wanted = verdict if needs_dane(entry, zone, override, now) else None
        decision = decide(entry, zone, override, now, wanted)
        hosts = current_hosts(wanted) if wanted is not None else ()
        explanation.decisions[name] = decision.reason
        in_use = name.lower() == asked.zone.lower()
        limit = tcp_table.TEXT_LIMIT if in_use and asked.is_tcp_table else socketmap.TEXT_LIMIT
        reply = reply_to(decision, domain, zone.dialect, limit, hosts)
        if in_use:
            impossible = reply.text if reply.kind is ReplyKind.TEMPORARY else ""
            explanation.verdict = mail_verdict(
                domain,
                entry,
                decision,
                now=now,
                asked=replace(asked, zone=name),
                override=override,
                dane=seen,
                deferred_reason=impossible or observed.deferred_reason,
                sessions=observed.sessions,
            )
        explanation.replies[name] = _shown(reply)


def _add_walk(explanation: Explanation, verdict: DaneVerdict) -> None:
    """Add the state of the MX hosts in DNS, and DANE for each host."""
    good = {MxStatus.SECURE: True, MxStatus.FAILED: False}.get(verdict.mx)
    explanation.add("DANE", "RFC 7672 2.2", f"{_mx(verdict)} ({verdict.reason}, TTL {verdict.ttl} s)", good)
    for host in verdict.hosts:
        explanation.add("  MX host", "RFC 7672 2.2", _host(host), _HOST_MARKS.get(host.status))
    if verdict.left_out:
        explanation.add("  more MX hosts", "RFC 7672 2.2", f"{verdict.left_out} of lower preference are not checked")


def _add_permitted(explanation: Explanation, entry: CacheEntry, verdict: DaneVerdict, now: float) -> None:
    """Add whether delivery is possible under the policy."""
    held, hosts = entry.live(now), current_hosts(verdict)
    if held is None or not held.policy.mx or not hosts:
        return
    if unmatched(held.policy, hosts):
        found = "the policy permits none of the MX hosts: while it is enforced, mail is deferred"
        explanation.add("permitted hosts", "RFC 8461 4.1", found, False)
        return
    explanation.add(
        "permitted hosts", "RFC 8461 4.1", ", ".join(host for host in hosts if held.policy.permits(host)), True
    )


def _add_validation(
    explanation: Explanation, verdict: DaneVerdict, validates: bool | None, settings: Settings
) -> DaneVerdict | None:
    """Return the verdict, or None if the resolver does not validate DNSSEC."""
    if validates is False:
        names = [name for name, zone in settings.zones.items() if zone.dane is not DaneMode.OFF]
        outcome = f"DANE is off (map names: {', '.join(names)})" if names else "no map name asks for DANE"
        found = f"the resolver does not validate DNSSEC, or is not trusted (dns.trust_ad): {outcome}"
        # MTA-STS needs no DNSSEC, and no host uses all built-in map names.
        explanation.add("DNSSEC", "RFC 7672 2.2", found, False if settings.default_zone.lower() in names else None)
        return None
    if validates:
        explanation.add("DNSSEC", "RFC 7672 2.2", "the resolver validates", True)
    return verdict


_MX_STATES: Mapping[str, str] = {
    "mx": "the MX records are signed",
    "null-mx": "the domain accepts no mail",
    "implicit-mx": "there are no MX records: the domain is its own host",
    "no-such-domain": "the domain does not exist",
    "host": "the host is given, so there is no MX lookup",
    "port-unknown": "the port is unknown, and so is the name of the TLSA records",
}


def _mx(verdict: DaneVerdict) -> str:
    match verdict.mx:
        case MxStatus.INSECURE:
            return "the MX records are not signed, so TLSA records are ignored"
        case MxStatus.FAILED:
            return _MX_STATES.get(verdict.reason, "the MX lookup failed")
    return _MX_STATES[verdict.reason]


_HOST_MARKS = {HostStatus.USABLE: True, HostStatus.UNUSABLE: False, HostStatus.ERROR: False}

_HOST_STATES: Mapping[str, str] = {
    "tlsa-usable": "has usable TLSA records",
    "tlsa-unusable": "has TLSA records of which none is usable: TLS is required, the certificate is not checked",
    "tlsa-absent": "has no TLSA records",
    "address-insecure": "has an address that is not signed, so TLSA records are ignored",
    "address-absent": "has no address",
    "mx-insecure": "is not checked",
}


def _host(host: HostVerdict) -> str:
    state = _HOST_STATES.get(host.reason, "cannot be judged")
    if host.failed is not None:
        state = f"cannot be judged: the lookup of {host.failed.rrtype.name} {host.failed.name} failed"
    lines = [f"{host.host} {state} ({host.reason})"]
    for record in host.records:
        unusable = why_unusable(record)
        name = f"_{host.port}._tcp.{host.tlsa_base}"
        digest = record.data.hex()
        shown = digest if len(digest) <= _DIGEST_SHOWN else digest[:_DIGEST_SHOWN] + "..."
        values = f"{record.usage} {record.selector} {record.matching_type} {shown}"
        lines.append(f"{name} TLSA {values}{f' (unusable: {unusable})' if unusable else ''}")
    return "\n".join(lines)


def _add_cached(explanation: Explanation, entry: CacheEntry, now: float, settings: Settings, otherwise: str) -> None:
    held = entry.held
    if held is None:
        explanation.add("cached policy", "RFC 8461 3.3", f"no policy is stored for this domain{otherwise}")
        _add_last_failures(explanation, entry, now)
        return
    live = entry.live(now) is not None
    life = f"{'valid for' if live else 'expired'} {_span(held.valid_until - now)}{'' if live else ' ago'}"
    due = next_due(entry, settings.rules)
    refresh = "" if due is None else f", to be refreshed in {_span(due - now)}" if due > now else ", refresh is due"
    fetched = f"mode {held.policy.mode.value}, id {held.record_id}, fetched {_span(now - held.fetched_at)} ago"
    explanation.add("cached policy", "RFC 8461 3.3", f"{fetched}, {life}{refresh}", live)
    _add_last_failures(explanation, entry, now)


def _add_last_failures(explanation: Explanation, entry: CacheEntry, now: float) -> None:
    """Add what the last TXT lookup and the last fetch failed with."""
    txt, failure = entry.txt, entry.failure
    if txt is not None and txt.problem:
        found = f"{_span(now - txt.at)} ago: {txt.detail or txt.problem} ({txt.problem})"
        explanation.add("last TXT lookup", "RFC 8461 3.1", found, False)
    if failure is not None:
        again = f"next in {_span(failure.retry_at - now)}" if failure.retry_at > now else "the next one is due"
        attempt = f", attempt {failure.count}" if failure.count else ""
        when = f"{_span(now - failure.at)} ago{attempt}, {again}"
        explanation.add("last fetch", "RFC 8461 3.3", f"failed {when}: {failure.detail} ({failure.problem})", False)


async def _discover(
    explanation: Explanation,
    entry: CacheEntry,
    settings: Settings,
    now: float,
    resolver: Resolver,
    fetcher: PolicyFetcher,
) -> CacheEntry:
    rules = settings.rules
    event = await _ask_txt(explanation, entry.domain, settings, resolver)
    entry = transition(entry, event, now, rules).entry
    if not isinstance(event, TxtFound):
        return entry
    try:
        fetched = await fetcher.fetch(entry.domain, live=False)
    except errors.PolicyFetchError as error:
        explanation.add("policy fetch", "RFC 8461 3.3", f"{error.sentence} ({error.slug})", False)
        return transition(entry, PolicyFailed(event.record_id, error.slug, error.sentence), now, rules).entry
    url = f"https://mta-sts.{entry.domain}/.well-known/mta-sts.txt"
    explanation.add("policy fetch", "RFC 8461 3.3", f"{len(fetched.body)} bytes from {url}", True)
    try:
        policy = settings.policy_format.parse_policy(fetched.body)
    except errors.PolicySyntaxError as error:
        explanation.add("policy text", "RFC 8461 3.2", f"{error.sentence} ({error.slug})\n{_body(fetched.body)}", False)
        return transition(entry, PolicyFailed(event.record_id, error.slug, error.sentence), now, rules).entry
    explanation.add("policy text", "RFC 8461 3.2", "\n".join(policy.lines), True)
    return transition(entry, PolicyFetched(event.record_id, fetched.body, policy), now, rules).entry


async def _ask_txt(
    explanation: Explanation, domain: str, settings: Settings, resolver: Resolver
) -> TxtFound | TxtAbsent | TxtInvalid | TxtFailed:
    title, rule, name = "TXT record", "RFC 8461 3.1", f"_mta-sts.{domain}"
    try:
        answer = await resolver.txt(name)
    except errors.DnsError as error:
        explanation.add(title, rule, f"{name}: {error.sentence} ({error.slug})", False)
        return TxtFailed(error.slug, error.sentence)
    signed = ", DNSSEC validated" if answer.authenticated else ""
    try:
        record = settings.policy_format.parse_txt(answer.records)
    except errors.StsRecordError as error:
        explanation.add(title, rule, f"{name}: {error.sentence} ({error.slug}{signed})", False)
        return TxtInvalid(error.slug, error.sentence, answer.ttl)
    if record is None:
        explanation.add(title, rule, f"{name}: no record begins with v=STSv1; (TTL {answer.ttl} s{signed})")
        return TxtAbsent(answer.ttl)
    explanation.add(title, rule, f"{name}: id {record.id} (TTL {answer.ttl} s{signed})", True)
    return TxtFound(record.id, answer.ttl)


# -- wording -----------------------------------------------------------------------------------------------


def _override(override: Override) -> str:
    if override.skip:
        return "answered as if it had no policy"
    if override.treat_as is not None:
        return f"its policy is treated as {override.treat_as.value}"
    return f"always answered {override.reply!r}"


_DECISIONS: Mapping[str, str] = {
    "mode-enforce": "the policy is enforced",
    "mode-testing": "the policy is in testing: mail is delivered as without it",
    "mode-none": "the policy says none: mail is delivered as without one",
    "no-policy": "there is no policy: Postfix uses its default level",
    "dane-usable": "DANE is required: all MX hosts have usable TLSA records",
    "dane-usable-and-unusable": "DANE is required: some MX hosts have usable TLSA records, none is without",
    "dane-usable-and-none": "DANE is required: only MX hosts with usable TLSA records are delivered to",
    "dane-unusable": "TLS is required: the TLSA records are unusable",
    "dane-all-hosts-failed": "the MX hosts' lookups fail; Postfix asks again for each and says which",
    "override-skip": "an override skips this domain",
    "override-reply": "an override fixes the reply",
}


def _decision(reason: str, override: Override | None) -> str:
    if override is not None and override.treat_as is not None and reason == f"mode-{override.treat_as.value}":
        return f"by the override, {_DECISIONS[reason]}"
    return _DECISIONS.get(reason, f"no policy is available ({reason}): Postfix uses its default level")


def _shown(reply: Reply) -> str:
    return socketmap.encode(reply).partition(b":")[2][:-1].decode("ascii").strip()


def _body(body: bytes) -> str:
    return ascii(body[:_BODY_SHOWN].decode("utf-8", "replace"))


def _span(seconds: float) -> str:
    """Return a duration in its two largest units."""
    left = int(abs(seconds))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])
