"""The store's SQLite file: its schema and how that grows, how the file is opened, and what a row says.

Everything here is synchronous and runs on the store's own threads. Foreign errors leave as ``StoreError``.
"""

import contextlib
import math
import os
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ..errors import PolicySyntaxError, StoreDamaged, StoreError, StoreSchemaNewer
from ..policy.entry import CacheEntry, FetchFailure, HeldPolicy, TxtCheck
from ..policy.sts import MAX_BODY, parse_policy, parse_policy_draft

__all__ = [
    "APPLICATION_ID",
    "COLUMNS",
    "MEMORY",
    "MIGRATIONS",
    "as_store_error",
    "entry_of",
    "open_reading",
    "open_writing",
    "row_of",
    "set_aside",
]

MEMORY = ":memory:"
"""The path of a store that keeps nothing when the process ends."""

APPLICATION_ID = 0x4D545354
"""``MTST`` in the file's header, so that a foreign database is never taken for ours."""

_BUSY_SECONDS = 5.0
"""How long a statement waits for another process that holds the file."""

_WAL_LIMIT = 16 * 1024 * 1024
"""Octets that the write-ahead log may keep on disk after a checkpoint."""

# The body comes last: what is asked of a row without it then needs none of its overflow pages. For the same reason,
# bodies of up to 64 KiB, this is a rowid table: a name that is not there is settled within the compact index of names.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE entry (
            domain TEXT NOT NULL PRIMARY KEY,
            due_at REAL,
            first_used REAL NOT NULL,
            last_used REAL NOT NULL,
            record_id TEXT,
            fetched_at REAL,
            valid_until REAL,
            txt_at REAL,
            txt_holds_until REAL,
            txt_record_id TEXT,
            txt_problem TEXT,
            txt_detail TEXT,
            failure_record_id TEXT,
            failure_at REAL,
            failure_retry_at REAL,
            failure_count INTEGER,
            failure_problem TEXT,
            failure_detail TEXT,
            body BLOB
        )
        """,
        # last_used is in it so that domains no longer looked up are passed over without reading their rows.
        "CREATE INDEX entry_due ON entry (due_at, last_used) WHERE due_at IS NOT NULL",
    ),
)
"""The statements that lead from each schema version to the next, from an empty file on; never edited, only added to."""

COLUMNS = (
    "domain, first_used, last_used, record_id, body, fetched_at, valid_until,"
    " txt_at, txt_holds_until, txt_record_id, txt_problem, txt_detail,"
    " failure_record_id, failure_at, failure_retry_at, failure_count, failure_problem, failure_detail"
)
"""What ``row_of`` gives and ``entry_of`` takes."""

Migrations = Sequence[Sequence[str]]


def as_store_error(error: Exception) -> StoreError:
    """The foreign error as a leaf of ours."""
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = StoreDamaged if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else StoreError
    return kind(ascii(str(error))[1:-1] or type(error).__name__)


# -- opening -----------------------------------------------------------------------------------------------


def open_writing(path: str, migrations: Migrations = MIGRATIONS) -> sqlite3.Connection:
    """A connection that writes, at the newest schema; makes the file (0600) and its last folder (0750).

    Reads no more than the header and the schema. Raises ``StoreDamaged``; ``StoreSchemaNewer``, with the file
    left as it was; or ``StoreError`` where the file cannot be written or belongs to another program.
    """
    try:
        if path != MEMORY:
            _make_file(Path(path))
        connection = _connect(path, uri=False)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise as_store_error(error) from None
    try:
        _migrate(connection, migrations)
        connection.execute("PRAGMA journal_mode = WAL")
        # With a write-ahead log, NORMAL keeps every commit when the process dies; only a power cut can take the last.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    except (sqlite3.Error, StoreError) as error:
        connection.close()
        raise as_store_error(error) from None
    return connection


def open_reading(path: str, migrations: Migrations = MIGRATIONS) -> sqlite3.Connection:
    """A connection that cannot write, also beside a running daemon. The file must exist, at the newest schema."""
    try:
        connection = _connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise as_store_error(error) from None
    try:
        version = _version(connection, migrations)
        if version < len(migrations):
            raise StoreError(f"its schema is version {version}, not {len(migrations)}")
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
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(path + suffix).rename(f"{aside}{suffix}")
    except OSError as error:
        raise as_store_error(error) from None
    return aside


def _make_file(path: Path) -> None:
    # SQLite gives the log and the shared memory the mode of the file itself, so that this one decides for all.
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o750)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(database: str, *, uri: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(database, uri=uri, timeout=_BUSY_SECONDS, isolation_level=None)
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


def _version(connection: sqlite3.Connection, migrations: Migrations) -> int:
    """The schema version; 0 for an empty file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreError("it is a database of another program")
    if version > len(migrations):
        raise StoreSchemaNewer(f"version {version}, this program knows {len(migrations)}")
    if version and "entry" not in tables:
        raise StoreDamaged("its table is missing")
    return int(version)


def _migrate(connection: sqlite3.Connection, migrations: Migrations) -> None:
    """Bring the schema to the newest version, wholly or not at all."""
    _version(connection, migrations)
    # Taking the write lock also shows, before anything relies on it, that the file can be written.
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, migrations)
        for step in migrations[version:]:
            for statement in step:
                connection.execute(statement)
        if version < len(migrations):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


# -- rows --------------------------------------------------------------------------------------------------

Row = tuple[object, ...]


def row_of(entry: CacheEntry) -> Row:
    """The entry as a row of ``COLUMNS``; the parsed policy is left out, for it follows from the body."""
    held, txt, failure = entry.held, entry.txt, entry.failure
    return (
        entry.domain,
        entry.first_used,
        entry.last_used,
        *((None,) * 4 if held is None else (held.record_id, held.body, held.fetched_at, held.valid_until)),
        *((None,) * 5 if txt is None else (txt.at, txt.holds_until, txt.record_id, txt.problem, txt.detail)),
        *(
            (None,) * 6
            if failure is None
            else (failure.record_id, failure.at, failure.retry_at, failure.count, failure.problem, failure.detail)
        ),
    )


def entry_of(row: Row) -> CacheEntry:
    """The entry that a row of ``COLUMNS`` holds. Raises ``StoreDamaged`` where its values cannot be one."""
    domain, first_used, last_used = row[:3]
    try:
        return CacheEntry(
            _str(domain),
            _held(row[3:7]),
            _txt(row[7:12]),
            _failure(row[12:18]),
            _moment(first_used),
            _moment(last_used),
        )
    except (TypeError, ValueError, PolicySyntaxError) as error:
        raise StoreDamaged(f"the row of {ascii(domain)[:300]}: {error}") from None


def _held(row: Row) -> HeldPolicy | None:
    record_id, body, fetched_at, valid_until = row
    if body is None:
        return None
    if not isinstance(body, bytes) or len(body) > MAX_BODY:
        raise TypeError("its body is not a policy body")
    # A draft's JSON object cannot be mistaken: no line of RFC 8461 section 3.2 begins with a brace.
    draft = body.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    policy = parse_policy_draft(body) if draft else parse_policy(body)
    return HeldPolicy(_str(record_id), body, policy, _moment(fetched_at), _moment(valid_until))


def _txt(row: Row) -> TxtCheck | None:
    at, holds_until, record_id, problem, detail = row
    if at is None:
        return None
    return TxtCheck(_moment(at), _moment(holds_until), _str_or_none(record_id), _str_or_none(problem), _str(detail))


def _failure(row: Row) -> FetchFailure | None:
    record_id, at, retry_at, count, problem, detail = row
    if at is None:
        return None
    if not isinstance(count, int) or count < 1:
        raise TypeError("its count of failures is not a number")
    return FetchFailure(_str(record_id), _moment(at), _moment(retry_at), count, _str(problem), _str(detail))


def _moment(value: object) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        raise TypeError("a moment is not a number of seconds")
    return value


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is not text")
    return value


def _str_or_none(value: object) -> str | None:
    return None if value is None else _str(value)
