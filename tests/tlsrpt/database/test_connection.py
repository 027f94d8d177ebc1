"""The TLSRPT database: results, caps, restarts, other readers and expiry."""

import dataclasses
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mtasts_daemon.errors import StoreDamaged, StoreError, StoreSchemaNewer
from mtasts_daemon.store import sqlite_file
from mtasts_daemon.text import utc_day
from mtasts_daemon.tlsrpt.database.connection import (
    Caps,
    DayRows,
    SavedReport,
    TlsrptDatabase,
    open_database,
    open_database_read_only,
)
from mtasts_daemon.tlsrpt.database.schema import SCHEMA
from mtasts_daemon.tlsrpt.database.writes import RowsGone
from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyType
from mtasts_daemon.tlsrpt.model.tally import DaySums, PolicyRows, Tally, policy_digest
from tests.tlsrpt.events import DAY, add_events, failed, failure, policy, succeeded

NOW = 1_790_000_000.0
NEXT_DAY = "2026-09-22"
T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tlsrpt.sqlite"


@pytest.fixture
def database(path: Path) -> Iterator[TlsrptDatabase]:
    with opened(path) as database:
        yield database


@contextmanager
def opened(path: Path, caps: Caps | None = None) -> Iterator[TlsrptDatabase]:
    with closed_at_the_end(open_database(path, now=NOW, caps=caps or Caps())) as database:
        yield database


@contextmanager
def closed_at_the_end(database: TlsrptDatabase) -> Iterator[TlsrptDatabase]:
    try:
        yield database
    finally:
        database.close_now()


async def wait(asked: Coroutine[Any, Any, T]) -> T:
    return await asked


async def only_row(database: TlsrptDatabase, day: str = DAY) -> PolicyRows:
    (row,) = (await wait(database.day_rows(day, "example.com"))).policies
    return row


def by_hand(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def note(database: TlsrptDatabase, failure: Failure, count: int) -> None:
    tally = Tally(DAY)
    tally.add_failure("example.com", policy(), failure, count)
    database.add(tally)


# -- adding ------------------------------------------------------------------------------------------------


async def test_events_add_up_in_one_or_several_transactions(database: TlsrptDatabase) -> None:
    add_events(database, [(DAY, succeeded()), (DAY, failed()), (DAY, failed(number=1))])
    add_events(database, [(DAY, failed(number=1)), (NEXT_DAY, succeeded())])
    assert await only_row(database) == PolicyRows(policy(), 1, 3, ((failure(1), 2), (failure(0), 1)))
    assert await only_row(database, NEXT_DAY) == PolicyRows(policy(), 1, 0, ())
    assert await wait(database.days()) == [DaySums(DAY, 1, 4, 3), DaySums(NEXT_DAY, 1, 1, 0)]


def test_policy_text_is_stored_once(database: TlsrptDatabase, path: Path) -> None:
    add_events(database, [(DAY, succeeded()), (NEXT_DAY, succeeded())])
    add_events(database, [(DAY, failed())])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM policy").fetchone() == (1,)


async def test_policy_is_returned_as_it_was_added(database: TlsrptDatabase) -> None:
    tlsa = Policy(PolicyType.TLSA, "mx.example.com", ("3 1 1 AB", '"ü" \\', ""), ())
    tally = Tally(DAY)
    tally.add_failure("example.com", tlsa, failure())
    database.add(tally)
    assert (await only_row(database)).policy == tlsa


async def test_failures_without_session_do_not_change_session_counts(database: TlsrptDatabase) -> None:
    own = Failure("sts-policy-fetch-error", info="it timed out")
    note(database, own, 3)
    assert await only_row(database) == PolicyRows(policy(), 0, 0, ((own, 3),))
    add_events(database, [(DAY, succeeded())])
    note(database, own, 1)
    assert await only_row(database) == PolicyRows(policy(), 1, 0, ((own, 4),))


async def test_sessions_are_added_to_returned_rows(database: TlsrptDatabase) -> None:
    tally = Tally(DAY)
    tally.add(succeeded())
    row = database.add(tally).rows["example.com", policy_digest(policy())]
    database.add(Tally(DAY), {row: 4})
    assert await only_row(database) == PolicyRows(policy(), 5, 0, ())


async def test_missing_row_adds_nothing(database: TlsrptDatabase) -> None:
    tally = Tally(DAY)
    tally.add(succeeded())
    row = database.add(tally).rows["example.com", policy_digest(policy())]
    with pytest.raises(RowsGone):
        database.add(tally, {row: 1, row + 1: 1})
    assert await only_row(database) == PolicyRows(policy(), 1, 0, ())


# -- caps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
async def test_failures_beyond_the_cap_keep_only_their_counts(path: Path, together: bool) -> None:
    events = [(DAY, failed(number=number)) for number in (*range(6), 0, 5)]
    with opened(path, Caps(failures=4)) as database:
        for batch in [events] if together else [[event] for event in events]:
            add_events(database, batch)
        expected = {failure(0): 2, failure(1): 1, failure(2): 1, failure(3): 1, Failure("certificate-expired"): 3}
        assert dict((await only_row(database)).failures) == expected
        assert (await only_row(database)).failed == 8


async def test_cap_on_failures_covers_all_policies_of_one_domain(path: Path) -> None:
    with opened(path, Caps(failures=2)) as database:
        add_events(database, [(DAY, failed(number=0)), (DAY, failed(number=1, of=1))])
        add_events(database, [(DAY, failed(number=2, of=1)), (DAY, failed("example.net")), (NEXT_DAY, failed())])
        first, second = (await wait(database.day_rows(DAY, "example.com"))).policies
        assert dict(first.failures) == {failure(0): 1}
        assert dict(second.failures) == {failure(1): 1, Failure("certificate-expired"): 1}
        assert dict((await wait(database.day_rows(DAY, "example.net"))).policies[0].failures) == {failure(): 1}
        assert dict((await only_row(database, NEXT_DAY)).failures) == {failure(): 1}


@pytest.mark.parametrize("together", [True, False])
async def test_policies_beyond_the_cap_keep_only_their_counts(path: Path, together: bool) -> None:
    events = [(DAY, succeeded(number=number)) for number in (*range(5), 0, 4)]
    with opened(path, Caps(policies=3)) as database:
        for batch in [events] if together else [[event] for event in events]:
            add_events(database, batch)
        rows = {row.policy: row.successful for row in (await wait(database.day_rows(DAY, "example.com"))).policies}
        assert rows == {policy(0): 2, policy(1): 1, policy(2): 1, Policy(PolicyType.STS, "example.com"): 3}


async def test_sessions_of_domains_beyond_the_cap_are_refused_and_counted(path: Path) -> None:
    with opened(path, Caps(domains=2)) as database:
        assert add_events(database, [(DAY, succeeded("a.example")), (DAY, succeeded("b.example"))]) == 0
        events = [(DAY, failed("c.example")), (DAY, succeeded("c.example")), (DAY, succeeded("b.example"))]
        assert add_events(database, [*events, (NEXT_DAY, succeeded("c.example"))]) == 2
        assert await wait(database.days()) == [DaySums(DAY, 2, 3, 0), DaySums(NEXT_DAY, 1, 1, 0)]


# -- reading -----------------------------------------------------------------------------------------------


async def test_empty_database_has_no_rows(database: TlsrptDatabase) -> None:
    assert await wait(database.day_rows(DAY, "example.com")) == DayRows("example.com", ())
    assert await wait(database.days()) == []
    assert await wait(database.domains(DAY)) == []


async def test_domains_and_their_rows_are_paged(database: TlsrptDatabase) -> None:
    names = [f"{letter}.example" for letter in "abcde"]
    add_events(database, [(DAY, event) for name in reversed(names) for event in (succeeded(name), failed(name))])
    assert await wait(database.domains(DAY, limit=2)) == names[:2]
    assert await wait(database.domains(DAY, "b.example")) == names[2:]
    pages = [await wait(database.day_pages(DAY, after, 2)) for after in ("", "b.example", "d.example", "e.example")]
    assert [[rows.domain for rows in page] for page in pages] == [names[:2], names[2:4], names[4:], []]
    for rows in (rows for page in pages for rows in page):
        assert rows == await wait(database.day_rows(DAY, rows.domain))
        assert rows.policies == (PolicyRows(policy(0, rows.domain), 1, 1, ((failure(), 1),)),)


async def test_reads_continue_during_a_write(database: TlsrptDatabase) -> None:
    add_events(database, [(DAY, succeeded())])

    def write(connection: sqlite3.Connection) -> list[tuple[int]]:
        connection.execute("UPDATE tally SET successful = 7")
        return database.read_now(lambda other: other.execute("SELECT successful FROM tally").fetchall())

    assert await wait(database.write(write)) == [(1,)]
    assert (await only_row(database)).successful == 7


async def test_write_that_raises_is_undone(database: TlsrptDatabase) -> None:
    add_events(database, [(DAY, succeeded())])

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM tally")
        raise KeyError

    with pytest.raises(KeyError):
        database.write_now(write)
    assert (await only_row(database)).successful == 1


async def test_failing_statement_raises_store_error_and_the_next_works(database: TlsrptDatabase) -> None:
    for job in (database.read, database.write):
        with pytest.raises(StoreError):
            await wait(job(lambda connection: connection.execute("SELECT * FROM absent")))
        assert await wait(job(lambda connection: connection.execute("SELECT 1").fetchall())) == [(1,)]


async def test_reading_connection_cannot_write(database: TlsrptDatabase) -> None:
    with pytest.raises(StoreError):
        await wait(database.read(lambda connection: connection.execute("DELETE FROM tally")))


async def test_damaged_row_is_skipped_alone(database: TlsrptDatabase, path: Path) -> None:
    add_events(database, [(DAY, succeeded(number=number)) for number in range(4)])
    by_hand(
        path,
        "UPDATE policy SET type = 77 WHERE id = 1",
        "UPDATE policy SET strings = '[' WHERE id = 2",
        "UPDATE policy SET mx_hosts = x'ff' WHERE id = 3",
    )
    assert [row.policy for row in (await wait(database.day_rows(DAY, "example.com"))).policies] == [policy(3)]


# -- reports -----------------------------------------------------------------------------------------------

REPORT = SavedReport("id@example.com", NOW, "abc", b"body")


def save_report(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        values = (REPORT.report_id, REPORT.created_at, REPORT.digest, REPORT.body)
        statement = "INSERT INTO report (day, domain, report_id, created_at, digest, body) VALUES (?, ?, ?, ?, ?, ?)"
        connection.execute(statement, (DAY, "example.com", *values))


async def test_report_is_loaded_as_it_was_saved(database: TlsrptDatabase, path: Path) -> None:
    assert await wait(database.load_report(DAY, "example.com")) is None
    save_report(path)
    assert await wait(database.load_report(DAY, "example.com")) == REPORT


async def test_expire_removes_old_days_and_unused_policies(database: TlsrptDatabase, path: Path) -> None:
    add_events(database, [(DAY, failed()), (DAY, failed(of=1)), (NEXT_DAY, failed())])
    save_report(path)
    assert await wait(database.expire(DAY)) == 0
    assert await wait(database.expire(NEXT_DAY)) == 1
    assert await wait(database.days()) == [DaySums(NEXT_DAY, 1, 1, 1)]
    assert await only_row(database, NEXT_DAY) == PolicyRows(policy(), 0, 1, ((failure(), 1),))
    assert await wait(database.load_report(DAY, "example.com")) is None
    with closing(sqlite3.connect(path)) as connection:
        for table in ("report_unit", "tally", "failure", "policy"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)


# -- the file ----------------------------------------------------------------------------------------------


def test_day_of_is_utc() -> None:
    assert utc_day(NOW) == DAY
    assert [utc_day(0.0), utc_day(86399.999), utc_day(86400.0)] == ["1970-01-01", "1970-01-01", "1970-01-02"]


async def test_results_are_there_after_a_restart(path: Path) -> None:
    with opened(path) as database:
        add_events(database, [(DAY, failed())])
    with opened(path) as database:
        assert (await only_row(database)).failed == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_file_is_readable_by_its_owner_only(database: TlsrptDatabase, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


async def test_database_is_readable_while_the_daemon_writes(database: TlsrptDatabase, path: Path) -> None:
    add_events(database, [(DAY, succeeded())])
    with closed_at_the_end(open_database_read_only(path)) as reader:
        assert (await only_row(reader)).successful == 1
        add_events(database, [(DAY, succeeded())])
        assert (await only_row(reader)).successful == 2
        with pytest.raises(StoreError):
            add_events(reader, [(DAY, succeeded())])


@pytest.mark.parametrize("content", [b"this is not a database\n" * 500, bytes(8192), b"hello"])
def test_damaged_file_is_set_aside_and_a_new_one_started(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with opened(path) as database:
        (problem,) = database.problems
        assert isinstance(problem, StoreDamaged)
        add_events(database, [(DAY, succeeded())])
    (aside,) = (file for file in path.parent.iterdir() if "damaged-" in file.name)
    assert aside.read_bytes() == content


def test_newer_schema_is_left_untouched(path: Path) -> None:
    open_database(path, now=NOW).close_now()
    by_hand(path, f"PRAGMA user_version = {len(SCHEMA.migrations) + 1}")
    before = path.read_bytes()
    for attempt in (lambda: open_database(path, now=NOW), lambda: open_database_read_only(path)):
        refuse(attempt, StoreSchemaNewer)
    assert path.read_bytes() == before


async def test_file_of_the_second_version_keeps_its_results_and_deliveries(path: Path) -> None:
    older = dataclasses.replace(SCHEMA, migrations=SCHEMA.migrations[:2])
    with closing(sqlite_file.open_writing(str(path), older)) as connection:
        connection.execute("INSERT INTO subject VALUES (1, ?, 'example.com')", (DAY,))
        connection.execute("INSERT INTO policy VALUES (1, 'd', 9, 'example.com', '[]', '[]')")
        connection.execute("INSERT INTO tally VALUES (1, 1, 3, 2)")
        connection.execute("INSERT INTO failure VALUES (1, 1, 'certificate-expired', '', '', '', '', '', '', 2)")
        values = (DAY, "example.com", "mailto:a@example.com", "tag", "mail", "pending")
        connection.execute("INSERT INTO delivery VALUES (?, ?, ?, ?, ?, ?, 0, 1, 2, '', NULL)", values)
    with opened(path) as database:
        row = await only_row(database)
        assert (row.successful, row.failed, row.failures) == (3, 2, ((Failure("certificate-expired"), 2),))
        add_events(database, [(DAY, succeeded())])
        deliveries = await wait(
            database.read(lambda connection: connection.execute("SELECT destination FROM delivery").fetchall())
        )
        assert deliveries == [("mail",)]


def test_policy_store_is_rejected(path: Path) -> None:
    by_hand(path, "PRAGMA application_id = 1297372244", "CREATE TABLE entry (x)")
    refuse(lambda: open_database(path, now=NOW), StoreError)


def refuse(attempt: Callable[[], TlsrptDatabase], error: type[StoreError]) -> None:
    with pytest.raises(error):
        attempt()


async def test_closed_database_raises_store_error(path: Path) -> None:
    database = open_database(path, now=NOW)
    await wait(database.close())
    await wait(database.close())
    with pytest.raises(StoreError, match="closed"):
        await wait(database.days())
    with pytest.raises(StoreError, match="closed"):
        add_events(database, [(DAY, succeeded())])


async def test_file_locked_by_another_process_raises_store_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "_BUSY_SECONDS", 0)
    with opened(path) as database, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError):
            add_events(database, [(DAY, succeeded())])
        other.rollback()
        add_events(database, [(DAY, succeeded())])
        assert (await only_row(database)).successful == 1


# -- a file that is deleted or replaced --------------------------------------------------------------------


async def test_replaced_file_is_used_and_rows_of_the_old_one_are_rejected(path: Path) -> None:
    tally = Tally(DAY)
    tally.add(succeeded())
    with opened(path.with_name("other.sqlite")) as other:
        add_events(other, [(DAY, succeeded("other.example"))])
    with opened(path) as database:
        (row,) = database.add(tally).rows.values()
        path.with_name("other.sqlite").rename(path)
        (problem,) = await wait(database.recover(NOW))
        assert problem.detail == "it was deleted or replaced"
        with pytest.raises(RowsGone):
            database.add(Tally(DAY), {row: 1})
        assert (again := database.add(tally, {row: 1}, database.generation).rows)
        assert row not in again.values()
    with opened(path) as database:
        assert [(rows.domain, rows.policies[0].successful) for rows in await wait(database.day_pages(DAY))] == [
            ("example.com", 1),
            ("other.example", 2),
        ]


async def test_deleted_file_is_created_again(path: Path) -> None:
    with opened(path) as database:
        add_events(database, [(DAY, succeeded())])
        path.unlink()
        assert len(await wait(database.recover(NOW))) == 1
        add_events(database, [(DAY, succeeded())])
    with opened(path) as database:
        assert (await only_row(database)).successful == 1


def test_command_raises_for_a_damaged_file_and_leaves_it(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)
    refuse(lambda: open_database(path, now=NOW, keep_damaged=True), StoreDamaged)
    assert path.read_bytes() == b"not a database " * 1000
    assert [file.name for file in path.parent.iterdir()] == [path.name]
