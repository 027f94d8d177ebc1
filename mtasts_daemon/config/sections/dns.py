"""The section ``dns``: resolvers and how they are queried."""

from typing import Annotated

from pydantic import Field

from ..fields import Networks, Section, limited_field, parse_field
from ..values import Duration, ProbeQuery, ServerAddress

__all__ = ["DnsSettings"]


class DnsSettings(Section):
    """Resolvers and how they are queried."""

    resolvers: tuple[Annotated[ServerAddress, parse_field(ServerAddress)], ...] = Field(
        default=(),
        max_length=16,
        description="Resolvers, as ADDRESS, ADDRESS:PORT or [IPV6]:PORT. Default: those of /etc/resolv.conf.",
    )
    timeout: Annotated[Duration, limited_field(Duration, "0.1s", "30s")] = Field(
        default=Duration.parse("5s"), description="Maximum time for a query, with all retries."
    )
    trust_ad: Networks = Field(
        default=(),
        max_length=64,
        description="Networks of resolvers whose AD bit is trusted. A resolver on a loopback address always is.",
    )
    dnssec_probe: Annotated[ProbeQuery, parse_field(ProbeQuery)] = Field(
        default=ProbeQuery("NS", ""),
        description="Query for a signed name, as TYPE:NAME, to find out if the resolver validates DNSSEC.",
    )
    bogus_probe: Annotated[ProbeQuery, parse_field(ProbeQuery)] | None = Field(
        default=None,
        description="Query for a name with broken signatures, as TYPE:NAME. A resolver that returns an answer does not "
        "validate.",
    )
