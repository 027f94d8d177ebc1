"""The order of eviction, also with more keys than are taken at once."""

import pytest

from mtasts_daemon.lookup.eviction import EvictionQueue


def _evict_all(items: dict[int, None], queue: EvictionQueue[int]) -> list[int]:
    evicted = []
    while items:
        evicted.append(queue.pop())
        del items[evicted[-1]]
    return evicted


def test_keys_leave_in_order_of_insertion() -> None:
    items = dict.fromkeys(range(1000))
    assert _evict_all(items, EvictionQueue(items)) == list(range(1000))


def test_removed_keys_are_skipped() -> None:
    items = dict.fromkeys(range(1000))
    queue = EvictionQueue(items)
    assert queue.pop() == 0
    for key in range(600):
        del items[key]
    assert _evict_all(items, queue) == list(range(600, 1000))


def test_keys_added_later_leave_last() -> None:
    items = dict.fromkeys(range(3))
    queue = EvictionQueue(items)
    del items[queue.pop()]
    items[7] = None
    assert _evict_all(items, queue) == [1, 2, 7]


def test_pop_of_nothing_raises() -> None:
    with pytest.raises(IndexError):
        EvictionQueue[int]({}).pop()
