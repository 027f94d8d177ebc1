"""A domain as the check sees it: a DNS server, a policy host and mail exchangers on loopback, and a real checker.

async with CheckWorld(ca, MxBehaviour("mx.example.com", flaw=Flaw.EXPIRED)) as world:
    result = await world.check()

Until the world is entered, its records may be changed. Addresses of 127.9.0.0/16 have no servers.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from types import TracebackType
from typing import Any, Self

from mtasts_daemon.config.values import HostPort
from mtasts_daemon.diagnose.check.endpoints import EndpointProber
from mtasts_daemon.diagnose.check.evidence import CheckEvidence
from mtasts_daemon.diagnose.check.gather import EvidenceGatherer
from mtasts_daemon.diagnose.check.result import CheckResult, judge
from mtasts_daemon.dns.resolver import DnsResolver
from mtasts_daemon.https.policy_fetcher import HttpsPolicyFetcher
from mtasts_daemon.policy.dns_answer import TlsaRecord
from mtasts_daemon.smtp.chain_verification import ChainVerifier
from mtasts_daemon.smtp.probe import SmtpProber
from tests.fakes.ca import Ca
from tests.fakes.clock import FakeClock
from tests.fakes.dns import FakeDns
from tests.fakes.https import Behaviour, PolicyHost
from tests.fakes.probed_smtp import MxBehaviour, ProbedSmtp

__all__ = ["DOMAIN", "HOST", "NOBODY", "CheckWorld"]

DOMAIN = "example.com"
HOST = "mx.example.com"
NOBODY = "127.9.9.9"
"""An address that refuses connections."""
_ALLOWED = (ip_network("127.0.0.0/8"), ip_network("fe80::/10"))


class CheckWorld:
    """An async context manager. By default all is well: an enforced policy, one MX host, TLS reports wanted.

    ``dns``, ``smtp`` and ``https`` settings are passed to the resolver, the prober and the fetcher. Sessions and
    handshakes are remembered by ``monotonic``.
    """

    def __init__(self, ca: Ca, *servers: MxBehaviour, policy: Behaviour | None = None, signed: bool = False) -> None:
        self.ca = ca
        self.clock = FakeClock()
        self.dns = FakeDns(authenticated=signed)
        behaviours = {f"127.0.0.{at}": server for at, server in enumerate(servers or (MxBehaviour(HOST),), 1)}
        self.smtp = ProbedSmtp(ca, behaviours)
        default = f"version: STSv1\nmode: enforce\nmx: {HOST}\nmax_age: 604800\n".encode()
        self.https = PolicyHost(ca, {DOMAIN: policy or Behaviour(body=default)})
        self.validates: bool | None = True
        self.reference_domains: Sequence[str] = ()
        self.dns_settings: dict[str, Any] = {"timeout": 10.0}
        self.smtp_settings: dict[str, Any] = {"total": 20.0}
        self.https_settings: dict[str, Any] = {"total": 20.0}
        self.monotonic: Callable[[], float] = time.monotonic
        self.dns_answers, self.port25, self.handshakes, self.behind_dead_proxy = True, True, True, False
        self._zone: dict[tuple[str, str], list[str]] = {}
        self.txt("v=STSv1; id=20240101T000000;")
        self.put(f"mta-sts.{DOMAIN}", "A", "127.0.0.1")
        self.put(f"_smtp._tls.{DOMAIN}", "TXT", '"v=TLSRPTv1; rua=mailto:r@example.com"')
        self.mx(*dict.fromkeys(server.name for server in behaviours.values()))
        for name in dict.fromkeys(server.name for server in behaviours.values()):
            self.addresses(name, *(address for address, server in behaviours.items() if server.name == name))

    # -- the zone --------------------------------------------------------------------------------------------

    def put(self, name: str, rrtype: str, *rdata: str) -> None:
        """Set the records of a name and type; without any, the type has none."""
        self._zone[name, rrtype] = [f"{rrtype} {text}" for text in rdata]

    def misbehave(self, name: str, rrtype: str, behaviour: str) -> None:
        """Let the DNS server treat this question as in ``tests.fakes.dns_zone``."""
        self._zone[name, rrtype] = [f"! {rrtype} {behaviour}"]

    def mx(self, *hosts: str) -> None:
        self.put(DOMAIN, "MX", *(f"{10 * at} {host}." for at, host in enumerate(hosts, 1)))

    def addresses(self, host: str, *addresses: str) -> None:
        self.put(host, "A", *(text for text in addresses if ":" not in text))
        self.put(host, "AAAA", *(text for text in addresses if ":" in text))

    def tlsa(self, host: str, *records: TlsaRecord) -> None:
        texts = (f"{one.usage} {one.selector} {one.matching_type} {one.data.hex()}" for one in records)
        self.put(f"_25._tcp.{host}", "TLSA", *texts)

    def txt(self, *records: str) -> None:
        self.put(f"_mta-sts.{DOMAIN}", "TXT", *(f'"{text}"' for text in records))

    def reports(self, *records: str) -> None:
        self.put(f"_smtp._tls.{DOMAIN}", "TXT", *(f'"{text}"' for text in records))

    # -- running ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        zone: dict[str, list[str]] = {}
        for (name, _), entries in self._zone.items():
            zone.setdefault(name, []).extend(entries)
        self.dns.load(zone)
        await self.dns.start()
        if not self.dns_answers:
            await self.dns.close()
        await self.smtp.__aenter__()
        await self.https.start()
        verifier = ChainVerifier(self.ca.pem)
        own: Any = frozenset
        port, proxy = self.https.port, None
        if self.behind_dead_proxy:
            proxy = HostPort(NOBODY, port)
        self.resolver = DnsResolver([self.dns.address], **self.dns_settings)
        self.prober = SmtpProber(
            verifier,
            own=own,
            allowed=_ALLOWED,
            port=self.smtp.port,
            monotonic=self.monotonic,
            **self.smtp_settings,
        )
        self.fetcher = HttpsPolicyFetcher(
            self.resolver,
            port=port,
            ca_file=self.ca.pem,
            allowed=_ALLOWED,
            own=own,
            proxy=proxy,
            **self.https_settings,
        )
        endpoints = EndpointProber(verifier, own=own, allowed=_ALLOWED, monotonic=self.monotonic)

        async def validates() -> bool | None:
            return self.validates

        self.gatherer = EvidenceGatherer(
            self.resolver,
            self.fetcher,
            self.clock,
            smtp=self.prober if self.port25 else None,
            endpoint=endpoints.probe if self.handshakes and proxy is None else None,
            validates=validates,
            https_port=port,
            reference_domains=self.reference_domains,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.prober.close()
        await self.fetcher.close()
        await self.resolver.close()
        await self.smtp.__aexit__()
        await self.https.stop()
        await self.dns.close()

    async def evidence(self) -> CheckEvidence:
        # Certificates are issued by the real clock.
        return replace(await self.gatherer.gather(DOMAIN), at=time.time())

    async def check(self, *, mine: bool = False) -> CheckResult:
        return judge(await self.evidence(), mine=mine)
