"""DNS messages: writes queries, reads replies (RFC 1035 section 4, RFC 6891).

Nearly every reply this program gets says that a name has no such record, so those of the usual shape are
recognised by a few comparisons. All others are walked record by record with dnspython's reader of names and
record data. Not with its ``dns.message``: that refuses a whole message for one TLSA record of the wrong length,
which must only make that record unusable (RFC 7672 section 2.1.1), and reads sections nobody needs.

Limits: messages to 65535 bytes, 500 records per section, 16 links of a CNAME chain. Whatever the bytes, reading
gives an ``Answer`` or raises a ``DnsError``.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire

from ..errors import DnsMalformed, DnsRefused, DnsServerFailure
from ..policy.answers import Answer, MxRecord, RRType, TlsaRecord

__all__ = ["encode_query", "encode_question", "is_truncated", "matches", "read_answer"]

_RECORDS_MAX: Final = 500
_CHAIN_MAX: Final = 16
_TTL_MAX: Final = 0x7FFFFFFF
_NXDOMAIN: Final = 3
_SOA: Final = 6
_OPT: Final = 41
_IN: Final = 1

# RD, and AD: we understand the AD bit and want it in the reply (RFC 6840 section 5.7). DO would bring signatures
# nobody here checks. One question, and one additional record: OPT.
_ASK: Final = bytes.fromhex("0120 0001 0000 0000 0001")
# 1232 bytes fit any path unfragmented; fragments can be lost and forged.
_EDNS: Final = bytes.fromhex("00 0029 04d0 00000000 0000")
_QUESTION_END: Final = {rdtype: struct.pack("!BHH", 0, rdtype, _IN) for rdtype in RRType}
_LENGTHS: Final = [bytes((size,)) for size in range(64)]

_u16x2 = struct.Struct("!HH").unpack_from
_counts = struct.Struct("!HHHH").unpack_from
_rr_head = struct.Struct("!HHIH").unpack_from
_u32 = struct.Struct("!I").unpack_from


def encode_question(name: str, rdtype: RRType) -> bytes | None:
    """The question section for a name, lower case; None when no such name can exist in DNS.

    That is: a label is empty or over 63 bytes, the name is over 255 (RFC 1035 section 2.3.4), or the text is not
    ASCII or holds an escape, as names read from an answer may. The empty name is the root.
    """
    if not name:
        return _QUESTION_END[rdtype]
    try:
        labels = name.lower().encode("ascii").split(b".")
        parts = [_LENGTHS[len(label)] + label for label in labels]
    except (UnicodeEncodeError, IndexError):
        return None
    question = b"".join(parts)
    if b"" in labels or len(question) > 254 or b"\\" in question:
        return None
    return question + _QUESTION_END[rdtype]


def encode_query(message_id: int, question: bytes) -> bytes:
    """A recursive query that asks for the AD bit and offers to take 1232 bytes over UDP."""
    return message_id.to_bytes(2, "big") + _ASK + question + _EDNS


def matches(reply: bytes, question: bytes) -> bool:
    """Whether the bytes are a response to this one question, letter case aside.

    Comparing lower-cased bytes is safe: no length, and no part of a type or class asked for, is a letter.
    """
    return (
        len(reply) > 12
        and reply[2] & 0xF8 == 0x80  # QR, and the opcode is QUERY
        and reply[4:6] == b"\x00\x01"
        and (reply.startswith(question, 12) or reply[12 : 12 + len(question)].lower() == question)
    )


def is_truncated(reply: bytes) -> bool:
    """The TC bit of a reply that ``matches``."""
    return reply[2] & 0x02 != 0


def read_answer(reply: bytes, name: str, rdtype: RRType, *, trusted: bool) -> Answer[Any]:
    """What a reply says that ``matches`` the question; its AD bit counts only when ``trusted``.

    Raises DnsServerFailure (SERVFAIL), DnsRefused (any other error code), or DnsMalformed.
    """
    answer = _read_absence(reply, name, trusted)
    if answer is not None:
        return answer
    try:
        return _read_records(reply, name, rdtype, trusted)
    except dns.exception.DNSException as error:
        raise DnsMalformed(f"{_subject(name, rdtype)}: {type(error).__name__}") from error


def _read_absence(reply: bytes, name: str, trusted: bool) -> Answer[Any] | None:
    """The answer, if the reply holds no record but the SOA of a negative answer (RFC 2308) and perhaps OPT."""
    rcode = reply[3] & 0x0F
    _, answers, authorities, additionals = _counts(reply, 4)
    if rcode not in (0, _NXDOMAIN) or answers or authorities != 1 or additionals > 1:
        return None
    root = 12 + len(name) + (1 if name else 0)  # the zero byte that ends the name in the question
    at = root + 5
    try:
        if reply[at] >= 0xC0:
            owner = (reply[at] & 0x3F) << 8 | reply[at + 1]
            label = 12
            while label < owner <= root:
                label += 1 + reply[label]
            if label != owner:  # not one of the question's own parents
                return None
            at += 2
        elif reply[at] == 0:
            at += 1
        else:
            return None
        rdtype, rdclass, ttl, size = _rr_head(reply, at)
        end = at + 10 + size
        if rdtype != _SOA or rdclass != _IN or size < 22:  # two root names and five numbers
            return None
        if additionals:
            opt, _, extended, size = _rr_head(reply, end + 1)
            if reply[end] or opt != _OPT or extended >> 24:  # the upper bits of the error code, RFC 6891 section 6.1.3
                return None
            end += 11 + size
            (minimum,) = _u32(reply, end - 15 - size)
        else:
            (minimum,) = _u32(reply, end - 4)
    except (IndexError, struct.error):
        return None
    if end != len(reply):
        return None
    ttl = min(ttl, minimum) if ttl <= _TTL_MAX else 0
    return Answer(name, (), ttl, trusted and reply[3] & 0x20 != 0, rcode == 0, name)


def _read_records(reply: bytes, name: str, rdtype: RRType, trusted: bool) -> Answer[Any]:
    """Any reply: the records at the end of the CNAME chain, or what its authority section says of their absence."""
    rcode = reply[3] & 0x0F
    if rcode == dns.rcode.SERVFAIL:
        raise DnsServerFailure(_subject(name, rdtype))
    if rcode not in (0, _NXDOMAIN):
        raise DnsRefused(f"{_subject(name, rdtype)}: {dns.rcode.to_text(dns.rcode.Rcode(rcode))}")
    _, answers, authorities, additionals = _counts(reply, 4)
    if max(answers, authorities, additionals) > _RECORDS_MAX:
        raise DnsMalformed(f"{_subject(name, rdtype)}: more than {_RECORDS_MAX} records")
    parser = dns.wire.Parser(reply, 12)
    question = dns.name.from_wire_parser(parser)
    parser.get_struct("!HH")
    end, ttl, records = _follow_chain(parser, answers, question, rdtype)
    if rcode == _NXDOMAIN and records:  # RFC 6604 section 2: the code speaks of the end of the chain
        raise DnsMalformed(f"{_subject(name, rdtype)}: records of a name that does not exist")
    if not records:
        ttl = min(ttl, _read_soa(parser, authorities, end))
        _refuse_extended(parser, additionals, name, rdtype)
    canonical = name if end == question else _text(end)
    return Answer(name, records, ttl, trusted and reply[3] & 0x20 != 0, rcode == 0, canonical)


def _records(parser: dns.wire.Parser, count: int) -> Iterator[tuple[dns.name.Name, int, int, int, int]]:
    """Owner, type, class, TTL and size of each record, the parser standing at its data, which need not be read."""
    for _ in range(count):
        owner = dns.name.from_wire_parser(parser)
        rdtype, rdclass, ttl, size = parser.get_struct("!HHIH")
        end = parser.current + size
        yield owner, rdtype, rdclass, ttl, size
        parser.seek(end)


def _follow_chain(
    parser: dns.wire.Parser, count: int, name: dns.name.Name, rdtype: RRType
) -> tuple[dns.name.Name, int, tuple[Any, ...]]:
    """The end of the CNAME chain that begins at ``name``, the least TTL along it, and the records found there."""
    found: dict[dns.name.Name, list[Any]] = {}
    aliases: dict[dns.name.Name, dns.name.Name] = {}
    ttls: dict[dns.name.Name, int] = {}
    for owner, kind, rdclass, ttl, size in _records(parser, count):
        if rdclass != _IN or kind not in (rdtype, RRType.CNAME):
            continue
        value = _read_value(parser, kind, size)
        if kind == rdtype:
            found.setdefault(owner, []).append(_VALUES[rdtype](value))
        else:
            aliases[owner] = value.target
        ttls[owner] = min(ttls.get(owner, _TTL_MAX), ttl if ttl <= _TTL_MAX else 0)  # RFC 2181 section 8
    ttl = _TTL_MAX
    for _ in range(_CHAIN_MAX):
        ttl = min(ttl, ttls.get(name, ttl))
        if name in found:
            return name, ttl, tuple(dict.fromkeys(found[name]))
        if name not in aliases:
            return name, ttl, ()
        name = aliases[name]
    raise DnsMalformed(f"a CNAME chain of {_CHAIN_MAX} links or more")


def _read_value(parser: dns.wire.Parser, rdtype: int, size: int) -> Any:
    if rdtype == RRType.TLSA:
        return parser.get_bytes(size)
    with parser.restrict_to(size):
        return dns.rdata.from_wire_parser(dns.rdataclass.IN, dns.rdatatype.RdataType(rdtype), parser)


def _read_soa(parser: dns.wire.Parser, count: int, name: dns.name.Name) -> int:
    """How long an absence holds (RFC 2308 section 5): by the SOA nearest above ``name``, 0 when there is none."""
    nearest, holds = 0, 0
    for owner, rdtype, rdclass, ttl, size in _records(parser, count):
        if rdtype == _SOA and rdclass == _IN and len(owner) > nearest and name.is_subdomain(owner):
            soa: Any = _read_value(parser, rdtype, size)
            nearest, holds = len(owner), min(ttl, soa.minimum) if ttl <= _TTL_MAX else 0
    return holds


def _refuse_extended(parser: dns.wire.Parser, count: int, name: str, rdtype: RRType) -> None:
    """An error code whose lower four bits are 0 would look like an absence (RFC 6891 section 6.1.3)."""
    for _, kind, _, extended, _ in _records(parser, count):
        if kind == _OPT and extended >> 24:
            raise DnsRefused(f"{_subject(name, rdtype)}: extended error code {extended >> 24 << 4}")


def _subject(name: str, rdtype: RRType) -> str:
    return f"{rdtype.name} {name or '.'}"


def _text(name: dns.name.Name) -> str:
    """Lower case, without the final dot; bytes that are no host name's are left as escapes. The root is empty."""
    return name.to_text(omit_final_dot=True).lower() if len(name) > 1 else ""


def _tlsa(data: bytes) -> TlsaRecord:
    """Any bytes: too few for the three numbers, and 255 (RFC 6698: private use) makes the record unusable."""
    usage, selector, matching_type = data[:3].ljust(3, b"\xff")
    return TlsaRecord(usage, selector, matching_type, data[3:])


_VALUES: Final[dict[RRType, Callable[[Any], Any]]] = {
    RRType.A: lambda rdata: rdata.address,
    RRType.AAAA: lambda rdata: rdata.address,
    RRType.CNAME: lambda rdata: _text(rdata.target),
    RRType.MX: lambda rdata: MxRecord(rdata.preference, _text(rdata.exchange)),
    RRType.NS: lambda rdata: _text(rdata.target),
    RRType.TLSA: _tlsa,
    RRType.TXT: lambda rdata: b"".join(rdata.strings),
}
