"""Parsing datagrams of libtlsrpt: recorded, unusual and unusable ones."""

import json
from typing import Any

import pytest

from mtasts_daemon.errors import (
    EventDomain,
    EventNotJson,
    EventPolicyType,
    EventShape,
    EventTooLarge,
    EventVersion,
    TlsrptEventError,
)
from mtasts_daemon.tlsrpt.model.event import (
    MAX_DATAGRAM,
    MAX_ITEMS,
    MAX_STRINGS,
    MAX_TEXT,
    Failure,
    Policy,
    PolicyResult,
    PolicyType,
    TlsrptEvent,
    address,
    host_name,
    parse_datagram,
)
from tests.tlsrpt.recorded import RECORDED, Recorded, recorded

STS = ("version: STSv1", "mode: enforce", "mx: mx1.{0}", "mx: mx2.{0}", "max_age: 86400")


def sts_policy(domain: str) -> Policy:
    return Policy(
        PolicyType.STS, domain, tuple(line.format(domain) for line in STS), (f"mx1.{domain}", f"mx2.{domain}")
    )


def event(**members: object) -> bytes:
    """Return a datagram of one successful session without policy, changed by the given members."""
    whole: dict[str, object] = {"d": "example.com", "pr": "v=TLSRPTv1; rua=mailto:a@example.com"}
    policy = {"policy-type": 9, "policy-domain": "example.com", "t": 0, "f": 0}
    return json.dumps(whole | {"policies": [policy]} | members).encode()


def with_policy(**members: object) -> bytes:
    """Return an event with the given members of the policy; ``_`` stands for a hyphen."""
    policy: dict[str, object] = {"policy-type": 9, "policy-domain": "example.com", "t": 0, "f": 0}
    return event(policies=[policy | {name.replace("_", "-"): value for name, value in members.items()}])


def with_failure(**members: object) -> bytes:
    """Return an event with one failure."""
    return with_policy(failure_details=[{"c": 205} | members], t=1, f=1)


def policy_of(data: bytes) -> Policy:
    return parse_datagram(data).outcomes[0].policy


def failure_of(data: bytes) -> Failure:
    (failure,) = parse_datagram(data).outcomes[0].failures
    return failure


# -- as recorded -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", RECORDED, ids=lambda found: f"{found.file}:{found.scenario}")
def test_every_recorded_datagram_says_what_it_was_recorded_for(found: Recorded) -> None:
    parsed = parse_datagram(found.datagram)
    (policy,) = json.loads(found.datagram)["policies"]
    (outcome,) = parsed.outcomes
    assert parsed.record.startswith("v=TLSRPTv1;")
    assert parsed.domain == json.loads(found.datagram)["d"].lower()
    assert outcome.policy.type == policy["policy-type"]
    assert outcome.failed == (policy["f"] == 1)
    assert len(outcome.failures) == policy["t"]
    assert list(outcome.policy.strings) == policy.get("policy-string", [])
    assert list(outcome.policy.mx_hosts) == policy.get("mx-host", [])
    for failure in outcome.failures:
        assert failure.sending_ip == "127.0.0.1"
        assert failure.receiving_ip.startswith("127.0.2.")
        assert "\r" not in failure.helo and " " not in failure.helo and "250" not in failure.helo


@pytest.mark.parametrize("file", ["postfix-3.10-attrs", "postfix-3.11-attrs"])
@pytest.mark.parametrize(
    ("scenario", "result_type", "reason", "receiving"),
    [
        ("enf-selfsigned", "validation-failure", "self-signed_certificate", "127.0.2.2"),
        ("enf-wrongname", "certificate-host-mismatch", "", "127.0.2.3"),
        ("enf-expired", "certificate-expired", "", "127.0.2.4"),
        ("enf-notls", "starttls-not-supported", "", "127.0.2.5"),
        ("enf-badhandshake", "validation-failure", "tls-handshake-failure", "127.0.2.7"),
    ],
)
def test_failure_is_read_as_postfix_reported_it(
    file: str, scenario: str, result_type: str, reason: str, receiving: str
) -> None:
    domain = f"{scenario}.e2e.test"
    failure = Failure(result_type, "127.0.0.1", f"mx1.{domain}", "mx.test", receiving, "", reason)
    outcome = PolicyResult(sts_policy(domain), True, (failure,))
    expected = TlsrptEvent(domain, f"v=TLSRPTv1; rua=mailto:tls@{domain}", (outcome,))
    assert [parse_datagram(data) for data in recorded(file, scenario)] == [expected]


def test_two_mx_hosts_of_one_delivery_are_two_events() -> None:
    parsed = [parse_datagram(data).outcomes[0] for data in recorded("postfix-3.11-attrs", "enf-second-mx")]
    assert [outcome.failed for outcome in parsed] == [True, False]


def test_the_policy_domain_of_a_tlsa_policy_is_the_mx_host() -> None:
    (data,) = recorded("postfix-3.11-dane", "dane-bad-sts-good")
    parsed = parse_datagram(data)
    assert parsed.domain == "dane-bad-sts-good.e2e.test"
    assert parsed.outcomes[0].policy == Policy(
        PolicyType.TLSA, "mx1.dane-bad-sts-good.e2e.test", (f"3 1 1 {'0' * 64}",)
    )
    assert parsed.outcomes[0].failures[0].result_type == "certificate-not-trusted"


def test_a_recipient_domain_as_it_was_typed_is_reported_as_a_lower_case_a_label() -> None:
    assert parse_datagram(event(d="Example.COM.")).domain == "example.com"
    assert parse_datagram(event(d="bücher.example")).domain == "xn--bcher-kva.example"


# -- tolerance ---------------------------------------------------------------------------------------------


def test_without_a_policy_domain_the_domain_of_the_report_is_meant() -> None:
    data = json.dumps({"d": "Example.com", "pr": "", "policies": [{"policy-type": 9, "t": 0, "f": 0}]}).encode()
    assert policy_of(data) == Policy(PolicyType.NO_POLICY_FOUND, "example.com")
    assert policy_of(with_policy(policy_domain="not a host")).domain == "example.com"


@pytest.mark.parametrize("version", ["1", "1.2", 1])
def test_version_1_is_understood_and_so_is_a_datagram_without_one(version: object) -> None:
    assert parse_datagram(event(dpv=version)) == parse_datagram(event())


def test_unknown_members_are_ignored() -> None:
    assert parse_datagram(event(more=[{"x": None}])) == parse_datagram(event())
    assert parse_datagram(with_policy(more=1.5)) == parse_datagram(event())


def test_of_a_repeated_member_the_last_counts() -> None:
    assert parse_datagram(b'{"d":"example.net",' + event()[1:]).domain == "example.com"


def test_a_record_that_is_missing_does_not_matter() -> None:
    assert parse_datagram(event(pr=None)).record == ""


def test_several_policies_are_several_outcomes() -> None:
    tlsa = {"policy-type": 1, "policy-domain": "mx.example.com", "policy-string": ["3 1 1 AB"], "t": 1, "f": 1}
    parsed = parse_datagram(event(policies=[tlsa, {"policy-type": 2, "t": 0, "f": 0}]))
    assert [(outcome.policy.type, outcome.failed) for outcome in parsed.outcomes] == [
        (PolicyType.TLSA, True),
        (PolicyType.STS, False),
    ]


@pytest.mark.parametrize(
    ("members", "failed"),
    [
        ({"t": 0, "f": 0}, False),
        ({"t": 1, "f": 1}, True),
        ({"t": 1, "f": 0}, False),
        ({"t": 1, "f": None}, True),
        ({"t": None, "f": None}, False),
        ({"t": None, "f": None, "failure_details": [{"c": 201}]}, True),
    ],
)
def test_the_final_result_decides_and_without_it_whether_there_were_failures(
    members: dict[str, Any], failed: bool
) -> None:
    assert parse_datagram(with_policy(**members)).outcomes[0].failed is failed


def test_a_greeting_that_is_not_utf_8_spoils_nothing() -> None:
    data = with_failure(h="250 caf@ ESMTP").replace(b"caf@", b"caf\xe9")
    assert failure_of(data).helo == "caf\ufffd"


def test_raw_control_characters_are_removed() -> None:
    assert failure_of(with_failure(a="a@b").replace(b"a@b", b"a\x00\x1b\nb")).info == "ab"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("a\u202eb\u200bc", "abc"), ("\ud800x", "x"), ("  x\r\n", "x"), ("x" * 2000, "x" * MAX_TEXT), ("ä ö", "ä ö")],
)
def test_a_text_is_one_line_that_can_be_shown(text: str, cleaned: str) -> None:
    assert failure_of(with_failure(a=text, f=text)) == Failure("validation-failure", info=cleaned, reason_code=cleaned)


@pytest.mark.parametrize(
    ("reply", "helo"),
    [
        ("250-mail.example.com\r\n250-PIPELINING\r\n250 8BITMIME", "mail.example.com"),
        ("250 mail.example.com at your service, 12:00:01", "mail.example.com"),
        ("mail.example.com", "mail.example.com"),
        ("250-[192.0.2.1]\r\n250 SIZE", "[192.0.2.1]"),
        ("250\r\n250 STARTTLS", "250"),
        ("250 \r\n250 STARTTLS", ""),
        ("", ""),
        ("250 " + "x" * 5000, "x" * 255),
    ],
)
def test_the_reply_to_ehlo_is_reduced_to_the_name_on_its_first_line(reply: str, helo: str) -> None:
    assert failure_of(with_failure(h=reply)).helo == helo


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0:0:0:0:25", "2001:db8::25"),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
        ("mx.example.com", ""),
        ("192.0.2.256", ""),
        ("1" * 100_000, ""),
    ],
)
def test_address_is_in_rfc_5952_form_or_omitted(text: str, written: str) -> None:
    assert address(text) == written
    assert failure_of(with_failure(s=text, r=text)) == Failure(
        "validation-failure", sending_ip=written, receiving_ip=written
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MX1.Example.COM.", "mx1.example.com"),
        ("mx_1.example.com", "mx_1.example.com"),
        ("localhost", "localhost"),
        ("bücher.example", "xn--bcher-kva.example"),
        (".".join(["a" * 49] * 5), ".".join(["a" * 49] * 5)),
        (".".join(["a" * 50] * 5), ""),
        ("a b", ""),
        ("", ""),
        ("x" * 100_000, ""),
    ],
)
def test_host_name_is_in_lower_case_a_labels_or_omitted(text: str, name: str) -> None:
    assert host_name(text) == name
    assert failure_of(with_failure(n=text)).mx_host == name


@pytest.mark.parametrize(("reason", "code"), [("", "901"), ("odd", "901 odd")])
def test_an_unknown_failure_is_a_validation_failure_with_its_number(reason: str, code: str) -> None:
    assert failure_of(with_failure(c=901, f=reason)) == Failure("validation-failure", reason_code=code)


@pytest.mark.parametrize(
    ("code", "result_type"),
    [
        (201, "starttls-not-supported"),
        (202, "certificate-host-mismatch"),
        (203, "certificate-not-trusted"),
        (204, "certificate-expired"),
        (205, "validation-failure"),
        (301, "sts-policy-fetch-error"),
        (302, "sts-policy-invalid"),
        (303, "sts-webpki-invalid"),
        (304, "tlsa-invalid"),
        (305, "dnssec-invalid"),
        (306, "dane-required"),
    ],
)
def test_a_failures_number_is_a_result_type_of_rfc_8460(code: int, result_type: str) -> None:
    assert failure_of(with_failure(c=code)) == Failure(result_type)


def test_a_policy_type_has_its_name_of_rfc_8460() -> None:
    assert [kind.rfc_name for kind in PolicyType] == ["tlsa", "sts", "no-policy-found"]


# -- bounds ------------------------------------------------------------------------------------------------


def test_a_datagram_of_256_kib_is_read_and_a_longer_one_is_not() -> None:
    assert parse_datagram(event().ljust(MAX_DATAGRAM)) == parse_datagram(event())
    with pytest.raises(EventTooLarge):
        parse_datagram(event().ljust(MAX_DATAGRAM + 1))


@pytest.mark.parametrize("name", ["policy_string", "mx_host"])
def test_a_policys_texts_are_kept_up_to_64_kib(name: str) -> None:
    half = "x" * (MAX_STRINGS // 2)
    kept = policy_of(with_policy(policy_type=2, **{name: [half, half, "y"]}))
    assert kept.strings + kept.mx_hosts == (half, half)
    assert policy_of(with_policy(policy_string=["a\tb", "c"])).strings == ("ab", "c")


def test_of_a_policys_texts_the_first_1000_are_kept() -> None:
    texts = [str(number) for number in range(MAX_ITEMS + 1)]
    kept = policy_of(with_policy(policy_string=texts, mx_host=texts))
    assert kept.strings == kept.mx_hosts == tuple(texts[:MAX_ITEMS])


def test_a_list_of_policies_or_failures_may_have_1000_items() -> None:
    assert len(parse_datagram(event(policies=[{"policy-type": 9}] * MAX_ITEMS)).outcomes) == MAX_ITEMS
    for data in (
        with_policy(failure_details=[{"c": 201}] * (MAX_ITEMS + 1)),
        event(policies=[{"policy-type": 9}] * (MAX_ITEMS + 1)),
    ):
        with pytest.raises(EventShape):
            parse_datagram(data)


# -- what cannot be used -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"5", b"[]", b"null", b'"x"', b"{", b"{}x", b"\x00", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 30_000),
        *(b'{"d":NaN}', b'{"d":-Infinity}', b'{"d":' + b"9" * 10_000 + b"}", b"{'d':1}"),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_datagram_that_is_no_json_object_is_rejected(data: bytes) -> None:
    with pytest.raises(EventNotJson):
        parse_datagram(data)


@pytest.mark.parametrize("version", ["2", "", "x", "01", 2, None, [], {}, True, 1e400, int("9" * 4000)])
def test_another_version_is_refused(version: object) -> None:
    with pytest.raises(EventVersion):
        parse_datagram(event(dpv=version).replace(b"Infinity", b"1e400"))


@pytest.mark.parametrize("number", [0, 3, -1, 8, 10, 1 << 70, int("9" * 4000)])
def test_an_unknown_policy_type_is_refused(number: int) -> None:
    with pytest.raises(EventPolicyType):
        parse_datagram(with_policy(policy_type=number))


@pytest.mark.parametrize("domain", ["", "localhost", "[192.0.2.1]", "a b", "x" * 300, ".example.com", "a..b", "a:25"])
def test_a_domain_that_can_have_no_policy_is_refused(domain: str) -> None:
    with pytest.raises(EventDomain):
        parse_datagram(event(d=domain))


WRONG: list[Any] = [None, 5, True, 1.5, "x", [], {}, [1], ["x"], [None], [[]], {"a": 1}]


@pytest.mark.parametrize(
    "data",
    [
        *(event(d=value) for value in WRONG if not isinstance(value, str)),
        *(event(policies=value) for value in WRONG),
        *(with_policy(policy_type=value) for value in WRONG if type(value) is not int),
        *(with_policy(policy_domain=value) for value in WRONG if not isinstance(value, str)),
        *(with_policy(policy_string=value) for value in WRONG if value not in (None, [], ["x"])),
        *(with_policy(f=value) for value in WRONG if value is not None and not isinstance(value, int)),
        *(with_policy(failure_details=value) for value in WRONG if value),
        *(with_failure(c=value) for value in WRONG if type(value) is not int),
        *(with_failure(h=value) for value in WRONG if not isinstance(value, str)),
        *(with_failure(r=value) for value in WRONG if not isinstance(value, str)),
    ],
    ids=lambda data: data.decode(),
)
def test_a_member_of_another_type_is_refused(data: bytes) -> None:
    with pytest.raises(EventShape):
        parse_datagram(data)


def test_an_error_says_what_was_seen_within_bounds() -> None:
    for data in (event(d="x y" * 1000), with_policy(policy_type="\n" * 9999), event(dpv="\x1b" * 9999), b"[1"):
        with pytest.raises(TlsrptEventError) as caught:
            parse_datagram(data)
        assert caught.value.sentence.isprintable()
        assert len(caught.value.sentence) < 1000
