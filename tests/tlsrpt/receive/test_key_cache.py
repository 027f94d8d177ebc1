"""Key records are kept for their TTL, at most ten minutes, and in bounded number."""

import pytest

from mtasts_daemon.errors import DnsTimeout
from mtasts_daemon.policy.dns_answer import DnsAnswer
from mtasts_daemon.tlsrpt.receive import key_cache
from mtasts_daemon.tlsrpt.receive.key_cache import KeyCache


class World:
    def __init__(self, ttl: int = 300, records: tuple[bytes, ...] = (b"key",)) -> None:
        self.ttl, self.records = ttl, records
        self.asked: list[str] = []
        self.now = 0.0
        self.fails = False
        self.cache = KeyCache(self._lookup, lambda: self.now)

    async def _lookup(self, name: str) -> DnsAnswer[bytes]:
        self.asked.append(name)
        if self.fails:
            raise DnsTimeout
        return DnsAnswer(name, self.records, self.ttl)


@pytest.mark.parametrize(("ttl", "kept"), [(300, 300), (86400, 600)])
async def test_record_is_kept_for_its_ttl(ttl: int, kept: int) -> None:
    world = World(ttl)
    for world.now, count in ((0.0, 1), (kept - 0.5, 1), (float(kept), 2)):
        assert await world.cache("a") == (b"key",)
        assert len(world.asked) == count


async def test_record_with_ttl_0_is_looked_up_each_time() -> None:
    world = World(0)
    await world.cache("a")
    await world.cache("a")
    assert world.asked == ["a", "a"]


async def test_failure_is_not_kept() -> None:
    world = World()
    world.fails = True
    with pytest.raises(DnsTimeout):
        await world.cache("a")
    world.fails = False
    assert await world.cache("a") == (b"key",)


async def test_large_answers_are_not_kept() -> None:
    world = World(records=(b"x" * 5000,))
    await world.cache("a")
    await world.cache("a")
    assert world.asked == ["a", "a"]


async def test_number_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "_MAX_NAMES", 2)
    world = World()
    for name in "abc":
        await world.cache(name)
    await world.cache("c")
    await world.cache("a")
    assert world.asked == ["a", "b", "c", "a"]
