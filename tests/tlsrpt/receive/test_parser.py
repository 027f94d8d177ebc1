"""Parsing reports of all shapes: an unknown word does not lose the rest."""

import json

import pytest

from mtasts_daemon.errors import MtaStsError, ReceivedReportError, ReceivedReportRange, ReceivedReportTooLarge
from mtasts_daemon.tlsrpt.receive.model import Deviation, ReceivedReport
from mtasts_daemon.tlsrpt.receive.parser import file_name_facts, parse_report
from tests.tlsrpt.receive import corpus
from tests.tlsrpt.receive.corpus import DAY_BEGINS, NOW, detail, dumps, policy, report


def parsed(content: object, name: str = "") -> ReceivedReport:
    return parse_report(dumps(content), now=NOW, name=file_name_facts(name))


def test_report_of_rfc_8460_has_no_deviations() -> None:
    found = parsed(report())
    assert found.deviations == frozenset()
    assert (found.organization, found.contact_domain) == ("Reporter Inc.", "reporter.example")
    assert (found.begin, found.end) == (DAY_BEGINS, DAY_BEGINS + 86399)
    (one,) = found.policies
    assert (one.type, one.domain, one.successful, one.failed) == ("sts", "example.com", 100, 3)
    assert one.failures[0].result_type == "certificate-expired"
    assert one.failures[0].mx_host == "mx1.example.com"
    assert one.failures[0].count == 3


@pytest.mark.parametrize("name", corpus.WILD)
def test_every_wild_shape_keeps_its_counts_and_domain(name: str) -> None:
    content = corpus.WILD[name]()
    found = parsed(content)
    assert [one.domain for one in found.policies] == ["example.com"]
    assert found.policies[0].successful > 0
    assert (found.begin, found.end - found.begin) in ((DAY_BEGINS, 86399), (DAY_BEGINS, 86400))


@pytest.mark.parametrize(
    ("name", "deviations"),
    [
        ("google", set()),
        ("google-failure", set()),
        ("microsoft", {Deviation.DATE_FORMAT}),
        ("microsoft-tlsa", {Deviation.POLICY_STRING_FORM}),
        ("mail-ru", {Deviation.TOTALS_DISAGREE, Deviation.CONTROL_CHARACTERS}),
        ("stalwart", {Deviation.CONTACT_MISSING}),
        ("rfc-sample", {Deviation.MX_HOST_FORM}),
        ("mx-host-pattern", {Deviation.KEY_SPELLING}),
        ("contact-missing", {Deviation.CONTACT_MISSING}),
        ("unknown-result-type", {Deviation.RESULT_TYPE_UNKNOWN}),
        ("unknown-policy-type", {Deviation.POLICY_TYPE_UNKNOWN}),
        (
            "draft-spelling",
            {Deviation.KEY_SPELLING, Deviation.DATE_FORMAT, Deviation.COUNT_INVALID, Deviation.DETAILS_FORM},
        ),
    ],
)
def test_every_wild_shape_has_its_deviations_noted(name: str, deviations: set[Deviation]) -> None:
    assert parsed(corpus.WILD[name]()).deviations == deviations


def test_tlsa_records_in_one_json_text_are_unwrapped() -> None:
    assert parsed(corpus.microsoft_tlsa()).policies[0].strings == ("3 1 1 00FF", "2 1 1 11AA")


def test_unknown_result_type_is_kept_by_name() -> None:
    assert parsed(corpus.WILD["unknown-result-type"]()).policies[0].failures[0].result_type == "quantum-failure"


def test_draft_spelling_is_read_like_the_rfc() -> None:
    (one,) = parsed(corpus.WILD["draft-spelling"]()).policies
    assert (one.successful, one.failed, one.failures[0].result_type) == (11, 2, "starttls-not-supported")


def test_file_name_fills_in_the_range_and_the_domain() -> None:
    content = report(**{"date-range": ..., "policies": [policy(policy={"policy-type": "sts"})]})
    found = parsed(content, corpus.FILE_NAME)
    assert (found.begin, found.end, found.policies[0].domain) == (DAY_BEGINS, DAY_BEGINS + 86399, "example.com")
    assert found.deviations == {Deviation.RANGE_MISSING, Deviation.POLICY_DOMAIN_MISSING}


def test_text_wins_over_the_file_name() -> None:
    found = parsed(report(), f"other.example!other.example!{DAY_BEGINS - 86400}!{DAY_BEGINS - 1}.json")
    assert (found.begin, found.policies[0].domain) == (DAY_BEGINS, "example.com")


def test_missing_failure_total_is_taken_from_the_details() -> None:
    content = report(policies=[policy(summary={"total-successful-session-count": 1})])
    assert parsed(content).policies[0].failed == 3


@pytest.mark.parametrize("count", [-1, True, 1.5, "many", None, 1 << 53, [], 10**400])
def test_impossible_count_is_noted_and_not_believed(count: object) -> None:
    summary = {"total-successful-session-count": count, "total-failure-session-count": 3}
    text = (
        json.dumps(report(policies=[policy(summary=summary)]))
        if count != 10**400
        else (
            json.dumps(report(policies=[policy(summary=summary | {"total-successful-session-count": 77})])).replace(
                "77", "9" * 10_000
            )
        )
    )
    found = parse_report(text.encode(), now=NOW)
    assert (found.policies[0].successful, found.policies[0].failed) == (0, 3)
    assert Deviation.COUNT_INVALID in found.deviations


def test_texts_lose_control_characters_and_marks_of_direction() -> None:
    content = report(**{"organization-name": "evil\x00\u202e\x1b[31m<b>corp\ud800\n"})
    found = parsed(content)
    assert found.organization == "evil[31m<b>corp"
    assert Deviation.CONTROL_CHARACTERS in found.deviations


def test_text_beyond_1024_characters_is_cut() -> None:
    content = report(policies=[policy(**{"failure-details": [detail(**{"failure-reason-code": "x" * 5000})]})])
    found = parsed(content)
    assert len(found.policies[0].failures[0].reason) == 1024
    assert Deviation.TEXT_TOO_LONG in found.deviations


def test_details_beyond_10000_are_dropped_and_noted() -> None:
    content = report(policies=[policy(**{"failure-details": [detail()] * 10_500})])
    found = parsed(content)
    assert len(found.policies[0].failures) == 10_000
    assert Deviation.DETAILS_TOO_MANY in found.deviations


def test_policies_beyond_1000_are_dropped_and_noted() -> None:
    found = parsed(report(policies=[policy(**{"failure-details": ...})] * 1100))
    assert len(found.policies) == 1000
    assert Deviation.POLICIES_TOO_MANY in found.deviations


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-11-01T00:00:00Z", "2026-11-27T23:59:59Z"),
        ("1999-01-01T00:00:00Z", "1999-01-01T23:59:59Z"),
        ("2099-01-01T00:00:00Z", "2099-01-01T23:59:59Z"),
    ],
)
def test_range_that_no_report_can_cover_is_rejected(start: str, end: str) -> None:
    with pytest.raises(ReceivedReportRange):
        parsed(report(**{"date-range": {"start-datetime": start, "end-datetime": end}}))


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"\0", b"{", b"[]", b"5", b"null", b'"x"', b"{}", b'{"policies": 5}', b"\xff\xfe\x00", b"PK\x03\x04"),
        *(b"<html>", dumps(report(policies=...)), dumps(report(**{"date-range": ...})), b'{"a":' * 10),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'"' + b'\\"' * 200_000),
    ],
)
def test_text_that_is_no_report_is_rejected_with_a_reason(text: bytes) -> None:
    with pytest.raises(ReceivedReportError) as caught:
        parse_report(text, now=NOW)
    assert caught.value.slug


def test_nesting_beyond_16_levels_is_rejected() -> None:
    text = dumps(report(extra=json.loads("[" * 20 + "]" * 20)))
    with pytest.raises(ReceivedReportTooLarge):
        parse_report(text, now=NOW)


def test_brackets_inside_texts_do_not_count_as_nesting() -> None:
    assert parsed(report(**{"organization-name": "[[[[[[[[[[{{{{{{{{{{{{{{{"})).organization.startswith("[[")


def test_values_that_would_fill_the_memory_are_rejected() -> None:
    text = dumps(report())[:-1] + b', "x": [' + b"[]," * 2_000_000 + b"[]]}"
    with pytest.raises(ReceivedReportTooLarge):
        parse_report(text, now=NOW)


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"\n \r\n", b"\0"])
def test_byte_order_mark_and_blanks_before_the_text_are_skipped(prefix: bytes) -> None:
    assert parse_report(prefix + dumps(report()), now=NOW).report_id


def test_data_after_the_text_is_noted() -> None:
    found = parse_report(dumps(report()) + b"\n-- \nfooter", now=NOW)
    assert found.deviations == {Deviation.JSON_TRAILING_DATA}


def test_latin_1_text_is_read_and_noted() -> None:
    text = dumps(report()).replace(b"Reporter Inc.", b"Caf\xe9")
    found = parse_report(text, now=NOW)
    assert (found.organization, found.deviations) == ("Café", frozenset({Deviation.NOT_UTF8}))


def test_every_prefix_of_a_report_is_rejected_or_read() -> None:
    text = dumps(report())
    for length in range(len(text)):
        with pytest.raises(MtaStsError):
            parse_report(text[:length], now=NOW)
