"""Maintenance works in slices: no turn of the event loop converts or writes more than one slice."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from mtasts_daemon.lookup.policy_cache import CacheSlot
from mtasts_daemon.policy.cache_entry import CacheEntry, TxtCheck
from mtasts_daemon.policy.decision import Answer
from mtasts_daemon.policy.dns_answer import RRType
from tests.event_loop import idle
from tests.fakes.daemon import World
from tests.fakes.store import policy_entry

DAY = 86400.0
COUNT = 3000
MOST_SLOTS = 500
MOST_WRITES = 100


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


def admit(world: World, entry: CacheEntry) -> CacheSlot:
    slot = world.service.policy_cache.admit(CacheSlot(entry.domain))
    world.service.policy_cache.hold(slot, entry)
    slot.unread = False
    return slot


def admit_policies(world: World, count: int = COUNT) -> list[CacheSlot]:
    """Admit slots of policies fetched now."""
    now = world.clock.wall()
    return [admit(world, policy_entry(f"d{number}.example", at=now, last_used=now)) for number in range(count)]


async def most_per_turn(work: Coroutine[Any, Any, None], count: Callable[[], int]) -> int:
    """Run ``work``; return the most by which ``count`` grew in one turn of the loop."""
    most, task = 0, asyncio.create_task(work)
    while not task.done():
        before = count()
        await asyncio.sleep(0)
        most = max(most, count() - before)
    await task
    return most


async def test_clock_repair_visits_a_bounded_number_of_slots_per_turn(world: World) -> None:
    slots = admit_policies(world)
    world.clock.set_back(3 * 365 * DAY)

    def repaired() -> int:
        return sum(slot.save_due for slot in slots)

    assert 0 < await most_per_turn(world.service.maintenance.repair_clock(), repaired) <= MOST_SLOTS
    assert repaired() == COUNT
    assert all(slot.entry and slot.entry.held and slot.entry.held.fetched_at == world.clock.wall() for slot in slots)


async def test_lookups_during_clock_repair_are_judged_by_the_right_time(world: World) -> None:
    """Whether their slots have been repaired yet or not."""
    slots, now = admit_policies(world), world.clock.wall()
    no_record = TxtCheck(now, now + 3600)
    for slot in slots[1::2]:  # the wrong clock's answers, which hold for an hour by it
        world.service.policy_cache.hold(slot, CacheEntry(slot.domain, txt=no_record))
    for slot in slots:
        world.publish(slot.domain, "20240101")
    world.clock.set_back(3 * 365 * DAY)
    changes = [slot.changes for slot in slots]
    repair = asyncio.create_task(world.service.maintenance.repair_clock())
    await asyncio.sleep(0)
    # No reply of before holds, although most slots wait for the repair.
    assert all(slot.changes > before for slot, before in zip(slots, changes, strict=True))
    assert not slots[-1].save_due and not slots[-2].save_due and not repair.done()
    asked = [*slots[-4:], *slots[:4]]
    decisions = await asyncio.gather(*(world.ask(slot.domain) for slot in asked))
    assert {decision.answer for decision in decisions} == {Answer.SECURE}
    await repair


async def test_clock_repair_includes_domains_with_a_discovery_in_progress(world: World) -> None:
    (slot,) = admit_policies(world, 1)
    world.publish(slot.domain, "20240101")
    gate = world.resolver.gates[f"_mta-sts.{slot.domain}", RRType.TXT] = asyncio.Event()
    world.clock.set_back(3 * 365 * DAY)
    assert (await world.ask(slot.domain)).answer is Answer.SECURE  # and asks for TXT
    assert slot.flight is not None
    await world.service.maintenance.repair_clock()
    gate.set()
    await idle()
    assert slot.flight is None and slot.entry is not None and slot.entry.held is not None
    assert slot.entry.held.fetched_at == world.clock.wall()


async def test_sweep_visits_a_bounded_number_of_slots_per_turn(world: World) -> None:
    slots = admit_policies(world)
    world.clock.advance(60)
    assert 0 < await most_per_turn(world.service.maintenance.sweep(), lambda: -sum(s.used for s in slots)) <= MOST_SLOTS


async def test_sweep_writes_repaired_entries_in_bounded_batches(world: World) -> None:
    slots = admit_policies(world)
    world.clock.set_back(3 * 365 * DAY)
    await world.service.maintenance.repair_clock()
    puts = world.store.calls
    most = await most_per_turn(world.service.maintenance.sweep(), lambda: puts["put"])
    assert 1 < most <= MOST_WRITES
    assert not any(slot.save_due for slot in slots)
    assert len(world.store.entries) == COUNT


async def test_clock_repair_writes_stored_entries_in_bounded_batches(world: World) -> None:
    entry = policy_entry("x.example", at=world.clock.wall())
    for number in range(1000):
        await world.store.put(replace(entry, domain=f"d{number}.example"), None)
    world.clock.set_back(3 * 365 * DAY)
    puts = world.store.calls
    most = await most_per_turn(world.service.maintenance.repair_clock(), lambda: puts["put"])
    assert 1 < most <= MOST_WRITES
    assert {entry.held and entry.held.fetched_at for entry in world.store.entries.values()} == {world.clock.wall()}


async def test_one_write_is_attempted_while_writes_fail(world: World) -> None:
    admit_policies(world, 300)
    world.clock.set_back(3 * 365 * DAY)
    await world.service.maintenance.repair_clock()
    world.store.fail("put", times=100)
    await world.service.maintenance.sweep()
    failed = world.store.calls["put"]
    assert failed == MOST_WRITES and world.service.maintenance.writes_fail
    world.store.fail("put")
    await world.service.maintenance.sweep()
    assert world.store.calls["put"] == failed
    world.clock.advance(61)
    await world.service.maintenance.sweep()
    assert world.store.calls["put"] == failed + 1
    world.clock.advance(61)
    await world.service.maintenance.sweep()
    assert len(world.store.entries) == 300
