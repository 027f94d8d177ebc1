"""Any bytes as a record or a policy give a valid one or a leaf of the error tree."""

import json
import re
from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from mtasts_daemon import errors
from mtasts_daemon.policy.draft2017 import DRAFT_2017, parse_json_policy
from mtasts_daemon.policy.mtasts import (
    MAX_AGE_LIMIT,
    RFC8461,
    Mode,
    MxPattern,
    StsPolicy,
    StsRecord,
    parse_policy,
    parse_txt,
)

PATTERN = re.compile(r"(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*")

record_pieces = st.one_of(
    st.sampled_from([b"v=STSv1;", b"v=STSV1;", b"id=", b";", b" ", b"\t", b"=", b"a1", b"x=y", b"\xff", b"a" * 33]),
    st.binary(max_size=3),
)
records = st.lists(st.lists(record_pieces, max_size=8).map(b"".join) | st.binary(max_size=60), max_size=3)

field_names = st.sampled_from(["version", "mode", "mx", "max_age", "Mode", "x.y_z-1", "", " mx"]) | st.text(max_size=3)
values = st.one_of(
    st.sampled_from(
        ["STSv1", "enforce", "testing", "none", "86400", "0", "9999999999", "*.example.com", "mail.Example.com"]
    ),
    st.sampled_from(["a b", "hostname", "} { x = y", "a,b", "a:b", "*.*.x", "192.0.2.1", "bücher.example", "a.", "١٢"]),
    st.text(max_size=12),
)
ends = st.sampled_from(["\n", "\r\n", " \n", "\n\n", "\r", "\t\r\n"])
lines = st.builds("{}{}{}{}".format, field_names, st.sampled_from([":", ": ", ":\t", " :", ""]), values, ends)
valid = "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 1\n"
bodies = st.one_of(
    st.binary(max_size=200),
    st.lists(lines, max_size=8).map(lambda found: "".join(found).encode("utf-8", "surrogatepass")),
    st.lists(lines, max_size=3).map(lambda found: (valid + "".join(found)).encode("utf-8", "surrogatepass")),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
json_names = st.sampled_from(["version", "mode", "mx", "max_age", "x"])
json_bodies = st.dictionaries(json_names, json_values | st.lists(values, max_size=3)).map(
    lambda v: json.dumps(v).encode()
)


def leaf(error: errors.MtaStsError) -> bool:
    """Whether the error can be named in a log, a metric and a report, and its sentence shown anywhere."""
    return bool(error.slug) and error.sentence.isascii() and error.sentence.isprintable() and len(error.sentence) < 700


def assert_sound(policy: StsPolicy) -> None:
    assert policy.mx or policy.mode is Mode.NONE
    assert 0 <= policy.max_age <= MAX_AGE_LIMIT
    assert len(set(policy.mx)) == len(policy.mx)
    for pattern in policy.mx:
        assert PATTERN.fullmatch(pattern.text)
        assert len(pattern.text) <= 255
    assert parse_policy("\r\n".join(policy.lines).encode()) == policy
    assert parse_policy("\n".join(policy.lines).encode() + b"\n") == policy


def read(parse: Callable[[bytes], StsPolicy], body: bytes) -> StsPolicy | None:
    try:
        return parse(body)
    except errors.PolicySyntaxError as error:
        assert leaf(error)
        return None


@given(records, st.booleans())
def test_any_records_give_one_id_or_none_or_a_named_error(found: list[bytes], draft: bool) -> None:
    try:
        record = (DRAFT_2017 if draft else RFC8461).parse_txt(found)
    except errors.StsRecordError as error:
        assert leaf(error)
    else:
        if record is None:
            assert not any(octets.startswith(b"v=STSv1;") for octets in found)
        else:
            assert re.fullmatch(r"[A-Za-z0-9]{1,32}", record.id)


@given(
    st.from_regex(r"[A-Za-z0-9]{1,32}", fullmatch=True), st.lists(st.sampled_from([" ", "\t"]), max_size=3).map("".join)
)
def test_valid_id_is_read_with_any_blanks(record_id: str, blanks: str) -> None:
    for text in (
        f"v=STSv1;{blanks}id={record_id}",
        f"v=STSv1;{blanks}a=b{blanks};{blanks}id={record_id}{blanks};{blanks}",
    ):
        assert parse_txt([b"other", text.encode()]) == StsRecord(record_id)


@given(bodies)
@example(b"\xef\xbb\xbf")
def test_any_body_gives_a_sound_policy_or_a_named_error(body: bytes) -> None:
    policy = read(parse_policy, body)
    if policy is not None:
        assert_sound(policy)


@given(bodies | json_bodies)
@example(b'{"a":' * 20000)
def test_any_body_gives_a_sound_draft_policy_or_a_named_error(body: bytes) -> None:
    policy = read(parse_json_policy, body)
    if policy is not None:
        assert_sound(policy)


@given(bodies, st.text(max_size=40))
def test_a_policy_permits_only_what_a_pattern_spells_out(body: bytes, host: str) -> None:
    policy = read(parse_policy, body)
    if policy is None:
        return
    for pattern in policy.mx:
        name = pattern.text.replace("*", "mx")
        assert policy.permits(name)
        assert policy.permits(name.upper() + ".")
        if pattern.wildcard:
            assert not pattern.permits(pattern.text[2:])
            assert not pattern.permits("a.b" + pattern.text[1:])
    if policy.permits(host):
        shape = host.lower().removesuffix(".")
        assert shape in {pattern.text for pattern in policy.mx} or f"*.{shape.partition('.')[2]}" in {
            pattern.text for pattern in policy.mx
        }


_labels = st.text("ab*.-", max_size=6)


@given(st.lists(st.sampled_from(["a.a", "b.a", "a.b.a", "*.a", "*.b.a"]), min_size=1), st.lists(_labels))
def test_many_hosts_are_permitted_as_each_of_them_is(patterns: list[str], hosts: list[str]) -> None:
    policy = StsPolicy(Mode.ENFORCE, tuple(map(MxPattern, patterns)), 86400)
    assert policy.permits_any(hosts) is any(policy.permits(host) for host in hosts)
