"""What is kept in memory, within its bounds."""

from mtasts_daemon.lookup.policy_cache import CacheSlot, PolicyCache
from mtasts_daemon.policy.cache_entry import CacheEntry, HeldPolicy
from mtasts_daemon.policy.mtasts import parse_policy
from tests.fakes.fetcher import policy_text

PLENTY = 1 << 30


def holding(domain: str, body: bytes) -> CacheEntry:
    return CacheEntry(domain, HeldPolicy("1", body, parse_policy(body), 0.0, 1e9))


def admitted(memory: PolicyCache, domain: str, *, used: bool) -> CacheSlot:
    slot = memory.admit(domain)
    slot.used = used
    return slot


def test_the_number_of_slots_is_bounded_and_the_oldest_goes() -> None:
    memory = PolicyCache(10, PLENTY)
    for number in range(11):
        admitted(memory, f"{number}.example", used=False)
    assert len(memory) == 10
    assert memory.get("0.example") is None
    assert memory.get("10.example") is not None


def test_a_slot_in_use_is_passed_over_for_one_that_is_not() -> None:
    memory = PolicyCache(3, PLENTY)
    kept = admitted(memory, "used.example", used=True)
    admitted(memory, "idle.example", used=False)
    admitted(memory, "new.example", used=False)
    memory.admit("newest.example")
    assert memory.get("used.example") is kept
    assert memory.get("idle.example") is None


def test_where_all_are_in_use_the_bound_holds_all_the_same() -> None:
    memory = PolicyCache(100, PLENTY)
    for number in range(1000):
        memory.admit(f"{number}.example")
        assert len(memory) <= 100


def test_the_bytes_of_policies_are_bounded_and_counted_back() -> None:
    body = policy_text("enforce", *(f"mx{number}.example.com" for number in range(100)))
    memory = PolicyCache(1000, 10 * len(body))
    for number in range(50):
        slot = admitted(memory, f"{number}.example", used=False)
        memory.hold(slot, holding(slot.domain, body))
    kept = len(memory)
    assert 0 < kept < 10
    for slot in memory.slots():
        memory.hold(slot, CacheEntry(slot.domain))
    for number in range(900):
        memory.admit(f"none{number}.example")
    assert len(memory) == kept + 900


def test_what_was_dropped_no_longer_has_an_entry_and_dropping_it_again_costs_nothing() -> None:
    memory = PolicyCache(10, PLENTY)
    slot = memory.admit("a.example")
    memory.hold(slot, holding("a.example", policy_text()))
    memory.drop(slot)
    assert slot.entry is None
    again = memory.admit("a.example")
    memory.drop(slot)
    assert memory.get("a.example") is again
