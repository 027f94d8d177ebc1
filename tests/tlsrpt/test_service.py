"""TLS reporting over a reload and at the end: what is under way is finished, and what is accepted is sent once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.tlsrpt.database.connection import open_database
from mtasts_daemon.tlsrpt.model.report import day_begins
from mtasts_daemon.tlsrpt.service import TlsrptService
from tests.fakes.clock import FakeClock
from tests.fakes.resolver import FakeResolver
from tests.fakes.rua import RuaMail
from tests.tlsrpt.delivery_world import DAY, HOUR, SETTINGS
from tests.tlsrpt.events import add_events, succeeded

NOW = day_begins(DAY) + 86400 + 60 + 4 * HOUR


@pytest.fixture(autouse=True)
def without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for at the daemon's end, so that what is waited for is for another reason."""
    monkeypatch.setattr("mtasts_daemon.tlsrpt.service._STOP_WITHIN", 0.0)


def configuration(folder: Path, mail: RuaMail, **more: object) -> Config:
    smtp = f"127.0.0.1:{mail.address[1]}"
    tlsrpt = {"socket": f"{folder}/t.sock", "database": f"{folder}/t.sqlite", "smtp": smtp, **SETTINGS, **more}
    return Config.model_validate({"tlsrpt": tlsrpt})


@asynccontextmanager
async def sending(
    folder: Path, mail: RuaMail, *domains: str, others: Sequence[str] = ()
) -> AsyncIterator[TlsrptService]:
    """The service, sending reports to the domains, with the first of them held by the mail server.

    No mail went to the ``others``, which want reports too.
    """
    resolver, clock = FakeResolver(), FakeClock(NOW)
    service = TlsrptService(configuration(folder, mail), {}, (), lambda: resolver, clock)
    await service.start()
    assert service.database is not None
    for domain in (*domains, *others):
        resolver.put(f"_smtp._tls.{domain}", RRType.TXT, [f"v=TLSRPTv1; rua=mailto:x@{domain}".encode()])
    events = [(DAY, succeeded(domain)) for domain in domains]
    await asyncio.to_thread(add_events, service.database, events)
    delivering = asyncio.create_task(service.deliver())
    await mail.held.wait()
    yield service
    await service.stop()
    mail.go_on.set()
    await delivering
    await service.close()


def test_a_reload_waits_for_the_report_under_way_and_goes_on_by_the_new_configuration(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with RuaMail(hang="DATA") as mail, sending(tmp_path, mail, "a.example", "b.example") as service:
            before = service.deliverer
            service.configure(configuration(tmp_path, mail, organization="Another Name"))
            service.configure(configuration(tmp_path, mail, sender="new@sender.example"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert service.deliverer is before
            mail.go_on.set()
            await mail.seen(2)
            assert sorted(each.recipients[0] for each in mail.taken) == ["x@a.example", "x@b.example"]
            assert [each.sender.partition("+")[0] for each in mail.taken] == ["tlsrpt", "new"]
            assert mail.offered == 2

    asyncio.run(scenario())


def test_the_end_of_the_daemon_does_not_wait_for_a_reload_that_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with RuaMail(hang="DATA") as mail, sending(tmp_path, mail, "a.example") as service:
            service.configure(configuration(tmp_path, mail, organization="Another Name"))
            await asyncio.sleep(0)
            await service.stop()
            assert service.deliverer is None
            assert not mail.taken

    asyncio.run(scenario())


def test_what_is_in_a_file_that_took_the_place_of_the_database_is_reported_too(tmp_path: Path) -> None:
    other = open_database(tmp_path / "other.sqlite", now=NOW)
    add_events(other, [(DAY, succeeded("b.example"))])
    other.close_now()

    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_where_nothing_is_collected_there_is_no_file_to_look_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        service = TlsrptService(Config(), {}, (), FakeResolver, FakeClock(NOW))
        assert not await service.recover(NOW)

    asyncio.run(scenario())
