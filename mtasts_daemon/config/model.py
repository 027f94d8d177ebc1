"""The configuration as a frozen model: every key, its default, its limits, and what it is for.

The descriptions are the reference: the JSON Schema and the manual are made of them. Times are in seconds,
sizes in bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..text import sanitize
from .fields import Count, FilePath, Networks, Section, parsed, within
from .problems import BadValue, Unresolved
from .sections.admin import AdminSettings
from .sections.overrides import OverrideSettings, override_domain
from .sections.public import PublicSettings
from .sections.publish import PublishSettings
from .sections.receive import ReceiveSettings
from .sections.tlsrpt import TlsrptSettings
from .values import Duration, FileMode, Listen, ProbeQuery, ServerAddress, Size

__all__ = [
    "BUILT_IN_ZONES",
    "AdminSettings",
    "CacheSettings",
    "CompatibilitySettings",
    "Config",
    "DnsSettings",
    "HttpsSettings",
    "LogSettings",
    "LookupSettings",
    "OverrideSettings",
    "StoreSettings",
    "TlsrptSettings",
    "ZoneSettings",
    "override_domain",
    "zone_name",
]


class ZoneSettings(Section):
    """How the lookups of one map name are answered."""

    dialect: Literal["plain", "tlsrpt"] = Field(
        default="plain",
        description="Which attributes Postfix is given: plain for 3.4 to 3.9, tlsrpt for 3.10 and later. "
        "An older Postfix defers all mail on tlsrpt.",
    )
    default_level: Literal["none", "may", "encrypt", "dane", "dane-only", "verify", "secure"] | None = Field(
        default=None,
        description="Postfix's own smtp_tls_security_level. Where it is given and the dialect is tlsrpt, domains in "
        "testing mode are answered with it, so that reports name their policy.",
    )
    dane: Literal["auto", "on", "always", "off"] = Field(
        default="auto",
        description="Whether DANE takes precedence over an enforced policy: on or off; auto is on where the resolver "
        "validates and Postfix has smtp_dns_support_level = dnssec; always asks about every domain.",
    )
    dane_partial: Literal["dane-only", "secure"] = Field(
        default="dane-only",
        description="The answer where DANE covers only some of the MX hosts of a domain with an enforced policy. "
        "secure departs from RFC 8461 section 2.",
    )


BUILT_IN_ZONES: Mapping[str, Literal["plain", "tlsrpt"]] = {
    "postfix": "plain",
    "query": "plain",
    "querywithtlsrpt": "tlsrpt",
    "postfix-tlsrpt": "tlsrpt",
}
"""The zones that are there without being configured, by lower-case name, and their dialects."""

_MAP_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")


def zone_name(text: str) -> str:
    """A map name in lower case, as zones are kept; raises ``BadValue``."""
    name = text.lower()
    if not 0 < len(name) <= 64 or not _MAP_NAME.issuperset(name):
        raise BadValue(
            f'"{sanitize(text)}" is not a map name', "use 1 to 64 letters, digits, dots, hyphens and underscores"
        )
    return name


class LookupSettings(Section):
    """Answering Postfix."""

    deadline: Annotated[Duration, within(Duration, "0.1s", "20s")] = Field(
        default=Duration.parse("5s"),
        description="How long a lookup may wait for the policy, and then again for DANE, before it is answered from "
        "what is known; 20s at most in all.",
    )
    max_connections: Count = Field(
        default=512,
        ge=1,
        le=65536,
        description="Connections held at once; at the limit the one idle the longest is closed. Each Postfix process "
        "that delivers mail holds one.",
    )
    ready_replies: Count = Field(
        default=200000, ge=1000, le=10000000, description="How many replies are kept ready in memory."
    )
    memory_bytes: Annotated[Size, within(Size, "1MiB", "64GiB")] = Field(
        default=Size.parse("64MiB"), description="About how much memory what is kept ready may take."
    )


class DnsSettings(Section):
    """Asking DNS."""

    resolvers: tuple[Annotated[ServerAddress, parsed(ServerAddress)], ...] = Field(
        default=(),
        max_length=16,
        description="Resolvers to ask, as ADDRESS, ADDRESS:PORT or [IPV6]:PORT. Empty: those of /etc/resolv.conf.",
    )
    timeout: Annotated[Duration, within(Duration, "0.1s", "30s")] = Field(
        default=Duration.parse("5s"), description="How long a question may take in all, with repeats."
    )
    trust_ad: Networks = Field(
        default=(),
        max_length=64,
        description="Networks of resolvers whose word on DNSSEC (the AD bit) is believed. One on this host always is.",
    )
    dnssec_probe: Annotated[ProbeQuery, parsed(ProbeQuery)] = Field(
        default=ProbeQuery("NS", ""),
        description="What is asked, as TYPE:NAME, to learn whether the resolver validates DNSSEC: a signed name.",
    )
    bogus_probe: Annotated[ProbeQuery, parsed(ProbeQuery)] | None = Field(
        default=None,
        description="A name with broken signatures, as TYPE:NAME; a resolver that answers for it does not validate.",
    )


class HttpsSettings(Section):
    """Fetching policies."""

    ca_file: FilePath | None = Field(
        default=None,
        description="Certificates of the authorities to trust, in PEM form, in place of the system's.",
    )
    allow_addresses: Networks = Field(
        default=(),
        max_length=64,
        description="Networks that policies may be fetched from although they are private, local or reserved.",
    )
    timeout: Annotated[Duration, within(Duration, "1s", "60s")] = Field(
        default=Duration.parse("60s"),
        description="How long a fetch may take in all (RFC 8461 section 3.3: about a minute). While others wait, one"
        " for a domain without a policy is given up sooner, and tried again.",
    )
    max_fetches: Count = Field(
        default=64,
        ge=1,
        le=4096,
        description="Fetches at once; known policies may take three quarters of them, and so may new ones.",
    )
    max_fetches_per_network: Count = Field(
        default=8,
        ge=1,
        le=4096,
        description="Fetches at once from one network (/24 of IPv4, /56 of IPv6); three quarters for either kind.",
    )


class CacheSettings(Section):
    """How long things hold."""

    txt_ttl_min: Annotated[Duration, within(Duration, "1s", "1h")] = Field(
        default=Duration.parse("60s"), description="The least time that a _mta-sts TXT answer holds, whatever its TTL."
    )
    txt_ttl_max: Annotated[Duration, within(Duration, "1s", "1d")] = Field(
        default=Duration.parse("1h"), description="The longest time that a _mta-sts TXT answer holds, whatever its TTL."
    )
    refresh_after: Annotated[Duration, within(Duration, "1m", "30d")] = Field(
        default=Duration.parse("24h"),
        description="A policy is fetched again at this age, or at half its life where that is sooner "
        "(RFC 8461 section 10.2: daily).",
    )
    retry_min: Annotated[Duration, within(Duration, "10s", "6h")] = Field(
        default=Duration.parse("5m"),
        description="The wait after a failed fetch, which doubles from failure to failure (RFC 8461 section 3.3: 5m).",
    )
    retry_max: Annotated[Duration, within(Duration, "10s", "7d")] = Field(
        default=Duration.parse("6h"), description="The longest wait after a failed fetch."
    )
    unused_after: Annotated[Duration, within(Duration, "1h", "3650d")] = Field(
        default=Duration.parse("30d"), description="A domain not asked for in this time is no longer refreshed."
    )

    @field_validator("txt_ttl_max")
    @classmethod
    def _txt_order(cls, value: Duration, info: ValidationInfo) -> Duration:
        return _not_below(value, info, "txt_ttl_min")

    @field_validator("retry_max")
    @classmethod
    def _retry_order(cls, value: Duration, info: ValidationInfo) -> Duration:
        return _not_below(value, info, "retry_min")


def _not_below(value: Duration, info: ValidationInfo, name: str) -> Duration:
    least = info.data.get(name)
    if least is not None and value < least:
        raise BadValue(f"{value} is below {name}, {least}", f"raise it, or lower {name}")
    return value


class StoreSettings(Section):
    """Keeping policies over restarts."""

    path: FilePath | None = Field(
        default=None,
        description="The SQLite file. Empty: policies.sqlite in $STATE_DIRECTORY, which systemd sets, "
        "or else in /var/lib/mtasts-daemon.",
    )
    max_policies: Count = Field(
        default=200000,
        ge=100,
        le=100000000,
        description="How many policies are kept; the least recently used go first.",
    )
    max_bytes: Annotated[Size, within(Size, "1MiB", "1TiB")] = Field(
        default=Size.parse("1GiB"), description="How large the file may grow; the least recently used go first."
    )

    def file(self, environ: Mapping[str, str]) -> Path:
        """The file to use, given the environment the daemon was started with."""
        if self.path is not None:
            return self.path
        # systemd.exec(5): several directories come separated by colons.
        directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return Path(directory or "/var/lib/mtasts-daemon") / "policies.sqlite"


class CompatibilitySettings(Section):
    """What the RFCs replaced."""

    draft_2017: StrictBool = Field(
        default=False,
        description="Also read the policies and records of the drafts of 2017. No domain of today needs it.",
    )


class LogSettings(Section):
    """What is told, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is told.")
    format: Literal["auto", "plain", "journald", "json"] = Field(
        default="auto", description="How lines look: auto is journald where systemd reads them, otherwise plain."
    )


def _named(value: object) -> object:
    return {} if value is None else value


ZoneName = Annotated[str, AfterValidator(zone_name)]
PolicyDomain = Annotated[str, AfterValidator(override_domain)]


class Config(Section):
    """The configuration of mtasts-daemon. Every key may be left out."""

    listen: Annotated[tuple[Annotated[Listen, parsed(Listen)], ...], Field(max_length=64)] = Field(
        default=(Listen("socketmap", "127.0.0.1", 8461),),
        description="Where lookups are answered: socketmap:inet:HOST:PORT, socketmap:unix:PATH or tcp_table:HOST:PORT. "
        "The map name of main.cf is no part of it.",
    )
    unix_mode: Annotated[FileMode, parsed(FileMode)] = Field(
        default=FileMode(0o660), description="Permissions of the Unix sockets of listen, in octal and in quotes."
    )
    zones: Annotated[dict[ZoneName, ZoneSettings], BeforeValidator(_named)] = Field(
        default_factory=dict,
        validate_default=True,
        description="Map names, in any letter case, and how they are answered. postfix, QUERY (both plain), "
        "QUERYwithTLSRPT and postfix-tlsrpt (both tlsrpt) are there without being named; what is written here "
        "changes them.",
    )
    default_zone: StrictStr = Field(
        default="postfix", description="The zone that answers for an unknown map name, and for tcp_table."
    )
    lookup: LookupSettings = Field(default_factory=LookupSettings, description="Answering Postfix.")
    dns: DnsSettings = Field(default_factory=DnsSettings, description="Asking DNS.")
    https: HttpsSettings = Field(default_factory=HttpsSettings, description="Fetching policies.")
    cache: CacheSettings = Field(default_factory=CacheSettings, description="How long things hold.")
    store: StoreSettings = Field(default_factory=StoreSettings, description="Keeping policies over restarts.")
    overrides: Annotated[dict[PolicyDomain, OverrideSettings], BeforeValidator(_named)] = Field(
        default_factory=dict,
        description="Policy domains, and what is done in place of what their policies say, with the reason.",
    )
    compatibility: CompatibilitySettings = Field(
        default_factory=CompatibilitySettings, description="What the RFCs replaced."
    )
    log: LogSettings = Field(default_factory=LogSettings, description="What is told, on standard error.")
    admin: AdminSettings = Field(default_factory=AdminSettings, description="Watching and steering the daemon.")
    tlsrpt: TlsrptSettings = Field(
        default_factory=TlsrptSettings, description="Collecting TLS results and reporting them, RFC 8460."
    )

    public: PublicSettings = Field(
        default_factory=PublicSettings, description="The HTTP server that strangers may reach."
    )
    publish: PublishSettings = Field(default_factory=PublishSettings, description="The policies of your own domains.")

    receive: ReceiveSettings = Field(
        default_factory=ReceiveSettings, description="Receiving TLS reports about the own domains, RFC 8460."
    )

    @model_validator(mode="before")
    @classmethod
    def _every_section(cls, value: object) -> object:
        # A section that is made by its default_factory has pydantic build a validator for it alone, which start-up
        # would wait for; this way all are part of one.
        return {name: {} for name in _SECTIONS} | value if isinstance(value, dict) else value

    @field_validator("listen")
    @classmethod
    def _no_conflicts(cls, value: tuple[Listen, ...]) -> tuple[Listen, ...]:
        for position, listen in enumerate(value):
            for before in value[:position]:
                if listen.conflicts(before):
                    raise BadValue(f"{before} and {listen} take the same address", "remove one")
        return value

    @field_validator("zones")
    @classmethod
    def _with_built_in(cls, value: dict[str, ZoneSettings]) -> dict[str, ZoneSettings]:
        zones = {name: ZoneSettings.model_construct(dialect=dialect) for name, dialect in BUILT_IN_ZONES.items()}
        for name, zone in value.items():
            stated = {key: getattr(zone, key) for key in zone.model_fields_set}
            zones[name] = zones[name].model_copy(update=stated) if name in zones else zone
        return zones

    @field_validator("default_zone")
    @classmethod
    def _zone_exists(cls, value: str, info: ValidationInfo) -> str:
        name = zone_name(value)
        zones = info.data.get("zones")
        if zones is not None and name not in zones:
            raise Unresolved(
                f'there is no zone "{sanitize(value)}"', f"write one of {', '.join(zones)}, or add it to zones"
            )
        return name


_SECTIONS = (
    "lookup",
    "dns",
    "https",
    "cache",
    "store",
    "compatibility",
    "log",
    "admin",
    "tlsrpt",
    "public",
    "publish",
    "receive",
)
