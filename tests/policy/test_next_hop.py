"""Lookup keys: which policy domain a next-hop names, and which can have none."""

import subprocess
import sys

import pytest

from mtasts_daemon.policy.next_hop import MAX_DOMAIN, MAX_KEY, NextHop, NoPolicy, parse_key, policy_domain


def test_a_recipient_domain_is_its_own_policy_domain() -> None:
    assert parse_key(b"example.com") == NextHop("example.com")


def test_case_is_folded_since_postfix_does_not() -> None:
    assert parse_key(b"Mail.EXAMPLE.Com") == NextHop("mail.example.com")


@pytest.mark.parametrize("key", [b"example.com.", b"[example.com.]", b"example.com.:25"])
def test_exactly_one_final_dot_is_tolerated(key: bytes) -> None:
    found = parse_key(key)
    assert isinstance(found, NextHop)
    assert found.policy_domain == "example.com"


@pytest.mark.parametrize("key", [b"example.com..", b"[example.com].", b"[example.com..]"])
def test_any_other_final_dot_is_no_host_name(key: bytes) -> None:
    assert parse_key(key) is NoPolicy.NOT_HOSTNAME


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (b"[mail.example.com]", NextHop("mail.example.com", True)),
        (b"[mail.example.com]:587", NextHop("mail.example.com", True, 587)),
        (b"mail.example.com:26", NextHop("mail.example.com", False, 26)),
        (b"mail.example.com:65535", NextHop("mail.example.com", False, 65535)),
        (b"mail.example.com:0025", NextHop("mail.example.com", False, 25)),
        (b"mail.example.com:smtp", NextHop("mail.example.com", False, 25)),
        (b"mail.example.com:LMTP", NextHop("mail.example.com", False, 24)),
        (b"mail.example.com:submission", NextHop("mail.example.com", False, 587)),
        (b"[mail.example.com]:smtps", NextHop("mail.example.com", True, 465)),
        (b"[mail.example.com]:submissions", NextHop("mail.example.com", True, 465)),
        (b"[mail.example.com]:ssmtp", NextHop("mail.example.com", True, 465)),
    ],
)
def test_a_smart_hosts_name_is_its_policy_domain(key: bytes, found: NextHop) -> None:
    assert parse_key(key) == found


@pytest.mark.parametrize("service", ["0", "65536", "99999999999999999999", "qmtp", "x-9"])
def test_policy_applies_to_every_port_and_unknown_service(service: str) -> None:
    assert parse_key(f"[mail.example.com]:{service}".encode()) == NextHop("mail.example.com", True, None, service)


@pytest.mark.parametrize("key", [b".com", b".example.com", b".", b"..", ".bücher.example".encode(), b".\xff"])
def test_a_parent_key_has_no_policy(key: bytes) -> None:
    assert parse_key(key) is NoPolicy.PARENT


@pytest.mark.parametrize(
    "key",
    [
        b"192.0.2.1",
        b"192.0.2.1:25",
        b"[192.0.2.1]",
        b"[192.0.2.1]:smtp",
        b"2001:db8::1",
        b"::",
        b"::ffff:192.0.2.1",
        b"[2001:db8::1]",
        b"[2001:DB8::1]:587",
        b"[IPv6:2001:db8::1]",
        b"[ipv6:2001:db8::1]:25",
        b"[fe80::1%eth0]",
        "１９２.0.2.1".encode(),
    ],
)
def test_an_address_literal_has_no_policy(key: bytes) -> None:
    assert parse_key(key) is NoPolicy.ADDRESS


@pytest.mark.parametrize("key", [b"com", b"localhost.", b"[mailhost]", b"[mailhost]:25", b"xn--p1ai", b"a" * 63])
def test_one_label_has_no_policy(key: bytes) -> None:
    assert parse_key(key) is NoPolicy.ONE_LABEL


@pytest.mark.parametrize("key", [b"1", b"example.1", b"256.1.1.1", b"1.2.3.4.5", b"[example.123]:25", b"example.007."])
def test_an_all_numeric_last_label_is_no_host_name(key: bytes) -> None:
    assert parse_key(key) is NoPolicy.NUMERIC


@pytest.mark.parametrize("key", [b"1.example", b"4.3.example.com", b"example.1a", b"a.b-1"])
def test_other_labels_may_be_numeric(key: bytes) -> None:
    assert parse_key(key) == NextHop(key.decode())


@pytest.mark.parametrize("key", [b"private/dovecot-lmtp", b"/var/run/lmtp.sock", b"unix:/x"])
def test_the_path_of_a_unix_socket_has_no_policy(key: bytes) -> None:
    assert parse_key(key) is NoPolicy.PATHNAME


@pytest.mark.parametrize(
    "key",
    [
        b"a..example",
        b"-a.example",
        b"a-.example",
        b"a_b.example",
        b"*.example.com",
        b"example.com ",
        b" example.com",
        b"exam ple.com",
        b"example.com\n",
        b"example.com\x00",
        b"user@example.com",
        b"[example.com",
        b"example.com]",
        b"[example.com]25",
        b"[example.com]:",
        b"example.com:",
        b"example.com:25:25",
        b"example.com:-1",
        b"[]",
        b"[[example.com]]",
        b":25",
        b"a" * 64 + b".example",
        "[bücher.example]x:y:z".encode(),
    ],
)
def test_anything_else_is_no_host_name(key: bytes) -> None:
    assert parse_key(key) is NoPolicy.NOT_HOSTNAME


def test_an_empty_key_has_no_policy() -> None:
    assert parse_key(b"") is NoPolicy.EMPTY


@pytest.mark.parametrize("key", [b"\xff.example", b"b\xc3.example", "\udc80.example".encode("utf-8", "surrogatepass")])
def test_a_key_that_is_not_utf_8_has_no_policy(key: bytes) -> None:
    assert parse_key(key) is NoPolicy.NOT_UTF8


def test_a_name_is_as_long_as_leaves_room_for_mta_sts() -> None:
    longest = ("a" * 60 + ".") * 4
    name = longest[: MAX_DOMAIN - 4] + ".com"
    name = name.replace("..", "a.")
    assert len(name) == MAX_DOMAIN
    assert parse_key(name.encode()) == NextHop(name)
    assert len("_mta-sts." + name) == 253
    assert parse_key(b"a" + name.encode()) is NoPolicy.TOO_LONG


def test_a_huge_key_is_not_looked_into() -> None:
    assert parse_key(b"\xff" * (MAX_KEY + 1)) is NoPolicy.TOO_LONG
    assert parse_key("ü".encode() * MAX_KEY) is NoPolicy.TOO_LONG


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("bücher。example", "xn--bcher-kva.example"),
        ("bücher．example。", "xn--bcher-kva.example"),
        ("example。com", "example.com"),
        ("ｅｘａｍｐｌｅ.com", "example.com"),
        ("straße.example", "xn--strae-oqa.example"),
        ("пример.рф", "xn--e1afmkfd.xn--p1ai"),
    ],
)
def test_u_labels_become_a_labels(key: str, domain: str) -> None:
    assert parse_key(key.encode()) == NextHop(domain)


def test_u_labels_may_stand_in_brackets_and_before_a_port() -> None:
    assert parse_key("[bücher.example]:587".encode()) == NextHop("xn--bcher-kva.example", True, 587)


@pytest.mark.parametrize(
    "key",
    [
        "bü_cher.example",
        "‍.example",
        "a..ü",
        "。example.com",
        "\u00ad",
        "\u2024.example",
        "ü" * 64 + ".example",
        "xn--a.ü",
    ],
)
def test_what_uts_46_refuses_has_no_policy(key: str) -> None:
    assert parse_key(key.encode()) is NoPolicy.NOT_IDNA


def test_an_a_label_is_passed_on_as_it_is() -> None:
    assert parse_key(b"XN--BCHER-KVA.example") == NextHop("xn--bcher-kva.example")
    assert parse_key(b"xn--zz--zz.example") == NextHop("xn--zz--zz.example")


def test_idna_is_not_imported_for_ascii_keys() -> None:
    program = (
        "import sys; from mtasts_daemon.policy.next_hop import parse_key;"
        "parse_key(b'example.com'); parse_key(b'a_b.c'); sys.exit('idna' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_reason_has_a_sentence_and_a_slug_of_its_own() -> None:
    assert len({reason.slug for reason in NoPolicy}) == len({reason.value for reason in NoPolicy}) == len(NoPolicy)
    assert NoPolicy.ONE_LABEL.slug == "key-one-label"


@pytest.mark.parametrize(
    ("text", "domain"), [("Example.COM.", "example.com"), ("bücher.example", "xn--bcher-kva.example")]
)
def test_an_operator_may_write_a_domain_as_people_do(text: str, domain: str) -> None:
    assert policy_domain(text) == domain


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("localhost", NoPolicy.ONE_LABEL.value),
        ("", NoPolicy.EMPTY.value),
        ("\udcff.example", NoPolicy.NOT_UTF8.value),
        ("[mail.example.com]", "a policy domain is written without brackets and port"),
        ("mail.example.com:25", "a policy domain is written without brackets and port"),
        ("mail.example.com:qmtp", "a policy domain is written without brackets and port"),
    ],
)
def test_rejected_domain_has_a_sentence_for_the_operator(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as refused:
        policy_domain(text)
    assert str(refused.value) == sentence
