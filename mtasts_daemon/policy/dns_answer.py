"""DNS answers as values: records and the AD bit.

Names are lower-case A-labels without the final dot. TTLs are in seconds.
"""

from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

__all__ = ["DnsAnswer", "MxRecord", "RRType", "TlsaRecord", "has_null_mx"]

R = TypeVar("R", covariant=True)


class RRType(IntEnum):
    """The record types that this program queries (RFC 1035, 3596, 6698)."""

    A = 1
    NS = 2
    CNAME = 5
    MX = 15
    TXT = 16
    AAAA = 28
    TLSA = 52

    # Enum hashes the name in Python, which is slow in the many dictionaries with types as keys.
    __hash__ = int.__hash__


class MxRecord(NamedTuple):
    """One MX record; the null MX of RFC 7505 has an empty host."""

    preference: int
    host: str


class TlsaRecord(NamedTuple):
    """One TLSA record as published, usable or not (RFC 6698 section 2.1)."""

    usage: int
    selector: int
    matching_type: int
    data: bytes


class DnsAnswer(NamedTuple, Generic[R]):
    """The answer for a name and type: records, or their absence.

    ``ttl`` is the minimum of the whole chain; for an absence the SOA minimum (RFC 2308 section 5), or 0 without SOA.
    ``canonical`` is the name at the end of the CNAME chain, or ``name`` without a chain. ``authenticated`` is the AD
    bit; false if the resolver is not trusted for it.
    """

    name: str
    records: tuple[R, ...]
    ttl: int
    authenticated: bool = False
    exists: bool = True
    """False for NXDOMAIN."""
    canonical: str = ""


def has_null_mx(reply: DnsAnswer[object]) -> bool:
    """Return True if one of the records is a null MX, which must be the only one (RFC 7505 section 3)."""
    return any(isinstance(record, MxRecord) and not record.host for record in reply.records)
