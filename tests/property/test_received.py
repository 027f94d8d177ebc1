"""Any bytes are a report within the bounds or an error with a slug."""

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.errors import MtaStsError
from mtasts_daemon.tlsrpt.receive.auth_results import passed_domains
from mtasts_daemon.tlsrpt.receive.authentication import authenticate
from mtasts_daemon.tlsrpt.receive.dkim_check import fetch_keys, relevant_signatures, verify_signatures
from mtasts_daemon.tlsrpt.receive.dkim_tags import parse_key_record, parse_signature
from mtasts_daemon.tlsrpt.receive.intake import read_mail
from mtasts_daemon.tlsrpt.receive.mail_header import read_header
from mtasts_daemon.tlsrpt.receive.model import DEFAULT_LIMITS, ReceivedReport
from mtasts_daemon.tlsrpt.receive.parser import file_name_facts, parse_report
from mtasts_daemon.tlsrpt.receive.unpack import unpack
from mtasts_daemon.tlsrpt.receive.writes import share_of
from tests.tlsrpt.receive import corpus

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def within_bounds(found: ReceivedReport) -> None:
    assert found.end - found.begin <= DEFAULT_LIMITS.range_seconds
    assert len(found.policies) <= DEFAULT_LIMITS.policies
    texts = [found.organization, found.contact, found.report_id]
    for policy in found.policies:
        assert 0 <= policy.successful < DEFAULT_LIMITS.count
        assert 0 <= policy.failed < DEFAULT_LIMITS.count
        texts += [policy.type, policy.domain, *policy.strings, *policy.mx_hosts]
        for failure in policy.failures:
            assert 0 <= failure.count < DEFAULT_LIMITS.count
            texts += [failure.result_type, failure.mx_host, failure.helo, failure.info, failure.reason]
    assert all(text.isprintable() and len(text) <= DEFAULT_LIMITS.text for text in texts)
    assert all(0 <= count < 1 << 63 for pair in share_of(found.policies).values() for count in pair)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_report_or_an_error(data: bytes) -> None:
    for prefix in (b"", b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"{"):
        try:
            text, _ = unpack(prefix + data)
            within_bounds(parse_report(text, now=corpus.NOW))
        except MtaStsError as error:
            assert error.slug


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A report in which some member, however deep, is anything."""
    content: Any = json.loads(json.dumps(corpus.WILD[draw(st.sampled_from(sorted(corpus.WILD)))]()))
    node = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        below = node[key]
        if isinstance(below, dict | list) and below and draw(st.booleans()):
            node = below
            continue
        node[key] = draw(JSON)
        return content


@given(mutated())
def test_any_member_may_be_anything(content: Any) -> None:
    try:
        within_bounds(parse_report(json.dumps(content).encode("utf-8", "surrogatepass"), now=corpus.NOW))
    except MtaStsError as error:
        assert error.slug


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_mail_with_anything_in_it_raises_nothing_else(data: bytes, at: int) -> None:
    message = corpus.mail(corpus.packed(corpus.report()))
    message = message[:at] + data + message[at:]
    header = read_header(message)
    try:
        within_bounds(read_mail(message, header, now=corpus.NOW, limits=DEFAULT_LIMITS).report)
    except MtaStsError as error:
        assert error.slug


@given(st.binary(max_size=200), st.integers(0, 1200))
def test_signed_mail_that_was_changed_is_never_believed_to_say_something_else(data: bytes, at: int) -> None:
    original = _SIGNED
    message = original[:at] + data + original[at:]
    header = read_header(message)
    if header.ambiguous:
        return
    signatures = relevant_signatures(header.values("dkim-signature"), header.claims(), corpus.NOW)

    async def lookup(name: str) -> tuple[bytes, ...]:
        return (corpus.key_record(),) if name == "sel._domainkey.reporter.example" else ()

    checks = verify_signatures(message, signatures, asyncio.run(fetch_keys(signatures, lookup)))
    verdict = authenticate(header.claims(), checks)
    if verdict is None or not verdict.trusted:
        return
    assert verdict.identity == "reporter.example"
    found = read_mail(message, header, now=corpus.NOW, limits=DEFAULT_LIMITS).report
    expected = read_mail(original, read_header(original), now=corpus.NOW, limits=DEFAULT_LIMITS).report
    assert found.policies == expected.policies
    assert (found.begin, found.end, found.report_id) == (expected.begin, expected.end, expected.report_id)


_SIGNED = corpus.signed(corpus.mail(corpus.packed(corpus.report())))


@given(st.text(max_size=300), st.binary(max_size=300))
def test_small_grammars_take_anything(text: str, data: bytes) -> None:
    passed_domains([text, f"mx.example; {text}"], frozenset({"mx.example"}))
    parse_signature(text, 0.0)
    parse_key_record(data)
    file_name_facts(text)
