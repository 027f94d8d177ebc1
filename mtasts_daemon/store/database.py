"""A SQLite file of ours: how it is opened, how its schema grows, and what becomes of a damaged one.

Everything here is synchronous and runs on threads of the file's owner. Foreign errors leave as ``StoreError``.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import StoreDamaged, StoreError, StoreSchemaNewer

__all__ = [
    "MEMORY",
    "DatabaseFile",
    "Schema",
    "as_store_error",
    "make_file",
    "open_reading",
    "open_writing",
    "set_aside",
]

MEMORY = ":memory:"
"""The path of a file that keeps nothing when the process ends."""

_BESIDE = ("-wal", "-shm")
"""What SQLite keeps beside a file that is open: its log, and the memory that processes share."""

_BUSY_SECONDS = 5.0
"""How long a statement waits for another process that holds the file."""

_WAL_LIMIT = 16 * 1024 * 1024
"""Octets that the write-ahead log may keep on disk after a checkpoint."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file of ours holds.

    ``application_id`` stands in the file's header, so that a foreign database is never taken for ours; ``table`` is
    one that every version has. ``migrations`` are the statements that lead from each version to the next, from an
    empty file on; they are never edited, only added to.
    """

    application_id: int
    table: str
    migrations: Sequence[Sequence[str]]


def as_store_error(error: Exception) -> StoreError:
    """The foreign error as a leaf of ours."""
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = StoreDamaged if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else StoreError
    return kind(ascii(str(error))[1:-1] or type(error).__name__)


def open_writing(path: str, schema: Schema, *, one_thread: bool = True) -> sqlite3.Connection:
    """A connection that writes, at the newest schema; makes the file (0600) and its last folder (0750).

    Where there is no file but a copy of a lost one, that takes its place. Reads no more than the header and the schema.
    Where it is not for ``one_thread`` alone, its threads must take turns. Raises ``StoreDamaged``;
    ``StoreSchemaNewer``, with the file left as it was; or ``StoreError`` where the file cannot be written or belongs to
    another program.
    """
    try:
        if path != MEMORY:
            if not Path(path).exists() and _rescued(path).exists():
                _rescued(path).rename(path)
            make_file(Path(path))
        connection = _connect(path, uri=False, one_thread=one_thread)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise as_store_error(error) from None
    try:
        _migrate(connection, schema)
        connection.execute("PRAGMA journal_mode = WAL")
        # With a write-ahead log, NORMAL keeps every commit when the process dies; only a power cut can take the last.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    except (sqlite3.Error, StoreError) as error:
        connection.close()
        raise as_store_error(error) from None
    return connection


def open_reading(path: str, schema: Schema, *, one_thread: bool = True) -> sqlite3.Connection:
    """A connection that cannot write, also beside a running daemon. The file must exist, at the newest schema."""
    try:
        connection = _connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, one_thread=one_thread)
    except sqlite3.Error as error:
        raise as_store_error(error) from None
    try:
        version, newest = _version(connection, schema), len(schema.migrations)
        if version < newest:
            raise StoreError(f"its schema is version {version}, not {newest}")
    except (sqlite3.Error, StoreError) as error:
        connection.close()
        raise as_store_error(error) from None
    return connection


def set_aside(path: str, now: float) -> Path:
    """Rename a damaged file, with its log, to NAME.damaged-<UTC time>; the new path."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = Path(f"{path}.damaged-{stamp}")
    count = 1
    while aside.exists():
        count += 1
        aside = Path(f"{path}.damaged-{stamp}-{count}")
    try:
        Path(path).rename(aside)
        for suffix in _BESIDE:
            with contextlib.suppress(FileNotFoundError):
                Path(path + suffix).rename(f"{aside}{suffix}")
    except OSError as error:
        raise as_store_error(error) from None
    return aside


_Identity = tuple[int, int] | None
"""Device and inode of a file, or None where there is none. They are no other's as long as it is open."""


def _identity(path: str) -> _Identity:
    """Which file is there. Raises ``StoreError`` where that cannot be told."""
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise as_store_error(error) from None
    return found.st_dev, found.st_ino


def _identities(path: str) -> Mapping[str, _Identity]:
    """Which files are a database's, by their suffixes."""
    return {suffix: _identity(path + suffix) for suffix in ("", *_BESIDE)}


class DatabaseFile:
    """Where an open database's file is to be found; made as soon as it is open.

    A file that was removed or replaced still takes what is put into it, but nobody will find that. Nothing else may
    open what is in its place meanwhile: SQLite would take the log beside it for its own.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._files: Mapping[str, _Identity] | None = _identities(path)
        self._back = self._copied = False

    def is_lost(self) -> bool:
        """Whether the file, or its log, is no more where it was. From any thread."""
        if self._files is None:
            return True
        return any(file is not None and _identity(self.path + suffix) != file for suffix, file in self._files.items())

    def rescue(self, connection: sqlite3.Connection) -> None:
        """Copy what is in the file to NAME.rescued: what is in its place may be nothing, or no good.

        Raises ``StoreError``.
        """
        copy = _rescued(self.path)
        try:
            copy.unlink(missing_ok=True)
            make_file(copy)
            connection.execute("VACUUM INTO ?", (str(copy),))
        except (sqlite3.Error, OSError) as error:
            raise as_store_error(error) from None

    def clear(self, close: Callable[[], object]) -> None:
        """Let go of the file by ``close``, so that what is in its place, or else the copy, can be opened.

        It is lost from then on: another one is to be made.
        """
        before, here = self._files or {}, _identities(self.path)
        self._files = None
        self._back = here[""] is not None and here[""] == before.get("")
        close()
        try:
            for suffix in () if self._back else _BESIDE:
                if here[suffix] is not None and here[suffix] == before.get(suffix):
                    Path(self.path + suffix).unlink(missing_ok=True)
            self._copied = _rescued(self.path).exists()
        except OSError as error:
            raise as_store_error(error) from None

    def settle(self) -> StoreError:
        """What had happened, after another one has been opened."""
        copy = _rescued(self.path)
        unused = not self._copied or copy.exists()
        with contextlib.suppress(OSError):
            copy.unlink(missing_ok=True)
        if self._back:
            return StoreError("it or its log was away; all of it is there")
        if unused:
            return StoreError("it was replaced; the new one is in use")
        return StoreError("it was removed or spoilt; all of it is back")


def _rescued(path: str) -> Path:
    return Path(f"{path}.rescued")


def make_file(path: Path) -> None:
    """Make the file (0600) and its last folder (0750), where they are missing. Raises ``OSError``."""
    # SQLite gives the log and the shared memory the mode of the file itself, so that this one decides for all.
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o750)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(database: str, *, uri: bool, one_thread: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        database, uri=uri, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=one_thread
    )
    connection.text_factory = _text
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _text(raw: bytes) -> str | bytes:
    """Text as stored; what is not UTF-8 stays bytes, so that it spoils its own row and not the whole answer."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _version(connection: sqlite3.Connection, schema: Schema) -> int:
    """The schema version; 0 for an empty file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if application != schema.application_id and (application or version or tables):
        raise StoreError("it is a database of another program")
    if version > len(schema.migrations):
        raise StoreSchemaNewer(f"version {version}, this program knows {len(schema.migrations)}")
    if version and schema.table not in tables:
        raise StoreDamaged("its table is missing")
    return int(version)


def _migrate(connection: sqlite3.Connection, schema: Schema) -> None:
    """Bring the schema to the newest version, wholly or not at all."""
    _version(connection, schema)
    # Taking the write lock also shows, before anything relies on it, that the file can be written.
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, schema)
        for step in schema.migrations[version:]:
            for statement in step:
                connection.execute(statement)
        if version < len(schema.migrations):
            connection.execute(f"PRAGMA application_id = {schema.application_id}")
            connection.execute(f"PRAGMA user_version = {len(schema.migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
