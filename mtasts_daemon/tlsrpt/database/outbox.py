"""Store the reports to send and the state of their deliveries. Every change is one transaction.

A report unit (a day and a policy domain) is *waiting* from the end of its day until it is due. Then it is either
*skipped*, for a reason, or *reported*: there is a report, made once, and a delivery for each address. A delivery is
*pending* until it is *delivered*, *refused*, *failed* (given up after ``retry_for``) or *skipped* (suppressed).

Days are ``YYYY-MM-DD``; moments are seconds since the epoch.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..model.delivery_result import DeliveryResult, Result
from .connection import SavedReport, TlsrptDatabase
from .decisions import NewDelivery, ReportDecision, ReportMade, Retry, Skip, WaitingUnit

__all__ = ["Delivery", "DeliveryProgress", "Outbox"]

_PAGE = 5000
"""Policy domains planned in one transaction, so that the collector does not wait long."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Delivery that is due."""

    day: str
    domain: str
    uri: str
    tag: str
    attempts: int


@dataclass(frozen=True, slots=True)
class DeliveryProgress:
    """Counts of a day: report units and deliveries by their states."""

    waiting: int = 0
    waiting_due: int = 0
    """Waiting report units that are due."""
    reported: int = 0
    skipped: int = 0
    pending: int = 0
    pending_due: int = 0
    delivered: int = 0
    refused: int = 0
    failed: int = 0
    suppressed: int = 0


class Outbox:
    """Outbox in the open database. Calls raise ``StoreError``."""

    def __init__(self, database: TlsrptDatabase) -> None:
        self._database = database

    # -- planning ----------------------------------------------------------------------------------------------

    async def days(self, before_day: str) -> list[str]:
        """Return days before ``before_day`` with results, the oldest first."""
        return await self._database.read(partial(_days, before_day))

    async def plan(self, day: str, moment: Callable[[str], float]) -> None:
        """Plan every report unit of the day. ``moment`` returns the due time for a policy domain.

        Report units are the policy domains of the day, and the MX hosts whose TLSA records were applied, which are
        the policy domains of DANE (RFC 8460 section 1.1).
        """
        after: str | None = ""
        while after is not None:
            after = await self._database.write(partial(_plan, day, after, moment))

    async def waiting(self, now: float, limit: int) -> list[WaitingUnit]:
        """Return due report units, in the order in which they became due."""
        rows = await self._database.read(lambda connection: connection.execute(_WAITING, (now, limit)).fetchall())
        return [WaitingUnit(*row) for row in rows]

    async def mx_hosts(self, domains: Sequence[str]) -> set[str]:
        """Return the domains that are MX hosts whose TLSA records were applied on any day."""
        values = (json.dumps(domains),)
        rows = await self._database.read(lambda connection: connection.execute(_MX_HOSTS, values).fetchall())
        return {domain for (domain,) in rows}

    async def contributors(self, day: str, domain: str, after: str = "", limit: int = 500) -> list[str]:
        """Return other policy domains whose mail of the day met TLSA records of the MX host ``domain``, sorted."""
        values = (domain, day, after, limit)
        rows = await self._database.read(lambda connection: connection.execute(_CONTRIBUTORS, values).fetchall())
        return [name for (name,) in rows]

    async def decide(self, decisions: Sequence[ReportDecision]) -> None:
        """Store the decisions in one transaction. Earlier decisions are not changed."""
        await self._database.write(partial(_decide, decisions))

    # -- delivering --------------------------------------------------------------------------------------------

    async def destinations(self, now: float) -> list[str]:
        """Return destinations with due deliveries, in the order in which they became due."""
        rows = await self._database.read(lambda connection: connection.execute(_DESTINATIONS, (now,)).fetchall())
        return [destination for (destination,) in rows]

    async def next(self, destination: str, now: float) -> tuple[Delivery, SavedReport] | None:
        """Return the destination's delivery that has been due longest, and its report, or None."""
        rows = await self._database.read(lambda connection: connection.execute(_DUE, (destination, now)).fetchall())
        return (Delivery(*rows[0][:5]), SavedReport(*rows[0][5:])) if rows else None

    async def record(self, delivery: Delivery, attempt: DeliveryResult, now: float, next_at: float) -> str:
        """Store the result of an attempt. Return the new state; a pending delivery is retried at ``next_at``."""
        return await self._database.write(partial(_record, delivery, attempt, now, next_at))

    async def back_off(self, destination: str, now: float, until: float, reason: str) -> None:
        """Postpone the deliveries of a failing destination; mark expired ones as failed."""
        await self._database.write(partial(_back_off, destination, now, until, reason))

    # -- by hand -----------------------------------------------------------------------------------------------

    async def make_due(self, day: str, domain: str | None, now: float, until: float) -> None:
        """Make waiting report units due, and retry failed deliveries until ``until``."""
        await self._database.write(partial(_make_due, day, domain, now, until))

    async def progress(self, day: str, domain: str | None, now: float) -> DeliveryProgress:
        """Return the counts of the day, or of one of its report units."""
        return await self._database.read(partial(_progress, day, domain, now))


# -- statements --------------------------------------------------------------------------------------------

# SQLite keeps the order of a CROSS JOIN.
_NEXT_DAY = "SELECT min(day) FROM report_unit WHERE day > ? AND day < ?"
_UNITS = "SELECT domain FROM report_unit WHERE day = ? AND domain > ? ORDER BY domain LIMIT ?"
_PLAN = """
    WITH page AS (SELECT id, domain FROM report_unit WHERE day = ?1 AND domain > ?2 AND domain <= ?3)
    INSERT OR IGNORE INTO plan (day, domain, state, attempts, next_at, reason)
    SELECT ?1, domain, 'waiting', 0, moment(domain), '' FROM (
        SELECT domain FROM page UNION
        SELECT policy.domain FROM page JOIN tally ON unit = page.id JOIN policy ON policy.id = policy
        WHERE policy.type = 1
    )
"""
_WAITING = """
    SELECT day, domain, attempts FROM plan WHERE state = 'waiting' AND next_at <= ? ORDER BY next_at LIMIT ?
"""
_MX_HOSTS = """
    SELECT DISTINCT value FROM json_each(?) CROSS JOIN policy ON policy.type = 1 AND policy.domain = value
"""
_CONTRIBUTORS = """
    SELECT DISTINCT report_unit.domain FROM policy CROSS JOIN tally ON tally.policy = policy.id
    CROSS JOIN report_unit ON report_unit.id = tally.unit
    WHERE policy.type = 1 AND policy.domain = ?1
    AND report_unit.day = ?2 AND report_unit.domain > ?3 AND report_unit.domain <> ?1
    ORDER BY report_unit.domain LIMIT ?4
"""
_DECIDED = """
    UPDATE plan SET state = ?, reason = ?, next_at = NULL WHERE day = ? AND domain = ? AND state = 'waiting'
"""
_RETRY = """
    UPDATE plan SET attempts = attempts + 1, next_at = ?, reason = ? WHERE day = ? AND domain = ? AND state = 'waiting'
"""
_REPORT = "INSERT INTO report (day, domain, report_id, created_at, digest, body) VALUES (?, ?, ?, ?, ?, ?)"
_DELIVERY = """
    INSERT INTO delivery (day, domain, uri, tag, destination, state, attempts, next_at, until, last_error, done_at)
    VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?, NULL)
"""
_DESTINATIONS = """
    SELECT destination FROM delivery WHERE state = 'pending' AND next_at <= ? GROUP BY destination ORDER BY min(next_at)
"""
# Deliveries due at the same moment, such as all of a day, come in the order of the index: sorting them for each
# delivery would take longer than the delivery.
_DUE = """
    SELECT day, domain, uri, tag, attempts, report_id, created_at, digest, body
    FROM delivery JOIN report USING (day, domain)
    WHERE state = 'pending' AND destination = ? AND next_at <= ? ORDER BY next_at, delivery.rowid LIMIT 1
"""
_UNTIL = "SELECT until FROM delivery WHERE day = ? AND domain = ? AND uri = ?"
_RECORD = """
    UPDATE delivery SET state = ?, attempts = attempts + 1, next_at = ?, last_error = ?, done_at = ?
    WHERE day = ? AND domain = ? AND uri = ? AND state = 'pending'
"""
# Kept while a delivery is pending or may be retried by a command.
_DONE_WITH = """
    UPDATE report SET body = NULL WHERE day = ?1 AND domain = ?2 AND NOT EXISTS (
        SELECT 1 FROM delivery WHERE day = ?1 AND domain = ?2 AND state IN ('pending', 'failed')
    )
"""
_GIVE_UP = """
    UPDATE delivery SET state = 'failed', last_error = ?, next_at = NULL, done_at = ?
    WHERE state = 'pending' AND destination = ? AND until <= ?
"""
_POSTPONE = "UPDATE delivery SET next_at = ?1 WHERE state = 'pending' AND destination = ?2 AND next_at < ?1"
_MAKE_PLAN_DUE = """
    UPDATE plan SET next_at = ? WHERE day = ? AND (? IS NULL OR domain = ?) AND state = 'waiting'
"""
_MAKE_DUE = """
    UPDATE delivery SET state = 'pending', next_at = ?, until = max(until, ?), done_at = NULL
    WHERE day = ? AND (? IS NULL OR domain = ?) AND state IN ('pending', 'failed')
"""
_PLANNED = (
    "SELECT state, count(*), sum(next_at <= ?) FROM plan WHERE day = ? AND (? IS NULL OR domain = ?) GROUP BY state"
)
_DELIVERIES = """
    SELECT state, count(*), sum(next_at <= ?) FROM delivery WHERE day = ? AND (? IS NULL OR domain = ?) GROUP BY state
"""


def _days(before_day: str, connection: sqlite3.Connection) -> list[str]:
    # One step of the index for each day, rather than one for each of its policy domains.
    days: list[str] = []
    while True:
        ((day,),) = connection.execute(_NEXT_DAY, (days[-1] if days else "", before_day)).fetchall()
        if day is None:
            return days
        days.append(day)


def _plan(day: str, after: str, moment: Callable[[str], float], connection: sqlite3.Connection) -> str | None:
    page = connection.execute(_UNITS, (day, after, _PAGE)).fetchall()
    if not page:
        return None
    connection.create_function("moment", 1, moment)
    (last,) = page[-1]
    connection.execute(_PLAN, (day, after, last))
    return str(last) if len(page) == _PAGE else None


def _decide(decisions: Sequence[ReportDecision], connection: sqlite3.Connection) -> None:
    # Neighbours share index pages, each of which is written once per transaction.
    for decision in sorted(decisions, key=lambda each: each.domain):
        unit = (decision.day, decision.domain)
        if isinstance(decision, Skip):
            connection.execute(_DECIDED, ("skipped", decision.reason, *unit))
        elif isinstance(decision, Retry):
            connection.execute(_RETRY, (decision.next_at, decision.reason, *unit))
        elif connection.execute(_DECIDED, ("reported", "; ".join(decision.problems), *unit)).rowcount:
            report = decision.report
            # A suppressed delivery is never retried.
            body = None if all(new.suppressed for new in decision.deliveries) else report.body
            values = (report.report_id, report.created_at, report.digest, body)
            connection.execute(_REPORT, (*unit, *values))
            connection.executemany(_DELIVERY, (_row(decision, new) for new in decision.deliveries))


def _row(made: ReportMade, new: NewDelivery) -> tuple[object, ...]:
    state = (
        ("skipped", None, made.until, new.suppressed) if new.suppressed else ("pending", made.next_at, made.until, "")
    )
    return (made.day, made.domain, new.uri, new.tag, new.destination, *state)


def _record(
    delivery: Delivery, attempt: DeliveryResult, now: float, next_at: float, connection: sqlite3.Connection
) -> str:
    key = (delivery.day, delivery.domain, delivery.uri)
    state = "delivered" if attempt.result is Result.DELIVERED else "refused"
    if attempt.result is Result.DEFERRED:
        rows = connection.execute(_UNTIL, key).fetchall()
        state = "pending" if rows and next_at < rows[0][0] else "failed"
    moments = (next_at, None) if state == "pending" else (None, now)
    connection.execute(_RECORD, (state, moments[0], attempt.detail, moments[1], *key))
    connection.execute(_DONE_WITH, key[:2])
    return state


def _make_due(day: str, domain: str | None, now: float, until: float, connection: sqlite3.Connection) -> None:
    connection.execute(_MAKE_PLAN_DUE, (now, day, domain, domain))
    connection.execute(_MAKE_DUE, (now, until, day, domain, domain))


def _back_off(destination: str, now: float, until: float, reason: str, connection: sqlite3.Connection) -> None:
    connection.execute(_GIVE_UP, (reason, now, destination, now))
    connection.execute(_POSTPONE, (until, destination))


def _progress(day: str, domain: str | None, now: float, connection: sqlite3.Connection) -> DeliveryProgress:
    values = (now, day, domain, domain)
    plan = {state: (count, due) for state, count, due in connection.execute(_PLANNED, values)}
    sent = {state: (count, due) for state, count, due in connection.execute(_DELIVERIES, values)}
    none = (0, 0)
    return DeliveryProgress(
        *plan.get("waiting", none),
        plan.get("reported", none)[0],
        plan.get("skipped", none)[0],
        *sent.get("pending", none),
        *(sent.get(state, none)[0] for state in ("delivered", "refused", "failed", "skipped")),
    )
