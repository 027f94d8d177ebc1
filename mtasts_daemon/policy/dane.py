"""DANE discovery: MX, address and TLSA answers with their AD bits to a DaneVerdict (RFC 7672 sections 2 and 3).

``discover`` is a pure function of the answers known so far. It returns the current verdict, in which missing answers
count as errors, and the questions that remain. The caller sends these queries, adds each answer or ``DnsError``, and
calls again until no question is left or its deadline passes, so that one slow host does not delay the others. A
discovery has at most ``MAX_QUESTIONS`` questions.

Postfix does the same (smtp_addr.c and tls_dane.c), with three differences that never let MTA-STS override DANE: it
judges each address separately, but here one secure answer makes the host's path secure; it does not limit the number
of hosts; and it leaves full certificates and keys (matching type 0) to OpenSSL, but here only data that OpenSSL must
reject is unusable.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from ..errors import DnsError
from .dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord, has_null_mx
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
"""Maximum number of MX hosts, by preference."""

MAX_QUESTIONS: Final = 1 + 4 * MAX_HOSTS
"""MX; for each host A, AAAA, and either TLSA at two names or CNAME and TLSA at one."""

ERROR_TTL: Final = 60
"""TTL in seconds of a verdict with a failed lookup (RFC 2308 section 7 allows 300)."""

STAND_IN_AGE: Final = 86400.0
"""Seconds for which a host's last verdict replaces a failed lookup."""

PENDING: Final = "not-yet-known"
_MAX_NAME: Final = 253

V = TypeVar("V", covariant=True)


class DnsQuestion(NamedTuple):
    """A query: a name in lower-case A-labels without the final dot, and a record type."""

    name: str
    rrtype: RRType


DnsResult = DnsAnswer[object] | DnsError
HostKey = tuple[str, int]


class MxStatus(Enum):
    """The state of the MX RRset for DANE; the values are metric labels."""

    SECURE = "secure"
    """The MX RRset is signed, or there is no MX lookup: the hosts decide."""
    INSECURE = "insecure"
    """TLSA records are ignored (RFC 7672 section 2.2.1)."""
    FAILED = "failed"


class HostStatus(Enum):
    """The state of one host's TLSA records; the values are metric labels."""

    USABLE = "usable"
    """Secure TLSA records, at least one of them usable."""
    UNUSABLE = "unusable"
    """Secure TLSA records, none of them usable: TLS without authentication is required (RFC 7672 section 2.2)."""
    NONE = "none"
    """An insecure address, or no secure TLSA record."""
    ERROR = "error"
    """A lookup failed, its answer was bogus, or it is pending."""
    ABSENT = "absent"
    """No address: the host is ignored."""


class HostVerdict(NamedTuple):
    """The verdict on one host; ``reason`` is a slug, that of the error if there was one.

    ``records`` are all TLSA records as published at ``tlsa_base``. ``failed`` is the question without an answer.
    ``since`` is the time of an earlier verdict that replaces a failed lookup.
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
        """The key of a host's verdict; other ports have other TLSA records."""
        return self.host, self.port


class DaneVerdict(NamedTuple):
    """DANE discovery of a next hop; ``hosts`` are in order of preference, ``left_out`` counts further hosts.

    ``reason`` is a slug: the origin of the hosts, or why there are none. ``ttl`` is the minimum of all relevant
    answers: 0 while some are pending, at most ``ERROR_TTL`` if some failed. ``since`` is as in ``HostVerdict``.
    """

    next_hop: NextHop
    mx: MxStatus
    reason: str
    ttl: int
    hosts: tuple[HostVerdict, ...] = ()
    left_out: int = 0
    since: float | None = None

    def cacheable(self) -> Iterator[HostVerdict]:
        """Return the verdicts on hosts that may replace a later failure.

        Hosts of an insecure MX RRset are excluded: the owner of such a domain could name any host.
        """
        hosts = self.hosts if self.mx is MxStatus.SECURE else ()
        return (host for host in hosts if host.since is None and host.status in _MEMORABLE)


_MEMORABLE = (HostStatus.USABLE, HostStatus.UNUSABLE, HostStatus.NONE)


class Discovery(NamedTuple):
    """The current verdict and the remaining questions. Without questions the verdict is final."""

    verdict: DaneVerdict
    questions: tuple[DnsQuestion, ...] = ()


class Timestamped(NamedTuple, Generic[V]):
    """A verdict and its time, in seconds of the clock that ``apply_fallback`` is given."""

    verdict: V
    at: float

    def holds(self, now: float) -> bool:
        """Return True if it is young enough to be used. A verdict from the future is not used: the clock has jumped."""
        return 0 <= now - self.at < STAND_IN_AGE


# -- the walk ----------------------------------------------------------------------------------------------


def discover(next_hop: NextHop, known: Mapping[DnsQuestion, DnsResult]) -> Discovery:
    """Return the verdict on ``next_hop`` from the ``known`` answers, and the remaining questions."""
    if next_hop.service is not None and next_hop.port is None:
        # Only Postfix knows the port of the service, so the name of the TLSA records is unknown.
        return Discovery(DaneVerdict(next_hop, MxStatus.FAILED, "port-unknown", ERROR_TTL))
    name = next_hop.policy_domain
    if next_hop.bracketed:
        return _walk_hosts(next_hop, "host", (name,), None, known)
    question = DnsQuestion(name, RRType.MX)
    reply = known.get(question)
    if reply is None:
        return Discovery(DaneVerdict(next_hop, MxStatus.FAILED, PENDING, 0), (question,))
    if isinstance(reply, DnsError):
        # RFC 7672 section 2.1.2: a failed MX lookup is not an insecure MX RRset.
        return Discovery(DaneVerdict(next_hop, MxStatus.FAILED, reply.slug, ERROR_TTL))
    hosts = mx_hosts(reply, name)
    implicit = not reply.records
    if reply.records:
        # Postfix delivers to no host if one of the records is a null MX.
        reason = "null-mx" if has_null_mx(reply) else "mx"
    else:
        reason = "implicit-mx" if hosts else "no-such-domain"
    # Without MX records the domain is the host (RFC 7672 section 2.2.2). If it is an alias to an unsigned name, the
    # alias itself may still be signed.
    if reply.authenticated or (implicit and _is_alias(reply, name)):
        return _walk_hosts(next_hop, reason, hosts, reply.ttl, known)
    return Discovery(_insecure(next_hop, reason, hosts, reply.ttl))


def mx_question(next_hop: NextHop) -> DnsQuestion | None:
    """Return the MX question if discovery starts with it, or None."""
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


# The current verdict on a host, and the remaining questions.
_Judged = tuple[HostVerdict, tuple[DnsQuestion, ...]]


def _judge_host(host: str, port: int, known: Mapping[DnsQuestion, DnsResult]) -> _Judged:
    questions = (DnsQuestion(host, RRType.A), DnsQuestion(host, RRType.AAAA))
    replies = [known.get(question) for question in questions]
    found = [reply for reply in replies if isinstance(reply, DnsAnswer) and reply.records]
    if not found:
        return _without_address(host, port, dict(zip(questions, replies, strict=True)))
    # The addresses of one family are sufficient: Postfix uses them even if the lookup of the other family fails.
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
    """Judge an alias with insecure addresses: TLSA at its own name counts if its CNAME is secure (section 2.2.2)."""
    question = DnsQuestion(verdict.host, RRType.CNAME)
    reply = known.get(question)
    if not isinstance(reply, DnsAnswer):
        return _unanswered(verdict, question, reply)
    verdict = verdict._replace(ttl=min(verdict.ttl, reply.ttl))
    if not reply.records:
        # It was an alias before. Like Postfix, treat this as a failed lookup.
        ttl = min(verdict.ttl, ERROR_TTL)
        return verdict._replace(status=HostStatus.ERROR, reason="alias-vanished", ttl=ttl, failed=question), ()
    if not reply.authenticated:
        return verdict, ()
    return _judge_tlsa(verdict, (verdict.host,), known)


def _judge_tlsa(verdict: HostVerdict, bases: Sequence[str], known: Mapping[DnsQuestion, DnsResult]) -> _Judged:
    """Judge by the first of ``bases`` with a secure TLSA RRset; a failed lookup ends the search (section 2.2.3)."""
    for base in dict.fromkeys(bases):
        name = f"_{verdict.port}._tcp.{base}"
        if len(name) > _MAX_NAME:
            continue
        question = DnsQuestion(name, RRType.TLSA)
        reply = known.get(question)
        if not isinstance(reply, DnsAnswer):
            return _unanswered(verdict, question, reply)
        verdict = verdict._replace(ttl=min(verdict.ttl, reply.ttl))
        records = tuple(record for record in reply.records if isinstance(record, TlsaRecord))
        if reply.authenticated and records:
            usable = any(why_unusable(record) is None for record in records)
            status, reason = (HostStatus.USABLE, "tlsa-usable") if usable else (HostStatus.UNUSABLE, "tlsa-unusable")
            return verdict._replace(status=status, reason=reason, tlsa_base=base, records=records), ()
    return verdict._replace(reason="tlsa-absent"), ()


def _unanswered(verdict: HostVerdict, question: DnsQuestion, error: DnsError | None) -> _Judged:
    if error is None:
        return verdict._replace(status=HostStatus.ERROR, reason=PENDING, ttl=0, failed=question), (question,)
    ttl = min(verdict.ttl, ERROR_TTL)
    return verdict._replace(status=HostStatus.ERROR, reason=error.slug, ttl=ttl, failed=question), ()


def _is_alias(reply: DnsAnswer[object], name: str) -> bool:
    return reply.canonical not in ("", name)


# -- TLSA records, RFC 7672 section 3.1 --------------------------------------------------------------------

_DIGEST_LENGTH = {1: 32, 2: 64}


def why_unusable(record: TlsaRecord) -> str | None:
    """Return why no client can authenticate a server with ``record``, or None if it is usable."""
    if record.usage not in (2, 3):
        # PKIX-TA and PKIX-EE are not for SMTP (RFC 7672 section 3.1.3).
        return f"certificate usage {record.usage} is not 2 or 3"
    if record.selector not in (0, 1):
        return f"selector {record.selector} is not 0 or 1"
    if record.matching_type == 0:
        return None if _is_der_sequence(record.data) else "the data is not a complete DER certificate or key"
    wanted = _DIGEST_LENGTH.get(record.matching_type)
    if wanted is None:
        return f"matching type {record.matching_type} is not 0, 1 or 2"
    if len(record.data) != wanted:
        return f"the digest has {len(record.data)} octets, not {wanted}"
    return None


def _is_der_sequence(data: bytes) -> bool:
    """Return True if ``data`` is exactly one SEQUENCE, as a certificate or a SubjectPublicKeyInfo is."""
    if len(data) < 2 or data[0] != 0x30:
        return False
    octets = data[1] & 0x7F if data[1] & 0x80 else 0
    length = int.from_bytes(data[2 : 2 + octets]) if octets else data[1]
    return octets <= 4 and data[1] != 0x80 and len(data) == 2 + octets + length


# -- fallback ------------------------------------------------------------------------------------------------


def apply_fallback(
    verdict: DaneVerdict,
    hosts: Mapping[HostKey, Timestamped[HostVerdict]],
    earlier: Timestamped[DaneVerdict] | None,
    now: float,
) -> DaneVerdict:
    """Replace failed lookups in ``verdict`` by earlier verdicts younger than ``STAND_IN_AGE``.

    ``earlier`` is the next hop's last verdict without failure; it replaces a failed MX lookup. ``hosts`` are the last
    ``cacheable`` verdicts on hosts, of any next hop. ``ttl`` does not change, so that a replacement lasts no longer
    than the failure.
    """
    if verdict.mx is MxStatus.FAILED and earlier is not None and earlier.holds(now):
        verdict = earlier.verdict._replace(ttl=verdict.ttl, since=earlier.at)
    return verdict._replace(hosts=tuple(_stand_in(host, hosts.get(host.key), now) for host in verdict.hosts))


def _stand_in(host: HostVerdict, last: Timestamped[HostVerdict] | None, now: float) -> HostVerdict:
    if host.status is not HostStatus.ERROR or last is None or not last.holds(now):
        return host
    return last.verdict._replace(since=last.at)


# -- the MX hosts ------------------------------------------------------------------------------------------


def mx_hosts(reply: DnsAnswer[object], name: str) -> tuple[str, ...]:
    """Return all hosts that receive mail for ``name``, in order of preference, each once.

    This is the domain itself if it exists without MX records (RFC 5321 section 5.1), and no host for a null MX
    (RFC 7505).
    """
    if not reply.records:
        return (name,) if reply.exists else ()
    records = [record for record in reply.records if isinstance(record, MxRecord) and record.host]
    records.sort(key=lambda record: (record.preference, record.host))
    return tuple(dict.fromkeys(record.host for record in records))


def current_hosts(verdict: DaneVerdict) -> tuple[str, ...]:
    """Return the MX hosts of a verdict, or none if it does not know all of them."""
    if verdict.mx is MxStatus.FAILED or verdict.left_out:
        return ()
    return tuple(host.host for host in verdict.hosts)


def unmatched(policy: StsPolicy, hosts: Sequence[str]) -> bool:
    """Return True if ``policy`` permits none of the MX hosts, so that delivery is impossible (RFC 8461 section 4.1)."""
    return bool(policy.mx and hosts) and not policy.permits_any(hosts)
