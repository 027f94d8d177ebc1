"""The collector: whatever comes to its socket is counted, and what can be used is in the database."""

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
from tests.tlsrpt.events import DAY, add_events, failure, policy
from tests.tlsrpt.recorded import RECORDED

NOW = 1_790_000_000.0
ROOT = Path(__file__).parents[3]


def datagram(domain: str = "example.com") -> bytes:
    """A session that went well."""
    return json.dumps({"d": domain, "policies": [{"policy-type": 9, "policy-domain": domain, "f": 0}]}).encode()


class Gated(TlsrptDatabase):
    """A database whose writes wait for a gate, and then fail as often as is wanted."""

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
    """A database and a socket in a folder, the collectors between them, and what was told."""

    folder: Path
    database: TlsrptDatabase
    told: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    now: float = NOW

    @property
    def at(self) -> str:
        return str(self.folder / "tlsrpt.sock")

    def collector(self, where: SocketSettings | socket.socket | None = None) -> Collector:
        return Collector(where or SocketSettings(self.at), self.database, log_event=self.tell, clock=lambda: self.now)

    def tell(self, event: str, **fields: object) -> None:
        self.told.append((event, fields))

    @contextmanager
    def collecting(self, where: SocketSettings | socket.socket | None = None) -> Iterator[Collector]:
        collector = self.collector(where)
        collector.start()
        try:
            yield collector
        finally:
            collector.stop()

    def send(self, *datagrams: bytes) -> None:
        """Send, waiting where the queue is full."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_DATAGRAM)
            sock.connect(self.at)
            for data in datagrams:
                sock.send(data)

    def days(self) -> list[DaySums]:
        return asyncio.run(self.database.days())

    def rows(self, domain: str = "example.com") -> DayRows:
        return asyncio.run(self.database.day_rows(DAY, domain))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    database = open_database(tmp_path / "tlsrpt.sqlite", now=NOW)
    yield Site(tmp_path, database)
    database.close_now()


@pytest.fixture
def gated(site: Site) -> Gated:
    """The site's database, with its gate closed."""
    site.database.__class__ = Gated
    assert isinstance(site.database, Gated)
    site.database.gate = threading.Event()
    return site.database


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that is sure to come."""
    step = threading.Event()
    while not holds():
        step.wait(0.005)


# -- receiving ---------------------------------------------------------------------------------------------


def test_all_that_was_received_is_committed_when_it_stops(site: Site) -> None:
    with site.collecting() as collector:
        site.send(*(found.datagram for found in RECORDED))
        assert collector.stop()
    expected = Tally(DAY)
    for found in RECORDED:
        expected.add(parse_datagram(found.datagram))
    for domain, policies in expected.domains.items():
        stored = {
            rows.policy: (rows.successful, rows.failed, dict(rows.failures)) for rows in site.rows(domain).policies
        }
        assert stored == {key: (sums.successful, sums.failed, sums.failures) for key, sums in policies.items()}
    assert (collector.counters.received, collector.counters.kept) == (len(RECORDED), len(RECORDED))
    assert collector.counters.queued == 0


def test_what_comes_is_committed_without_a_stop(site: Site) -> None:
    with site.collecting():
        site.send(datagram())
        until(lambda: bool(site.days()))
        site.send(datagram())
        until(lambda: site.days()[0].sessions == 2)


def test_the_same_datagram_again_is_counted_again_also_in_later_batches(site: Site) -> None:
    with site.collecting() as collector:
        for times in range(1, 5):
            site.send(*[datagram()] * 10, datagram("example.net"))
            until(lambda: collector.counters.kept == 11 * times)  # noqa: B023 - called at once
    assert site.days() == [DaySums(DAY, 2, 44, 0)]


def test_what_was_seen_before_and_is_gone_from_the_database_is_counted_anew(site: Site) -> None:
    with site.collecting() as collector:
        site.send(datagram())
        until(lambda: collector.counters.kept == 1)
        asyncio.run(site.database.expire("2026-09-30"))
        site.send(datagram(), datagram("example.net"))
        until(lambda: collector.counters.kept == 3)
    assert site.days() == [DaySums(DAY, 2, 2, 0)]


def test_what_was_seen_before_a_file_was_replaced_is_counted_for_nobody_else_after_it(site: Site) -> None:
    other = open_database(site.folder / "other.sqlite", now=NOW)
    add_events(other, [(DAY, parse_datagram(datagram("other.example")))])
    other.close_now()
    with site.collecting() as collector:
        site.send(datagram())
        until(lambda: collector.counters.kept == 1)
        (site.folder / "other.sqlite").rename(site.folder / "tlsrpt.sqlite")
        assert asyncio.run(site.database.recover(NOW))
        for kept in (2, 3):
            site.send(datagram())
            until(lambda: collector.counters.kept == kept)  # noqa: B023 - called at once
    assert {domain: site.rows(domain).policies[0].successful for domain in ("example.com", "other.example")} == {
        "example.com": 2,
        "other.example": 1,
    }


def test_a_datagram_belongs_to_the_day_on_which_it_came(site: Site) -> None:
    with site.collecting() as collector:
        site.send(datagram())
        until(lambda: collector.counters.received == 1)
        site.now += 86400
        site.send(datagram(), datagram())
    assert site.days() == [DaySums(DAY, 1, 1, 0), DaySums("2026-09-22", 1, 2, 0)]


def test_notes_are_added_beside_sessions(site: Site) -> None:
    with site.collecting() as collector:
        site.send(datagram())
        collector.note("example.com", policy(), failure(), 2)
        collector.note("example.com", policy(), failure())
    assert site.days() == [DaySums(DAY, 1, 1, 0)]
    assert {rows.policy: rows.failures for rows in site.rows().policies}[policy()] == ((failure(), 3),)


# -- bad input ---------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_counted_by_its_reason_and_never_stored(site: Site) -> None:
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
    assert site.days() == [DaySums(DAY, 1, len(bad), 0)]
    assert collector.counters.received == collector.counters.kept + sum(collector.counters.rejected.values())


def test_a_sample_of_what_cannot_be_used_is_told_with_nothing_in_it_that_could_forge_a_line(site: Site) -> None:
    with site.collecting():
        site.send(b"\n\x1b[31m" + b"x" * 10_000)
    ((event, fields),) = site.told
    assert event == "tlsrpt-event-rejected"
    assert fields["once_a_minute"] == "event-not-json"
    assert len(str(fields["sample"])) < 1000
    assert all(str(value).isprintable() for value in fields.values())


def test_nothing_of_what_cannot_be_used_is_held_while_the_rest_of_its_batch_is_added(site: Site) -> None:
    class Looking(TlsrptDatabase):
        errors = 0

        def add(self, tally: Tally, again: dict[Row, int] | None = None, generation: int = 0) -> Added:  # type: ignore[override]  # as in Gated
            # Each would hold all that was parsed of its datagram.
            self.errors += sum(isinstance(found, TlsrptEventError) for found in gc.get_objects())
            return super().add(tally, again or {}, generation)

    site.database.__class__ = Looking
    assert isinstance(site.database, Looking)
    with site.collecting() as collector:
        site.send(b'{"d": 5}', b"{", datagram())
    assert collector.counters.kept == 1
    assert site.database.errors == 0


def test_a_large_datagram_that_is_allowed_is_read(site: Site) -> None:
    with site.collecting() as collector:
        site.send(datagram().ljust(MAX_DATAGRAM))
    assert collector.counters.kept == 1


def test_a_mistake_of_ours_does_not_end_the_collection(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(data: bytes) -> TlsrptEvent:
        if b"mistake" in data:
            raise AssertionError(data)
        return parse_datagram(data)

    monkeypatch.setattr(collector_module, "parse_datagram", mistaken)
    with site.collecting() as collector:
        site.send(datagram("mistake.example"))
        until(lambda: collector.counters.unhandled == 1)
        site.send(datagram())
    assert site.days() == [DaySums(DAY, 1, 1, 0)]
    assert collector.counters.queued == 0


def test_sessions_of_too_many_domains_are_counted(tmp_path: Path) -> None:
    database = open_database(tmp_path / "tlsrpt.sqlite", now=NOW, caps=Caps(domains=1))
    site = Site(tmp_path, database)
    with site.collecting() as collector:
        site.send(datagram(), datagram("example.net"), datagram("example.net"))
    assert collector.counters.refused == 2
    database.close_now()


# -- a disk that is slow or fails --------------------------------------------------------------------------


def test_receiving_goes_on_while_the_disk_hangs(site: Site, gated: Gated) -> None:
    with site.collecting() as collector:
        site.send(*[datagram()] * 300)
        until(lambda: collector.counters.received == 300)
        assert collector.counters.kept == 0
        gated.gate.set()
    assert collector.counters.kept == 300


def test_more_than_the_queue_holds_is_counted_as_not_kept(
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
    assert site.days() == [DaySums(DAY, 1, 300 - lost, 0)]


def test_more_notes_than_may_wait_are_counted_as_lost(
    site: Site, gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "NOTES_LIMIT", 2)
    collector = site.collector()
    for _ in range(5):
        collector.note("example.com", policy(), failure())
    gated.gate.set()
    collector.start()
    collector.stop()
    assert collector.counters.notes_lost == 3
    assert site.rows().policies[0].failures == ((failure(), 2),)


def test_a_transaction_that_fails_is_tried_again(site: Site, gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "_RETRY_AFTER", 0.0)
    gated.failing = 3
    gated.gate.set()
    with site.collecting() as collector:
        site.send(datagram())
        until(lambda: collector.counters.kept == 1)
    assert collector.counters.store_failures == 3
    assert [event for event, _ in site.told] == ["tlsrpt-write-failed"] * 3


def test_where_the_disk_fails_for_ever_stopping_still_ends_and_counts_what_is_lost(site: Site, gated: Gated) -> None:
    gated.failing = 1000
    gated.gate.set()
    with site.collecting() as collector:
        site.send(datagram(), datagram())
        until(lambda: collector.counters.received == 2)
        assert collector.stop()
    assert collector.counters.rejected == {"event-not-kept": 2}
    assert site.days() == []


# -- the socket --------------------------------------------------------------------------------------------


def test_the_socket_has_the_owner_the_group_and_the_mode_that_are_wanted(site: Site) -> None:
    owner, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    with site.collecting(SocketSettings(site.at, owner, group, 0o622)):
        found = Path(site.at).stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o622, os.geteuid(), os.getegid())
    assert not Path(site.at).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_socket_can_belong_to_postfix(site: Site) -> None:
    with site.collecting(SocketSettings(site.at, "nobody", "daemon")):
        found = Path(site.at).stat()
        assert (found.st_uid, found.st_gid) == (pwd.getpwnam("nobody").pw_uid, grp.getgrnam("daemon").gr_gid)


def test_a_socket_left_by_a_killed_daemon_is_replaced(site: Site) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(site.at)
    with site.collecting() as collector:
        site.send(datagram())
    assert collector.counters.kept == 1


def test_a_socket_that_cannot_be_had_is_an_error_that_names_it(site: Site, tmp_path: Path) -> None:
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
    assert site.days() == [DaySums(DAY, 1, 1, 0)]


def test_an_inherited_socket_is_used_and_its_path_left_to_systemd(site: Site) -> None:
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


def test_an_inherited_socket_of_another_kind_is_refused(site: Site) -> None:
    for family, kind in ((socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)):
        with socket.socket(family, kind) as other, pytest.raises(OSError, match="not a Unix datagram socket"):
            site.collector(other).start()


def test_stopping_what_never_started_or_has_stopped_does_nothing(site: Site) -> None:
    assert site.collector().stop()
    with site.collecting() as collector:
        assert collector.stop()
        assert collector.stop()


def test_a_stop_that_the_receiving_thread_sees_at_once_ends_well(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_no_thread_is_left_behind(site: Site) -> None:
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


def test_kill_9_loses_nothing_that_was_committed_and_leaves_a_sound_database(tmp_path: Path) -> None:
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
                for number in range(50 * turn):  # it dies with these received, being added, or committed
                    sock.send(datagram(f"d{number % 50}.example"))
            process.send_signal(signal.SIGKILL)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            (found,) = connection.execute("SELECT sum(successful) FROM tally").fetchone()
        assert sessions + committed <= found <= sessions + 200 + 50 * turn
        sessions = found
