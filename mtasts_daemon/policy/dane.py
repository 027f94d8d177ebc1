"""DANE discovery: MX, address and TLSA answers with their AD bits to a DaneVerdict (RFC 7672 sections 2 and 3).

``discover`` is a pure function of the answers known so far. It gives the verdict as it stands, in which what is
not known yet counts as an error, and the questions whose answers would settle it. Whoever does the I/O asks
them, all at once if it likes, adds each answer or ``DnsError`` as it comes, and calls again, until no question is
left or its time is up. So one slow host holds up no other. A walk asks ``MAX_QUESTIONS`` questions at most.

Postfix walks the same way (its smtp_addr.c and tls_dane.c), with three differences that never let MTA-STS override
DANE: it judges each address by itself, where here one secure answer makes the host's path secure; it has no bound on
the hosts; and it leaves full certificates and keys (matching type 0) to OpenSSL, where here only what OpenSSL is
sure to refuse is unusable.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Generic, TypeVar

from ..errors import DnsError
from .dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord
from .mtasts import StsPolicy
from .next_hop import NextHop

__all__ = [
    "ERROR_TTL",
    "MAX_HOSTS",
    "MAX_QUESTIONS",
    "STAND_IN_AGE",
    "DaneVerdict",
    "Discovery",
    "DnsQuestion",
    "DnsResult",
    "HostKey",
    "HostStatus",
    "HostVerdict",
    "MxStatus",
    "Timestamped",
    "apply_fallback",
    "current_hosts",
    "discover",
    "mx_hosts",
    "mx_question",
    "unmatched",
    "why_unusable",
]

MAX_HOSTS: Final = 10
"""MX hosts that are looked at, by preference."""

MAX_QUESTIONS: Final = 1 + 4 * MAX_HOSTS
"""MX; for each host A, AAAA, and either TLSA at two names or CNAME and TLSA at one."""

ERROR_TTL: Final = 60
"""Seconds that a verdict with a failed lookup in it holds (RFC 2308 section 7 allows 300)."""

STAND_IN_AGE: Final = 86400.0
"""Seconds for which a host's last verdict stands in for a lookup that fails."""

PENDING: Final = "not-yet-known"
_MAX_NAME: Final = 253

V = TypeVar("V", covariant=True)


@dataclass(frozen=True, slots=True)
class DnsQuestion:
    """A name, a lower-case A-label name without the final dot, and the type asked for."""

    name: str
    rrtype: RRType


DnsResult = DnsAnswer[object] | DnsError
HostKey = tuple[str, int]


class MxStatus(Enum):
    """Whether DANE can apply to the next-hop at all; the values are metric labels."""

    SECURE = "secure"
    """The MX RRset is signed, or there is no MX lookup to sign: the hosts decide."""
    INSECURE = "insecure"
    """No TLSA record counts (RFC 7672 section 2.2.1)."""
    FAILED = "failed"


class HostStatus(Enum):
    """What DANE demands of one host; the values are metric labels."""

    USABLE = "usable"
    """Secure TLSA records, at least one of them usable."""
    UNUSABLE = "unusable"
    """Secure TLSA records, none of them usable: TLS is a must, whoever answers (RFC 7672 section 2.2)."""
    NONE = "none"
    """An insecure address, or no secure TLSA record."""
    ERROR = "error"
    """A lookup failed, its answer was bogus, or it is not known yet."""
    ABSENT = "absent"
    """No address, so nobody connects to it; it counts nowhere."""


@dataclass(frozen=True, slots=True)
class HostVerdict:
    """One host and what was found; ``reason`` is a slug, that of the error where there was one.

    ``records`` are all TLSA records of ``tlsa_base``, the name they were found at, as published. ``failed`` is the
    question without an answer. ``since`` is set where this is an earlier verdict that stands in, to its moment.
    """

    host: str
    port: int
    status: HostStatus
    reason: str
    ttl: int
    tlsa_base: str | None = None
    records: tuple[TlsaRecord, ...] = ()
    failed: DnsQuestion | None = None
    since: float | None = None

    @property
    def key(self) -> HostKey:
        """What a host's verdict is remembered by: other ports have other TLSA records."""
        return self.host, self.port


@dataclass(frozen=True, slots=True)
class DaneVerdict:
    """What DANE demands of a next-hop; ``hosts`` are in order of preference, ``left_out`` counts those beyond.

    ``reason`` says where the hosts come from, or why there are none (a slug). ``ttl`` is the least of all answers
    that matter: 0 while some are not known, at most ``ERROR_TTL`` where some failed. ``since`` is as in a host.
    """

    next_hop: NextHop
    mx: MxStatus
    reason: str
    ttl: int
    hosts: tuple[HostVerdict, ...] = ()
    left_out: int = 0
    since: float | None = None

    def cacheable(self) -> Iterator[HostVerdict]:
        """The hosts' verdicts that may stand in for a later failure.

        Hosts behind an insecure MX RRset were not asked about: whoever has such a domain could name anybody's host.
        """
        hosts = self.hosts if self.mx is MxStatus.SECURE else ()
        return (host for host in hosts if host.since is None and host.status in _MEMORABLE)


_MEMORABLE = (HostStatus.USABLE, HostStatus.UNUSABLE, HostStatus.NONE)


@dataclass(frozen=True, slots=True)
class Discovery:
    """The verdict as it stands, and what to ask to settle it; it is settled when there is nothing to ask."""

    verdict: DaneVerdict
    questions: tuple[DnsQuestion, ...] = ()


@dataclass(frozen=True, slots=True)
class Timestamped(Generic[V]):
    """A verdict and when it was reached, in seconds of any clock that ``combine`` is given too."""

    verdict: V
    at: float

    def holds(self, now: float) -> bool:
        """Whether it may still stand in; one from the future tells of a clock that moved, and does not."""
        return 0 <= now - self.at < STAND_IN_AGE


# -- the walk ----------------------------------------------------------------------------------------------


def discover(next_hop: NextHop, known: Mapping[DnsQuestion, DnsResult]) -> Discovery:
    """The verdict on ``next_hop`` by what is ``known``, and the open questions. Any answers give a verdict."""
    if next_hop.service is not None and next_hop.port is None:
        # Postfix knows the service's port, we do not; so there is no name to ask for TLSA at.
        return Discovery(DaneVerdict(next_hop, MxStatus.FAILED, "port-unknown", ERROR_TTL))
    name = next_hop.policy_domain
    if next_hop.bracketed:
        return _walk_hosts(next_hop, "host", (name,), None, known)
    question = DnsQuestion(name, RRType.MX)
    reply = known.get(question)
    if reply is None:
        return Discovery(DaneVerdict(next_hop, MxStatus.FAILED, PENDING, 0), (question,))
    if isinstance(reply, DnsError):
        # RFC 7672 section 2.1.2: an MX RRset that cannot be had is no insecure one.
        return Discovery(DaneVerdict(next_hop, MxStatus.FAILED, reply.slug, ERROR_TTL))
    hosts = mx_hosts(reply, name)
    implicit = not reply.records
    reason = ("mx" if hosts else "null-mx") if reply.records else ("implicit-mx" if hosts else "no-such-domain")
    # Without MX records the domain is a host as any other (RFC 7672 section 2.2.2): where it is an alias that leads
    # out of the signed tree, the alias itself may still be signed.
    if reply.authenticated or (implicit and _is_alias(reply, name)):
        return _walk_hosts(next_hop, reason, hosts, reply.ttl, known)
    return Discovery(_insecure(next_hop, reason, hosts, reply.ttl))


def mx_question(next_hop: NextHop) -> DnsQuestion | None:
    """The question with which the walk begins, where it does so with MX and nothing else."""
    if next_hop.bracketed or (next_hop.service is not None and next_hop.port is None):
        return None
    return DnsQuestion(next_hop.policy_domain, RRType.MX)


def _insecure(next_hop: NextHop, reason: str, hosts: Sequence[str], ttl: int) -> DaneVerdict:
    port = next_hop.port or 25
    verdicts = tuple(HostVerdict(host, port, HostStatus.NONE, "mx-insecure", ttl) for host in hosts[:MAX_HOSTS])
    return DaneVerdict(next_hop, MxStatus.INSECURE, reason, ttl, verdicts, len(hosts) - len(verdicts))


def _walk_hosts(
    next_hop: NextHop, reason: str, hosts: Sequence[str], ttl: int | None, known: Mapping[DnsQuestion, DnsResult]
) -> Discovery:
    walked = [_judge_host(host, next_hop.port or 25, known) for host in hosts[:MAX_HOSTS]]
    verdicts = tuple(verdict for verdict, _ in walked)
    ttls = [*(() if ttl is None else (ttl,)), *(verdict.ttl for verdict in verdicts)]
    left_out = len(hosts) - len(verdicts)
    verdict = DaneVerdict(next_hop, MxStatus.SECURE, reason, min(ttls), verdicts, left_out)
    # An MX host that is an alias of another has the same TLSA question.
    questions = dict.fromkeys(question for _, questions in walked for question in questions)
    return Discovery(verdict, tuple(questions))


# A host's verdict as it stands, and what to ask to settle it.
_Judged = tuple[HostVerdict, tuple[DnsQuestion, ...]]


def _judge_host(host: str, port: int, known: Mapping[DnsQuestion, DnsResult]) -> _Judged:
    questions = (DnsQuestion(host, RRType.A), DnsQuestion(host, RRType.AAAA))
    replies = [known.get(question) for question in questions]
    found = [reply for reply in replies if isinstance(reply, DnsAnswer) and reply.records]
    if not found:
        return _without_address(host, port, dict(zip(questions, replies, strict=True)))
    # One family's addresses are enough to go on: Postfix too uses them, whatever becomes of the other's lookup.
    secure = [reply for reply in found if reply.authenticated]
    path = (secure or found)[0]
    verdict = HostVerdict(host, port, HostStatus.NONE, "address-insecure", min(reply.ttl for reply in found))
    if secure:
        # RFC 7672 section 2.2.2: the end of the alias chain first, then the name that the MX record has.
        return _judge_tlsa(verdict, (path.canonical or host, host), known)
    if _is_alias(path, host):
        return _judge_alias(verdict, known)
    return verdict, ()


def _without_address(host: str, port: int, replies: Mapping[DnsQuestion, DnsResult | None]) -> _Judged:
    open_questions = tuple(question for question, reply in replies.items() if reply is None)
    if open_questions:
        return HostVerdict(host, port, HostStatus.ERROR, PENDING, 0, failed=open_questions[0]), open_questions
    for question, reply in replies.items():
        if isinstance(reply, DnsError):
            # The other family's absence proves nothing: Postfix may find an address when it asks.
            return HostVerdict(host, port, HostStatus.ERROR, reply.slug, ERROR_TTL, failed=question), ()
    ttl = min(reply.ttl for reply in replies.values() if isinstance(reply, DnsAnswer))
    return HostVerdict(host, port, HostStatus.ABSENT, "address-absent", ttl), ()


def _judge_alias(verdict: HostVerdict, known: Mapping[DnsQuestion, DnsResult]) -> _Judged:
    """An alias with insecure addresses: TLSA at its own name counts where its own CNAME is secure (section 2.2.2)."""
    question = DnsQuestion(verdict.host, RRType.CNAME)
    reply = known.get(question)
    if not isinstance(reply, DnsAnswer):
        return _unanswered(verdict, question, reply)
    verdict = replace(verdict, ttl=min(verdict.ttl, reply.ttl))
    if not reply.records:
        # It was an alias a moment ago. Postfix takes this for a failed lookup, and so do we.
        ttl = min(verdict.ttl, ERROR_TTL)
        return replace(verdict, status=HostStatus.ERROR, reason="alias-vanished", ttl=ttl, failed=question), ()
    if not reply.authenticated:
        return verdict, ()
    return _judge_tlsa(verdict, (verdict.host,), known)


def _judge_tlsa(verdict: HostVerdict, bases: Sequence[str], known: Mapping[DnsQuestion, DnsResult]) -> _Judged:
    """The first of ``bases`` with a secure TLSA RRset decides; a failed lookup ends the search (section 2.2.3)."""
    for base in dict.fromkeys(bases):
        name = f"_{verdict.port}._tcp.{base}"
        if len(name) > _MAX_NAME:
            continue
        question = DnsQuestion(name, RRType.TLSA)
        reply = known.get(question)
        if not isinstance(reply, DnsAnswer):
            return _unanswered(verdict, question, reply)
        verdict = replace(verdict, ttl=min(verdict.ttl, reply.ttl))
        records = tuple(record for record in reply.records if isinstance(record, TlsaRecord))
        if reply.authenticated and records:
            usable = any(why_unusable(record) is None for record in records)
            status, reason = (HostStatus.USABLE, "tlsa-usable") if usable else (HostStatus.UNUSABLE, "tlsa-unusable")
            return replace(verdict, status=status, reason=reason, tlsa_base=base, records=records), ()
    return replace(verdict, reason="tlsa-absent"), ()


def _unanswered(verdict: HostVerdict, question: DnsQuestion, error: DnsError | None) -> _Judged:
    if error is None:
        return replace(verdict, status=HostStatus.ERROR, reason=PENDING, ttl=0, failed=question), (question,)
    ttl = min(verdict.ttl, ERROR_TTL)
    return replace(verdict, status=HostStatus.ERROR, reason=error.slug, ttl=ttl, failed=question), ()


def _is_alias(reply: DnsAnswer[object], name: str) -> bool:
    return reply.canonical not in ("", name)


# -- TLSA records, RFC 7672 section 3.1 --------------------------------------------------------------------

_DIGEST_LENGTH = {1: 32, 2: 64}


def why_unusable(record: TlsaRecord) -> str | None:
    """Why no client can authenticate a server by ``record``, in a few words; None when one may."""
    if record.usage not in (2, 3):
        # PKIX-TA and PKIX-EE are not for SMTP (RFC 7672 section 3.1.3).
        return f"certificate usage {record.usage} is not 2 or 3"
    if record.selector not in (0, 1):
        return f"selector {record.selector} is not 0 or 1"
    if record.matching_type == 0:
        return None if _is_der_sequence(record.data) else "the data is not a whole DER certificate or key"
    wanted = _DIGEST_LENGTH.get(record.matching_type)
    if wanted is None:
        return f"matching type {record.matching_type} is not 0, 1 or 2"
    if len(record.data) != wanted:
        return f"the digest has {len(record.data)} octets, not {wanted}"
    return None


def _is_der_sequence(data: bytes) -> bool:
    """Whether ``data`` is one SEQUENCE from end to end, as a certificate or a SubjectPublicKeyInfo has to be."""
    if len(data) < 2 or data[0] != 0x30:
        return False
    octets = data[1] & 0x7F if data[1] & 0x80 else 0
    length = int.from_bytes(data[2 : 2 + octets]) if octets else data[1]
    return octets <= 4 and data[1] != 0x80 and len(data) == 2 + octets + length


# -- memory ------------------------------------------------------------------------------------------------


def apply_fallback(
    verdict: DaneVerdict,
    hosts: Mapping[HostKey, Timestamped[HostVerdict]],
    earlier: Timestamped[DaneVerdict] | None,
    now: float,
) -> DaneVerdict:
    """``verdict`` with what is remembered in place of what failed, where that is younger than ``STAND_IN_AGE``.

    ``earlier`` is the next-hop's own last verdict that had not failed; it stands in for a failed MX lookup.
    ``hosts`` are the last verdicts that were ``memorable``, of any next-hop's hosts. ``ttl`` stays as it is, so that
    a stand-in lasts no longer than the failure.
    """
    if verdict.mx is MxStatus.FAILED and earlier is not None and earlier.holds(now):
        verdict = replace(earlier.verdict, ttl=verdict.ttl, since=earlier.at)
    return replace(verdict, hosts=tuple(_stand_in(host, hosts.get(host.key), now) for host in verdict.hosts))


def _stand_in(host: HostVerdict, last: Timestamped[HostVerdict] | None, now: float) -> HostVerdict:
    if host.status is not HostStatus.ERROR or last is None or not last.holds(now):
        return host
    return replace(last.verdict, since=last.at)


# -- the MX hosts ------------------------------------------------------------------------------------------


def mx_hosts(reply: DnsAnswer[object], name: str) -> tuple[str, ...]:
    """All hosts that take mail for ``name`` by its MX lookup, in order of preference, each once.

    The domain itself where it exists without MX records (RFC 5321 section 5.1); none for a null MX (RFC 7505).
    """
    if not reply.records:
        return (name,) if reply.exists else ()
    records = [record for record in reply.records if isinstance(record, MxRecord) and record.host]
    records.sort(key=lambda record: (record.preference, record.host))
    return tuple(dict.fromkeys(record.host for record in records))


def current_hosts(verdict: DaneVerdict) -> tuple[str, ...]:
    """The MX hosts of a verdict; none where it does not know all of them."""
    if verdict.mx is MxStatus.FAILED or verdict.left_out:
        return ()
    return tuple(host.host for host in verdict.hosts)


def unmatched(policy: StsPolicy, hosts: Sequence[str]) -> bool:
    """Whether ``policy`` permits none of the MX hosts, so that its domain cannot be delivered to (RFC 8461 4.1)."""
    return bool(policy.mx and hosts) and not policy.permits_any(hosts)
