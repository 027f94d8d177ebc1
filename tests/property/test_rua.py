"""Any bytes as a TLSRPT record give addresses that are valid in a header and a request, or a leaf of the error tree."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon import errors
from mtasts_daemon.tlsrpt.model.record import Rua, parse_rua, parse_tlsrpt

pieces = st.one_of(
    st.sampled_from(
        [b"v=TLSRPTv1", b";", b" ", b"\t", b"rua=", b"mailto:", b"HTTPS://", b"a@example.com", b"b.example"]
    ),
    st.sampled_from([b",", b"!", b"%2C", b"%0d%0a", b"%", b":8443", b"/", b"?", b"#", b"@", b"[", b"]", b"%C3%BC"]),
    st.binary(max_size=3),
)
bodies = st.lists(pieces, max_size=12).map(b"".join)
records = st.lists(bodies | bodies.map(lambda body: b"v=TLSRPTv1; rua=" + body), max_size=2)
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}"
local_parts = st.from_regex(rf"{_ATEXT}(\.{_ATEXT})?", fullmatch=True)


def assert_sound(rua: Rua) -> None:
    assert parse_rua(rua.uri) == rua
    assert rua.uri.isascii()
    assert not re.search(r"[\s,;!\x00-\x20\x7f]", rua.uri)
    assert re.fullmatch(r"[a-z0-9.-]+\.[a-z0-9-]+", rua.host)
    if rua.mailbox:
        assert rua.mailbox.isascii()
        assert re.fullmatch(r"[^\s@\"(),:;<>\[\]\\\x00-\x20\x7f]{1,64}@" + re.escape(rua.host), rua.mailbox)
    else:
        assert rua.target.startswith("/")
        assert 0 < rua.port < 65536


@given(records, st.integers(1, 5))
def test_any_records_give_sound_addresses_or_a_named_error(found: list[bytes], most: int) -> None:
    try:
        record = parse_tlsrpt(found, most=most)
    except errors.TlsrptRecordError as error:
        assert error.slug
        assert error.sentence.isprintable()
        return
    if record is None:
        assert not any(octets.startswith(b"v=TLSRPTv1;") for octets in found)
        return
    assert len({rua.uri for rua in record.rua}) == len(record.rua) <= most
    for rua in record.rua:
        assert_sound(rua)
    for problem in record.problems:
        assert problem.isascii()
        assert problem.isprintable()
        assert len(problem) < 600


@given(local_parts)
def test_any_local_part_is_read_when_percent_encoded(local: str) -> None:
    encoded = "".join(f"%{ord(character):02x}" for character in local)
    rua = parse_rua(f"mailto:{encoded}@example.com")
    assert rua.mailbox == f"{local}@example.com"
    assert_sound(rua)
