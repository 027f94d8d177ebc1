"""Delivering reports to real servers: once each, retried if not accepted, and never twice otherwise."""

import asyncio
import gzip
import importlib
from collections.abc import AsyncGenerator, Sequence
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mtasts_daemon.errors import StoreError
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.tlsrpt.database.connection import TlsrptDatabase
from mtasts_daemon.tlsrpt.database.decisions import ReportDecision, WaitingUnit
from mtasts_daemon.tlsrpt.database.outbox import Delivery, DeliveryProgress, Outbox
from mtasts_daemon.tlsrpt.model.delivery_result import DeliveryResult, Result
from mtasts_daemon.tlsrpt.model.dsn import Bounce
from mtasts_daemon.tlsrpt.model.signing import Signer
from mtasts_daemon.tlsrpt.send.planner import Planner
from mtasts_daemon.tlsrpt.send.smtp_delivery import SmtpServer
from tests.event_loop import idle
from tests.fakes.ca import Ca
from tests.fakes.rua import Mail, Manner, RuaHost, RuaMail
from tests.tlsrpt.delivery_world import DAY, HOUR, World
from tests.tlsrpt.model.test_signing import record

dkim: Any = importlib.import_module("dkim")  # it has no type hints

WEB = "reports.example.com"
OTHER = "other.example.net"
YEARS = 4 * 365 * 24 * HOUR


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("ca"))


def attachment(mail: Mail) -> bytes:
    (report,) = [
        part
        for part in message_from_bytes(mail.content, policy=policy.default).walk()
        if part.get_content_type() == "application/tlsrpt+gzip"
    ]
    content: bytes = report.get_content()
    return content


async def test_every_address_gets_the_same_report_once(tmp_path: Path, ca: Ca) -> None:
    async with World(tmp_path, ca=ca) as world, RuaMail() as mail, RuaHost(ca) as web:
        world.mail_to(mail)
        world.host(WEB)
        await world.mailed("a.example")
        world.wants("a.example", web.url(WEB), "mailto:x@a.example", "mailto:y@b.example")
        for _ in range(3):
            await world.round()
            world.clock.advance(24 * HOUR)
        assert [(each.sender.partition("+")[0], each.recipients) for each in mail.taken] == [
            ("tlsrpt", ("x@a.example",)),
            ("tlsrpt", ("y@b.example",)),
        ]
        (post,) = web.posts
        assert {attachment(each) for each in mail.taken} == {post.body}
        assert b'"policy-domain":"a.example"' in gzip.decompress(post.body)
        assert await world.progress() == DeliveryProgress(reported=1, delivered=3)
        saved = await world.database.load_report(DAY, "a.example")
        assert saved is not None
        # A body that will not be sent again is removed; the delivery stays.
        assert saved.body is None


async def test_deferred_mail_is_repeated_byte_for_byte(tmp_path: Path) -> None:
    offered: list[tuple[str, bytes]] = []

    def refuse(server: SmtpServer, sender: str, to: str, message: bytes) -> DeliveryResult:
        offered.append((sender, message))
        return DeliveryResult(Result.DEFERRED if len(offered) < 4 else Result.DELIVERED, "450 later")

    async with World(tmp_path, submit=refuse, signer=Signer("sender.example", "s", KEY)) as world:
        await world.mailed("a.example")
        world.wants("a.example", "mailto:x@a.example")
        for _ in range(3):
            await world.round()
            world.clock.advance(HOUR)
        await world.begin_anew()
        await world.round()
        assert len(offered) == 4
        assert len(set(offered)) == 1
        assert await world.deliveries() == {("a.example", "mailto:x@a.example"): ("delivered", 4, "450 later")}


KEY = rsa.generate_private_key(65537, 1024)


async def test_deferred_report_is_given_up_after_a_day(tmp_path: Path) -> None:
    async with World(tmp_path) as world, RuaMail(rcpt="450 4.2.1 full") as mail:
        world.mail_to(mail)
        await world.mailed("a.example")
        world.wants("a.example", "mailto:x@a.example")
        begun = world.clock.wall()
        await world.round()
        while (await world.progress()).pending:
            world.clock.advance(300)
            await world.round()
        assert 18 * HOUR < world.clock.wall() - begun <= 24 * HOUR
        ((state, attempts, error),) = (await world.deliveries()).values()
        assert (state, error) == ("failed", "450 4.2.1 full")
        assert 8 <= attempts <= 20


async def test_refused_report_is_not_retried(tmp_path: Path) -> None:
    async with World(tmp_path) as world, RuaMail(data="552 5.3.4 too large") as mail:
        world.mail_to(mail)
        await world.mailed("a.example")
        world.wants("a.example", "mailto:x@a.example")
        await world.round()
        world.clock.advance(12 * HOUR)
        await world.round()
        assert mail.offered == 1
        assert await world.deliveries() == {("a.example", "mailto:x@a.example"): ("refused", 1, "552 5.3.4 too large")}


@pytest.mark.parametrize("manner", [Manner(500), Manner(close=True)])
async def test_failing_host_backs_off_and_is_retried(tmp_path: Path, ca: Ca, manner: Manner) -> None:
    async with World(tmp_path, ca=ca) as world, RuaHost(ca, {WEB: manner}) as web:
        world.host(WEB)
        names = [f"d{number}.example" for number in range(20)]
        await world.mailed(*names)
        for name in names:
            world.wants(name, web.url(WEB, f"/{name}"))
        await world.round()
        await world.round()
        # After the failure of one of the twenty, the others are not tried.
        assert len(web.posts) == 1
        web.manners[WEB] = Manner()
        world.clock.advance(HOUR)
        await world.round()
        assert (await world.progress()).delivered == 20
        assert len(web.posts) == 21


async def test_host_failing_for_a_day_loses_its_waiting_reports(tmp_path: Path, ca: Ca) -> None:
    async with World(tmp_path, ca=ca) as world, RuaHost(ca, {WEB: Manner(503)}) as web:
        world.host(WEB)
        names = [f"d{number}.example" for number in range(20)]
        await world.mailed(*names)
        for name in names:
            world.wants(name, web.url(WEB, f"/{name}"))
        for _ in range(27):
            await world.round()
            world.clock.advance(HOUR)
        assert (await world.progress()).failed == 20
        assert len(web.posts) < 40


async def test_retry_after_is_honoured(tmp_path: Path, ca: Ca) -> None:
    later = Manner(429, (("Retry-After", "7200"),))
    async with World(tmp_path, ca=ca) as world, RuaHost(ca, {WEB: later}) as web:
        world.host(WEB)
        await world.mailed("a.example")
        world.wants("a.example", web.url(WEB))
        await world.round()
        web.manners[WEB] = Manner()
        world.clock.advance(7199)
        await world.round()
        assert len(web.posts) == 1
        world.clock.advance(1)
        await world.round()
        assert (await world.progress()).delivered == 1


async def test_hanging_host_delays_no_other(tmp_path: Path, ca: Ca) -> None:
    hangs = {WEB: Manner(hang=True)}
    async with World(tmp_path, ca=ca) as world, RuaMail() as mail, RuaHost(ca, hangs) as web:
        world.mail_to(mail)
        world.host(WEB, OTHER)
        names = [f"d{number}.example" for number in range(30)]
        await world.mailed(*names)
        for name in names:
            world.wants(name, web.url(WEB, f"/{name}"), web.url(OTHER, f"/{name}"), "mailto:x@a.example")
        running = asyncio.create_task(world.deliverer.run())
        await mail.seen(30)
        while sum(post.host == OTHER for post in web.posts) < 30:
            await web.seen(len(web.posts) + 1)
        assert sum(post.host == WEB for post in web.posts) == 1
        await world.deliverer.stop(0.05)
        await running


async def test_hanging_mail_server_delays_no_https(tmp_path: Path, ca: Ca) -> None:
    async with World(tmp_path, ca=ca) as world, RuaMail(hang="MAIL") as mail, RuaHost(ca) as web:
        world.mail_to(mail)
        world.host(WEB)
        await world.mailed("a.example", "b.example")
        world.wants("a.example", "mailto:x@a.example")
        world.wants("b.example", web.url(WEB))
        running = asyncio.create_task(world.deliverer.run())
        await web.seen(1)
        await world.deliverer.stop(0.05)
        await running


async def test_unreachable_mail_server_defers_all_mail(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        names = [f"d{number}.example" for number in range(20)]
        await world.mailed(*names)
        for name in names:
            world.wants(name, f"mailto:x@{name}")
        async with RuaMail(mail="451 4.3.0 no disk") as mail:
            world.mail_to(mail)
            await world.round()
            mail.mail = None
            world.clock.advance(HOUR)
            await world.round()
            assert len(mail.taken) == 20
        attempts = [attempts for _, attempts, _ in (await world.deliveries()).values()]
        assert sorted(attempts) == [1] * 19 + [2]


async def test_status_410_suppresses_the_address(tmp_path: Path, ca: Ca) -> None:
    async with World(tmp_path, ca=ca) as world, RuaHost(ca, {WEB: Manner(410)}) as web:
        world.host(WEB)
        await world.mailed("a.example", "b.example")
        for name in ("a.example", "b.example"):
            world.wants(name, web.url(WEB))
        await world.round()
        assert len(web.posts) == 1
        assert sorted(state for state, *_ in (await world.deliveries()).values()) == ["refused", "skipped"]
        (entry,) = await world.suppressions.suppressions(world.clock.wall())
        assert (entry.uri, entry.reason) == (web.url(WEB), "refused: 410")
        assert await world.suppressions.suppressions(world.clock.wall() + 31 * 86400) == []


async def test_three_days_of_refusals_suppress_the_address(tmp_path: Path, ca: Ca) -> None:
    async with World(tmp_path, ca=ca) as world, RuaHost(ca, {WEB: Manner(404)}) as web:
        world.host(WEB)
        world.wants("a.example", web.url(WEB))
        counts = []
        for day in ("2026-09-18", "2026-09-19", "2026-09-20", DAY):
            await world.mailed("a.example", day=day)
            await world.round()
            await world.begin_anew()
            counts.append(len(await world.suppressions.suppressions(world.clock.wall())))
        assert counts == [0, 0, 1, 1]
        assert len(web.posts) == 3
        assert (await world.progress()).suppressed == 1


async def test_accepted_report_resets_the_count_of_refusals(tmp_path: Path, ca: Ca) -> None:
    async with World(tmp_path, ca=ca) as world, RuaHost(ca) as web:
        world.host(WEB)
        world.wants("a.example", web.url(WEB))
        for day, status in (("2026-09-17", 404), ("2026-09-18", 404), ("2026-09-19", 200), ("2026-09-20", 404)):
            web.manners[WEB] = Manner(status)
            await world.mailed("a.example", day=day)
            await world.round()
            await world.begin_anew()
        assert await world.suppressions.suppressions(world.clock.wall()) == []


async def test_bounce_suppresses_its_address(tmp_path: Path) -> None:
    async with World(tmp_path) as world, RuaMail() as mail:
        world.mail_to(mail)
        world.wants("a.example", "mailto:x@a.example", "mailto:y@a.example")
        await world.mailed("a.example")
        await world.round()
        (first,) = [each for each in mail.taken if each.recipients == ("x@a.example",)]
        tag = first.sender.partition("+")[2].partition("@")[0]
        now = world.clock.wall()
        soft = Bounce(tag, failed=False, permanent=False, status="4.4.1", detail="")
        assert await world.suppressions.bounced(soft, now, now + 10) == "mailto:x@a.example"
        assert await world.suppressions.suppressions(now) == []
        hard = Bounce(tag, failed=True, permanent=True, status="5.1.1", detail="smtp; 550 nobody")
        assert await world.suppressions.bounced(hard, now, now + 10) == "mailto:x@a.example"
        (entry,) = await world.suppressions.suppressions(now)
        assert (entry.uri, entry.reason) == ("mailto:x@a.example", "bounced 5.1.1 smtp; 550 nobody")
        unknown = Bounce("f" * 20, failed=True, permanent=True, status="5.1.1", detail="")
        assert await world.suppressions.bounced(unknown, now, now + 10) is None


async def test_manual_suppression_skips_waiting_reports_and_expires(tmp_path: Path) -> None:
    async with World(tmp_path) as world, RuaMail(rcpt="450 4.2.1 full") as mail:
        world.mail_to(mail)
        world.wants("a.example", "mailto:x@a.example")
        await world.mailed("a.example")
        await world.round()
        mail.rcpt = None
        now = world.clock.wall()
        await world.suppressions.suppress("mailto:x@a.example", "asked not to", now, now + 2 * HOUR)
        world.clock.advance(HOUR)
        await world.round()
        assert (await world.progress()).suppressed == 1
        assert not await world.suppressions.unsuppress("mailto:y@a.example")
        world.clock.advance(HOUR)
        await world.begin_anew()
        await world.mailed("a.example", day="2026-09-20")
        await world.round()
        assert len(mail.taken) == 1


@pytest.mark.parametrize("missing", ["organization", "contact", "sender"])
async def test_nothing_is_sent_without_a_reporter(tmp_path: Path, missing: str) -> None:
    async with World(tmp_path) as world, RuaMail() as mail:
        world.change(**{missing: ""})
        world.mail_to(mail)
        await world.mailed("a.example")
        world.wants("a.example", "mailto:x@a.example")
        await world.round()
        with pytest.raises(ValueError, match=r"organization, tlsrpt\.contact and tlsrpt\.sender"):
            await world.deliverer.send(DAY)
        assert mail.taken == []
        world.change(**{missing: "me@sender.example"})
        await world.round()
        assert len(mail.taken) == 1


async def test_mail_is_signed_if_a_key_is_configured(tmp_path: Path) -> None:
    signer = Signer("sender.example", "tlsrpt2026", KEY)
    async with World(tmp_path, signer=signer) as world, RuaMail() as mail:
        world.mail_to(mail)
        await world.mailed("a.example")
        world.wants("a.example", "mailto:x@a.example")
        await world.round()
        (taken,) = mail.taken
        assert dkim.verify(taken.content, dnsfunc=lambda name, timeout=5: record(KEY), tlsrpt="strict")


async def test_dkim_key_that_excludes_tls_reports_is_logged(tmp_path: Path) -> None:
    signer = Signer("sender.example", "tlsrpt2026", KEY)
    async with World(tmp_path, signer=signer) as world:
        assert "no key record" in (await world.planner.dkim_problem() or "")
        world.resolver.put(signer.record_name, RRType.TXT, [record(KEY, "s=email; ")])
        assert "add tlsrpt" in (await world.planner.dkim_problem() or "")
        world.resolver.put(signer.record_name, RRType.TXT, [record(KEY)])
        assert await world.planner.dkim_problem() is None


@pytest.mark.parametrize("set_when", ["running", "started"])
async def test_clock_years_ahead_removes_no_unreported_day(tmp_path: Path, set_when: str) -> None:
    async with World(tmp_path, organization="") as world:  # nothing is sent
        await world.mailed("a.example")
        if set_when == "running":
            world.clock.advance(2 * HOUR)
            await world.round()
            world.clock.advance(0.5 * HOUR)
        world.clock.set_back(-YEARS)
        if set_when == "started":
            await world.begin_anew()
        for _ in range(3):
            await world.round()
            world.clock.advance(0.4 * HOUR)
        world.clock.set_back(YEARS)
        await world.round()
        assert [day.day for day in await world.database.days()] == [DAY]
        world.clock.advance(31 * 24 * HOUR)
        await world.round()
        assert await world.database.days() == []


@pytest.mark.parametrize("domain", ["a.example", ".".join(["a" * 60] * 4)])
async def test_copy_of_every_report_is_written(tmp_path: Path, domain: str) -> None:
    async with World(tmp_path, copy_to=tmp_path / "copies") as world, RuaMail(rcpt="450 4.0.0 later") as mail:
        world.mail_to(mail)
        await world.mailed(domain)
        world.wants(domain, "mailto:x@a.example", "mailto:y@a.example")
        await world.round()
        (copy,) = (tmp_path / "copies" / DAY).iterdir()
        saved = await world.database.load_report(DAY, domain)
        assert saved is not None
        assert copy.read_bytes() == saved.body
        assert copy.name.endswith(".json.gz")


async def test_failing_copy_does_not_stop_delivery(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with World(tmp_path, copy_to=tmp_path / "file") as world, RuaMail() as mail:
        world.mail_to(mail)
        await world.mailed("a.example")
        world.wants("a.example", "mailto:x@a.example")
        await world.round()
        assert len(mail.taken) == 1


class Failing(Outbox):
    """A database whose disk is full for a while."""

    failures = 0

    async def record(self, delivery: Delivery, attempt: DeliveryResult, now: float, next_at: float) -> str:
        self.failures += 1
        if self.failures < 4:
            raise StoreError("no space left")
        return await super().record(delivery, attempt, now, next_at)


class PlannerOnFullDisk(Planner):
    def __init__(self, database: TlsrptDatabase, *values: Any) -> None:
        super().__init__(database, *values)
        self.outbox = Failing(database)


async def test_accepted_report_is_not_repeated_while_the_disk_fails(tmp_path: Path) -> None:
    async def at_once(seconds: float) -> None:
        await asyncio.sleep(0)

    async with World(tmp_path, planner=PlannerOnFullDisk, sleep=at_once) as world, RuaMail() as mail:
        world.mail_to(mail)
        await world.mailed("a.example")
        world.wants("a.example", "mailto:x@a.example")
        await world.round()
        await world.round()
        assert len(mail.taken) == 1
        assert (await world.progress()).delivered == 1


async def test_send_delivers_a_day_before_it_is_due(tmp_path: Path) -> None:
    async with World(tmp_path, spread=12 * HOUR) as world, RuaMail() as mail:
        world.clock.set_back(4 * HOUR)
        world.mail_to(mail)
        names = [f"d{number}.example" for number in range(20)]
        await world.mailed(*names)
        for name in names[:10]:
            world.wants(name, f"mailto:x@{name}")
        running = asyncio.create_task(world.deliverer.run())
        seen: list[DeliveryProgress] = []
        one = await world.deliverer.send(DAY, "d3.example", progress=seen.append)
        assert (one.delivered, one.waiting) == (1, 0)
        found = await world.deliverer.send(DAY, progress=seen.append)
        assert (found.delivered, found.skipped, found.waiting) == (10, 10, 0)
        assert seen[-1] == found
        assert len(mail.taken) == 10
        await world.deliverer.send(DAY)
        assert len(mail.taken) == 10
        await world.deliverer.stop()
        await running


async def test_send_retries_failed_deliveries(tmp_path: Path) -> None:
    async with World(tmp_path) as world, RuaMail(rcpt="450 4.2.1 full") as mail:
        world.mail_to(mail)
        await world.mailed("a.example")
        world.wants("a.example", "mailto:x@a.example")
        for _ in range(30):
            await world.round()
            world.clock.advance(HOUR)
        assert (await world.progress()).failed == 1
        mail.rcpt = None
        running = asyncio.create_task(world.deliverer.run())
        assert (await world.deliverer.send(DAY)).delivered == 1
        await world.deliverer.stop()
        await running


async def test_send_rejects_a_day_that_is_not_over(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        with pytest.raises(ValueError, match="not over"):
            await world.deliverer.send("2026-09-22")


async def test_stop_finishes_deliveries_under_way_and_starts_none(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(server: SmtpServer, sender: str, to: str, message: bytes) -> DeliveryResult:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(120)
        return DeliveryResult(Result.DELIVERED)

    async with World(tmp_path, submit=slow) as world:
        await world.mailed("a.example", "b.example")
        for name in ("a.example", "b.example"):
            world.wants(name, f"mailto:x@{name}")
        running = asyncio.create_task(world.deliverer.run())
        await begun.wait()
        stopping = asyncio.create_task(world.deliverer.stop(10))
        await idle()
        go_on.set()
        await stopping
        await running
        found = await world.progress()
        assert (found.delivered, found.pending) == (1, 1)


class BrokenOnce(Planner):
    broken = True

    async def decide(self, units: Sequence[WaitingUnit]) -> AsyncGenerator[list[ReportDecision], None]:
        if self.broken:
            self.broken = False
            raise KeyError("a bug")
        async for decisions in super().decide(units):
            yield decisions


async def test_internal_error_in_a_round_does_not_end_delivery(tmp_path: Path) -> None:
    rounds: list[float] = []
    again = asyncio.Event()

    async def sleep(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) > 1:
            again.set()
            await asyncio.Event().wait()

    async with World(tmp_path, planner=BrokenOnce, sleep=sleep) as world:
        await world.mailed("a.example")
        running = asyncio.create_task(world.deliverer.run())
        await again.wait()
        assert world.deliverer.counters.unhandled == 1
        assert (await world.progress()).skipped == 1
        await world.deliverer.stop()
        await running
