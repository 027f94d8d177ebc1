"""The forms of the drafts of 2017."""

import json

import pytest

from mtasts_daemon import errors
from mtasts_daemon.policy.draft2017 import DRAFT_2017, parse_json_policy, parse_stored_policy, policy_format
from mtasts_daemon.policy.mtasts import RFC8461, Mode, MxPattern, StsPolicy, StsRecord

TEXT = b"version: STSv1\nmode: none\nmax_age: 60\n"
JSON = b'{"version": "STSv1", "mode": "none", "max_age": 60}'


@pytest.mark.parametrize("record", [b"v=STSV1; id=a", b"v=STSv1; id=a"])
def test_draft_record_may_have_the_version_in_capitals(record: bytes) -> None:
    assert DRAFT_2017.parse_txt([record]) == StsRecord("a")


def test_operator_setting_selects_the_format() -> None:
    assert policy_format(draft_2017=False) is RFC8461
    assert policy_format(draft_2017=True) is DRAFT_2017
    assert RFC8461.parse_txt([b"v=STSV1; id=a"]) is None
    with pytest.raises(errors.PolicyLineSyntax):
        RFC8461.parse_policy(JSON)


@pytest.mark.parametrize("body", [TEXT, JSON, b"\xef\xbb\xbf" + JSON, b" \n" + JSON])
def test_stored_policy_of_either_format_is_read(body: bytes) -> None:
    assert parse_stored_policy(body) == StsPolicy(Mode.NONE, (), 60)


def test_json_policy_of_too_many_mx_is_refused() -> None:
    body = {"version": "STSv1", "mode": "enforce", "max_age": 60, "mx": [f"mx{n}.example.com" for n in range(501)]}
    with pytest.raises(errors.PolicyMxTooMany):
        parse_json_policy(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "mode"),
    [
        (b'{"version": "STSv1", "mode": "report", "mx": [".example.com"], "max_age": 86400}', Mode.TESTING),
        (b'{"version": "STSv1", "mode": "enforce", "mx": ["*.Example.com"], "max_age": "86400"}', Mode.ENFORCE),
        (
            b'\xef\xbb\xbf{"version":"STSv1","mode":"testing","mx":["*.example.com"],"max_age":86400,"x":[{}]}',
            Mode.TESTING,
        ),
    ],
)
def test_json_policy_is_read(body: bytes, mode: Mode) -> None:
    assert parse_json_policy(body) == StsPolicy(mode, (MxPattern("*.example.com"),), 86400)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", errors.PolicyJsonSyntax),
        (b"\xff", errors.PolicyJsonSyntax),
        (b"[" * 60000, errors.PolicyJsonSyntax),
        (b"[]", errors.PolicyJsonSyntax),
        (b'{"mx": "a.example"}', errors.PolicyJsonSyntax),
        (b'{"mx": [1]}', errors.PolicyJsonSyntax),
        (b'{"max_age": ' + b"9" * 5000 + b"}", errors.PolicyJsonSyntax),
        (b"{}", errors.PolicyVersion),
        (b'{"version": 1}', errors.PolicyVersion),
        (b'{"version": "STSv1"}', errors.PolicyMode),
        (b'{"version": "STSv1", "mode": ["none"]}', errors.PolicyMode),
        (b'{"version": "STSv1", "mode": "none"}', errors.PolicyMaxAge),
        (b'{"version": "STSv1", "mode": "none", "max_age": true}', errors.PolicyMaxAge),
        (b'{"version": "STSv1", "mode": "none", "max_age": -1}', errors.PolicyMaxAge),
        (b'{"version": "STSv1", "mode": "none", "max_age": 1.5}', errors.PolicyMaxAge),
        (b'{"version": "STSv1", "mode": "report", "max_age": 1}', errors.PolicyMxMissing),
        (b'{"version": "STSv1", "mode": "report", "max_age": 1, "mx": ["\\ud800"]}', errors.PolicyMxSyntax),
    ],
)
def test_malformed_json_policy_is_refused(body: bytes, error: type[errors.PolicySyntaxError]) -> None:
    with pytest.raises(error) as refused:
        parse_json_policy(body)
    assert refused.value.sentence.isascii()
