"""The reports database in PostgreSQL, for several receivers (psycopg 3).

The statements are those of SQLite; only the marks of parameters and the types in the schema differ. The schema is
kept in a schema (namespace) of its own, ``mtasts_reports``.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from ...errors import StoreError, StoreSchemaNewer
from ...text import sanitize
from .database import ReportsDatabase, Rows, SqlConnection
from .schema import POSTGRESQL_VERSION, postgresql_statements

__all__ = ["PostgresqlBackend", "open_postgresql"]

psycopg: Any = importlib.import_module("psycopg")  # an extra

_CONNECT_SECONDS = 5
_STATEMENT_MILLISECONDS = 30_000
_LOCK = 0x4D545353
"""Key of the advisory lock that one process holds while it changes the schema."""


class _PostgresqlConnection:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        # No statement contains a literal question or percent mark.
        rows: Rows = self._connection.execute(sql.replace("?", "%s"), tuple(values))
        return rows

    def begin(self) -> None:
        self._connection.execute("BEGIN")

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()

    def lost(self) -> bool:
        return bool(self._connection.closed)


class PostgresqlBackend:
    """Connects to the database that ``url`` names; a password comes from libpq's password file."""

    def __init__(self, url: str) -> None:
        self._url = url

    def open_writer(self) -> SqlConnection:
        """Connect, and bring the schema to the newest version."""
        connection = self._connect()
        try:
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return _PostgresqlConnection(connection)

    def open_reader(self) -> SqlConnection:
        """Connect for reading."""
        connection = self._connect()
        connection.execute("SET default_transaction_read_only = on")
        connection.execute("SET default_transaction_isolation = 'repeatable read'")
        return _PostgresqlConnection(connection)

    def _connect(self) -> Any:
        return psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            options=f"-c search_path=mtasts_reports -c statement_timeout={_STATEMENT_MILLISECONDS}",
            application_name="mtasts-daemon",
        )

    def _migrate(self, connection: Any) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute("CREATE SCHEMA IF NOT EXISTS mtasts_reports")
            connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
            row = connection.execute("SELECT MAX(version) FROM schema_version").fetchone()
            version = int(row[0]) if row is not None and row[0] is not None else 0
            if version > POSTGRESQL_VERSION:
                raise StoreSchemaNewer(f"version {version}, this program knows {POSTGRESQL_VERSION}")
            for statement in postgresql_statements(version):
                connection.execute(statement)
            if version < POSTGRESQL_VERSION:
                connection.execute("INSERT INTO schema_version VALUES (%s)", (POSTGRESQL_VERSION,))

    def translate(self, error: Exception) -> StoreError | None:
        """Translate errors of PostgreSQL."""
        if isinstance(error, StoreError):
            return error
        if isinstance(error, psycopg.Error | OSError):
            return StoreError(sanitize(str(error).partition("\n")[0], 200))
        return None


def open_postgresql(url: str, *, read_only: bool = False) -> ReportsDatabase:
    """Connect for writing and reading. Raises ``StoreError``."""
    return ReportsDatabase(PostgresqlBackend(url), read_only=read_only)
