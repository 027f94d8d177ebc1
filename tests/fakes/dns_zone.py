"""The data of the fake DNS server: a zone, and its misbehaviour for each name.

A zone is standard master-file text (RFC 1035 section 5), with "." as the origin and a TTL of 300 s by default; or a
mapping, ``{"example.com": ["MX 10 mx.example.com.", "! MX delay 0.2"]}``, in which each string is ``[TTL] TYPE RDATA``,
or ``! TYPE BEHAVIOUR`` for the name. It may hold any names: the server answers for the whole tree, follows CNAMEs,
supports wildcards, and adds the nearest SOA to negative answers, or a synthetic one (minimum 300).

Behaviours are comment lines, ``;! NAME TYPE BEHAVIOUR [VALUE]``. NAME is absolute with or without the final dot,
``*`` for every name, or ``*.suffix`` for all below suffix; TYPE may be ``*``. Several may apply; later lines win.

==================== =========================================================================================
servfail, refused,   that RCODE, without records
nxdomain, notimp,
formerr
silent               never answers (over TCP: the connection stays open)
delay SECONDS        answers so much later
truncate             TC and no records over UDP, the whole answer over TCP; every other behaviour of the name is
                     seen over TCP only
cut                  over TCP, closes the connection instead of answering
forge-id, forge-name before the true reply (or, with ``silent``, instead of it) sends one over UDP that has
forge-type           another id, name or type in its question, or comes from another port
forge-port
garbage HEX          the query's id and then these bytes, which may be none, instead of an answer
raw HEX              one more record of that NAME and TYPE, whose RDATA is these bytes, well-formed or not
no-soa               negative answers carry no SOA
ad, no-ad            whether this link of the chain is authenticated; the AD bit is set when all links are and
                     the query had AD or DO (RFC 6840 section 5.7). Default: the constructor's ``authenticated``
==================== =========================================================================================
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tokenizer
import dns.zonefile

__all__ = ["Behaviour", "Zone", "ZoneData", "respond"]

_CHAIN_MAX = 16
_RCODES = {name: dns.rcode.from_text(name) for name in ("servfail", "refused", "nxdomain", "notimp", "formerr")}
_FORGERIES = {"forge-id", "forge-name", "forge-type", "forge-port"}

Zone = str | Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Behaviour:
    """The treatment of queries for a name and type; by default the server behaves correctly."""

    rcode: dns.rcode.Rcode | None = None
    silent: bool = False
    delay: float = 0.0
    truncate: bool = False
    cut: bool = False
    forge: frozenset[str] = frozenset()
    garbage: bytes | None = None
    soa: bool = True
    authenticated: bool | None = None

    def changed_by(self, verb: str, value: str) -> "Behaviour":
        """This behaviour after one more directive; raises ValueError for an unknown one."""
        if verb in _RCODES:
            return dataclasses.replace(self, rcode=_RCODES[verb])
        if verb in _FORGERIES:
            return dataclasses.replace(self, forge=self.forge | {verb})
        match verb:
            case "silent":
                return dataclasses.replace(self, silent=True)
            case "delay":
                return dataclasses.replace(self, delay=float(value))
            case "truncate":
                return dataclasses.replace(self, truncate=True)
            case "cut":
                return dataclasses.replace(self, cut=True)
            case "garbage":
                return dataclasses.replace(self, garbage=bytes.fromhex(value))
            case "no-soa":
                return dataclasses.replace(self, soa=False)
            case "ad" | "no-ad":
                return dataclasses.replace(self, authenticated=verb == "ad")
        raise ValueError(f"unknown behaviour {verb!r}")


class _Directive(NamedTuple):
    name: dns.name.Name | None  # None: every name
    below: bool
    rdtype: dns.rdatatype.RdataType | None
    verb: str
    value: str

    def covers(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> bool:
        if self.rdtype is not None and self.rdtype != rdtype:
            return False
        if self.name is None:
            return True
        return name != self.name and name.is_subdomain(self.name) if self.below else name == self.name


class _Collector(dns.zonefile.RRsetsReaderTransaction):
    """Accept records of any name; dnspython's transactions hold one zone with its SOA at the origin."""

    def __init__(self) -> None:
        manager = dns.zonefile.RRSetsReaderManager(relativize=False)
        super().__init__(manager, True, False)  # type: ignore[no-untyped-call] # dnspython leaves it untyped
        self.records: list[tuple[dns.name.Name, int, dns.rdata.Rdata]] = []

    def add(self, *args: Any) -> None:
        name, ttl, rdata = args
        self.records.append((name, ttl, rdata))


def _read_records(text: str) -> list[tuple[dns.name.Name, int, dns.rdata.Rdata]]:
    collector = _Collector()
    tokens = dns.tokenizer.Tokenizer(text, "zone")
    dns.zonefile.Reader(tokens, dns.rdataclass.IN, collector, default_ttl=300).read()
    return collector.records


class ZoneData:
    """A parsed zone: records by name and type, and the directives."""

    def __init__(self, zone: Zone) -> None:
        text = zone if isinstance(zone, str) else _as_text(zone)
        self.nodes: dict[dns.name.Name, dict[dns.rdatatype.RdataType, dns.rrset.RRset]] = {}
        self.directives: list[_Directive] = []
        for name, ttl, rdata in _read_records(text):
            self._add(name, ttl, rdata)
        for line in text.splitlines():
            if line.lstrip().startswith(";!"):
                self._direct(line.lstrip()[2:].split())

    def _add(self, name: dns.name.Name, ttl: int, rdata: dns.rdata.Rdata) -> None:
        node = self.nodes.setdefault(name, {})
        node.setdefault(rdata.rdtype, dns.rrset.RRset(name, rdata.rdclass, rdata.rdtype)).add(rdata, ttl)
        parent = name
        while parent != dns.name.root:  # empty non-terminals exist (RFC 4592 section 2.2.2)
            parent = parent.parent()
            self.nodes.setdefault(parent, {})

    def _direct(self, words: list[str]) -> None:
        if not 3 <= len(words) <= 4:
            raise ValueError(f"a directive is ';! NAME TYPE BEHAVIOUR [VALUE]', not {' '.join(words)!r}")
        below = words[0].startswith("*.")
        name = None if words[0] == "*" else dns.name.from_text(words[0][2:] if below else words[0])
        rdtype = None if words[1] == "*" else dns.rdatatype.from_text(words[1])
        verb, value = words[2], words[3] if len(words) == 4 else ""
        if verb == "raw":
            if name is None or rdtype is None:
                raise ValueError("raw needs a name and a type")
            rdata = dns.rdata.GenericRdata(dns.rdataclass.IN, rdtype, bytes.fromhex(value))
            self._add(name, 300, rdata)
            return
        Behaviour().changed_by(verb, value)
        self.directives.append(_Directive(name, below, rdtype, verb, value))

    def behaviour(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Behaviour:
        behaviour = Behaviour()
        for directive in self.directives:
            if directive.covers(name, rdtype):
                behaviour = behaviour.changed_by(directive.verb, directive.value)
        return behaviour

    def node(self, name: dns.name.Name) -> dict[dns.rdatatype.RdataType, dns.rrset.RRset] | None:
        """The records of a name, those of the wildcard that covers it (RFC 4592), or None: no such name."""
        found = self.nodes.get(name)
        if found is not None:
            return found
        encloser = name
        while encloser not in self.nodes and encloser != dns.name.root:
            encloser = encloser.parent()
        wildcard = self.nodes.get(dns.name.Name((b"*", *encloser.labels)))
        if wildcard is None:
            return None
        return {rdtype: dns.rrset.from_rdata_list(name, rrset.ttl, list(rrset)) for rdtype, rrset in wildcard.items()}

    def soa(self, name: dns.name.Name) -> dns.rrset.RRset:
        while True:
            rrset = self.nodes.get(name, {}).get(dns.rdatatype.SOA)
            if rrset is not None:
                return rrset
            if name == dns.name.root:
                return dns.rrset.from_text(name, 300, "IN", "SOA", "ns. hostmaster. 1 7200 3600 1209600 300")
            name = name.parent()


def _as_text(zone: Mapping[str, Sequence[str]]) -> str:
    lines: list[str] = []
    for name, entries in zone.items():
        owner = name.rstrip(".") + "."
        lines += [f";! {owner}{entry[1:]}" if entry.startswith("!") else f"{owner} {entry}" for entry in entries]
    return "\n".join(lines)


def respond(data: ZoneData, query: dns.message.Message, authenticated: bool) -> dns.message.Message:
    """Return the complete correct answer to a query, with CNAMEs followed within the zone."""
    question = query.question[0]
    name, rdtype = question.name, question.rdtype
    response = dns.message.make_response(query, recursion_available=True)
    seen: set[dns.name.Name] = set()
    while name not in seen and len(seen) < _CHAIN_MAX:
        seen.add(name)
        behaviour = data.behaviour(name, rdtype)
        if behaviour.authenticated is not None and len(seen) == 1:
            authenticated = behaviour.authenticated
        elif behaviour.authenticated is not None:
            authenticated = authenticated and behaviour.authenticated
        node = data.node(name)
        rcode = dns.rcode.NXDOMAIN if node is None else dns.rcode.NOERROR
        response.set_rcode(behaviour.rcode if behaviour.rcode is not None else rcode)
        if node is not None and behaviour.rcode is None:
            if rdtype in node:
                response.answer.append(node[rdtype])
                break
            cname = node.get(dns.rdatatype.CNAME)
            if cname is not None:
                response.answer.append(cname)
                name = cname[0].target
                continue
        if behaviour.soa and response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            response.authority.append(data.soa(name))
        break
    absent_or_there = response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    if authenticated and absent_or_there and (query.flags & dns.flags.AD or query.ednsflags & dns.flags.DO):
        response.flags |= dns.flags.AD
    return response
