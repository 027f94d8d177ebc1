"""What has become of reports lately, in numbers."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mtasts_daemon.tlsrpt.attempt import Attempt, Result
from mtasts_daemon.tlsrpt.overview import Reports, reports
from mtasts_daemon.tlsrpt.report import day_begins
from tests.tlsrpt.delivery_world import DAY, HOUR, World

ENDED = day_begins(DAY) + 86400.0

Within = Callable[..., None]


@pytest.fixture
def within(tmp_path: Path) -> Within:
    """Runs a scenario in a world of its own."""

    def run(scenario: Callable[[World], Awaitable[None]], submit: Result = Result.DELIVERED) -> None:
        async def inside() -> None:
            async with World(tmp_path, submit=lambda *_: Attempt(submit)) as world:
                await scenario(world)

        asyncio.run(inside())

    return run


async def counted(world: World) -> Reports:
    return await reports(world.database, world.clock.wall())


def test_of_today_nothing_waits_yet(within: Within) -> None:
    async def scenario(world: World) -> None:
        world.clock.set_back(5 * HOUR)
        await world.mailed("a.example")
        assert await counted(world) == Reports()

    within(scenario)


def test_a_day_that_nobody_planned_waits_since_its_end(within: Within) -> None:
    async def scenario(world: World) -> None:
        await world.mailed("a.example")
        assert await counted(world) == Reports(waits_since=ENDED)

    within(scenario)


def test_what_is_planned_waits_and_is_due_at_its_moment(within: Within) -> None:
    async def scenario(world: World) -> None:
        await world.mailed("a.example", "b.example")
        now = world.clock.wall()
        await world.outbox.plan(DAY, lambda domain: now + (domain == "b.example"))
        assert await counted(world) == Reports(waiting=2, due=1, waits_since=ENDED)

    within(scenario)


def test_what_is_done_waits_no_more_and_is_counted_by_what_became_of_it(within: Within) -> None:
    async def scenario(world: World) -> None:
        await world.mailed("a.example", "no-record.example")
        world.wants("a.example", "mailto:one@a.example", "mailto:two@a.example")
        await world.round()
        assert await counted(world) == Reports(delivered=2)
        world.clock.advance(7 * 86400)
        assert await counted(world) == Reports()

    within(scenario)


def test_a_report_that_is_deferred_waits_until_its_next_try(within: Within) -> None:
    async def scenario(world: World) -> None:
        await world.mailed("a.example")
        world.wants("a.example", "mailto:one@a.example")
        await world.round()
        assert await counted(world) == Reports(waiting=1, waits_since=ENDED)
        world.clock.advance(HOUR)
        assert (await counted(world)).due == 1

    within(scenario, submit=Result.DEFERRED)


def test_a_damaged_day_is_no_reason_to_fail(within: Within) -> None:
    async def scenario(world: World) -> None:
        await world.mailed("a.example", day="2026-09-20x")
        assert await counted(world) == Reports()

    within(scenario)
