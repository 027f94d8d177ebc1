"""Write DNS queries and read DNS replies (RFC 1035 section 4, RFC 6891).

Only the seven record types that this program asks for are read. dnspython is the oracle of the tests. It is not used
here because it takes fifty times as long for the usual reply, a negative answer, and because it rejects a whole
message for one TLSA record of the wrong length, which must only make that record unusable (RFC 7672 section 2.1.1).

Limits: messages of 65535 bytes, 500 records per section, 127 pointers in a name, 15 links of a CNAME chain. For any
bytes, reading returns a ``DnsAnswer`` or raises a ``DnsError``.
"""

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from ..errors import DnsMalformed, DnsRefused, DnsServerFailure
from ..policy.dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord

__all__ = ["encode_query", "encode_question", "is_truncated", "matches", "read_answer", "rejects_edns"]

_RECORDS_MAX: Final = 500
_CHAIN_MAX: Final = 15
_LABELS_MAX: Final = 127
_TTL_MAX: Final = 0x7FFFFFFF
_NOERROR: Final = 0
_SERVFAIL: Final = 2
_NXDOMAIN: Final = 3
_RCODES: Final = {1: "FORMERR", 4: "NOTIMP", 5: "REFUSED"}
_SOA: Final = 6
_OPT: Final = 41
_IN: Final = 1

# RD, and AD: we understand the AD bit and want it in the reply (RFC 6840 section 5.7). DO would add signatures, which
# are not checked here. One question, and one additional record: OPT.
_ASK: Final = bytes.fromhex("0120 0001 0000 0000 0001")
_ASK_WITHOUT_EDNS: Final = bytes.fromhex("0120 0001 0000 0000 0000")
# 1232 bytes fit any path unfragmented; fragments can be lost and forged.
_EDNS: Final = bytes.fromhex("00 0029 04d0 00000000 0000")
_QUESTION_END: Final = {rdtype: struct.pack("!BHH", 0, rdtype, _IN) for rdtype in RRType}
_ESCAPES: Final = {byte: f"\\{byte:03}" for byte in (*range(0x21), *range(0x7F, 0x100))} | {
    ord(sign): f"\\{sign}" for sign in '"().;\\@$'
}
_QUESTION_POINTER: Final = b"\xc0\x0c"
_LENGTHS: Final = [bytes((size,)) for size in range(64)]

_counts = struct.Struct("!HHH").unpack_from
_rr_head = struct.Struct("!HHIH").unpack_from
_u32 = struct.Struct("!I").unpack_from

_Record = tuple[bytes, int, int, int, int, int]
"""Owner, type, class, TTL, and the offsets of the data's begin and end."""


def encode_question(name: str, rdtype: RRType) -> bytes | None:
    """Return the question section for a name, in lower case, or None if no such name can exist in DNS.

    It cannot if a label is empty or over 63 bytes, if the name is over 255 bytes (RFC 1035 section 2.3.4), or if the
    text is not ASCII or contains an escape, as names read from an answer may. The empty name is the root.
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


def encode_query(message_id: int, question: bytes, *, edns: bool = True) -> bytes:
    """Return a recursive query that asks for the AD bit; with ``edns`` it accepts 1232 bytes over UDP."""
    if edns:
        return message_id.to_bytes(2, "big") + _ASK + question + _EDNS
    return message_id.to_bytes(2, "big") + _ASK_WITHOUT_EDNS + question


def rejects_edns(reply: bytes) -> bool:
    """Return True for FORMERR and NOTIMP, which old servers return to queries with EDNS (RFC 6891 section 7)."""
    return reply[3] & 0x0F in (1, 4)


def matches(reply: bytes, question: bytes) -> bool:
    """Return True if the bytes are a response to this one question, ignoring letter case.

    Comparing lower-cased bytes is safe: no length, and no byte of a type or class asked for, is a letter.
    """
    return (
        len(reply) > 12
        and reply[2] & 0xF8 == 0x80  # QR, and the opcode is QUERY
        and reply[4:6] == b"\x00\x01"
        and (reply.startswith(question, 12) or reply[12 : 12 + len(question)].lower() == question)
    )


def is_truncated(reply: bytes) -> bool:
    """Return the TC bit of a reply that ``matches``."""
    return reply[2] & 0x02 != 0


def read_answer(reply: bytes, name: str, rdtype: RRType, *, trusted: bool) -> DnsAnswer[Any]:
    """Return the answer in a reply that ``matches`` the question; its AD bit counts only if ``trusted``.

    ``name`` is the one in the question. Raises DnsServerFailure (SERVFAIL), DnsRefused (any other error code), or
    DnsMalformed.
    """
    rcode = reply[3] & 0x0F
    if rcode == _SERVFAIL:
        raise DnsServerFailure(_subject(name, rdtype))
    if rcode not in (_NOERROR, _NXDOMAIN):
        raise DnsRefused(f"{_subject(name, rdtype)}: {_RCODES.get(rcode, rcode)}")
    try:
        return _read(reply, name, rdtype, trusted)
    except (ValueError, IndexError, struct.error) as error:
        raise DnsMalformed(f"{_subject(name, rdtype)}: {error}") from error


def _read(reply: bytes, name: str, rdtype: RRType, trusted: bool) -> DnsAnswer[Any]:
    answers, authorities, additionals = _counts(reply, 6)
    if max(answers, authorities, additionals) > _RECORDS_MAX:
        raise ValueError(f"more than {_RECORDS_MAX} records")
    at = 12 + len(name) + (1 if name else 0)  # the end of the question's name: a dot for each length but the first
    question = reply[12:at].lower()
    at += 5
    end, ttl, records = question, _TTL_MAX, ()
    if answers:
        section, at = _read_section(reply, at, answers, question)
        end, ttl, records = _follow_chain(reply, section, question, rdtype)
    exists = reply[3] & 0x0F == _NOERROR  # of the end of the chain (RFC 6604 section 2)
    if records:
        if not exists:
            raise ValueError("records of a name that does not exist")
    else:
        section, at = _read_section(reply, at, authorities, question)
        ttl = min(ttl, _read_soa(reply, section, end))
        _refuse_extended_rcode(_read_section(reply, at, additionals, question)[0], name, rdtype)
    canonical = name if end == question else _text(end)
    return DnsAnswer(name, records, ttl, trusted and reply[3] & 0x20 != 0, exists, canonical)


def _read_name(reply: bytes, at: int) -> tuple[bytes, int]:
    """Return the name at an offset, as length-prefixed lower-case labels without the root's, and the next offset."""
    labels: list[bytes] = []
    after = size = pointers = 0
    bound = at
    while length := reply[at]:
        if length >= 0xC0:
            after = after or at + 2
            at = (length & 0x3F) << 8 | reply[at + 1]
            if at >= bound:  # only backwards, so that there is no loop (RFC 1035 section 4.1.4)
                raise ValueError("a name that points forward")
            bound = at
            pointers += 1
            if pointers > _LABELS_MAX:  # they could be thousands, for each of 1500 records
                raise ValueError("a name of more pointers than labels")
            continue
        size += length + 1
        if length > 63 or size > 254:
            raise ValueError("a name or label that is too long")
        labels.append(reply[at : at + length + 1])
        at += length + 1
    return b"".join(labels).lower(), after or at + 1


def _read_section(reply: bytes, at: int, count: int, question: bytes) -> tuple[list[_Record], int]:
    """Return ``count`` records and the next offset.

    ``question`` is the name at the message's twelfth byte, to which most owners point.
    """
    records: list[_Record] = []
    for _ in range(count):
        if reply.startswith(_QUESTION_POINTER, at):
            owner, at = question, at + 2
        else:
            owner, at = _read_name(reply, at)
        rdtype, rdclass, ttl, size = _rr_head(reply, at)
        at += 10 + size
        records.append((owner, rdtype, rdclass, ttl, at - size, at))
    if at > len(reply):
        raise ValueError("a record longer than the message")
    return records, at


def _follow_chain(
    reply: bytes, section: list[_Record], name: bytes, rdtype: RRType
) -> tuple[bytes, int, tuple[Any, ...]]:
    """Return the end of the CNAME chain that begins at ``name``, the least TTL along it, and the records there."""
    found: dict[bytes, list[tuple[object, Any, int]]] = {}
    aliases: dict[bytes, tuple[bytes, int]] = {}
    for owner, kind, rdclass, ttl, start, end in section:
        if rdclass != _IN:
            continue
        if kind == rdtype:
            value = _VALUES[rdtype](reply, start, end)
            # RFC 2181 section 5: an RRset has no duplicates. Strings split differently are different TXT records.
            same = reply[start:end] if rdtype == RRType.TXT else value
            found.setdefault(owner, []).append((same, value, _clamped(ttl)))
        elif kind == RRType.CNAME:
            aliases[owner] = _read_target(reply, start, end), _clamped(ttl)
    least = _TTL_MAX
    for _ in range(_CHAIN_MAX + 1):
        if name in found:
            least = min(least, *(ttl for _, _, ttl in found[name]))
            return name, least, tuple({same: value for same, value, _ in found[name]}.values())
        if name not in aliases:
            return name, least, ()
        name, ttl = aliases[name]
        least = min(least, ttl)
    raise ValueError(f"a CNAME chain of more than {_CHAIN_MAX} links")


def _read_soa(reply: bytes, section: list[_Record], name: bytes) -> int:
    """Return the TTL of a negative answer (RFC 2308 section 5): by the SOA nearest above ``name``, 0 without one."""
    nearest, holds = -1, 0
    for owner, rdtype, rdclass, ttl, start, end in section:
        if rdtype == _SOA and rdclass == _IN and len(owner) > nearest and name.endswith(owner):
            if end - start < 22:  # two root names and five numbers
                raise ValueError("a SOA record that is too short")
            nearest, holds = len(owner), min(_clamped(ttl), _u32(reply, end - 4)[0])
    return holds


def _refuse_extended_rcode(section: list[_Record], name: str, rdtype: RRType) -> None:
    """Raise DnsRefused for an error code whose lower four bits are 0, which looks like an absence (RFC 6891 6.1.3)."""
    for _, kind, _, extended, _, _ in section:
        if kind == _OPT and extended >> 24:
            raise DnsRefused(f"{_subject(name, rdtype)}: extended error code {extended >> 24 << 4}")


def _clamped(ttl: int) -> int:
    return ttl if ttl <= _TTL_MAX else 0  # RFC 2181 section 8


def _subject(name: str, rdtype: RRType) -> str:
    return f"{rdtype.name} {name or '.'}"


def _text(name: bytes) -> str:
    """Return a name with dots, "" for the root; other characters are escaped as in RFC 1035 section 5.1."""
    labels: list[str] = []
    at = 0
    while at < len(name):
        end = at + 1 + name[at]
        labels.append(name[at + 1 : end].decode("latin-1").translate(_ESCAPES))
        at = end
    return ".".join(labels)


# -- record data: each reads all of reply[start:end], or raises ValueError, IndexError or struct.error ---------


def _read_target(reply: bytes, start: int, end: int) -> bytes:
    name, after = _read_name(reply, start)
    if after != end:
        raise ValueError("a name that does not fill its record")
    return name


def _read_mx(reply: bytes, start: int, end: int) -> MxRecord:
    return MxRecord(reply[start] << 8 | reply[start + 1], _text(_read_target(reply, start + 2, end)))


def _read_txt(reply: bytes, start: int, end: int) -> bytes:
    strings: list[bytes] = []
    while start < end or not strings:
        after = start + 1 + reply[start]
        strings.append(reply[start + 1 : after])
        start = after
    if start != end:
        raise ValueError("a string that does not fill its record")
    return b"".join(strings)


def _read_tlsa(reply: bytes, start: int, end: int) -> TlsaRecord:
    """Return a record for any bytes; missing numbers are 255 (RFC 6698: private use), which is unusable."""
    data = reply[start:end]
    usage, selector, matching_type = data[:3].ljust(3, b"\xff")
    return TlsaRecord(usage, selector, matching_type, data[3:])


_VALUES: Final[dict[RRType, Callable[[bytes, int, int], Any]]] = {
    RRType.A: lambda reply, start, end: str(IPv4Address(reply[start:end])),
    RRType.AAAA: lambda reply, start, end: str(IPv6Address(reply[start:end])),
    RRType.CNAME: lambda reply, start, end: _text(_read_target(reply, start, end)),
    RRType.MX: _read_mx,
    RRType.NS: lambda reply, start, end: _text(_read_target(reply, start, end)),
    RRType.TLSA: _read_tlsa,
    RRType.TXT: _read_txt,
}
