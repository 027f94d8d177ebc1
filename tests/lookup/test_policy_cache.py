"""The policy cache: limits, pins and accounting."""

from mtasts_daemon.lookup.policy_cache import CacheSlot, PolicyCache, weight
from mtasts_daemon.policy.cache_entry import CacheEntry, HeldPolicy
from mtasts_daemon.policy.mtasts import MAX_BODY, MAX_MX_LINES, parse_policy
from tests.fakes.fetcher import policy_text

PLENTY = 1 << 30


def holding(domain: str, body: bytes) -> CacheEntry:
    return CacheEntry(domain, HeldPolicy("1", body, parse_policy(body), 0.0, 1e9))


def looked_up(cache: PolicyCache, domain: str, *, used: bool = False, body: bytes | None = None) -> CacheSlot:
    """Use the cache as a flight does, from start to end."""
    slot = cache.get(domain) or cache.admit(CacheSlot(domain))
    cache.pin(slot)
    cache.hold(slot, CacheEntry(domain) if body is None else holding(domain, body))
    slot.used = used
    cache.unpin(slot)
    return slot


def test_oldest_slot_is_evicted_at_the_limit_of_number() -> None:
    cache = PolicyCache(10, PLENTY)
    for number in range(11):
        looked_up(cache, f"{number}.example")
    assert len(cache) == 10
    assert cache.get("0.example") is None
    assert cache.get("10.example") is not None


def test_slot_in_use_is_skipped_for_one_that_is_not() -> None:
    cache = PolicyCache(3, PLENTY)
    kept = looked_up(cache, "used.example", used=True)
    for name in ("idle.example", "new.example", "newest.example"):
        looked_up(cache, name)
    assert cache.get("used.example") is kept
    assert cache.get("idle.example") is None


def test_limit_holds_if_all_slots_are_in_use() -> None:
    cache = PolicyCache(100, PLENTY)
    for number in range(1000):
        looked_up(cache, f"{number}.example", used=True)
        assert len(cache) <= 100


def test_bytes_of_policies_are_bounded_and_counted_back() -> None:
    body = policy_text("enforce", *(f"mx{number}.example.com" for number in range(100)))
    cache = PolicyCache(1000, 100 * len(body))
    for number in range(500):
        looked_up(cache, f"{number}.example", body=body)
    kept = len(cache)
    assert 0 < kept < 100
    for slot in cache.slots():
        cache.hold(slot, CacheEntry(slot.domain))
    assert cache.bytes == 0
    for number in range(900):
        looked_up(cache, f"none{number}.example")
    assert len(cache) == kept + 900


def test_pinned_slot_is_not_evicted_and_evicted_when_unpinned() -> None:
    cache = PolicyCache(1, 1)
    slot = cache.admit(CacheSlot("a.example"))
    cache.pin(slot)
    cache.hold(slot, holding("a.example", policy_text()))
    looked_up(cache, "b.example")
    assert slot.entry is not None and cache.get("a.example") is slot
    cache.unpin(slot)
    assert slot.entry is None and cache.get("a.example") is None
    assert cache.bytes == 0


def test_slot_dropped_while_pinned_keeps_its_entry_for_the_lookup() -> None:
    cache = PolicyCache(10, PLENTY)
    slot = cache.admit(CacheSlot("a.example"))
    cache.pin(slot)
    cache.hold(slot, holding("a.example", policy_text()))
    cache.drop(slot)
    assert slot.entry is not None and cache.get("a.example") is None
    assert cache.bytes == slot.weight > 0
    cache.unpin(slot)
    assert cache.bytes == 0


def test_dropped_slot_has_no_entry_and_can_be_dropped_again() -> None:
    cache = PolicyCache(10, PLENTY)
    slot = looked_up(cache, "a.example", body=policy_text())
    cache.drop(slot)
    assert slot.entry is None
    again = looked_up(cache, "a.example")
    cache.drop(slot)
    assert cache.get("a.example") is again


def test_unsaved_policy_is_not_evicted() -> None:
    cache = PolicyCache(1, 1)
    slot = cache.admit(CacheSlot("a.example"))
    cache.pin(slot)
    cache.hold(slot, holding("a.example", policy_text()))
    cache.mark_unsaved(slot, True)
    cache.unpin(slot)
    looked_up(cache, "b.example")
    assert slot.entry is not None and cache.get("a.example") is slot
    cache.mark_unsaved(slot, False)
    assert cache.get("a.example") is None
    assert cache.bytes == 0


def test_new_policies_may_pin_half_of_what_stored_ones_may() -> None:
    cache = PolicyCache(1000, 1 << 20)
    first = cache.admit(CacheSlot("a.example"))
    assert cache.has_room(first, PLENTY, stored=False)
    cache.pin(first)
    cache.hold(first, holding("a.example", policy_text()))
    other = CacheSlot("b.example")
    assert cache.has_room(other, 500_000, stored=False)
    assert not cache.has_room(other, 600_000, stored=False)
    assert cache.has_room(other, 600_000, stored=True)
    assert not cache.has_room(other, 1 << 20, stored=True)


def test_largest_policy_weighs_less_than_four_times_its_text() -> None:
    label = "x" * 60
    hosts = [f"m{number}.{label}.{label}.example.com" for number in range(440)]
    body = policy_text("enforce", *hosts)
    assert 55_000 < len(body) <= MAX_BODY
    assert weight(holding("a.example", body)) < 4 * MAX_BODY
    short = policy_text("enforce", *(f"{number}.a" for number in range(MAX_MX_LINES)))
    assert weight(holding("a.example", short)) < 100_000
