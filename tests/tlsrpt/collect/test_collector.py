"""The collector: datagrams are counted, and usable ones are in the database."""

import asyncio
import gc
import grp
import json
import os
import pwd
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mtasts_daemon.errors import StoreError, TlsrptEventError
from mtasts_daemon.tlsrpt.collect import collector as collector_module
from mtasts_daemon.tlsrpt.collect.collector import Collector, SocketSettings
from mtasts_daemon.tlsrpt.database.connection import TlsrptDatabase, open_database
from mtasts_daemon.tlsrpt.database.writes import Added, Caps, Row
from mtasts_daemon.tlsrpt.model.event import MAX_DATAGRAM, TlsrptEvent, parse_datagram
from mtasts_daemon.tlsrpt.model.tally import DayRows, DaySums, Tally
from tests.fakes.clock import FakeClock
from tests.tlsrpt.events import DAY, add_events, failure, policy
from tests.tlsrpt.recorded import RECORDED

NOW = 1_790_000_000.0
ROOT = Path(__file__).parents[3]


def datagram(domain: str = "example.com") -> bytes:
    """Return the datagram of a successful session."""
    return json.dumps({"d": domain, "policies": [{"policy-type": 9, "policy-domain": domain, "f": 0}]}).encode()


class Gated(TlsrptDatabase):
    """A database whose writes wait for a gate and then fail ``failing`` times."""

    gate: threading.Event
    failing = 0

    def add(self, tally: Tally, again: dict[Row, int] | None = None, generation: int = 0) -> Added:  # type: ignore[override]  # never called with another mapping
        self.gate.wait()
        if self.failing:
            self.failing -= 1
            raise StoreError("the disk is full")
        return super().add(tally, again or {}, generation)


@dataclass
class Site:
    """A database and a socket in a folder, the collectors between them, and the logged events."""

    folder: Path
    database: TlsrptDatabase
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    clock: FakeClock = field(default_factory=lambda: FakeClock(NOW))

    @property
    def at(self) -> str:
        return str(self.folder / "tlsrpt.sock")

    def collector(self, where: SocketSettings | socket.socket | None = None) -> Collector:
        return Collector(where or SocketSettings(self.at), self.database, log_event=self.log_event, clock=self.clock)

    def log_event(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    @contextmanager
    def collecting(self, where: SocketSettings | socket.socket | None = None) -> Iterator[Collector]:
        collector = self.collector(where)
        collector.start()
        try:
            yield collector
        finally:
            collector.stop()

    def send(self, *datagrams: bytes) -> None:
        """Send, and wait while the queue is full."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_DATAGRAM)
            sock.connect(self.at)
            for data in datagrams:
                sock.send(data)

    async def days(self) -> list[DaySums]:
        return await self.database.days()

    async def rows(self, domain: str = "example.com") -> DayRows:
        return await self.database.day_rows(DAY, domain)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    database = open_database(tmp_path / "tlsrpt.sqlite", now=NOW)
    yield Site(tmp_path, database)
    database.close_now()


@pytest.fixture
def gated(site: Site) -> Gated:
    """Return the site's database with its gate closed."""
    site.database.__class__ = Gated
    assert isinstance(site.database, Gated)
    site.database.gate = threading.Event()
    return site.database


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    step = threading.Event()
    while not holds():
        step.wait(0.005)


# -- receiving ---------------------------------------------------------------------------------------------


async def test_stop_commits_everything_received(site: Site) -> None:
    with site.collecting() as collector:
        site.send(*(found.datagram for found in RECORDED))
        assert collector.stop()
    expected = Tally(DAY)
    for found in RECORDED:
        expected.add(parse_datagram(found.datagram))
    for domain, policies in expected.domains.items():
        stored = {
            rows.policy: (rows.successful, rows.failed, dict(rows.failures))
            for rows in (await site.rows(domain)).policies
        }
        assert stored == {key: (sums.successful, sums.failed, sums.failures) for key, sums in policies.items()}
    assert (collector.counters.received, collector.counters.kept) == (len(RECORDED), len(RECORDED))
    assert collector.counters.queued == 0


async def test_datagrams_are_committed_while_running(site: Site) -> None:
    with site.collecting():
        for sessions in 1, 2:
            site.send(datagram())
            while [day.sessions for day in await site.days()] != [sessions]:  # noqa: ASYNC110 - a thread commits it
                await asyncio.sleep(0.005)


async def test_repeated_datagram_is_counted_in_every_batch(site: Site) -> None:
    with site.collecting() as collector:
        for times in range(1, 5):
            site.send(*[datagram()] * 10, datagram("example.net"))
            until(lambda: collector.counters.kept == 11 * times)  # noqa: B023 - called at once
    assert await site.days() == [DaySums(DAY, 2, 44, 0)]


async def test_remembered_datagram_is_added_again_after_its_row_expired(site: Site) -> None:
    with site.collecting() as collector:
        site.send(datagram())
        until(lambda: collector.counters.kept == 1)
        await site.database.expire("2026-09-30")
        site.send(datagram(), datagram("example.net"))
        until(lambda: collector.counters.kept == 3)
    assert await site.days() == [DaySums(DAY, 2, 2, 0)]


async def test_remembered_rows_are_not_used_after_the_file_was_replaced(site: Site) -> None:
    other = open_database(site.folder / "other.sqlite", now=NOW)
    add_events(other, [(DAY, parse_datagram(datagram("other.example")))])
    other.close_now()
    with site.collecting() as collector:
        site.send(datagram())
        until(lambda: collector.counters.kept == 1)
        (site.folder / "other.sqlite").rename(site.folder / "tlsrpt.sqlite")
        assert await site.database.recover(NOW)
        for kept in (2, 3):
            site.send(datagram())
            until(lambda: collector.counters.kept == kept)  # noqa: B023 - called at once
    assert {
        domain: (await site.rows(domain)).policies[0].successful for domain in ("example.com", "other.example")
    } == {
        "example.com": 2,
        "other.example": 1,
    }


async def test_datagram_belongs_to_the_day_of_its_arrival(site: Site) -> None:
    with site.collecting() as collector:
        site.send(datagram())
        until(lambda: collector.counters.received == 1)
        site.clock.advance(86400)
        site.send(datagram(), datagram())
    assert await site.days() == [DaySums(DAY, 1, 1, 0), DaySums("2026-09-22", 1, 2, 0)]


async def test_failures_without_session_are_added(site: Site) -> None:
    with site.collecting() as collector:
        site.send(datagram())
        collector.note("example.com", policy(), failure(), 2)
        collector.note("example.com", policy(), failure())
    assert await site.days() == [DaySums(DAY, 1, 1, 0)]
    assert {rows.policy: rows.failures for rows in (await site.rows()).policies}[policy()] == ((failure(), 3),)


# -- bad input ---------------------------------------------------------------------------------------------


async def test_unusable_datagram_is_counted_by_reason_and_not_stored(site: Site) -> None:
    bad = {
        "event-not-json": [b"\x00", b"", b"[" * 50_000],
        "event-version": [b'{"dpv": "2"}'],
        "event-shape": [b"{}", b'{"d": 5}'],
        "event-policy-type": [b'{"d": "example.com", "policies": [{"policy-type": 3}]}'],
        "event-domain": [datagram("localhost")],
        "event-too-large": [b"x" * (MAX_DATAGRAM + 1), b"x" * (MAX_DATAGRAM + 50_000)],
    }
    with site.collecting() as collector:
        for datagrams in bad.values():
            site.send(*datagrams, datagram())
    assert collector.counters.rejected == {slug: len(datagrams) for slug, datagrams in bad.items()}
    assert await site.days() == [DaySums(DAY, 1, len(bad), 0)]
    assert collector.counters.received == collector.counters.kept + sum(collector.counters.rejected.values())


def test_logged_sample_of_a_datagram_cannot_forge_a_log_line(site: Site) -> None:
    with site.collecting():
        site.send(b"\n\x1b[31m" + b"x" * 10_000)
    ((event, fields),) = site.events
    assert event == "tlsrpt-event-rejected"
    assert fields["once_a_minute"] == "event-not-json"
    assert len(str(fields["sample"])) < 1000
    assert all(str(value).isprintable() for value in fields.values())


def test_rejected_datagrams_are_not_kept_in_memory_during_the_commit(site: Site) -> None:
    class Looking(TlsrptDatabase):
        errors = 0

        def add(self, tally: Tally, again: dict[Row, int] | None = None, generation: int = 0) -> Added:  # type: ignore[override]  # as in Gated
            # Each would keep its whole parsed datagram in memory.
            found = [one for one in gc.get_objects() if isinstance(one, TlsrptEventError)]
            self.errors += sum(not any(one is other for other in of_other_tests) for one in found)
            return super().add(tally, again or {}, generation)

    of_other_tests = [one for one in gc.get_objects() if isinstance(one, TlsrptEventError)]
    site.database.__class__ = Looking
    assert isinstance(site.database, Looking)
    with site.collecting() as collector:
        site.send(b'{"d": 5}', b"{", datagram())
    assert collector.counters.kept == 1
    assert site.database.errors == 0


def test_datagram_of_the_maximum_size_is_read(site: Site) -> None:
    with site.collecting() as collector:
        site.send(datagram().ljust(MAX_DATAGRAM))
    assert collector.counters.kept == 1


async def test_internal_error_does_not_end_the_collection(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(data: bytes) -> TlsrptEvent:
        if b"mistake" in data:
            raise AssertionError(data)
        return parse_datagram(data)

    monkeypatch.setattr(collector_module, "parse_datagram", mistaken)
    with site.collecting() as collector:
        site.send(datagram("mistake.example"))
        until(lambda: collector.counters.unhandled == 1)
        site.send(datagram())
    assert await site.days() == [DaySums(DAY, 1, 1, 0)]
    assert collector.counters.queued == 0


def test_sessions_of_too_many_domains_are_counted_as_refused(tmp_path: Path) -> None:
    database = open_database(tmp_path / "tlsrpt.sqlite", now=NOW, caps=Caps(domains=1))
    site = Site(tmp_path, database)
    with site.collecting() as collector:
        site.send(datagram(), datagram("example.net"), datagram("example.net"))
    assert collector.counters.refused == 2
    database.close_now()


# -- a disk that is slow or fails --------------------------------------------------------------------------


def test_receiving_continues_while_the_disk_hangs(site: Site, gated: Gated) -> None:
    with site.collecting() as collector:
        site.send(*[datagram()] * 300)
        until(lambda: collector.counters.received == 300)
        assert collector.counters.kept == 0
        gated.gate.set()
    assert collector.counters.kept == 300


async def test_datagrams_beyond_the_queue_are_counted_as_not_kept(
    site: Site, gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "QUEUE_LIMIT", 20_000)
    with site.collecting() as collector:
        site.send(*[datagram()] * 300)
        until(lambda: collector.counters.received == 300)
        assert collector.counters.queued <= 20_000
        gated.gate.set()
    lost = collector.counters.rejected["event-not-kept"]
    assert 0 < lost < 300
    assert await site.days() == [DaySums(DAY, 1, 300 - lost, 0)]


async def test_failures_beyond_the_limit_are_counted_as_lost(
    site: Site, gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "NOTES_LIMIT", 2)
    collector = site.collector()
    for _ in range(5):
        collector.note("example.com", policy(), failure())
    gated.gate.set()
    collector.start()
    collector.stop()
    assert collector.counters.findings_lost == 3
    assert (await site.rows()).policies[0].failures == ((failure(), 2),)


def test_failed_transaction_is_retried(site: Site, gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "_RETRY_AFTER", 0.0)
    gated.failing = 3
    gated.gate.set()
    with site.collecting() as collector:
        site.send(datagram())
        until(lambda: collector.counters.kept == 1)
    assert collector.counters.store_failures == 3
    assert [event for event, _ in site.events] == ["tlsrpt-write-failed"] * 3


async def test_stop_ends_while_the_disk_fails_and_counts_the_loss(site: Site, gated: Gated) -> None:
    gated.failing = 1000
    gated.gate.set()
    with site.collecting() as collector:
        site.send(datagram(), datagram())
        until(lambda: collector.counters.received == 2)
        assert collector.stop()
    assert collector.counters.rejected == {"event-not-kept": 2}
    assert await site.days() == []


# -- the socket --------------------------------------------------------------------------------------------


def test_socket_has_configured_owner_group_and_mode(site: Site) -> None:
    owner, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    with site.collecting(SocketSettings(site.at, owner, group, 0o622)):
        found = Path(site.at).stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o622, os.geteuid(), os.getegid())
    assert not Path(site.at).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_socket_can_belong_to_another_user(site: Site) -> None:
    with site.collecting(SocketSettings(site.at, "nobody", "daemon")):
        found = Path(site.at).stat()
        assert (found.st_uid, found.st_gid) == (pwd.getpwnam("nobody").pw_uid, grp.getgrnam("daemon").gr_gid)


def test_socket_of_a_killed_daemon_is_replaced(site: Site) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(site.at)
    with site.collecting() as collector:
        site.send(datagram())
    assert collector.counters.kept == 1


async def test_socket_that_cannot_be_opened_raises_with_its_path(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with site.collecting():
        for settings, reason in (
            (SocketSettings(site.at), "another process"),
            (SocketSettings(str(tmp_path / "file")), "not a socket"),
            (SocketSettings(str(tmp_path / "absent" / "x")), "No such file"),
            (SocketSettings(str(tmp_path / ("x" * 200))), "too long"),
            (SocketSettings(str(tmp_path / "a"), owner="no-such-user"), "no-such-user"),
            (SocketSettings(str(tmp_path / "b"), group="no-such-group"), "no-such-group"),
        ):
            with pytest.raises(OSError, match=reason) as caught:
                site.collector(settings).start()
            assert settings.path in str(caught.value)
        site.send(datagram())
    assert await site.days() == [DaySums(DAY, 1, 1, 0)]


def test_inherited_socket_is_used_and_its_path_is_kept(site: Site) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemds:
        systemds.bind(site.at)
        with site.collecting(systemds.dup()) as collector:
            site.send(datagram())
        assert collector.counters.kept == 1
        site.send(datagram(), datagram())
        with site.collecting(systemds.dup()) as after_restart:
            pass
        assert after_restart.counters.kept == 2
    assert Path(site.at).exists()


def test_inherited_socket_of_another_kind_is_rejected(site: Site) -> None:
    for family, kind in ((socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)):
        with socket.socket(family, kind) as other, pytest.raises(OSError, match="not a Unix datagram socket"):
            site.collector(other).start()


def test_stop_before_start_or_twice_does_nothing(site: Site) -> None:
    assert site.collector().stop()
    with site.collecting() as collector:
        assert collector.stop()
        assert collector.stop()


def test_stop_that_the_receiver_sees_at_once_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = site.collector()

    class SeenAtOnce(threading.Event):
        def set(self) -> None:
            super().set()
            with suppress(OSError):  # the thread has ended already
                site.send(datagram())
            until(lambda: "tlsrpt-receiver" not in {thread.name for thread in threading.enumerate()})

    monkeypatch.setattr(collector, "_stopping", SeenAtOnce())
    collector.start()
    assert collector.stop()


def test_stop_ends_both_threads(site: Site) -> None:
    with site.collecting():
        pass
    assert not {"tlsrpt-receiver", "tlsrpt-writer"} & {thread.name for thread in threading.enumerate()}


# -- kill -9 -----------------------------------------------------------------------------------------------

_COLLECTS = """
    import sys, time
    from mtasts_daemon.tlsrpt.collect.collector import Collector, SocketSettings
    from mtasts_daemon.tlsrpt.database.connection import open_database

    database = open_database(sys.argv[1], now=time.time())
    assert not database.problems
    collector = Collector(SocketSettings(sys.argv[2]), database)
    collector.start()
    while True:
        print(collector.counters.kept, flush=True)
        time.sleep(0.01)
"""


def test_kill_9_loses_no_committed_result_nor_damages_the_file(tmp_path: Path) -> None:
    path, at = tmp_path / "tlsrpt.sqlite", str(tmp_path / "tlsrpt.sock")
    sessions = 0
    for turn in range(5):
        command = [sys.executable, "-c", textwrap.dedent(_COLLECTS), str(path), at]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            committed = 0
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect(at)
                for number in range(200):
                    sock.send(datagram(f"d{number % 50}.example"))
                while not committed:
                    committed = int(process.stdout.readline())
                for number in range(50 * turn):  # it is killed when these are received, being added, or committed
                    sock.send(datagram(f"d{number % 50}.example"))
            process.send_signal(signal.SIGKILL)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            (found,) = connection.execute("SELECT sum(successful) FROM tally").fetchone()
        assert sessions + committed <= found <= sessions + 200 + 50 * turn
        sessions = found
