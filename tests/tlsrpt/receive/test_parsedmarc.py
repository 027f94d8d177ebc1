"""An independent reader over the same corpus; each difference is listed with the section of RFC 8460 that decides."""

import json
from typing import Any

import pytest

from mtasts_daemon.tlsrpt.receive.model import ReceivedReport
from mtasts_daemon.tlsrpt.receive.parser import parse_report

from . import corpus

LOST_BY_THE_OTHER = {
    # Section 4.4 has contact-info in its template, but sections 5.3 and 5.6 let the mail's header name the submitter,
    # so a report without it can still be used.
    "contact-missing": "Missing required field: contact-info",
    # Section 4.2 names three policy types; the counts of other types are still counts of sessions.
    "unknown-policy-type": "Invalid policy type smime",
    # Section 4.4 writes members in lower case with hyphens; the drafts did not.
    "draft-spelling": "Missing required field: organization-name",
}


def other(name: str) -> Any:
    reader = pytest.importorskip("parsedmarc")
    return reader.parse_smtp_tls_report_json(json.dumps(corpus.WILD[name]()))


def ours(name: str) -> ReceivedReport:
    return parse_report(corpus.dumps(corpus.WILD[name]()), now=corpus.NOW)


@pytest.mark.parametrize("name", sorted(set(corpus.WILD) - set(LOST_BY_THE_OTHER)))
def test_both_readers_find_the_same_sessions(name: str) -> None:
    theirs, found = other(name), ours(name)
    assert theirs["organization_name"] == found.organization
    assert [
        (
            policy["policy_domain"],
            policy["policy_type"],
            policy["successful_session_count"],
            policy["failed_session_count"],
            [(one["result_type"], one["failed_session_count"]) for one in policy.get("failure_details", [])],
        )
        for policy in theirs["policies"]
    ] == [
        (
            policy.domain,
            policy.type,
            policy.successful,
            policy.failed,
            [(one.result_type, one.count) for one in policy.failures],
        )
        for policy in found.policies
    ]


@pytest.mark.parametrize("name", LOST_BY_THE_OTHER)
def test_reports_that_the_other_reader_loses_are_kept_here(name: str) -> None:
    with pytest.raises(Exception, match=LOST_BY_THE_OTHER[name]):
        other(name)
    assert ours(name).policies[0].successful > 0
    assert ours(name).deviations
