"""Watched domains: what may be written below ``check``."""

from typing import Annotated

from pydantic import Field, StrictBool

from ..fields import FilePath, Section, limited_field
from ..values import Duration
from .tlsrpt import Domain

__all__ = ["CheckSettings"]


class CheckSettings(Section):
    """Domains that the daemon checks regularly, as a sender sees them."""

    domains: Annotated[tuple[Domain, ...], Field(max_length=1000)] = Field(
        default=(), description="Domains to check. A problem that two checks in a row find is an alert (notify)."
    )
    every: Annotated[Duration, limited_field(Duration, "1h", "30d")] = Field(
        default=Duration.parse("24h"), description="How often each domain is checked."
    )
    port25: StrictBool = Field(
        default=True, description="Connect to MX hosts. Write false if outgoing connections to port 25 are blocked."
    )
    database: FilePath | None = Field(
        default=None,
        description="The SQLite file of the history. Default: check.sqlite next to the file of policies.",
    )
