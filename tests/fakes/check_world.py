"""A domain as the check sees it, on loopback: DNS in memory, a policy host, and mail exchangers."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_network
from types import TracebackType
from typing import Any, Self

from mtasts_daemon.diagnose.check.endpoints import EndpointProber
from mtasts_daemon.diagnose.check.evidence import CheckEvidence
from mtasts_daemon.diagnose.check.gather import EvidenceGatherer
from mtasts_daemon.diagnose.check.result import CheckResult, judge
from mtasts_daemon.https.policy_fetcher import HttpsPolicyFetcher
from mtasts_daemon.policy.dns_answer import MxRecord, RRType, TlsaRecord
from mtasts_daemon.smtp.chain_verification import ChainVerifier
from mtasts_daemon.smtp.probe import SmtpProber
from tests.fakes.ca import Ca
from tests.fakes.clock import FakeClock
from tests.fakes.https import Behaviour, PolicyHost
from tests.fakes.probed_smtp import MxBehaviour, ProbedSmtp
from tests.fakes.resolver import FakeResolver

__all__ = ["DOMAIN", "HOST", "CheckWorld"]

DOMAIN = "example.com"
HOST = "mx.example.com"
LOOPBACK = (ip_network("127.0.0.0/8"),)


class CheckWorld:
    """An async context manager. By default all is well: an enforced policy, one MX host, TLS reports wanted."""

    def __init__(self, ca: Ca, *servers: MxBehaviour, policy: Behaviour | None = None, signed: bool = False) -> None:
        self.ca = ca
        self.signed = signed
        self.clock = FakeClock()
        self.resolver = FakeResolver()
        behaviours = {f"127.0.0.{at}": server for at, server in enumerate(servers or (MxBehaviour(HOST),), 1)}
        self.smtp = ProbedSmtp(ca, behaviours)
        default = f"version: STSv1\nmode: enforce\nmx: {HOST}\nmax_age: 604800\n".encode()
        self.https = PolicyHost(ca, {DOMAIN: policy or Behaviour(body=default)})
        self.validates: bool | None = True
        self.reference_domains: Sequence[str] = ()
        self._stack: list[Any] = []
        put = self.resolver.put
        put(f"_mta-sts.{DOMAIN}", RRType.TXT, [b"v=STSv1; id=20240101T000000;"])
        put(f"mta-sts.{DOMAIN}", RRType.A, ["127.0.0.1"])
        put(f"_smtp._tls.{DOMAIN}", RRType.TXT, [b"v=TLSRPTv1; rua=mailto:r@example.com"])
        self.mx(*dict.fromkeys(server.name for server in behaviours.values()))
        for name in dict.fromkeys(server.name for server in behaviours.values()):
            self.addresses(name, *(address for address, server in behaviours.items() if server.name == name))

    def mx(self, *hosts: str) -> None:
        records = [MxRecord(10 * at, host) for at, host in enumerate(hosts, 1)]
        self.resolver.put(DOMAIN, RRType.MX, records, authenticated=self.signed)

    def addresses(self, host: str, *addresses: str) -> None:
        self.resolver.put(host, RRType.A, addresses, authenticated=self.signed)
        self.resolver.put(host, RRType.AAAA, [], authenticated=self.signed)

    def tlsa(self, host: str, *records: TlsaRecord) -> None:
        self.resolver.put(f"_25._tcp.{host}", RRType.TLSA, records, authenticated=self.signed)

    def txt(self, *records: bytes) -> None:
        self.resolver.put(f"_mta-sts.{DOMAIN}", RRType.TXT, records)

    async def __aenter__(self) -> Self:
        await self.smtp.__aenter__()
        await self.https.start()
        verifier = ChainVerifier(self.ca.pem)
        own: Any = frozenset
        self.prober = SmtpProber(verifier, own=own, allowed=LOOPBACK, port=self.smtp.port, total=3.0, connect=2.0)
        self.fetcher = HttpsPolicyFetcher(
            self.resolver, port=self.https.port, ca_file=self.ca.pem, allowed=LOOPBACK, own=own, total=3.0
        )
        endpoints = EndpointProber(verifier, own=own, allowed=LOOPBACK, total=3.0)

        async def validates() -> bool | None:
            return self.validates

        self.gatherer = EvidenceGatherer(
            self.resolver,
            self.fetcher,
            self.clock,
            smtp=self.prober,
            endpoint=endpoints.probe,
            validates=validates,
            https_port=self.https.port,
            reference_domains=self.reference_domains,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.prober.close()
        await self.fetcher.close()
        await self.smtp.__aexit__()
        await self.https.stop()
        await asyncio.sleep(0)

    async def evidence(self) -> CheckEvidence:
        # Certificates are issued by the real clock.
        import time
        from dataclasses import replace

        return replace(await self.gatherer.gather(DOMAIN), at=time.time())

    async def check(self, *, mine: bool = False) -> CheckResult:
        return judge(await self.evidence(), mine=mine)
