"""The schema of the policy store, and the conversion between rows and entries."""

import math

from ..errors import PolicySyntaxError, StoreDamaged
from ..policy.cache_entry import CacheEntry, FetchFailure, HeldPolicy, TxtCheck
from ..policy.draft2017 import parse_stored_policy
from ..policy.mtasts import MAX_BODY
from .database import Schema

__all__ = ["COLUMNS", "MIGRATIONS", "SCHEMA", "entry_of", "row_of"]

# The body is the last column, so that queries without it read none of its overflow pages. Because bodies have up to
# 64 KiB, this is a rowid table: a missing name is found in the compact index of names.
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
        # last_used is included so that unused domains are skipped without reading their rows.
        "CREATE INDEX entry_due ON entry (due_at, last_used) WHERE due_at IS NOT NULL",
    ),
    (
        # The policy's mode, for lists. Older rows get it at their next refresh, within a day.
        "ALTER TABLE entry ADD COLUMN mode TEXT",
        # All columns that lists filter and sort by, so that they read only the rows they show.
        "CREATE INDEX entry_list ON entry (domain, mode, valid_until, due_at, last_used, fetched_at, failure_count)",
    ),
)
"""The statements from each schema version to the next, starting with an empty file; released ones are never edited."""

COLUMNS = (
    "domain, first_used, last_used, record_id, body, fetched_at, valid_until,"
    " txt_at, txt_holds_until, txt_record_id, txt_problem, txt_detail,"
    " failure_record_id, failure_at, failure_retry_at, failure_count, failure_problem, failure_detail"
)
"""The columns of ``row_of`` and ``entry_of``."""

SCHEMA = Schema(application_id=0x4D545354, table="entry", migrations=MIGRATIONS)  # MTST
"""The schema of the file."""

# -- rows --------------------------------------------------------------------------------------------------

Row = tuple[object, ...]


def row_of(entry: CacheEntry) -> Row:
    """Return the entry as a row of ``COLUMNS``; the parsed policy is left out because it follows from the body."""
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
    """Return the entry of a row of ``COLUMNS``. Raises ``StoreDamaged`` if its values are not valid."""
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
    policy = parse_stored_policy(body)
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
    if not isinstance(count, int) or count < 0:
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
