"""The storage engine: jobs, transactions, recovery of a deleted or replaced file, and the end."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from mtasts_daemon.errors import StoreDamaged, StoreError
from mtasts_daemon.store import database as engine
from mtasts_daemon.store import sqlite_file
from mtasts_daemon.store.database import MEMORY, Database, DatabaseCounters, Options, Schema
from tests.event_loop import idle

NOW = 20_000 * 86400.0
SCHEMA = Schema(7, "word", (("CREATE TABLE word (text TEXT NOT NULL UNIQUE)",),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "words.db"


@asynccontextmanager
async def opened(path: Path | str, options: Options = Options("words")) -> AsyncIterator[Database]:  # noqa: B008
    database = Database(path, SCHEMA, options, DatabaseCounters())
    await database.open(NOW)
    try:
        yield database
    finally:
        await database.close()


def add(word: str) -> Callable[[sqlite3.Connection], None]:
    def job(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO word VALUES (?)", (word,))

    return job


def words(connection: sqlite3.Connection) -> list[str]:
    return [text for (text,) in connection.execute("SELECT text FROM word ORDER BY text")]


# -- jobs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", MEMORY])
async def test_concurrent_writes_share_a_transaction(path: Path, where: str) -> None:
    async with opened(path if where == "file" else where) as database:
        await asyncio.gather(*(database.write(add(f"w{number}")) for number in range(9)))
        assert database.counters.commits == 1
        assert len(await database.read(words)) == 9


@pytest.mark.parametrize("where", ["file", MEMORY])
async def test_job_that_raises_is_undone_alone(path: Path, where: str) -> None:
    def half(connection: sqlite3.Connection) -> None:
        add("half")(connection)
        raise KeyError("of its own")

    async with opened(path if where == "file" else where) as database:
        jobs = [add("a"), half, add("a"), add("b")]
        results = await asyncio.gather(*map(database.write, jobs), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), KeyError, StoreError, type(None)]
        assert await database.read(words) == ["a", "b"]
        assert database.write_failure is None


async def test_threads_and_loops_share_the_connections(path: Path) -> None:
    database = Database(path, SCHEMA, Options("words"), DatabaseCounters())
    await asyncio.to_thread(database.open_now, NOW)
    await asyncio.gather(database.write(add("a")), asyncio.to_thread(database.write_now, add("b")))
    assert await asyncio.to_thread(database.read_now, words) == ["a", "b"]
    assert await asyncio.to_thread(asyncio.run, database.read(words)) == ["a", "b"]
    await database.close()


async def test_each_job_runs_on_the_thread_of_its_kind(path: Path) -> None:
    def name(_connection: sqlite3.Connection) -> str:
        return threading.current_thread().name

    async with opened(path) as database:
        named = [await database.write(name), await asyncio.to_thread(database.write_now, name)]
        assert named == ["words-writer_0"] * 2
        assert await database.read(name) == "words-reader_0"


# -- a file that is deleted or replaced --------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", MEMORY])
async def test_file_in_its_place_is_left_alone(path: Path, where: str) -> None:
    async with opened(path if where == "file" else where) as database:
        await database.write(add("a"))
        assert not database.is_lost()
        assert await database.recover(NOW) == ()
        assert database.generation == 0
        assert await database.read(words) == ["a"]


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")], ids=["file", "file and log"])
async def test_deleted_file_is_detected_and_created_again(path: Path, suffixes: tuple[str, ...]) -> None:
    async with opened(path) as database:
        await database.write(add("a"))
        for suffix in suffixes:
            Path(f"{path}{suffix}").unlink()
        assert database.is_lost()
        (problem,) = await database.recover(NOW)
        assert problem.detail == "it was deleted or replaced"
        assert database.generation == 1
        assert await database.read(words) == []
        await database.write(add("b"))
        assert await database.recover(NOW) == ()
    async with opened(path) as database:
        assert await database.read(words) == ["b"]


async def test_replaced_file_is_used_without_the_log_of_the_old_one(path: Path) -> None:
    other = path.with_name("other.db")
    async with opened(other) as database:
        await database.write(add("backup"))
    async with opened(path) as database:
        await database.write(add("a"))
        other.rename(path)
        assert len(await database.recover(NOW)) == 1
        assert await database.read(words) == ["backup"]
        await database.write(add("b"))
    async with opened(path) as database:
        assert await database.read(words) == ["b", "backup"]


async def test_deleted_log_loses_nothing(path: Path) -> None:
    async with opened(path) as database:
        await database.write(add("a"))
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink()
        await database.write(add("b"))
        assert len(await database.recover(NOW)) == 1
        assert await database.read(words) == ["a", "b"]


async def test_jobs_that_come_during_recovery_wait_and_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opens, reopening = threading.Event(), threading.Event()
    open_writing = sqlite_file.open_writing

    def held_up(*arguments: object, **options: object) -> sqlite3.Connection:
        reopening.set()
        opens.wait()
        return open_writing(*arguments, **options)  # type: ignore[arg-type]

    async with opened(path) as database:
        await asyncio.to_thread(path.unlink)
        monkeypatch.setattr("mtasts_daemon.store.connections.open_writing", held_up)
        recovering = asyncio.create_task(database.recover(NOW))
        await asyncio.to_thread(reopening.wait)
        jobs = [asyncio.create_task(database.write(add("a"))), asyncio.create_task(database.read(words))]
        await idle()
        opens.set()
        await recovering
        await asyncio.gather(*jobs)
        assert await database.read(words) == ["a"]


async def test_damaged_file_in_its_place_is_set_aside(path: Path) -> None:
    async with opened(path) as database:
        path.with_name("other").write_bytes(b"not a database " * 1000)
        path.with_name("other").replace(path)
        _, damage = await database.recover(NOW)
        assert isinstance(damage, StoreDamaged)
        assert "set aside as 'words.db.damaged-" in damage.detail
        await database.write(add("a"))


async def test_place_that_cannot_be_opened_is_tried_again(path: Path) -> None:
    async with opened(path) as database:
        await asyncio.to_thread(path.unlink)
        await asyncio.to_thread(path.mkdir)
        for _ in range(2):
            with pytest.raises(StoreError):
                await database.recover(NOW)
            for call in (database.read(words), database.write(add("a"))):
                with pytest.raises(StoreError, match="its file cannot be opened"):
                    await call
        await asyncio.to_thread(path.rmdir)
        assert await database.recover(NOW)
        await database.write(add("a"))
        assert await database.read(words) == ["a"]


def test_file_of_root_belongs_to_the_owner_of_its_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    folder = path.parent / "folder"
    folder.mkdir()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.fchown", lambda _descriptor, user, group: given.append((user, group)))
    stat = Path.stat

    def owned_by_another(self: Path) -> object:
        found = stat(self)
        values = list(found)
        values[4:6] = [123, 456]
        return type(found)(values) if self == folder else found

    monkeypatch.setattr(Path, "stat", owned_by_another)
    for _ in range(2):
        sqlite_file.make_file(folder / "words.db")
    assert given == [(123, 456)]


# -- the end -----------------------------------------------------------------------------------------------


async def test_closed_database_raises_store_error(path: Path) -> None:
    async with opened(path) as database:
        await database.close()
        for call in (database.read(words), database.write(add("a"))):
            with pytest.raises(StoreError, match="it is closed"):
                await call
        with pytest.raises(StoreError, match="it is closed"):
            database.write_now(add("a"))
        assert await database.recover(NOW) == ()


async def test_close_gives_up_on_a_disk_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_CLOSE_SECONDS", 0.01)
    answers = threading.Event()
    database = Database(path, SCHEMA, Options("words"), DatabaseCounters())
    await database.open(NOW)
    hanging = asyncio.create_task(database.write(lambda _connection: answers.wait()))
    later = asyncio.create_task(database.write(add("a")))
    await idle()
    with pytest.raises(StoreError, match="in time"):
        await database.close()
    answers.set()
    await asyncio.gather(hanging, later)
    with closing(sqlite3.connect(path)) as connection:
        assert words(connection) == ["a"]
