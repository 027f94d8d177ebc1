"""Deferred domains: begin, end and reason."""

import logging

import pytest

from mtasts_daemon.lookup import deferred_domains
from mtasts_daemon.lookup.deferred_domains import DeferredDomain, DeferredDomains
from tests.fakes.clock import FakeClock


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    return [(record.getMessage(), vars(record)["fields"]) for record in caplog.records]


@pytest.fixture(autouse=True)
def _captured(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mtasts_daemon"), "propagate", True)
    caplog.set_level(logging.INFO, "mtasts_daemon")


def test_deferral_begins_once_and_ends_with_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    deferred, began = DeferredDomains(clock), clock.wall()
    for _ in range(3):
        deferred.observe("begin-end.example", "policy-permits-no-mx-host")
        clock.advance(60)
    assert deferred.list() == [DeferredDomain("begin-end.example", "policy-permits-no-mx-host", began, began + 120)]
    deferred.observe("begin-end.example", "")
    assert (deferred.list(), deferred.total) == ([], 1)
    begin, end = events(caplog)
    assert begin == ("mail-deferred", {"domain": "begin-end.example", "reason": "policy-permits-no-mx-host"})
    assert end[0] == "mail-deferral-ended"
    assert (end[1]["seconds"], end[1]["because"]) == (180, "answered")


def test_deferral_ends_if_the_domain_is_no_longer_looked_up(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    deferred = DeferredDomains(clock)
    deferred.observe("forgotten.example", "store-unreadable", "the disk fails")
    clock.advance(2 * 3600)
    assert deferred.get("forgotten.example") is not None
    clock.advance(2 * 3600)
    assert deferred.get("forgotten.example") is None
    begin, end = events(caplog)
    assert begin[1]["detail"] == "the disk fails"
    assert end[1]["because"] == "no-longer-looked-up"


def test_answer_that_does_not_defer_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    deferred = DeferredDomains(FakeClock())
    deferred.observe("fine.example", "")
    assert (len(deferred), events(caplog)) == (0, [])


def test_number_of_deferred_domains_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred_domains, "_MAX_DOMAINS", 2)
    deferred = DeferredDomains(FakeClock())
    for number in range(5):
        deferred.observe(f"d{number}.bounded.example", "store-unreadable")
    assert [found.domain for found in deferred.list()] == ["d4.bounded.example", "d3.bounded.example"]
    assert deferred.total == 5
