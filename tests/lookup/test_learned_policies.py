"""A learned policy is always applied: regression tests."""

import asyncio
import itertools
from collections import Counter
from dataclasses import replace

import pytest

from mtasts_daemon import errors
from mtasts_daemon.lookup.plan import WAIT, plan
from mtasts_daemon.lookup.policy_cache import CacheSlot, weight
from mtasts_daemon.lookup.refresher import Refresher, RefreshSettings
from mtasts_daemon.policy.cache_entry import CacheEntry, FetchFailure, next_due
from mtasts_daemon.policy.decision import Answer
from mtasts_daemon.policy.dns_answer import MxRecord, RRType, TlsaRecord
from mtasts_daemon.policy.mtasts import MAX_BODY
from mtasts_daemon.policy.precedence import DaneMode
from tests.event_loop import idle
from tests.fakes.daemon import PLAIN, World
from tests.fakes.fetcher import policy_text
from tests.fakes.store import policy_entry

DANE_ON = PLAIN._replace(dane=DaneMode.ON)
DANE_ALWAYS = PLAIN._replace(dane=DaneMode.ALWAYS)
LABEL = "x" * 60
LARGE = policy_text("enforce", *(f"m{number}.{LABEL}.{LABEL}" for number in range(490)))

# Parsed at once: a thread would make the order of events random.
MEDIUM = policy_text("enforce", *(f"m{number}.{LABEL}.example.com" for number in range(90)))


def refresher(made: World) -> Refresher:
    async def sleep(_seconds: float) -> None:
        await idle()
        made.clock.advance(15)

    return Refresher(made.service, made.store, made.clock, made.spawn, RefreshSettings(), sleep)


async def rounds(made: World, count: int, running: Refresher | None = None) -> Refresher:
    """Run rounds of the refresher, each 15 s of the daemon's clock."""
    running = running or refresher(made)
    end = made.clock.monotonic() + 15 * count
    task = asyncio.get_running_loop().create_task(running.run(), name="refresher")
    while made.clock.monotonic() < end:
        await idle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await idle()
    return running


def actual_bytes(made: World) -> int:
    return sum(weight(slot.entry) for slot in made.service.policy_cache.slots())


# -- eviction ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [900, 999])
async def test_policy_is_applied_if_its_slot_is_evicted_during_the_wait_for_dane(others: int) -> None:
    async with World(max_entries=1000) as made:
        await made.store.put(policy_entry("bank.example", at=made.clock.wall()), None)
        made.publish("bank.example", "20240101")
        made.resolver.put("bank.example", RRType.MX, [MxRecord(10, "mx.example.com")])
        assert (await made.ask("bank.example", DANE_ON)).answer is Answer.SECURE
        for number in range(others):
            await made.ask(f"d{number}.example", DANE_ON)
        made.clock.advance(200)
        await made.service.maintenance.sweep()
        made.service.dane_cache.clear()
        gate = made.resolver.gates["bank.example", RRType.MX] = asyncio.Event()
        ask = asyncio.create_task(made.ask("bank.example", DANE_ON))
        await idle()
        await made.service.maintenance.sweep()
        for number in range(1100):
            await made.ask(f"new{number}.example", DANE_ON)
        gate.set()
        assert (await ask).answer is Answer.SECURE


async def test_policy_is_applied_if_it_is_purged_during_the_wait_for_dane() -> None:
    async with World() as made:
        await made.store.put(policy_entry("bank.example", at=made.clock.wall()), None)
        gate = made.resolver.gates["bank.example", RRType.MX] = asyncio.Event()
        ask = asyncio.create_task(made.ask("bank.example", DANE_ON))
        await idle()
        slot = made.service.policy_cache.get("bank.example")
        assert slot is not None
        made.service.policy_cache.drop(slot)
        gate.set()
        assert (await ask).answer is Answer.SECURE
        assert made.service.policy_cache.bytes == 0


async def test_policy_that_waits_for_dane_counts_as_pinned_until_then() -> None:
    async with World() as made:
        await made.store.put(policy_entry("bank.example", at=made.clock.wall()), None)
        made.publish("bank.example", "20240101")
        gate = made.resolver.gates["bank.example", RRType.MX] = asyncio.Event()
        ask = asyncio.create_task(made.ask("bank.example", DANE_ON))
        await idle()
        assert made.service.policy_cache.pinned_bytes == actual_bytes(made) > 0
        gate.set()
        await ask
        await idle()
        assert made.service.policy_cache.pinned_bytes == 0


@pytest.mark.parametrize("others", [500, 1100])
async def test_policy_that_could_not_be_saved_is_not_evicted(others: int) -> None:
    async with World(max_entries=1000) as made:
        made.store.fail("put", times=10**6)
        made.publish("bank.example", "1")
        assert (await made.ask("bank.example")).answer is Answer.SECURE
        await made.service.maintenance.sweep()
        for number in range(others):
            await made.ask(f"d{number}.example")
        made.resolver.fail("_mta-sts.bank.example", RRType.TXT, errors.DnsTimeout("attacker"))
        made.clock.advance(4000)
        assert (await made.ask("bank.example")).answer is Answer.SECURE


async def test_burst_of_large_policies_leaves_other_policies_in_force() -> None:
    assert 60_000 < len(LARGE) <= MAX_BODY
    async with World(max_bytes=1 << 20) as made:
        for number in range(5):
            made.publish(f"bank{number}.example", "1")
            made.resolver.put(f"bank{number}.example", RRType.MX, [MxRecord(10, "mx.example.com")])
            assert (await made.ask(f"bank{number}.example", DANE_ON)).answer is Answer.SECURE
        gate = asyncio.Event()
        asks = []
        for number in range(70):
            domain = f"h{number}.attacker.example"
            await made.store.put(
                replace(policy_entry(domain, at=made.clock.wall(), body=LARGE)), made.clock.wall() + 1e6
            )
            made.resolver.gates[domain, RRType.MX] = gate
            asks.append(asyncio.create_task(made.ask(domain, DANE_ON)))
        await idle()
        cache = made.service.policy_cache
        assert cache.pinned_bytes <= cache.max_bytes
        for number in range(5):
            assert (await made.ask(f"bank{number}.example", DANE_ON)).answer in (Answer.SECURE, Answer.TEMP)
        gate.set()
        answers = Counter([(await ask).answer for ask in asks])
        # Postfix repeats lookups that had no room; none is answered as without policy.
        assert set(answers) <= {Answer.SECURE, Answer.TEMP} and answers[Answer.SECURE] >= 5
        for number in range(5):
            assert (await made.ask(f"bank{number}.example", DANE_ON)).answer is Answer.SECURE
        assert cache.bytes == actual_bytes(made) <= cache.max_bytes


async def test_bytes_are_counted_back_after_refreshes() -> None:
    async with World(max_bytes=300_000) as made:
        for number in range(60):
            domain = f"h{number}.attacker.example"
            entry = policy_entry(domain, at=made.clock.wall() - 90_000, last_used=made.clock.wall(), body=MEDIUM)
            await made.store.put(entry, next_due(entry, made.settings.rules))
            made.publish(domain, "20240101", MEDIUM)
        for _ in range(3):
            await rounds(made, 40)
            cache = made.service.policy_cache
            assert cache.bytes == actual_bytes(made) <= cache.max_bytes
            made.clock.advance(86_400)
            await made.store.touch([(domain, made.clock.wall()) for domain in made.store.entries])
        assert made.counters.refreshes >= 60
        for number in range(100):
            made.publish(f"honest{number}.example", "1")
            assert (await made.ask(f"honest{number}.example")).answer is Answer.SECURE


async def test_refreshes_of_large_policies_for_minutes_leave_every_lookup_answered() -> None:
    """A stranger's policies live for two minutes, so that each is due every minute, and their hosts are slow."""
    hostile = [f"h{number}.hostile.example" for number in range(300)]  # more than memory holds
    body = MEDIUM.replace(b"max_age: 604800", b"max_age: 120")
    new = (f"new{number}.example" for number in itertools.count())
    woken, gate = asyncio.Event(), asyncio.Event()

    async def sleep(_seconds: float) -> None:
        woken.clear()
        await woken.wait()

    async with World(max_bytes=6 << 20) as made:
        made.publish("bank.example", "1")
        for domain in hostile:
            made.publish(domain, "1", body)

        async def lookups_are_answered() -> None:
            domain = next(new)
            made.publish(domain, "1")
            assert (await made.ask("bank.example")).answer is Answer.SECURE
            assert (await made.ask(domain)).answer is Answer.SECURE
            assert (await made.ask(f"plain.{domain}")).answer is Answer.NONE
            cache = made.service.policy_cache
            assert cache.bytes == actual_bytes(made) <= cache.max_bytes

        assert {(await made.ask(domain)).answer for domain in hostile} == {Answer.SECURE}
        assert len(made.service.policy_cache) < len(hostile)
        made.fetcher.gates.update(dict.fromkeys(hostile, gate))
        running = Refresher(made.service, made.store, made.clock, made.spawn, RefreshSettings(), sleep)
        task = asyncio.create_task(running.run())
        for _ in range(16):  # of 15 s
            made.clock.advance(15)
            woken.set()
            await idle()
            await lookups_are_answered()
            gate, before = asyncio.Event(), gate
            made.fetcher.gates.update(dict.fromkeys(hostile, gate))
            before.set()
        assert made.counters.refreshes > len(hostile)
        made.fetcher.gates.clear()
        gate.set()
        await idle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        made.service = made.make_service()
        await lookups_are_answered()
        made.clock.advance(4000)  # nothing is looked up any more
        await rounds(made, 3)
        cache = made.service.policy_cache
        assert (len(cache), cache.bytes, cache.pinned_bytes) == (0, 0, 0)


# -- the store ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["hangs", "fails"])
async def test_stored_policy_that_cannot_be_read_is_answered_temp_with_the_cause(how: str) -> None:
    async with World(deadline=0.05) as made:
        made.store.entries["bank.example"] = policy_entry("bank.example", at=made.clock.wall())
        made.store.knows_names = True
        made.resolver.fail("_mta-sts.bank.example", RRType.TXT, errors.DnsTimeout("attacker"))
        gate = None
        if how == "hangs":
            gate = made.store.hang("get")
        else:
            made.store.fail("get", times=3)
        decision = await made.ask("bank.example")
        assert (decision.answer, decision.reason) == (Answer.TEMP, "store-unreadable")
        assert "bank.example" in decision.text and "store" in decision.text
        if gate is not None:
            gate.set()
        # A name that the store does not have is not affected.
        assert (await made.ask("other.example")).answer is Answer.NONE


async def test_expired_policy_is_not_fetched_again_without_a_txt_record() -> None:
    """RFC 8461 section 3.1."""
    async with World() as made:
        now = made.clock.wall()
        entry = policy_entry("gone.example", at=now - 10 * 86_400, last_used=now)
        failure = FetchFailure("20240101", now - 21_600, now - 1, 20, "policy-connect-failed")
        entry = replace(entry, failure=failure)
        await made.store.put(entry, next_due(entry, made.settings.rules))
        made.publish("gone.example", "20240101")
        made.resolver.forget("_mta-sts.gone.example", RRType.TXT)
        assert (await made.ask("gone.example")).answer is Answer.NONE
        await rounds(made, 60)
        assert made.fetcher.fetches == []
        assert made.txt_questions("gone.example") == 2
        assert made.store.due_at["gone.example"] is None
        assert (await made.ask("gone.example")).answer is Answer.NONE
        made.publish("gone.example", "20240102")
        made.clock.advance(3700)
        assert (await made.ask("gone.example")).answer is Answer.SECURE


@pytest.mark.parametrize("due", [200, 1000])
async def test_nothing_is_refreshed_while_writes_fail(due: int) -> None:
    async with World() as made:
        entry = policy_entry("x.example", at=made.clock.wall() - 90_000, last_used=made.clock.wall())
        for number in range(due):
            domain = f"d{number}.example"
            made.store.entries[domain] = replace(entry, domain=domain)
            made.store.due_at[domain] = next_due(entry, made.settings.rules)
            made.publish(domain, "20240101")
        made.store.fail("put", times=10**6)
        running = await rounds(made, 40)  # ten minutes
        fetches = Counter(domain for domain, _ in made.fetcher.fetches)
        assert len(made.fetcher.fetches) <= 48 and max(fetches.values()) == 1
        # Every one of the first refreshes found that the disk is full; then one write a minute.
        assert made.store.calls["put"] <= 48 + 11
        made.store.failures["put"].clear()
        await rounds(made, 60, running)
        assert len(made.fetcher.fetches) == due
        assert all(not slot.unsaved for slot in made.service.policy_cache.slots())


# -- flights -----------------------------------------------------------------------------------------------


def bug(_name: str) -> object:
    raise ValueError("a bug")


@pytest.mark.parametrize("method", ["txt", "mx"])
async def test_port_that_raises_at_once_leaves_no_flight(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async with World() as made:
        right = getattr(made.resolver, method)
        setattr(made.resolver, method, bug)
        assert (await made.ask("x.example", DANE_ALWAYS)).answer in (Answer.NONE, Answer.TEMP)
        assert made.counters.unhandled >= 1
        await idle()
        assert len(made.service.single_flight) == len(made.service.dane_cache.single_flight) == 0
        setattr(made.resolver, method, right)
        made.clock.advance(61)
        made.publish("x.example", "1")
        made.clock.advance(3600)
        assert (await made.ask("x.example", DANE_ALWAYS)).answer is Answer.SECURE


@pytest.mark.parametrize("rrtype", [RRType.TXT, RRType.MX])
async def test_answer_that_is_no_dns_answer_leaves_no_flight(rrtype: RRType) -> None:
    async with World() as made:
        made.store.knows_names = True
        name = "_mta-sts.x.example" if rrtype is RRType.TXT else "x.example"
        made.resolver.zone[name, rrtype] = "nonsense"  # type: ignore[assignment]
        assert (await made.ask("x.example", DANE_ALWAYS)).answer is Answer.NONE
        assert len(made.service.single_flight) == len(made.service.dane_cache.single_flight) == 0


async def test_cancelled_question_leaves_no_flight() -> None:
    async with World() as made:
        made.store.knows_names = True
        asked: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        made.resolver.txt = made.resolver.mx = lambda _name: asked  # type: ignore[assignment,method-assign,return-value]
        ask = asyncio.create_task(made.ask("x.example", DANE_ALWAYS))
        await idle()
        asked.cancel()
        assert (await ask).answer is Answer.NONE
        assert len(made.service.single_flight) == len(made.service.dane_cache.single_flight) == 0


async def test_clock_repair_is_continued_after_the_store_failed() -> None:
    async with World() as made:
        years = 4 * 365 * 86_400.0
        running = await rounds(made, 2)
        entry = policy_entry("example.com", at=made.clock.wall() + years)
        made.store.entries["example.com"] = entry
        made.clock.advance(years)
        await rounds(made, 1, running)
        made.store.fail("page", times=3)
        made.clock.set_back(years)
        await rounds(made, 10, running)
        held = made.store.entries["example.com"].held
        assert held is not None and held.fetched_at <= made.clock.wall()


# -- a resolver that is down -------------------------------------------------------------------------------


async def test_policies_and_last_verdicts_answer_at_once_while_no_resolver_can_be_reached() -> None:
    async with World() as made:
        domains = ["dane.example", "plain.example", "new.example"]
        for domain in domains[:2]:
            made.publish(domain, "1")
            made.resolver.put(domain, RRType.MX, [MxRecord(10, "mx.example.com")], authenticated=domain[0] == "d")
        made.resolver.put("mx.example.com", RRType.A, ["192.0.2.1"], authenticated=True)
        made.resolver.put("mx.example.com", RRType.AAAA, [], authenticated=True)
        tlsa = [TlsaRecord(3, 1, 1, bytes(32))]
        made.resolver.put("_25._tcp.mx.example.com", RRType.TLSA, tlsa, authenticated=True)
        right = [Answer.DANE_ONLY, Answer.SECURE]
        assert [(await made.ask(domain, DANE_ALWAYS)).answer for domain in domains[:2]] == right
        zone, down = dict(made.resolver.zone), errors.DnsUnreachable("the resolver does not answer")
        made.clock.advance(4000)
        for name, rrtype in zone:
            made.resolver.fail(name, rrtype, down)
        for rrtype in (RRType.MX, RRType.TXT):
            made.resolver.fail("_mta-sts.new.example" if rrtype is RRType.TXT else "new.example", rrtype, down)
        for _ in range(3):  # no deadline can pass: the daemon's clock does not move
            found = [(await made.ask(domain, DANE_ALWAYS)).answer for domain in domains]
            assert found == [*right, Answer.NONE]
            made.clock.advance(1)
        # It is not cached for a minute: the first lookups after the outage get the right answer.
        made.resolver.zone = dict(zone)
        made.publish("new.example", "1")
        made.clock.advance(5)
        assert (await made.ask("new.example", DANE_ALWAYS)).answer is Answer.SECURE


# -- the plan ----------------------------------------------------------------------------------------------


def test_slot_that_was_never_read_is_not_taken_for_a_domain_without_a_policy() -> None:
    slot = CacheSlot("bank.example")
    assert plan(slot, PLAIN, None, 0.0, dane=False) is WAIT
    planned = plan(slot, PLAIN, None, 0.0, dane=False, waited=True)
    assert planned is not WAIT and planned.decision is not None
    assert planned.decision.answer is Answer.TEMP
    slot.unread = False
    slot.entry = CacheEntry("bank.example")
    planned = plan(slot, PLAIN, None, 0.0, dane=False, waited=True)
    assert planned is not WAIT and planned.decision is not None
    assert planned.decision.answer is Answer.NONE
