"""The daily check of published domains: when its evidence has gaps."""

from dataclasses import replace

from mtasts_daemon.diagnose.check.evidence import CheckEvidence, MxEvidence, PolicyHostEvidence, StsEvidence
from mtasts_daemon.publish.watch import is_incomplete
from tests.publish.world import mx_host


def checked(*problems: str | None) -> CheckEvidence:
    """Evidence with one MX host whose sessions, one for each address, had these problems."""
    host = mx_host("mx.example.com", *(f"192.0.2.{number + 1}" for number in range(len(problems))))
    sessions = tuple(replace(one, problem=problem) for one, problem in zip(host.sessions, problems, strict=True))
    return CheckEvidence(
        "example.com",
        0.0,
        StsEvidence(),
        PolicyHostEvidence(),
        MxEvidence(hosts=("mx.example.com",)),
        (replace(host, sessions=sessions),),
        port25=True,
    )


def test_host_that_one_address_family_reaches_is_checked() -> None:
    assert not is_incomplete(checked("smtp-no-route", None))
    assert not is_incomplete(checked("smtp-no-route", "smtp-refused"))


def test_host_without_a_route_to_any_address_is_not() -> None:
    assert is_incomplete(checked("smtp-no-route"))
    assert is_incomplete(checked("smtp-no-route", "smtp-busy"))
