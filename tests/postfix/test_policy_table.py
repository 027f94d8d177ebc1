"""Policies as policy-table entries: exact texts, limits, and the operator's own entries."""

import pytest

from mtasts_daemon.errors import ReplyError
from mtasts_daemon.policy.decision import Dialect
from mtasts_daemon.policy.mtasts import Mode, MxPattern, StsPolicy
from mtasts_daemon.postfix import socketmap, tcp_table
from mtasts_daemon.postfix.fixed_reply import check_fixed_reply, needs_tlsrpt
from mtasts_daemon.postfix.policy_table import Rendered, level_with_policy, secure
from tests.postfix import policy_model

LIMIT = socketmap.TEXT_LIMIT


def policy(*mx: str, mode: Mode = Mode.ENFORCE) -> StsPolicy:
    return StsPolicy(mode, tuple(MxPattern(text) for text in mx), 604800)


POLICY = policy("mail.example.com", "*.example.net")
PLAIN = "secure match=mail.example.com:.example.net servername=hostname"
ATTRIBUTES = (
    "policy_type=sts policy_domain=example.com mx_host_pattern=mail.example.com mx_host_pattern=*.example.net"
    " { policy_string = version: STSv1 } { policy_string = mode: enforce }"
)
STRINGS = (
    " { policy_string = mx: mail.example.com }"
    " { policy_string = mx: *.example.net }"
    " { policy_string = max_age: 604800 }"
)


def test_an_enforced_policy_in_the_plain_dialect() -> None:
    assert secure("example.com", POLICY, Dialect.PLAIN, LIMIT) == Rendered(PLAIN)


def test_an_enforced_policy_in_the_tlsrpt_dialect() -> None:
    assert secure("example.com", POLICY, Dialect.TLSRPT, LIMIT) == Rendered(f"{PLAIN} {ATTRIBUTES}{STRINGS}")


@pytest.mark.parametrize("level", ["may", "encrypt", "dane", "dane-only", "verify", "secure"])
def test_testing_policy_has_the_default_level_without_match(level: str) -> None:
    rendered = level_with_policy(level, "example.com", POLICY, LIMIT)
    assert rendered == Rendered(f"{level} {ATTRIBUTES}{STRINGS}")
    assert "match" not in policy_model.read(rendered.text).attributes


@pytest.mark.parametrize("level", ["none", "fingerprint"])
def test_level_without_attributes_has_no_entry(level: str) -> None:
    assert level_with_policy(level, "example.com", POLICY, LIMIT) is None


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ReplyError):
        level_with_policy("secure match=x", "example.com", POLICY, LIMIT)


def test_policy_without_patterns_has_no_attributes() -> None:
    assert level_with_policy("may", "example.com", policy(mode=Mode.NONE), LIMIT) is None


def test_a_policy_without_patterns_cannot_be_enforced() -> None:
    for dialect in Dialect:
        with pytest.raises(ReplyError):
            secure("example.com", policy(), dialect, LIMIT)


# -- what remote text could do -----------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["hostname", "nexthop", "dot-nexthop"])
def test_pattern_that_is_a_postfix_keyword_is_escaped(keyword: str) -> None:
    text = secure("example.com", policy(keyword), Dialect.TLSRPT, LIMIT).text
    assert policy_model.read(text).match == [f"{keyword}.invalid"]
    assert policy_model.read(text).attributes["mx_host_pattern"] == [keyword]


@pytest.mark.parametrize(
    "evil",
    [
        "",
        ".",
        "*.",
        ".example.com",
        "mail.example.com.",
        "Mail.example.com",
        "bücher.example",
        "a_b.example",
        "a b",
        "a:b",
        "a,b",
        "a=b",
        "a}",
        "{a",
        "a\n",
        "192.0.2.1",
        "a" * 64,
        ".".join(["a" * 60] * 5),
        "*.*.example.com",
    ],
)
def test_unvalidated_token_is_rejected(evil: str) -> None:
    for dialect in Dialect:
        with pytest.raises(ReplyError):
            secure("example.com", policy("a.example", evil), dialect, LIMIT)
        if not evil.startswith("*"):
            with pytest.raises(ReplyError):
                secure(evil, POLICY, dialect, LIMIT)
    with pytest.raises(ReplyError) as refused:
        level_with_policy("may", "example.com", policy(evil), LIMIT)
    assert refused.value.sentence.isascii() and refused.value.sentence.isprintable()


# -- limits ------------------------------------------------------------------------------------------------


def test_long_reply_keeps_version_and_mode() -> None:
    full = len(f"{PLAIN} {ATTRIBUTES}{STRINGS}")
    assert secure("example.com", POLICY, Dialect.TLSRPT, full).shortened is None
    shortened = Rendered(f"{PLAIN} {ATTRIBUTES}", "policy-strings")
    assert secure("example.com", POLICY, Dialect.TLSRPT, full - 1) == shortened
    assert secure("example.com", POLICY, Dialect.TLSRPT, len(shortened.text)) == shortened


def test_longer_reply_falls_back_to_the_plain_dialect() -> None:
    limit = len(f"{PLAIN} {ATTRIBUTES}") - 1
    assert secure("example.com", POLICY, Dialect.TLSRPT, limit) == Rendered(PLAIN, "tlsrpt-attributes")
    assert secure("example.com", POLICY, Dialect.TLSRPT, len(PLAIN)) == Rendered(PLAIN, "tlsrpt-attributes")


@pytest.mark.parametrize("dialect", list(Dialect))
def test_longest_reply_keeps_the_patterns_that_fit(dialect: Dialect) -> None:
    shortened = Rendered("secure match=mail.example.com servername=hostname", "mx-patterns")
    assert secure("example.com", POLICY, dialect, len(PLAIN) - 1) == shortened
    assert secure("example.com", POLICY, dialect, len(shortened.text)) == shortened


def test_shortened_patterns_prefer_current_hosts() -> None:
    hosts = ("gone.example.org", "mx1.example.net")
    rendered = secure("example.com", POLICY, Dialect.PLAIN, len(PLAIN) - 1, hosts)
    assert rendered == Rendered("secure match=.example.net servername=hostname", "mx-patterns")


def test_hosts_without_pattern_do_not_change_the_patterns() -> None:
    rendered = secure("example.com", POLICY, Dialect.PLAIN, len(PLAIN) - 1, ("mx.example.org",))
    assert policy_model.read(rendered.text).match == ["mail.example.com"]


def test_no_pattern_that_fits_is_an_error_and_never_an_empty_match() -> None:
    with pytest.raises(ReplyError):
        secure("example.com", POLICY, Dialect.PLAIN, 40)


def test_the_longest_pattern_fits_into_either_protocol() -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * 61, "c"])
    assert len(longest) == 255
    rendered = secure("example.com", policy(*[longest] * 100), Dialect.TLSRPT, tcp_table.TEXT_LIMIT)
    assert 15 <= len(policy_model.read(rendered.text).match) < 100


def test_long_testing_policy_is_shortened_or_omitted() -> None:
    kept = f"dane {ATTRIBUTES}"
    assert level_with_policy("dane", "example.com", POLICY, len(kept)) == Rendered(kept, "policy-strings")
    assert level_with_policy("dane", "example.com", POLICY, len(kept) - 1) is None


# -- the operator's own entries ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tlsrpt"),
    [
        ("none", False),
        ("may", False),
        ("encrypt protocols=>=TLSv1.2 ciphers=high", False),
        ("encrypt protocols=!SSLv2:!SSLv3 exclude=aNULL:MD5", False),
        ("encrypt protocols= exclude=", False),
        ("dane-only", False),
        ("dane", False),
        ("verify", False),
        ("secure", False),
        ("secure match=nexthop:dot-nexthop", False),
        ("secure match=mail.example.com:.example.net match=hostname servername=hostname", False),
        ("secure,match=a.example,,  servername=nexthop", False),
        ("SECURE".lower() + " MATCH=Mail.Example.COM TAfile=/etc/a.pem tafile=/etc/b.pem", False),
        ("fingerprint", False),
        ("fingerprint match=3D:95:34:51|3d953451 match=ab:cd", False),
        ("may connection_reuse=yes connection_reuse=No enable_rpk=no", False),
        ("may policy_type=no-policy-found", True),
        ("may policy_type=no-policy-found policy_string=a}b policy_ttl=5", True),
        ("secure { match = a.example }", True),
        (f"dane {ATTRIBUTES}", True),
        (f"{PLAIN} {ATTRIBUTES}{STRINGS}", True),
        (f"{PLAIN} {ATTRIBUTES} {{ policy_string = a{{b, c}}d }} policy_string= policy_ttl=5", True),
        ("secure match=a.example policy_type=no-policy-found policy_failure=sts-webpki-invalid", True),
    ],
)
def test_fixed_reply_that_postfix_accepts_is_accepted(text: str, tlsrpt: bool) -> None:
    check_fixed_reply(text)
    assert policy_model.read(text).tlsrpt is tlsrpt
    assert needs_tlsrpt(text) is tlsrpt


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ,",
        "sekure",
        "secure=1",
        "OK secure",
        "match=a.example",
        "secure match=",
        "may match=a.example",
        "dane match=a.example",
        "encrypt tafile=/etc/a.pem",
        "secure tafile=",
        "secure servername=a servername=a",
        "secure servername=-a",
        "secure servername=",
        "encrypt ciphers=",
        "encrypt ciphers=high ciphers=high",
        "encrypt protocols=TLSv1 protocols=TLSv1",
        "encrypt exclude=MD5 exclude=MD5",
        "may connection_reuse=maybe",
        "may enable_rpk=",
        "may policy_type=tlsa",
        "may policy_type=",
        "may policy_domain=example.com",
        "may mx_host_pattern=example.com",
        "may policy_string=x",
        "may policy_failure=validation-failure",
        "may policy_ttl=5",
        "secure match=a.example policy_type=no-policy-found policy_failure=tlsa-invalid",
        "may policy_type=no-policy-found policy_ttl=99999999999",
        "may policy_type=no-policy-found policy_domain=",
        "may policy_type=no-policy-found policy_type=no-policy-found",
        "secure unknown=1",
        "secure match",
        "secure =a",
        "secure { = a }",
        "secure {}",
        "secure { match a.example }",
        "secure { match = a.example",
        "secure {match=a.example}{servername=hostname}",
        "secure {match=a.example}x",
        "may policy_type=no-policy-found {policy_string=a}{policy_string=b}",
        "may policy_type=no-policy-found {policy_string=a}b",
        "secure match=a.example }",
        "secure { { match = a.example } }",
    ],
)
def test_fixed_reply_that_postfix_defers_is_rejected(text: str) -> None:
    with pytest.raises(policy_model.Deferred):
        policy_model.read(text)
    with pytest.raises(ReplyError) as refused:
        check_fixed_reply(text)
    assert refused.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "Secure",
        "secure match=a.example:",
        "secure match=:",
        "none match=a.example",
        "secure match=*.example.com",
        "secure match=mail.example.com.",
        "fingerprint match=xyz",
        "encrypt ciphers=strong",
        "encrypt protocols=TLS12",
        "encrypt exclude=;",
        "may policy_type=sts",
        "may policy_type=STS policy_string=x",
        "may policy_type=sts mx_host_pattern=a.example",
        "may policy_type=sts policy_string=x mx_host_pattern=a.example.",
        "secure\tmatch=a.example",
        "secure match=bücher.example",
        "secure\n",
    ],
)
def test_fixed_reply_that_postfix_misreads_is_rejected(text: str) -> None:
    with pytest.raises(ReplyError):
        check_fixed_reply(text)


def test_a_fixed_reply_fits_either_protocol_also_when_quoted() -> None:
    room = tcp_table.TEXT_LIMIT - len("secure tafile=")
    check_fixed_reply("secure tafile=" + "x" * room)
    for path in ("x" * (room + 1), "x" * (room - 1) + "%"):
        with pytest.raises(ReplyError):
            check_fixed_reply("secure tafile=" + path)
