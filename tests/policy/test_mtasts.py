"""RFC 8461 sections 3.1, 3.2 and 4.1: the TXT record, the policy's text, and MX names against patterns."""

import pytest

from mtasts_daemon import errors
from mtasts_daemon.policy.mtasts import (
    MAX_AGE_LIMIT,
    Mode,
    MxPattern,
    StsPolicy,
    StsRecord,
    parse_policy,
    parse_txt,
)

GOOD = b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmax_age: 604800\n"


def policy(**changed: str | None) -> bytes:
    """The text of a policy with fields changed or, where None, left out."""
    fields: dict[str, str | None] = {
        "version": "STSv1",
        "mode": "enforce",
        "mx": "mail.example.com",
        "max_age": "86400",
    }
    return "".join(f"{name}: {value}\n" for name, value in (fields | changed).items() if value is not None).encode()


# -- TXT ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        b"v=STSv1; id=20160831085700Z;",
        b"v=STSv1; id=20160831085700Z",
        b"v=STSv1;id=20160831085700Z",
        b"v=STSv1;\t id=20160831085700Z \t; ",
        b"v=STSv1; new=thing; id=20160831085700Z; a.b-c_d=x!y;",
        b"v=STSv1; id=20160831085700Z; v=STSv2",
    ],
)
def test_a_valid_record_gives_its_id(record: bytes) -> None:
    assert parse_txt([record]) == StsRecord("20160831085700Z")


def test_an_id_has_up_to_32_letters_and_digits() -> None:
    assert parse_txt([b"v=STSv1; id=" + b"a" * 32]) == StsRecord("a" * 32)


@pytest.mark.parametrize("value", [b"a" * 33, b"", b"a-b", b"a b", b"\x00", b"a=b", b"{}"])
def test_any_other_id_is_refused(value: bytes) -> None:
    with pytest.raises(errors.StsRecordIdInvalid):
        parse_txt([b"v=STSv1; id=" + value + b";"])


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"v=spf1 -all",
        b"v=STSv1",
        b"v=STSv1 ; id=a",
        b"v=STSv2; id=a",
        b"V=STSv1; id=a",
        b" v=STSv1; id=a",
        b"v=STSV1; id=a",
    ],
)
def test_a_record_that_does_not_begin_with_the_version_is_discarded(record: bytes) -> None:
    assert parse_txt([record]) is None
    assert parse_txt([record, b"v=STSv1; id=b"]) == StsRecord("b")


def test_no_records_mean_no_policy() -> None:
    assert parse_txt([]) is None


def test_a_second_record_makes_both_invalid() -> None:
    with pytest.raises(errors.StsRecordMultiple):
        parse_txt([b"v=STSv1; id=a", b"v=STSv1; id=a"])


def test_a_second_record_counts_even_if_it_is_malformed() -> None:
    with pytest.raises(errors.StsRecordMultiple):
        parse_txt([b"v=STSv1; id=a", b"v=STSv1;\xff"])


@pytest.mark.parametrize("record", [b"v=STSv1;", b"v=STSv1; ", b"v=STSv1; ID=a", b"v=STSv1; idx=a"])
def test_a_record_without_an_id_is_invalid(record: bytes) -> None:
    with pytest.raises(errors.StsRecordIdMissing):
        parse_txt([record])


@pytest.mark.parametrize(
    "record",
    [
        b"v=STSv1;; id=a",
        b"v=STSv1; id=a;;",
        b"v=STSv1; id=a; junk",
        b"v=STSv1; id=a; x=",
        b"v=STSv1; id=a; =y",
        b"v=STSv1; id=a; x y=z",
        b"v=STSv1; id=a; x=a=b",
        b"v=STSv1; id=a; _x=y",
        b"v=STSv1; id=a; " + b"x" * 33 + b"=y",
        b"v=STSv1; id=a; x=\x7f",
        b"v=STSv1; id=a\n",
    ],
)
def test_a_record_that_breaks_the_grammar_is_invalid(record: bytes) -> None:
    with pytest.raises(errors.StsRecordError):
        parse_txt([record])


def test_a_record_is_us_ascii() -> None:
    with pytest.raises(errors.StsRecordSyntax):
        parse_txt(["v=STSv1; id=a; x=ü".encode()])


def test_of_a_repeated_id_the_first_counts() -> None:
    assert parse_txt([b"v=STSv1; id=a; id=b"]) == StsRecord("a")


# -- the policy --------------------------------------------------------------------------------------------


def test_a_policy_has_a_mode_patterns_and_a_life() -> None:
    patterns = (MxPattern("mail.example.com"), MxPattern("*.example.net"))
    assert parse_policy(GOOD) == StsPolicy(Mode.ENFORCE, patterns, 604800)


@pytest.mark.parametrize(
    "body",
    [
        GOOD.rstrip(b"\n"),
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b": ", b":"),
        GOOD.replace(b": ", b":\t  "),
        GOOD.replace(b"\n", b" \t\n"),
        GOOD.replace(b"\n", b" \r\n"),
        GOOD.replace(b"\n", b"\n\n"),
        b"\r\n" + GOOD + b"  \n",
        b"\xef\xbb\xbf" + GOOD,
        b"max_age: 604800\nmx: mail.example.com\nmode: enforce\nmx: *.example.net\nversion: STSv1",
        GOOD + "new-field_1.x: any text, Grüße {}\n".encode(),
        GOOD + b"Mode: none\nMX: other.example\n",
    ],
)
def test_blanks_line_ends_order_and_unknown_fields_do_not_matter(body: bytes) -> None:
    assert parse_policy(body) == parse_policy(GOOD)


@pytest.mark.parametrize(
    "line",
    [
        b"junk",
        b": value",
        b"name:",
        b"name: ",
        b" name: value",
        b"name : value",
        b"_name: value",
        b"x" * 33 + b": value",
        b"name: a\tb",
        b"name: a\x00b",
        b"name: a\rb",
        b"name: a\x7fb",
        b"name: a\r \r",
        b"# a comment: no",
        b"\xc2\xa0",
    ],
)
def test_a_line_that_breaks_the_grammar_makes_the_policy_invalid(line: bytes) -> None:
    with pytest.raises(errors.PolicyLineSyntax) as refused:
        parse_policy(GOOD + line + b"\n")
    assert "line 6: " in refused.value.detail


def test_a_policy_is_utf_8() -> None:
    with pytest.raises(errors.PolicyNotText):
        parse_policy(GOOD + b"x: \xff\n")


@pytest.mark.parametrize("version", [None, "STSv2", "stsv1", "STSv1 x"])
def test_a_policy_states_its_version(version: str | None) -> None:
    with pytest.raises(errors.PolicyVersion):
        parse_policy(policy(version=version))


@pytest.mark.parametrize("mode", [None, "Enforce", "report", "enforce x", "enforced"])
def test_a_policy_states_a_mode_in_lower_case(mode: str | None) -> None:
    with pytest.raises(errors.PolicyMode):
        parse_policy(policy(mode=mode))


@pytest.mark.parametrize("max_age", [None, "-1", "1.5", "1e5", "12345678901", "one", "١", "+1", "0x10"])
def test_max_age_is_1_to_10_digits(max_age: str | None) -> None:
    with pytest.raises(errors.PolicyMaxAge):
        parse_policy(policy(max_age=max_age))


@pytest.mark.parametrize(
    ("written", "counted"),
    [
        ("0", 0),
        ("0000086400", 86400),
        ("31557600", MAX_AGE_LIMIT),
        ("31557601", MAX_AGE_LIMIT),
        ("9999999999", MAX_AGE_LIMIT),
    ],
)
def test_max_age_is_capped_at_a_year(written: str, counted: int) -> None:
    assert parse_policy(policy(max_age=written)).max_age == counted


@pytest.mark.parametrize("mode", ["enforce", "testing"])
def test_a_policy_names_an_mx(mode: str) -> None:
    with pytest.raises(errors.PolicyMxMissing):
        parse_policy(policy(mode=mode, mx=None))


def test_a_policy_of_mode_none_needs_no_mx() -> None:
    assert parse_policy(policy(mode="none", mx=None)).mx == ()


@pytest.mark.parametrize(
    "mx",
    [
        "mail.example.com.",
        ".example.com",
        "*example.com",
        "*",
        "*.",
        "*.*.example.com",
        "mail.*.example.com",
        "a*.example.com",
        "mail..example.com",
        "-mail.example.com",
        "mail-.example.com",
        "my_mail.example.com",
        "192.0.2.1",
        "[192.0.2.1]",
        "example.1",
        "bücher.example",
        "mail.example.com, other.example.com",
        "mail.example.com:other.example.com",
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 4) + ".www.example.com",
        "mail.example.com } { policy_failure=validation-failure",
        "10 mail.example.com",
    ],
)
def test_an_mx_is_a_host_name_or_a_wildcard_pattern(mx: str) -> None:
    with pytest.raises(errors.PolicyMxSyntax):
        parse_policy(policy(mx=mx))


def test_an_mx_is_of_at_most_255_characters() -> None:
    longest = ".".join(["a" * 60] * 4) + ".example.com"
    assert len(longest) == 255
    assert parse_policy(policy(mx=longest)).mx == (MxPattern(longest),)
    with pytest.raises(errors.PolicyMxSyntax):
        parse_policy(policy(mx=longest + "a"))


def test_one_bad_mx_makes_the_policy_invalid_even_of_mode_none() -> None:
    with pytest.raises(errors.PolicyMxSyntax):
        parse_policy(policy(mode="none", mx="not a host"))


def test_patterns_are_lower_case_without_duplicates() -> None:
    body = policy(mx="Mail.Example.COM") + b"mx: mail.example.com\nmx: *.EXAMPLE.net\n"
    assert parse_policy(body).mx == (MxPattern("mail.example.com"), MxPattern("*.example.net"))


def test_of_a_repeated_field_the_first_counts() -> None:
    repeated = parse_policy(policy() + b"version: STSv9\nmode: none\nmax_age: never\n")
    assert repeated == parse_policy(policy())


def test_an_empty_body_is_no_policy() -> None:
    with pytest.raises(errors.PolicyVersion):
        parse_policy(b"")


def test_the_canonical_lines_leave_out_extensions() -> None:
    parsed = parse_policy(GOOD + b"evil: } { match=x\n")
    assert parsed.lines == (
        "version: STSv1",
        "mode: enforce",
        "mx: mail.example.com",
        "mx: *.example.net",
        "max_age: 604800",
    )


def test_an_error_repeats_remote_text_only_escaped_and_short() -> None:
    with pytest.raises(errors.PolicyLineSyntax) as refused:
        parse_policy(b"bad\x1b[31m line \xe2\x80\xae" + b"x" * 5000)
    sentence = refused.value.sentence
    assert sentence.isascii() and sentence.isprintable() and len(sentence) < 300


# -- MX names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["mail.example.com", "MAIL.example.COM", "mail.example.com."])
def test_a_name_permits_itself_in_any_case(host: str) -> None:
    assert MxPattern("mail.example.com").permits(host)


@pytest.mark.parametrize(
    "host", ["", "example.com", "a.mail.example.com", "mail.example.com.evil", "xmail.example.com"]
)
def test_a_name_permits_nothing_else(host: str) -> None:
    assert not MxPattern("mail.example.com").permits(host)


@pytest.mark.parametrize("host", ["a.example.com", "A.Example.Com.", "mx-1.example.com"])
def test_a_wildcard_permits_exactly_one_label(host: str) -> None:
    pattern = MxPattern("*.example.com")
    assert pattern.wildcard
    assert pattern.permits(host)


@pytest.mark.parametrize(
    "host", ["example.com", ".example.com", "a.b.example.com", "aexample.com", "", ".", "a.example.com.."]
)
def test_a_wildcard_permits_neither_the_domain_nor_two_labels(host: str) -> None:
    assert not MxPattern("*.example.com").permits(host)


def test_a_policy_permits_what_any_of_its_patterns_does() -> None:
    parsed = parse_policy(GOOD)
    assert parsed.permits("mail.example.com")
    assert parsed.permits("x.example.net")
    assert not parsed.permits("x.example.org")


def policy_with(lines: int) -> bytes:
    patterns = "".join(f"mx: mx{number}.example.com\n" for number in range(lines))
    return f"version: STSv1\nmode: enforce\n{patterns}max_age: 1\n".encode()


def test_policy_of_five_hundred_mx_lines_is_read() -> None:
    assert len(parse_policy(policy_with(500)).mx) == 500


def test_policy_of_more_than_five_hundred_mx_lines_is_refused() -> None:
    with pytest.raises(errors.PolicyMxTooMany):
        parse_policy(policy_with(501))
