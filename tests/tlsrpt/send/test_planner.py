"""The planner: which reports are due, to which recipients, and when."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.errors import DnsServerFailure
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.tlsrpt.database.decisions import ReportMade, Skip, WaitingUnit
from mtasts_daemon.tlsrpt.model.delivery_result import DeliveryResult, Result
from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyType
from mtasts_daemon.tlsrpt.model.report import day_begins
from mtasts_daemon.tlsrpt.send.planner import backoff
from tests.tlsrpt.delivery_world import DAY, HOUR, World, event
from tests.tlsrpt.events import policy

MX = "mx.host.example"
TLSA = Policy(PolicyType.TLSA, MX, ("3 1 1 00",))


@pytest.fixture
async def world(tmp_path: Path, settings: Mapping[str, Any]) -> AsyncIterator[World]:
    async with World(tmp_path, **settings) as world:
        yield world


async def made(world: World, domain: str) -> dict[str, Any]:
    """Return the sessions of the report by policy domain."""
    content = await world.planner.render_report(DAY, domain)
    return {each["policy"]["policy-domain"]: each["summary"] for each in content["policies"]}


async def test_reports_are_spread_over_four_hours_after_the_day(world: World) -> None:
    names = [f"d{number}.example" for number in range(200)]
    await world.mailed(*names)
    over = day_begins(DAY) + 86400
    moments = [world.planner.moment(DAY, name) - over for name in names]
    assert min(moments) >= 60
    assert max(moments) < 60 + 4 * HOUR
    assert all(20 < sum(part <= (m - 60) // HOUR < part + 1 for m in moments) < 80 for part in range(4))
    assert moments != [world.planner.moment("2026-09-22", name) - over for name in names]
    world.clock.set_back(4 * HOUR + 1)
    await world.round()
    assert await world.progress() == type(await world.progress())()
    world.clock.advance(1)
    await world.round()
    assert (await world.progress()).waiting == 200
    world.clock.advance(2 * HOUR)
    await world.round()
    assert (await world.progress()).skipped == sum(moment <= 60 + 2 * HOUR for moment in moments)


@pytest.mark.settings(organization="x", retention=40 * 86400.0)
async def test_every_finished_day_is_reported_after_a_downtime(world: World) -> None:
    for day in ("2026-09-01", "2026-09-20", DAY, "2026-09-22"):
        await world.mailed("a.example", day=day)
    world.wants("a.example", "mailto:a@a.example")
    await world.round()
    found = [(await world.progress(day)).reported for day in ("2026-09-01", "2026-09-20", DAY, "2026-09-22")]
    assert found == [1, 1, 1, 0]


@pytest.mark.settings(retention=10 * 86400.0)
async def test_days_older_than_the_retention_are_removed(world: World) -> None:
    await world.mailed("a.example", day="2026-09-01")
    await world.mailed("a.example")
    await world.round()
    world.clock.advance(3601)
    await world.round()
    assert [day.day for day in await world.database.days()] == [DAY]
    assert (await world.progress("2026-09-01")).skipped == 0


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "no-record"),
        ([b"v=spf1 -all"], "no-record"),
        ([b"v=TLSRPTv1; rua=mailto:a@a.example"] * 2, "tlsrpt-record-multiple: 2 found"),
        ([b"v=TLSRPTv1;"], "tlsrpt-record-no-rua"),
        ([b"v=TLSRPTv1; rua=tel:1"], "no-address: tel:1: it is neither mailto nor https"),
    ],
)
async def test_record_is_looked_up_when_the_report_is_due(world: World, records: list[bytes], reason: str) -> None:
    await world.mailed("a.example")
    world.resolver.put("_smtp._tls.a.example", RRType.TXT, records)
    await world.round()
    assert await world.reasons() == {"a.example": reason}


async def test_failed_lookup_is_retried_for_a_day(world: World) -> None:
    await world.mailed("a.example", "b.example")
    for name in ("a", "b"):
        world.resolver.fail(f"_smtp._tls.{name}.example", RRType.TXT, DnsServerFailure())
    await world.round()
    assert (await world.progress()).waiting == 2
    world.wants("b.example", "mailto:x@b.example")
    await world.round()
    assert (await world.progress()).waiting == 2
    begun = world.clock.wall()
    while (await world.progress()).waiting:
        world.clock.advance(300)
        await world.round()
    assert await world.reasons() == {"a.example": "dns-servfail", "b.example": "reported"}
    assert 24 * HOUR <= world.clock.wall() - begun < 30 * HOUR


def test_back_off_grows_from_minutes_to_hours() -> None:
    waits = [backoff(attempts) for attempts in range(1, 12)]
    assert waits[:3] == [300, 600, 1200]
    assert waits == sorted(waits)
    assert max(waits) == 3 * HOUR


@pytest.mark.settings(contact="a@contact.example", exclude=frozenset({"other.example"}))
async def test_own_and_excluded_domains_get_no_reports(world: World) -> None:
    names = ("sender.example", "contact.example", "other.example", "a.example")
    await world.mailed(*names)
    for name in names:
        world.wants(name, "mailto:x@a.example")
    await world.round()
    assert await world.reasons() == {
        "sender.example": "excluded",
        "contact.example": "excluded",
        "other.example": "excluded",
        "a.example": "reported",
    }


@pytest.mark.settings(failures_only=True)
async def test_failures_only_skips_days_without_failures(world: World) -> None:
    await world.mailed("good.example", "known.example")
    await world.mailed("bad.example", failing=True)
    failure = Failure("sts-policy-fetch-error")
    await world.noted("known.example", policy(0, "known.example"), failure, 1)
    for name in ("good", "bad", "known"):
        world.wants(f"{name}.example", "mailto:x@a.example")
    await world.round()
    assert await world.reasons() == {
        "good.example": "no-failures",
        "bad.example": "reported",
        "known.example": "reported",
    }


async def test_failures_without_session_are_in_the_details_only(world: World) -> None:
    await world.mailed("a.example")
    await world.noted("a.example", policy(0, "a.example"), Failure("sts-policy-invalid"), 5)
    (found,) = (await world.planner.render_report(DAY, "a.example"))["policies"]
    assert found["summary"] == {"total-successful-session-count": 1, "total-failure-session-count": 0}
    assert found["failure-details"] == [{"result-type": "sts-policy-invalid", "failed-session-count": 5}]


async def test_mx_host_gets_a_report_about_its_tlsa_records(world: World) -> None:
    await world.seen(event("a.example", TLSA), event("b.example", TLSA), event("b.example", policy(0, "b.example")))
    world.wants(MX, "mailto:x@host.example")
    world.wants("a.example", "mailto:x@a.example")
    await world.round()
    assert await world.reasons() == {"a.example": "reported", "b.example": "no-record", MX: "reported"}
    assert await made(world, MX) == {MX: {"total-successful-session-count": 0, "total-failure-session-count": 2}}
    assert set(await made(world, "a.example")) == {MX}


async def test_no_address_gets_the_same_results_twice(world: World) -> None:
    await world.seen(event("a.example", TLSA), event("b.example", TLSA), event("b.example", TLSA))
    # One of the host's addresses already receives a.example's sessions in the report of a.example.
    world.wants(MX, "mailto:x@host.example,mailto:y@host.example")
    world.wants("a.example", "mailto:y@host.example")
    await world.round()
    assert await world.reasons() == {"a.example": "reported", "b.example": "no-record", MX: "reported"}
    assert (await made(world, MX))[MX]["total-failure-session-count"] == 2


async def test_mx_host_without_further_results_gets_no_report(world: World) -> None:
    await world.seen(event("a.example", TLSA))
    world.wants(MX, "mailto:x@host.example")
    world.wants("a.example", "mailto:x@host.example")
    await world.round()
    assert (await world.reasons())[MX] == "nothing-collected"


async def test_domain_that_is_its_own_mx_host_gets_one_report(world: World) -> None:
    await world.seen(event(MX, TLSA), event(MX, policy(0, MX)), event("a.example", TLSA))
    world.wants(MX, "mailto:x@host.example")
    await world.round()
    content = await world.planner.render_report(DAY, MX)
    found = {each["policy"]["policy-type"]: each["summary"] for each in content["policies"]}
    assert {kind: sums["total-failure-session-count"] for kind, sums in found.items()} == {"tlsa": 2, "sts": 1}
    assert (await world.progress()).reported == 1


async def test_dry_run_stores_nothing(world: World) -> None:
    await world.mailed(*(f"d{number}.example" for number in range(450)))
    world.wants("d7.example", "mailto:x@a.example", "nonsense")
    decisions = await world.dry()
    assert len(decisions) == 450
    (decision,) = [decision for decision in decisions if isinstance(decision, ReportMade)]
    assert [new.uri for new in decision.deliveries] == ["mailto:x@a.example"]
    assert len(decision.problems) == 1
    (one,) = await world.dry("d8.example")
    assert one == Skip(DAY, "d8.example", "no-record")
    assert await world.reasons() == {}


async def test_preview_is_the_report_as_it_was_made(world: World) -> None:
    await world.mailed("a.example")
    world.wants("a.example", "mailto:x@a.example")
    before = await world.planner.render_report(DAY, "a.example")
    await world.round()
    after = await world.planner.render_report(DAY, "a.example")
    assert after == await world.planner.render_report(DAY, "a.example")
    assert before["report-id"] != after["report-id"]
    assert {**before, "report-id": ""} == {**after, "report-id": ""}


@pytest.mark.parametrize("day", ["", "today", "2026-02-30"])
async def test_invalid_day_is_rejected(world: World, day: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        await world.planner.render_report(day, "a.example")
    with pytest.raises(ValueError, match=r"."):
        await anext(world.planner.plan_day(day))


async def test_silent_name_server_delays_no_other_domain(world: World) -> None:
    answers = asyncio.Event()
    world.resolver.gates["_smtp._tls.a.example", RRType.TXT] = answers
    await world.mailed("a.example", "b.example")
    world.wants("b.example", "mailto:x@b.example")
    units = [WaitingUnit(DAY, name, 0) for name in ("a.example", "b.example")]
    async with aclosing(world.planner.decide(units)) as batches:
        assert [decision.domain for decision in await anext(batches)] == ["b.example"]
        answers.set()
        assert [decision.domain for decision in await anext(batches)] == ["a.example"]


@pytest.mark.settings(spread=0.0, submit=lambda *_: DeliveryResult(Result.DEFERRED, "busy", host=True))
async def test_each_of_many_domains_is_decided_once(world: World) -> None:
    names = [f"d{number:04}.example" for number in range(1201)]
    await world.mailed(*names)
    for name in names[::2]:
        world.wants(name, f"mailto:x@{name}")
    await world.round()
    assert sorted(await world.reasons()) == names
    assert (await world.progress()).reported == 601
    assert len(world.resolver.queries) == len(names)


async def test_internal_error_in_a_lookup_is_raised(world: World) -> None:
    answers: Any = None
    world.resolver.put("_smtp._tls.a.example", RRType.TXT, [answers])
    with pytest.raises(TypeError):
        await anext(world.planner.decide([WaitingUnit(DAY, "a.example", 0)]))


async def test_dry_run_is_ordered_by_domain(world: World) -> None:
    names = [f"d{number:03}.example" for number in range(250)]
    await world.mailed(*names)
    for name in names[::3]:
        world.wants(name, f"mailto:x@{name}")
    assert [decision.domain for decision in await world.dry()] == names
