"""TLSRPT records, RFC 8460 section 3: every form the grammar allows, and invalid ones."""

import pytest

from mtasts_daemon import errors
from mtasts_daemon.tlsrpt.model.record import MAX_RECORD, Rua, TlsrptRecord, parse_rua, parse_tlsrpt

MAIL = Rua("mailto:tls@example.com", "example.com", "tls@example.com")
WEB = Rua("https://reports.example.com/v1", "reports.example.com", target="/v1")


def record(text: str, most: int = 4) -> TlsrptRecord:
    found = parse_tlsrpt([b"v=spf1 -all", text.encode("latin-1")], most=most)
    assert found is not None
    return found


def uris(text: str) -> list[str]:
    return [rua.uri for rua in record(text).rua]


@pytest.mark.parametrize(
    "text",
    [
        "v=TLSRPTv1; rua=mailto:tls@example.com",
        "v=TLSRPTv1;rua=mailto:tls@example.com",
        "v=TLSRPTv1;rua=mailto:tls@example.com;",
        "v=TLSRPTv1 ; rua=mailto:tls@example.com ; ",
        "v=TLSRPTv1\t;\trua=mailto:tls@example.com\t;",
        "v=TLSRPTv1; ext=1; rua=mailto:tls@example.com",
        "v=TLSRPTv1; rua=mailto:tls@example.com; ext=a=b; x.y_z-1=!",
        "v=TLSRPTv1; rua=MAILTO:tls@EXAMPLE.com",
        "v=TLSRPTv1; rua=mailto:tls@example.com.",
        "v=TLSRPTv1; rua=mailto:tls%40example.com",
        "v=TLSRPTv1; rua=mailto:%74ls@example.com",
        "v=TLSRPTv1; rua=mailto:tls@example.com,",
        "v=TLSRPTv1; rua= ,, mailto:tls@example.com",
        "v=TLSRPTv1; rua=mailto:tls@example.com,mailto:tls@example.com",
        "v=TLSRPTv1; rua=mailto:tls@example.com?subject=report",
        "v=TLSRPTv1; =; nonsense; rua=mailto:tls@example.com",
    ],
)
def test_one_address_in_all_the_ways_it_may_be_written(text: str) -> None:
    assert record(text) == TlsrptRecord((MAIL,))


@pytest.mark.parametrize("between", [",", ", ", " ,", " , ", "\t,\t", ",, ", "; rua="])
def test_addresses_keep_their_order(between: str) -> None:
    text = f"v=TLSRPTv1; rua=https://reports.example.com/v1{between}mailto:tls@example.com"
    assert record(text) == TlsrptRecord((WEB, MAIL))


@pytest.mark.parametrize(
    ("uri", "rua"),
    [
        ("https://reports.example.com/v1", WEB),
        ("HTTPS://Reports.Example.COM/v1", WEB),
        ("https://reports.example.com:443/v1#part", WEB),
        ("https://a.example", Rua("https://a.example/", "a.example", target="/")),
        ("https://a.example?x=%2Cy", Rua("https://a.example/?x=%2Cy", "a.example", target="/?x=%2Cy")),
        ("https://a.example:8443/p/%21", Rua("https://a.example:8443/p/%21", "a.example", port=8443, target="/p/%21")),
        ("mailto:tls%2Brpt@a.example", Rua("mailto:tls+rpt@a.example", "a.example", "tls+rpt@a.example")),
        ("mailto:a%21b@a.example", Rua("mailto:a%21b@a.example", "a.example", "a!b@a.example")),
        ("mailto:a%25b@a.example", Rua("mailto:a%25b@a.example", "a.example", "a%b@a.example")),
        ("mailto:a/b@a.example", Rua("mailto:a%2Fb@a.example", "a.example", "a/b@a.example")),
        (
            "mailto:x@b%C3%BCcher.example",
            Rua("mailto:x@xn--bcher-kva.example", "xn--bcher-kva.example", "x@xn--bcher-kva.example"),
        ),
    ],
)
def test_an_address_has_one_written_form_which_is_read_as_the_same(uri: str, rua: Rua) -> None:
    assert parse_rua(uri) == rua
    assert parse_rua(rua.uri) == rua


@pytest.mark.parametrize(
    "bad",
    [
        "postmaster@example.com",
        "http://reports.example.com/v1",
        "ftp://example.com/",
        "mailto:",
        "mailto:tls",
        "mailto:@example.com",
        "mailto:a@b@example.com",
        "mailto:a%2Cb@example.com",
        "mailto:a%0D%0ABcc:%20x@example.com",
        "mailto:a%00@example.com",
        "mailto:%22a%20b%22@example.com",
        "mailto:a@[192.0.2.1]",
        "mailto:a@localhost",
        "mailto:a%FF@example.com",
        "mailto:t%C3%BC@example.com",
        "mailto:a%4@example.com",
        "mailto:tls@example.com!10m",
        f"mailto:{'a' * 65}@example.com",
        "https://",
        "https:///v1",
        "https://user:secret@example.com/",
        "https://192.0.2.1/",
        "https://[2001:db8::1]/",
        "https://localhost/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://exa mple.com/",
        "https://-a-.example/",
        "https://example.com/" + "a" * 1100,
        "tel:+123",
        "%",
    ],
)
def test_one_bad_address_is_reported_and_the_others_are_used(bad: str) -> None:
    found = record(f"v=TLSRPTv1; rua=mailto:tls@example.com, {bad} ,https://reports.example.com/v1")
    assert found.rua == (MAIL, WEB)
    assert len(found.problems) == 1
    assert found.problems[0].startswith(bad[:20])
    assert found.problems[0].isascii()
    assert found.problems[0].isprintable()


def test_number_of_addresses_is_bounded_without_duplicates() -> None:
    names = ",".join(f"mailto:{name}@example.com" for name in "aabbcde")
    found = record(f"v=TLSRPTv1; rua={names}", most=4)
    assert [rua.mailbox[0] for rua in found.rua] == ["a", "b", "c", "d"]
    assert found.problems == ("mailto:e@example.com: more than 4 addresses",)


def test_a_list_without_end_is_read_to_a_bound() -> None:
    found = record("v=TLSRPTv1;rua=" + "x," * 1000)
    assert len(found.problems) == 65


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["v=spf1 -all"],
        ["v=TLSRPTv1"],
        ["v=TLSRPTv2; rua=mailto:tls@example.com"],
        ["V=TLSRPTv1; rua=mailto:tls@example.com"],
        [" v=TLSRPTv1; rua=mailto:tls@example.com"],
        ["v=TLSRPTv1x; rua=mailto:tls@example.com"],
        ["v=STSv1; id=1;"],
    ],
)
def test_what_does_not_begin_with_the_version_is_no_record(texts: list[str]) -> None:
    assert parse_tlsrpt([text.encode() for text in texts]) is None


def test_a_second_record_makes_both_invalid() -> None:
    with pytest.raises(errors.TlsrptRecordMultiple):
        parse_tlsrpt([b"v=TLSRPTv1; rua=mailto:a@example.com"] * 2)


@pytest.mark.parametrize("text", ["v=TLSRPTv1;", "v=TLSRPTv1; RUA=mailto:a@b.example", "v=TLSRPTv1; rua mailto:a@b.c"])
def test_record_without_rua_is_an_error(text: str) -> None:
    with pytest.raises(errors.TlsrptRecordNoRua):
        parse_tlsrpt([text.encode()])


@pytest.mark.parametrize("octets", [b"v=TLSRPTv1; rua=mailto:\xff@a.example", b"v=TLSRPTv1;" + b"a" * MAX_RECORD])
def test_octets_that_are_not_text_and_endless_text_are_refused(octets: bytes) -> None:
    with pytest.raises(errors.TlsrptRecordSyntax):
        parse_tlsrpt([octets])


def test_a_rua_of_which_nothing_can_be_used_leaves_the_problems() -> None:
    assert uris("v=TLSRPTv1; rua=postmaster@example.com") == []


@pytest.mark.parametrize("uri", ["https://192.0.2.1/x", "mailto:tls@localhost"])
def test_address_without_a_valid_host_has_a_clear_error(uri: str) -> None:
    with pytest.raises(ValueError, match=r"\A(192\.0\.2\.1|localhost) is not a domain\Z"):
        parse_rua(uri)
