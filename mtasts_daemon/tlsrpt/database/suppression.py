"""Store the addresses that get no reports because they refused them or because mail bounced.

The owner of a TXT record need not own the address in it, so reports to an address that refuses them must
stop. A suppression expires. Moments are seconds since the epoch.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..model.dsn import Bounce
from .connection import TlsrptDatabase

__all__ = ["Suppression", "Suppressions"]


@dataclass(frozen=True, slots=True)
class Suppression:
    """Address that gets no reports until the moment ``until``."""

    uri: str
    reason: str
    since: float
    until: float


class Suppressions:
    """Suppressions in the open database. Addresses have the form of ``Rua.uri``. Calls raise ``StoreError``."""

    def __init__(self, database: TlsrptDatabase) -> None:
        self._database = database

    async def refusals(self, uri: str) -> int:
        """Return the number of days on which the address has refused reports since it accepted one."""
        rows = await self._database.read(lambda connection: connection.execute(_REFUSALS, (uri,)).fetchall())
        return int(rows[0][0])

    async def suppress(self, uri: str, reason: str, now: float, until: float) -> None:
        """Send no reports to the address until the moment ``until``; skip pending deliveries."""
        await self._database.write(partial(_suppress, Suppression(uri, reason, now, until)))

    async def unsuppress(self, uri: str) -> bool:
        """Send later reports to the address again. Return True if it was suppressed."""
        statement = "DELETE FROM suppression WHERE uri = ?"
        return await self._database.write(lambda connection: connection.execute(statement, (uri,)).rowcount > 0)

    async def suppressed(self, uris: Sequence[str], now: float) -> dict[str, str]:
        """Return the suppressed addresses among ``uris``, with the reasons."""
        rows = await self._database.read(
            lambda connection: connection.execute(_SUPPRESSED_OF, (now, json.dumps(uris))).fetchall()
        )
        return dict(rows)

    async def suppressions(self, now: float) -> list[Suppression]:
        """Return the suppressions in force, sorted by address."""
        rows = await self._database.read(lambda connection: connection.execute(_SUPPRESSIONS, (now,)).fetchall())
        return [Suppression(*row) for row in rows]

    async def bounced(self, bounce: Bounce, now: float, until: float) -> str | None:
        """Record a bounce. Return its address, or None if there is no such report (it may have expired).

        A permanent bounce suppresses the address until the moment ``until``.
        """
        return await self._database.write(partial(_bounced, bounce, now, until))

    async def tidy(self, now: float) -> None:
        """Remove expired suppressions."""
        statement = "DELETE FROM suppression WHERE until <= ?"
        await self._database.write(lambda connection: connection.execute(statement, (now,)).rowcount)


# -- statements --------------------------------------------------------------------------------------------

_REFUSALS = """
    SELECT count(DISTINCT day) FROM delivery WHERE uri = ?1 AND state = 'refused' AND day > coalesce(
        (SELECT max(day) FROM delivery WHERE uri = ?1 AND state = 'delivered'), ''
    )
"""
_SUPPRESS = "INSERT OR REPLACE INTO suppression (uri, reason, since, until) VALUES (?, ?, ?, ?)"
_SKIP = """
    UPDATE delivery SET state = 'skipped', last_error = ?, next_at = NULL, done_at = ?
    WHERE uri = ? AND state IN ('pending', 'failed')
"""
# Reports without deliveries that are pending or may be retried.
_DROP = """
    UPDATE report SET body = NULL WHERE body IS NOT NULL
    AND (day, domain) IN (SELECT day, domain FROM delivery WHERE uri = ?) AND NOT EXISTS (
        SELECT 1 FROM delivery WHERE day = report.day AND domain = report.domain AND state IN ('pending', 'failed')
    )
"""
_SUPPRESSIONS = "SELECT uri, reason, since, until FROM suppression WHERE until > ? ORDER BY uri"
_SUPPRESSED_OF = "SELECT uri, reason FROM suppression WHERE until > ? AND uri IN (SELECT value FROM json_each(?))"
_TAGGED = "SELECT day, domain, uri FROM delivery WHERE tag = ?"
_BOUNCED = """
    UPDATE delivery SET state = 'refused', next_at = NULL, last_error = ?, done_at = ?
    WHERE day = ? AND domain = ? AND uri = ?
"""


def _suppress(suppression: Suppression, connection: sqlite3.Connection) -> None:
    uri, reason = suppression.uri, suppression.reason
    connection.execute(_SUPPRESS, (uri, reason, suppression.since, suppression.until))
    connection.execute(_SKIP, (reason, suppression.since, uri))
    connection.execute(_DROP, (uri,))


def _bounced(bounce: Bounce, now: float, until: float, connection: sqlite3.Connection) -> str | None:
    rows = connection.execute(_TAGGED, (bounce.tag,)).fetchall()
    if not rows:
        return None
    uri = str(rows[0][2])
    detail = " ".join(filter(None, ("bounced", bounce.status, bounce.detail)))
    if bounce.failed:
        connection.execute(_BOUNCED, (detail, now, *rows[0]))
    if bounce.permanent:
        _suppress(Suppression(uri, detail, now, until), connection)
    return uri
