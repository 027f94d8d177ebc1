"""The section ``lookup``: limits of lookups and of the cache in memory."""

from typing import Annotated

from pydantic import Field

from ..fields import Count, Section, limited_field
from ..values import Duration, Size

__all__ = ["LookupSettings"]


class LookupSettings(Section):
    """Limits of lookups and of the cache in memory."""

    deadline: Annotated[Duration, limited_field(Duration, "0.1s", "20s")] = Field(
        default=Duration.parse("5s"),
        description="Maximum time a lookup waits for the policy, and then again for DANE. After that it is answered "
        "from cached data. 20.5s at most in total.",
    )
    max_connections: Count = Field(
        default=512,
        ge=1,
        le=65536,
        description="Maximum number of connections. At the limit the connection that is idle longest is closed. Each "
        "Postfix process that delivers mail holds one.",
    )
    ready_replies: Count = Field(
        default=200000, ge=1000, le=10000000, description="Maximum number of policies and of replies kept in memory."
    )
    memory_bytes: Annotated[Size, limited_field(Size, "1MiB", "64GiB")] = Field(
        default=Size.parse("64MiB"), description="Approximate maximum memory for policies, and again for replies."
    )
