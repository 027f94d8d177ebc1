"""Numbers of TLS results and reports by state."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.tlsrpt.collect.collector import CollectorCounters
from mtasts_daemon.tlsrpt.database.overview import ReportTotals, reports
from mtasts_daemon.tlsrpt.model.delivery_result import DeliveryResult, Result
from mtasts_daemon.tlsrpt.model.report import day_begins
from mtasts_daemon.tlsrpt.send.deliverer import Deliverer
from mtasts_daemon.tlsrpt.service import TlsrptService
from tests.event_loop import until
from tests.fakes.clock import FakeClock
from tests.fakes.resolver import FakeResolver
from tests.tlsrpt.delivery_world import DAY, HOUR, World

ENDED = day_begins(DAY) + 86400.0


@pytest.fixture
async def world(tmp_path: Path, settings: Mapping[str, Any]) -> AsyncIterator[World]:
    """A world whose mail server always answers with ``submit``."""
    result = DeliveryResult(settings.get("submit", Result.DELIVERED))
    async with World(tmp_path, submit=lambda *_: result) as world:
        yield world


async def counted(world: World) -> ReportTotals:
    return await reports(world.database, world.clock.wall())


async def test_today_has_no_waiting_reports(world: World) -> None:
    world.clock.set_back(5 * HOUR)
    await world.mailed("a.example")
    assert await counted(world) == ReportTotals()


async def test_unplanned_day_waits_since_its_end(world: World) -> None:
    await world.mailed("a.example")
    assert await counted(world) == ReportTotals(waits_since=ENDED)


async def test_planned_unit_waits_until_it_is_due(world: World) -> None:
    await world.mailed("a.example", "b.example")
    now = world.clock.wall()
    await world.outbox.plan(DAY, lambda domain: now + (domain == "b.example"))
    assert await counted(world) == ReportTotals(waiting=2, due=1, waits_since=ENDED)


async def test_finished_deliveries_are_counted_by_state(world: World) -> None:
    await world.mailed("a.example", "no-record.example")
    world.wants("a.example", "mailto:one@a.example", "mailto:two@a.example")
    await world.round()
    assert await counted(world) == ReportTotals(delivered=2)
    world.clock.advance(7 * 86400)
    assert await counted(world) == ReportTotals()


@pytest.mark.settings(submit=Result.DEFERRED)
async def test_deferred_report_waits_until_its_next_attempt(world: World) -> None:
    await world.mailed("a.example")
    world.wants("a.example", "mailto:one@a.example")
    await world.round()
    assert await counted(world) == ReportTotals(waiting=1, waits_since=ENDED)
    world.clock.advance(HOUR)
    assert (await counted(world)).due == 1


async def test_damaged_day_is_ignored(world: World) -> None:
    await world.mailed("a.example", day="2026-09-20x")
    assert await counted(world) == ReportTotals()


# -- since the start ---------------------------------------------------------------------------------------


async def test_attempts_are_counted_by_transport_and_result(world: World) -> None:
    await world.mailed("a.example", "no-record.example")
    world.wants("a.example", "mailto:one@a.example", "https://nowhere.example/")
    await world.round()
    counters = world.deliverer.counters
    assert counters.delivered == {"mail": 1, "https": 0}
    assert counters.failures == {"deferred": 1, "refused": 0, "gone": 0}
    assert (counters.made, counters.skipped) == (1, {"no-record": 1})


async def test_reload_continues_the_counters(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"tlsrpt": {"socket": str(tmp_path / "tlsrpt.sock"), "database": str(tmp_path / "tlsrpt.sqlite")}}
    )
    service = TlsrptService(config, {}, (), FakeResolver, FakeClock())
    await service.start()
    delivering = asyncio.create_task(service.deliver())
    first = await deliverer_after(service, None)
    service.configure(config)
    second = await deliverer_after(service, first)
    assert first.counters is second.counters is service.delivered
    await service.stop()
    await delivering
    await service.close()


async def deliverer_after(service: TlsrptService, before: Deliverer | None) -> Deliverer:
    await until(lambda: service.deliverer is not None and service.deliverer is not before)
    assert service.deliverer is not None
    return service.deliverer


def test_counters_of_several_sockets_are_summed() -> None:
    one = CollectorCounters(received=3, received_at=5.0, kept=1, rejected=Counter({"event-shape": 2}), queued=7)
    other = CollectorCounters(received=2, received_at=4.0, rejected=Counter({"event-shape": 1, "event-domain": 1}))
    total = CollectorCounters.total([one, other])
    assert (total.received, total.received_at, total.kept, total.queued) == (5, 5.0, 1, 7)
    assert total.rejected == {"event-shape": 3, "event-domain": 1}
    assert CollectorCounters.total([]) == CollectorCounters()
