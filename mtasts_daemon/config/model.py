"""The configuration as a frozen model: every key, its default, its limits and its description.

The sections are in ``sections``. The JSON Schema, mtasts-daemon.yml(5) and config.example.yml are made from the
descriptions. Times are in seconds, sizes in bytes.
"""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr, ValidationInfo, field_validator, model_validator

from ..text import sanitize
from .fields import Section, parse_field
from .problems import BadValue, Unresolved
from .sections.admin import AdminSettings
from .sections.cache import CacheSettings
from .sections.check import CheckSettings
from .sections.compatibility import CompatibilitySettings
from .sections.dns import DnsSettings
from .sections.https import HttpsSettings
from .sections.log import LogSettings
from .sections.lookup import LookupSettings
from .sections.notify import NotifySettings
from .sections.overrides import OverrideSettings, override_domain
from .sections.public import PublicSettings
from .sections.publish import PublishSettings
from .sections.receive import ReceiveSettings
from .sections.store import StoreSettings
from .sections.tlsrpt import TlsrptSettings
from .sections.zones import BUILT_IN_ZONES, ZoneSettings, zone_name
from .values import FileMode, Listen

__all__ = ["Config"]


def _empty_is_none_given(value: object) -> object:
    return {} if value is None else value


ZoneName = Annotated[str, AfterValidator(zone_name)]
PolicyDomain = Annotated[str, AfterValidator(override_domain)]


class Config(Section):
    """The configuration of mtasts-daemon. Every key may be left out."""

    listen: Annotated[tuple[Annotated[Listen, parse_field(Listen)], ...], Field(max_length=64)] = Field(
        default=(Listen("socketmap", "127.0.0.1", 8461),),
        description="Listeners for lookups: socketmap:inet:HOST:PORT, socketmap:unix:PATH or tcp_table:HOST:PORT. "
        "The map name of main.cf does not belong here.",
    )
    unix_mode: Annotated[FileMode, parse_field(FileMode)] = Field(
        default=FileMode(0o660), description="Permissions of the Unix sockets of listen, in octal and in quotes."
    )
    zones: Annotated[dict[ZoneName, ZoneSettings], BeforeValidator(_empty_is_none_given)] = Field(
        default_factory=dict,
        validate_default=True,
        description="Map names, in any letter case, and how their lookups are answered. postfix and QUERY (plain), "
        "QUERYwithTLSRPT and postfix-tlsrpt (tlsrpt) always exist; keys written here change them.",
    )
    default_zone: StrictStr = Field(
        default="postfix", description="The zone for lookups with an unknown map name, and for tcp_table."
    )
    lookup: LookupSettings = Field(
        default_factory=LookupSettings, description="Limits of lookups and of the cache in memory."
    )
    dns: DnsSettings = Field(default_factory=DnsSettings, description="Resolvers and how they are queried.")
    https: HttpsSettings = Field(default_factory=HttpsSettings, description="How policies are fetched.")
    cache: CacheSettings = Field(default_factory=CacheSettings, description="How long policies and answers are used.")
    store: StoreSettings = Field(
        default_factory=StoreSettings, description="The file of policies. Read at the start only."
    )
    overrides: Annotated[dict[PolicyDomain, OverrideSettings], BeforeValidator(_empty_is_none_given)] = Field(
        default_factory=dict,
        description="Exceptions for single policy domains: one of skip, treat_as and reply, and the reason.",
    )
    compatibility: CompatibilitySettings = Field(
        default_factory=CompatibilitySettings, description="Formats that the RFCs replaced."
    )
    log: LogSettings = Field(default_factory=LogSettings, description="Log lines on standard error.")
    admin: AdminSettings = Field(
        default_factory=AdminSettings, description="The admin socket, the status page and the metrics."
    )
    tlsrpt: TlsrptSettings = Field(
        default_factory=TlsrptSettings, description="TLS reports that this host sends (RFC 8460)."
    )

    public: PublicSettings = Field(
        default_factory=PublicSettings, description="The HTTP server that strangers may reach."
    )
    publish: PublishSettings = Field(default_factory=PublishSettings, description="The policies of your own domains.")
    check: CheckSettings = Field(default_factory=CheckSettings, description="Domains that are checked regularly.")
    notify: NotifySettings = Field(default_factory=NotifySettings, description="Alerts by mail and webhook.")

    receive: ReceiveSettings = Field(
        default_factory=ReceiveSettings, description="Receiving TLS reports about the own domains, RFC 8460."
    )

    @model_validator(mode="before")
    @classmethod
    def _every_section(cls, value: object) -> object:
        # For a section made by its default_factory pydantic builds a validator of its own, which delays the start.
        return {name: {} for name in _SECTIONS} | value if isinstance(value, dict) else value

    @field_validator("listen")
    @classmethod
    def _no_conflicts(cls, value: tuple[Listen, ...]) -> tuple[Listen, ...]:
        for position, listen in enumerate(value):
            for before in value[:position]:
                if listen.conflicts(before):
                    raise BadValue(f"{before} and {listen} are the same address", "remove one")
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

    @field_validator("receive")
    @classmethod
    def _has_own_domains(cls, value: ReceiveSettings, info: ValidationInfo) -> ReceiveSettings:
        publish = info.data.get("publish")
        published = publish is None or publish.domains or publish.domains_file is not None
        if value.has_input and not value.own_domains and not published:
            raise Unresolved("no domain is ours, so every report would be dropped", "list your domains in own_domains")
        return value


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
    "check",
    "notify",
)
