"""Replies of every kind, read by us and by dnspython; and bytes of every kind, read by us."""

import ipaddress
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from hypothesis import example, given
from hypothesis import strategies as st

from mtasts_daemon.dns import message
from mtasts_daemon.errors import DnsError, DnsMalformed, DnsRefused, DnsServerFailure
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord

_NAMES = ["example.com", "a.example.com", "b.example.com", "c.a.example.com", "other.example", "com"]
_OWNERS = st.sampled_from([*_NAMES, "A.Example.COM", ""])
_TTLS = st.sampled_from([0, 1, 60, 300, 86400, 0x7FFFFFFF])
_LABELS = st.binary(min_size=1, max_size=20)


def _name(text: str) -> dns.name.Name:
    return dns.name.from_text(text or ".")


@st.composite
def _odd_names(draw: st.DrawFn) -> str:
    return dns.name.Name([*draw(st.lists(_LABELS, max_size=4)), b"example", b""]).to_text()


_TARGETS = st.one_of(_OWNERS.map(lambda name: _name(name).to_text()), _odd_names())
_RDATA: dict[RRType, st.SearchStrategy[str]] = {
    RRType.A: st.ip_addresses(v=4).map(str),
    RRType.AAAA: st.ip_addresses(v=6).map(str),
    RRType.CNAME: _TARGETS,
    RRType.MX: st.builds("{} {}".format, st.integers(0, 65535), _TARGETS),
    RRType.NS: _TARGETS,
    RRType.TLSA: st.binary(min_size=32, max_size=32).map(lambda data: f"3 1 1 {data.hex()}"),
    RRType.TXT: st.lists(
        st.binary(max_size=40).map(lambda data: '"' + "".join(f"\\{byte:03}" for byte in data) + '"'),
        min_size=1,
        max_size=3,
    ).map(" ".join),
}
_SOAS = st.builds(
    lambda owner, ttl, minimum: dns.rrset.from_text(_name(owner), ttl, "IN", "SOA", f"ns. host. 1 2 3 4 {minimum}"),
    _OWNERS,
    _TTLS,
    _TTLS,
)


@st.composite
def _rrsets(draw: st.DrawFn, rdtype: RRType) -> dns.rrset.RRset:
    owner = draw(_OWNERS)
    chosen = draw(st.sampled_from([rdtype, RRType.CNAME, RRType.A]))
    count = 1 if chosen == RRType.CNAME else 3
    rdata = draw(st.lists(_RDATA[chosen], min_size=1, max_size=count))
    return dns.rrset.from_text(_name(owner), draw(_TTLS), "IN", dns.rdatatype.RdataType(chosen), *rdata)


@st.composite
def _replies(draw: st.DrawFn) -> tuple[str, RRType, bytes]:
    """A question and a well-formed reply to it, in which each name has one set of records of a type."""
    name, rdtype = draw(st.sampled_from([*_NAMES, ""])), draw(st.sampled_from(RRType))
    question = message.encode_question(name, rdtype)
    assert question is not None
    response = dns.message.make_response(
        dns.message.from_wire(message.encode_query(draw(st.integers(0, 65535)), question))
    )
    rcodes = [dns.rcode.NOERROR, dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL, dns.rcode.REFUSED]
    response.set_rcode(draw(st.sampled_from(rcodes)))
    if draw(st.booleans()):
        response.flags |= dns.flags.AD
    if draw(st.booleans()):
        response.use_edns(False)
    unique = {(rrset.name, rrset.rdtype): rrset for rrset in draw(st.lists(_rrsets(rdtype), max_size=6))}
    response.answer.extend(unique.values())
    response.authority.extend({rrset.name: rrset for rrset in draw(st.lists(_SOAS, max_size=2))}.values())
    return name, rdtype, response.to_wire(max_size=65535, want_shuffle=False)


def _value(rdata: Any, rdtype: RRType) -> object:
    def text(name: dns.name.Name) -> str:
        return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()

    match rdtype:
        case RRType.A | RRType.AAAA:
            return str(ipaddress.ip_address(rdata.address))
        case RRType.MX:
            return MxRecord(rdata.preference, text(rdata.exchange))
        case RRType.TXT:
            return b"".join(rdata.strings)
        case RRType.TLSA:
            return TlsaRecord(rdata.usage, rdata.selector, rdata.mtype, rdata.cert)
    return text(rdata.target)


def _oracle(wire: bytes, name: str, rdtype: RRType) -> DnsAnswer[Any] | type[DnsError]:
    """Return dnspython's result for a reply."""
    message = dns.message.from_wire(wire)
    if message.rcode() == dns.rcode.SERVFAIL:
        return DnsServerFailure
    if message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return DnsRefused
    assert isinstance(message, dns.message.QueryMessage)
    try:
        result = message.resolve_chaining()
    except dns.exception.DNSException:
        return DnsMalformed
    end, ttl, records = result.canonical_name, result.minimum_ttl, list(result.answer or ())
    if not records and not any(end.is_subdomain(soa.name) for soa in message.authority):
        ttl = 0
    values = tuple(dict.fromkeys(_value(rdata, rdtype) for rdata in records))
    canonical = name if end == _name(name) else end.to_text(omit_final_dot=True).lower().removesuffix(".")
    exists = message.rcode() == dns.rcode.NOERROR
    return DnsAnswer(name, values, ttl, bool(message.flags & dns.flags.AD), exists, canonical)


def _ours(wire: bytes, name: str, rdtype: RRType) -> DnsAnswer[Any] | type[DnsError]:
    try:
        return message.read_answer(wire, name, rdtype, trusted=True)
    except DnsError as error:
        return type(error)


@given(_replies())
def test_reply_is_read_as_dnspython_reads_it(reply: tuple[str, RRType, bytes]) -> None:
    name, rdtype, wire = reply
    question = message.encode_question(name, rdtype)
    assert question is not None
    assert message.matches(wire, question)
    assert _ours(wire, name, rdtype) == _oracle(wire, name, rdtype)


@given(_replies(), st.data())
def test_damaged_reply_gives_an_answer_or_one_of_our_errors(
    reply: tuple[str, RRType, bytes], data: st.DataObject
) -> None:
    name, rdtype, wire = reply
    question = message.encode_question(name, rdtype)
    assert question is not None
    damaged = bytearray(wire)
    for at in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(wire)))])
    if message.matches(cut, question):
        assert isinstance(_ours(cut, name, rdtype), DnsAnswer | type)


@given(st.binary(max_size=2), st.binary(max_size=8), st.sampled_from(RRType), st.binary(max_size=600))
@example(b"\x81\x80", b"\0\1\xff\xff\xff\xff\xff\xff", RRType.MX, b"")
def test_any_bytes_after_the_question_give_an_answer_or_one_of_our_errors(
    flags: bytes, counts: bytes, rdtype: RRType, rest: bytes
) -> None:
    question = message.encode_question("a.example", rdtype)
    assert question is not None
    wire = b"\0\7" + flags.rjust(2, b"\x80") + counts.rjust(8, b"\1") + question + rest
    if message.matches(wire, question):
        assert isinstance(_ours(wire, "a.example", rdtype), DnsAnswer | type)
    forced = b"\0\7\x81\x80" + b"\0\1" + counts.rjust(8, b"\0")[2:] + question + rest
    assert message.matches(forced, question)
    assert isinstance(_ours(forced, "a.example", rdtype), DnsAnswer | type)


@given(st.binary(max_size=300))
def test_bytes_that_do_not_hold_the_question_never_match(wire: bytes) -> None:
    question = message.encode_question("example.com", RRType.TXT)
    assert question is not None
    assert not message.matches(wire.replace(question, b""), question)


@given(st.text(max_size=300), st.sampled_from(RRType))
def test_any_text_has_the_question_that_dnspython_writes_or_none(name: str, rdtype: RRType) -> None:
    question = message.encode_question(name, rdtype)
    if question is not None:
        assert len(question) - 4 <= 255
        assert question[-4:] == rdtype.to_bytes(2, "big") + b"\0\1"
        read, end = dns.name.from_wire(question, 0)
        assert end == len(question) - 4
        assert b".".join(read.labels) == (name.lower().encode() + b"." if name else b"")
