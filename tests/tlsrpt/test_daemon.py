"""TLS reporting in the daemon: from the socket to the database, without delaying lookups."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtasts_daemon.tlsrpt.database.connection import DayRows, open_database_read_only
from mtasts_daemon.tlsrpt.send.factory import SendingLock
from tests.fakes.process import Internet, Process

SUCCESS = b'{"dpv":"1","d":"a.example","pr":"v=TLSRPTv1; rua=mailto:x@a.example","policies":[{"policy-type":9,"f":0}]}'


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("internet")) as internet:
        yield internet


def send(path: Path, *datagrams: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for datagram in datagrams:
            sock.sendto(datagram, str(path))


def collected(path: Path) -> dict[str, DayRows]:
    """Return the content of the database by policy domain."""

    async def read() -> dict[str, DayRows]:
        database = open_database_read_only(path)
        try:
            days = [day.day for day in await database.days()]
            return {rows.domain: rows for day in days for rows in await database.day_pages(day)}
        finally:
            await database.close()

    return asyncio.run(read())


def test_events_sent_before_the_stop_are_in_the_database(tmp_path: Path, internet: Internet) -> None:
    where = tmp_path / "tlsrpt.sock"
    with Process(tmp_path, internet, {"tlsrpt": {"socket": str(where), "socket_mode": "0622"}}) as daemon:
        assert where.stat().st_mode & 0o777 == 0o622
        send(where, SUCCESS, b"no event", SUCCESS)
        daemon.signal(signal.SIGTERM)
        assert daemon.ended(within=5) == os.EX_OK
    (policy,) = collected(tmp_path / "tlsrpt.sqlite")["a.example"].policies
    assert (policy.successful, policy.failed) == (2, 0)
    assert daemon.lines("tlsrpt-event-rejected")
    assert not where.exists()


def test_policy_that_cannot_be_fetched_is_reported_without_session(tmp_path: Path, internet: Internet) -> None:
    internet.records("_mta-sts.broken.example", 'TXT "v=STSv1; id=1;"')
    internet.records("mta-sts.broken.example", "A 127.0.0.1")
    with Process(tmp_path, internet, {"tlsrpt": {"socket": str(tmp_path / "tlsrpt.sock")}}) as daemon:
        assert daemon.lookup("broken.example") == "NOTFOUND "
        daemon.logged("policy-fetch-failed domain=broken.example")
        daemon.signal(signal.SIGTERM)
        assert daemon.ended(within=5) == os.EX_OK
    (policy,) = collected(tmp_path / "tlsrpt.sqlite")["broken.example"].policies
    ((failure, count),) = policy.failures
    assert (policy.successful, policy.failed, count) == (0, 0, 1)
    assert failure.result_type in ("sts-policy-fetch-error", "sts-webpki-invalid")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"socket": "/nonexistent/tlsrpt.sock"}, "error: tlsrpt-not-listening"),
        ({"socket": "tlsrpt.sock", "database": "/dev/null/tlsrpt.sqlite"}, "error: tlsrpt-off"),
        ({"socket": "tlsrpt.sock", "socket_group": "nobody-has-this-group"}, "error: tlsrpt-not-listening"),
    ],
)
def test_collector_that_cannot_start_does_not_stop_lookups(
    tmp_path: Path, internet: Internet, settings: dict[str, str], expected: str
) -> None:
    if settings["socket"].startswith("tlsrpt"):
        settings = settings | {"socket": str(tmp_path / settings["socket"])}
    with Process(tmp_path, internet, {"tlsrpt": settings}) as daemon:
        assert daemon.lines(expected)
        assert daemon.lookup("unknown.example") == "NOTFOUND "
        daemon.signal(signal.SIGTERM)
        assert daemon.ended(within=5) == os.EX_OK


def test_nothing_is_collected_without_a_socket(tmp_path: Path, internet: Internet) -> None:
    with Process(tmp_path, internet) as daemon:
        daemon.signal(signal.SIGTERM)
        assert daemon.ended(within=5) == os.EX_OK
    assert not (tmp_path / "tlsrpt.sqlite").exists()


def test_changed_socket_needs_a_restart_and_is_logged(tmp_path: Path, internet: Internet) -> None:
    first, second = tmp_path / "first.sock", tmp_path / "second.sock"
    with Process(tmp_path, internet, {"tlsrpt": {"socket": str(first)}}) as daemon:
        daemon.config.write_text(daemon.config.read_text().replace(str(first), str(second)))
        daemon.signal(signal.SIGHUP)
        daemon.logged("restart-needed section=tlsrpt")
        daemon.logged("reloaded")
        assert first.exists() and not second.exists()


def test_reload_while_another_process_holds_the_sending_lock(tmp_path: Path, internet: Internet) -> None:
    internet.publish("locked.example")
    folder = tmp_path / "daemon"
    folder.mkdir()
    other = SendingLock(folder / "tlsrpt.sqlite")
    assert other.take()
    with Process(folder, internet, {"tlsrpt": {"socket": str(folder / "tlsrpt.sock")}}) as daemon:
        daemon.logged("tlsrpt-another-sends")
        daemon.signal(signal.SIGHUP)
        daemon.logged("reloaded")
        assert daemon.lookup("locked.example").startswith("OK secure")
        daemon.signal(signal.SIGTERM)
        assert daemon.ended(within=5) == os.EX_OK
    other.close()
