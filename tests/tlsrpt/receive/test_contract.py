"""The contract of reports databases, with SQLite and a real PostgreSQL."""

import asyncio
import importlib.util
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from mtasts_daemon.errors import ReceivedReportQuota, StoreError
from mtasts_daemon.tlsrpt.receive.alert_rules import AlertKind, ReportAlert
from mtasts_daemon.tlsrpt.receive.alert_store import add_silence, open_alerts, remove_silence, silences, update_alerts
from mtasts_daemon.tlsrpt.receive.authentication import Authentication, AuthMethod
from mtasts_daemon.tlsrpt.receive.database import Job, ReportsDatabase, SqlConnection
from mtasts_daemon.tlsrpt.receive.intake import Intake, IntakeSettings
from mtasts_daemon.tlsrpt.receive.model import ReportSource
from mtasts_daemon.tlsrpt.receive.queries import (
    ReportFilter,
    all_reports,
    day_totals,
    domain_totals,
    dropped,
    failing_hosts,
    known_domains,
    only_unauthenticated,
    raw_report,
    report_details,
    reporters,
    stored_reports,
    unauthenticated_count,
)
from mtasts_daemon.tlsrpt.receive.retention import Retention, expire, forget
from mtasts_daemon.tlsrpt.receive.schema import SCHEMA, postgresql_statements
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite
from mtasts_daemon.tlsrpt.receive.summary import summary_job

from .corpus import NOW, dumps, policy, report

Open = Callable[[], ReportsDatabase]
DKIM = Authentication(AuthMethod.DKIM, "reporter.example")
NONE = Authentication(AuthMethod.NONE, detail="the mail has no DKIM signature")
RANGE = ("2026-11-01", "2026-11-30")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start Debian's PostgreSQL on a Unix socket and return its URL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs or importlib.util.find_spec("psycopg") is None or os.geteuid() != 0:
        assert not os.environ.get("CI"), "PostgreSQL, psycopg or root is missing"
        pytest.skip("needs root, PostgreSQL (apt-get install postgresql) and psycopg")
    # Not below pytest's folders, which only root can enter.
    folder = Path(tempfile.mkdtemp(prefix="received-"))
    shutil.chown(folder, "postgres")
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run(
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )

    run(str(programs[-1] / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync")
    options = f"-k {folder} -c listen_addresses= -c fsync=off"
    run(str(programs[-1] / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        run(str(programs[-1] / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.process)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    databases: list[ReportsDatabase] = []

    def open_it() -> ReportsDatabase:
        if request.param == "sqlite":
            databases.append(open_sqlite(str(tmp_path / "received.sqlite"), lambda: NOW, lambda problem: None))
        else:
            url = request.getfixturevalue("postgresql")
            backend = importlib.import_module("mtasts_daemon.tlsrpt.receive.postgresql_backend")
            databases.append(backend.open_postgresql(url))
        return databases[-1]

    yield open_it
    if request.param == "postgresql" and databases:
        open_it().write(lambda connection: connection.execute("DROP SCHEMA mtasts_reports CASCADE"))
    for database in databases:
        database.close()


@pytest.fixture
def database(opened: Open) -> ReportsDatabase:
    return opened()


async def take(
    database: ReportsDatabase, *contents: Any, verdict: Authentication = DKIM, now: float = NOW, **settings: Any
) -> list[Any]:
    async def lookup(_name: str) -> Sequence[bytes]:
        return ()

    intake = Intake(database, IntakeSettings(frozenset({"example.com"}), **settings), lookup, lambda: now)
    found: list[Any] = []
    for content in contents:
        try:
            found.append(await intake.take_body(dumps(content), ReportSource.LMTP, verdict))
        except Exception as error:
            found.append(error)
    return found


def changed(ok: int, bad: int, **more: Any) -> dict[str, Any]:
    summary = {"total-successful-session-count": ok, "total-failure-session-count": bad}
    return report(policies=[policy(summary=summary, **({} if bad else {"failure-details": ...}))], **more)


def sums(database: ReportsDatabase) -> list[tuple[int, int, int]]:
    return [(one.reports, one.successful, one.failed) for one in database.read(domain_totals(*RANGE))]


async def test_report_is_stored_summed_and_read_back(database: ReportsDatabase) -> None:
    assert (await take(database, report()))[0].new == ("example.com",)
    assert sums(database) == [(1, 100, 3)]
    (day,) = database.read(day_totals("example.com", *RANGE))
    assert (day.day, day.successful, day.failed, day.types) == ("2026-11-27", 100, 3, {"certificate-expired": 3})
    assert database.read(day_totals("example.com", *RANGE, "reporter.example")) == [day]
    assert database.read(day_totals("example.com", *RANGE, "other.example")) == []
    (who,) = database.read(reporters("example.com", *RANGE))
    assert (who.submitter, who.days, who.last_day) == ("reporter.example", 1, "2026-11-27")
    (host,) = database.read(failing_hosts("example.com", *RANGE))
    assert (host.mx_host, host.failed, host.reporters) == ("mx1.example.com", 3, 1)
    (stored,) = database.read(stored_reports(ReportFilter(result_type="certificate-expired")))
    shown = database.read(report_details(stored.id))
    assert shown is not None
    assert shown[1][0]["sending_ip"] == "2001:db8::1"
    assert database.read(raw_report(stored.id)) == dumps(report())
    assert database.read(known_domains()) == ["example.com"]
    assert database.read(summary_job("example.com", *RANGE)).untrusted == 0


async def test_duplicates_revisions_and_untrusted_copies(database: ReportsDatabase) -> None:
    await take(database, changed(1, 9), verdict=NONE)
    found = await take(database, report(), report(), changed(50, 0), changed(60, 0))
    assert [bool(one.new) for one in found] == [True, False, False, False]
    assert [bool(one.revisions) for one in found] == [False, False, True, True]
    assert sums(database) == [(1, 60, 0)]
    assert database.read(failing_hosts("example.com", *RANGE)) == []
    assert (await take(database, changed(60, 0), verdict=NONE))[0].duplicates == ("example.com",)
    trusted = database.read(stored_reports(ReportFilter(trusted=True)))
    assert [(one.revision, one.counted) for one in trusted] == [(3, True), (2, False), (1, False)]
    assert (await take(database, changed(1, 9)))[0].revisions == ("example.com",)
    # The unauthenticated copy agrees with a trusted one now and is no longer listed separately.
    assert database.read(stored_reports(ReportFilter(trusted=False))) == []


async def test_imported_copy_of_a_report_signed_by_another_name_is_a_duplicate(database: ReportsDatabase) -> None:
    signed = Authentication(AuthMethod.DKIM_ORG, "mail.reporter.example")
    imported = Authentication(AuthMethod.LOCAL, detail="imported from a file by the operator")
    other = report(**{"report-id": "2"})
    await take(database, report(), verdict=signed)
    await take(database, other, verdict=imported)
    assert (await take(database, report(), verdict=imported))[0].duplicates == ("example.com",)
    assert (await take(database, other, verdict=signed))[0].duplicates == ("example.com",)
    assert sums(database) == [(2, 200, 6)]
    # Two authenticated reporters are counted separately.
    await take(database, report(), verdict=Authentication(AuthMethod.DKIM, "other.example"))
    assert sums(database) == [(3, 300, 9)]


async def test_report_of_thousands_of_unknown_result_types_adds_few_rows(database: ReportsDatabase) -> None:
    details = [{"result-type": f"own-{n}", "failed-session-count": 1} for n in range(3000)]
    await take(database, report(policies=[policy(**{"failure-details": details})]))
    assert sum(one.failed for one in database.read(failing_hosts("example.com", *RANGE))) == 3000
    assert len(database.read(failing_hosts("example.com", *RANGE))) < 40


async def test_quota_is_counted_by_day_and_restored_for_deferred_reports(database: ReportsDatabase) -> None:
    contents = [report(**{"report-id": str(number)}) for number in range(3)]
    found = await take(database, *contents, quota=2)
    assert isinstance(found[2], ReceivedReportQuota)
    assert sums(database) == [(2, 200, 6)]
    assert (await take(database, contents[2], quota=2, now=NOW + 86400))[0].new == ("example.com",)


async def test_foreign_reports_are_counted(database: ReportsDatabase) -> None:
    other = policy(policy={"policy-type": "sts", "policy-domain": "other.example"})
    assert (await take(database, report(policies=[other])))[0].foreign == 1
    assert database.read(dropped("2026-11-01")) == {"not-ours": 1}


async def test_details_expire_before_sums_and_sums_before_long(database: ReportsDatabase) -> None:
    await take(database, report())
    retention = Retention()
    assert database.write(expire(NOW + 61 * 86400, retention)) is False
    (stored,) = database.read(stored_reports(ReportFilter()))
    assert database.read(raw_report(stored.id)) is None
    assert database.read(report_details(stored.id)) == (stored, [])
    assert sums(database) == [(1, 100, 3)]
    # The details have expired, so a late revision is stored but not counted.
    await take(database, changed(7, 0))
    assert sums(database) == [(1, 100, 3)]
    database.write(expire(NOW + 402 * 86400, retention))
    assert sums(database) == []
    assert database.read(stored_reports(ReportFilter())) == []


async def test_forgotten_domain_leaves_nothing(database: ReportsDatabase) -> None:
    await take(database, report(), changed(1, 1, **{"report-id": "2"}))
    assert database.write(forget("example.com")) == 2
    assert database.read(known_domains()) == []
    assert sums(database) == []
    assert database.write(forget("example.com")) == 0


async def test_domain_with_only_unauthenticated_reports_is_listed_apart(database: ReportsDatabase) -> None:
    def about(domain: str, identifier: str) -> dict[str, Any]:
        found = policy(policy={"policy-type": "sts", "policy-domain": domain})
        return report(**{"report-id": identifier, "policies": [found]})

    await take(database, about("example.com", "1"), about("a.example.com", "1"))
    await take(database, *(about("b.example.com", str(n)) for n in range(3)), about("c.example.com", "1"), verdict=NONE)
    await take(database, about("example.com", "2"), verdict=NONE)
    assert {one.domain for one in database.read(domain_totals(*RANGE))} == {"example.com", "a.example.com"}
    assert [(one.domain, one.reports, one.last_day) for one in database.read(only_unauthenticated(*RANGE))] == [
        ("b.example.com", 3, "2026-11-27"),
        ("c.example.com", 1, "2026-11-27"),
    ]
    assert database.read(only_unauthenticated("2026-11-28", "2026-11-30")) == []
    assert database.read(unauthenticated_count("b.example.com", *RANGE)) == 3
    assert database.read(unauthenticated_count("b.example.com", "2026-11-28", "2026-11-30")) == 0
    assert database.read(known_domains()) == ["a.example.com", "b.example.com", "c.example.com", "example.com"]


async def test_version_1_is_migrated_with_its_reports(
    opened: Open, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = changed(50, 0), changed(40, 10, **{"report-id": "second"})
    with monkeypatch.context() as old:
        old.setattr(
            "mtasts_daemon.tlsrpt.receive.sqlite_backend.SCHEMA", replace(SCHEMA, migrations=SCHEMA.migrations[:1])
        )
        if "postgresql" in request.node.callspec.id:
            request.getfixturevalue("postgresql")  # skips where there is none
            backend, statements = "mtasts_daemon.tlsrpt.receive.postgresql_backend", postgresql_statements(0)
            old.setattr(f"{backend}.POSTGRESQL_VERSION", 1)
            old.setattr(f"{backend}.postgresql_statements", lambda version: statements[: len(SCHEMA.migrations[0])])
        database = opened()
        await take(database, first, second)
        await take(database, changed(7, 7, **{"report-id": "third"}), verdict=NONE)
        before = database.read(stored_reports(ReportFilter()))
        assert len(before) == 3
        database.close()
    database = opened()
    assert database.read(stored_reports(ReportFilter())) == before
    await take(database, first, changed(45, 5, **{"report-id": "second"}), changed(1, 0, **{"report-id": "fourth"}))
    assert [(one.revision, one.counted, one.duplicates) for one in database.read(stored_reports(ReportFilter()))] == [
        (1, True, 0),
        (2, True, 0),
        (1, False, 0),
        (1, False, 0),
        (1, True, 1),
    ]
    assert sums(database) == [(3, 96, 5)]


def test_reports_of_a_domain_are_found_without_reading_others(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "received.sqlite") as connection:
        for statement in (one for step in SCHEMA.migrations for one in step):
            connection.execute(statement)

        class Explained:
            def execute(self, sql: str, values: Sequence[Any] = ()) -> Any:
                plans.extend(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values))
                return connection.execute(sql, values)

        def plan(job: Job[Any]) -> str:
            plans.clear()
            job(cast("SqlConnection", Explained()))
            return "; ".join(plans)

        plans: list[str] = []
        asked = ReportFilter(domain="example.com", since=RANGE[0], until=RANGE[1])
        newest = "SEARCH r USING INDEX {} (domain=?); SCAN r"
        assert newest.format("report_domain") in plan(stored_reports(replace(asked, trusted=True)))
        assert newest.format("report_untrusted") in plan(stored_reports(replace(asked, trusted=False)))
        first, _, then = plan(stored_reports(replace(asked, domain=""))).partition("; ")
        assert first in ("MATERIALIZE r", "CO-ROUTINE r")  # by the version of SQLite
        assert then.startswith("SCAN r; SCAN r; ")
        assert plan(unauthenticated_count("example.com", *RANGE)) == (
            "SEARCH r USING COVERING INDEX report_untrusted (domain=?)"
        )
        assert "SCAN r USING COVERING INDEX report_untrusted" in plan(only_unauthenticated(*RANGE))


async def test_pages_give_every_report_once(database: ReportsDatabase) -> None:
    await take(database, *(report(**{"report-id": str(number)}) for number in range(30)))
    page = database.read(stored_reports(ReportFilter(limit=20)))
    rest = database.read(stored_reports(replace(ReportFilter(limit=20), before=page[-1].id)))
    assert [one.report_id for one in [*page, *rest]] == [str(number) for number in range(29, -1, -1)]
    assert len(list(all_reports(database.read, ReportFilter()))) == 30


def test_alerts_are_raised_once_and_end(database: ReportsDatabase) -> None:
    alert = ReportAlert("example.com", AlertKind.FAILED_SHARE, "", "much failed", "see")
    assert database.write(update_alerts(NOW, [alert])) == ([alert], [])
    assert database.write(update_alerts(NOW + 600, [alert])) == ([], [])
    assert [one["kind"] for one in database.read(open_alerts("example.com"))] == ["failed-share"]
    assert database.write(update_alerts(NOW + 1200, [])) == ([], [("example.com", "failed-share", "")])
    assert database.write(update_alerts(NOW + 1800, [alert])) == ([], [])
    database.write(update_alerts(NOW + 2400, []))
    assert database.write(update_alerts(NOW + 9 * 86400, [alert])) == ([alert], [])


def test_silences_end_by_themselves_or_are_removed(database: ReportsDatabase) -> None:
    number = database.write(add_silence("example.com", "new-failure", "", "known", NOW + 100, NOW))
    assert [one.id for one in database.read(silences(NOW))] == [number]
    assert database.read(silences(NOW + 101)) == []
    assert database.write(remove_silence(number)) is True
    assert database.write(remove_silence(number)) is False


async def test_two_processes_share_it(opened: Open) -> None:
    first, second = opened(), opened()
    await take(first, report())
    assert (await take(second, report()))[0].duplicates == ("example.com",)
    assert sums(second) == [(1, 100, 3)]


async def test_failing_job_is_undone_alone(database: ReportsDatabase) -> None:
    def bad(connection: Any) -> None:
        connection.execute("DELETE FROM report")
        raise ValueError("a mistake")

    await take(database, report())
    failing, other = database.submit(bad), database.submit(lambda connection: 5)
    with pytest.raises(ValueError, match="a mistake"):
        failing.result()
    assert other.result() == 5
    assert sums(database) == [(1, 100, 3)]


async def test_caller_that_stops_waiting_does_not_end_the_writes(database: ReportsDatabase) -> None:
    begun, go_on = threading.Event(), threading.Event()
    made: list[str] = []

    def hold(_connection: Any) -> None:
        begun.set()
        go_on.wait(120)
        made.append("under way")

    async def give_up() -> None:
        under_way = asyncio.wrap_future(database.submit(hold))
        await asyncio.to_thread(begun.wait, 120)
        queued = asyncio.wrap_future(database.submit(lambda _connection: made.append("queued")))
        for waiting in (under_way, queued):
            waiting.cancel()
        await asyncio.sleep(0)
        go_on.set()

    await give_up()
    assert database.submit(lambda _connection: 5).result(120) == 5
    assert made == ["under way"]


def test_closed_database_raises_store_errors(database: ReportsDatabase) -> None:
    database.close()
    with pytest.raises(StoreError):
        database.read(known_domains())
    with pytest.raises(StoreError):
        database.submit(known_domains())


def test_job_that_the_database_rejects_does_not_fail_its_group(database: ReportsDatabase) -> None:
    def hold(_connection: Any) -> None:
        begun.set()
        assert go_on.wait(120)

    begun, go_on = threading.Event(), threading.Event()
    blocking = database.submit(hold)
    assert begun.wait(120)
    # These two wait together and are committed as one group.
    bad, good = database.submit(lambda connection: connection.execute("NO SQL")), database.submit(lambda connection: 5)
    go_on.set()
    blocking.result()
    with pytest.raises(StoreError):
        bad.result()
    assert good.result() == 5
