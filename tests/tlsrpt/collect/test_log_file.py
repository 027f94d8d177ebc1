"""Log files: lines and resuming."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtasts_daemon.tlsrpt.collect.log_file import LogFile, Mark, find_mark, save_mark
from mtasts_daemon.tlsrpt.database.connection import TlsrptDatabase, open_database

NOW = 1_790_000_000.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[TlsrptDatabase]:
    opened = open_database(tmp_path / "tlsrpt.sqlite", now=NOW)
    yield opened
    opened.close_now()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "mail.log"


def lines_of(file: LogFile) -> list[str]:
    return [line for batch in file.batches(follow=False) for line in batch]


def left(path: Path) -> Mark:
    """Return the mark of a file that has been read."""
    with LogFile(path) as file:
        lines_of(file)
        mark = file.mark()
    assert mark is not None
    return mark


async def found(database: TlsrptDatabase, path: Path) -> tuple[Mark | None, bool]:
    with LogFile(path) as file:
        return await find_mark(database, file)


def keep(database: TlsrptDatabase, mark: Mark, now: float = NOW) -> None:
    database.write_now(lambda connection: save_mark(mark, now, connection))


# -- lines -------------------------------------------------------------------------------------------------


def test_incomplete_last_line_is_left_for_the_next_run(log: Path) -> None:
    log.write_bytes(b"one\n\ntwo\xff\nthr")
    with LogFile(log) as file:
        assert lines_of(file) == ["one", "two\ufffd"]
        mark = file.mark()
    assert mark is not None
    assert mark.offset == 10


def test_pipe_is_read_to_its_end_and_has_no_mark(log: Path) -> None:
    os.mkfifo(log)
    writing = threading.Thread(target=log.write_bytes, args=[b"one\ntwo"])
    writing.start()
    with LogFile(log) as file:
        assert lines_of(file) == ["one", "two"]
        assert file.mark() is None
        assert not file.begins_as(Mark("/x", 3, "x", 3))
    writing.join()


def test_endless_line_takes_bounded_memory(log: Path) -> None:
    log.write_bytes(b"x" * 10_000_000 + b"\nnext\n")
    with LogFile(log) as file:
        line, after = lines_of(file)
        mark = file.mark()
    assert (len(line) <= 16384 + 65536, after) == (True, "next")
    assert mark is not None
    assert mark.offset == 10_000_006


def test_file_is_followed_over_rotation_and_truncation(log: Path) -> None:
    log.write_text("old\n")
    with LogFile(log) as file:
        file.begin_at_end()
        lines = (line for batch in file.batches(follow=True) for line in batch)
        with log.open("a") as appended:
            appended.write("new\npart")
        assert next(lines) == "new"
        log.rename(log.with_name("mail.log.1"))
        log.write_text("rotated\n")
        assert next(lines) == "part"
        assert next(lines) == "rotated"
        log.write_text("cut\n")
        assert next(lines) == "cut"
        assert file.mark() == left(log)


# -- marks -------------------------------------------------------------------------------------------------


async def test_renamed_file_is_resumed(database: TlsrptDatabase, log: Path) -> None:
    log.write_text("one\ntwo\n")
    keep(database, left(log))
    with log.open("a") as appended:
        appended.write("three\n" * 1000)
    renamed = log.rename(log.with_name("mail.log.1"))
    mark, rotated = await found(database, renamed)
    assert not rotated
    assert mark is not None
    with LogFile(renamed) as file:
        assert file.begin_at(mark) == ["one", "two"]
        assert lines_of(file) == ["three"] * 1000


async def test_longest_mark_of_a_file_counts(database: TlsrptDatabase, log: Path) -> None:
    log.write_text("one\n")
    keep(database, left(log))
    with log.open("a") as appended:
        appended.write("two\n" * 1000)
    whole = left(log)
    keep(database, whole, NOW + 1)
    assert await found(database, log) == (whole, False)


async def test_different_file_under_a_known_name_is_new(database: TlsrptDatabase, log: Path) -> None:
    log.write_text("one\n")
    assert await found(database, log) == (None, False)
    keep(database, left(log))
    log.write_text("another\n")
    assert await found(database, log) == (None, True)


@pytest.mark.parametrize("content", ["", "on", "other\n"])
async def test_truncated_file_is_a_different_file(database: TlsrptDatabase, log: Path, content: str) -> None:
    log.write_text("one\n" * 1000)
    keep(database, left(log))
    log.write_text(content)
    assert (await found(database, log))[0] is None


def test_unread_file_has_no_mark(log: Path) -> None:
    log.write_text("")
    with LogFile(log) as file:
        assert lines_of(file) == []
        assert file.mark() is None


async def test_old_marks_are_removed(database: TlsrptDatabase, log: Path) -> None:
    log.write_text("one\n")
    keep(database, left(log))
    keep(database, Mark("/x", 3, "another", 3), NOW + 401 * 86400)
    assert await found(database, log) == (None, False)
