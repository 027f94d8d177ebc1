"""The section ``https``: how policies are fetched."""

from typing import Annotated

from pydantic import Field

from ..fields import Count, FilePath, Networks, Section, limited_field, parse_field
from ..values import Duration, HostPort

__all__ = ["HttpsSettings"]


class HttpsSettings(Section):
    """How policies are fetched."""

    ca_file: FilePath | None = Field(
        default=None,
        description="CA certificates to trust instead of the system's, in PEM form.",
    )
    allow_addresses: Networks = Field(
        default=(),
        max_length=64,
        description="Private, local or reserved networks from which policies may be fetched nevertheless.",
    )
    proxy: Annotated[HostPort, parse_field(HostPort)] | None = Field(
        default=None,
        description="HTTP proxy, as HOST:PORT, for policy hosts and report receivers. The proxy resolves their names, "
        "so the address filter does not apply.",
    )
    timeout: Annotated[Duration, limited_field(Duration, "1s", "60s")] = Field(
        default=Duration.parse("60s"),
        description="Maximum time for a fetch (RFC 8461 section 3.3: about a minute). The first fetch of a domain is "
        "cancelled after 5 seconds if other fetches wait, and retried.",
    )
    max_fetches: Count = Field(
        default=64,
        ge=1,
        le=4096,
        description="Maximum number of fetches at the same time. A quarter is reserved for known policies, a quarter "
        "for new ones.",
    )
    max_fetches_per_network: Count = Field(
        default=8,
        ge=1,
        le=4096,
        description="Maximum number of fetches at the same time from one network (/24 of IPv4, /56 of IPv6).",
    )
