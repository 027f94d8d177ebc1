"""The operator's own domains: what may be written below ``publish``."""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictStr,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from ...errors import MtaStsError
from ...policy.mtasts import Mode, MxPattern, StsPolicy, parse_policy
from ...policy.next_hop import policy_domain
from ...text import sanitize
from ..fields import Count, FilePath, Section, limited_field, parse_field
from ..problems import BadValue, Unresolved
from ..values import Duration, ServerAddress, describe

__all__ = ["DnsUpdateSettings", "PublishSettings", "PublishedDomainSettings", "published_domain"]

_MAX_MX = 100
_ALGORITHMS = Literal["hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1", "hmac-md5"]


def published_domain(text: str) -> str:
    """Return the domain in lower-case A-labels; raises ``BadValue``."""
    try:
        return policy_domain(text)
    except ValueError as error:
        raise BadValue(f'"{sanitize(text)}" is not a domain: {error}', "write a name such as example.com") from None


def _addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ip_address(text)) for text in value)
    except ValueError as error:
        raise BadValue(sanitize(str(error), 200), "write IP addresses") from None


def _host(value: str) -> str:
    return published_domain(value)


class _MxWritten:
    """How pydantic parses ``mx``: ``auto``, or a list of patterns (RFC 8461 section 3.2)."""

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_mx)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        patterns = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": _MAX_MX}
        return {"anyOf": [{"const": "auto"}, patterns]}


def _mx(value: object) -> Literal["auto"] | tuple[str, ...]:
    if value == "auto":
        return "auto"
    if not isinstance(value, list | tuple) or not value or len(value) > _MAX_MX:
        raise BadValue(
            f"must be auto or a list of 1 to {_MAX_MX} host names, not {describe(value)}",
            'write mx: auto, or mx: ["mx.example.com"]',
        )
    return tuple(_pattern(one) for one in value)


def _pattern(value: object) -> str:
    text = value.lower().removesuffix(".") if isinstance(value, str) else ""
    policy = StsPolicy(Mode.TESTING, (MxPattern(text),), 86400)
    try:
        if not text.isprintable() or parse_policy("\n".join(policy.lines).encode()) != policy:
            raise BadValue("")
    except (MtaStsError, UnicodeError, BadValue):
        raise BadValue(
            f"{describe(value)} is not a host name or a pattern", 'write "mx.example.com" or "*.example.com"'
        ) from None
    return text


def _rua_uris(value: tuple[str, ...]) -> tuple[str, ...]:
    for uri in value:
        # RFC 8460 section 3: the three characters that the record itself needs have to be encoded.
        if not uri.startswith(("mailto:", "https://")) or not uri.isascii() or not uri.isprintable():
            raise BadValue(f'"{sanitize(uri)}" is not a report address', "write mailto:ADDRESS or https://...")
        if set(uri) & set(',;! "\\') or len(uri) > 512:
            raise BadValue(
                f'"{sanitize(uri)}" is not a report address', "encode commas, semicolons and exclamation marks"
            )
    return value


class PublishedDomainSettings(Section):
    """The policy of one own domain."""

    mode: Literal["enforce", "testing", "none"] = Field(
        default="testing", description="The mode that the domain is to have, once a rollout is complete."
    )
    mx: Annotated[Literal["auto"] | tuple[str, ...], _MxWritten()] = Field(
        default="auto",
        description="Host names and patterns of the MX hosts; auto reads the MX records through the resolver of this "
        "host.",
    )
    max_age: Annotated[Duration, limited_field(Duration, "1m", "365d")] = Field(
        default=Duration.parse("30d"), description="How long senders keep the policy, RFC 8461 section 3.2."
    )
    rua: Annotated[tuple[StrictStr, ...], AfterValidator(_rua_uris), Field(max_length=8)] = Field(
        default=(),
        description="Where TLS reports are requested to: mailto: and https: URIs, for the TLSRPT record.",
    )
    rollout: Literal["manual", "automatic"] = Field(
        default="manual",
        description="automatic: a domain with mode enforce begins in testing, and moves on as soon as the evidence "
        "suffices. manual: mtastsctl publish rollout does both.",
    )
    delegate_to: Annotated[StrictStr, AfterValidator(published_domain)] | None = Field(
        default=None,
        description="Another published domain whose policy and id this one has: its DNS names are CNAMEs to that "
        "domain's (RFC 8461 section 8.2).",
    )

    @model_validator(mode="after")
    def _delegated_alone(self) -> "PublishedDomainSettings":
        given = self.model_fields_set & {"mode", "mx", "max_age", "rollout"}
        if self.delegate_to is not None and given:
            raise BadValue(
                f"delegate_to excludes {', '.join(sorted(given))}",
                "remove them: the policy is that of the other domain",
            )
        return self


class DnsUpdateSettings(Section):
    """Writing DNS records by RFC 2136, signed with TSIG (RFC 8945)."""

    server: Annotated[ServerAddress, parse_field(ServerAddress)] = Field(
        description="The primary name server, as ADDRESS, ADDRESS:PORT or [IPV6]:PORT."
    )
    key_name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_.-]{1,253}$")] = Field(
        description="The name of the TSIG key."
    )
    key_algorithm: _ALGORITHMS = Field(default="hmac-sha256", description="The algorithm of the TSIG key.")
    key_file: FilePath = Field(
        description="A file with the key in Base64; not readable by others. A relative path starts in "
        "$CREDENTIALS_DIRECTORY if systemd sets it."
    )
    wait: Annotated[Duration, limited_field(Duration, "0s", "10m")] = Field(
        default=Duration.parse("60s"),
        description="How long publish apply waits until all authoritative servers have a new record.",
    )


def _named(value: object) -> object:
    return {} if value is None else value


class PublishSettings(Section):
    """The policies of the operator's own domains. They are served by the public listener."""

    domains: Annotated[
        dict[Annotated[str, AfterValidator(published_domain)], PublishedDomainSettings], BeforeValidator(_named)
    ] = Field(default_factory=dict, description="Own domains and their policies.")
    domains_file: FilePath | None = Field(
        default=None,
        description="A file with one domain a line, for many of them: DOMAIN, then any of mode=, mx=, max_age=, rua=, "
        "rollout= and delegate_to=, with commas in lists.",
    )
    host: Annotated[StrictStr, AfterValidator(_host)] | None = Field(
        default=None, description="The name of the public listener's host; policy hosts are CNAMEs to it."
    )
    addresses: Annotated[tuple[StrictStr, ...], AfterValidator(_addresses), Field(max_length=16)] = Field(
        default=(),
        description="Addresses of the public listener as the Internet reaches it, for A and AAAA records and for /ask. "
        "Default: those of host, otherwise those of this host.",
    )
    clean_days: Count = Field(
        default=7,
        ge=1,
        le=366,
        description="Days with reports and without failures that a rollout needs for each step.",
    )
    database: FilePath | None = Field(
        default=None,
        description="The SQLite file of the publishing state. Default: publish.sqlite next to the file of policies.",
    )
    dns_update: DnsUpdateSettings | None = Field(
        default=None, description="Write DNS records by RFC 2136. Default: mtastsctl publish records prints them."
    )

    def file(self, store: Path) -> Path:
        """Return the database to use, given the file of the policies."""
        return self.database if self.database is not None else store.parent / "publish.sqlite"

    @model_validator(mode="after")
    def _delegations_end(self) -> "PublishSettings":
        check_delegations(self.domains)
        return self


def check_delegations(domains: Mapping[str, PublishedDomainSettings]) -> None:
    """Raise ``Unresolved`` if a domain delegates to one that delegates itself."""
    for domain, settings in domains.items():
        target = domains.get(settings.delegate_to) if settings.delegate_to is not None else None
        if target is not None and target.delegate_to is not None:
            raise Unresolved(
                f"{domain} delegates to {settings.delegate_to}, which delegates itself",
                "delegate to the domain that has the policy",
            )
