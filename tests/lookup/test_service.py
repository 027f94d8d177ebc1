"""A lookup: cache, single flight, deadline, and no failure that ends a live policy."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from mtasts_daemon import errors
from mtasts_daemon.lookup import mx_mismatches
from mtasts_daemon.lookup.service import LookupOutcome, PendingLookup
from mtasts_daemon.policy.decision import Answer, Override
from mtasts_daemon.policy.dns_answer import MxRecord, RRType, TlsaRecord
from mtasts_daemon.policy.draft2017 import DRAFT_2017
from mtasts_daemon.policy.mtasts import Mode
from mtasts_daemon.policy.next_hop import NextHop
from mtasts_daemon.policy.precedence import DaneMode
from tests.event_loop import idle
from tests.fakes.daemon import PLAIN, TLSRPT, World
from tests.fakes.fetcher import policy_text
from tests.fakes.store import policy_entry

DOMAIN = "example.com"
TXT = f"_mta-sts.{DOMAIN}"


@pytest.fixture
async def world(settings: Mapping[str, Any]) -> AsyncIterator[World]:
    async with World(**settings) as world:
        yield world


async def test_absent_record_is_cached_for_its_ttl(world: World) -> None:
    assert (await world.ask(DOMAIN)).reason == "no-policy"
    assert (await world.ask(DOMAIN)).answer is Answer.NONE
    assert world.txt_questions(DOMAIN) == 1
    assert world.fetcher.fetches == []
    world.clock.advance(3601)
    await world.ask(DOMAIN)
    assert world.txt_questions(DOMAIN) == 2


async def test_a_domain_without_a_record_costs_no_task_where_none_is_stored(world: World) -> None:
    world.store.knows_names = True
    world.resolver.gates[TXT, RRType.TXT] = gate = asyncio.Event()
    waits = asyncio.get_running_loop().create_task(world.ask(DOMAIN), name="lookup")
    await idle()
    assert (world.tasks, world.store.calls["get"]) == (set(), 0)
    gate.set()
    assert (await waits).reason == "no-policy"
    world.clock.advance(3601)
    world.publish(DOMAIN, "1")
    gate.clear()
    waits = asyncio.get_running_loop().create_task(world.ask(DOMAIN), name="lookup")
    await idle()
    gate.set()
    assert (await waits).answer is Answer.SECURE
    assert DOMAIN in world.store.entries


@pytest.mark.parametrize("known", [True, False])
async def test_a_mistake_in_a_port_leaves_no_lookup_waiting(
    world: World, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    world.store.knows_names = known
    world.resolver.zone[TXT, RRType.TXT] = "not an answer"  # type: ignore[assignment]
    assert (await world.ask(DOMAIN)).answer is Answer.NONE
    assert world.counters.unhandled == 1
    assert "lookup-internal-error" in caplog.text
    world.publish(DOMAIN, "1")
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE


async def test_an_enforced_policy_is_discovered_committed_and_then_answered(world: World) -> None:
    world.publish(DOMAIN, "1")
    decision = await world.ask(DOMAIN)
    assert decision.answer is Answer.SECURE
    assert world.store.entries[DOMAIN].held is not None
    assert world.fetcher.fetches == [(DOMAIN, False)]


async def test_no_answer_from_a_new_policy_leaves_before_it_is_committed(world: World) -> None:
    world.publish(DOMAIN, "1")
    disk = world.store.hang("put")
    asked = asyncio.create_task(world.ask(DOMAIN))
    await idle()
    assert not asked.done()
    assert isinstance(world.service.lookup(NextHop(DOMAIN), PLAIN), PendingLookup)
    disk.set()
    assert (await asked).answer is Answer.SECURE
    assert isinstance(world.service.lookup(NextHop(DOMAIN), PLAIN), LookupOutcome)


async def test_renewed_policy_is_answered_while_the_disk_hangs(world: World) -> None:
    world.publish(DOMAIN, "1")
    await world.ask(DOMAIN)
    world.clock.advance(3601)
    world.resolver.put(TXT, RRType.TXT, [b"v=STSv1; id=2;"])
    world.store.hang("put")
    for _ in range(2):
        assert (await world.ask(DOMAIN)).answer is Answer.SECURE
        await idle()
    assert len(world.fetcher.fetches) == 2


async def test_twenty_first_lookups_at_once_make_one_flight(world: World) -> None:
    world.publish(DOMAIN, "1")
    decisions = await asyncio.gather(*(world.ask(key) for key in [DOMAIN, f"[{DOMAIN}]:587"] * 10))
    assert {decision.answer for decision in decisions} == {Answer.SECURE}
    assert len(world.fetcher.fetches) == 1
    assert world.txt_questions(DOMAIN) == 1


async def test_a_live_policy_in_the_store_is_answered_without_waiting_for_dns(world: World) -> None:
    await world.store.put(policy_entry(DOMAIN, at=world.clock.wall() - 1000), None)
    world.resolver.gates[TXT, RRType.TXT] = asyncio.Event()
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE


@pytest.mark.parametrize("failure", ["absent", "servfail", "timeout", "two records", "bad record"])
async def test_live_policy_survives_every_txt_failure(world: World, failure: str) -> None:
    world.publish(DOMAIN, "1")
    await world.ask(DOMAIN)
    if failure == "servfail":
        world.resolver.fail(TXT, RRType.TXT, errors.DnsServerFailure())
    elif failure == "timeout":
        world.resolver.fail(TXT, RRType.TXT, errors.DnsTimeout())
    else:
        records = {"absent": [], "two records": [b"v=STSv1; id=1;"] * 2, "bad record": [b"v=STSv1; id=!;"]}
        world.resolver.put(TXT, RRType.TXT, records[failure])
    for _ in range(5):
        world.clock.advance(3601)
        assert (await world.ask(DOMAIN)).answer is Answer.SECURE
        await idle()
    assert world.txt_questions(DOMAIN) == 6


@pytest.mark.parametrize(
    "served",
    [
        errors.PolicyTimeout(),
        errors.PolicyHttpStatus("404"),
        errors.WebPkiExpired(),
        errors.PolicyRedirect(),
        b"version: STSv1\nmode: enforce\nmax_age: 1\n",
        b"\xff",
    ],
    ids=str,
)
async def test_a_failed_fetch_of_a_new_id_keeps_the_old_policy_and_is_not_repeated_at_once(
    world: World,
    served: bytes | errors.MtaStsError,
) -> None:
    world.publish(DOMAIN, "1")
    await world.ask(DOMAIN)
    world.publish(DOMAIN, "2")
    world.fetcher.bodies[DOMAIN] = served
    world.clock.advance(301)
    for _ in range(3):
        assert (await world.ask(DOMAIN)).answer is Answer.SECURE
        await idle()
    assert len(world.fetcher.fetches) == 2
    failure = world.store.entries[DOMAIN].failure
    assert failure is not None and failure.record_id == "2"


async def test_a_changed_id_brings_the_new_policy_near_the_lookup(world: World) -> None:
    world.publish(DOMAIN, "1")
    await world.ask(DOMAIN)
    world.publish(DOMAIN, "2", policy_text("none"))
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE
    world.clock.advance(301)
    await world.ask(DOMAIN)
    await idle()
    assert (await world.ask(DOMAIN)).reason == "mode-none"


async def test_an_unchanged_id_does_not_extend_a_life(world: World) -> None:
    world.publish(DOMAIN, "1", policy_text("enforce", max_age=10000))
    await world.ask(DOMAIN)
    world.fetcher.bodies[DOMAIN] = errors.PolicyTimeout()
    for _ in range(3):
        world.clock.advance(3300)
        assert (await world.ask(DOMAIN)).answer is Answer.SECURE
        await idle()
    world.clock.advance(3300)
    assert (await world.ask(DOMAIN)).reason == "policy-timeout"


async def test_policy_of_max_age_zero_answers_waiting_lookups_only(world: World) -> None:
    world.publish(DOMAIN, "1", policy_text("enforce", max_age=0))
    disk = world.store.hang("put")
    asked = [asyncio.create_task(world.ask(DOMAIN)) for _ in range(3)]
    await idle()
    world.clock.advance(1)
    disk.set()
    assert {(await decision).answer for decision in asked} == {Answer.SECURE}
    world.clock.advance(1)
    await world.ask(DOMAIN)
    assert len(world.fetcher.fetches) == 2


async def test_failed_first_fetch_is_retried_after_its_back_off(world: World) -> None:
    world.publish(DOMAIN, "1")
    world.fetcher.bodies[DOMAIN] = errors.WebPkiNameMismatch("for example.net")
    assert (await world.ask(DOMAIN)).reason == "webpki-name-mismatch"
    world.clock.advance(200)
    await world.ask(DOMAIN)
    assert len(world.fetcher.fetches) == 1
    world.clock.advance(300)
    await world.ask(DOMAIN)
    assert len(world.fetcher.fetches) == 2


async def test_a_dns_failure_is_no_reason_to_defer_and_is_forgotten_within_a_minute(world: World) -> None:
    world.resolver.fail(TXT, RRType.TXT, errors.DnsServerFailure())
    decision = await world.ask(DOMAIN)
    assert (decision.answer, decision.reason) == (Answer.NONE, "dns-servfail")
    await world.ask(DOMAIN)
    assert world.txt_questions(DOMAIN) == 1
    world.publish(DOMAIN, "1")
    world.clock.advance(61)
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE


@pytest.mark.settings(deadline=0.02)
async def test_lookup_waits_for_a_hung_host_until_the_deadline_once(world: World) -> None:
    world.publish(DOMAIN, "1")
    gate = world.fetcher.gates[DOMAIN] = asyncio.Event()
    assert (await world.ask(DOMAIN)).answer is Answer.NONE
    assert world.service.single_flight.deadline_passed == 1
    assert isinstance(world.service.lookup(NextHop(DOMAIN), PLAIN), LookupOutcome)
    gate.set()
    await idle()
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE
    assert len(world.fetcher.fetches) == 1


@pytest.mark.settings(deadline=0.02)
async def test_the_deadline_of_each_flight_is_its_own(world: World) -> None:
    for domain in ("a.example", "b.example"):
        world.publish(domain, "1")
        world.fetcher.gates[domain] = asyncio.Event()
    first = asyncio.create_task(world.ask("a.example"))
    await idle()
    second = asyncio.create_task(world.ask("b.example"))
    await asyncio.gather(first, second)
    assert world.service.single_flight.deadline_passed == 2


async def test_a_store_that_fails_costs_no_answer(world: World) -> None:
    world.publish(DOMAIN, "1")
    world.store.fail("get")
    world.store.fail("put")
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE


async def test_a_stored_policy_that_could_not_be_read_is_read_at_the_next_lookup(world: World) -> None:
    world.store.entries[DOMAIN] = policy_entry(DOMAIN, at=world.clock.wall() - 100)
    world.resolver.fail(TXT, RRType.TXT, errors.DnsServerFailure())
    world.store.fail("get", times=2)
    for _ in range(2):
        decision = await world.ask(DOMAIN)
        assert (decision.answer, decision.reason) == (Answer.TEMP, "store-unreadable")
        assert "as the test demands" in decision.text
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE


async def test_a_policy_learned_while_the_store_could_not_be_read_stands_when_it_can_be(world: World) -> None:
    world.store.entries[DOMAIN] = policy_entry(DOMAIN, at=world.clock.wall() - 100)
    world.publish(DOMAIN, "2", policy_text("none"))
    world.store.fail("get")
    world.store.fail("put")
    assert (await world.ask(DOMAIN)).answer is Answer.NONE
    world.clock.advance(3601)
    await world.ask(DOMAIN)
    await idle()
    assert (await world.ask(DOMAIN)).answer is Answer.NONE


async def test_bug_in_a_port_is_counted_and_leaves_no_lookup_waiting(world: World) -> None:
    world.publish(DOMAIN, "1")
    world.fetcher.bodies[DOMAIN] = ZeroDivisionError("a bug")
    assert (await world.ask(DOMAIN)).answer is Answer.NONE
    assert world.counters.unhandled == 1
    world.publish(DOMAIN, "1")
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE


async def test_testing_is_labelled_only_where_the_zone_states_its_level(world: World) -> None:
    world.publish(DOMAIN, "1", policy_text("testing"))
    assert (await world.ask(DOMAIN)).answer is Answer.NONE
    assert (await world.ask(DOMAIN, TLSRPT)).answer is Answer.LEVEL


async def test_overrides_that_need_no_policy_cost_no_io(world: World) -> None:
    skip, fixed = Override("broken", skip=True), Override("partner", reply="encrypt")
    world.configure(overrides={DOMAIN: skip, "example.net": fixed})
    assert (await world.ask(DOMAIN)).reason == "override-skip"
    decision = await world.ask("example.net")
    assert (decision.answer, decision.text) == (Answer.FIXED, "encrypt")
    assert world.resolver.queries == []


async def test_an_override_tightens_or_loosens_a_policy_but_never_makes_one(world: World) -> None:
    world.publish("testing.example", "1", policy_text("testing"))
    world.publish("enforce.example", "1")
    world.publish("none.example", "1", policy_text("none"))
    as_enforce, as_testing = Override("r", treat_as=Mode.ENFORCE), Override("r", treat_as=Mode.TESTING)
    world.configure(
        overrides={
            "testing.example": as_enforce,
            "enforce.example": as_testing,
            "none.example": as_enforce,
            DOMAIN: as_enforce,
        }
    )
    assert (await world.ask("testing.example")).answer is Answer.SECURE
    assert (await world.ask("enforce.example")).answer is Answer.NONE
    assert (await world.ask("none.example")).reason == "mode-none"
    assert (await world.ask(DOMAIN)).reason == "no-policy"


async def test_the_draft_forms_are_read_only_where_the_operator_wants_them(world: World) -> None:
    body = b'{"version": "STSv1", "mode": "report", "mx": [".example.com"], "max_age": "3600"}'

    world.resolver.put(TXT, RRType.TXT, [b"v=STSV1; id=1;"])
    world.fetcher.bodies[DOMAIN] = body
    assert (await world.ask(DOMAIN)).reason == "no-policy"
    world.configure(policy_format=DRAFT_2017)
    world.clock.advance(3601)
    assert (await world.ask(DOMAIN)).reason == "mode-testing"


@pytest.mark.settings(max_entries=50)
async def test_memory_is_bounded_and_the_domains_in_use_stay_longest(world: World) -> None:
    for number in range(50):
        await world.ask(f"d{number}.example")
    await world.service.maintenance.sweep()
    await world.ask("d0.example")
    for number in range(50, 99):
        await world.ask(f"d{number}.example")
    assert len(world.service.policy_cache) == 50
    assert world.service.policy_cache.get("d0.example") is not None
    assert world.service.policy_cache.get("d1.example") is None


@pytest.mark.settings(max_bytes=1000000)
async def test_large_policies_are_bounded_by_their_bytes(world: World) -> None:
    large = policy_text("enforce", *(f"mx{number}.{'x' * 60}.example.com" for number in range(490)))
    for number in range(40):
        world.publish(f"d{number}.example", "1", large)
        assert (await world.ask(f"d{number}.example")).answer is Answer.SECURE
    assert len(world.service.policy_cache) < 10
    assert len(world.store.entries) == 40


async def test_sweep_drops_unused_domains_and_saves_the_use_of_others(world: World) -> None:
    world.publish(DOMAIN, "1")
    await world.ask(DOMAIN)
    await world.ask("example.net")
    await world.service.maintenance.sweep()
    world.clock.advance(7200)
    await world.ask(DOMAIN)
    await idle()
    await world.service.maintenance.sweep()
    assert world.service.policy_cache.get("example.net") is None
    assert world.store.entries[DOMAIN].last_used == world.clock.wall()


async def test_last_lookup_is_saved_to_the_minute_and_replies_still_hold(world: World) -> None:
    world.publish(DOMAIN, "1")
    await world.ask(DOMAIN)
    slot = world.service.policy_cache.get(DOMAIN)
    assert slot is not None
    changes = slot.changes
    for _ in range(20):
        world.clock.advance(15)
        slot.used = True  # as a reply from the reply cache does
        await world.service.maintenance.sweep()
        assert slot.entry is not None
        assert world.clock.wall() - slot.entry.last_used <= 45
        assert world.store.entries[DOMAIN].last_used == slot.entry.last_used
    assert slot.changes == changes


async def test_use_of_many_domains_is_saved_for_a_few_of_them_at_a_time(world: World) -> None:
    domains = [f"d{number}.example" for number in range(200)]
    for domain in domains:
        world.publish(domain, "1")
        await world.ask(domain)
    slots = [slot for domain in domains if (slot := world.service.policy_cache.get(domain)) is not None]
    assert len(slots) == 200
    for _ in range(300):  # 75 minutes
        world.clock.advance(15)
        for slot in slots:
            slot.used = True
        await world.service.maintenance.sweep()
        now = world.clock.wall()
        assert all(slot.entry is not None and now - slot.entry.last_used <= 45 for slot in slots)
        saved = [world.store.entries[domain].last_used for domain in domains]
        assert max(now - used for used in saved) <= 3645
        if now - min(saved) < 3600:
            assert sum(used == now for used in saved) <= 25


async def test_policy_hosts_unreachable_in_a_row_are_not_found_faulty(world: World) -> None:
    found: list[str] = []
    world.service.on_finding = lambda finding: found.append(getattr(finding, "problem", ""))
    for number in range(5):
        domain = f"d{number}.example"
        world.publish(domain, "1")
        world.fetcher.bodies[domain] = errors.PolicyConnectFailed()
        await world.ask(domain)
    assert found == ["policy-connect-failed"] * 2
    world.publish(DOMAIN, "1")
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE
    world.publish("last.example", "1")
    world.fetcher.bodies["last.example"] = errors.PolicyConnectFailed()
    await world.ask("last.example")
    assert found.count("policy-connect-failed") == 3


async def test_a_reply_made_from_an_entry_holds_only_while_it_is_the_entry(world: World) -> None:
    world.publish(DOMAIN, "1")
    await world.ask(DOMAIN)
    before = world.service.lookup(NextHop(DOMAIN), PLAIN)
    assert isinstance(before, LookupOutcome)
    assert before.slot.entry is before.entry
    world.publish(DOMAIN, "2", policy_text("none"))
    world.clock.advance(301)
    await world.ask(DOMAIN)
    await idle()
    assert before.slot.entry is not before.entry


async def test_refresh_of_a_live_policy_fetches_without_txt(world: World) -> None:
    entry = policy_entry(DOMAIN, at=world.clock.wall() - 90000)
    world.resolver.fail(TXT, RRType.TXT, errors.DnsServerFailure())
    world.fetcher.bodies[DOMAIN] = policy_text()
    assert await world.service.discovery.refresh(entry)
    assert world.fetcher.fetches == [(DOMAIN, True)]
    held = world.store.entries[DOMAIN].held
    assert held is not None and held.fetched_at == world.clock.wall()
    assert world.service.policy_cache.get(DOMAIN) is None


async def test_refresh_does_not_begin_during_a_flight(world: World) -> None:
    world.publish(DOMAIN, "1")
    world.fetcher.gates[DOMAIN] = asyncio.Event()
    assert isinstance(world.service.lookup(NextHop(DOMAIN), PLAIN), PendingLookup)
    assert not await world.service.discovery.refresh(policy_entry(DOMAIN))


async def test_a_clock_that_was_set_back_does_not_lose_a_policy(world: World) -> None:
    world.publish(DOMAIN, "1")
    await world.ask(DOMAIN)
    world.clock.set_back(10 * 365 * 86400)
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE
    world.service = world.make_service()
    assert (await world.ask(DOMAIN)).answer is Answer.SECURE


async def test_a_policy_is_loaded_without_being_written_again(world: World) -> None:
    await world.store.put(policy_entry(DOMAIN, at=world.clock.wall() - 1000), None)
    await world.ask(DOMAIN)
    await idle()
    assert world.store.calls["put"] == 1


# -- DANE --------------------------------------------------------------------------------------------------

DANE_ON = PLAIN._replace(dane=DaneMode.ON)
DANE_ALWAYS = PLAIN._replace(dane=DaneMode.ALWAYS)
EE = TlsaRecord(3, 1, 1, bytes(32))


def sign(world: World, domain: str = DOMAIN, *hosts: str, tlsa: bool = True) -> None:
    """Sign the domain and its MX hosts, by default with a usable TLSA record for each."""
    names = hosts or ("mx.example.com",)
    world.resolver.put(domain, RRType.MX, [MxRecord(10, name) for name in names], authenticated=True)
    for name in names:
        world.resolver.put(name, RRType.A, ["192.0.2.1"], authenticated=True)
        world.resolver.put(name, RRType.AAAA, [], authenticated=True)
        world.resolver.put(f"_25._tcp.{name}", RRType.TLSA, [EE] if tlsa else [], authenticated=True)


def dane_questions(world: World) -> list[tuple[str, RRType]]:
    return [question for question in world.resolver.queries if question[1] is not RRType.TXT]


async def test_a_cold_lookup_without_a_policy_costs_no_dane_question(world: World) -> None:
    sign(world)
    assert (await world.ask(DOMAIN, DANE_ON)).reason == "no-policy"
    assert dane_questions(world) == []


async def test_dane_has_precedence_over_an_enforced_policy(world: World) -> None:
    world.publish(DOMAIN, "1")
    sign(world)
    assert (await world.ask(DOMAIN, DANE_ON)).answer is Answer.DANE_ONLY
    assert (await world.ask(DOMAIN, PLAIN)).answer is Answer.SECURE


async def test_a_walk_is_made_once_for_many_and_its_verdict_is_kept(world: World) -> None:
    world.publish(DOMAIN, "1")
    sign(world)
    await asyncio.gather(*(world.ask(DOMAIN, DANE_ON) for _ in range(10)))
    await world.ask(DOMAIN, DANE_ON)
    assert dane_questions(world).count(("_25._tcp.mx.example.com", RRType.TLSA)) == 1


async def test_dane_always_is_discovered_for_every_domain(world: World) -> None:
    sign(world)
    assert (await world.ask(DOMAIN, DANE_ALWAYS)).answer is Answer.DANE_ONLY
    sign(world, "example.net", "mx.example.net", tlsa=False)
    assert (await world.ask("example.net", DANE_ALWAYS)).answer is Answer.NONE


async def test_a_resolver_that_does_not_validate_switches_dane_off(world: World) -> None:
    world.publish(DOMAIN, "1")
    sign(world)
    world.service.dane_trusted = False
    assert (await world.ask(DOMAIN, DANE_ALWAYS)).answer is Answer.SECURE


async def test_a_failing_mx_host_is_stood_in_for_by_what_was_last_known_of_it(world: World) -> None:
    world.publish(DOMAIN, "1")
    sign(world)
    assert (await world.ask(DOMAIN, DANE_ON)).answer is Answer.DANE_ONLY
    world.resolver.fail(DOMAIN, RRType.MX, errors.DnsServerFailure())
    world.clock.advance(7300)
    assert (await world.ask(DOMAIN, DANE_ON)).answer is Answer.DANE_ONLY
    world.clock.advance(90000)
    world.publish(DOMAIN, "1")
    assert (await world.ask(DOMAIN, DANE_ON)).answer is Answer.SECURE


@pytest.mark.settings(deadline=0.02)
async def test_a_hung_dns_costs_a_lookup_its_deadline_and_is_no_reason_to_defer(world: World) -> None:
    world.publish(DOMAIN, "1")
    await world.ask(DOMAIN)
    world.resolver.gates[DOMAIN, RRType.MX] = asyncio.Event()
    assert (await world.ask(DOMAIN, DANE_ON)).answer is Answer.SECURE
    assert isinstance(world.service.lookup(NextHop(DOMAIN), DANE_ON), LookupOutcome)
    sign(world)
    world.resolver.gates[DOMAIN, RRType.MX].set()
    await idle()
    assert (await world.ask(DOMAIN, DANE_ON)).answer is Answer.DANE_ONLY


async def test_a_policy_of_max_age_zero_is_still_in_force_when_dane_has_been_waited_for(world: World) -> None:
    world.publish(DOMAIN, "1", policy_text("enforce", max_age=0))
    gate = world.resolver.gates["mx.example.com", RRType.A] = asyncio.Event()
    sign(world, tlsa=False)
    asked = asyncio.create_task(world.ask(DOMAIN, DANE_ON))
    await idle()
    world.clock.advance(2)
    gate.set()
    assert (await asked).answer is Answer.SECURE


async def test_brackets_and_ports_have_verdicts_of_their_own(world: World) -> None:
    world.publish("mx.example.com", "1")
    sign(world)
    assert (await world.ask("[mx.example.com]", DANE_ON)).answer is Answer.DANE_ONLY
    assert (await world.ask("[mx.example.com]:587", DANE_ON)).answer is Answer.SECURE


async def test_policy_that_permits_no_mx_host_is_logged_once_and_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("mtasts_daemon").propagate = True
    caplog.set_level(logging.WARNING, "mtasts_daemon")
    world.publish(DOMAIN, "1")
    world.resolver.put(DOMAIN, RRType.MX, [MxRecord(10, "mx.elsewhere.example")])
    for _ in range(3):
        await world.ask(DOMAIN, DANE_ON)
        world.clock.advance(3700)
        await idle()
    assert world.counters.policies_unmatched == 1
    (record,) = [record for record in caplog.records if record.getMessage() == "policy-permits-no-mx-host"]
    fields = vars(record)["fields"]
    assert (fields["mx"], fields["hosts"]) == ("mx.example.com", "mx.elsewhere.example")


async def test_mx_mismatch_is_found_again_after_a_restart(world: World) -> None:
    world.publish(DOMAIN, "1")
    world.resolver.put(DOMAIN, RRType.MX, [MxRecord(10, "elsewhere.example.net")])
    await world.ask(DOMAIN)
    await idle()
    assert world.service.mx_mismatches.domains == [DOMAIN]
    world.service = world.make_service()
    assert world.service.mx_mismatches.domains == []
    await world.ask(DOMAIN)
    await idle()
    assert world.service.mx_mismatches.domains == [DOMAIN]


async def test_mx_mismatches_are_bounded_and_still_logged(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mx_mismatches, "_MAX_MISMATCHES", 2)

    for name in ("a.example", "b.example", "c.example"):
        world.publish(name, "1")
        world.resolver.put(name, RRType.MX, [MxRecord(10, "mx.elsewhere.example")])
        await world.ask(name, PLAIN)
        await idle()
    assert world.counters.policies_unmatched == 3
    await world.ask("c.example", DANE_ON)
    assert world.counters.policies_unmatched == 3


async def test_mx_hosts_that_a_policy_no_longer_permits_are_noticed_at_its_refresh(world: World) -> None:
    world.publish(DOMAIN, "1")
    world.resolver.put(DOMAIN, RRType.MX, [MxRecord(10, "mx.example.com")])
    await world.ask(DOMAIN)
    await idle()
    assert world.counters.policies_unmatched == 0
    world.resolver.put(DOMAIN, RRType.MX, [MxRecord(10, "mx.elsewhere.example")])
    await world.service.discovery.refresh(world.store.entries[DOMAIN])
    assert world.counters.policies_unmatched == 1


async def test_released_lookups_do_not_wait_for_dane(world: World) -> None:
    world.publish(DOMAIN, "1")
    policy_host = world.fetcher.gates[DOMAIN] = asyncio.Event()
    await world.store.put(policy_entry("held.example", at=world.clock.wall()), None)
    for domain in (DOMAIN, "held.example"):
        world.resolver.gates[domain, RRType.MX] = asyncio.Event()
    asked = [asyncio.create_task(world.ask(domain, DANE_ON)) for domain in (DOMAIN, "held.example")]
    await idle()
    world.service.release_waiters()
    assert [(await decision).answer for decision in asked] == [Answer.NONE, Answer.SECURE]
    policy_host.set()
