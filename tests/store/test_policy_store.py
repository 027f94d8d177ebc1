"""The SQLite store beyond the contract: failing disks, limits, other processes, and death without warning."""

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.errors import StoreError
from mtasts_daemon.store import database
from mtasts_daemon.store import policy_store as store_module
from mtasts_daemon.store.policy_store import MEMORY, SqliteStore, StoreLimits, open_store
from tests.fakes.store import NOW, policy_entry
from tests.store.opened_store import ENTRY, expect_example, nothing, put_example, run, run_read_only

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_an_empty_store_answers_without_asking_the_disk(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        with pytest.raises(StopIteration) as answered:
            store.get("absent.example").send(None)
        assert answered.value.value is None
        await put_example(store)
        await expect_example(store)

    run(path, body)
    run(path, expect_example)


@pytest.mark.parametrize("place", ["file", "memory"])
def test_once_the_names_are_learnt_only_what_may_be_there_is_looked_for(path: Path, place: str) -> None:
    where = path if place == "file" else MEMORY

    async def body(store: SqliteStore) -> None:
        await put_example(store)
        learning = asyncio.create_task(store.learn_names())
        meanwhile = asyncio.create_task(store.put(policy_entry("meanwhile.example"), NOW))
        await learning
        await meanwhile
        await store.learn_names()
        assert store.may_hold(ENTRY.domain)
        assert store.may_hold("meanwhile.example")
        assert not store.may_hold("absent.example")
        assert await store.get("absent.example") is None
        await expect_example(store)
        await store.delete(ENTRY.domain)
        assert await store.get(ENTRY.domain) is None

    async def again(store: SqliteStore) -> None:
        assert store.may_hold("absent.example") == (place == "file")
        await store.learn_names()
        assert store.may_hold("meanwhile.example") == (place == "file")
        assert not store.may_hold("absent.example")

    run(where, body)
    run(where, again)


# -- failing disks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "memory"])
def test_a_full_disk_fails_the_put_and_reads_go_on_and_later_puts_work_again(path: Path, where: str) -> None:
    large = policy_entry("large.example", body=ENTRY.held.body + b"x: " + b"y" * 60000) if ENTRY.held else ENTRY

    async def body(store: SqliteStore) -> None:
        await put_example(store)

        def fill_up(connection: sqlite3.Connection) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")

        await store._write(fill_up)
        both = await asyncio.gather(store.put(large, NOW), store.delete("absent.example"), return_exceptions=True)
        assert isinstance(both[0], StoreError)
        assert "full" in both[0].detail
        await expect_example(store)
        assert await store.get("large.example") is None
        await store._write(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
        await store.put(large, NOW)
        assert await store.get("large.example") == large
        assert 1 <= store.counters.failures <= 2

    run(path if where == "file" else MEMORY, body)


def test_a_put_that_cannot_be_stored_fails_alone_among_those_committed_with_it(path: Path) -> None:
    impossible = replace(ENTRY, domain="\udcff.example")
    without_time = replace(ENTRY, domain="nan.example", last_used=float("nan"))

    async def body(store: SqliteStore) -> None:
        results = await asyncio.gather(
            *(store.put(entry, NOW) for entry in (impossible, ENTRY, without_time)), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreError, type(None), StoreError]
        await expect_example(store)
        assert await store.count() == 1

    run(path, body)


def test_puts_made_together_share_a_commit(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await asyncio.gather(*(store.put(policy_entry(f"d{number}.example"), NOW) for number in range(200)))
        assert store.counters.puts == 200
        assert store.counters.commits == 1

    run(path, body)


def test_puts_alone_cannot_grow_the_store_far_beyond_its_limits() -> None:
    async def body(store: SqliteStore) -> None:
        for start in range(0, 3000, 250):
            entries = [policy_entry(f"d{start + number}.example", last_used=NOW + start) for number in range(250)]
            await asyncio.gather(*(store.put(entry, NOW) for entry in entries))
            assert await store.count() < 10 + 1000 + 256
        assert store.counters.removed["one-day"] >= 1990

    run(MEMORY, body, limits=StoreLimits(max_policies=10))


def test_what_tidy_removes_is_counted_by_its_reason(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await store.put(policy_entry("expired.example", at=NOW - 40 * 86400), None)
        await store.put(policy_entry("once.example"), NOW)
        for number in range(3):
            await store.put(policy_entry(f"d{number}.example", first_used=NOW - 86400), NOW)
        assert await store.tidy(NOW) == 3
        assert store.counters.removed == {"expired": 1, "one-day": 1, "least-recent": 1}

    run(path, body, limits=StoreLimits(max_policies=2))


def test_a_limit_smaller_than_an_empty_file_ends_with_an_empty_store(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await put_example(store)
        assert await store.tidy(NOW) == 1

    run(path, body, limits=StoreLimits(max_bytes=1))


# -- beside other processes --------------------------------------------------------------------------------


def test_a_reader_sees_what_the_daemon_puts_and_cannot_write(path: Path) -> None:
    async def look(reader: SqliteStore) -> None:
        await expect_example(reader)
        for call in (reader.put(ENTRY, None), reader.delete(ENTRY.domain), reader.tidy(NOW)):
            with pytest.raises(StoreError, match="reading only"):
                await call

    async def body(store: SqliteStore) -> None:
        await put_example(store)
        await run_read_only(path, look)
        await store.put(policy_entry("later.example"), NOW)

    run(path, body)
    asyncio.run(run_read_only(path, look))


def test_a_reader_makes_no_file(path: Path) -> None:
    with pytest.raises(StoreError):
        asyncio.run(run_read_only(path, nothing))
    assert list(path.parent.iterdir()) == []


def test_a_put_waits_for_another_process_that_writes(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(store.put(ENTRY, NOW))
            assert await store.get(ENTRY.domain) is None
            other.execute("COMMIT")
            await waiting
        await expect_example(store)

    run(path, body)


def test_a_put_beside_a_process_that_never_ends_writing_is_a_store_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0)

    async def body(store: SqliteStore) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked"):
                await store.put(ENTRY, NOW)
        await put_example(store)
        await expect_example(store)

    run(path, body)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            run(path, nothing)
    run(path, expect_example)


def test_a_second_writer_is_refused_until_the_first_has_ended(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await put_example(store)
        with pytest.raises(StoreError, match="another process writes it"):
            await open_store(path, now=NOW, wait=0)
        # One that is about to end is waited for, as when a new version takes over.
        generation = asyncio.create_task(open_store(path, now=NOW))
        await asyncio.sleep(0)
        await store.close()
        successor = await generation
        await expect_example(successor)
        await successor.close()

    run(path, body)


def test_a_lock_that_a_killed_process_left_holds_up_nobody(path: Path) -> None:
    script = f"""
        import asyncio, os
        from mtasts_daemon.store.policy_store import open_store
        async def main():
            await open_store({str(path)!r}, now={NOW})
            os.kill(os.getpid(), 9)
        asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, timeout=60)
    assert Path(f"{path}.lock").exists()

    async def main() -> None:
        store = await open_store(path, now=NOW, wait=0)
        await store.close()

    asyncio.run(main())


# -- a file that goes --------------------------------------------------------------------------------------


def put_other(path: Path) -> None:
    """Another store in the place, as when a backup is restored."""
    other = path.with_name("other.db")

    async def put(store: SqliteStore) -> None:
        await store.put(policy_entry("backup.example"), NOW)

    run(other, put)
    other.rename(path)


def test_a_file_that_is_where_it_was_is_left_alone(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await put_example(store)
        assert not await store.recover(NOW)

    run(path, body)
    run(MEMORY, body)


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")], ids=["file", "with its log"])
def test_of_a_file_that_was_removed_nothing_is_lost(path: Path, suffixes: tuple[str, ...]) -> None:
    files = [path.with_name(path.name + suffix) for suffix in suffixes]

    async def body(store: SqliteStore) -> None:
        await put_example(store)
        for file in files:
            file.unlink()
        await store.put(policy_entry("later.example"), NOW)
        with pytest.raises(StoreError, match="removed or replaced"):
            await store.browse(lambda connection: None)
        (told,) = await store.recover(NOW)
        assert "removed" in told.detail
        await expect_example(store)
        assert await store.browse(lambda connection: connection.execute("SELECT count(*) FROM entry").fetchone()) == (
            2,
        )
        assert not await store.recover(NOW)

    run(path, body)
    assert path.stat().st_mode & 0o777 == 0o600

    async def after(store: SqliteStore) -> None:
        await expect_example(store)
        assert await store.get("later.example") is not None

    run(path, after)


def test_a_file_that_was_replaced_is_the_store_from_then_on_without_the_log_of_the_old(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await put_example(store)
        assert not store.may_hold("backup.example")
        await asyncio.to_thread(put_other, path)
        (told,) = await store.recover(NOW)
        assert "replaced" in told.detail
        assert store.may_hold("backup.example")
        assert await store.get("backup.example") is not None
        assert await store.get(ENTRY.domain) is None
        await put_example(store)

    run(path, body)
    run(path, expect_example)


def test_a_file_that_comes_back_while_it_is_looked_after_keeps_all_that_is_in_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = database.DatabaseFile.is_lost

    def away_for_a_moment(place: database.DatabaseFile) -> bool:
        away = path.rename(path.with_name("away"))
        found = look(place)
        away.rename(path)
        return found

    async def body(store: SqliteStore) -> None:
        await put_example(store)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(database.DatabaseFile, "is_lost", away_for_a_moment)
            (told,) = await store.recover(NOW)
        assert told.detail == "it or its log was away; all of it is there"
        await expect_example(store)
        assert not await store.recover(NOW)

    run(path, body)
    run(path, expect_example)


def test_a_copy_that_cannot_be_put_in_its_place_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_paths: Path) -> None:
        raise OSError(28, "No space left on device")

    async def body(store: SqliteStore) -> None:
        await put_example(store)
        await asyncio.to_thread(path.unlink)
        with monkeypatch.context() as full:
            full.setattr(Path, "rename", refused)
            for _ in range(2):
                with pytest.raises(StoreError, match="No space left"):
                    await store.recover(NOW)
        (told,) = await store.recover(NOW)
        assert told.detail == "it was removed or spoilt; all of it is back"
        await expect_example(store)

    run(path, body)
    run(path, expect_example)


def test_a_log_that_was_removed_costs_nothing(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await put_example(store)
        for suffix in ("-wal", "-shm"):
            await asyncio.to_thread(path.with_name(path.name + suffix).unlink)
        await store.put(policy_entry("later.example"), NOW)
        (told,) = await store.recover(NOW)
        assert told.detail == "it or its log was away; all of it is there"
        await expect_example(store)
        assert not await store.recover(NOW)

    run(path, body)

    async def after(store: SqliteStore) -> None:
        await expect_example(store)
        assert await store.get("later.example") is not None

    run(path, after)


def test_what_is_asked_and_put_while_the_file_is_looked_after_waits_and_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rescue = database.DatabaseFile.rescue

    async def body(store: SqliteStore) -> None:
        loop, meanwhile = asyncio.get_running_loop(), list[Future[Any]]()

        def rescued(place: database.DatabaseFile, connection: sqlite3.Connection) -> Path | None:
            copy = rescue(place, connection)
            meanwhile.append(asyncio.run_coroutine_threadsafe(store.put(policy_entry("later.example"), NOW), loop))
            meanwhile.append(asyncio.run_coroutine_threadsafe(store.get(ENTRY.domain), loop))
            return copy

        await put_example(store)
        await asyncio.to_thread(path.unlink)
        monkeypatch.setattr(database.DatabaseFile, "rescue", rescued)
        await store.recover(NOW)
        put, got = [await asyncio.wrap_future(one) for one in meanwhile]
        assert (put, got) == (None, ENTRY)
        assert await store.get("later.example") is not None

    run(path, body)

    async def after(store: SqliteStore) -> None:
        assert await store.get("later.example") is not None

    run(path, after)


def test_rubbish_in_the_place_of_the_file_is_set_aside_and_nothing_is_lost(path: Path) -> None:
    rubbish = path.with_name("rubbish")
    rubbish.write_bytes(b"not a database " * 1000)

    async def body(store: SqliteStore) -> None:
        await put_example(store)
        rubbish.replace(path)
        spoilt, damaged = await store.recover(NOW)
        assert spoilt.detail == "it was removed or spoilt; all of it is back"
        assert "set aside" in damaged.detail
        await expect_example(store)

    run(path, body)
    run(path, expect_example)


def test_what_was_in_the_file_waits_until_its_place_is_free(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await put_example(store)
        await asyncio.to_thread(path.unlink)
        await asyncio.to_thread(path.mkdir)
        for _ in range(2):
            with pytest.raises(StoreError):
                await store.recover(NOW)
        await asyncio.to_thread(path.rmdir)
        (told,) = await store.recover(NOW)
        assert told.detail == "it was removed or spoilt; all of it is back"
        await expect_example(store)

    run(path, body)
    run(path, expect_example)
    assert not path.with_name(f"{path.name}.rescued").exists()


def test_a_file_whose_place_cannot_be_written_is_tried_again_and_kept_meanwhile(path: Path) -> None:
    gone = path.parent / "gone"

    async def body(store: SqliteStore) -> None:
        await put_example(store)
        path.parent.joinpath("folder").rename(gone)
        path.parent.joinpath("folder").write_text("in the way")
        with pytest.raises(StoreError):
            await store.recover(NOW)
        await expect_example(store)
        path.parent.joinpath("folder").unlink()
        path.parent.joinpath("folder").mkdir()
        assert await store.recover(NOW)
        await expect_example(store)

    folder = path.parent / "folder"
    folder.mkdir()
    run(folder / path.name, body)
    run(folder / path.name, expect_example)


# -- the end -----------------------------------------------------------------------------------------------


def test_close_commits_what_is_queued(path: Path) -> None:
    async def main() -> None:
        store = await open_store(path, now=NOW)
        puts = [asyncio.create_task(store.put(policy_entry(f"d{number}.example"), NOW)) for number in range(600)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*puts)

    async def look(store: SqliteStore) -> None:
        assert await store.count() == 600

    asyncio.run(main())
    run(path, look)


def test_close_does_not_wait_for_ever_for_a_disk_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    async def main() -> None:
        store = await open_store(path, now=NOW)
        hanging = asyncio.create_task(store.put(ENTRY, NOW))
        blocked = asyncio.create_task(_to_its_end(store._write(lambda _: answers.wait())))
        await asyncio.sleep(0)
        with monkeypatch.context() as impatient, pytest.raises(StoreError, match="in time"):
            impatient.setattr(store_module, "_CLOSE_WITHIN", 0.01)
            await store.close()
        answers.set()
        await asyncio.gather(hanging, blocked)

    asyncio.run(main())
    run(path, expect_example)


async def _to_its_end(call: Awaitable[object]) -> None:
    await call


def child(script: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_a_process_whose_loop_died_without_closing_the_store_ends(path: Path) -> None:
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
        assert process.wait(30) == 7
    run(path, expect_example)


@pytest.mark.parametrize("lines", [1, 7, 60, 400, 1500])
def test_no_policy_whose_put_returned_is_lost_to_kill_9(path: Path, lines: int) -> None:
    script = """
        import asyncio, itertools, os, sys
        from mtasts_daemon.store.policy_store import open_store
        from tests.fakes.store import NOW, policy_entry

        async def put_for_ever(store, numbers):
            for number in numbers:
                await store.put(policy_entry(f"d{number}.example"), NOW)
                os.write(1, b"d%d.example\\n" % number)

        async def main():
            store = await open_store(sys.argv[1], now=NOW)
            numbers = itertools.count()
            await asyncio.gather(*(put_for_ever(store, numbers) for _ in range(8)))

        asyncio.run(main())
    """
    with child(script, path) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.readlines()
    domains = [line.strip() for line in told if line.endswith("\n")]

    async def look(store: SqliteStore) -> None:
        found = await asyncio.gather(*(store.get(domain) for domain in domains))
        assert found == [policy_entry(domain) for domain in domains]

    assert len(domains) >= lines
    assert run(path, look) == ()
