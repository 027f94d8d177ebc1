"""Evidence: everything a check saw, as frozen values. Pure; findings and the conclusion are functions of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import OWN_FETCH_SLUGS, DnsTimeout, DnsUnreachable, MtaStsError
from ...policy.dane import DaneVerdict, HostVerdict
from ...policy.dns_answer import DnsAnswer, MxRecord, has_null_mx
from ...policy.mtasts import StsPolicy, StsRecord
from ...smtp.probe import ServerTlsEvidence, SmtpSession

__all__ = [
    "CheckEvidence",
    "CheckFailure",
    "EndpointEvidence",
    "MxEvidence",
    "MxHostEvidence",
    "PolicyHostEvidence",
    "RuaEvidence",
    "StsEvidence",
    "TlsrptEvidence",
    "failure_of",
]


@dataclass(frozen=True, slots=True)
class CheckFailure:
    """A step that failed. ``ours`` says that this host, not the domain, is the cause."""

    slug: str
    sentence: str
    ours: bool = False


_OUR_SLUGS = OWN_FETCH_SLUGS | {DnsTimeout.slug, DnsUnreachable.slug}


def failure_of(error: MtaStsError, *, dns_works: bool = False) -> CheckFailure:
    """Return the failure that ``error`` is.

    No answer from the resolver is our failure, unless ``dns_works`` says that it answered other questions meanwhile:
    then the name servers of the domain are silent.
    """
    ours = error.slug in _OUR_SLUGS and not (dns_works and error.slug == DnsTimeout.slug)
    return CheckFailure(error.slug, error.sentence, ours)


@dataclass(frozen=True, slots=True)
class StsEvidence:
    """The ``_mta-sts`` TXT lookup. ``failure`` is that of the lookup or of the record's grammar."""

    answer: DnsAnswer[bytes] | None = None
    record: StsRecord | None = None
    failure: CheckFailure | None = None


@dataclass(frozen=True, slots=True)
class EndpointEvidence:
    """A TLS handshake with one address of a policy host or report receiver. ``problem`` is a slug."""

    host: str
    address: str
    port: int
    problem: str | None = None
    detail: str = ""
    tls: ServerTlsEvidence | None = None


@dataclass(frozen=True, slots=True)
class PolicyHostEvidence:
    """The policy host, its addresses, and the fetch. ``present`` says whether it has an address at all.

    ``body`` is the fetched text, ``policy`` the parsed policy; ``failure`` is that of the fetch or of the grammar.
    """

    present: bool = False
    endpoints: tuple[EndpointEvidence, ...] = ()
    body: bytes | None = None
    policy: StsPolicy | None = None
    failure: CheckFailure | None = None


@dataclass(frozen=True, slots=True)
class MxEvidence:
    """The MX lookup. ``hosts`` are in order of preference; without MX records the domain itself (RFC 5321 5.1)."""

    answer: DnsAnswer[MxRecord] | None = None
    hosts: tuple[str, ...] = ()
    failure: CheckFailure | None = None

    @property
    def names_null(self) -> bool:
        """True if a record is a null MX, with or without other records."""
        return self.answer is not None and has_null_mx(self.answer)

    @property
    def null(self) -> bool:
        """True for the null MX of RFC 7505: the domain accepts no mail."""
        return self.answer is not None and bool(self.answer.records) and not self.hosts

    @property
    def implicit(self) -> bool:
        """True if there are no MX records, and the domain is its own host."""
        return self.answer is not None and not self.answer.records and bool(self.hosts)


@dataclass(frozen=True, slots=True)
class MxHostEvidence:
    """One MX host. ``dane`` is its part of the DANE verdict; ``dane_refused`` says per address why no TLSA matches."""

    host: str
    preference: int
    addresses: tuple[str, ...] = ()
    addresses_left_out: int = 0
    address_failures: tuple[CheckFailure, ...] = ()
    alias_of: str | None = None
    dane: HostVerdict | None = None
    sessions: tuple[SmtpSession, ...] = ()
    dane_refused: Mapping[str, str | None] = field(default_factory=dict)
    probed: bool = False


@dataclass(frozen=True, slots=True)
class RuaEvidence:
    """One report address; ``failure`` says why reports cannot be delivered there."""

    uri: str
    failure: CheckFailure | None = None


@dataclass(frozen=True, slots=True)
class TlsrptEvidence:
    """The ``_smtp._tls`` TXT lookup; ``problems`` are sentences about single addresses."""

    found: bool = False
    rua: tuple[RuaEvidence, ...] = ()
    problems: tuple[str, ...] = ()
    failure: CheckFailure | None = None


@dataclass(frozen=True, slots=True)
class CheckEvidence:
    """All of one check. ``at`` is the wall-clock time it ended.

    ``validates`` says whether our resolver validates DNSSEC, None if unknown. ``port25`` is False if no connection
    to port 25 is possible from here, None if not tried. ``hosts_left_out`` counts MX hosts that were not probed.
    """

    domain: str
    at: float
    sts: StsEvidence = field(default_factory=StsEvidence)
    policy_host: PolicyHostEvidence = field(default_factory=PolicyHostEvidence)
    mx: MxEvidence = field(default_factory=MxEvidence)
    hosts: tuple[MxHostEvidence, ...] = ()
    hosts_left_out: int = 0
    dane: DaneVerdict | None = None
    tlsrpt: TlsrptEvidence = field(default_factory=TlsrptEvidence)
    validates: bool | None = None
    port25: bool | None = None

    @property
    def policy(self) -> StsPolicy | None:
        """The policy that a sender with no prior knowledge applies, or None."""
        return self.policy_host.policy if self.sts.record is not None else None
