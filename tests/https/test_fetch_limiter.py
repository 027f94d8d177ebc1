"""Limits on concurrent fetches, and the order in which waiting ones start."""

import asyncio
from collections.abc import Hashable
from random import Random

import pytest

from mtasts_daemon import errors
from mtasts_daemon.https.fetch_limiter import PATIENCE, FetchLimiter
from tests.event_loop import advance, idle

LATER = 3600.0


class Fetch:
    """A fetch that holds its slot until ``end``; ``started`` is set when it has one."""

    def __init__(self, limiter: FetchLimiter, order: list["Fetch"], key: Hashable, *, live: bool = False) -> None:
        self.key, self.live = key, live
        self.started, self._end = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run(limiter, order, live))

    async def _run(self, limiter: FetchLimiter, order: list["Fetch"], live: bool) -> None:
        async with limiter.slot(self.key, live, asyncio.get_running_loop().time() + LATER):
            order.append(self)
            self.started.set()
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task


async def settled(fetches: list[Fetch]) -> list[bool]:
    """Return which fetches have a slot as soon as nothing more happens."""
    await idle()
    return [fetch.started.is_set() for fetch in fetches]


async def ended(*fetches: Fetch) -> None:
    for fetch in fetches:
        fetch.task.cancel()
    await asyncio.gather(*(fetch.task for fetch in fetches), return_exceptions=True)


async def test_total_and_share_of_new_fetches_are_limited() -> None:
    limiter, order = FetchLimiter(8, 8), list[Fetch]()
    fetches = [Fetch(limiter, order, number) for number in range(8)]
    assert await settled(fetches) == [True] * 6 + [False] * 2
    lives = [Fetch(limiter, order, f"live{number}", live=True) for number in range(3)]
    assert await settled(lives) == [True, True, False]
    await ended(*fetches, *lives)


async def test_fetches_of_one_network_are_limited() -> None:
    limiter, order = FetchLimiter(64, 4), list[Fetch]()
    fetches = [Fetch(limiter, order, "here") for _ in range(5)]
    assert await settled(fetches) == [True, True, True, False, False]
    elsewhere = Fetch(limiter, order, "there")
    assert await settled([elsewhere]) == [True]
    await ended(*fetches, elsewhere)


async def test_waiting_fetches_start_in_order_of_arrival() -> None:
    limiter, order = FetchLimiter(2, 2), list[Fetch]()
    fetches = [Fetch(limiter, order, number % 3, live=number % 2 == 0) for number in range(20)]
    await settled(fetches)
    for fetch in fetches:
        await fetch.started.wait()
        await fetch.end()
    assert order == fetches


async def test_full_network_does_not_delay_a_later_fetch_elsewhere() -> None:
    limiter, order = FetchLimiter(4, 2), list[Fetch]()
    here = [Fetch(limiter, order, "here") for _ in range(10)]
    there = Fetch(limiter, order, "there")
    assert await settled([*here[:3], there]) == [True, True, False, True]
    await ended(*here, there)


async def test_first_fetch_yields_when_another_arrives_after_its_patience() -> None:
    limiter, order = FetchLimiter(1, 1), list[Fetch]()
    old = Fetch(limiter, order, "old")
    await old.started.wait()
    await advance(PATIENCE)
    assert not old.task.done()
    waiting = Fetch(limiter, order, "waiting")
    await waiting.started.wait()
    with pytest.raises(errors.PolicyFetchBusy, match="because others wait"):
        await old.task
    await ended(waiting)


async def test_first_fetch_yields_to_one_that_waits_already() -> None:
    limiter, order = FetchLimiter(4, 1), list[Fetch]()
    old, waiting = Fetch(limiter, order, "here"), Fetch(limiter, order, "here")
    assert await settled([old, waiting]) == [True, False]
    await advance(PATIENCE)
    await waiting.started.wait()
    with pytest.raises(errors.PolicyFetchBusy):
        await old.task
    await ended(waiting)


async def test_slow_fetch_does_not_yield_to_one_that_waits_for_another_network() -> None:
    limiter, order = FetchLimiter(8, 1), list[Fetch]()
    slow = Fetch(limiter, order, "slow")
    await slow.started.wait()
    await advance(PATIENCE)
    holder, waiting = Fetch(limiter, order, "other", live=True), Fetch(limiter, order, "other")
    assert await settled([slow, holder, waiting]) == [True, True, False]
    assert not slow.task.done()
    await ended(slow, holder, waiting)


async def test_live_fetch_never_yields() -> None:
    limiter, order = FetchLimiter(1, 1), list[Fetch]()
    live, waiting = Fetch(limiter, order, "here", live=True), Fetch(limiter, order, "here")
    await live.started.wait()
    await advance(PATIENCE)
    assert await settled([live, waiting]) == [True, False]
    assert not live.task.done()
    await ended(live, waiting)


async def test_fetch_without_a_slot_at_its_deadline_is_busy() -> None:
    limiter, order = FetchLimiter(1, 1), list[Fetch]()
    holder = Fetch(limiter, order, "here")
    await settled([holder])
    with pytest.raises(errors.PolicyFetchBusy, match="no slot came free"):
        async with limiter.slot("here", True, asyncio.get_running_loop().time() + 0.02):
            pytest.fail("there is no slot")
    await ended(holder)


async def test_fetch_that_holds_its_slot_at_its_deadline_times_out() -> None:
    limiter = FetchLimiter(1, 1)
    with pytest.raises(errors.PolicyTimeout):
        async with limiter.slot("here", False, asyncio.get_running_loop().time() + 0.02):
            await asyncio.Event().wait()


async def test_number_of_waiting_fetches_is_limited() -> None:
    limiter, order = FetchLimiter(1, 1, waiting=2), list[Fetch]()
    fetches = [Fetch(limiter, order, "here") for _ in range(4)]
    await settled(fetches)
    with pytest.raises(errors.PolicyFetchBusy, match="2 fetches are waiting"):
        await fetches[3].task
    await ended(*fetches)


async def test_cancelled_fetches_leave_every_slot_free() -> None:
    limiter, order = FetchLimiter(4, 2), list[Fetch]()
    fetches = [Fetch(limiter, order, number % 3, live=number % 2 == 0) for number in range(50)]
    await settled(fetches)
    for number, fetch in enumerate(fetches):
        if number % 3:
            fetch.task.cancel()
    for fetch in fetches[::3]:
        await fetch.started.wait()
        await fetch.end()
    await ended(*fetches)
    again = [Fetch(limiter, order, f"new{number}", live=number % 2 == 0) for number in range(4)]
    assert await settled(again) == [True] * 4
    await ended(*again)


async def test_cancelled_fetch_of_a_full_network_does_not_keep_the_next_one_from_starting() -> None:
    limiter, order = FetchLimiter(64, 1), list[Fetch]()
    holder, first, cancelled, last = fetches = [Fetch(limiter, order, "here") for _ in range(4)]
    await settled(fetches)
    # A slot that comes free elsewhere lets the limiter examine those that wait.
    elsewhere = Fetch(limiter, order, "there")
    await settled([elsewhere])
    await elsewhere.end()
    cancelled.task.cancel()
    await settled(fetches)
    for fetch in (holder, first):
        await fetch.started.wait()
        await fetch.end()
    assert await settled([last]) == [True]
    await ended(*fetches)


def has_room(fetch: Fetch, holders: list[Fetch], limit: int, per_network: int) -> bool:
    """Return True if both limits and both shares have room for the fetch."""
    for most, others in (limit, holders), (per_network, [one for one in holders if one.key == fetch.key]):
        alike = sum(one.live == fetch.live for one in others)
        if len(others) >= most or alike >= most - most // 4:
            return False
    return True


@pytest.mark.parametrize("seed", range(20))
async def test_no_fetch_waits_for_a_slot_that_is_free(seed: int) -> None:
    random = Random(seed)
    limits = 8 if seed % 2 else 64, 1 + seed % 4
    limiter, order, running = FetchLimiter(*limits), list[Fetch](), list[Fetch]()
    for _ in range(150):
        action = random.random()
        if action < 0.55 or not running:
            running.append(Fetch(limiter, order, random.randrange(3), live=random.random() < 0.3))
        elif action < 0.75:
            running.pop(random.randrange(len(running))).task.cancel()
        elif started := [fetch for fetch in running if fetch.started.is_set()]:
            fetch = random.choice(started)
            running.remove(fetch)
            await fetch.end()
        if random.random() < 0.7:
            await idle()
            holders = [fetch for fetch in running if fetch.started.is_set()]
            assert [fetch for fetch in running if fetch not in holders and has_room(fetch, holders, *limits)] == []
    await ended(*running)
    again = [Fetch(limiter, order, f"new{number}", live=number % 2 == 0) for number in range(limits[0])]
    assert await settled(again) == [True] * limits[0]
    await ended(*again)
