"""The outbox: plans, decisions and deliveries."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.errors import StoreError
from mtasts_daemon.tlsrpt.database.connection import SavedReport, open_database_read_only
from mtasts_daemon.tlsrpt.database.decisions import NewDelivery, ReportDecision, ReportMade, Retry, Skip, WaitingUnit
from mtasts_daemon.tlsrpt.database.outbox import DeliveryProgress, Outbox
from mtasts_daemon.tlsrpt.model.delivery_result import DeliveryResult, Result
from tests.tlsrpt.delivery_world import DAY, World

NOW = 1_790_100_000.0
REPORT = SavedReport("id@sender.example", NOW, "digest", b"body")


@pytest.fixture
async def world(tmp_path: Path, settings: Mapping[str, Any]) -> AsyncIterator[World]:
    async with World(tmp_path, **settings) as world:
        yield world


def made(domain: str, *uris: str, report: SavedReport = REPORT, until: float = NOW + 100) -> ReportMade:
    deliveries = tuple(
        NewDelivery(uri, hashlib.sha256(f"{domain} {uri}".encode()).hexdigest()[:20], uri.partition(":")[0])
        for uri in uris
    )
    return ReportMade(DAY, domain, report, deliveries, NOW, until)


async def planned(world: World, *domains: str) -> None:
    await world.mailed(*domains)
    await world.outbox.plan(DAY, lambda domain: NOW)


async def test_plan_covers_any_number_of_domains_once(world: World) -> None:
    names = [f"d{number:05}.example" for number in range(5010)]
    await world.mailed(*names)
    for _ in range(2):
        await world.outbox.plan(DAY, lambda domain: NOW + int(domain[1:6]))
    assert (await world.outbox.progress(DAY, None, NOW + 99)).waiting == 5010
    assert (await world.outbox.progress(DAY, None, NOW + 99)).waiting_due == 100
    found = await world.outbox.waiting(NOW + 6000, 3)
    assert found == [WaitingUnit(DAY, name, 0) for name in names[:3]]


async def test_days_before_a_day_are_listed(world: World) -> None:
    for day in ("2026-09-20", "2026-09-01", DAY, "2026-09-22"):
        await world.mailed("a.example", "b.example", day=day)
    assert await world.outbox.days("2026-09-22") == ["2026-09-01", "2026-09-20", DAY]
    assert await world.outbox.days("2026-01-01") == []


@pytest.mark.parametrize(
    "later",
    [
        Skip(DAY, "a.example", "no-record"),
        Retry(DAY, "a.example", NOW + 5, "dns-timeout"),
        made("a.example", "mailto:y@a.example", report=SavedReport("other", NOW, "x", b"y")),
    ],
)
async def test_first_decision_stands(world: World, later: ReportDecision) -> None:
    await planned(world, "a.example")
    await world.outbox.decide([made("a.example", "mailto:x@a.example"), later])
    await world.outbox.decide([later])
    assert await world.database.load_report(DAY, "a.example") == REPORT
    assert list(await world.deliveries()) == [("a.example", "mailto:x@a.example")]
    assert await world.reasons() == {"a.example": "reported"}


async def test_decision_about_an_unplanned_unit_changes_nothing(world: World) -> None:
    await world.outbox.decide([made("a.example", "mailto:x@a.example")])
    assert await world.deliveries() == {}


async def test_deliveries_are_returned_by_destination_and_due_moment(world: World) -> None:
    await planned(world, "a.example", "b.example")
    await world.outbox.decide([made(n, f"mailto:x@{n}", f"https://{n}/") for n in ("a.example", "b.example")])
    assert await world.outbox.destinations(NOW - 1) == []
    assert sorted(await world.outbox.destinations(NOW)) == ["https", "mailto"]
    first = await world.outbox.next("mailto", NOW)
    assert first is not None
    delivery, report = first
    assert (delivery.domain, delivery.uri, report) == ("a.example", "mailto:x@a.example", REPORT)
    await world.outbox.record(delivery, DeliveryResult(Result.DEFERRED, "later"), NOW, NOW + 10)
    second = await world.outbox.next("mailto", NOW)
    assert second is not None
    assert second[0].domain == "b.example"
    await world.outbox.back_off("mailto", NOW, NOW + 50, "away")
    assert await world.outbox.destinations(NOW + 49) == ["https"]
    assert await world.outbox.next("mailto", NOW + 49) is None


async def recorded(world: World, result: Result, next_at: float) -> str:
    found = await world.outbox.next("mailto", NOW)
    assert found is not None
    return await world.outbox.record(found[0], DeliveryResult(result, "said"), NOW, next_at)


@pytest.mark.parametrize(
    ("result", "next_at", "state"),
    [
        (Result.DELIVERED, NOW + 10, "delivered"),
        (Result.REFUSED, NOW + 10, "refused"),
        (Result.GONE, NOW + 10, "refused"),
        (Result.DEFERRED, NOW + 10, "pending"),
        (Result.DEFERRED, NOW + 100, "failed"),
    ],
)
async def test_attempt_leads_to_a_state(world: World, result: Result, next_at: float, state: str) -> None:
    await planned(world, "a.example")
    await world.outbox.decide([made("a.example", "mailto:x@a.example")])
    assert await recorded(world, result, next_at) == state
    assert await world.deliveries() == {("a.example", "mailto:x@a.example"): (state, 1, "said")}
    saved = await world.database.load_report(DAY, "a.example")
    assert saved is not None
    # It may still be needed for a retry, automatic or by hand.
    assert (saved.body is not None) == (state in ("pending", "failed"))


async def test_delivery_suppressed_while_under_way_stays_suppressed(world: World) -> None:
    await planned(world, "a.example")
    await world.outbox.decide([made("a.example", "mailto:x@a.example")])
    found = await world.outbox.next("mailto", NOW)
    assert found is not None
    await world.suppressions.suppress("mailto:x@a.example", "by hand", NOW, NOW + 10)
    await world.outbox.record(found[0], DeliveryResult(Result.DEFERRED), NOW, NOW + 10)
    assert (await world.outbox.progress(DAY, None, NOW)).suppressed == 1


async def test_back_off_gives_up_deliveries_whose_time_is_up(world: World) -> None:
    await planned(world, "a.example", "b.example")
    old, new = made("a.example", "mailto:x@a.example", until=NOW), made("b.example", "mailto:x@b.example")
    await world.outbox.decide([old, new])
    await world.outbox.back_off("mailto", NOW, NOW + 50, "away")
    found = await world.outbox.progress(DAY, None, NOW + 50)
    assert (found.failed, found.pending, found.pending_due) == (1, 1, 1)


async def test_progress_covers_one_domain(world: World) -> None:
    await planned(world, "a.example", "b.example")
    await world.outbox.decide([made("a.example", "mailto:x@a.example"), Skip(DAY, "b.example", "no-record")])
    assert await world.outbox.progress(DAY, "b.example", NOW) == DeliveryProgress(skipped=1)
    assert await world.outbox.progress(DAY, None, NOW) == DeliveryProgress(
        reported=1, skipped=1, pending=1, pending_due=1
    )
    assert await world.outbox.progress("2026-09-20", None, NOW) == DeliveryProgress()


async def test_expired_day_loses_its_plan_and_deliveries(world: World) -> None:
    await planned(world, "a.example")
    await world.outbox.decide([made("a.example", "mailto:x@a.example")])
    await world.database.expire("2026-09-22")
    assert (await world.reasons(), await world.deliveries()) == ({}, {})


async def test_body_of_a_finished_report_is_removed(world: World) -> None:
    async def kept() -> list[str]:
        saved = {name: await world.database.load_report(DAY, name) for name in ("a.example", "b.example")}
        return [name for name, report in saved.items() if report is not None and report.body is not None]

    await planned(world, "a.example", "b.example")
    decision = made("b.example", "mailto:x@b.example")
    skipped = replace(decision, deliveries=(replace(decision.deliveries[0], suppressed="by hand"),))
    await world.outbox.decide([made("a.example", "mailto:x@a.example", "mailto:y@a.example"), skipped])
    assert await kept() == ["a.example"]
    await world.suppressions.suppress("mailto:x@a.example", "by hand", NOW, NOW + 5)
    assert await kept() == ["a.example"]
    await world.suppressions.suppress("mailto:y@a.example", "by hand", NOW, NOW + 5)
    assert await kept() == []


async def test_suppressions_are_listed_replaced_and_removed(world: World) -> None:
    for reason, until in (("first", NOW + 5), ("second", NOW + 10)):
        await world.suppressions.suppress("mailto:x@a.example", reason, NOW, until)
    found = await world.suppressions.suppressed(["mailto:x@a.example", "mailto:y@a.example"], NOW + 9)
    assert found == {"mailto:x@a.example": "second"}
    assert await world.suppressions.suppressed(["mailto:x@a.example"], NOW + 10) == {}
    await world.suppressions.tidy(NOW + 10)
    assert not await world.suppressions.unsuppress("mailto:x@a.example")


async def test_read_only_outbox_is_readable_and_not_writable(world: World) -> None:
    await planned(world, "a.example")
    reader = open_database_read_only(world.folder / "t.sqlite")
    try:
        outbox = Outbox(reader)
        assert (await outbox.progress(DAY, None, NOW)).waiting == 1
        with pytest.raises(StoreError):
            await outbox.decide([Skip(DAY, "a.example", "x")])
    finally:
        await reader.close()


async def test_next_of_many_deliveries_is_found_by_the_index(world: World) -> None:
    names = [f"d{number}.example" for number in range(2000)]
    await planned(world, *names)
    await world.outbox.decide([made(name, f"mailto:x@{name}") for name in names])
    steps: list[None] = []
    await world.database.read(lambda connection: connection.set_progress_handler(lambda: steps.append(None), 100))
    assert await world.outbox.next("mailto", NOW) is not None
    assert len(steps) < 5
