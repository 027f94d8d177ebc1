"""A deleted, replaced or damaged store under a running daemon: cached policies survive."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from mtasts_daemon.errors import DnsTimeout, StoreError
from mtasts_daemon.lookup.policy_cache import CacheSlot
from mtasts_daemon.lookup.store_recovery import StoreRecovery
from mtasts_daemon.policy.decision import Answer
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.store.policy_store import open_store
from tests.event_loop import idle
from tests.fakes.daemon import World
from tests.fakes.store import policy_entry


class Stop(Exception):
    """Ends ``StoreRecovery.run``."""


class TlsResults:
    """Results of the checks of the TLS results' file: problems found, or an error."""

    path = "/var/lib/tlsrpt.sqlite"

    def __init__(self, *looks: str | Exception) -> None:
        self._looks = list(looks)

    async def recover(self, now: float) -> Sequence[StoreError]:
        found = self._looks.pop(0) if self._looks else ""
        if isinstance(found, Exception):
            raise found
        return [StoreError(found)] if found else []


NOTHING = TlsResults()


class Site:
    """A policy cache with a store at ``path``, and the part that checks the store's file."""

    def __init__(self, path: Path, tls_results: TlsResults = NOTHING) -> None:
        self.world = World()
        self._path = path
        self._tls_results = tls_results

    async def __aenter__(self) -> Self:
        self.store = await open_store(self._path, now=self.world.clock.wall())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()

    async def check(self) -> None:
        """Check the files twice."""
        looks = iter(range(1))

        async def sleep(seconds: float) -> None:
            if next(looks, None) is None:
                raise Stop

        with pytest.raises(Stop):
            await StoreRecovery(self.store, [self._tls_results], self.world.service, self.world.clock, sleep).run()

    def cache(self, domain: str, age: float) -> None:
        """Put a policy of that age into the cache."""
        entry = policy_entry(domain, at=self.world.clock.wall() - age)
        self.world.service.policy_cache.hold(self.world.service.policy_cache.admit(CacheSlot(domain)), entry)

    async def put(self, domain: str, age: float) -> None:
        """Store a policy of that age."""
        await self.store.put(policy_entry(domain, at=self.world.clock.wall() - age), None)

    async def age(self, domain: str) -> float:
        """Return the age of the stored policy."""
        entry = await self.store.get(domain)
        assert entry is not None and entry.held is not None
        return self.world.clock.wall() - entry.held.fetched_at


async def test_newer_entries_are_written_to_the_replaced_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, backup = tmp_path / "store.db", tmp_path / "backup.db"
    async with Site(backup) as site:
        await site.put("older.example", 1000.0)
        await site.put("newer.example", 10.0)
    caplog.set_level("INFO")
    async with Site(path) as site:
        for domain in ("older.example", "newer.example", "missing.example"):
            site.cache(domain, 100.0)
            await site.put(domain, 100.0)
        site.world.service.policy_cache.admit(CacheSlot("unknown.example"))
        backup.rename(path)
        await site.check()
        assert await site.age("older.example") == 100.0
        assert await site.age("newer.example") == 10.0
        assert await site.age("missing.example") == 100.0
        assert await site.store.count() == 3
    events = [(record.getMessage(), vars(record)["fields"]) for record in caplog.records]
    assert [event for event, _ in events] == ["store-file-changed", "store-restored"]
    assert events[1][1] == {"policies": 2}


async def test_replaced_file_is_read_for_domains_without_policy(tmp_path: Path) -> None:
    path, backup = tmp_path / "store.db", tmp_path / "backup.db"
    async with Site(backup) as site:
        await site.put("bank.example", 1000.0)
    async with Site(path) as site:
        world = site.world
        world.store = site.store  # type: ignore[assignment]
        world.service = world.make_service()
        await site.check()
        for domain in ("bank.example", "other.example"):
            assert (await world.ask(domain)).answer is Answer.NONE
        backup.rename(path)
        await site.check()
        world.resolver.fail("_mta-sts.bank.example", RRType.TXT, DnsTimeout())
        assert (await world.ask("bank.example")).answer is Answer.SECURE
        assert (await world.ask("other.example")).answer is Answer.NONE


async def test_read_of_the_file_before_is_repeated() -> None:
    world = World()
    gate, before = world.store.hang("get"), world.store.entries
    asked = asyncio.create_task(world.ask("bank.example"), name="ask")
    await idle()
    world.service.policy_cache.store_replaced()
    gate.set()
    await asyncio.sleep(0)  # the read of the earlier file ends
    assert before is world.store.entries == {}
    world.store.entries = {"bank.example": policy_entry("bank.example", at=world.clock.wall() - 10)}
    assert (await asked).answer is Answer.SECURE


async def test_newer_policy_of_the_replaced_file_is_used(tmp_path: Path) -> None:
    path, backup = tmp_path / "store.db", tmp_path / "backup.db"
    async with Site(backup) as site:
        await site.put("bank.example", 10.0)
    async with Site(path) as site:
        site.cache("bank.example", 700_000.0)  # expired
        await site.put("bank.example", 700_000.0)
        backup.rename(path)
        await site.check()
        slot = site.world.service.policy_cache.get("bank.example")
        assert slot is not None and slot.entry is not None
        assert slot.entry.live(site.world.clock.wall()) is not None


async def test_stored_names_are_learned_at_the_first_check(tmp_path: Path) -> None:
    async with Site(tmp_path / "store.db") as site:
        await site.put("known.example", 1000.0)
    async with Site(tmp_path / "store.db") as site:
        assert site.store.may_hold("unknown.example")
        await site.check()
        assert site.store.may_hold("known.example")
        assert not site.store.may_hold("unknown.example")


async def test_failed_recovery_is_logged_at_each_check(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with Site(folder / "store.db") as site:
        folder.rename(tmp_path / "gone")
        folder.write_text("in the way")
        await site.check()
    assert [record.getMessage() for record in caplog.records] == ["store-file-changed"] * 2


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("it was removed; all of it is back", ("store-file-changed", "what", "it was removed; all of it is back")),
        (StoreError("disk I/O error"), ("store-file-changed", "error", "The store failed: disk I/O error")),
        (ZeroDivisionError(), ("store-watch-failed", "", "")),
    ],
    ids=["removed", "the disk fails", "a bug"],
)
async def test_file_of_tls_results_is_checked_independently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str | Exception, expected: tuple[str, str, str]
) -> None:
    async with Site(tmp_path / "store.db", TlsResults(first, "it was replaced; the new one is in use")) as site:
        await site.check()
    (event, key, value), before = expected, caplog.records[0]
    assert before.getMessage() == event
    assert not key or {name: str(found) for name, found in vars(before)["fields"].items()} == {
        "path": TlsResults.path,
        key: value,
    }
    assert [record.getMessage() for record in caplog.records[1:]] == ["store-file-changed"]
