"""DNS answers as values: what a resolver found, and whether it vouches for it.

Names are lower-case A-labels without the final dot. TTLs are in seconds.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

__all__ = ["DnsAnswer", "MxRecord", "RRType", "TlsaRecord"]

R = TypeVar("R", covariant=True)


class RRType(IntEnum):
    """The record types this program asks for (RFC 1035, 3596, 6698)."""

    A = 1
    NS = 2
    CNAME = 5
    MX = 15
    TXT = 16
    AAAA = 28
    TLSA = 52

    # That of Enum hashes the name, in Python, at each of the many dictionaries with types as keys.
    __hash__ = int.__hash__


@dataclass(frozen=True, slots=True)
class MxRecord:
    """One MX record; the null MX of RFC 7505 has an empty host."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class TlsaRecord:
    """One TLSA record as published, usable or not (RFC 6698 section 2.1)."""

    usage: int
    selector: int
    matching_type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DnsAnswer(Generic[R]):
    """What DNS says of a name and type: records, or their proven or claimed absence.

    ``ttl`` is the least of the whole chain; for an absence, the SOA minimum (RFC 2308 section 5), or 0 when
    no SOA came along. ``canonical`` is the name at the end of the CNAME chain, ``name`` when there is none.
    ``authenticated`` is the AD bit, already withdrawn where the resolver is not one to be believed.
    """

    name: str
    records: tuple[R, ...]
    ttl: int
    authenticated: bool = False
    exists: bool = True
    """False for NXDOMAIN."""
    canonical: str = ""
