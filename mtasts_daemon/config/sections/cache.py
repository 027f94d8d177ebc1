"""The section ``cache``: how long policies and answers are used."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from ..fields import Section, limited_field
from ..problems import BadValue
from ..values import Duration

__all__ = ["CacheSettings"]


class CacheSettings(Section):
    """How long policies and answers are used."""

    txt_ttl_min: Annotated[Duration, limited_field(Duration, "1s", "1h")] = Field(
        default=Duration.parse("60s"),
        description="Minimum time that a _mta-sts TXT answer is used, regardless of its TTL.",
    )
    txt_ttl_max: Annotated[Duration, limited_field(Duration, "1s", "1d")] = Field(
        default=Duration.parse("1h"),
        description="Maximum time that a _mta-sts TXT answer is used, regardless of its TTL.",
    )
    refresh_after: Annotated[Duration, limited_field(Duration, "1m", "30d")] = Field(
        default=Duration.parse("24h"),
        description="Age at which a policy is fetched again, or half of its max_age if that is less "
        "(RFC 8461 section 10.2: daily).",
    )
    retry_min: Annotated[Duration, limited_field(Duration, "10s", "6h")] = Field(
        default=Duration.parse("5m"),
        description="Time between a failed fetch and the next one. It doubles with each failure "
        "(RFC 8461 section 3.3: 5m).",
    )
    retry_max: Annotated[Duration, limited_field(Duration, "10s", "7d")] = Field(
        default=Duration.parse("6h"), description="Maximum time between a failed fetch and the next one."
    )
    unused_after: Annotated[Duration, limited_field(Duration, "1h", "3650d")] = Field(
        default=Duration.parse("30d"),
        description="Time without a lookup after which a domain is no longer refreshed.",
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
