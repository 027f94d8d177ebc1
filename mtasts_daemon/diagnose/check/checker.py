"""A checker with everything it needs, made from the configuration. Runs on the standard asyncio event loop."""

import asyncio
import time
from collections.abc import Callable

from ...clock import SystemClock
from ...config import Config
from ...dns.health import validates
from ...dns.resolver import DnsResolver
from ...errors import ConfigError
from ...https.local_addresses import LocalAddresses
from ...https.policy_fetcher import HttpsPolicyFetcher
from ...smtp.chain_verification import ChainVerifier
from ...smtp.probe import SmtpProber
from .endpoints import EndpointProber
from .evidence import CheckEvidence
from .gather import CheckStep, EvidenceGatherer
from .result import CheckResult, judge

__all__ = ["DomainChecker"]

_VALIDATION_AGE = 600.0
_CHECK_WITHIN = 300.0


def _fetcher(config: Config, resolver: DnsResolver, own: LocalAddresses, port: int) -> HttpsPolicyFetcher:
    https = config.https
    return HttpsPolicyFetcher(
        resolver,
        ca_file=https.ca_file,
        allowed=https.allow_addresses,
        own=own,
        total=https.timeout,
        limit=https.max_fetches,
        per_network=https.max_fetches_per_network,
        port=port,
        proxy=https.proxy,
    )


class DomainChecker:
    """Checks domains. Make it on the event loop that it is used on. Raises ``ConfigError`` without CA certificates.

    ``port25`` False opens no SMTP session. ``hold`` and ``hold_failed`` say how long a session is remembered, in
    seconds. The ports are for tests.
    """

    def __init__(
        self,
        config: Config,
        *,
        port25: bool = True,
        hold: float = 3600.0,
        hold_failed: float = 300.0,
        limit: int = 64,
        per_address: int | None = None,
        smtp_port: int = 25,
        https_port: int = 443,
    ) -> None:
        self._config = config
        dns, https = config.dns, config.https
        verifier = ChainVerifier(https.ca_file)
        if not verifier.has_authorities:
            # Every certificate would be refused, and the domains blamed.
            raise ConfigError("there are no CA certificates: install ca-certificates, or set https.ca_file")
        own = LocalAddresses()
        allowed = https.allow_addresses
        servers = [(server.address, server.port) for server in dns.resolvers] or None
        self.resolver = DnsResolver(servers, timeout=dns.timeout, trust_ad=dns.trust_ad)
        self._fetcher = _fetcher(config, self.resolver, own, https_port)
        self.smtp = SmtpProber(
            verifier,
            own=own,
            allowed=allowed,
            port=smtp_port,
            limit=limit,
            hold=hold,
            hold_failed=hold_failed,
            per_address=per_address,
        )
        endpoints = EndpointProber(verifier, own=own, allowed=allowed, limit=limit)
        self._validated: tuple[float, bool | None] = (float("-inf"), None)
        self._asking: asyncio.Task[bool | None] | None = None
        self._gatherer = EvidenceGatherer(
            self.resolver,
            self._fetcher,
            SystemClock(),
            smtp=self.smtp if port25 else None,
            endpoint=endpoints.probe if https.proxy is None else None,
            validates=self.validates,
            https_port=https_port,
        )

    async def check(
        self, domain: str, *, mine: bool = False, on_step: Callable[[CheckStep], None] = lambda _step: None
    ) -> CheckResult:
        """Check a domain, given in A-labels. Raises ``TimeoutError`` if it takes more than five minutes."""
        async with asyncio.timeout(_CHECK_WITHIN):
            evidence = await self.gather(domain, on_step)
        return judge(evidence, mine=mine)

    async def gather(self, domain: str, on_step: Callable[[CheckStep], None]) -> CheckEvidence:
        """Return the evidence of a check."""
        return await self._gatherer.gather(domain, on_step)

    async def reachable_reference(self) -> str | None:
        """Return a large domain whose MX host can be connected to, or None: port 25 is blocked here."""
        return await self._gatherer.reachable_reference()

    async def validates(self) -> bool | None:
        """Return whether the resolver validates DNSSEC, None if unknown; asked once in ten minutes."""
        at, known = self._validated
        if known is not None and time.monotonic() - at < _VALIDATION_AGE:
            return known
        if self._asking is None or self._asking.done():
            dns = self._config.dns
            self._asking = asyncio.get_running_loop().create_task(
                validates(self.resolver, dns.dnssec_probe, dns.bogus_probe)
            )
        found = await asyncio.shield(self._asking)
        self._validated = time.monotonic(), found
        return found

    async def close(self) -> None:
        """Close all sockets; checks under way fail."""
        await self.smtp.close()
        await self._fetcher.close()
        await self.resolver.close()
