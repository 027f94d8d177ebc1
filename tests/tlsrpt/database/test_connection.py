"""The TLSRPT database: what is added is there, within the caps, after restarts, beside readers, until it expires."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mtasts_daemon.errors import StoreDamaged, StoreError, StoreSchemaNewer
from mtasts_daemon.store import database as sqlite_file
from mtasts_daemon.tlsrpt.database.connection import (
    Caps,
    DayRows,
    SavedReport,
    TlsrptDatabase,
    day_of,
    open_database,
    open_database_read_only,
)
from mtasts_daemon.tlsrpt.database.schema import SCHEMA
from mtasts_daemon.tlsrpt.database.writes import RowsGone
from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyType
from mtasts_daemon.tlsrpt.model.tally import DaySums, PolicyRows, Tally, policy_digest
from tests.tlsrpt.events import DAY, failed, failure, policy, succeeded

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


def wait(asked: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asked)


def only_row(database: TlsrptDatabase, day: str = DAY) -> PolicyRows:
    (row,) = wait(database.day_rows(day, "example.com")).policies
    return row


def by_hand(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# -- adding ------------------------------------------------------------------------------------------------


def test_events_add_up_whether_they_come_together_or_not(database: TlsrptDatabase) -> None:
    database.add_events([(DAY, succeeded()), (DAY, failed()), (DAY, failed(number=1))])
    database.add_events([(DAY, failed(number=1)), (NEXT_DAY, succeeded())])
    assert only_row(database) == PolicyRows(policy(), 1, 3, ((failure(1), 2), (failure(0), 1)))
    assert only_row(database, NEXT_DAY) == PolicyRows(policy(), 1, 0, ())
    assert wait(database.days()) == [DaySums(DAY, 1, 4, 3), DaySums(NEXT_DAY, 1, 1, 0)]


def test_a_policys_text_is_stored_once(database: TlsrptDatabase, path: Path) -> None:
    database.add_events([(DAY, succeeded()), (NEXT_DAY, succeeded())])
    database.add_events([(DAY, failed())])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM policy").fetchone() == (1,)


def test_a_policy_comes_back_as_it_was(database: TlsrptDatabase) -> None:
    tlsa = Policy(PolicyType.TLSA, "mx.example.com", ("3 1 1 AB", '"ü" \\', ""), ())
    tally = Tally(DAY)
    tally.add_failure("example.com", tlsa, failure())
    database.add(tally)
    assert only_row(database).policy == tlsa


def test_own_knowledge_never_touches_the_sessions(database: TlsrptDatabase) -> None:
    own = Failure("sts-policy-fetch-error", info="it timed out")
    wait(database.add_failures(DAY, "example.com", policy(), own, 3))
    assert only_row(database) == PolicyRows(policy(), 0, 0, ((own, 3),))
    database.add_events([(DAY, succeeded())])
    wait(database.add_failures(DAY, "example.com", policy(), own))
    assert only_row(database) == PolicyRows(policy(), 1, 0, ((own, 4),))


def test_sessions_are_added_again_to_rows_that_were_told(database: TlsrptDatabase) -> None:
    tally = Tally(DAY)
    tally.add(succeeded())
    row = database.add(tally).rows["example.com", policy_digest(policy())]
    database.add(Tally(DAY), {row: 4})
    assert only_row(database) == PolicyRows(policy(), 5, 0, ())


def test_where_a_row_is_gone_nothing_is_added(database: TlsrptDatabase) -> None:
    tally = Tally(DAY)
    tally.add(succeeded())
    row = database.add(tally).rows["example.com", policy_digest(policy())]
    with pytest.raises(RowsGone):
        database.add(tally, {row: 1, row + 1: 1})
    assert only_row(database) == PolicyRows(policy(), 1, 0, ())


# -- caps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_failures_up_to_the_cap_keep_their_details_and_further_ones_their_counts(path: Path, together: bool) -> None:
    events = [(DAY, failed(number=number)) for number in (*range(6), 0, 5)]
    with opened(path, Caps(failures=4)) as database:
        for batch in [events] if together else [[event] for event in events]:
            database.add_events(batch)
        expected = {failure(0): 2, failure(1): 1, failure(2): 1, failure(3): 1, Failure("certificate-expired"): 3}
        assert dict(only_row(database).failures) == expected
        assert only_row(database).failed == 8


def test_the_cap_on_failures_counts_all_policies_of_a_domain_and_no_other_domain(path: Path) -> None:
    with opened(path, Caps(failures=2)) as database:
        database.add_events([(DAY, failed(number=0)), (DAY, failed(number=1, of=1))])
        database.add_events([(DAY, failed(number=2, of=1)), (DAY, failed("example.net")), (NEXT_DAY, failed())])
        first, second = wait(database.day_rows(DAY, "example.com")).policies
        assert dict(first.failures) == {failure(0): 1}
        assert dict(second.failures) == {failure(1): 1, Failure("certificate-expired"): 1}
        assert dict(wait(database.day_rows(DAY, "example.net")).policies[0].failures) == {failure(): 1}
        assert dict(only_row(database, NEXT_DAY).failures) == {failure(): 1}


@pytest.mark.parametrize("together", [True, False])
def test_policies_up_to_the_cap_keep_their_texts_and_further_ones_their_counts(path: Path, together: bool) -> None:
    events = [(DAY, succeeded(number=number)) for number in (*range(5), 0, 4)]
    with opened(path, Caps(policies=3)) as database:
        for batch in [events] if together else [[event] for event in events]:
            database.add_events(batch)
        rows = {row.policy: row.successful for row in wait(database.day_rows(DAY, "example.com")).policies}
        assert rows == {policy(0): 2, policy(1): 1, policy(2): 1, Policy(PolicyType.STS, "example.com"): 3}


def test_sessions_with_domains_beyond_the_cap_are_counted_and_not_kept(path: Path) -> None:
    with opened(path, Caps(domains=2)) as database:
        assert database.add_events([(DAY, succeeded("a.example")), (DAY, succeeded("b.example"))]) == 0
        events = [(DAY, failed("c.example")), (DAY, succeeded("c.example")), (DAY, succeeded("b.example"))]
        assert database.add_events([*events, (NEXT_DAY, succeeded("c.example"))]) == 2
        assert wait(database.days()) == [DaySums(DAY, 2, 3, 0), DaySums(NEXT_DAY, 1, 1, 0)]


# -- reading -----------------------------------------------------------------------------------------------


def test_what_is_not_known_has_no_rows(database: TlsrptDatabase) -> None:
    assert wait(database.day_rows(DAY, "example.com")) == DayRows("example.com", ())
    assert wait(database.days()) == []
    assert wait(database.domains(DAY)) == []


def test_domains_and_their_rows_come_in_pages(database: TlsrptDatabase) -> None:
    names = [f"{letter}.example" for letter in "abcde"]
    database.add_events([(DAY, event) for name in reversed(names) for event in (succeeded(name), failed(name))])
    assert wait(database.domains(DAY, limit=2)) == names[:2]
    assert wait(database.domains(DAY, "b.example")) == names[2:]
    pages = [wait(database.day_pages(DAY, after, 2)) for after in ("", "b.example", "d.example", "e.example")]
    assert [[rows.domain for rows in page] for page in pages] == [names[:2], names[2:4], names[4:], []]
    for rows in (rows for page in pages for rows in page):
        assert rows == wait(database.day_rows(DAY, rows.domain))
        assert rows.policies == (PolicyRows(policy(0, rows.domain), 1, 1, ((failure(), 1),)),)


def test_reading_goes_on_while_something_is_written(database: TlsrptDatabase) -> None:
    database.add_events([(DAY, succeeded())])

    def write(connection: sqlite3.Connection) -> list[tuple[int]]:
        connection.execute("UPDATE tally SET successful = 7")
        return database.read_now(lambda other: other.execute("SELECT successful FROM tally").fetchall())

    assert wait(database.write(write)) == [(1,)]
    assert only_row(database).successful == 7


def test_a_write_that_raises_is_undone(database: TlsrptDatabase) -> None:
    database.add_events([(DAY, succeeded())])

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM tally")
        raise KeyError

    with pytest.raises(KeyError):
        database.write_now(write)
    assert only_row(database).successful == 1


def test_a_statement_that_fails_is_a_store_error_and_the_next_one_works(database: TlsrptDatabase) -> None:
    for job in (database.read, database.write):
        with pytest.raises(StoreError):
            wait(job(lambda connection: connection.execute("SELECT * FROM absent")))
        assert wait(job(lambda connection: connection.execute("SELECT 1").fetchall())) == [(1,)]


def test_reading_connections_cannot_write(database: TlsrptDatabase) -> None:
    with pytest.raises(StoreError):
        wait(database.read(lambda connection: connection.execute("DELETE FROM tally")))


def test_a_row_that_makes_no_sense_spoils_only_itself(database: TlsrptDatabase, path: Path) -> None:
    database.add_events([(DAY, succeeded(number=number)) for number in range(4)])
    by_hand(
        path,
        "UPDATE policy SET type = 77 WHERE id = 1",
        "UPDATE policy SET strings = '[' WHERE id = 2",
        "UPDATE policy SET mx_hosts = x'ff' WHERE id = 3",
    )
    assert [row.policy for row in wait(database.day_rows(DAY, "example.com")).policies] == [policy(3)]


# -- reports -----------------------------------------------------------------------------------------------

REPORT = SavedReport("id@example.com", NOW, "abc", b"body")


def test_a_domain_is_due_while_its_day_is_over_and_there_is_no_report(database: TlsrptDatabase) -> None:
    days = [(DAY, "a.example"), (DAY, "b.example"), (NEXT_DAY, "a.example")]
    database.add_events([(day, succeeded(domain)) for day, domain in days])
    assert wait(database.due_domains(DAY)) == []
    assert wait(database.due_domains(NEXT_DAY)) == days[:2]
    assert wait(database.due_domains("2026-09-23")) == days
    assert wait(database.due_domains("2026-09-23", days[0], 1)) == days[1:2]
    wait(database.save_report(*days[1], REPORT))
    assert wait(database.due_domains("2026-09-23")) == [days[0], days[2]]


def test_the_first_report_stays_the_report(database: TlsrptDatabase) -> None:
    assert wait(database.load_report(DAY, "example.com")) is None
    assert wait(database.save_report(DAY, "example.com", REPORT)) == REPORT
    assert wait(database.save_report(DAY, "example.com", SavedReport("other", NOW, "x", b"y"))) == REPORT
    assert wait(database.load_report(DAY, "example.com")) == REPORT


def test_what_is_older_than_the_retention_goes_with_policies_nobody_has_any_more(
    database: TlsrptDatabase, path: Path
) -> None:
    database.add_events([(DAY, failed()), (DAY, failed(of=1)), (NEXT_DAY, failed())])
    wait(database.save_report(DAY, "example.com", REPORT))
    assert wait(database.expire(DAY)) == 0
    assert wait(database.expire(NEXT_DAY)) == 1
    assert wait(database.days()) == [DaySums(NEXT_DAY, 1, 1, 1)]
    assert only_row(database, NEXT_DAY) == PolicyRows(policy(), 0, 1, ((failure(), 1),))
    assert wait(database.load_report(DAY, "example.com")) is None
    with closing(sqlite3.connect(path)) as connection:
        for table in ("subject", "tally", "failure", "policy"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)


# -- the file ----------------------------------------------------------------------------------------------


def test_a_day_is_utc() -> None:
    assert day_of(NOW) == DAY
    assert [day_of(0.0), day_of(86399.999), day_of(86400.0)] == ["1970-01-01", "1970-01-01", "1970-01-02"]


def test_what_was_added_is_there_after_a_restart(path: Path) -> None:
    with opened(path) as database:
        database.add_events([(DAY, failed())])
    with opened(path) as database:
        assert only_row(database).failed == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_only_the_owner_can_read_the_file(database: TlsrptDatabase, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_database_can_be_read_beside_the_daemon(database: TlsrptDatabase, path: Path) -> None:
    database.add_events([(DAY, succeeded())])
    with closed_at_the_end(open_database_read_only(path)) as beside:
        assert only_row(beside).successful == 1
        database.add_events([(DAY, succeeded())])
        assert only_row(beside).successful == 2
        with pytest.raises(StoreError):
            beside.add_events([(DAY, succeeded())])


@pytest.mark.parametrize("content", [b"this is not a database\n" * 500, bytes(8192), b"hello"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with opened(path) as database:
        (problem,) = database.problems
        assert isinstance(problem, StoreDamaged)
        database.add_events([(DAY, succeeded())])
    (aside,) = (file for file in path.parent.iterdir() if "damaged-" in file.name)
    assert aside.read_bytes() == content


def test_a_newer_schema_is_left_untouched(path: Path) -> None:
    open_database(path, now=NOW).close_now()
    by_hand(path, f"PRAGMA user_version = {len(SCHEMA.migrations) + 1}")
    before = path.read_bytes()
    for attempt in (lambda: open_database(path, now=NOW), lambda: open_database_read_only(path)):
        refuse(attempt, StoreSchemaNewer)
    assert path.read_bytes() == before


def test_a_store_of_policies_is_not_taken_for_it(path: Path) -> None:
    by_hand(path, "PRAGMA application_id = 1297372244", "CREATE TABLE entry (x)")
    refuse(lambda: open_database(path, now=NOW), StoreError)


def refuse(attempt: Callable[[], TlsrptDatabase], error: type[StoreError]) -> None:
    with pytest.raises(error):
        attempt()


def test_a_closed_database_says_so(path: Path) -> None:
    database = open_database(path, now=NOW)
    wait(database.close())
    wait(database.close())
    with pytest.raises(StoreError, match="closed"):
        wait(database.days())
    with pytest.raises(StoreError, match="closed"):
        database.add_events([(DAY, succeeded())])


def test_a_file_that_another_process_never_stops_writing_is_a_store_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_BUSY_SECONDS", 0)
    with opened(path) as database, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError):
            database.add_events([(DAY, succeeded())])
        other.rollback()
        database.add_events([(DAY, succeeded())])
        assert only_row(database).successful == 1


# -- a file that is removed or replaced --------------------------------------------------------------------


def replace(path: Path, domain: str) -> None:
    """Put another database in the place of the file, with the one domain in it."""
    with opened(path.with_name("other.sqlite")) as other:
        other.add_events([(DAY, succeeded(domain))])
    path.with_name("other.sqlite").rename(path)


def test_a_file_that_is_where_it_was_is_left_alone(database: TlsrptDatabase) -> None:
    assert wait(database.recover(NOW)) == ()
    assert database.generation == 0


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")], ids=["file", "with its log"])
def test_of_a_file_that_was_removed_nothing_is_lost(path: Path, suffixes: tuple[str, ...]) -> None:
    with opened(path) as database:
        database.add_events([(DAY, succeeded())])
        for suffix in suffixes:
            path.with_name(path.name + suffix).unlink()
        database.add_events([(DAY, succeeded())])
        (told,) = wait(database.recover(NOW))
        assert told.detail == "it was removed or spoilt; all of it is back"
        database.add_events([(DAY, succeeded())])
        assert only_row(database).successful == 3
        assert path.stat().st_mode & 0o777 == 0o600
        assert wait(database.recover(NOW)) == ()
    with opened(path) as database:
        assert only_row(database).successful == 3
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_was_replaced_is_the_database_from_then_on_and_rows_of_the_old_count_for_nothing(
    path: Path,
) -> None:
    tally = Tally(DAY)
    tally.add(succeeded())
    with opened(path) as database:
        (row,) = database.add(tally).rows.values()
        replace(path, "other.example")
        (told,) = wait(database.recover(NOW))
        assert told.detail == "it was replaced; the new one is in use"
        with pytest.raises(RowsGone):
            database.add(Tally(DAY), {row: 1})
        assert (again := database.add(tally, {row: 1}, database.generation).rows)
        assert row not in again.values()
    with opened(path) as database:
        assert [(rows.domain, rows.policies[0].successful) for rows in wait(database.day_pages(DAY))] == [
            ("example.com", 1),
            ("other.example", 2),
        ]


def test_a_file_that_comes_back_before_it_is_its_turn_is_left_alone(path: Path) -> None:
    with opened(path) as database:
        database.add_events([(DAY, succeeded())])
        away = path.rename(path.with_name("away"))
        with database._write_turn:
            looking = database._threads.submit(database._look_after, NOW)
            while not database._read_turn.locked():
                time.sleep(0.001)
            away.rename(path)
        assert looking.result() == ()
        assert only_row(database).successful == 1


def test_rubbish_in_the_place_of_the_file_is_set_aside_and_nothing_is_lost(path: Path) -> None:
    with opened(path) as database:
        database.add_events([(DAY, succeeded())])
        path.with_name("rubbish").write_bytes(b"not a database " * 1000)
        path.with_name("rubbish").rename(path)
        spoilt, damaged = wait(database.recover(NOW))
        assert spoilt.detail == "it was removed or spoilt; all of it is back"
        assert "set aside" in damaged.detail
        database.add_events([(DAY, succeeded())])
        assert only_row(database).successful == 2


def test_what_cannot_be_opened_in_the_place_of_the_file_is_an_error_until_it_can(path: Path) -> None:
    newer = path.with_name("newer.sqlite")
    with opened(newer):
        pass
    by_hand(newer, "PRAGMA user_version = 99")
    with opened(path) as database:
        newer.rename(path)
        for _ in range(2):
            with pytest.raises(StoreSchemaNewer):
                wait(database.recover(NOW))
            with pytest.raises(StoreError, match="its file cannot be opened"):
                database.add_events([(DAY, succeeded())])
            with pytest.raises(StoreError, match="its file cannot be opened"):
                wait(database.days())
        by_hand(path, f"PRAGMA user_version = {len(SCHEMA.migrations)}")
        assert wait(database.recover(NOW))
        database.add_events([(DAY, succeeded())])
        assert only_row(database).successful == 1
