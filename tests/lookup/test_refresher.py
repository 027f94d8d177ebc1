"""The refresher: it fetches due policies, and no domain stops it or delays another."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from mtasts_daemon import errors
from mtasts_daemon.lookup.policy_cache import CacheSlot
from mtasts_daemon.lookup.refresher import Refresher, RefreshSettings
from mtasts_daemon.policy.cache_entry import next_due
from mtasts_daemon.policy.decision import Answer
from mtasts_daemon.store.policy_store import StoreLimits
from tests.event_loop import idle
from tests.fakes.daemon import World
from tests.fakes.fetcher import policy_text
from tests.fakes.store import policy_entry

DAY = 86400.0


class Stage:
    """A Refresher whose rounds the test runs one by one."""

    def __init__(self, world: World, **settings: float) -> None:
        self.world = world
        self._wake = asyncio.Event()
        self._asleep = asyncio.Event()
        self.slept: list[float] = []
        refresh = RefreshSettings(**settings)  # type: ignore[arg-type]  # at_once is a whole float here
        self.refresher = Refresher(world.service, world.store, world.clock, world.spawn, refresh, self._sleep)
        self._started = False

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._asleep.set()
        await self._wake.wait()
        self._wake.clear()

    async def round(self) -> None:
        """Run one round and all work that it started, as far as possible."""
        await self.begin_round()
        await self._asleep.wait()
        self._asleep.clear()
        await idle()

    async def begin_round(self) -> None:
        """Start the refresher, or wake it."""
        if self._started:
            self._wake.set()
        else:
            self._started = True
            self.world.spawn(self.refresher.run(), "refresher")
        await idle()

    async def store(self, domain: str, age: float = 1.5 * DAY) -> None:
        """Store a policy of that age, served again."""
        entry = policy_entry(domain, at=self.world.clock.wall() - age, last_used=self.world.clock.wall())
        await self.world.store.put(entry, next_due(entry, self.world.settings.rules))
        self.world.publish(domain, "20240101")

    def fetched_at(self, domain: str) -> float:
        held = self.world.store.entries[domain].held
        assert held is not None
        return held.fetched_at


@pytest.fixture
async def stage(settings: Mapping[str, Any]) -> AsyncIterator[Stage]:
    async with World() as world:
        yield Stage(world, **settings)


async def test_only_due_policies_are_fetched(stage: Stage) -> None:
    await stage.store("due.example")
    await stage.store("fresh.example", age=1000)
    await stage.round()
    assert stage.world.fetcher.fetches == [("due.example", True)]
    assert stage.fetched_at("due.example") == stage.world.clock.wall()
    await stage.round()
    assert len(stage.world.fetcher.fetches) == 1


async def test_served_policy_is_refreshed_and_never_ends(stage: Stage) -> None:
    await stage.store("example.com", age=0)
    for _ in range(60):
        stage.world.clock.advance(DAY / 2)
        await stage.world.store.touch([("example.com", stage.world.clock.wall())])
        await stage.round()
    assert stage.world.clock.wall() - stage.fetched_at("example.com") <= 1.5 * DAY
    assert 20 <= len(stage.world.fetcher.fetches) <= 40


async def test_domain_without_lookups_is_left_to_expire(stage: Stage) -> None:
    await stage.store("example.com")
    stage.world.clock.advance(31 * DAY)
    await stage.round()
    assert stage.world.fetcher.fetches == []


async def test_a_slow_host_does_not_hold_up_another(stage: Stage) -> None:
    await stage.store("slow.example", age=3 * DAY)
    stage.world.fetcher.gates["slow.example"] = asyncio.Event()
    await stage.store("quick.example")
    await stage.round()
    assert stage.fetched_at("quick.example") == stage.world.clock.wall()
    await stage.round()
    assert [domain for domain, _ in stage.world.fetcher.fetches] == ["slow.example", "quick.example"]


async def test_a_failing_host_is_tried_again_after_its_back_off_and_keeps_its_policy(stage: Stage) -> None:
    await stage.store("example.com")
    stage.world.fetcher.bodies["example.com"] = errors.PolicyTimeout()
    await stage.round()
    await stage.round()
    assert len(stage.world.fetcher.fetches) == 1
    stage.world.clock.advance(400)
    await stage.round()
    assert len(stage.world.fetcher.fetches) == 2
    entry = stage.world.store.entries["example.com"]
    assert entry.live(stage.world.clock.wall()) is not None
    assert entry.failure is not None and entry.failure.count == 2


async def test_back_off_grows_also_after_the_policy_ended(stage: Stage) -> None:
    await stage.store("example.com", age=8 * DAY)
    stage.world.fetcher.bodies["example.com"] = errors.PolicyConnectFailed()
    for _ in range(288):
        await stage.round()
        stage.world.clock.advance(301)
    assert 6 <= len(stage.world.fetcher.fetches) <= 12


async def test_a_bug_with_one_domain_is_passed_over_and_the_others_go_on(stage: Stage) -> None:
    await stage.store("bad.example", age=3 * DAY)
    stage.world.fetcher.bodies["bad.example"] = ZeroDivisionError("a bug")
    await stage.store("good.example")
    for _ in range(3):
        await stage.round()
    assert stage.fetched_at("good.example") == stage.world.clock.wall()
    assert [domain for domain, _ in stage.world.fetcher.fetches].count("bad.example") == 1
    assert stage.world.counters.unhandled == 1
    stage.world.clock.advance(301)
    await stage.round()
    assert [domain for domain, _ in stage.world.fetcher.fetches].count("bad.example") == 2


async def test_neither_a_failing_store_nor_a_bug_ends_the_loop(stage: Stage) -> None:
    await stage.store("example.com")
    stage.world.store.fail("due", times=2)
    await stage.round()
    assert stage.world.fetcher.fetches == []
    await stage.round()
    await stage.round()
    assert len(stage.world.fetcher.fetches) == 1


@pytest.mark.settings(at_once=2)
async def test_concurrent_refreshes_are_limited_and_the_rest_follow(stage: Stage) -> None:
    gates = {f"d{number}.example": asyncio.Event() for number in range(5)}
    for age, (domain, gate) in enumerate(gates.items()):
        await stage.store(domain, age=(6 - age / 10) * DAY)
        stage.world.fetcher.gates[domain] = gate
    await stage.begin_round()
    assert stage.refresher.under_way == len(stage.world.fetcher.fetches) == 2
    for gate in gates.values():
        gate.set()
    await idle()
    assert all(stage.fetched_at(domain) == stage.world.clock.wall() for domain in gates)


@pytest.mark.settings(give_up_after=0.02)
async def test_a_refresh_that_hangs_for_good_is_given_up(stage: Stage) -> None:
    await stage.store("hung.example", age=3 * DAY)
    stage.world.fetcher.gates["hung.example"] = asyncio.Event()
    await stage.round()
    refreshes = [task for task in stage.world.tasks if task.get_name() == "refresh hung.example"]
    await asyncio.gather(*refreshes)
    assert len(refreshes) == 1 and stage.refresher.under_way == 0


async def test_a_refresh_brings_the_new_mode_at_once(stage: Stage) -> None:
    await stage.store("example.com")
    stage.world.fetcher.bodies["example.com"] = policy_text("none")
    await stage.world.ask("example.com")
    await idle()
    await stage.round()
    assert (await stage.world.ask("example.com")).reason == "mode-none"


async def test_the_store_is_tidied_now_and_then(stage: Stage) -> None:
    await stage.round()
    assert stage.world.store.calls["tidy"] == 0
    stage.world.clock.advance(3601)
    await stage.round()
    assert stage.world.store.calls["tidy"] == 1


# -- a clock that is wrong ---------------------------------------------------------------------------------

YEARS = 4 * 365 * DAY


async def hours(stage: Stage, count: int) -> None:
    """Let time pass, and tidy the store every hour."""
    for _ in range(count):
        stage.world.clock.advance(3601)
        await stage.round()


@pytest.mark.parametrize("set_when", ["running", "started"])
async def test_a_clock_that_is_years_ahead_for_some_hours_costs_no_policy(
    stage: Stage, set_when: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    await stage.store("example.com", age=0)
    if set_when == "running":
        await hours(stage, 30)
    before = stage.world.store.entries["example.com"]
    stage.world.clock.set_back(-YEARS)
    if set_when == "started":
        stage = Stage(stage.world)
    await hours(stage, 20)
    stage.world.clock.set_back(YEARS)
    await hours(stage, 30)
    assert stage.world.store.calls["tidy"] >= 50
    assert stage.world.store.entries["example.com"].held is not None
    assert before.live(stage.world.clock.wall()) is not None
    moves = [vars(record)["fields"]["seconds"] for record in caplog.records if record.getMessage() == "clock-jump"]
    assert moves == ([YEARS, -YEARS] if set_when == "running" else [-YEARS])


@pytest.mark.parametrize("resident", [True, False])
async def test_a_refresh_that_failed_years_ahead_is_tried_again_when_the_clock_is_right(
    stage: Stage, resident: bool
) -> None:
    world = stage.world
    await stage.store("example.com", age=0)
    world.fetcher.bodies["example.com"] = errors.PolicyTlsFailed("expired")
    await stage.round()
    if resident:
        await world.ask("example.com")
    world.clock.set_back(-2 * DAY)
    await stage.round()
    failed_at = world.store.due_at["example.com"]
    assert failed_at is not None and failed_at > world.clock.wall()
    world.publish("example.com", "20240101")
    world.clock.set_back(2 * DAY)
    await stage.round()
    await stage.round()
    due = world.store.due_at["example.com"]
    assert due is not None and due <= world.clock.wall() + DAY


async def test_no_reply_that_was_made_by_a_wrong_clock_holds_when_it_is_right(stage: Stage) -> None:
    await stage.round()
    slot = stage.world.service.policy_cache.admit(CacheSlot("example.com"))
    stage.world.clock.set_back(YEARS)
    before = slot.changes
    await stage.round()
    assert slot.changes > before


async def test_expired_policies_are_removed_after_a_day_of_steady_clock(stage: Stage) -> None:
    await stage.world.store.put(policy_entry("gone.example", at=stage.world.clock.wall() - 90 * DAY), None)
    await hours(stage, 23)
    assert "gone.example" in stage.world.store.entries
    stage.world.clock.set_back(-1800)  # NTP, or a short sleep
    await hours(stage, 2)
    assert "gone.example" not in stage.world.store.entries


async def test_what_exceeds_the_limits_goes_also_while_the_clock_is_not_believed(stage: Stage) -> None:
    stage.world.store.limits = StoreLimits(max_policies=1)
    await stage.store("one.example", age=0)
    await stage.store("two.example", age=0)
    await hours(stage, 1)
    assert len(stage.world.store.entries) == 1


# -- a disk that fails -------------------------------------------------------------------------------------


async def test_unsaved_policy_is_kept_and_saved_when_the_disk_works_again(stage: Stage) -> None:
    world = stage.world
    world.publish("example.com", "1")
    world.store.fail("put", times=3)
    assert (await world.ask("example.com")).answer is Answer.SECURE
    for _ in range(2):
        world.clock.advance(2 * 3600)  # TXT would be queried again at a lookup
        await stage.round()
    assert world.service.policy_cache.get("example.com") is not None
    world.clock.advance(61)
    await stage.round()
    assert world.store.entries["example.com"].held is not None
    assert world.store.due_at["example.com"] is not None
    await stage.round()
    assert world.service.policy_cache.get("example.com") is None
