"""Queries as dnspython reads them; replies as dnspython writes them, and malformed ones."""

import struct
from collections.abc import Sequence
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from mtasts_daemon.dns import message
from mtasts_daemon.errors import DnsMalformed, DnsRefused, DnsServerFailure
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord

_SOA = "example.com. 900 IN SOA ns.example.com. hostmaster.example.com. 1 7200 3600 1209600 120"


def _question(name: str, rdtype: RRType) -> bytes:
    question = message.encode_question(name, rdtype)
    assert question is not None
    return question


def _reply(
    name: str,
    rdtype: RRType,
    answer: Sequence[str] = (),
    authority: Sequence[str] = (),
    *,
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    flags: int = 0,
) -> bytes:
    query = dns.message.from_wire(message.encode_query(7, _question(name, rdtype)))
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(rcode)
    response.flags |= flags
    for section, lines in ((response.answer, answer), (response.authority, authority)):
        for line in lines:
            owner, ttl, rdclass, kind, rdata = line.split(maxsplit=4)
            section.append(dns.rrset.from_text(owner, int(ttl), rdclass, kind, rdata))
    return response.to_wire(max_size=65535, want_shuffle=False)


def _read(
    name: str,
    rdtype: RRType,
    answer: Sequence[str] = (),
    authority: Sequence[str] = (),
    *,
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
) -> DnsAnswer[Any]:
    reply = _reply(name, rdtype, answer, authority, rcode=rcode)
    assert message.matches(reply, _question(name, rdtype))
    return message.read_answer(reply, name, rdtype, trusted=True)


def _raw_reply(name: str, rdtype: RRType, *records: tuple[int, bytes], rcode: int = 0) -> bytes:
    """A reply whose answer section holds the records, of the type and data given, at the question's name."""
    head = struct.pack("!HHHHHH", 7, 0x8180 | rcode, 1, len(records), 0, 0)
    body = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 300, len(data)) + data for kind, data in records)
    return head + _question(name, rdtype) + body


# -- queries --------------------------------------------------------------------------------------------------


def test_query_asks_for_recursion_and_the_ad_bit_and_takes_1232_bytes() -> None:
    query = dns.message.from_wire(message.encode_query(4711, _question("_mta-sts.example.com", RRType.TXT)))
    assert query.id == 4711
    assert query.flags == dns.flags.RD | dns.flags.AD
    assert query.question[0].to_text() == "_mta-sts.example.com. IN TXT"
    assert query.edns == 0
    assert query.payload == 1232
    assert query.ednsflags == 0


def test_empty_name_is_the_root() -> None:
    query = dns.message.from_wire(message.encode_query(1, _question("", RRType.NS)))
    assert query.question[0].name == dns.name.root


@pytest.mark.parametrize("name", ["a" * 63 + ".example", ".".join(["a" * 49] * 5) + ".abc"])
def test_longest_label_and_name_are_asked_for(name: str) -> None:
    assert dns.message.from_wire(message.encode_query(1, _question(name, RRType.A))).question[0].name == (
        dns.name.from_text(name)
    )


@pytest.mark.parametrize(
    "name",
    [
        "a" * 64 + ".example",
        ".".join(["a" * 49] * 5) + ".abcd",
        "a..example",
        ".example",
        "example.",
        ".",
        "ex\\200mple.com",
        "bücher.example",
    ],
)
def test_name_that_cannot_exist_has_no_question(name: str) -> None:
    assert message.encode_question(name, RRType.A) is None


# -- which replies are ours -----------------------------------------------------------------------------------


def test_letter_case_in_the_question_does_not_matter() -> None:
    reply = _reply("mail.example.com", RRType.A).replace(b"\x04mail\x07example", b"\x04MaiL\x07EXAMPLE")
    assert message.matches(reply, _question("mail.example.com", RRType.A))
    assert message.read_answer(reply, "mail.example.com", RRType.A, trusted=False).name == "mail.example.com"


def test_another_name_or_type_or_a_query_or_too_few_bytes_do_not_match() -> None:
    question = _question("example.com", RRType.MX)
    assert not message.matches(_reply("example.org", RRType.MX), question)
    assert not message.matches(_reply("example.com", RRType.TXT), question)
    assert not message.matches(message.encode_query(7, question), question)
    assert not message.matches(_reply("example.com", RRType.MX)[:20], question)
    assert not message.matches(b"", question)


def test_truncation_is_seen() -> None:
    assert message.is_truncated(_reply("example.com", RRType.MX, flags=dns.flags.TC))
    assert not message.is_truncated(_reply("example.com", RRType.MX))


# -- absence, RFC 2308 ----------------------------------------------------------------------------------------


def test_nodata_holds_for_the_least_of_the_soa_ttl_and_its_minimum() -> None:
    assert _read("example.com", RRType.TLSA, authority=[_SOA]) == (
        DnsAnswer("example.com", (), 120, canonical="example.com")
    )
    soa = "example.com. 60 IN SOA ns.example.com. hostmaster.example.com. 1 7200 3600 1209600 900"
    assert _read("example.com", RRType.TLSA, authority=[soa]).ttl == 60


def test_nxdomain_says_that_the_name_does_not_exist() -> None:
    answer = _read("_mta-sts.example.com", RRType.TXT, authority=[_SOA], rcode=dns.rcode.NXDOMAIN)
    assert answer.exists is False
    assert answer.records == ()
    assert answer.ttl == 120


def test_absence_without_soa_or_with_one_from_elsewhere_does_not_last() -> None:
    foreign = "ample.com. 900 IN SOA ns.example.com. hostmaster.example.com. 1 7200 3600 1209600 120"
    assert _read("example.com", RRType.TLSA).ttl == 0
    assert _read("example.com", RRType.TLSA, authority=[foreign]).ttl == 0


def test_absence_at_the_end_of_a_chain_holds_as_long_as_the_chain_does() -> None:
    answer = _read(
        "www.example.net",
        RRType.AAAA,
        answer=["www.example.net. 50 IN CNAME host.example.com."],
        authority=[_SOA],
        rcode=dns.rcode.NXDOMAIN,
    )
    assert answer == DnsAnswer("www.example.net", (), 50, exists=False, canonical="host.example.com")


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("authentic", [False, True])
def test_ad_bit_counts_only_from_a_trusted_resolver(trusted: bool, authentic: bool) -> None:
    for answer in ([], ["example.com. 60 IN MX 1 mx.example.com."]):
        reply = _reply("example.com", RRType.MX, answer, flags=dns.flags.AD if authentic else 0)
        read = message.read_answer(reply, "example.com", RRType.MX, trusted=trusted)
        assert read.authenticated is (trusted and authentic)


# -- records --------------------------------------------------------------------------------------------------


def test_strings_of_a_txt_record_are_joined_without_blanks() -> None:
    answer = _read("_mta-sts.example.com", RRType.TXT, ['_mta-sts.example.com. 60 IN TXT "v=STSv1; " "id=1;"'])
    assert answer.records == (b"v=STSv1; id=1;",)


@pytest.mark.parametrize(("second", "count"), [('"v=STSv1; id=1;"', 1), ('"v=STSv1; " "id=1;"', 2)])
def test_txt_records_split_differently_are_two_records(second: str, count: int) -> None:
    """RFC 8461 section 3.1: with two records there is no policy."""
    lines = [f"_mta-sts.example.com. 60 IN TXT {text}" for text in ('"v=STSv1; id=1;"', second)]
    answer = _read("_mta-sts.example.com", RRType.TXT, lines)
    assert answer.records == (b"v=STSv1; id=1;",) * count


def test_addresses_are_text() -> None:
    assert _read("example.com", RRType.A, ["example.com. 60 IN A 192.0.2.1"]).records == ("192.0.2.1",)
    assert _read("example.com", RRType.AAAA, ["example.com. 60 IN AAAA 2001:db8:0::1"]).records == ("2001:db8::1",)


def test_null_mx_has_an_empty_host() -> None:
    assert _read("example.com", RRType.MX, ["example.com. 60 IN MX 0 ."]).records == (MxRecord(0, ""),)


def test_mx_hosts_are_lower_case_without_the_final_dot_and_odd_bytes_are_escaped() -> None:
    answer = _read("example.com", RRType.MX, [r"example.com. 60 IN MX 1 M\.x\200\032.Example.COM."])
    assert answer.records == (MxRecord(1, r"m\.x\200\032.example.com"),)


def test_ttl_is_the_least_of_the_chain_and_the_canonical_name_its_end() -> None:
    answer = _read(
        "_25._tcp.mx.example.net",
        RRType.TLSA,
        [
            "_25._tcp.mx.example.net. 500 IN CNAME Tlsa.Example.com.",
            "tlsa.example.com. 30 IN CNAME t.example.com.",
            "t.example.com. 200 IN TLSA 3 1 1 " + "ab" * 32,
        ],
    )
    assert answer.records == (TlsaRecord(3, 1, 1, b"\xab" * 32),)
    assert (answer.ttl, answer.canonical) == (30, "t.example.com")


def test_cname_question_is_answered_with_the_names_own_cname() -> None:
    answer = _read("a.example.com", RRType.CNAME, ["a.example.com. 60 IN CNAME B.example.com."])
    assert (answer.records, answer.canonical) == (("b.example.com",), "a.example.com")


def test_records_of_names_off_the_chain_are_not_taken() -> None:
    assert _read("example.com", RRType.A, ["victim.example.com. 60 IN A 192.0.2.66"]).records == ()


def test_same_record_twice_is_one() -> None:
    reply = _raw_reply("example.com", RRType.TXT, (16, b"\x01a"), (16, b"\x01a"))
    assert message.read_answer(reply, "example.com", RRType.TXT, trusted=False).records == (b"a",)


def test_ttl_with_the_top_bit_set_is_zero() -> None:  # RFC 2181 section 8
    reply = _raw_reply("example.com", RRType.TXT, (16, b"\x01a")).replace(struct.pack("!I", 300), b"\x80\0\0\1")
    assert message.read_answer(reply, "example.com", RRType.TXT, trusted=False).ttl == 0


@pytest.mark.parametrize(
    ("data", "record"),
    [
        (bytes.fromhex("030101abcd"), TlsaRecord(3, 1, 1, b"\xab\xcd")),
        (bytes.fromhex("030101"), TlsaRecord(3, 1, 1, b"")),
        (bytes.fromhex("0301"), TlsaRecord(3, 1, 255, b"")),
        (b"", TlsaRecord(255, 255, 255, b"")),
    ],
)
def test_tlsa_record_of_wrong_length_loses_no_good_one(data: bytes, record: TlsaRecord) -> None:
    good = bytes.fromhex("030101") + b"\xab" * 32
    reply = _raw_reply("_25._tcp.mx.example", RRType.TLSA, (52, data), (52, good))
    answer = message.read_answer(reply, "_25._tcp.mx.example", RRType.TLSA, trusted=False)
    assert answer.records == (record, TlsaRecord(3, 1, 1, b"\xab" * 32))


# -- what is refused ------------------------------------------------------------------------------------------


def test_error_codes_have_their_errors() -> None:
    with pytest.raises(DnsServerFailure, match=r"MX example\.com"):
        _read("example.com", RRType.MX, rcode=dns.rcode.SERVFAIL)
    with pytest.raises(DnsRefused, match="REFUSED"):
        _read("example.com", RRType.MX, rcode=dns.rcode.REFUSED)


def test_extended_error_code_is_not_taken_for_an_absence() -> None:
    with pytest.raises(DnsRefused, match="16"):
        _read("example.com", RRType.MX, authority=[_SOA], rcode=dns.rcode.BADVERS)


def test_circle_of_cnames_is_malformed() -> None:
    chain = ["a.example. 60 IN CNAME b.example.", "b.example. 60 IN CNAME a.example."]
    with pytest.raises(DnsMalformed, match="chain"):
        _read("a.example", RRType.A, chain)


@pytest.mark.parametrize(("links", "fits"), [(15, True), (16, False)])
def test_chain_has_at_most_15_links(links: int, fits: bool) -> None:
    chain = [f"n{link}.example. 60 IN CNAME n{link + 1}.example." for link in range(links)]
    records = [*chain, f"n{links}.example. 60 IN A 192.0.2.1"]
    if fits:
        assert _read("n0.example", RRType.A, records).records == ("192.0.2.1",)
    else:
        with pytest.raises(DnsMalformed):
            _read("n0.example", RRType.A, records)


@pytest.mark.parametrize(("count", "fits"), [(500, True), (501, False)])
def test_section_has_at_most_500_records(count: int, fits: bool) -> None:
    reply = _raw_reply(
        "example.com", RRType.TXT, *((16, b"\x02" + struct.pack("!H", number)) for number in range(count))
    )
    if fits:
        assert len(message.read_answer(reply, "example.com", RRType.TXT, trusted=False).records) == count
    else:
        with pytest.raises(DnsMalformed, match="500"):
            message.read_answer(reply, "example.com", RRType.TXT, trusted=False)


def test_records_of_a_name_that_does_not_exist_are_malformed() -> None:
    with pytest.raises(DnsMalformed):
        _read("example.com", RRType.A, ["example.com. 60 IN A 192.0.2.1"], rcode=dns.rcode.NXDOMAIN)


@pytest.mark.parametrize(
    ("rdtype", "data"),
    [
        (RRType.A, b"\xc0\x00\x02"),
        (RRType.A, b"\xc0\x00\x02\x01\x01"),
        (RRType.AAAA, b"\0" * 15),
        (RRType.MX, b"\0"),
        (RRType.MX, b"\0\1\1x\0\0"),
        (RRType.MX, b"\0\1\1x"),
        (RRType.NS, b"\xff\xff"),
        (RRType.NS, b"\x40" + b"x" * 64 + b"\0"),
        (RRType.NS, b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\0"),
        (RRType.TXT, b""),
        (RRType.TXT, b"\x05abc"),
    ],
)
def test_record_data_that_does_not_fit_its_type_is_malformed(rdtype: RRType, data: bytes) -> None:
    with pytest.raises(DnsMalformed):
        message.read_answer(_raw_reply("example.com", rdtype, (rdtype, data)), "example.com", rdtype, trusted=False)


def _behind_pointers(count: int) -> bytes:
    """A reply with an NS record whose name is reached by a chain of ``count`` pointers."""
    first = 12 + len(_question("example.com", RRType.NS)) + 12
    places = [12, *range(first, first + 2 * (count - 1), 2)]
    *chain, last = (struct.pack("!H", 0xC000 | place) for place in places)
    return _raw_reply("example.com", RRType.NS, (99, b"".join(chain)), (2, last))


def test_name_with_more_pointers_than_labels_is_rejected() -> None:
    read = message.read_answer(_behind_pointers(127), "example.com", RRType.NS, trusted=False)
    assert read.records == ("example.com",)
    with pytest.raises(DnsMalformed):
        message.read_answer(_behind_pointers(128), "example.com", RRType.NS, trusted=False)


def test_every_cut_of_a_reply_is_malformed() -> None:
    whole = _reply("example.com", RRType.MX, ["example.com. 60 IN MX 1 mx.example.com."])
    ends = range(12 + len(_question("example.com", RRType.MX)), len(whole) - 11)  # the last 11 bytes are OPT
    for end in ends:
        with pytest.raises(DnsMalformed):
            message.read_answer(whole[:end], "example.com", RRType.MX, trusted=False)


def test_records_of_another_class_are_not_taken() -> None:
    head = struct.pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0)
    chaos = struct.pack("!HHHIH", 0xC00C, RRType.TXT, 3, 300, 2) + b"\x01a"
    reply = head + _question("example.com", RRType.TXT) + chaos
    assert message.read_answer(reply, "example.com", RRType.TXT, trusted=True).records == ()


def test_soa_record_that_is_too_short_is_malformed() -> None:
    head = struct.pack("!HHHHHH", 7, 0x8180, 1, 0, 1, 0)
    soa = struct.pack("!HHHIH", 0xC00C, 6, 1, 300, 21) + bytes(21)
    with pytest.raises(DnsMalformed, match="SOA"):
        message.read_answer(head + _question("example.com", RRType.TXT) + soa, "example.com", RRType.TXT, trusted=True)
