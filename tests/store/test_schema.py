"""The file of the policy store: its place, its schema, and damage."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mtasts_daemon.errors import StoreDamaged, StoreError, StoreSchemaNewer
from mtasts_daemon.store import schema as schema
from mtasts_daemon.store import sqlite_file
from mtasts_daemon.store.policy_store import MEMORY, SqliteStore
from tests.fakes.store import NOW, policy_entry
from tests.store.opened_store import ENTRY, by_hand, expect_example, nothing, opened_read_only, put_example, run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def read_only(path: Path) -> None:
    async with opened_read_only(path):
        pass


def pragma(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


# -- the file ----------------------------------------------------------------------------------------------


async def test_entry_is_there_after_a_restart(path: Path) -> None:
    await run(path, put_example)
    assert await run(path, expect_example) == ()


async def test_file_is_readable_by_its_owner_only_and_its_folder_is_created(tmp_path: Path) -> None:
    path = tmp_path / "made" / "store.db"
    modes: dict[str, int] = {}

    async def body(store: SqliteStore) -> None:
        await put_example(store)
        modes.update({file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()})

    await run(path, body)
    assert modes == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm", "store.db.lock"), 0o600)
    assert path.parent.stat().st_mode & 0o777 & ~0o750 == 0


async def test_close_leaves_the_file_and_an_empty_lock_file(path: Path) -> None:
    await run(path, put_example)
    assert {file.name for file in path.parent.iterdir()} == {"store.db", "store.db.lock"}
    assert path.with_name("store.db.lock").read_bytes() == b""


async def test_path_that_cannot_be_written_raises_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "store.db", tmp_path / "a" / "b" / "store.db", tmp_path, "/proc/store.db", "\0"):
        with pytest.raises(StoreError):
            await run(path, nothing)
    assert not (tmp_path / "a").exists()


async def test_store_in_memory_creates_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await run(MEMORY, put_example)
    assert list(tmp_path.iterdir()) == []


# -- its schema --------------------------------------------------------------------------------------------


async def test_empty_file_becomes_a_store_at_the_newest_version(path: Path) -> None:
    path.touch()
    await run(path, put_example)
    assert pragma(path, "user_version") == len(schema.MIGRATIONS)
    assert pragma(path, "application_id") == schema.SCHEMA.application_id
    await run(path, expect_example)


STEP = ("ALTER TABLE entry ADD COLUMN note TEXT", "UPDATE entry SET note = 'seen'")
NEXT = replace(schema.SCHEMA, migrations=(*schema.MIGRATIONS, STEP))


async def test_older_schema_is_migrated_with_its_rows(path: Path) -> None:
    await run(path, put_example)
    sqlite_file.open_writing(str(path), NEXT).close()
    assert pragma(path, "user_version") == len(NEXT.migrations)
    with closing(sqlite_file.open_reading(str(path), NEXT)) as connection:
        row = connection.execute(f"SELECT {schema.COLUMNS} FROM entry").fetchone()
        assert schema.entry_of(row) == ENTRY
        assert connection.execute("SELECT note FROM entry").fetchone() == ("seen",)


def test_empty_file_is_migrated_in_one_transaction(path: Path) -> None:
    path.touch()
    sqlite_file.open_writing(str(path), NEXT).close()
    assert pragma(path, "user_version") == len(NEXT.migrations)


async def test_migration_that_fails_leaves_the_older_schema(path: Path) -> None:
    await run(path, put_example)
    with pytest.raises(StoreError):
        sqlite_file.open_writing(
            str(path), replace(NEXT, migrations=(*NEXT.migrations, ("ALTER TABLE absent ADD COLUMN x",)))
        )
    assert pragma(path, "user_version") == len(schema.MIGRATIONS)
    await run(path, expect_example)


async def test_newer_schema_is_left_untouched(path: Path) -> None:
    await run(path, put_example)
    by_hand(path, f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreSchemaNewer):
        await run(path, nothing)
    with pytest.raises(StoreSchemaNewer):
        await read_only(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("statement", ["CREATE TABLE t (x)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"])
async def test_database_of_another_program_is_left_untouched(path: Path, statement: str) -> None:
    by_hand(path, statement, "VACUUM")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        await run(path, nothing)
    assert path.read_bytes() == before


# -- damage ------------------------------------------------------------------------------------------------


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database\n" * 500)


def _few_octets(path: Path) -> None:
    path.write_bytes(b"hello")


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(8192))


def _truncated(path: Path) -> None:
    asyncio.run(run(path, put_example))
    os.truncate(path, path.stat().st_size - 4096)


def _without_its_table(path: Path) -> None:
    by_hand(path, f"PRAGMA application_id = {schema.SCHEMA.application_id}", "PRAGMA user_version = 1")


def _with_another_table(path: Path) -> None:
    _without_its_table(path)
    by_hand(path, "CREATE TABLE other (x)")


@pytest.mark.parametrize("damage", [_garbage, _few_octets, _zeros, _truncated, _without_its_table, _with_another_table])
async def test_damaged_file_is_set_aside_and_a_new_one_started(path: Path, damage: Callable[[Path], None]) -> None:
    await asyncio.to_thread(damage, path)
    before = path.read_bytes()
    (problem,) = await run(path, put_example)
    assert isinstance(problem, StoreDamaged)
    (aside,) = (file for file in path.parent.iterdir() if "damaged-" in file.name and not file.name.endswith("-shm"))
    assert aside.name == "store.db.damaged-20241004T000000Z"
    assert aside.name in problem.detail
    assert aside.read_bytes() == before
    assert await run(path, expect_example) == ()


async def test_second_damaged_file_does_not_replace_the_first(path: Path) -> None:
    for content in (b"first", b"second"):
        path.write_bytes(content)
        await run(path, nothing)
        path.unlink()
    assert sorted(file.read_bytes() for file in path.parent.glob("*damaged*")) == [b"first", b"second"]


def test_log_of_a_damaged_file_is_set_aside_with_it(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").write_text(suffix)
    aside = sqlite_file.set_aside(str(path), NOW)
    assert {file.name: file.read_text() for file in path.parent.iterdir()} == {
        f"{aside.name}{suffix}": suffix for suffix in ("", "-wal", "-shm")
    }


async def test_log_of_a_damaged_file_is_not_applied_to_the_new_one(path: Path) -> None:
    await run(path, put_example)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE entry SET domain = 'from-the-log.example'")
        log = Path(f"{path}-wal").read_bytes()
    _garbage(path)
    Path(f"{path}-wal").write_bytes(log)

    async def look(store: SqliteStore) -> None:
        assert await store.count() == 0
        await put_example(store)

    assert len(await run(path, look)) == 1
    await run(path, expect_example)


@pytest.mark.parametrize(
    "change",
    [
        "body = 'text, not octets'",
        "body = x'00ff'",
        "body = zeroblob(70000)",
        "body = CAST('{' AS BLOB)",
        "body = CAST('version: STSv1' AS BLOB)",
        "record_id = NULL",
        "record_id = x'37'",
        "record_id = CAST(x'ff' AS TEXT)",
        "fetched_at = 'yesterday'",
        "valid_until = NULL",
        "valid_until = 9e999",
        "last_used = 'never'",
        "txt_at = 1, txt_holds_until = NULL",
        "txt_at = 1, txt_holds_until = 2, txt_detail = NULL",
        "failure_at = 1",
        "failure_at = 1, failure_retry_at = 2, failure_record_id = '', failure_problem = '', failure_detail = ''",
    ],
)
async def test_damaged_row_is_reported_and_skipped_until_the_next_put(path: Path, change: str) -> None:
    other = policy_entry("other.example")

    async def fill(store: SqliteStore) -> None:
        await put_example(store)
        await store.put(other, NOW)

    async def look(store: SqliteStore) -> None:
        found = await asyncio.gather(*(store.get(domain) for domain in ("example.com", "other.example")))
        assert found == [None, other]
        assert store.counters.damaged_rows == 1
        assert await store.page("", 1) == [other]
        assert await store.due(NOW, 0, 1) == [other]
        assert store.counters.failures == 0
        await put_example(store)
        await expect_example(store)

    await run(path, fill)
    by_hand(path, f"UPDATE entry SET {change} WHERE domain = 'example.com'")
    reported: list[StoreError] = []
    await run(path, look, reported=reported)
    assert isinstance(reported[0], StoreDamaged)
    assert "example.com" in reported[0].detail


async def test_name_in_a_damaged_row_is_escaped_in_the_report(path: Path) -> None:
    async def look(store: SqliteStore) -> None:
        assert await store.page("", 10) == []

    await run(path, put_example)
    by_hand(path, "UPDATE entry SET record_id = NULL, domain = 'a' || char(10, 27) || 'b'")
    reported: list[StoreError] = []
    await run(path, look, reported=reported)
    assert reported[0].detail.isprintable()


async def test_damaged_page_fails_only_the_rows_on_it(path: Path) -> None:
    domains = [f"d{number:04}.example" for number in range(500)]

    async def fill(store: SqliteStore) -> None:
        await asyncio.gather(*(store.put(policy_entry(domain), NOW) for domain in domains))

    async def look(store: SqliteStore) -> None:
        found = await asyncio.gather(*(store.get(domain) for domain in domains), return_exceptions=True)
        failed = [result for result in found if isinstance(result, StoreDamaged)]
        assert 0 < len(failed) < 50
        assert [result for result in found if not isinstance(result, StoreDamaged)] == [
            policy_entry(domain)
            for domain, result in zip(domains, found, strict=True)
            if not isinstance(result, StoreDamaged)
        ]
        assert store.counters.failures == len(failed)
        good = len(domains) - len(failed)
        assert len(await store.due(NOW, 0, 1000)) == len(await store.page("", 1000)) == good
        assert len(await store.due(NOW, 0, good - 1)) == good - 1
        assert store.counters.damaged_rows >= 2 * len(failed)
        await put_example(store)
        await expect_example(store)

    await run(path, fill)
    content = bytearray(path.read_bytes())
    pages = [slice(start, start + 4096) for start in range(0, len(content), 4096)]
    (of_table, *_) = (
        page for page in pages if b"d0250.example" in content[page] and b"mx.example.com" in content[page]
    )
    content[of_table] = b"\xff" * 4096
    path.write_bytes(content)
    assert await run(path, look) == ()


def test_file_that_cannot_be_reached_is_not_missing(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    assert not sqlite_file.database_exists(file)
    file.touch()
    assert sqlite_file.database_exists(file)
    assert not sqlite_file.database_exists(file / "below.sqlite")
    with pytest.raises(StoreError, match="name too long"):  # as root no folder is closed
        sqlite_file.database_exists(tmp_path / ("x" * 300) / "store.sqlite")
