"""A published domain with fakes: DNS in memory, simulated checks, and a publishing service."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtasts_daemon.config import Config
from mtasts_daemon.config.sections.publish import PublishSettings
from mtasts_daemon.diagnose.check.evidence import (
    CheckEvidence,
    CheckFailure,
    EndpointEvidence,
    MxEvidence,
    MxHostEvidence,
    PolicyHostEvidence,
    StsEvidence,
)
from mtasts_daemon.errors import MtaStsError
from mtasts_daemon.https.tls_stream import TlsSession
from mtasts_daemon.notify.alert import Alert
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord, RRType
from mtasts_daemon.policy.mtasts import parse_policy, parse_txt
from mtasts_daemon.publish.operations import PublishOperations
from mtasts_daemon.publish.registry import PublishedDomain
from mtasts_daemon.publish.rollout import DayReports
from mtasts_daemon.publish.service import PublishService
from mtasts_daemon.publish.watch import PublishWatch
from mtasts_daemon.smtp.certificates import LeafCertificate
from mtasts_daemon.smtp.chain_verification import ChainProblem
from mtasts_daemon.smtp.probe import ServerTlsEvidence, SmtpSession
from tests.fakes.clock import FakeClock
from tests.fakes.resolver import FakeResolver

DAY = 86400.0


def certificate(
    name: str, *, refused: ChainProblem | None = None, not_after: float = 1_800_000_000.0 + 60 * DAY
) -> ServerTlsEvidence:
    return ServerTlsEvidence(
        TlsSession("TLSv1.3", "TLS_AES_128_GCM_SHA256", ()), LeafCertificate("", (name,), 0.0, not_after), refused
    )


def session(host: str, address: str, **changes: Any) -> SmtpSession:
    found = SmtpSession(
        host, address, 25, 0.0, connected=True, offered=("STARTTLS",), tls=certificate(host), offered_tls=()
    )
    return replace(found, **changes)


def mx_host(host: str, *addresses: str, **changes: Any) -> MxHostEvidence:
    shown = addresses or ("192.0.2.25",)
    sessions = tuple(session(host, address) for address in shown)
    return replace(MxHostEvidence(host, 10, shown, sessions=sessions, probed=True), **changes)


@dataclass
class OutsideView:
    """Simulates checks from DNS, the served policy, and the state of each MX host."""

    world: "PublishWorld"
    hosts: dict[str, MxHostEvidence] = field(default_factory=dict)
    endpoint: ServerTlsEvidence | None = None
    policy_failure: CheckFailure | None = None
    present: bool = True
    error: MtaStsError | None = None
    checks: int = 0
    fresh: bool = False
    """True if the last check was asked for by an operator."""

    async def __call__(self, domain: str, *, fresh: bool = False) -> CheckEvidence:
        self.checks += 1
        self.fresh = fresh
        if self.error is not None:
            raise self.error
        world, resolver = self.world, self.world.resolver
        mx = await resolver.mx(domain)
        names = tuple(record.host for record in mx.records)
        try:
            texts = (await resolver.txt(f"_mta-sts.{domain}")).records
            record = parse_txt(texts)
        except MtaStsError:
            texts, record = (), None
        host = f"mta-sts.{domain}"
        body = world.served.get(host.encode())
        failure = self.policy_failure
        if body is None and failure is None:
            failure = CheckFailure("policy-http-status", "The policy host answered with a status other than 200: 404")
        endpoint = EndpointEvidence(host, "192.0.2.80", 443, tls=self.endpoint or certificate(host))
        policy_host = PolicyHostEvidence()
        if self.present:
            policy_host = PolicyHostEvidence(
                True,
                (endpoint,),
                body if failure is None else None,
                parse_policy(body) if body is not None and failure is None else None,
                failure,
            )
        return CheckEvidence(
            domain,
            world.clock.wall(),
            StsEvidence(DnsAnswer(domain, tuple(texts), 300), record),
            policy_host,
            MxEvidence(mx, names),
            tuple(self.hosts.get(name) or mx_host(name) for name in names),
            port25=True,
        )


class PublishWorld:
    """Publishing with fakes. ``served`` is what the public listener serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.resolver = FakeResolver()
        self.served: dict[bytes, bytes] = {}
        self.outside = OutsideView(self)
        self.alerts: list[Alert] = []
        self.days: Mapping[str, DayReports] | None = None
        self.service = PublishService({}, lambda: self.resolver, self.outside, self.serve, self.clock)
        self.watch = PublishWatch(self.service, self.alerts.append, self.reported, self.clock)
        self.operations = PublishOperations(self.service, self.watch)

    def serve(self, changes: Mapping[bytes, bytes | None]) -> None:
        for host, text in changes.items():
            if text is None:
                self.served.pop(host, None)
            else:
                self.served[host] = text

    async def reported(self, _domain: str, since: str) -> Mapping[str, DayReports] | None:
        return None if self.days is None else {day: one for day, one in self.days.items() if day >= since}

    def mx(self, domain: str, *hosts: str) -> None:
        self.resolver.put(domain, RRType.MX, [MxRecord(10, host) for host in hosts])

    def txt(self, domain: str) -> None:
        """Write the id of the served policy to DNS."""
        live = self.one(domain).state.live
        assert live is not None
        self.resolver.put(f"_mta-sts.{domain}", RRType.TXT, [f"v=STSv1; id={live.id};".encode()])

    async def configure(self, domains: Mapping[str, Mapping[str, Any]], **publish: Any) -> None:
        settings = PublishSettings.model_validate(
            {"domains": domains, "database": str(self.folder / "publish.sqlite"), **publish}
        )
        await self.service.configure(Config(publish=settings))

    def one(self, domain: str = "example.com") -> PublishedDomain:
        registry = self.service.registry
        assert registry is not None
        return registry.domains[domain]

    def text(self, domain: str = "example.com") -> str:
        return self.served.get(f"mta-sts.{domain}".encode(), b"").decode().replace("\r\n", " ").strip()

    async def visit(self, domain: str = "example.com", after: float = 0.0) -> PublishedDomain:
        """Visit the domain when ``after`` seconds have passed."""
        self.clock.advance(after)
        one = self.one(domain)
        async with self.service.exclusive(one):
            await self.watch.visit(one)
        return one


@asynccontextmanager
async def publishing(folder: Path) -> AsyncIterator[PublishWorld]:
    world = PublishWorld(folder)
    try:
        yield world
    finally:
        await world.service.stop()
