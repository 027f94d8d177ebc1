"""The report (RFC 8460 section 4), checked with a schema and an independent reader."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from mtasts_daemon.tlsrpt.model.event import RESULT_TYPES, Failure, Policy, PolicyType
from mtasts_daemon.tlsrpt.model.report import (
    Report,
    compress_report,
    day_begins,
    decompress_report,
    has_failures,
    merge_rows,
)
from mtasts_daemon.tlsrpt.model.tally import DayRows, PolicyRows
from tests.tlsrpt.reports import BODY, DAY, MX, REPORT, REPORTER, ROWS, STS, TLSA, row

SCHEMA = json.loads((Path(__file__).parents[2] / "data" / "tlsrpt-schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=FormatChecker())

names = st.sampled_from(["", "mx.example.com", "xn--bcher-kva.example"])
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
failures = st.builds(
    Failure,
    st.sampled_from(sorted(RESULT_TYPES.values())),
    st.sampled_from(["", "192.0.2.1", "2001:db8::1"]),
    names,
    texts,
    st.sampled_from(["", "198.51.100.7"]),
    texts,
    texts,
)
policies = st.builds(
    Policy,
    st.sampled_from(PolicyType),
    names.filter(bool),
    st.lists(texts, max_size=3).map(tuple),
    st.lists(st.sampled_from(["*.example.com", "mx.example.com"]), max_size=2).map(tuple),
)
counts = st.integers(0, 2**53 - 1)
policy_rows = st.builds(
    PolicyRows, policies, counts, counts, st.dictionaries(failures, counts, max_size=3).map(lambda d: tuple(d.items()))
)
day_rows = st.builds(DayRows, names.filter(bool), st.lists(policy_rows, min_size=1, max_size=3).map(tuple))


def content(rows: DayRows = ROWS) -> dict[str, Any]:
    return REPORT.content(rows, REPORTER)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_a_report_has_the_keys_and_values_of_section_4_4() -> None:
    assert content() == {
        "organization-name": "Example Mail Ltd.",
        "date-range": {"start-datetime": "2026-09-21T00:00:00Z", "end-datetime": "2026-09-21T23:59:59Z"},
        "contact-info": "postmaster@sender.example",
        "report-id": "5065427c23d347cab6e0946ea0e8c4be@sender.example",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": ["version: STSv1", "mode: enforce", "mx: *.example.net", "max_age: 86400"],
                    "policy-domain": "example.com",
                    "mx-host": ["*.example.net"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                "failure-details": [
                    {
                        "result-type": "certificate-host-mismatch",
                        "sending-mta-ip": "192.0.2.1",
                        "receiving-mx-hostname": "mx1.example.net",
                        "receiving-mx-helo": "mx1",
                        "receiving-ip": "2001:db8::25",
                        "failed-session-count": 200,
                        "additional-information": "https://example.net/x",
                        "failure-reason-code": "wrong_name",
                    },
                    {"result-type": "certificate-expired", "failed-session-count": 103},
                ],
            },
            {
                "policy": {"policy-type": "tlsa", "policy-string": list(TLSA.strings), "policy-domain": MX},
                "summary": {"total-successful-session-count": 7, "total-failure-session-count": 0},
            },
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": "example.com"},
                # Failures that only the daemon knows are in the details, not in the sessions.
                "summary": {"total-successful-session-count": 0, "total-failure-session-count": 2},
                "failure-details": [
                    {"result-type": "starttls-not-supported", "failed-session-count": 2},
                    {"result-type": "sts-policy-fetch-error", "failed-session-count": 4},
                ],
            },
        ],
    }


@given(day_rows)
def test_any_rows_make_a_report_that_is_valid(rows: DayRows) -> None:
    VALIDATOR.validate(content(rows))


@given(day_rows)
def test_report_is_ascii_and_reads_back_unchanged(rows: DayRows) -> None:
    body = compress_report(content(rows))
    assert gzip.decompress(body).isascii()
    assert decompress_report(body) == content(rows)


def test_the_same_report_is_the_same_octets_at_any_time() -> None:
    assert compress_report(content()) == BODY
    # RFC 1952 section 2.3.1: no modification time
    assert BODY[4:8] == b"\0\0\0\0"


def test_the_file_is_named_for_both_sides_the_day_and_the_report() -> None:
    begins = day_begins(DAY)
    name = f"sender.example!example.com!{begins}!{begins + 86399}!5065427c23d347cab6e0946ea0e8c4be.json.gz"
    assert REPORT.file_name == name


def test_a_day_begins_at_midnight_in_utc() -> None:
    assert day_begins("1970-01-02") == 86400
    assert day_begins("2016-04-01") == 1459468800


@pytest.mark.parametrize("text", ["", "today", "2026-13-01", "2026-02-29", "20260921", "2026-W01-1", "2026-09-21 "])
def test_malformed_day_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        day_begins(text)


def test_day_without_failures_differs_from_one_with_failures() -> None:
    assert not has_failures(DayRows("example.com", (row(STS, 5),)))
    assert has_failures(DayRows("example.com", (row(STS, 5), row(TLSA, 0, 1))))
    assert has_failures(DayRows("example.com", (row(STS, 5, sts_policy_invalid=1),)))


def test_mx_host_report_covers_its_tlsa_records_of_all_domains() -> None:
    own = DayRows(MX, (row(TLSA, 1), row(STS, 9)))
    first = DayRows("a.example", (row(TLSA, 2, 1, validation_failure=1), row(STS, 5)))
    other = Policy(PolicyType.TLSA, "mx2.example.net", ("3 1 1 00",))
    second = DayRows("b.example", (row(TLSA, 4, 2, validation_failure=2), row(other, 3)))
    assert merge_rows(own, [first, second]) == DayRows(MX, (row(TLSA, 7, 3, validation_failure=3), row(STS, 9)))


def test_failures_without_end_lose_their_details_and_not_their_counts() -> None:
    def rows(domain: str, first: int) -> DayRows:
        many = tuple((Failure("validation-failure", reason_code=str(first + n)), 1) for n in range(800))
        return DayRows(domain, (PolicyRows(TLSA, 0, 800, many),))

    ((_, _, sessions, found),) = merge_rows(DayRows(MX, ()), [rows("a.example", 0), rows("b.example", 800)]).policies
    assert sessions == 1600
    assert sum(count for _, count in found) == 1600
    assert len(found) == 1001


def test_an_independent_reader_loses_nothing() -> None:
    reader = pytest.importorskip("parsedmarc")
    read = reader.parse_smtp_tls_report_json(gzip.decompress(BODY))
    first, second, third = read["policies"]
    assert read["organization_name"] == REPORTER.organization
    assert (read["begin_date"], read["end_date"]) == ("2026-09-21T00:00:00Z", "2026-09-21T23:59:59Z")
    assert (read["contact_info"], read["report_id"]) == (REPORTER.contact, REPORT.report_id)
    assert (first["policy_type"], first["policy_domain"]) == ("sts", "example.com")
    assert first["policy_strings"] == list(STS.strings)
    assert (first["successful_session_count"], first["failed_session_count"]) == (5326, 303)
    assert first["failure_details"] == [
        {
            "result_type": "certificate-host-mismatch",
            "failed_session_count": 200,
            "sending_mta_ip": "192.0.2.1",
            "receiving_ip": "2001:db8::25",
            "receiving_mx_hostname": MX,
            "receiving_mx_helo": "mx1",
            "failure_reason_code": "wrong_name",
            "additional_info_uri": "https://example.net/x",
        },
        {"result_type": "certificate-expired", "failed_session_count": 103},
    ]
    assert (second["policy_type"], second["policy_domain"]) == ("tlsa", MX)
    assert second["policy_strings"] == list(TLSA.strings)
    assert [(d["result_type"], d["failed_session_count"]) for d in third["failure_details"]] == [
        ("starttls-not-supported", 2),
        ("sts-policy-fetch-error", 4),
    ]


def test_a_report_knows_its_submitter_from_its_identifier() -> None:
    assert Report(DAY, "example.com", "ab@mail.example").submitter == "mail.example"
