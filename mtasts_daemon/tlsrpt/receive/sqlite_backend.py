"""The reports database in a SQLite file of its own."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ...errors import StoreDamaged, StoreError
from ...store import database
from .database import ReportsDatabase, Rows, SqlConnection
from .schema import SCHEMA

__all__ = ["SqliteBackend", "open_sqlite"]


class _SqliteConnection:
    def __init__(self, connection: sqlite3.Connection, begin: str, path: str) -> None:
        self._connection = connection
        self._file = database.DatabaseFile(path)
        self._begin = begin

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        return self._connection.execute(sql, values)

    def begin(self) -> None:
        self._connection.execute(self._begin)

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()

    def lost(self) -> bool:
        with suppress(StoreError):
            return self._file.is_lost()
        return True


class SqliteBackend:
    """Opens the file ``path``. A damaged file is set aside and reported to ``on_problem``, once."""

    def __init__(self, path: str, now: Callable[[], float], on_problem: Callable[[str], object]) -> None:
        self._path = path
        self._now = now
        self._on_problem = on_problem

    def open_writer(self) -> SqlConnection:
        """Open for writing; make the file if it is missing."""
        try:
            connection = database.open_writing(self._path, SCHEMA, one_thread=False)
        except StoreDamaged as error:
            aside = database.set_aside(self._path, self._now())
            self._on_problem(f"{error}; moved to {aside.name}")
            connection = database.open_writing(self._path, SCHEMA, one_thread=False)
        # A report is acknowledged after its commit, so the commit must survive a power cut, too.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -16384")
        # Pages that many reports change are copied to the file once in 16 MiB of log, not once in 4 MiB.
        connection.execute("PRAGMA wal_autocheckpoint = 4096")
        return _SqliteConnection(connection, "BEGIN IMMEDIATE", self._path)

    def open_reader(self) -> SqlConnection:
        """Open for reading."""
        connection = database.open_reading(self._path, SCHEMA, one_thread=False)
        connection.execute("PRAGMA cache_size = -16384")
        return _SqliteConnection(connection, "BEGIN", self._path)

    def translate(self, error: Exception) -> StoreError | None:
        """Translate errors of SQLite."""
        if isinstance(error, StoreError | sqlite3.Error | OverflowError | UnicodeError):
            return database.as_store_error(error)
        return None


def open_sqlite(
    path: str, now: Callable[[], float], on_problem: Callable[[str], object], *, read_only: bool = False
) -> ReportsDatabase:
    """Open the file for writing and reading. Raises ``StoreError``."""
    return ReportsDatabase(SqliteBackend(path, now, on_problem), read_only=read_only)
