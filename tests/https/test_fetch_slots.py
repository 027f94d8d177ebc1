"""Slots for fetches: how many, for whom, and what waits for what."""

import asyncio

import pytest

from mtasts_daemon import errors
from mtasts_daemon.https.fetch_queue import LONG
from mtasts_daemon.https.fetch_slots import FetchSlots


class Fetches:
    """Fetches that hold their slot until told to end. ``held`` are those that have one."""

    def __init__(self, slots: FetchSlots, group: asyncio.TaskGroup) -> None:
        self.slots = slots
        self.held: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._group = group
        self._ends: dict[str, asyncio.Event] = {}

    def begin(self, name: str, network: str = "near", live: bool = False) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = self._group.create_task(self._fetch(name, network, live))

    async def _fetch(self, name: str, network: str, live: bool) -> None:
        async with self.slots.held(network, live, asyncio.get_running_loop().time() + 3600):
            self.held.append(name)
            await self._ends[name].wait()
            self.held.remove(name)

    def let_end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()

    async def end(self, *names: str) -> None:
        self.let_end(*names)
        await settle()

    async def end_all(self) -> None:
        await self.end(*self._ends)


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_new_fetches_take_three_quarters_and_live_ones_the_rest() -> None:
    async def check() -> None:
        async with asyncio.TaskGroup() as group:
            fetches = Fetches(FetchSlots(limit=8, per_network=100, waiting=100), group)
            for number in range(10):
                fetches.begin(f"new {number}")
            await settle()
            assert len(fetches.held) == 6
            for number in range(3):
                fetches.begin(f"live {number}", live=True)
            await settle()
            assert fetches.held[6:] == ["live 0", "live 1"]
            await fetches.end("live 0")
            assert fetches.held[6:] == ["live 1", "live 2"]
            await fetches.end("new 0")
            assert fetches.held[-1] == "new 9"
            await fetches.end_all()

    asyncio.run(check())


def test_live_fetches_take_three_quarters_and_new_ones_the_rest() -> None:
    async def check() -> None:
        async with asyncio.TaskGroup() as group:
            fetches = Fetches(FetchSlots(limit=4, per_network=100, waiting=100), group)
            for number in range(6):
                fetches.begin(f"live {number}", live=True)
            fetches.begin("new")
            await settle()
            assert fetches.held == ["live 0", "live 1", "live 2", "new"]
            await fetches.end_all()

    asyncio.run(check())


def test_a_full_network_holds_back_its_own_only() -> None:
    async def check() -> None:
        async with asyncio.TaskGroup() as group:
            fetches = Fetches(FetchSlots(limit=8, per_network=4, waiting=100), group)
            for number in range(20):
                fetches.begin(f"slow {number}", "slow")
            await settle()
            assert len(fetches.held) == 3
            fetches.begin("other", "other")
            fetches.begin("live", "slow", live=True)
            await settle()
            assert fetches.held[3:] == ["other", "live"]
            await fetches.end_all()

    asyncio.run(check())


def test_a_single_slot_serves_new_fetches_too() -> None:
    async def check() -> None:
        async with asyncio.TaskGroup() as group:
            fetches = Fetches(FetchSlots(limit=1, per_network=1, waiting=100), group)
            fetches.begin("one")
            fetches.begin("two")
            await settle()
            assert fetches.held == ["one"]
            await fetches.end("one")
            assert fetches.held == ["two"]
            await fetches.end_all()

    asyncio.run(check())


def test_waiting_ends_at_the_deadline() -> None:
    async def check() -> None:
        slots = FetchSlots(limit=1, per_network=2, waiting=100)
        now = asyncio.get_running_loop().time()
        async with slots.held("a", False, now + 3600):
            for network in ("a", "b"):
                with pytest.raises(errors.PolicyFetchBusy):
                    async with slots.held(network, False, now + 0.01):
                        raise AssertionError("there was no slot")
        async with slots.held("b", False, now + 3600):
            pass

    asyncio.run(check())


def test_a_cancelled_waiter_gives_back_all_it_had() -> None:
    async def check() -> None:
        async with asyncio.TaskGroup() as group:
            fetches = Fetches(FetchSlots(limit=4, per_network=4, waiting=100), group)
            fetches.begin("old")
            for number in range(3):
                fetches.begin(f"live {number}", live=True)
            for number in range(3):
                fetches.begin(f"new {number}", "far")
            await settle()
            for number in range(3):
                fetches.tasks[f"new {number}"].cancel()
            await settle()
            await fetches.end("old", *(f"live {number}" for number in range(3)))
            for number in range(3):
                fetches.begin(f"next {number}", "far")
            await settle()
            assert fetches.held == ["next 0", "next 1", "next 2"]
            await fetches.end_all()

    asyncio.run(check())


def test_a_slot_that_comes_free_as_its_waiter_is_cancelled_goes_to_the_next() -> None:
    async def check() -> None:
        async with asyncio.TaskGroup() as group:
            fetches = Fetches(FetchSlots(limit=1, per_network=4, waiting=100), group)
            for name in ("holder", "next", "newest"):
                fetches.begin(name)
            await settle()
            fetches.let_end("holder")
            fetches.tasks["newest"].cancel()
            await settle()
            assert fetches.held == ["next"]
            await fetches.end_all()

    asyncio.run(check())


def test_who_comes_after_its_deadline_holds_no_slot() -> None:
    async def check() -> None:
        slots = FetchSlots(limit=1, per_network=1, waiting=100)
        with pytest.raises(errors.PolicyFetchBusy):
            async with slots.held("a", False, asyncio.get_running_loop().time()):
                raise AssertionError("it was too late")

    asyncio.run(check())


class Stalling:
    """The running event loop, which stands still when told to; and fetches by how they end."""

    def __init__(self, slots: FetchSlots) -> None:
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._behind, time = 0.0, self._loop.time
        self._loop.time = lambda: time() + self._behind  # type: ignore[method-assign]
        self.ended: dict[str, str] = {}
        self.errors: list[object] = []
        self._loop.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def stall(self, seconds: float) -> None:
        self._behind += seconds

    async def fetch(self, name: str, within: float, end: asyncio.Event) -> None:
        try:
            async with self._slots.held(name, False, self._loop.time() + within):
                await end.wait()
            self.ended[name] = "ok"
        except errors.PolicyFetchError as error:
            self.ended[name] = error.slug


def test_who_has_to_give_way_before_it_could_begin_does_not_begin() -> None:
    async def check() -> None:
        at_once, never, first = asyncio.Event(), asyncio.Event(), asyncio.Event()
        at_once.set()
        world = Stalling(FetchSlots(limit=1, per_network=8, waiting=100))

        async def late() -> None:
            world.stall(LONG + 1)
            await world.fetch("late", 3600, at_once)

        async with asyncio.TaskGroup() as group:
            group.create_task(world.fetch("first", 3600, first))
            await settle()
            group.create_task(world.fetch("hangs", 3600, never))
            await settle()
            first.set()  # now it is the turn of the one that hangs, which the next comes before
            group.create_task(late())
        assert world.ended == {"first": "ok", "hangs": "policy-fetch-busy", "late": "ok"}

    asyncio.run(check())


def test_a_fetch_whose_time_is_up_need_not_give_way() -> None:
    async def check() -> None:
        at_once, never = asyncio.Event(), asyncio.Event()
        at_once.set()
        world = Stalling(FetchSlots(limit=1, per_network=8, waiting=100))
        async with asyncio.TaskGroup() as group:
            group.create_task(world.fetch("hangs", LONG / 2, never))
            await settle()
            group.create_task(world.fetch("waits", 3600, at_once))
            await settle()
            world.stall(LONG + 1)  # both moments have passed when the loop goes on
        assert world.ended == {"hangs": "policy-timeout", "waits": "ok"}
        assert world.errors == []

    asyncio.run(check())


def test_networks_are_forgotten_when_nobody_uses_them() -> None:
    async def check() -> None:
        slots = FetchSlots(limit=4, per_network=4, waiting=100)
        deadline = asyncio.get_running_loop().time() + 3600
        async with slots.held("a", False, deadline), slots.held("a", True, deadline), slots.held("b", True, deadline):
            assert len(slots._queue) == 2
        assert len(slots._queue) == 0

    asyncio.run(check())


def test_the_queue_is_bounded_for_live_and_for_new_fetches_each() -> None:
    slots = FetchSlots(limit=1, per_network=1, waiting=1)
    with slots.entered(False), slots.entered(False):
        with pytest.raises(errors.PolicyFetchBusy, match="2 are under way"), slots.entered(False):
            raise AssertionError("there was no room")
        with slots.entered(True), slots.entered(True), pytest.raises(errors.PolicyFetchBusy), slots.entered(True):
            raise AssertionError("there was no room")
    with slots.entered(False):
        pass
