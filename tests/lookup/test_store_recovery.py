"""The store's file under a running daemon: what is known outlives whatever becomes of it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from mtasts_daemon.errors import StoreError
from mtasts_daemon.lookup.policy_cache import CacheSlot
from mtasts_daemon.lookup.store_recovery import StoreRecovery
from mtasts_daemon.store.policy_store import SqliteStore, open_store
from tests.fakes.daemon import World
from tests.fakes.store import policy_entry


class Stop(Exception):
    """Ends ``StoreWatch.run``."""


class TlsResults:
    """What became of the file of TLS results, look by look, or why that cannot be put right."""

    path = "/var/lib/tlsrpt.sqlite"

    def __init__(self, *looks: str | Exception) -> None:
        self._looks = list(looks)

    async def recover(self, now: float) -> Sequence[StoreError]:
        found = self._looks.pop(0) if self._looks else ""
        if isinstance(found, Exception):
            raise found
        return [StoreError(found)] if found else []


NOTHING = TlsResults()


def run(
    path: Path, test: Callable[[World, SqliteStore, StoreRecovery], Awaitable[None]], tls_results: TlsResults = NOTHING
) -> None:
    async def live() -> None:
        world = World()
        looks = iter(range(1))

        async def sleep(seconds: float) -> None:
            if next(looks, None) is None:
                raise Stop

        store = await open_store(path, now=world.clock.wall())
        try:
            await test(world, store, StoreRecovery(store, tls_results, world.service, world.clock, sleep))
        finally:
            await store.close()

    asyncio.run(live())


def known(world: World, domain: str, age: float) -> None:
    """Let the daemon know a policy of that age."""
    entry = policy_entry(domain, at=world.clock.wall() - age)
    world.service.policy_cache.hold(world.service.policy_cache.admit(CacheSlot(domain)), entry)


async def stored(world: World, store: SqliteStore, domain: str, age: float) -> None:
    await store.put(policy_entry(domain, at=world.clock.wall() - age), None)


async def fetched_at(world: World, store: SqliteStore, domain: str) -> float:
    entry = await store.get(domain)
    assert entry is not None and entry.held is not None
    return world.clock.wall() - entry.held.fetched_at


def test_newer_entries_are_written_to_the_replaced_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, backup = tmp_path / "store.db", tmp_path / "backup.db"

    async def prepare(world: World, store: SqliteStore, watch: StoreRecovery) -> None:
        await stored(world, store, "older.example", 1000.0)
        await stored(world, store, "newer.example", 10.0)

    async def test(world: World, store: SqliteStore, watch: StoreRecovery) -> None:
        for domain in ("older.example", "newer.example", "missing.example"):
            known(world, domain, 100.0)
            await stored(world, store, domain, 100.0)
        world.service.policy_cache.admit(CacheSlot("unknown.example"))
        backup.rename(path)
        with pytest.raises(Stop):
            await watch.run()
        assert await fetched_at(world, store, "older.example") == 100.0
        assert await fetched_at(world, store, "newer.example") == 10.0
        assert await fetched_at(world, store, "missing.example") == 100.0
        assert await store.count() == 3

    run(backup, prepare)
    with caplog.at_level("INFO"):
        run(path, test)
    events = [(record.getMessage(), vars(record)["fields"]) for record in caplog.records]
    assert [event for event, _ in events] == ["store-file-changed", "store-restored"]
    assert events[1][1] == {"policies": 2}


def test_stored_names_are_learned_at_the_first_check(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def prepare(world: World, store: SqliteStore, watch: StoreRecovery) -> None:
        await stored(world, store, "known.example", 1000.0)

    async def test(world: World, store: SqliteStore, watch: StoreRecovery) -> None:
        assert store.may_hold("unknown.example")
        with pytest.raises(Stop):
            await watch.run()
        assert store.may_hold("known.example")
        assert not store.may_hold("unknown.example")

    run(path, prepare)
    run(path, test)


def test_failed_recovery_is_logged_at_each_check(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"

    async def test(world: World, store: SqliteStore, watch: StoreRecovery) -> None:
        folder.rename(tmp_path / "gone")
        folder.write_text("in the way")
        with pytest.raises(Stop):
            await watch.run()

    folder.mkdir()
    run(folder / "store.db", test)
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
def test_file_of_tls_results_is_checked_independently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str | Exception, expected: tuple[str, str, str]
) -> None:
    async def test(world: World, store: SqliteStore, watch: StoreRecovery) -> None:
        with pytest.raises(Stop):
            await watch.run()

    run(tmp_path / "store.db", test, TlsResults(first, "it was replaced; the new one is in use"))
    (event, key, value), before = expected, caplog.records[0]
    assert before.getMessage() == event
    assert not key or {name: str(found) for name, found in vars(before)["fields"].items()} == {
        "path": TlsResults.path,
        key: value,
    }
    assert [record.getMessage() for record in caplog.records[1:]] == ["store-file-changed"]
