"""Watched domains: changes, history and alerts."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.diagnose.check.evidence import CheckEvidence, TlsrptEvidence
from mtasts_daemon.diagnose.check.result import judge
from mtasts_daemon.diagnose.watch.history import CheckHistory
from mtasts_daemon.diagnose.watch.watch import DomainWatch
from mtasts_daemon.errors import StoreError
from mtasts_daemon.notify.alert import Alert
from tests.diagnose.evidences import DOMAIN, HOST, dead_resolver, evidence, expired, session
from tests.fakes.clock import FakeClock

DAY = 86400.0
T = 1.8e9


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[CheckHistory]:
    history = CheckHistory(str(tmp_path / "check.sqlite"))
    await history.open(T)
    try:
        yield history
    finally:
        await history.close()


def slugs(found: tuple[Any, ...]) -> list[str]:
    return [one.slug for one in found]


async def test_problem_is_added_then_confirmed_then_fixed(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        first = await history.record(judge(expired(T)))
        second = await history.record(judge(expired(T + 600)))
        third = await history.record(judge(expired(T + DAY)))
        last = await history.record(judge(evidence(T + 2 * DAY)))
        assert slugs(first.added) == ["certificate-expired"]
        assert (slugs(second.added), slugs(second.confirmed)) == ([], ["certificate-expired"])
        assert slugs(third.persisting) == ["certificate-expired"]
        assert slugs(last.fixed) == ["certificate-expired"]
        assert await history.open_problems(DOMAIN) == ()
        ((slug, subject, _, _, since, last_seen, confirmed, gone_at),) = await history.problems(DOMAIN)
        assert (slug, subject, since, last_seen) == ("certificate-expired", HOST, T, T + DAY)
        assert (confirmed, gone_at) == (1, T + 2 * DAY)


async def test_failure_of_this_host_fixes_nothing_and_changes_no_fact(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        await history.record(judge(expired(T)))
        before = await history.timeline(DOMAIN)
        change = await history.record(judge(dead_resolver(T + 60)))
        assert change.fixed == ()
        assert slugs(await history.open_problems(DOMAIN)) == ["certificate-expired"]
        assert await history.timeline(DOMAIN) == before


async def test_host_without_a_route_fixes_only_the_problems_of_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        before = expired(T)
        await history.record(judge(replace(before, tlsrpt=TlsrptEvidence(True, problems=("ftp: is not permitted",)))))
        unroutable = replace(session(T + 60), problem="smtp-no-route", connected=False, tls=None)
        change = await history.record(judge(evidence(T + 60, one=unroutable)))
        assert slugs(change.fixed) == ["tlsrpt-rua-invalid"]
        assert slugs(await history.open_problems(DOMAIN)) == ["certificate-expired"]


async def test_new_problem_of_a_host_keeps_its_confirmed_ones_until_it_is_confirmed(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        await history.record(judge(expired(T)))
        await history.record(judge(expired(T + 600)))
        down = replace(session(T + DAY), problem="smtp-connect-refused", connected=False, tls=None)
        hidden = await history.record(judge(evidence(T + DAY, one=down)))
        assert (slugs(hidden.added), slugs(hidden.fixed)) == (["smtp-connect-refused"], [])
        again = await history.record(judge(expired(T + DAY + 600)))
        assert (slugs(again.persisting), slugs(again.fixed)) == (["certificate-expired"], ["smtp-connect-refused"])


async def test_timeline_joins_equal_facts_and_dates_changes(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        for day in range(3):
            await history.record(judge(evidence(T + day * DAY)))
        renewed = evidence(T + 3 * DAY, record_id="2", one=session(T, sha256="cc" * 32))
        await history.record(judge(renewed))
        found = [
            (entry.kind, entry.subject, entry.value[:4], entry.since, entry.last_seen)
            for entry in await history.timeline(DOMAIN)
        ]
        assert ("policy-id", "", "1", T, T + 2 * DAY) in found
        assert ("policy-id", "", "2", T + 3 * DAY, T + 3 * DAY) in found
        assert ("certificate", f"{HOST} 192.0.2.1", "aaaa", T, T + 2 * DAY) in found
        assert ("certificate", f"{HOST} 192.0.2.1", "cccc", T + 3 * DAY, T + 3 * DAY) in found
        assert ("mx", "", HOST[:4], T, T + 3 * DAY) in found
        assert {
            entry.value for entry in await history.timeline(DOMAIN, T + 2.5 * DAY) if entry.kind == "policy-id"
        } == {"2"}
        assert {entry.value for entry in await history.timeline(DOMAIN, 0, T + DAY) if entry.kind == "policy-id"} == {
            "1"
        }


async def test_history_is_tidied_after_400_days(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        await history.record(judge(evidence(T)))
        await history.record(judge(evidence(T + DAY, record_id="2")))
        await history.tidy(T + 400.5 * DAY)
        assert [row.at for row in await history.checks(DOMAIN)] == [T + DAY]
        assert {entry.value for entry in await history.timeline(DOMAIN) if entry.kind == "policy-id"} == {"2"}


async def test_deleted_history_is_begun_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        await history.record(judge(evidence(T)))
        assert await history.recover(T) == ()
        path = tmp_path / "check.sqlite"
        path.unlink()
        assert [str(problem) for problem in await history.recover(T)] != []
        await history.record(judge(evidence(T + 1)))
        assert [row.at for row in await history.checks(DOMAIN)] == [T + 1]
        assert path.exists()


async def test_damaged_history_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "check.sqlite"
    path.write_bytes(b"SQLite format 3\x00" + b"rubbish" * 1000)
    history = CheckHistory(str(path))
    (problem,) = await history.open(T)
    assert "set aside as" in problem.detail
    await history.record(judge(evidence(T)))
    await history.close()
    assert list(path.parent.glob("check.sqlite.damaged-*"))


async def test_foreign_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "check.sqlite"
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE mine (x)")
    foreign.close()
    with pytest.raises(StoreError):
        await CheckHistory(str(path)).open(T)


class Watched:
    """A watch with fakes. Each check of the domain takes the next evidence; ``step`` moves to the next sleep."""

    def __init__(self, tmp_path: Path, *given: CheckEvidence | Exception) -> None:
        self.clock = FakeClock(T)
        self.alerts: list[Alert] = []
        self.given = list(given)
        self.checked_at: list[float] = []
        self._pending: tuple[float, asyncio.Event] | None = None
        self._asleep: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()
        self.watch = DomainWatch(self._gather, self.alerts.append, self.clock, {}, Random(1), self._sleep)
        self.config = Config.model_validate(
            {"check": {"domains": [DOMAIN], "database": str(tmp_path / "check.sqlite")}}
        )

    async def _gather(self, domain: str) -> CheckEvidence:
        assert domain == DOMAIN
        self.checked_at.append(self.clock.monotonic())
        found = self.given.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def _sleep(self, seconds: float) -> None:
        go = asyncio.Event()
        await self._asleep.put((seconds, go))
        await go.wait()

    async def until(self, done: Callable[[], bool]) -> None:
        """Advance the clock, sleep by sleep, until ``done``; the watch sleeps then."""
        while True:
            self._pending = self._pending or await self._asleep.get()
            if done():
                return
            seconds, go = self._pending
            self._pending = None
            self.clock.advance(seconds)
            go.set()

    async def once(self) -> None:
        """Advance the clock by one sleep."""
        ended = iter((False, True))
        await self.until(lambda: next(ended))


async def test_new_problem_is_alerted_after_a_second_check_ten_minutes_later(tmp_path: Path) -> None:
    world = Watched(tmp_path, expired(T), expired(T + 600), evidence(T + DAY))
    await world.watch.configure(world.config)
    await world.until(lambda: len(world.checked_at) == 1 and not world.alerts)
    await world.until(lambda: len(world.alerts) == 1)
    assert 600 <= world.checked_at[1] - world.checked_at[0] <= 660
    (alert,) = world.alerts
    assert (alert.slug, alert.subject, alert.resolved) == ("certificate-expired", DOMAIN, False)
    assert alert.remedy == "Renew the certificate and reload the server."
    await world.until(lambda: len(world.alerts) == 2)
    assert world.alerts[1].resolved
    assert 0.9 * DAY <= world.checked_at[2] - world.checked_at[1] <= DAY + 60
    await world.watch.stop()


async def test_transient_problem_is_never_alerted(tmp_path: Path) -> None:
    world = Watched(tmp_path, expired(T), evidence(T + 600), evidence(T + DAY))
    await world.watch.configure(world.config)
    await world.until(lambda: len(world.checked_at) == 3)
    assert world.alerts == []
    await world.watch.stop()


async def test_failing_check_is_retried_and_does_not_end_the_watch(tmp_path: Path) -> None:
    world = Watched(tmp_path, TimeoutError(), RuntimeError("a bug"), dead_resolver(T), evidence(T))
    await world.watch.configure(world.config)
    await world.until(lambda: len(world.checked_at) == 4)
    waits = [later - earlier for earlier, later in zip(world.checked_at, world.checked_at[1:], strict=False)]
    assert all(1800 <= wait <= 1860 for wait in waits)
    assert world.alerts == []
    assert world.watch.states[DOMAIN].result is not None
    await world.watch.stop()


async def test_clock_that_jumps_years_ahead_removes_no_history(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        await history.record(judge(evidence(T)))
    world = Watched(tmp_path, *(TimeoutError() for _ in range(10)))
    await world.watch.configure(world.config)
    start = world.clock.monotonic()
    await world.until(lambda: world.clock.monotonic() >= start + 2 * 3600)
    world.clock.set_back(-10 * 365 * DAY)
    await world.once()
    assert len((await world.watch.history(DOMAIN))["checks"]) == 1
    world.clock.set_back(10 * 365 * DAY)
    await world.once()
    world.clock.advance(500 * DAY)
    await world.once()
    assert (await world.watch.history(DOMAIN))["checks"] == []
    await world.watch.stop()


async def test_domain_without_configuration_is_forgotten(tmp_path: Path) -> None:
    world = Watched(tmp_path, evidence(T))
    await world.watch.configure(world.config)
    await world.until(lambda: len(world.checked_at) == 1)
    found = await world.watch.read(lambda connection: connection.execute("SELECT count(*) FROM timeline").fetchone())
    assert found == (4,)
    history = await world.watch.history(DOMAIN)
    assert len(history["checks"]) == 1
    await world.watch.configure(Config())
    assert world.watch.states == {}
    await world.watch.stop()


async def test_history_that_cannot_be_opened_is_an_error_of_the_part(tmp_path: Path) -> None:
    world = Watched(tmp_path)
    world.config = Config.model_validate({"check": {"domains": [DOMAIN], "database": "/dev/null/check.sqlite"}})
    with pytest.raises(StoreError):
        await world.watch.configure(world.config)
    await world.watch.stop()
