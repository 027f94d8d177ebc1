"""What checks saw of a domain, for the advice on received TLS reports. It comes from the history of checks alone."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from ..config import Config
from ..store.database import as_store_error, open_reading
from ..store.sqlite_file import database_exists
from ..tlsrpt.receive.advice import NO_CONTEXT, CertificateEnd, Change, ReportContext
from .watch.changes import VALID_UNTIL
from .watch.history import CHECK_SCHEMA, ProblemRow, TimelineEntry, read_checks, read_problems, read_timeline
from .watch.watch import history_file

__all__ = [
    "certificate_ends",
    "context_from_file",
    "policy_mode",
    "problem_changes",
    "report_context",
    "timeline_changes",
]

_ALWAYS = 1e15
_MOST_PROBLEMS = 200
_WORDS: Mapping[str, str] = {
    "policy-id": "the policy id became {value}",
    "policy": "the policy became {value}",
    "mx": "the MX hosts became {value}",
    "certificate": "{subject} got another certificate (SHA-256 {value})",
    "tlsa": "the TLSA records of {subject} became {value}",
}


def report_context(domain: str, since: float, connection: sqlite3.Connection) -> ReportContext:
    """Read what checks saw of the domain, or of the nearest domain above it: reports on DANE name the MX host.

    ``since`` is in seconds since the epoch; ``connection`` is to the history's file.
    """
    name = domain
    while "." in name:
        entries = read_timeline(name, since, _ALWAYS, connection)
        if entries:
            last = max((row.at for row in read_checks(name, 1, connection)), default=0.0)
            changes = [*timeline_changes(entries), *problem_changes(read_problems(name, _MOST_PROBLEMS, connection))]
            return ReportContext(
                policy_mode(entries, last) if name == domain else "",
                certificate_ends(entries),
                tuple(sorted(changes, key=lambda change: change.at)),
            )
        name = name.partition(".")[2]
    return NO_CONTEXT


def context_from_file(config: Config, environ: Mapping[str, str], domain: str, since: float) -> ReportContext:
    """Read it from the daemon's file, next to the running daemon. Raises ``StoreError``."""
    path = history_file(config, environ)
    if not database_exists(path):
        return NO_CONTEXT
    connection = open_reading(path, CHECK_SCHEMA)
    try:
        return report_context(domain, since, connection)
    except sqlite3.Error as error:
        raise as_store_error(error) from None
    finally:
        connection.close()


def timeline_changes(entries: Sequence[TimelineEntry]) -> list[Change]:
    """Return the changes among the facts: a fact that is the first of its kind and subject is none."""
    found: list[Change] = []
    seen: set[tuple[str, str]] = set()
    for entry in sorted(entries, key=lambda one: one.since):
        if (entry.kind, entry.subject) in seen:
            text = _WORDS.get(entry.kind, "{subject}: {value}").format(
                subject=entry.subject or "the policy host", value=entry.value[:120]
            )
            found.append(Change(entry.since, entry.kind, text))
        seen.add((entry.kind, entry.subject))
    return found


def problem_changes(problems: Iterable[ProblemRow]) -> list[Change]:
    """Return when checks first saw each problem, and when it was over."""
    found: list[Change] = []
    for _slug, _subject, _severity, text, since, _last_seen, _confirmed, gone_at in problems:
        found.append(Change(since, "problem", f"a check found: {text}"[:300]))
        if gone_at is not None:
            found.append(Change(gone_at, "problem", f"no check found any more: {text}"[:300]))
    return found


def certificate_ends(entries: Sequence[TimelineEntry]) -> tuple[CertificateEnd, ...]:
    """Return when each certificate expired or expires that was still in use then, as far as checks saw."""
    found: list[CertificateEnd] = []
    replaced: dict[str, float] = {}
    for entry in sorted(entries, key=lambda one: one.since, reverse=True):
        if entry.kind != "certificate":
            continue
        end = _end_of(entry.value)
        if end is not None and end < replaced.get(entry.subject, float("inf")):
            found.append(CertificateEnd(entry.subject.partition(" ")[0], end))
        replaced[entry.subject] = entry.since
    return tuple(dict.fromkeys(found))


def _end_of(value: str) -> float | None:
    _digest, found, moment = value.partition(VALID_UNTIL)
    try:
        return datetime.fromisoformat(moment).timestamp() if found else None
    except ValueError:
        return None


def policy_mode(entries: Sequence[TimelineEntry], last_check: float) -> str:
    """Return the mode of the policy that the last check saw, or empty text if it saw none."""
    for entry in sorted(entries, key=lambda one: one.since, reverse=True):
        if entry.kind == "policy" and entry.last_seen >= last_check:
            return entry.value.partition(";")[0].removeprefix("mode: ")
    return ""
