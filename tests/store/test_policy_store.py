"""The policy store beyond the contract: names, limits, other processes, and kill -9."""

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mtasts_daemon.errors import StoreError, StoreSchemaNewer
from mtasts_daemon.store import policy_store, sqlite_file
from mtasts_daemon.store.entry_table import EntryTable
from mtasts_daemon.store.policy_store import MEMORY, SqliteStore, StoreLimits, open_store
from mtasts_daemon.store.schema import MIGRATIONS
from tests.event_loop import idle
from tests.fakes.store import NOW, policy_entry
from tests.store.opened_store import ENTRY, by_hand, expect_example, opened, opened_read_only, put_example, run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# -- names -------------------------------------------------------------------------------------------------


async def test_empty_store_answers_without_asking_the_disk(path: Path) -> None:
    async with opened(path) as store:
        with pytest.raises(StopIteration) as answered:
            store.get("absent.example").send(None)
        assert answered.value.value is None
        await put_example(store)
        await expect_example(store)


@pytest.mark.parametrize("where", ["file", MEMORY])
async def test_learned_names_exclude_unstored_entries(path: Path, where: str) -> None:
    async with opened(path if where == "file" else where) as store:
        await put_example(store)
        await asyncio.gather(store.learn_names(), store.put(policy_entry("meanwhile.example"), NOW))
        assert store.may_hold(ENTRY.domain)
        assert store.may_hold("meanwhile.example")
        assert not store.may_hold("absent.example")
    if where == MEMORY:
        return
    async with opened(path) as store:
        assert store.may_hold("absent.example")
        await store.learn_names()
        assert store.may_hold("meanwhile.example")
        assert not store.may_hold("absent.example")


async def test_names_of_removed_entries_are_removed(path: Path) -> None:
    async with opened(path, limits=StoreLimits(max_policies=2)) as store:
        for number in range(3):
            await store.put(policy_entry(f"d{number}.example", first_used=NOW - 86400, last_used=NOW + number), NOW)
        await store.put(policy_entry("deleted.example", first_used=NOW - 86400, last_used=NOW + 9), NOW)
        await store.put(policy_entry("expired.example", at=NOW - 40 * 86400), None)
        await store.delete("deleted.example")
        await store.tidy(NOW)
        held = [name for name in ("d0", "d1", "d2", "deleted", "expired") if store.may_hold(f"{name}.example")]
        assert held == ["d1", "d2"]


async def test_name_that_is_put_while_it_is_evicted_stays_known(path: Path) -> None:
    async with opened(path, limits=StoreLimits(max_policies=1)) as store:
        await store.put(policy_entry("kept.example", last_used=NOW + 9), NOW)
        await put_example(store)
        tidied, _ = await asyncio.gather(store.tidy(NOW), store.put(ENTRY, NOW))
        assert tidied == 1
        assert store.may_hold(ENTRY.domain)
        await expect_example(store)


async def test_number_of_names_is_bounded_and_they_are_learned_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_store, "_NAMES_BEYOND_LIMIT", 0)
    async with opened(path, limits=StoreLimits(max_policies=10)) as store:
        for number in range(11):
            await store.put(policy_entry(f"d{number}.example"), NOW)
        assert store.may_hold("absent.example")
        await store.delete("d10.example")
        await store.learn_names()
        assert not store.may_hold("absent.example")
        assert all(store.may_hold(f"d{number}.example") for number in range(10))


async def test_name_whose_put_failed_may_be_stored(path: Path) -> None:
    async with opened(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(store.put(ENTRY, NOW))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            other.execute("COMMIT")
        await store.tidy(NOW)
        assert store.may_hold(ENTRY.domain)
        await expect_example(store)


# -- limits ------------------------------------------------------------------------------------------------


async def test_puts_alone_cannot_grow_the_store_far_beyond_its_limits() -> None:
    async with opened(MEMORY, limits=StoreLimits(max_policies=10)) as store:
        for start in range(0, 3000, 250):
            entries = [policy_entry(f"d{start + number}.example", last_used=NOW + start) for number in range(250)]
            await asyncio.gather(*(store.put(entry, NOW) for entry in entries))
            assert await store.count() < 10 + 1000 + 256
        assert store.counters.removed["one-day"] >= 1990


async def test_tidy_counts_removed_entries_by_reason(path: Path) -> None:
    async with opened(path, limits=StoreLimits(max_policies=2)) as store:
        await store.put(policy_entry("expired.example", at=NOW - 40 * 86400), None)
        await store.put(policy_entry("once.example"), NOW)
        for number in range(3):
            await store.put(policy_entry(f"d{number}.example", first_used=NOW - 86400), NOW)
        assert await store.tidy(NOW) == 3
        assert store.counters.removed == {"expired": 1, "one-day": 1, "least-recent": 1}


async def test_limit_smaller_than_an_empty_file_ends_with_an_empty_store(path: Path) -> None:
    async with opened(path, limits=StoreLimits(max_bytes=1)) as store:
        await put_example(store)
        assert await store.tidy(NOW) == 1


# -- slow and failing disks --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", MEMORY])
async def test_full_disk_fails_puts_and_reads_go_on(path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large = policy_entry("large.example", body=ENTRY.held.body + b"x: " + b"y" * 60000) if ENTRY.held else ENTRY
    put, pages = EntryTable.put, 1_000_000

    def put_on_disk(table: EntryTable, row: Sequence[object], connection: sqlite3.Connection) -> list[str]:
        connection.execute(f"PRAGMA max_page_count = {pages}")  # at least the pages in use
        return put(table, row, connection)

    monkeypatch.setattr(EntryTable, "put", put_on_disk)
    async with opened(path if where == "file" else where) as store:
        await put_example(store)
        pages = 1
        both = await asyncio.gather(store.put(large, NOW), store.delete("absent.example"), return_exceptions=True)
        assert isinstance(both[0], StoreError)
        assert "full" in both[0].detail
        await expect_example(store)
        assert await store.get("large.example") is None
        with pytest.raises(StoreError):
            await store.put(large, NOW)
        assert store.write_failure is not None
        pages = 1_000_000
        await store.put(large, NOW)
        assert store.write_failure is None
        assert await store.get("large.example") == large


async def test_get_from_a_disk_that_hangs_raises_store_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_store, "_READ_DEADLINE", 0.01)
    answers, count = threading.Event(), EntryTable.count

    def hang(connection: sqlite3.Connection) -> int:
        answers.wait()
        return count(connection)

    monkeypatch.setattr(EntryTable, "count", staticmethod(hang))
    async with opened(path) as store:
        await put_example(store)
        hanging = asyncio.create_task(store.count())
        with pytest.raises(StoreError, match=r"has not answered for 0\.01 s"):
            await store.get(ENTRY.domain)
        with pytest.raises(StoreError):
            await hanging
        # Until the disk answers, no lookup waits for it.
        with pytest.raises(StoreError):
            store.get(ENTRY.domain).send(None)
        answers.set()


async def test_put_to_a_disk_that_hangs_fails_and_still_takes_effect(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, delete = threading.Event(), EntryTable.delete

    def hang(domain: str, connection: sqlite3.Connection) -> list[str]:
        answers.wait()
        return delete(domain, connection)

    monkeypatch.setattr(EntryTable, "delete", staticmethod(hang))
    with monkeypatch.context() as impatient:
        impatient.setattr(policy_store, "_WRITE_DEADLINE", 0.01)
        async with opened(path) as store:
            hanging = asyncio.create_task(store.delete("absent.example"))
            with pytest.raises(StoreError, match="has not answered"):
                await store.put(ENTRY, NOW)
            assert store.write_failure is not None
            with pytest.raises(StoreError):
                await hanging
            answers.set()
    async with opened(path) as store:
        await expect_example(store)


async def test_list_of_large_policies_does_not_hold_up_gets(path: Path) -> None:
    order: list[str] = []
    body = b"version: STSv1\nmode: enforce\nmax_age: 604800\n" + b"mx: mx.example.com\n" * 400
    async with opened(path) as store:
        for number in range(64):
            await store.put(policy_entry(f"d{number:02}.example", body=body), NOW)

        async def list_due() -> None:
            assert len(await store.due(NOW, 0, 64)) == 64
            order.append("list")

        async def get() -> None:
            assert await store.get("d63.example") is not None
            order.append("get")

        await asyncio.gather(list_due(), get())
    assert order == ["get", "list"]


# -- a file that cannot be written -------------------------------------------------------------------------


def content(path: Path) -> bytes:
    return path.read_bytes()


def make_unwritable(path: Path) -> None:
    """Put a folder where the lock file has to be."""
    lock = path.with_name("store.db.lock")
    lock.unlink()
    lock.mkdir()


async def test_unwritable_file_is_read_and_new_entries_are_kept_in_memory(path: Path) -> None:
    async with opened(path) as store:
        await put_example(store)
    make_unwritable(path)
    before = content(path)
    async with opened(path, in_memory=True) as store:
        assert (store.path, store.file) == (MEMORY, str(path))
        assert "Is a directory" in str(store.memory_reason)
        assert "with 1 entries read from the file" in store.problems[0].detail
        await expect_example(store)
        assert [entry.domain for entry in await store.due(NOW, 0, 9)] == [ENTRY.domain]
        await store.put(policy_entry("new.example"), NOW)
        assert await store.recover(NOW) == ()
        assert content(path) == before
        path.with_name("store.db.lock").rmdir()
        (problem,) = await store.recover(NOW)
        assert "it can be written again; 2 newer entries" in problem.detail
        assert store.path == str(path)
        assert await store.recover(NOW) == ()
    async with opened(path) as store:
        await expect_example(store)
        assert await store.get("new.example") == policy_entry("new.example")


async def test_write_back_keeps_policies_that_the_file_has_newer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = policy_entry(ENTRY.domain, at=NOW + 60)
    async with opened(path) as other:
        store = await open_store(path, now=NOW, in_memory=True, lock_seconds=0)
        assert "another process writes it" in str(store.memory_reason)
        await put_example(store)
        await other.put(newer, NOW)
    await store.recover(NOW)
    assert await store.get(ENTRY.domain) == newer
    await store.close()


async def test_older_schema_that_cannot_be_migrated_is_read(path: Path) -> None:
    async with opened(path) as store:
        await put_example(store)
    by_hand(path, "DROP INDEX entry_list", "ALTER TABLE entry DROP COLUMN mode", "PRAGMA user_version = 1")
    make_unwritable(path)
    async with opened(path, in_memory=True) as store:
        assert store.memory_reason is not None
        await expect_example(store)


async def test_newer_schema_is_left_untouched_and_memory_is_used(path: Path) -> None:
    async with opened(path) as store:
        await put_example(store)
    by_hand(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = content(path)
    async with opened(path, in_memory=True) as store:
        assert isinstance(store.memory_reason, StoreSchemaNewer)
        assert await store.get(ENTRY.domain) is None
        await put_example(store)
        await expect_example(store)
        await store.recover(NOW)
        assert store.path == MEMORY
    assert content(path) == before


# -- other processes ---------------------------------------------------------------------------------------


async def test_reader_sees_what_the_daemon_puts_and_cannot_write(path: Path) -> None:
    async with opened(path) as store:
        await put_example(store)
        async with opened_read_only(path) as reader:
            await expect_example(reader)
            for call in (reader.put(ENTRY, None), reader.delete(ENTRY.domain), reader.tidy(NOW)):
                with pytest.raises(StoreError, match="reading only"):
                    await call
        await store.put(policy_entry("later.example"), NOW)
    async with opened_read_only(path) as reader:
        await expect_example(reader)


async def test_reader_creates_no_file(path: Path) -> None:
    with pytest.raises(StoreError):
        async with opened_read_only(path):
            pass
    assert list(path.parent.iterdir()) == []


async def test_put_waits_for_another_process_that_writes(path: Path) -> None:
    async with opened(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(store.put(ENTRY, NOW))
            assert await store.get(ENTRY.domain) is None
            other.execute("COMMIT")
            await waiting
        await expect_example(store)


async def test_put_raises_if_another_process_never_ends_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "_BUSY_SECONDS", 0)
    async with opened(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked"):
                await store.put(ENTRY, NOW)
        await put_example(store)
        await expect_example(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            await open_store(path, now=NOW)


async def test_second_writer_is_refused_until_the_first_has_ended(path: Path) -> None:
    async with opened(path) as store:
        await put_example(store)
        with pytest.raises(StoreError, match="another process writes it"):
            await open_store(path, now=NOW, lock_seconds=0)
        # One that is about to end is waited for, as when a new version takes over.
        opening = asyncio.create_task(open_store(path, now=NOW))
        await idle()
        await store.close()
        successor = await opening
        await expect_example(successor)
        await successor.close()


async def test_lock_of_a_killed_process_does_not_block_the_next(path: Path) -> None:
    script = f"""
        import asyncio, os
        from mtasts_daemon.store.policy_store import open_store
        async def main():
            await open_store({str(path)!r}, now={NOW})
            os.kill(os.getpid(), 9)
        asyncio.run(main())
    """
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, timeout=240, check=False
    )
    assert await asyncio.to_thread(Path(f"{path}.lock").exists)
    async with opened(path, lock_seconds=0) as store:
        await put_example(store)


# -- the end -----------------------------------------------------------------------------------------------


async def test_close_commits_queued_puts(path: Path) -> None:
    store = await open_store(path, now=NOW)
    puts = [asyncio.create_task(store.put(policy_entry(f"d{number}.example"), NOW)) for number in range(600)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*puts)
    async with opened(path) as store:
        assert await store.count() == 600


def child(script: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


async def test_process_whose_loop_died_without_closing_the_store_ends(path: Path) -> None:
    script = """
        import asyncio, sys
        from mtasts_daemon.store.policy_store import open_store
        from tests.fakes.store import NOW, policy_entry

        async def main():
            store = await open_store(sys.argv[1], now=NOW)
            await store.put(policy_entry("example.com"), NOW)
            asyncio.get_running_loop().create_task(store.put(policy_entry("late.example"), NOW))
            raise SystemExit(7)

        asyncio.run(main())
    """
    with child(script, path) as process:
        assert process.wait(120) == 7
    await run(path, expect_example)


@pytest.mark.parametrize("lines", [1, 7, 60, 400, 1500])
async def test_no_policy_whose_put_returned_is_lost_to_kill_9(path: Path, lines: int) -> None:
    script = """
        import asyncio, itertools, os, sys
        from mtasts_daemon.store.policy_store import open_store
        from tests.fakes.store import NOW, policy_entry

        async def put_many(store, numbers):
            for number in numbers:
                await store.put(policy_entry(f"d{number}.example"), NOW)
                os.write(1, b"d%d.example\\n" % number)

        async def main():
            store = await open_store(sys.argv[1], now=NOW)
            numbers = itertools.count()
            await asyncio.gather(*(put_many(store, numbers) for _ in range(8)))

        asyncio.run(main())
    """
    with child(script, path) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        printed += process.stdout.readlines()
    domains = [line.strip() for line in printed if line.endswith("\n")]

    async def look(store: SqliteStore) -> None:
        found = await asyncio.gather(*(store.get(domain) for domain in domains))
        assert found == [policy_entry(domain) for domain in domains]

    assert len(domains) >= lines
    assert await run(path, look) == ()


async def test_put_that_cannot_be_stored_fails_alone_in_its_batch(path: Path) -> None:
    impossible = replace(ENTRY, domain="\udcff.example")
    without_time = replace(ENTRY, domain="nan.example", last_used=float("nan"))

    async with opened(path) as store:
        results = await asyncio.gather(
            *(store.put(entry, NOW) for entry in (impossible, ENTRY, without_time)), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreError, type(None), StoreError]
        assert store.write_failure is None
        await expect_example(store)
        assert await store.count() == 1


async def test_puts_of_one_turn_share_a_commit(path: Path) -> None:
    async with opened(path) as store:
        await asyncio.gather(*(store.put(policy_entry(f"d{number}.example"), NOW) for number in range(200)))
        assert store.counters.puts == 200
        assert store.counters.commits == 1
