"""Planner, deliverer and receivers of reports with a fake clock, for the tests of planning and delivery."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.tlsrpt.database.connection import open_database
from mtasts_daemon.tlsrpt.database.decisions import ReportDecision
from mtasts_daemon.tlsrpt.database.outbox import DeliveryProgress
from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyResult, TlsrptEvent
from mtasts_daemon.tlsrpt.model.report import day_begins
from mtasts_daemon.tlsrpt.model.tally import Tally
from mtasts_daemon.tlsrpt.send.deliverer import Deliverer, Submit
from mtasts_daemon.tlsrpt.send.https_delivery import HttpsDelivery
from mtasts_daemon.tlsrpt.send.planner import DeliverySettings, Planner
from mtasts_daemon.tlsrpt.send.smtp_delivery import SmtpServer, submit
from tests.fakes.ca import Ca
from tests.fakes.clock import FakeClock
from tests.fakes.resolver import FakeResolver
from tests.fakes.rua import RuaMail
from tests.tlsrpt.events import add_events, failed, failure, succeeded

__all__ = ["DAY", "HOUR", "SETTINGS", "World", "event"]

DAY = "2026-09-21"
HOUR = 3600.0
SETTINGS: dict[str, Any] = {
    "organization": "Example Mail",
    "contact": "postmaster@sender.example",
    "sender": "tlsrpt@sender.example",
}


def event(domain: str, of: Policy) -> TlsrptEvent:
    """Return a session that failed under the policy."""
    return TlsrptEvent(domain, "v=TLSRPTv1;", (PolicyResult(of, True, (failure(),)),))


class World:
    """``clock`` starts when all of ``DAY`` is due; ``round`` runs all due work to its end."""

    def __init__(
        self,
        folder: Path,
        *,
        ca: Ca | None = None,
        submit: Submit = submit,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        planner: type[Planner] = Planner,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.clock = FakeClock(day_begins(DAY) + 86400 + 60 + 4 * HOUR)
        self.resolver = FakeResolver()
        self.settings = DeliverySettings(**{**SETTINGS, **settings})
        # Without one, each test would read all authorities of the system.
        self._ca = ca or Ca(folder / "ca")
        self._submit, self._sleep, self._planner = submit, sleep, planner

    async def __aenter__(self) -> "World":
        self.database = await asyncio.to_thread(open_database, self.folder / "t.sqlite", now=self.clock.wall())
        self.begin()
        return self

    async def begin_anew(self) -> None:
        """Restart, as a process does."""
        await self.deliverer.stop()
        self.begin()

    def begin(self) -> None:
        """Start, as a process does."""
        self.planner = self._planner(self.database, self.resolver, self.clock, self.settings)
        self.outbox, self.suppressions = self.planner.outbox, self.planner.suppressions
        https_delivery = HttpsDelivery(
            self.resolver,
            self.clock,
            total=120.0,
            ca_file=self._ca.pem,
            allowed=(ip_network("127.0.0.0/8"),),
            own=frozenset,
        )
        self.deliverer = Deliverer(
            self.database,
            self.planner,
            https_delivery,
            self.clock,
            submit=self._submit,
            sleep=self._sleep,
            jitter=lambda: 0.5,
        )

    async def __aexit__(self, *_: object) -> None:
        await self.deliverer.stop()
        await self.database.close()

    def mail_to(self, server: RuaMail) -> None:
        """Set the mail server for report mails."""
        self.change(smtp=SmtpServer(*server.address, timeout=120.0))

    def change(self, **settings: Any) -> None:
        """Replace settings."""
        given = {name: getattr(self.settings, name) for name in self.settings.__slots__}
        self.settings = self.planner.settings = DeliverySettings(**{**given, **settings})

    async def seen(self, *events: TlsrptEvent, day: str = DAY) -> None:
        """Collect the events."""
        await asyncio.to_thread(add_events, self.database, [(day, each) for each in events])

    async def noted(self, domain: str, of: Policy, failure: Failure, count: int) -> None:
        """Collect failures without a session."""
        tally = Tally(DAY)
        tally.add_failure(domain, of, failure, count)
        await asyncio.to_thread(self.database.add, tally)

    async def mailed(self, *domains: str, day: str = DAY, failing: bool = False) -> None:
        """Collect a session with each domain."""
        await self.seen(*(failed(name) if failing else succeeded(name) for name in domains), day=day)

    def wants(self, domain: str, *uris: str) -> None:
        """Publish the domain's TLSRPT record."""
        self.resolver.put(f"_smtp._tls.{domain}", RRType.TXT, [f"v=TLSRPTv1; rua={','.join(uris)}".encode()])

    def host(self, *names: str) -> None:
        """Publish addresses of this host for the hosts."""
        for name in names:
            self.resolver.put(name, RRType.A, ["127.0.0.1"])

    async def round(self) -> None:
        """Run the work that is due now."""
        async with asyncio.TaskGroup() as tasks:
            await self.deliverer.round(tasks)

    async def progress(self, day: str = DAY, domain: str | None = None) -> DeliveryProgress:
        return await self.outbox.progress(day, domain, self.clock.wall())

    async def deliveries(self) -> dict[tuple[str, str], tuple[str, int, str]]:
        """Return state, attempts and last error by policy domain and address."""
        statement = "SELECT domain, uri, state, attempts, last_error FROM delivery"
        rows = await self.database.read(lambda connection: connection.execute(statement).fetchall())
        return {(domain, uri): tuple(rest) for domain, uri, *rest in rows}

    async def reasons(self) -> dict[str, str]:
        """Return why there is no report, by policy domain; empty text if there is one."""
        rows = await self.database.read(
            lambda connection: connection.execute("SELECT domain, state, reason FROM plan").fetchall()
        )
        return {domain: reason if state == "skipped" else state for domain, state, reason in rows}

    async def dry(self, domain: str | None = None) -> list[ReportDecision]:
        return [decision async for decision in self.planner.plan_day(DAY, domain)]
