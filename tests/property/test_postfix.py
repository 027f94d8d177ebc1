"""Replies are always within the limit and always what Postfix accepts; frames are found however they arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.errors import FrameError, ReplyError
from mtasts_daemon.policy.decision import Dialect
from mtasts_daemon.policy.mtasts import Mode, MxPattern, StsPolicy
from mtasts_daemon.postfix import socketmap, tcp_table
from mtasts_daemon.postfix.fixed_reply import check_fixed_reply, needs_tlsrpt
from mtasts_daemon.postfix.policy_table import level_with_policy, secure
from mtasts_daemon.postfix.reply import Reply, ReplyKind
from tests.postfix import policy_model

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True) | st.just("a" * 63)
hosts = st.lists(labels, min_size=1, max_size=3).map(lambda found: ".".join([*found, "example"]))
patterns = st.builds(str.__add__, st.sampled_from(["", "*."]), hosts) | st.sampled_from(
    ["hostname", "dot-nexthop", "a"]
)
policies = st.builds(
    lambda mode, mx, max_age: StsPolicy(mode, tuple(MxPattern(text) for text in dict.fromkeys(mx)), max_age),
    st.sampled_from([Mode.ENFORCE, Mode.TESTING]),
    st.lists(patterns, min_size=1, max_size=40),
    st.integers(0, 31557600),
)
limits = st.integers(300, 8000) | st.sampled_from([tcp_table.TEXT_LIMIT, socketmap.TEXT_LIMIT])
dialects = st.sampled_from(list(Dialect))


def named(policy: StsPolicy) -> list[str]:
    """The names that Postfix is to match certificates against."""
    keywords = ("hostname", "nexthop", "dot-nexthop")
    return [p.text + ".invalid" if p.text in keywords else p.text.removeprefix("*") for p in policy.mx]


@given(hosts, policies, dialects, limits, st.lists(hosts, max_size=3))
def test_enforced_policy_is_always_acceptable_to_postfix(
    domain: str, policy: StsPolicy, dialect: Dialect, limit: int, current: list[str]
) -> None:
    rendered = secure(domain, policy, dialect, limit, current)
    assert len(rendered.text) <= limit
    assert rendered.text.isascii() and rendered.text.isprintable()
    found = policy_model.read(rendered.text)
    assert found.level == "secure"
    assert found.attributes["servername"] == ["hostname"]
    assert found.match
    assert set(found.match) <= set(named(policy))
    if rendered.shortened == "mx-patterns":
        permitted = [p for p in policy.mx if any(p.permits(host) for host in current)]
        assert len(found.match) < len(policy.mx)
        assert not permitted or set(found.match) <= set(named(StsPolicy(policy.mode, tuple(permitted), 0)))
    else:
        assert found.match == named(policy)
    assert found.tlsrpt is (dialect is Dialect.TLSRPT and rendered.shortened in (None, "policy-strings"))
    if found.tlsrpt:
        assert_policy_told(found, domain, policy, rendered.shortened)


def assert_policy_told(found: policy_model.Policy, domain: str, policy: StsPolicy, shortened: str | None) -> None:
    """All patterns, and at least one policy string: Postfix 3.10.0 to 3.10.5 crash without."""
    assert found.attributes["policy_type"] == ["sts"]
    assert found.attributes["policy_domain"] == [domain]
    assert found.attributes["mx_host_pattern"] == [pattern.text for pattern in policy.mx]
    lines = list(policy.lines if shortened is None else policy.lines[:2])
    assert found.attributes["policy_string"] == lines


@given(hosts, policies, st.sampled_from(["may", "encrypt", "dane", "dane-only"]), limits)
def test_testing_policy_is_complete_or_omitted(domain: str, policy: StsPolicy, level: str, limit: int) -> None:
    rendered = level_with_policy(level, domain, policy, limit)
    if rendered is None:
        assert limit < socketmap.TEXT_LIMIT
        return
    assert len(rendered.text) <= limit
    found = policy_model.read(rendered.text)
    assert found.level == level
    assert "match" not in found.attributes
    assert_policy_told(found, domain, policy, rendered.shortened)


@given(hosts, policies, dialects)
def test_what_the_daemon_makes_passes_its_own_check_of_fixed_replies(
    domain: str, policy: StsPolicy, dialect: Dialect
) -> None:
    text = secure(domain, policy, dialect, tcp_table.TEXT_LIMIT).text
    check_fixed_reply(text)
    assert needs_tlsrpt(text) is policy_model.read(text).tlsrpt


@given(st.text(max_size=40), st.text(max_size=40), dialects)
def test_no_text_gets_into_a_reply_unvalidated(domain: str, pattern: str, dialect: Dialect) -> None:
    policy = StsPolicy(Mode.ENFORCE, (MxPattern(pattern),), 1)
    try:
        text = secure(domain, policy, dialect, socketmap.TEXT_LIMIT).text
    except ReplyError as error:
        assert error.sentence.isascii() and error.sentence.isprintable()
        return
    found = policy_model.read(text)
    assert found.match == named(policy)


words = st.sampled_from(
    [
        *(
            "none",
            "may",
            "encrypt",
            "fingerprint",
            "dane",
            "dane-only",
            "verify",
            "secure",
            "match=",
            "match=a.example",
        ),
        *("match=hostname:.b.example", "match=aa:bb|cc:dd", "servername=hostname", "ciphers=high", "protocols=TLSv1.2"),
        *("policy_type=sts", "policy_type=no-policy-found", "mx_host_pattern=*.a.example", "policy_domain=a.example"),
        *("{ policy_string = a, b }", "{policy_string={}}", "{", "}", "{ match = a.example }", "{}{}", "x=y", "=", ","),
        *("policy_ttl=5", "policy_failure=validation-failure", "tafile=/x", "enable_rpk=yes", "connection_reuse=no"),
    ]
)
separators = st.sampled_from([" ", ",", ", ", "  ", ""])
entries = st.lists(st.builds(str.__add__, words, separators), max_size=8).map("".join) | st.text(max_size=40)


@given(entries)
def test_a_fixed_reply_that_passes_the_check_is_accepted_by_postfix(text: str) -> None:
    try:
        check_fixed_reply(text)
    except ReplyError as error:
        assert error.sentence.isascii() and error.sentence.isprintable()
        return
    found = policy_model.read(text)
    assert needs_tlsrpt(text) is found.tlsrpt


# -- frames ------------------------------------------------------------------------------------------------

names = st.sampled_from([b"postfix", b"QUERY", b"QUERYwithTLSRPT", b""])


@given(st.lists(st.tuples(names, st.binary(max_size=40)), max_size=5), st.binary(max_size=3))
def test_netstrings_are_found_one_after_the_other(requests: list[tuple[bytes, bytes]], rest: bytes) -> None:
    payloads = [name + b" " + key for name, key in requests]
    buffer = b"".join(b"%d:%b," % (len(payload), payload) for payload in payloads)
    start = 0
    for name, key in requests:
        end = socketmap.frame_end(buffer + rest, start)
        assert all(socketmap.frame_end(buffer[:cut], start) == -1 for cut in range(start, end))
        assert socketmap.parse(buffer[start:end]) == (name, key)
        start = end
    assert start == len(buffer)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_quoted_lines_are_found_one_after_the_other(keys: list[bytes]) -> None:
    buffer = b"".join(b"get " + b"".join(b"%%%02X" % octet for octet in key) + b"\n" for key in keys)
    start = 0
    for key in keys:
        end = tcp_table.frame_end(buffer, start)
        assert all(tcp_table.frame_end(buffer[:cut], start) == -1 for cut in range(start, end))
        assert tcp_table.parse(buffer[start:end]) == (b"", key)
        start = end
    assert start == len(buffer)


@given(st.binary(max_size=80) | st.from_regex(rb"[0-9]{0,12}:?[a-z ]{0,12},?", fullmatch=True), st.integers(0, 5))
def test_any_octets_are_a_frame_or_incomplete_or_refused(octets: bytes, start: int) -> None:
    start = min(start, len(octets))
    for codec in (socketmap, tcp_table):
        try:
            end = codec.frame_end(octets, start)
            if end < 0:
                continue
            assert start < end <= len(octets)
            name, key = codec.parse(octets[start:end])
        except FrameError as error:
            assert error.slug == "frame-malformed"
        else:
            assert len(name) + len(key) <= end - start


@given(st.text(max_size=300), st.sampled_from([ReplyKind.FOUND, ReplyKind.TEMPORARY]))
def test_any_reply_is_one_frame_of_ascii(text: str, kind: ReplyKind) -> None:
    frame = socketmap.encode(Reply(kind, text))
    length, _, payload = frame.partition(b":")
    assert int(length) == len(payload) - 1
    line = tcp_table.encode(Reply(kind, text))
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert frame.isascii() and line.isascii()


def test_the_model_itself_knows_what_defers() -> None:
    for text in ("secure match=", "secure {a=b}{c=d}", "may policy_domain=a", "secure x}"):
        with pytest.raises(policy_model.Deferred):
            policy_model.read(text)
