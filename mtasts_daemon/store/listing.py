"""Lists of stored entries for the operator: filtered, sorted and paged, and their totals.

The functions return jobs for ``SqliteStore.browse``. Filters and order use one index, which takes about ten
milliseconds for 100,000 entries; only the rows shown are read. Lookups are not delayed: SQLite does the work with the
interpreter's lock released, including the JSON of the rows, and yields the processor all the time.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .database import Job, as_store_error, open_reading
from .schema import SCHEMA

__all__ = ["SORTS", "Cursor", "Overview", "Page", "Query", "browse_file", "enforced", "overview", "page"]

T = TypeVar("T")
Cursor = tuple[float | str, str]
"""The sort key and the domain of the last entry of the previous page."""

SORTS: Mapping[str, str] = {
    "domain": "domain",
    "mode": "coalesce(mode, '')",
    "expires": "coalesce(valid_until, 0)",
    "due": "coalesce(due_at, 0)",
    "used": "last_used",
    "fetched": "coalesce(fetched_at, 0)",
    "failures": "coalesce(failure_count, 0)",
}
"""The sort keys of lists."""

_DAY = 86400.0
_YIELD_EVERY = 100
"""Steps of SQLite; about five microseconds."""

# The values of a damaged row must neither break the JSON nor be of unbounded length.
_TEXT = "'{0}', substr(CAST({0} AS TEXT), 1, 1000)"
_NUMBER = "'{0}', iif(abs(CAST({0} AS REAL)) < 1e15, {0} + 0, NULL)"
_SHOWN = ", ".join(
    (_NUMBER if column.endswith(("_at", "_used", "_until", "_count")) else _TEXT).format(column)
    for column in (
        "domain",
        "mode",
        "record_id",
        "fetched_at",
        "valid_until",
        "due_at",
        "first_used",
        "last_used",
        "txt_problem",
        "failure_problem",
        "failure_detail",
        "failure_count",
        "failure_at",
        "failure_retry_at",
    )
)
# The index has all columns of filters and order; the rows shown are read by their ids.
_PAGE = """
    SELECT key, domain, json_object({shown})
    FROM (
        SELECT rowid AS id, {key} AS key FROM entry INDEXED BY entry_list
        WHERE {where} ORDER BY key {order}, domain {order} LIMIT ?
    ) JOIN entry ON entry.rowid = id
    ORDER BY key {order}, domain {order}
"""
_COUNT = "SELECT count(*) FROM entry INDEXED BY entry_list WHERE {}"


@dataclass(frozen=True, slots=True)
class Query:
    """Filter and order of a list. Moments are wall-clock seconds; None and the empty text filter nothing."""

    mode: str | None = None
    text: str = ""
    """Part of the domain, in lower case."""
    failing: bool = False
    """Only entries whose last refresh failed."""
    expires_before: float | None = None
    live_at: float | None = None
    """Only entries whose policy is valid at that moment."""
    sort: str = "domain"
    descending: bool = False
    after: Cursor | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the entries of a query."""

    entries: Sequence[str]
    """Each a JSON object, without the policy's text. Moments are wall-clock seconds."""
    after: Cursor | None
    """Cursor of the next page; None on the last."""
    total: int | None
    """The number of entries on all pages; None on all pages but the first."""


@dataclass(slots=True)
class Overview:
    """Counts of valid entries."""

    modes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("enforce", "testing", "none"), 0))
    failing: int = 0
    expiring: int = 0
    """Policies that end within a day."""
    enforce_at_risk: int = 0
    """Of these, enforced policies whose last refresh failed."""
    due: int = 0
    due_since: float | None = None
    """The moment at which the longest overdue refresh was due."""


def page(query: Query) -> Job[Page]:
    """Return a job that reads one page of ``query``."""

    def call(connection: sqlite3.Connection) -> Page:
        key, where, values = _conditions(query)
        total = None
        if query.after is None:
            (total,) = connection.execute(_COUNT.format(" AND ".join(where)), values).fetchone()
        order, beyond = ("DESC", "<") if query.descending else ("ASC", ">")
        if query.after is not None:
            where.append(f"({key}, domain) {beyond} (?, ?)")
            values += query.after
        statement = _PAGE.format(shown=_SHOWN, key=key, where=" AND ".join(where), order=order)
        rows = connection.execute(statement, (*values, query.limit + 1)).fetchall()
        # Text that is not UTF-8 is returned as bytes; only its own row is skipped.
        shown = [row for row in rows[: query.limit] if not any(isinstance(value, bytes) for value in row)]
        after = shown[-1][:2] if shown and len(rows) > query.limit else None
        return Page([text for _, _, text in shown], after, total)

    return call


def _conditions(query: Query) -> tuple[str, list[str], list[object]]:
    where = ["domain > ''"]
    values: list[object] = []
    for condition, value in (
        ("mode = ?", query.mode),
        ("instr(domain, ?) > 0", query.text or None),
        ("valid_until < ?", query.expires_before),
        ("valid_until >= ?", query.live_at),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    if query.failing:
        where.append("failure_count > 0")
    return SORTS[query.sort], where, values


def overview(now: float, used_since: float) -> Job[Overview]:
    """Return a job that counts at ``now``; only domains looked up since ``used_since`` are refreshed."""

    def call(connection: sqlite3.Connection) -> Overview:
        found = Overview()
        # The mode is unknown if an older version stored the entry.
        statement = (
            "SELECT coalesce(mode, 'unknown'), count(*), sum(failure_count > 0), sum(valid_until < ?),"
            " sum(valid_until < ? AND failure_count > 0)"
            " FROM entry INDEXED BY entry_list WHERE valid_until >= ? GROUP BY 1"
        )
        for mode, total, failing, expiring, at_risk in connection.execute(statement, (now + _DAY, now + _DAY, now)):
            found.modes[mode] = total
            found.failing += failing or 0
            found.expiring += expiring or 0
            if mode == "enforce":
                found.enforce_at_risk = at_risk or 0
        statement = "SELECT count(*), min(due_at) FROM entry WHERE due_at <= ? AND last_used >= ?"
        found.due, found.due_since = connection.execute(statement, (now, used_since)).fetchone()
        return found

    return call


def enforced(domains: Sequence[str], now: float, used_since: float) -> Job[list[str]]:
    """Return a job that selects domains enforced at ``now`` and looked up since ``used_since``, the latest first."""

    def call(connection: sqlite3.Connection) -> list[str]:
        statement = (
            "SELECT domain FROM entry WHERE domain IN (SELECT value FROM json_each(?))"
            " AND mode = 'enforce' AND valid_until >= ? AND last_used >= ? ORDER BY last_used DESC, domain"
        )
        return [domain for (domain,) in connection.execute(statement, (json.dumps(domains), now, used_since))]

    return call


def browse_file(path: str, call: Job[T]) -> T:
    """Open the file, run ``call``, and close it. Yields to other threads. Raises ``StoreError``."""
    connection = open_reading(path, SCHEMA)
    try:
        with contextlib.closing(connection):
            # On a core shared with the event loop, Linux would let a long query run for milliseconds.
            connection.set_progress_handler(os.sched_yield, _YIELD_EVERY)
            return call(connection)
    except sqlite3.Error as error:
        raise as_store_error(error) from None
