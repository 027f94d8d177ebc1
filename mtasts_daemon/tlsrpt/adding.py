"""Adding a tally to the TLSRPT database, within the caps: one transaction, few statements.

Each statement takes all of its rows as one JSON text. That is not only faster: a statement gives up the interpreter's
lock and waits to have it back, and so do many, each time, while lookups are to be answered.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .event import Failure
from .tally import Tally

__all__ = ["Caps", "Refused", "add_tally"]


@dataclass(frozen=True, slots=True)
class Caps:
    """What one UTC day may hold. What exceeds ``policies`` or ``failures`` loses its details, never its counts."""

    domains: int = 500_000
    """Policy domains. Events of further ones are not kept."""
    policies: int = 50
    """Distinct policies of a domain."""
    failures: int = 200
    """Distinct failure details of a domain."""


Refused = int
"""Sessions that were not kept, because the day has as many policy domains as it may have."""

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

_ADD_POLICIES = """
    INSERT OR IGNORE INTO policy (digest, type, domain, strings, mx_hosts)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
        json_extract(value, '$[3]'), json_extract(value, '$[4]')
    FROM json_each(?)
"""
_ADD = """
    INSERT INTO {table} SELECT subject.id, policy.id, {columns} FROM json_each(?2) AS row
    CROSS JOIN subject ON subject.day = ?1 AND subject.domain = json_extract(row.value, '$[0]')
    CROSS JOIN policy ON policy.digest = json_extract(row.value, '$[1]')
    WHERE true ON CONFLICT DO UPDATE SET {sums}
"""


def _add(table: str, columns: int, *counts: str) -> str:
    extracts = ", ".join(f"json_extract(row.value, '$[{n + 2}]')" for n in range(columns))
    return _ADD.format(
        table=table, columns=extracts, sums=", ".join(f"{name} = {name} + excluded.{name}" for name in counts)
    )


_ADD_SESSIONS = _add("tally", 2, "successful", "failed")
_ADD_FAILURES = _add("failure", 8, "count")


def add_tally(tally: Tally, caps: Caps, connection: sqlite3.Connection) -> Refused:
    """Add the tally, within the transaction that is open; what exceeds the caps is folded in it first."""
    refused = _add_domains(tally, caps, connection)
    _fold_policies(tally, caps, connection)
    _fold_failures(tally, caps, connection)
    connection.execute(_ADD_POLICIES, (_policies(tally),))
    connection.execute(_ADD_SESSIONS, (tally.day, json.dumps(list(_sessions(tally)))))
    connection.execute(_ADD_FAILURES, (tally.day, json.dumps(list(_failures(tally)))))
    return refused


def _add_domains(tally: Tally, caps: Caps, connection: sqlite3.Connection) -> Refused:
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


def _policies(tally: Tally) -> str:
    policies = {sums.digest: policy for of in tally.domains.values() for policy, sums in of.items()}
    return json.dumps(
        [(digest, policy.type, policy.domain, policy.strings, policy.mx_hosts) for digest, policy in policies.items()]
    )


def _sessions(tally: Tally) -> Iterator[tuple[object, ...]]:
    for domain, policies in tally.domains.items():
        for sums in policies.values():
            yield domain, sums.digest, sums.successful, sums.failed


def _failures(tally: Tally) -> Iterator[tuple[object, ...]]:
    for domain, policies in tally.domains.items():
        for sums in policies.values():
            for failure, count in sums.failures.items():
                yield domain, sums.digest, *_details(failure), count


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
