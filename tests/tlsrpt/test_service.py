"""TLS reporting as a part: reload, recovery, shutdown, and the lock of another process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.errors import DnsServerFailure
from mtasts_daemon.policy.cache_entry import CacheEntry
from mtasts_daemon.policy.dns_answer import DnsAnswer, RRType
from mtasts_daemon.policy.findings import PolicyProblem
from mtasts_daemon.tlsrpt.database.connection import open_database
from mtasts_daemon.tlsrpt.model.report import day_begins
from mtasts_daemon.tlsrpt.send.factory import SendingLock
from mtasts_daemon.tlsrpt.service import TlsrptService
from tests.fakes.clock import FakeClock
from tests.fakes.resolver import FakeResolver
from tests.fakes.rua import RuaMail
from tests.tlsrpt.delivery_world import DAY, HOUR, SETTINGS
from tests.tlsrpt.events import add_events, succeeded

NOW = day_begins(DAY) + 86400 + 60 + 4 * HOUR


@pytest.fixture(autouse=True)
def no_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the shutdown timeout to 0, so that any wait in a test has another cause."""
    monkeypatch.setattr("mtasts_daemon.tlsrpt.service._STOP_SECONDS", 0.0)


def configuration(folder: Path, mail: RuaMail | None = None, **more: object) -> Config:
    tlsrpt: dict[str, object] = {"socket": f"{folder}/t.sock", "database": f"{folder}/t.sqlite", **more}
    if mail is not None:
        tlsrpt = {"smtp": f"127.0.0.1:{mail.address[1]}", **SETTINGS, **tlsrpt}
    return Config.model_validate({"tlsrpt": tlsrpt})


def service_of(config: Config, resolver: FakeResolver | None = None) -> TlsrptService:
    found = resolver or FakeResolver()
    return TlsrptService(config, {}, (), lambda: found, FakeClock(NOW))


@asynccontextmanager
async def sending(
    folder: Path, mail: RuaMail, *domains: str, others: Sequence[str] = ()
) -> AsyncIterator[TlsrptService]:
    """Run the service while it sends reports to the domains, while the mail server holds the first.

    ``others`` also want reports, but have no sessions.
    """
    resolver = FakeResolver()
    service = service_of(configuration(folder, mail), resolver)
    await service.start()
    assert service.database is not None
    for domain in (*domains, *others):
        resolver.put(f"_smtp._tls.{domain}", RRType.TXT, [f"v=TLSRPTv1; rua=mailto:x@{domain}".encode()])
    await asyncio.to_thread(add_events, service.database, [(DAY, succeeded(domain)) for domain in domains])
    delivering = asyncio.create_task(service.deliver())
    await mail.held.wait()
    yield service
    await service.stop()
    mail.go_on.set()
    await delivering
    await service.close()


# -- reload and the end ------------------------------------------------------------------------------------


async def test_reload_finishes_the_delivery_under_way_and_uses_the_new_settings(tmp_path: Path) -> None:
    async with RuaMail(hang="DATA") as mail, sending(tmp_path, mail, "a.example", "b.example") as service:
        before = service.deliverer
        service.configure(configuration(tmp_path, mail, organization="Another Name"))
        service.configure(configuration(tmp_path, mail, sender="new@sender.example"))
        assert service.deliverer is before
        mail.go_on.set()
        await mail.seen(2)
        assert sorted(each.recipients[0] for each in mail.taken) == ["x@a.example", "x@b.example"]
        assert [each.sender.partition("+")[0] for each in mail.taken] == ["tlsrpt", "new"]
        assert mail.offered == 2


async def test_end_of_the_daemon_does_not_wait_for_a_reload(tmp_path: Path) -> None:
    async with RuaMail(hang="DATA") as mail, sending(tmp_path, mail, "a.example") as service:
        service.configure(configuration(tmp_path, mail, organization="Another Name"))
        await service.stop()
        assert service.deliverer is None
        assert not mail.taken


async def test_reload_while_another_process_holds_the_lock_does_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, logged = 0, asyncio.Event()

    class CountingLock(SendingLock):
        def take(self) -> bool:
            nonlocal attempts
            attempts += 1
            logged.set()
            return super().take()

    monkeypatch.setattr("mtasts_daemon.tlsrpt.send.factory.SendingLock", CountingLock)
    other = SendingLock(tmp_path / "t.sqlite")
    assert other.take()
    service = service_of(configuration(tmp_path))
    await service.start()
    delivering = asyncio.create_task(service.deliver())
    await logged.wait()
    assert attempts == 1
    for expected in (2, 3):
        logged.clear()
        service.configure(configuration(tmp_path))
        await logged.wait()
        # The event loop is not blocked, and the lock is tried once for each reload.
        await asyncio.to_thread(lambda: None)
        assert attempts == expected
    other.close()
    await service.stop()
    await delivering
    await service.close()


# -- recovery ----------------------------------------------------------------------------------------------


async def test_results_of_a_file_that_replaced_the_database_are_reported(tmp_path: Path) -> None:
    other = await asyncio.to_thread(open_database, tmp_path / "other.sqlite", now=NOW)
    await asyncio.to_thread(add_events, other, [(DAY, succeeded("b.example"))])
    await other.close()
    async with (
        RuaMail(hang="DATA") as mail,
        sending(tmp_path, mail, "a.example", others=["b.example"]) as service,
    ):
        assert not await service.recover(NOW)
        (tmp_path / "other.sqlite").rename(service.path)
        assert await service.recover(NOW)
        mail.go_on.set()
        await mail.seen(2)
        assert [each.recipients[0] for each in mail.taken] == ["x@a.example", "x@b.example"]


async def test_recover_without_a_socket_does_nothing() -> None:
    assert not await service_of(Config()).recover(NOW)


async def test_database_and_socket_that_could_not_be_opened_are_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    service = service_of(configuration(folder, database=f"{tmp_path}/blocked/t.sqlite"))
    blocked = tmp_path / "blocked"
    await asyncio.to_thread(blocked.touch)
    await service.start()
    delivering = asyncio.create_task(service.deliver())
    assert (service.database, service.collectors) == (None, [])
    await asyncio.to_thread(blocked.unlink)
    await service.recover(NOW)
    assert service.database is not None
    assert service.collectors == []
    await asyncio.to_thread(folder.mkdir)
    await service.recover(NOW)
    assert len(service.collectors) == 1
    await service.recover(NOW)
    assert len(service.collectors) == 1
    await service.stop()
    await delivering
    await service.close()


# -- own failures ------------------------------------------------------------------------------------------


class OfflineResolver(FakeResolver):
    """A resolver that answers from its cache only: new names fail."""

    def a(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        self.fail(name, RRType.A, DnsServerFailure())
        return super().a(name)


async def test_failure_that_may_be_ours_is_not_collected_if_the_network_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtasts_daemon.tlsrpt.service._STOP_SECONDS", 30.0)
    resolver = OfflineResolver()
    service = service_of(configuration(tmp_path), resolver)
    await service.start()
    for problem in ("policy-host-lookup-failed", "policy-timeout", "policy-connect-failed", "policy-http-status"):
        service.on_finding(PolicyProblem(CacheEntry(f"{problem}.example"), problem))
    await service.stop()
    assert service.database is not None
    (day,) = await service.database.days()
    assert await service.database.domains(day.day) == ["policy-http-status.example"]
    await service.close()
