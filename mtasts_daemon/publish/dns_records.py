"""The DNS records of a published domain: as zone-file lines, and compared with what DNS has. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ..errors import StsRecordError
from ..policy.mtasts import parse_txt
from .policy_text import policy_host_of

__all__ = [
    "DnsRecord",
    "Endpoint",
    "ObservedDns",
    "RecordChange",
    "RecordDifference",
    "RecordType",
    "differences",
    "sts_text",
    "tlsrpt_text",
    "wanted_records",
    "zone_line",
]

RECORD_TTL = 3600
_STRING_LIMIT = 255
"""Bytes of one character-string of a TXT record (RFC 1035 section 3.3)."""


class RecordType(Enum):
    """Types of records that a published domain has."""

    TXT = "TXT"
    CNAME = "CNAME"
    A = "A"
    AAAA = "AAAA"


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """One record. ``name`` and the target of a CNAME are without the final dot; a TXT value is without quotes."""

    name: str
    kind: RecordType
    value: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where policy hosts point to: the name ``host`` for a CNAME, or ``addresses``; neither if it is not configured."""

    host: str | None = None
    addresses: tuple[str, ...] = ()


def sts_text(record_id: str) -> str:
    """Return the TXT value that announces a policy (RFC 8461 section 3.1)."""
    return f"v=STSv1; id={record_id};"


def tlsrpt_text(rua: Sequence[str]) -> str:
    """Return the TXT value that asks for TLS reports (RFC 8460 section 3)."""
    return f"v=TLSRPTv1; rua={','.join(rua)}"


def wanted_records(
    domain: str,
    record_id: str | None,
    endpoint: Endpoint,
    *,
    rua: Sequence[str] = (),
    delegate_to: str | None = None,
) -> tuple[DnsRecord, ...]:
    """Return the records that the domain needs; ``record_id`` is that of the policy being served, None without one.

    With ``delegate_to`` both names are CNAMEs to that domain's (RFC 8461 section 8.2).
    """
    sts, host = f"_mta-sts.{domain}", policy_host_of(domain)
    records: list[DnsRecord] = []
    if delegate_to is not None:
        records.append(DnsRecord(host, RecordType.CNAME, policy_host_of(delegate_to)))
        if record_id is not None:
            records.append(DnsRecord(sts, RecordType.CNAME, f"_mta-sts.{delegate_to}"))
    else:
        if endpoint.host is not None and endpoint.host != host:
            records.append(DnsRecord(host, RecordType.CNAME, endpoint.host))
        records += [
            DnsRecord(host, RecordType.AAAA if ":" in address else RecordType.A, address)
            for address in (endpoint.addresses if endpoint.host is None else ())
        ]
        if record_id is not None:
            records.append(DnsRecord(sts, RecordType.TXT, sts_text(record_id)))
    if rua:
        records.append(DnsRecord(f"_smtp._tls.{domain}", RecordType.TXT, tlsrpt_text(rua)))
    return tuple(records)


def zone_line(record: DnsRecord) -> str:
    """Return the record as a line of a zone file (RFC 1035 section 5.1)."""
    return f"{record.name}. {RECORD_TTL} IN {record.kind.value} {record_data(record)}"


def record_data(record: DnsRecord) -> str:
    """Return the record's data in presentation form."""
    if record.kind is RecordType.CNAME:
        return f"{record.value}."
    if record.kind is not RecordType.TXT:
        return record.value
    octets = record.value.encode("ascii")
    pieces = [octets[at : at + _STRING_LIMIT] for at in range(0, len(octets), _STRING_LIMIT)] or [b""]
    return " ".join('"' + piece.decode().replace("\\", "\\\\").replace('"', '\\"') + '"' for piece in pieces)


# -- comparing -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObservedDns:
    """The records in DNS, through CNAMEs. ``problems`` has the names that could not be looked up, with the reasons."""

    sts: tuple[bytes, ...] = ()
    tlsrpt: tuple[bytes, ...] = ()
    addresses: frozenset[str] = frozenset()
    """Addresses of the policy host."""
    sts_cname: str = ""
    host_cname: str = ""
    endpoint_addresses: frozenset[str] = frozenset()
    """Addresses of the endpoint's host, or of the policy host that is delegated to."""
    problems: Mapping[str, str] | None = None


class RecordChange(Enum):
    """The action that a record needs; the values are stable."""

    ADD = "add"
    REPLACE = "replace"
    REMOVE = "remove"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RecordDifference:
    """One difference between what a domain needs and what DNS has. ``found`` holds the present values."""

    change: RecordChange
    name: str
    kind: RecordType
    wanted: str
    found: tuple[str, ...] = ()


def differences(wanted: Iterable[DnsRecord], observed: ObservedDns) -> tuple[RecordDifference, ...]:
    """Return what has to change in DNS. A record that works counts, even if it is written in another way.

    A policy host that resolves to the right addresses without the CNAME is right, and so is an id that is found
    through another CNAME.
    """
    by_name: dict[str, list[DnsRecord]] = {}
    for record in wanted:
        by_name.setdefault(record.name, []).append(record)
    found: list[RecordDifference] = []
    for name, records in by_name.items():
        problem = (observed.problems or {}).get(name)
        if problem is not None:
            found.append(RecordDifference(RecordChange.UNKNOWN, name, records[0].kind, records[0].value, (problem,)))
        elif name.startswith("_mta-sts."):
            found += _text_difference(records[0], observed.sts, observed.sts_cname, b"v=STSv1")
        elif name.startswith("_smtp._tls."):
            found += _text_difference(records[0], observed.tlsrpt, "", b"v=TLSRPTv1")
        else:
            found += _host_differences(records, observed)
    return tuple(found)


def _text_difference(record: DnsRecord, texts: Sequence[bytes], cname: str, version: bytes) -> list[RecordDifference]:
    ours = [text for text in texts if text.startswith(version)]
    shown = tuple(ascii(text.decode("latin-1"))[1:-1] for text in ours)
    if record.kind is RecordType.CNAME:
        if cname.lower() == record.value:
            return []
        there = (*((f"CNAME {cname}.",) if cname else ()), *shown)
    elif len(ours) == 1 and _same_text(ours[0], record.value):
        return []
    else:
        there = shown
    change = RecordChange.REPLACE if there else RecordChange.ADD
    return [RecordDifference(change, record.name, record.kind, record.value, there)]


def _same_text(found: bytes, wanted: str) -> bool:
    if found == wanted.encode("ascii"):
        return True
    if not wanted.startswith("v=STSv1"):
        return b"".join(found.split()) == b"".join(wanted.encode("ascii").split())
    try:
        record, ours = parse_txt([found]), parse_txt([wanted.encode("ascii")])
    except StsRecordError:
        return False
    return record is not None and record == ours


def _host_differences(records: Sequence[DnsRecord], observed: ObservedDns) -> list[RecordDifference]:
    first = records[0]
    if first.kind is RecordType.CNAME:
        same = bool(observed.addresses) and observed.addresses <= observed.endpoint_addresses
        if same or observed.host_cname.lower() == first.value:
            return []
        there = (f"CNAME {observed.host_cname}.",) if observed.host_cname else tuple(sorted(observed.addresses))
        change = RecordChange.REPLACE if there else RecordChange.ADD
        return [RecordDifference(change, first.name, first.kind, first.value, there)]
    wanted = {record.value: record for record in records}
    found = [
        RecordDifference(RecordChange.ADD, first.name, wanted[address].kind, address)
        for address in wanted
        if address not in observed.addresses
    ]
    found += [
        RecordDifference(
            RecordChange.REMOVE, first.name, RecordType.AAAA if ":" in address else RecordType.A, address, (address,)
        )
        for address in sorted(observed.addresses - set(wanted))
    ]
    return found
