"""Findings of the service and of DANE discovery for TLS reports."""

from collections.abc import AsyncIterator

import pytest

from mtasts_daemon import errors
from mtasts_daemon.lookup.settings import Settings
from mtasts_daemon.policy.dns_answer import MxRecord, RRType
from mtasts_daemon.policy.findings import DaneFinding, Finding, MxHostsFinding, PolicyProblem
from mtasts_daemon.policy.precedence import DaneMode
from tests.event_loop import idle
from tests.fakes.daemon import PLAIN, World
from tests.fakes.fetcher import policy_text
from tests.fakes.store import policy_entry

DOMAIN = "example.com"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@pytest.fixture
async def notes(world: World) -> AsyncIterator[list[Finding]]:
    notes: list[Finding] = []
    world.service.on_finding = world.service.dane_cache.on_finding = notes.append
    yield notes


def problems(notes: list[Finding]) -> list[tuple[str, str]]:
    return [(note.entry.domain, note.problem) for note in notes if isinstance(note, PolicyProblem)]


async def test_each_failed_attempt_to_have_a_policy_is_noted(world: World, notes: list[Finding]) -> None:
    world.publish(DOMAIN, "1")
    world.fetcher.bodies[DOMAIN] = errors.PolicyHttpStatus("404")
    await world.ask(DOMAIN)
    await world.ask(DOMAIN)
    assert problems(notes) == [(DOMAIN, "policy-http-status")]
    world.clock.advance(3600)
    await world.ask(DOMAIN)
    await idle()
    assert problems(notes) == [(DOMAIN, "policy-http-status")] * 2


async def test_a_record_that_is_not_valid_is_noted(world: World, notes: list[Finding]) -> None:
    world.resolver.put(f"_mta-sts.{DOMAIN}", RRType.TXT, [b"v=STSv1; id=1;", b"v=STSv1; id=2;"])
    await world.ask(DOMAIN)
    assert problems(notes) == [(DOMAIN, "sts-record-multiple")]


async def test_a_refresh_that_fails_is_noted_only_where_mail_goes_to_the_domain(
    world: World, notes: list[Finding]
) -> None:
    entry = policy_entry(DOMAIN, at=world.clock.wall() - 100_000)
    await world.store.put(entry, None)
    world.publish(DOMAIN, "20240101")
    world.fetcher.bodies[DOMAIN] = errors.WebPkiExpired()
    await world.service.discovery.refresh(entry)
    assert problems(notes) == []
    await world.ask(DOMAIN)
    await idle()
    notes.clear()
    world.clock.advance(100_000)
    await world.service.discovery.refresh(entry)
    assert problems(notes) == [(DOMAIN, "webpki-expired")]


async def test_mx_hosts_are_a_finding_of_each_fetched_policy(world: World, notes: list[Finding]) -> None:
    world.publish(DOMAIN, "1", policy_text("testing"))
    world.resolver.put(DOMAIN, RRType.MX, [MxRecord(10, "other.example.net")])
    await world.ask(DOMAIN)
    await idle()
    (seen,) = [note for note in notes if isinstance(note, MxHostsFinding)]
    assert (seen.domain, seen.hosts) == (DOMAIN, ("other.example.net",))


async def test_a_dane_walk_is_noted_once_however_often_its_verdict_is_used(world: World, notes: list[Finding]) -> None:
    world.publish(DOMAIN, "1")
    world.resolver.put(DOMAIN, RRType.MX, [MxRecord(10, "mx.example.com")])
    zone = PLAIN._replace(dane=DaneMode.ON)
    world.service.configure(Settings({"postfix": zone}, "postfix"))
    await world.ask(DOMAIN, zone)
    await world.ask(DOMAIN, zone)
    await idle()
    assert len([note for note in notes if isinstance(note, DaneFinding)]) == 1


async def test_nothing_is_noted_of_a_domain_without_a_policy(world: World, notes: list[Finding]) -> None:
    await world.ask(DOMAIN)
    assert notes == []
