"""Adding a tally to the TLSRPT database, within the caps; all of it in the transaction that is open.

What is asked of the database is asked for the whole tally at once, as one JSON text: a statement gives up the
interpreter's lock and has to wait to have it back.
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
    """What one UTC day may hold. What exceeds ``policies`` or ``failures`` loses its details, never its counts."""

    domains: int = 500_000
    """Policy domains. Events of further ones are not kept."""
    policies: int = 50
    """Distinct policies of a domain."""
    failures: int = 200
    """Distinct failure details of a domain."""


Row = int
"""A row of ``tally``: its subject times 2^32, and its policy. One number, so that many are nothing to the collector of
garbage, which would halt every thread to look at them."""

Rows = dict[tuple[str, str], Row]
"""By policy domain and the policy's digest."""


class RowsGone(Exception):
    """Rows that were known are no longer there."""


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a tally."""

    refused: int
    """Sessions that were not kept, because the day has as many policy domains as it may have."""
    rows: Rows
    """Where it was added."""


_DOMAINS_OF_DAY = "SELECT count(*) FROM subject WHERE day = ?"
_NEW_DOMAINS = """
    SELECT value FROM json_each(?2) WHERE NOT EXISTS (SELECT 1 FROM subject WHERE day = ?1 AND domain = value)
"""
_ADD_DOMAINS = "INSERT OR IGNORE INTO subject (day, domain) SELECT ?1, value FROM json_each(?2)"

# CROSS JOIN is SQLite's word for: in the order written. The rows given lead, each finding what it is about by key.
_CROWDED = """
    SELECT subject.id, subject.domain FROM json_each(?2) AS row
    CROSS JOIN subject ON subject.day = ?1 AND subject.domain = json_extract(row.value, '$[0]')
    WHERE json_extract(row.value, '$[1]') + (SELECT count(*) FROM {table} WHERE subject = subject.id) > ?3
"""
_POLICIES_KNOWN = "SELECT digest FROM tally JOIN policy ON policy.id = tally.policy WHERE subject = ?"
_FAILURES_KNOWN = """
    SELECT digest, result_type, sending_ip, mx_host, helo, receiving_ip, info, reason_code
    FROM failure JOIN policy ON policy.id = failure.policy WHERE subject = ?
"""

_NEW_POLICIES = "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM policy WHERE digest = value)"
_ADD_POLICY = "INSERT INTO policy (digest, type, domain, strings, mx_hosts) VALUES (?, ?, ?, ?, ?)"
_ROWS = """
    SELECT subject.domain, policy.digest, subject.id << 32 | policy.id FROM json_each(?2) AS row
    CROSS JOIN subject ON subject.day = ?1 AND subject.domain = json_extract(row.value, '$[0]')
    CROSS JOIN policy ON policy.digest = json_extract(row.value, '$[1]')
"""
_ADD_SESSIONS = """
    INSERT INTO tally (successful, failed, subject, policy) VALUES (?1, ?2, ?3 >> 32, ?3 & 0xffffffff)
    ON CONFLICT (subject, policy)
    DO UPDATE SET successful = successful + excluded.successful, failed = failed + excluded.failed
"""
_ADD_FAILURES = """
    INSERT INTO failure VALUES (?1 >> 32, ?1 & 0xffffffff, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT DO UPDATE SET count = count + excluded.count
"""
_ADD_AGAIN = """
    UPDATE tally SET successful = successful + ?2 WHERE subject = ?1 >> 32 AND policy = ?1 & 0xffffffff
"""


def add_tally(tally: Tally, caps: Caps, connection: sqlite3.Connection) -> Added:
    """Add the tally, within the transaction that is open; what exceeds the caps is folded in it first."""
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
    """Add successful sessions to rows that ``add_tally`` told of. Raises ``RowsGone``."""
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
    for subject, domain in _crowded("tally", tally, counts, caps.policies, connection):
        known = {digest for (digest,) in connection.execute(_POLICIES_KNOWN, (subject,))}
        tally.fold_policies(domain, known, caps.policies - len(known))


def _fold_failures(tally: Tally, caps: Caps, connection: sqlite3.Connection) -> None:
    counts = (
        (domain, count)
        for domain, policies in tally.domains.items()
        if (count := sum(len(sums.failures) for sums in policies.values()))
    )
    for subject, domain in _crowded("failure", tally, counts, caps.failures, connection):
        rows = connection.execute(_FAILURES_KNOWN, (subject,)).fetchall()
        known = {(digest, Failure(*details)) for digest, *details in rows}
        others = sum(not any(details[1:]) for _, *details in rows)
        tally.fold_failures(domain, known, caps.failures - len(known) + others)


def _crowded(
    table: str, tally: Tally, counts: Iterable[tuple[str, int]], cap: int, connection: sqlite3.Connection
) -> list[tuple[int, str]]:
    """The subjects, with their domains, that might exceed the cap: seldom any."""
    rows = json.dumps(list(counts))
    return connection.execute(_CROWDED.format(table=table), (tally.day, rows, cap)).fetchall()


def _add_policies(tally: Tally, connection: sqlite3.Connection) -> None:
    policies = {sums.digest: policy for of in tally.domains.values() for policy, sums in of.items()}
    # Nearly always none; their texts are the bulk of what was received.
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
    # dataclasses.astuple would copy each, at many times the cost.
    return (
        failure.result_type,
        failure.sending_ip,
        failure.mx_host,
        failure.helo,
        failure.receiving_ip,
        failure.info,
        failure.reason_code,
    )
