"""The section ``zones``: how the lookups of each map name are answered."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ...text import sanitize
from ..fields import Section
from ..problems import BadValue

__all__ = ["BUILT_IN_ZONES", "ZoneSettings", "zone_name"]


class ZoneSettings(Section):
    """How the lookups of one map name are answered."""

    dialect: Literal["plain", "tlsrpt"] = Field(
        default="plain",
        description="Attributes in replies: plain for Postfix 3.4 to 3.9, tlsrpt for 3.10 and later. "
        "An older Postfix defers all mail if it gets tlsrpt.",
    )
    default_level: Literal["none", "may", "encrypt", "dane", "dane-only", "verify", "secure"] | None = Field(
        default=None,
        description="The smtp_tls_security_level of Postfix. If it is known and the dialect is tlsrpt, domains in "
        "testing mode are answered with it, so that TLS reports name their policy. "
        "If not set, it is read from main.cf, and again when that changes.",
    )
    dane: Literal["auto", "on", "always", "off"] = Field(
        default="auto",
        description="Whether DANE takes precedence over an enforced policy. auto is on if the resolver validates and "
        "Postfix has smtp_dns_support_level = dnssec. always also looks for DANE in domains without a policy.",
    )
    dane_partial: Literal["dane-only", "secure"] = Field(
        default="dane-only",
        description="The answer if DANE covers only some MX hosts of a domain with an enforced policy. "
        "secure departs from RFC 8461 section 2.",
    )


BUILT_IN_ZONES: Mapping[str, Literal["plain", "tlsrpt"]] = {
    "postfix": "plain",
    "query": "plain",
    "querywithtlsrpt": "tlsrpt",
    "postfix-tlsrpt": "tlsrpt",
}
"""Zones that exist without configuration: lower-case name to dialect."""

_MAP_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")


def zone_name(text: str) -> str:
    """Return a map name in lower case, as zones are stored. Raises ``BadValue``."""
    name = text.lower()
    if not 0 < len(name) <= 64 or not _MAP_NAME.issuperset(name):
        raise BadValue(
            f'"{sanitize(text)}" is not a map name', "use 1 to 64 letters, digits, dots, hyphens and underscores"
        )
    return name
