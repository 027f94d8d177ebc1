"""Alerts from the database to the notifier: sent once, silenced, and ended."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.notify.alert import Alert
from mtasts_daemon.tlsrpt.receive.alert_evaluation import evaluate_alerts
from mtasts_daemon.tlsrpt.receive.alert_store import add_silence, open_alerts
from mtasts_daemon.tlsrpt.receive.database import ReportsDatabase
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite

from .corpus import NOW, policy, report
from .test_contract import take

DAY = 86400


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[ReportsDatabase]:
    made = open_sqlite(str(tmp_path / "received.sqlite"), lambda: NOW, lambda problem: None)
    days = {"start-datetime": "2026-11-{:02}T00:00:00Z", "end-datetime": "2026-11-{:02}T23:59:59Z"}
    clean = policy(
        summary={"total-successful-session-count": 100, "total-failure-session-count": 0}, **{"failure-details": ...}
    )
    for number in range(13, 27):
        range_ = {name: text.format(number) for name, text in days.items()}
        await take(made, report(**{"date-range": range_, "report-id": str(number), "policies": [clean]}))
    await take(made, report())
    yield made
    made.close()


async def evaluated(database: ReportsDatabase, now: float = NOW) -> tuple[list[Alert], Mapping[str, int]]:
    sent: list[Alert] = []

    async def read(job: Any) -> Any:
        return database.read(job)

    async def write(job: Any) -> Any:
        return database.write(job)

    counts = await evaluate_alerts(read, write, now, sent.append)
    return sent, counts


async def test_new_failure_is_sent_once_with_a_remedy_and_ends(database: ReportsDatabase) -> None:
    sent, counts = await evaluated(database)
    assert sorted(alert.slug for alert in sent) == ["tls-reports-failed-share", "tls-reports-new-failure"]
    assert all(alert.remedy and alert.subject == "example.com" for alert in sent)
    assert counts == {"new-failure": 1, "failed-share": 1, "reporter-silent": 0}
    assert (await evaluated(database, NOW + 600))[0] == []
    later, counts = await evaluated(database, NOW + 5 * DAY)
    assert {(alert.slug, alert.resolved) for alert in later if alert.resolved} == {
        ("tls-reports-failed-share", True),
        ("tls-reports-new-failure", True),
    }
    assert counts["reporter-silent"] == 1


async def test_silence_does_not_end_an_alert_and_its_end_sends_it_again(database: ReportsDatabase) -> None:
    first, _ = await evaluated(database)
    database.write(add_silence("example.com", "", "", "known", NOW + 1000, NOW))
    assert await evaluated(database, NOW + 600) == ([], {"new-failure": 0, "failed-share": 0, "reporter-silent": 0})
    assert database.read(open_alerts()) == []
    again, _ = await evaluated(database, NOW + 1200)
    assert {alert.slug for alert in again if not alert.resolved} == {alert.slug for alert in first}


async def test_silenced_alert_is_neither_sent_nor_counted(database: ReportsDatabase) -> None:
    database.write(add_silence("example.com", "", "", "known", NOW + DAY, NOW))
    assert await evaluated(database) == ([], {"new-failure": 0, "failed-share": 0, "reporter-silent": 0})
