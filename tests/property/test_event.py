"""Any datagram is an event within bounds, or a leaf of the error tree."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.errors import TlsrptEventError
from mtasts_daemon.policy.next_hop import policy_domain
from mtasts_daemon.tlsrpt.model.event import (
    MAX_ITEMS,
    MAX_STRINGS,
    MAX_TEXT,
    RESULT_TYPES,
    TlsrptEvent,
    address,
    parse_datagram,
)
from tests.tlsrpt.recorded import RECORDED

TEXT = st.text(st.characters(), max_size=30)
NUMBER = st.integers() | st.sampled_from([1, 2, 9, 201, 205, 306, 901]) | st.integers(-(10**4200), 10**4200)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBER | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


def members(required: dict[str, Any], names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with members of the right names, and often of the right types."""
    return st.fixed_dictionaries(
        {name: inner | JSON for name, inner in required.items()},
        optional=dict.fromkeys(names.split(), TEXT | NUMBER | JSON),
    )


FAILURE = members({"c": NUMBER}, "s n h r a f x")
POLICY = members(
    {"policy-type": st.sampled_from([1, 2, 9]), "failure-details": st.lists(FAILURE, max_size=3)},
    "policy-domain policy-string mx-host t f x",
)
DATAGRAM = members(
    {"d": st.sampled_from(["example.com", "EXAMPLE.org."]), "policies": st.lists(POLICY, min_size=1, max_size=3)},
    "dpv pr x",
)


def read(data: bytes) -> TlsrptEvent | None:
    """The event, checked against every bound, or None for one of our errors."""
    try:
        event = parse_datagram(data)
    except TlsrptEventError as error:
        assert error.slug
        assert error.sentence.isprintable()
        assert len(error.sentence) < 2 * MAX_TEXT
        return None
    assert policy_domain(event.domain) == event.domain
    assert 1 <= len(event.outcomes) <= MAX_ITEMS
    shown(event.record)
    for outcome in event.outcomes:
        policy = outcome.policy
        assert policy.domain
        for texts in (policy.strings, policy.mx_hosts):
            assert len(texts) <= MAX_ITEMS
            assert sum(map(len, texts)) <= MAX_STRINGS
            assert "".join(texts).isprintable()
        for failure in outcome.failures:
            assert failure.result_type in RESULT_TYPES.values()
            assert failure.sending_ip == address(failure.sending_ip)
            assert failure.receiving_ip == address(failure.receiving_ip)
            for text in (failure.mx_host, failure.helo, failure.info, failure.reason_code):
                shown(text)
    return event


def shown(text: str) -> None:
    assert text.isprintable()
    assert len(text) <= MAX_TEXT
    text.encode()


@given(st.binary(max_size=300))
def test_any_octets_are_an_event_or_one_of_our_errors(data: bytes) -> None:
    read(data)


@given(DATAGRAM | JSON)
def test_any_json_is_an_event_or_one_of_our_errors(value: Any) -> None:
    read(json.dumps(value).encode("utf-8", "surrogatepass"))


@given(st.sampled_from(RECORDED), st.integers(0), st.binary(max_size=4), st.integers(0, 9))
def test_a_recorded_datagram_with_octets_replaced_is_an_event_or_one_of_our_errors(
    found: Any, place: int, octets: bytes, gone: int
) -> None:
    at = place % len(found.datagram)
    read(found.datagram[:at] + octets + found.datagram[at + gone :])


@given(st.sampled_from(b'[{":,'), st.integers(0, 100_000))
def test_any_depth_is_survived(octet: int, depth: int) -> None:
    read(bytes([octet]) * depth)
