"""Read TLS results for charts: sessions and failures by day, domain and reason."""

import sqlite3
from collections.abc import Iterable
from datetime import date, timedelta
from functools import partial
from typing import Any

from ...text import utc_day
from .connection import TlsrptDatabase

__all__ = ["MAX_DAYS", "results", "sessions_of"]

MAX_DAYS = 366
_DOMAINS = 12
_REASONS = 20
_OTHERS = "other"


async def results(database: TlsrptDatabase | None, now: float, days: int) -> dict[str, Any]:
    """Return the last ``days`` UTC days, 1 to ``MAX_DAYS``, up to that of ``now``, as JSON values.

    ``{collecting, days: [], sessions: [], failed: [], domains: [{domain, sessions: [], failed: []}], reasons:
    [{reason, counts: []}]}``, lists with an item for each day. Domains and reasons with the most failures come
    first; at most 12 domains are returned. Without a database: ``{collecting: false}``. Raises ``StoreError``.
    """
    if database is None:
        return {"collecting": False}
    last = date.fromisoformat(utc_day(now))
    wanted = [(last - timedelta(days=ago)).isoformat() for ago in reversed(range(days))]
    found = await database.read(partial(_found, wanted))
    return {"collecting": True, "days": wanted, **found}


async def sessions_of(
    database: TlsrptDatabase | None, domain: str, now: float, days: int
) -> tuple[int, int, str, str] | None:
    """Return a domain's sessions of the last ``days`` UTC days: total, failed, and the most frequent failure.

    The failure is a result type and an MX host, both empty if none is known. None without a database or sessions.
    Raises ``StoreError``.
    """
    if database is None:
        return None
    last = date.fromisoformat(utc_day(now))
    within = ((last - timedelta(days=days - 1)).isoformat(), last.isoformat(), domain)
    return await database.read(partial(_sessions, within))


def _sessions(within: tuple[str, str, str], connection: sqlite3.Connection) -> tuple[int, int, str, str] | None:
    rows = connection.execute(_BY_DOMAIN, within).fetchall()
    total, failed = sum(row[1] for row in rows), sum(row[2] for row in rows)
    worst = connection.execute(_WORST_FAILURE, within).fetchone() or ("", "")
    return (total, failed, str(worst[0]), str(worst[1])) if total else None


# Each statement returns rows of a name, a day and figures.
_BY_DAY = """
    SELECT day, sum(successful + failed), sum(failed) FROM report_unit JOIN tally ON unit = report_unit.id
    WHERE day BETWEEN ? AND ? GROUP BY day
"""
_WORST = """
    SELECT domain FROM report_unit JOIN tally ON unit = report_unit.id WHERE day BETWEEN ? AND ?
    GROUP BY domain HAVING sum(successful + failed) > 0
    ORDER BY sum(failed) DESC, sum(successful + failed) DESC, domain LIMIT ?
"""
_BY_DOMAIN = """
    SELECT day, sum(successful + failed), sum(failed) FROM report_unit JOIN tally ON unit = report_unit.id
    WHERE domain = ?3 AND day BETWEEN ?1 AND ?2 GROUP BY day
"""
_WORST_FAILURE = """
    SELECT result_type, mx_host FROM report_unit JOIN failure ON unit = report_unit.id
    WHERE domain = ?3 AND day BETWEEN ?1 AND ?2
    GROUP BY result_type, mx_host ORDER BY sum(count) DESC, result_type, mx_host LIMIT 1
"""
_BY_REASON = """
    SELECT result_type, day, sum(count) FROM report_unit JOIN failure ON unit = report_unit.id
    WHERE day BETWEEN ? AND ? GROUP BY result_type, day
"""


def _found(days: list[str], connection: sqlite3.Connection) -> dict[str, Any]:
    within = (days[0], days[-1])
    sessions, failed = _spread(days, connection.execute(_BY_DAY, within))
    domains = []
    for (domain,) in connection.execute(_WORST, (*within, _DOMAINS)).fetchall():
        of_domain, failed_of_domain = _spread(days, connection.execute(_BY_DOMAIN, (*within, domain)))
        domains.append({"domain": domain, "sessions": of_domain, "failed": failed_of_domain})
    reasons: dict[str, list[int]] = {}
    at = {day: index for index, day in enumerate(days)}
    for reason, day, count in connection.execute(_BY_REASON, within):
        # RFC 8460 section 4.3 defines eleven result types, and only those are stored.
        name = reason if reason in reasons or len(reasons) < _REASONS else _OTHERS
        reasons.setdefault(name, [0] * len(days))[at[day]] += count
    ranked = sorted(reasons.items(), key=lambda item: (-sum(item[1]), item[0]))
    return {
        "sessions": sessions,
        "failed": failed,
        "domains": domains,
        "reasons": [{"reason": reason, "counts": counts} for reason, counts in ranked],
    }


def _spread(days: list[str], rows: Iterable[tuple[str, int, int]]) -> tuple[list[int], list[int]]:
    found = {day: (sessions, failed) for day, sessions, failed in rows}
    return [found.get(day, (0, 0))[0] for day in days], [found.get(day, (0, 0))[1] for day in days]
