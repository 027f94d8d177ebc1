"""The intake: reports that are stored, counted, rejected and deferred."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.errors import (
    DnsTimeout,
    ReceivedReportMissing,
    ReceivedReportQuota,
    SignatureKeyUnavailable,
    StoreError,
)
from mtasts_daemon.tlsrpt.receive.authentication import Authentication, AuthMethod
from mtasts_daemon.tlsrpt.receive.database import ReportsDatabase
from mtasts_daemon.tlsrpt.receive.intake import Intake, IntakeSettings
from mtasts_daemon.tlsrpt.receive.model import ReportSource
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite
from tests.tlsrpt.receive.corpus import NOW, dumps, key_record, mail, packed, policy, report, signed

FLEET = Authentication(AuthMethod.FLEET, "own.example")


class World:
    """An intake with a new database and one reporter whose key is in DNS."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.problems: list[str] = []
        self.keys: dict[str, bytes | None] = {"sel._domainkey.reporter.example": key_record()}
        self.database: ReportsDatabase = open_sqlite(str(path), lambda: NOW, self.problems.append)
        self.settings = IntakeSettings(frozenset({"example.com"}), **settings)

    async def lookup(self, name: str) -> Sequence[bytes]:
        if name not in self.keys:
            return ()
        record = self.keys[name]
        if record is None:
            raise DnsTimeout
        return (record,)

    async def run(self, *messages: bytes, final: bool = False) -> list[Any]:
        intake = Intake(self.database, self.settings, self.lookup, lambda: NOW)
        found: list[Any] = []
        for message in messages:
            try:
                found.append(await intake.take_mail(message, ReportSource.LMTP, final=final))
            except Exception as error:
                found.append(error)
        self.counters = intake.counters
        return found

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.database.read(lambda connection: connection.execute(sql).fetchall())]

    def totals(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT result_type, reports, successful, failed FROM day_total ORDER BY result_type")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "reports.sqlite")
    yield made
    made.database.close()


GOOD = [("", 1, 100, 3), ("certificate-expired", 1, 0, 3)]


async def test_signed_report_is_stored_and_counted(world: World) -> None:
    (accepted,) = await world.run(signed(mail(packed(report()))))
    assert accepted.new == ("example.com",)
    assert world.totals() == GOOD
    assert world.rows("SELECT submitter, trusted, day FROM report") == [("reporter.example", 1, "2026-11-27")]


async def test_unsigned_report_is_stored_and_not_counted(world: World) -> None:
    (accepted,) = await world.run(mail(packed(report())))
    assert accepted.new == ("example.com",)
    assert world.totals() == []
    assert world.rows("SELECT trusted, counted FROM report") == [(0, 0)]


async def test_same_report_again_is_a_duplicate(world: World) -> None:
    message = signed(mail(packed(report())))
    _, again, third = await world.run(message, message, signed(mail(packed(report()))))
    assert again.duplicates == third.duplicates == ("example.com",)
    assert world.totals() == GOOD
    assert world.rows("SELECT duplicates FROM report") == [(2,)]


async def test_revision_replaces_what_was_counted_and_stays_visible(world: World) -> None:
    second = report(
        policies=[
            policy(
                summary={"total-successful-session-count": 50, "total-failure-session-count": 0},
                **{"failure-details": ...},
            )
        ]
    )
    first, revised = await world.run(signed(mail(packed(report()))), signed(mail(packed(second))))
    assert (first.new, revised.revisions) == (("example.com",), ("example.com",))
    assert world.totals() == [("", 1, 50, 0)]
    assert world.rows("SELECT revision, counted FROM report ORDER BY revision") == [(1, 0), (2, 1)]


async def test_forged_report_does_not_stand_in_the_way_of_the_genuine(world: World) -> None:
    forged = report(policies=[policy(summary={"total-successful-session-count": 0, "total-failure-session-count": 9})])
    await world.run(mail(packed(forged)), mail(packed(report())), signed(mail(packed(report()))))
    assert world.totals() == GOOD
    # The copy that agrees with a trusted source is trusted now; the other is still listed separately.
    assert world.rows("SELECT trusted, failed FROM report ORDER BY trusted") == [(0, 9), (1, 3)]


async def test_unsigned_copy_of_a_trusted_report_is_a_duplicate(world: World) -> None:
    _, copy = await world.run(signed(mail(packed(report()))), mail(packed(report())))
    assert copy.duplicates == ("example.com",)


async def test_another_submitter_cannot_revise_a_report(world: World) -> None:
    world.keys["sel._domainkey.evil.example"] = key_record("evil")
    other = report(policies=[policy(summary={"total-successful-session-count": 0, "total-failure-session-count": 9})])
    message = mail(packed(other), sender="a@evil.example", submitter="evil.example")
    await world.run(signed(mail(packed(report()))), signed(message, "evil.example", who="evil"))
    assert world.rows("SELECT submitter, revision, counted FROM report ORDER BY id") == [
        ("reporter.example", 1, 1),
        ("evil.example", 1, 1),
    ]


async def test_signed_report_replayed_under_another_subject_is_a_duplicate(world: World) -> None:
    message = signed(mail(packed(report())))
    await world.run(message)
    (again,) = await world.run(
        b"Received: by evil.example; now\r\n" + message.replace(b"Report-ID: <1@", b"Report-ID: <2@")
    )
    # The changed subject was signed, so the copy is unauthenticated; its content agrees with the genuine one.
    assert again.duplicates == ("example.com",)
    assert world.totals() == GOOD


async def test_report_about_others_is_counted_and_dropped(world: World) -> None:
    other = policy(policy={"policy-type": "sts", "policy-domain": "other.example"})
    (accepted,) = await world.run(mail(packed(report(policies=[other, other])), domain="other.example"))
    assert (accepted.new, accepted.foreign) == ((), 1)
    assert world.rows("SELECT COUNT(*) FROM report") == [(0,)]
    assert world.rows("SELECT subject, reports FROM arrival WHERE kind = 'dropped'") == [("not-ours", 1)]


async def test_mx_host_below_an_own_domain_is_ours(world: World) -> None:
    tlsa = policy(policy={"policy-type": "tlsa", "policy-domain": "mx1.example.com"})
    (accepted,) = await world.run(signed(mail(packed(report(policies=[policy(), tlsa])))))
    assert accepted.new == ("example.com", "mx1.example.com")


async def test_mail_without_report_is_rejected(world: World) -> None:
    (error,) = await world.run(b"From: a@b.example\r\n\r\nhello")
    assert isinstance(error, ReceivedReportMissing)
    assert world.counters.rejected == {"report-missing": 1}


async def test_key_that_cannot_be_looked_up_defers_the_report(world: World) -> None:
    world.keys["sel._domainkey.reporter.example"] = None
    (error,) = await world.run(signed(mail(packed(report()))))
    assert isinstance(error, SignatureKeyUnavailable)
    assert world.rows("SELECT COUNT(*) FROM report") == [(0,)]


async def test_slow_name_servers_of_some_reporters_do_not_hold_up_others(world: World) -> None:
    slow = [signed(mail(packed(report(**{"report-id": f"slow{number}"})))) for number in range(4)]
    answered = asyncio.Event()

    async def lookup(_name: str) -> Sequence[bytes]:
        await answered.wait()
        return (key_record(),)

    async def take() -> list[Any]:
        intake = Intake(world.database, world.settings, lookup, lambda: NOW)
        waiting = [asyncio.create_task(intake.take_mail(one, ReportSource.LMTP)) for one in slow]
        other = await intake.take_mail(mail(packed(report())), ReportSource.LMTP)
        answered.set()
        return [other, *await asyncio.gather(*waiting)]

    assert [found.new for found in await take()] == [("example.com",)] * 5


async def test_final_attempt_stores_the_report_without_the_key(world: World) -> None:
    world.keys["sel._domainkey.reporter.example"] = None
    (accepted,) = await world.run(signed(mail(packed(report()))), final=True)
    assert accepted.new == ("example.com",)
    assert world.totals() == []


async def test_quota_defers_and_counts_nothing_beyond_it(tmp_path: Path) -> None:
    world = World(tmp_path / "reports.sqlite", quota=2)
    messages = [signed(mail(packed(report(**{"report-id": str(number)})))) for number in range(4)]
    found = await world.run(*messages)
    assert [type(one) for one in found[2:]] == [ReceivedReportQuota, ReceivedReportQuota]
    assert world.totals()[0] == ("", 2, 200, 6)
    world.database.close()


async def test_posted_report_is_kept_apart_or_trusted_by_its_verdict(world: World) -> None:
    async def take() -> None:
        intake = Intake(world.database, world.settings, world.lookup, lambda: NOW)
        await intake.take_body(dumps(report()), ReportSource.HTTPS, Authentication(AuthMethod.HTTPS))
        assert world.totals() == []
        await intake.take_body(dumps(report()), ReportSource.HTTPS, FLEET)

    await take()
    assert world.totals() == GOOD


async def test_removed_file_is_made_again_and_the_report_is_kept(world: World, tmp_path: Path) -> None:
    await world.run(signed(mail(packed(report()))))
    for file in tmp_path.glob("reports.sqlite*"):
        file.unlink()
    (accepted,) = await world.run(signed(mail(packed(report()))))
    assert accepted.new == ("example.com",)
    assert world.totals() == GOOD


async def test_full_disk_raises_a_store_error_and_recovers(world: World) -> None:
    def limit(pages: int) -> None:
        world.database.write(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())

    (pages,) = world.database.write(lambda connection: connection.execute("PRAGMA page_count").fetchone())
    limit(pages)
    numbers = [f"{number}" + "x" * 200 for number in range(50)]
    found = await world.run(*(signed(mail(packed(report(**{"report-id": one})))) for one in numbers))
    failed = [one for one in found if isinstance(one, Exception)]
    assert failed
    assert all(isinstance(one, StoreError) for one in failed)
    stored = len(found) - len(failed)
    assert world.rows("SELECT COUNT(*) FROM report") == [(stored,)]
    assert world.totals()[:1] == ([("", stored, 100 * stored, 3 * stored)] if stored else [])


@pytest.mark.parametrize("damage", [b"not a database at all" * 100])
async def test_damaged_file_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "reports.sqlite").write_bytes(damage)
    world = World(tmp_path / "reports.sqlite")
    assert (await world.run(signed(mail(packed(report())))))[0].new == ("example.com",)
    assert "damaged" in world.problems[0]
    world.database.close()
