"""Add a tally to the TLSRPT database in the open transaction, within the caps.

Each statement covers the complete tally, passed as one JSON text, because every statement releases the interpreter's
lock and then waits to acquire it again.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..model.event import Failure
from ..model.tally import Tally

__all__ = ["Added", "Caps", "Row", "Rows", "RowsGone", "add_again", "add_tally"]


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of one UTC day. Beyond ``policies`` and ``failures``, details are removed and counts are kept."""

    domains: int = 500_000
    """Policy domains. Events of further domains are not kept."""
    policies: int = 50
    """Distinct policies of a domain."""
    failures: int = 200
    """Distinct failure details of a domain."""


Row = int
"""Row of ``tally``: its report unit times 2^32 plus its policy. An integer, so that the garbage collector, which stops
all threads, does not traverse millions of objects."""

Rows = dict[tuple[str, str], Row]
"""Rows by policy domain and policy digest."""


class RowsGone(Exception):
    """Known rows no longer exist."""


@dataclass(frozen=True, slots=True)
class Added:
    """Result of adding a tally."""

    refused: int
    """Sessions that were not kept because the day has the maximum number of policy domains."""
    rows: Rows
    """Rows to which the tally was added."""


_DOMAINS_OF_DAY = "SELECT count(*) FROM report_unit WHERE day = ?"
_NEW_DOMAINS = """
    SELECT value FROM json_each(?2) WHERE NOT EXISTS (SELECT 1 FROM report_unit WHERE day = ?1 AND domain = value)
"""
_ADD_DOMAINS = "INSERT OR IGNORE INTO report_unit (day, domain) SELECT ?1, value FROM json_each(?2)"

# SQLite keeps the order of a CROSS JOIN: the given rows are scanned, and the others are found by key.
_CROWDED = """
    SELECT report_unit.id, report_unit.domain FROM json_each(?2) AS row
    CROSS JOIN report_unit ON report_unit.day = ?1 AND report_unit.domain = json_extract(row.value, '$[0]')
    WHERE json_extract(row.value, '$[1]') + (SELECT count(*) FROM {table} WHERE unit = report_unit.id) > ?3
"""
_POLICIES_KNOWN = "SELECT digest FROM tally JOIN policy ON policy.id = tally.policy WHERE unit = ?"
_FAILURES_KNOWN = """
    SELECT digest, result_type, sending_ip, mx_host, helo, receiving_ip, info, reason_code
    FROM failure JOIN policy ON policy.id = failure.policy WHERE unit = ?
"""

_NEW_POLICIES = "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM policy WHERE digest = value)"
_ADD_POLICY = "INSERT INTO policy (digest, type, domain, strings, mx_hosts) VALUES (?, ?, ?, ?, ?)"
_ROWS = """
    SELECT report_unit.domain, policy.digest, report_unit.id << 32 | policy.id FROM json_each(?2) AS row
    CROSS JOIN report_unit ON report_unit.day = ?1 AND report_unit.domain = json_extract(row.value, '$[0]')
    CROSS JOIN policy ON policy.digest = json_extract(row.value, '$[1]')
"""
_ADD_SESSIONS = """
    INSERT INTO tally (successful, failed, unit, policy) VALUES (?1, ?2, ?3 >> 32, ?3 & 0xffffffff)
    ON CONFLICT (unit, policy)
    DO UPDATE SET successful = successful + excluded.successful, failed = failed + excluded.failed
"""
_ADD_FAILURES = """
    INSERT INTO failure VALUES (?1 >> 32, ?1 & 0xffffffff, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT DO UPDATE SET count = count + excluded.count
"""
_ADD_AGAIN = """
    UPDATE tally SET successful = successful + ?2 WHERE unit = ?1 >> 32 AND policy = ?1 & 0xffffffff
"""


def add_tally(tally: Tally, caps: Caps, connection: sqlite3.Connection) -> Added:
    """Add the tally in the open transaction. Sums beyond the caps are folded in it first."""
    refused = _add_domains(tally, caps, connection)
    _fold_policies(tally, caps, connection)
    _fold_failures(tally, caps, connection)
    _add_policies(tally, connection)
    pairs = [(domain, sums.digest) for domain, policies in tally.domains.items() for sums in policies.values()]
    found = connection.execute(_ROWS, (tally.day, json.dumps(pairs))).fetchall()
    rows: Rows = {(domain, digest): row for domain, digest, row in found}
    connection.executemany(_ADD_SESSIONS, _sessions(tally, rows))
    connection.executemany(_ADD_FAILURES, _failures(tally, rows))
    return Added(refused, rows)


def add_again(sessions: Mapping[Row, int], connection: sqlite3.Connection) -> None:
    """Add successful sessions to rows that ``add_tally`` returned. Raises ``RowsGone``."""
    if sessions and connection.executemany(_ADD_AGAIN, sessions.items()).rowcount != len(sessions):
        raise RowsGone


def _add_domains(tally: Tally, caps: Caps, connection: sqlite3.Connection) -> int:
    refused = 0
    ((present,),) = connection.execute(_DOMAINS_OF_DAY, (tally.day,)).fetchall()
    if present + len(tally.domains) > caps.domains:
        new = connection.execute(_NEW_DOMAINS, (tally.day, json.dumps(list(tally.domains)))).fetchall()
        refused = sum(tally.drop(domain) for (domain,) in new[max(0, caps.domains - present) :])
    connection.execute(_ADD_DOMAINS, (tally.day, json.dumps(list(tally.domains))))
    return refused


def _fold_policies(tally: Tally, caps: Caps, connection: sqlite3.Connection) -> None:
    counts = ((domain, len(policies)) for domain, policies in tally.domains.items())
    for unit, domain in _crowded("tally", tally, counts, caps.policies, connection):
        known = {digest for (digest,) in connection.execute(_POLICIES_KNOWN, (unit,))}
        tally.fold_policies(domain, known, caps.policies - len(known))


def _fold_failures(tally: Tally, caps: Caps, connection: sqlite3.Connection) -> None:
    counts = (
        (domain, count)
        for domain, policies in tally.domains.items()
        if (count := sum(len(sums.failures) for sums in policies.values()))
    )
    for unit, domain in _crowded("failure", tally, counts, caps.failures, connection):
        rows = connection.execute(_FAILURES_KNOWN, (unit,)).fetchall()
        known = {(digest, Failure(*details)) for digest, *details in rows}
        others = sum(not any(details[1:]) for _, *details in rows)
        tally.fold_failures(domain, known, caps.failures - len(known) + others)


def _crowded(
    table: str, tally: Tally, counts: Iterable[tuple[str, int]], cap: int, connection: sqlite3.Connection
) -> list[tuple[int, str]]:
    """Return report units, with their domains, that may exceed the cap; usually none."""
    rows = json.dumps(list(counts))
    return connection.execute(_CROWDED.format(table=table), (tally.day, rows, cap)).fetchall()


def _add_policies(tally: Tally, connection: sqlite3.Connection) -> None:
    policies = {sums.digest: policy for of in tally.domains.values() for policy, sums in of.items()}
    # Usually there are no new policies; their texts are most of the received data.
    for (digest,) in connection.execute(_NEW_POLICIES, (json.dumps(list(policies)),)).fetchall():
        new = policies[digest]
        texts = json.dumps(new.strings), json.dumps(new.mx_hosts)
        connection.execute(_ADD_POLICY, (digest, int(new.type), new.domain, *texts))


def _sessions(tally: Tally, rows: Rows) -> Iterator[tuple[object, ...]]:
    for domain, policies in tally.domains.items():
        for sums in policies.values():
            yield sums.successful, sums.failed, rows[domain, sums.digest]


def _failures(tally: Tally, rows: Rows) -> Iterator[tuple[object, ...]]:
    for domain, policies in tally.domains.items():
        for sums in policies.values():
            for failure, count in sums.failures.items():
                yield rows[domain, sums.digest], *_details(failure), count


def _details(failure: Failure) -> tuple[str, ...]:
    # dataclasses.astuple copies each value, which costs many times as much.
    return (
        failure.result_type,
        failure.sending_ip,
        failure.mx_host,
        failure.helo,
        failure.receiving_ip,
        failure.info,
        failure.reason_code,
    )
