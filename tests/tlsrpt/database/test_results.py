"""TLS results over time: failed sessions by day, domain and reason."""

import calendar
from pathlib import Path
from typing import Any

from mtasts_daemon.tlsrpt.database.connection import open_database
from mtasts_daemon.tlsrpt.database.results import results, sessions_of
from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyResult, PolicyType, TlsrptEvent
from tests.tlsrpt.events import add_events

NOW = float(calendar.timegm((2026, 3, 4, 12, 0, 0)))
TODAY, YESTERDAY, LONG_AGO = "2026-03-04", "2026-03-03", "2026-01-01"


def session(domain: str, *reasons: str) -> TlsrptEvent:
    """Return a session without policy that failed for the reasons; without reasons it succeeded."""
    failures = tuple(map(Failure, reasons))
    return TlsrptEvent(domain, "", (PolicyResult(Policy(PolicyType.NO_POLICY_FOUND, domain), bool(reasons), failures),))


async def found(path: Path, days: int, *events: tuple[str, TlsrptEvent]) -> dict[str, Any]:
    database = open_database(path / "tlsrpt.sqlite", now=NOW)
    try:
        add_events(database, events)
        return await results(database, NOW, days)
    finally:
        await database.close()


async def test_results_without_a_database_are_not_collecting() -> None:
    assert await results(None, NOW, 30) == {"collecting": False}


async def test_results_cover_the_days_up_to_today(tmp_path: Path) -> None:
    shown = await found(
        tmp_path,
        3,
        (TODAY, session("a.example")),
        (TODAY, session("a.example", "certificate-expired")),
        (YESTERDAY, session("b.example")),
        (LONG_AGO, session("c.example", "tlsa-invalid")),
    )
    assert shown["days"] == ["2026-03-02", YESTERDAY, TODAY]
    assert (shown["sessions"], shown["failed"]) == ([0, 1, 2], [0, 0, 1])
    assert shown["domains"] == [
        {"domain": "a.example", "sessions": [0, 0, 2], "failed": [0, 0, 1]},
        {"domain": "b.example", "sessions": [0, 1, 0], "failed": [0, 0, 0]},
    ]
    assert shown["reasons"] == [{"reason": "certificate-expired", "counts": [0, 0, 1]}]


async def test_most_frequent_reasons_come_first(tmp_path: Path) -> None:
    shown = await found(
        tmp_path,
        1,
        (TODAY, session("a.example", "tlsa-invalid")),
        (TODAY, session("b.example", "dane-required")),
        (TODAY, session("c.example", "dane-required")),
    )
    assert [(one["reason"], sum(one["counts"])) for one in shown["reasons"]] == [
        ("dane-required", 2),
        ("tlsa-invalid", 1),
    ]


async def test_domains_with_the_most_failures_are_listed(tmp_path: Path) -> None:
    fine = [(TODAY, session(f"fine{number:02}.example")) for number in range(30)]
    failing = [(TODAY, session(f"failing{number}.example", "certificate-expired")) for number in range(3)]
    shown = await found(tmp_path, 1, *fine, *failing)
    assert len(shown["domains"]) == 12
    assert [one["domain"] for one in shown["domains"]][:4] == [
        "failing0.example",
        "failing1.example",
        "failing2.example",
        "fine00.example",
    ]
    assert (shown["sessions"], shown["failed"]) == ([33], [3])


async def test_reasons_beyond_the_limit_are_folded(tmp_path: Path) -> None:
    shown = await found(tmp_path, 1, *((TODAY, session("a.example", f"reason-{number}")) for number in range(50)))
    assert len(shown["reasons"]) == 21
    assert sum(sum(one["counts"]) for one in shown["reasons"]) == 50


async def test_sessions_of_a_domain_name_the_most_frequent_failure(tmp_path: Path) -> None:
    async def ask() -> list[object]:
        database = open_database(tmp_path / "tlsrpt.sqlite", now=NOW)
        try:
            expired = session("a.example", "certificate-expired")
            days = [(TODAY, session("a.example")), (TODAY, expired), (YESTERDAY, expired)]
            days += [(TODAY, session("a.example", "tlsa-invalid")), (LONG_AGO, session("a.example", "tlsa-invalid"))]
            add_events(database, days)
            return [await sessions_of(database, name, NOW, 7) for name in ("a.example", "b.example")]
        finally:
            await database.close()

    assert await ask() == [(4, 3, "certificate-expired", ""), None]
    assert await sessions_of(None, "a.example", NOW, 7) is None
