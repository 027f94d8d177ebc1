"""The service over a cache smaller than its load: accounting is exact, and a live policy always gives its answer.

Lookups, flights, refreshes, sweeps, purges and failures of the store are interleaved at every place where the real
daemon awaits, with limits that may be smaller than one entry.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mtasts_daemon.errors import DnsTimeout
from mtasts_daemon.lookup.policy_cache import weight
from mtasts_daemon.lookup.service import LookupOutcome, PendingLookup
from mtasts_daemon.policy.cache_entry import HeldPolicy
from mtasts_daemon.policy.decision import Answer, Decision, Zone
from mtasts_daemon.policy.dns_answer import MxRecord, RRType
from mtasts_daemon.policy.mtasts import Mode
from mtasts_daemon.policy.next_hop import NextHop, parse_key
from mtasts_daemon.policy.precedence import DaneMode
from tests.event_loop import WatchedLoop, idle
from tests.fakes.daemon import PLAIN, World
from tests.fakes.fetcher import policy_text

DANE = PLAIN._replace(dane=DaneMode.ON)
DOMAINS = [f"d{number}.example" for number in range(6)]
domains = st.sampled_from(DOMAINS)
# Small enough to be parsed at once: a thread would make the order of events random.
LARGE = policy_text("enforce", *(f"mx{number}.{'x' * 60}.example.com" for number in range(90)))
BODIES = {"small": policy_text(), "large": LARGE, "none": policy_text("none")}


class Watched(World):
    """A World that records what each lookup waits for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.pending: dict[asyncio.Future[LookupOutcome], PendingLookup] = {}

    async def ask(self, key: str, zone: Zone = PLAIN) -> Decision:
        hop = parse_key(key.encode())
        assert isinstance(hop, NextHop)
        done: asyncio.Future[LookupOutcome] = asyncio.get_running_loop().create_future()
        self._wait_or_end(self.service.lookup(hop, zone), done)
        return (await done).decision

    def _resume(self, pending: PendingLookup, done: "asyncio.Future[LookupOutcome]", now: float) -> None:
        self._wait_or_end(self.service.resume(pending, now), done)

    def _wait_or_end(self, found: LookupOutcome | PendingLookup, done: "asyncio.Future[LookupOutcome]") -> None:
        self.pending.pop(done, None)
        if isinstance(found, PendingLookup):
            self.pending[done] = found
            found.flight.when_settled(partial(self._resume, found, done))
        else:
            done.set_result(found)


class Gates:
    """Holds back the operations of one kind until the test opens them."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()

    def toggle(self) -> None:
        if self.open.is_set():
            self.open.clear()
        else:
            self.open.set()


class Cache(RuleBasedStateMachine):
    """Each rule is one external event; the loop then runs until all tasks wait."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = WatchedLoop()
        self.learned: dict[str, HeldPolicy] = {}
        self.asked: list[tuple[str, HeldPolicy | None, asyncio.Task[Decision]]] = []

    @initialize(max_entries=st.sampled_from([1, 3, 100]), max_bytes=st.sampled_from([1, 3000, 200_000]))
    def begin(self, max_entries: int, max_bytes: int) -> None:
        async def make() -> None:
            self.world = Watched(max_entries=max_entries, max_bytes=max_bytes)
            self.world.service.policy_cache.min_pinned_bytes = 60_000  # two or three of the large ones
            self.gates = {name: Gates() for name in ("txt", "mx", "fetch", "get", "put")}
            resolver, store = self.world.resolver, self.world.store
            store.gates = {"get": self.gates["get"].open, "put": self.gates["put"].open}
            for number, domain in enumerate(DOMAINS):
                self.world.publish(domain, "1", BODIES["small" if number < 2 else "large"])
                resolver.put(domain, RRType.MX, [MxRecord(10, "mx.example.com")])
                resolver.gates[f"_mta-sts.{domain}", RRType.TXT] = self.gates["txt"].open
                resolver.gates[domain, RRType.MX] = self.gates["mx"].open
                self.world.fetcher.gates[domain] = self.gates["fetch"].open

        self.run(make())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        async def step() -> None:
            await work
            await idle()

        self.loop.run_until_complete(step())

    def live(self, domain: str) -> HeldPolicy | None:
        """Return the live policy that was learned or answered, wherever it is now, or None."""
        now, found = self.world.clock.wall(), []
        learned = self.learned.get(domain)
        if learned is not None and now <= learned.valid_until:
            found.append(learned)
        slot, stored = self.world.service.policy_cache.get(domain), self.world.store.entries.get(domain)
        for entry in (None if slot is None else slot.entry, stored):
            held = None if entry is None else entry.live(now)
            if held is not None:
                found.append(held)
        return max(found, key=lambda held: held.fetched_at, default=None)

    # -- what happens ----------------------------------------------------------------------------------------

    @rule(domain=domains, dane=st.booleans())
    def lookup(self, domain: str, dane: bool) -> None:
        async def ask() -> None:
            known = self.live(domain)
            task = self.loop.create_task(self.world.ask(domain, DANE if dane else PLAIN), name=f"ask {domain}")
            self.asked.append((domain, known, task))

        self.run(ask())

    @rule(domain=domains, body=st.sampled_from(sorted(BODIES)), record_id=st.sampled_from(["1", "2", "3"]))
    def publish(self, domain: str, body: str, record_id: str) -> None:
        self.world.publish(domain, record_id, BODIES[body])

    @rule(domain=domains, how=st.sampled_from(["fails", "absent"]))
    def withdraw_txt(self, domain: str, how: str) -> None:
        name = f"_mta-sts.{domain}"
        if how == "fails":
            self.world.resolver.fail(name, RRType.TXT, DnsTimeout())
        else:
            self.world.resolver.forget(name, RRType.TXT)

    @rule(domain=domains, blocked=st.sampled_from(["txt", "mx", "get", "put"]), others=st.lists(domains, max_size=3))
    def lookup_until_the_deadline(self, domain: str, blocked: str, others: list[str]) -> None:
        """One part does not answer; other lookups follow, so that the domain may be evicted."""
        was_open = self.gates[blocked].open.is_set()
        self.gates[blocked].open.clear()
        self.lookup(domain, dane=True)
        for other in others:
            self.lookup(other, dane=False)
        self.deadline()
        self.deadline()
        if was_open:
            self.gates[blocked].open.set()

    @rule(blocked=st.sampled_from(["txt", "mx", "put"]))
    def burst(self, blocked: str) -> None:
        """Mail goes to all domains at once, none of which is in memory, and one part does not answer."""
        self.drop_idle()
        self.gates[blocked].open.clear()
        for domain in DOMAINS:
            self.lookup(domain, dane=blocked == "mx")

    @rule()
    def drop_idle(self) -> None:
        """Evict all entries that may be evicted."""
        cache = self.world.service.policy_cache
        for slot in cache.slots():
            if not slot.pins:
                cache.drop(slot)

    @rule(name=st.sampled_from(["txt", "mx", "fetch", "get", "put"]))
    def block_or_release(self, name: str) -> None:
        async def toggle() -> None:
            self.gates[name].toggle()

        self.run(toggle())

    @rule(seconds=st.sampled_from([1.0, 61.0, 400.0, 3700.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(operation=st.sampled_from(["get", "put", "touch"]))
    def store_fails(self, operation: str) -> None:
        self.world.store.fail(operation)

    @rule(domain=domains)
    def refresh(self, domain: str) -> None:
        async def begin() -> None:
            entry = self.world.store.entries.get(domain)
            if entry is not None and entry.held is not None:
                self.world.spawn(self.world.service.discovery.refresh(entry), f"refresh {domain}")

        self.run(begin())

    @rule()
    def deadline(self) -> None:
        async def release() -> None:
            for single_flight in (self.world.service.single_flight, self.world.service.dane_cache.single_flight):
                before = single_flight.deadline
                single_flight.release_waiters()
                single_flight.deadline = before

        self.run(release())

    @precondition(lambda self: all(gate.open.is_set() for gate in self.gates.values()))
    @rule()
    def sweep(self) -> None:
        self.run(self.world.service.maintenance.sweep())

    @rule()
    def forget_dane(self) -> None:
        self.world.service.dane_cache.clear()

    # -- what holds ------------------------------------------------------------------------------------------

    @invariant()
    def accounting_is_exact(self) -> None:
        cache = self.world.service.policy_cache
        slots = cache.slots()
        assert len({slot.domain for slot in slots}) == len(slots) == len(cache)
        for slot in slots:
            assert slot.weight == weight(slot.entry) and slot.resident and cache.get(slot.domain) is slot
        assert cache.idle_bytes == sum(weight(slot.entry) for slot in slots if not slot.pins)
        assert cache.pinned_bytes == sum(weight(slot.entry) for slot in slots if slot.pins)

    @invariant()
    def limits_hold(self) -> None:
        cache = self.world.service.policy_cache
        pinned = [slot for slot in cache.slots() if slot.pins]
        assert len(cache) - len(pinned) <= max(0, cache.max_entries - len(pinned))
        assert cache.idle_bytes == 0 or cache.bytes <= cache.max_bytes
        # One entry always has room; more only within what may be pinned.
        largest = max((slot.weight for slot in pinned), default=0)
        assert cache.pinned_bytes <= max(largest, cache.max_bytes // 2, cache.min_pinned_bytes)

    @invariant()
    def live_policy_gives_its_answer(self) -> None:
        waiting = []
        for domain, known, task in self.asked:
            if not task.done():
                waiting.append((domain, known, task))
                continue
            decision = task.result()
            held = self.live(domain)
            if decision.policy is not None and held is not None:
                self.learned[domain] = held
            if known is None or decision.answer is Answer.TEMP:
                continue  # not learned before, or the store could not be read and Postfix asks again
            # The policy known then, or a newer one that was fetched since.
            assert decision.policy is not None or self.world.clock.wall() > known.valid_until, (domain, decision)
            if known.policy.mode is Mode.ENFORCE and decision.answer is Answer.NONE:
                assert decision.reason == "mode-none" or self.world.clock.wall() > known.valid_until
        self.asked = waiting

    @invariant()
    def learned_policy_is_in_memory_or_stored(self) -> None:
        now, service, stored = self.world.clock.wall(), self.world.service, self.world.store.entries
        for domain, held in self.learned.items():
            slot = service.policy_cache.get(domain)
            entries = (None if slot is None else slot.entry, stored.get(domain))
            found = any(entry is not None and entry.live(now) is not None for entry in entries)
            assert found or now > held.valid_until, domain

    @invariant()
    def entry_that_waits_for_dane_counts(self) -> None:
        for pending in self.world.pending.values():
            assert pending.planned is None or pending.slot.pins > 0, pending.slot.domain

    @invariant()
    def temporary_answer_needs_a_store_that_did_not_answer(self) -> None:
        if all(not failures for failures in self.world.store.failures.values()):
            for slot in self.world.service.policy_cache.slots():
                if slot.read_pending and slot.flight is None:
                    assert slot.read_failure

    def teardown(self) -> None:
        async def end() -> None:
            for gate in self.gates.values():
                gate.open.set()
            await idle()
            for _ in range(3):
                await idle()
            assert all(task.done() for _, _, task in self.asked)
            cache = self.world.service.policy_cache
            assert all(slot.flight is None and slot.pins == int(slot.unsaved) for slot in cache.slots())
            assert len(self.world.service.single_flight) == 0
            for task in [*self.world.tasks, *(task for _, _, task in self.asked)]:
                task.cancel()

        if hasattr(self, "world"):
            self.loop.run_until_complete(end())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


TestCache = Cache.TestCase

INVARIANTS = (
    Cache.accounting_is_exact,
    Cache.limits_hold,
    Cache.live_policy_gives_its_answer,
    Cache.learned_policy_is_in_memory_or_stored,
    Cache.entry_that_waits_for_dane_counts,
    Cache.temporary_answer_needs_a_store_that_did_not_answer,
)
LEARN_ALL = [partial(Cache.lookup, domain=domain, dane=False) for domain in DOMAINS]


@pytest.mark.parametrize(
    ("max_bytes", "steps"),
    [
        (200_000, [partial(Cache.store_fails, operation="put"), LEARN_ALL[0], Cache.drop_idle]),
        (1, [*LEARN_ALL, partial(Cache.burst, blocked="txt")]),
        (200_000, [LEARN_ALL[0], partial(Cache.burst, blocked="mx")]),
    ],
    ids=["not saved, then evicted", "many loaded at once", "evicted while DANE is asked"],
)
def test_invariants_hold_in_known_hard_cases(max_bytes: int, steps: Sequence[Callable[[Cache], None]]) -> None:
    """Cases that random steps rarely reach."""
    machine = Cache()
    machine.begin(100, max_bytes)
    for step in steps:
        step(machine)
        for invariant_holds in INVARIANTS:
            invariant_holds(machine)
    machine.teardown()
