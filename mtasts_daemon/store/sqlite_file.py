"""Open SQLite files: schema versions, damaged files, and files that were deleted or replaced.

Functions block, so they run on the threads of ``database.Database`` or in a command. They raise only ``StoreError``.
"""

import contextlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import StoreDamaged, StoreError, StoreSchemaNewer

__all__ = [
    "MEMORY",
    "DatabaseFile",
    "Schema",
    "as_store_error",
    "database_exists",
    "make_file",
    "open_reading",
    "open_writing",
    "set_aside",
]

MEMORY = ":memory:"
"""Path of a database that is lost when the process ends."""

_SIDE_FILES = ("-wal", "-shm")
"""Suffixes of SQLite's write-ahead log and of the memory that processes share."""

_BUSY_SECONDS = 5.0
"""Seconds that a statement waits for another process that has locked the file."""

_WAL_LIMIT = 16 * 1024 * 1024
"""Bytes that the write-ahead log may keep on disk after a checkpoint."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of one kind of file.

    ``application_id`` is stored in the file's header and identifies files of this kind. ``table`` exists in every
    version. ``migrations`` holds the statements that lead from each version to the next, starting with an empty file;
    released statements are never edited.
    """

    application_id: int
    table: str
    migrations: Sequence[Sequence[str]]


def as_store_error(error: Exception) -> StoreError:
    """Translate an error of SQLite or of the operating system."""
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = StoreDamaged if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else StoreError
    return kind(ascii(str(error))[1:-1] or type(error).__name__)


def open_writing(path: str, schema: Schema, *, one_thread: bool = True) -> sqlite3.Connection:
    """Open for writing at the newest schema; create the file (0600) and its last folder (0750) if missing.

    Read only the header, the schema and the root page of ``schema.table``. If ``one_thread`` is false, callers must
    use the connection from one thread at a time. Raises ``StoreDamaged``; ``StoreSchemaNewer``, with the file left
    untouched; or ``StoreError`` if the file cannot be written or belongs to another program.
    """
    try:
        if path != MEMORY:
            make_file(Path(path))
        connection = _connect(path, uri=False, one_thread=one_thread)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise as_store_error(error) from None
    try:
        _migrate(connection, schema)
        connection.execute("PRAGMA journal_mode = WAL")
        # With a write-ahead log, NORMAL keeps every commit if the process dies; a power cut can take the last ones.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        connection.execute(f"SELECT 1 FROM {schema.table} LIMIT 1").fetchone()  # noqa: S608
    except (sqlite3.Error, StoreError) as error:
        connection.close()
        raise as_store_error(error) from None
    return connection


def open_reading(
    path: str, schema: Schema, *, one_thread: bool = True, any_version: bool = False
) -> sqlite3.Connection:
    """Open an existing file for reading, also while another process writes it.

    The file must be at the newest schema; with ``any_version`` an older one is accepted. Raises ``StoreError``.
    """
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    try:
        return _reading_connection(uri, schema, one_thread, any_version)
    except StoreError:
        # SQLite cannot make the shared memory of the log in a folder that is not writable. Without a log none is
        # needed, and no process can start one there.
        if os.access(Path(path).parent, os.W_OK) or Path(f"{path}-wal").exists():
            raise
        return _reading_connection(f"{uri}&immutable=1", schema, one_thread, any_version)


def _reading_connection(uri: str, schema: Schema, one_thread: bool, any_version: bool) -> sqlite3.Connection:
    try:
        connection = _connect(uri, uri=True, one_thread=one_thread)
    except sqlite3.Error as error:
        raise as_store_error(error) from None
    try:
        version, newest = _version(connection, schema), len(schema.migrations)
        if version < (1 if any_version else newest):
            raise StoreError(f"its schema is version {version}, not {newest}")
    except (sqlite3.Error, StoreError) as error:
        connection.close()
        raise as_store_error(error) from None
    return connection


def database_exists(path: str | Path) -> bool:
    """Return True if there is a file. Raises ``StoreError`` if that cannot be found out.

    Since Python 3.14 ``Path.exists`` is False, too, if a folder may not be searched.
    """
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    return True


def set_aside(path: str, now: float) -> Path:
    """Rename a damaged file and its log to NAME.damaged-<UTC time>. Return the new path."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = Path(f"{path}.damaged-{stamp}")
    count = 1
    while aside.exists():
        count += 1
        aside = Path(f"{path}.damaged-{stamp}-{count}")
    try:
        Path(path).rename(aside)
        for suffix in _SIDE_FILES:
            with contextlib.suppress(FileNotFoundError):
                Path(path + suffix).rename(f"{aside}{suffix}")
    except OSError as error:
        raise as_store_error(error) from None
    return aside


_Identity = tuple[int, int] | None
"""Device and inode of a file, or None if there is no file. Unique while the file is open."""


def _identity(path: str) -> _Identity:
    """Return the identity of the file at ``path``. Raises ``StoreError`` if it cannot be determined."""
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise as_store_error(error) from None
    return found.st_dev, found.st_ino


class DatabaseFile:
    """The identity of an open database's file and log, to detect that they were deleted or replaced.

    SQLite goes on writing into a deleted file, and the next start finds nothing of it. No other connection may open
    the path before ``old_logs`` are removed: SQLite would apply them to the new file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._files: Mapping[str, _Identity] = {suffix: _identity(path + suffix) for suffix in ("", *_SIDE_FILES)}

    def is_lost(self) -> bool:
        """Return True if the file or its log was deleted or replaced. Callable from any thread."""
        return any(file is not None and _identity(self.path + suffix) != file for suffix, file in self._files.items())

    def old_logs(self) -> list[Path]:
        """Return the files of the log that belongs to a file no longer at the path; call before closing connections."""
        if _identity(self.path) == self._files[""]:
            return []
        found = [suffix for suffix in _SIDE_FILES if self._files[suffix] is not None]
        return [Path(self.path + suffix) for suffix in found if _identity(self.path + suffix) == self._files[suffix]]


def make_file(path: Path) -> None:
    """Create the file (0600) and its last folder (0750) if missing. Raises ``OSError``.

    A file that root creates in the folder of another user belongs to that user: the daemon must be able to open it.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o750)
    # SQLite gives the log and the shared memory the mode and, for root, the owner of the file itself.
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        return
    try:
        folder = path.parent.stat()
        if os.geteuid() == 0 and folder.st_uid != 0:
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
    finally:
        os.close(descriptor)


def _connect(database: str, *, uri: bool, one_thread: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        database, uri=uri, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=one_thread
    )
    connection.text_factory = _text
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _text(raw: bytes) -> str | bytes:
    """Decode a text column. Keep bytes that are not UTF-8, so that only their own row is rejected."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _version(connection: sqlite3.Connection, schema: Schema) -> int:
    """Return the schema version; 0 for an empty file."""
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
    """Bring the schema to the newest version in one transaction."""
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
