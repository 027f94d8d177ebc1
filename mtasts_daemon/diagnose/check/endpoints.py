"""TLS handshakes with untrusted HTTPS hosts, to get their certificates even if these are invalid. No HTTP."""

import asyncio
import os
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Container
from dataclasses import replace
from ipaddress import ip_address

from ...https.address_filter import Address, IPNetwork, refusal_reason
from ...https.tls_stream import TlsStream, probe_context, tls_problem
from ...smtp.certificates import LeafCertificate, read_leaf
from ...smtp.chain_verification import ChainVerifier
from ...smtp.probe import ServerTlsEvidence
from .evidence import EndpointEvidence

__all__ = ["EndpointProber"]

_MAX_BYTES = 160 * 1024
_MAX_KNOWN = 5000


class EndpointProber:
    """Handshakes with endpoints, remembered for ``hold`` seconds. ``allowed`` and ``own`` as for policy hosts."""

    def __init__(
        self,
        verifier: ChainVerifier,
        *,
        own: Callable[[], Container[Address]],
        allowed: tuple[IPNetwork, ...] = (),
        total: float = 15.0,
        limit: int = 64,
        hold: float = 300.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = verifier
        self._own, self._allowed = own, allowed
        self._total = total
        self._hold = hold
        self._monotonic = monotonic
        self._context = probe_context("http/1.1")
        self._slots = asyncio.Semaphore(limit)
        self._known: OrderedDict[tuple[str, str, int], tuple[float, EndpointEvidence]] = OrderedDict()

    async def probe(self, host: str, address: str, port: int) -> EndpointEvidence:
        """Return the handshake with ``host`` at ``address``; every failure is part of it."""
        key = host, address, port
        known = self._known.get(key)
        if known is not None and self._monotonic() < known[0]:
            return known[1]
        evidence = EndpointEvidence(host, address, port)
        reason = refusal_reason(address, self._allowed, self._own())
        if reason is not None:
            return replace(evidence, problem="smtp-address-refused", detail=reason)
        async with self._slots:
            evidence = await self._shake_hands(evidence)
        self._known.pop(key, None)
        while len(self._known) >= _MAX_KNOWN:
            self._known.popitem(last=False)
        self._known[key] = self._monotonic() + self._hold, evidence
        return evidence

    async def _shake_hands(self, evidence: EndpointEvidence) -> EndpointEvidence:
        connected = False
        try:
            async with asyncio.timeout(self._total):
                stream = await TlsStream.connect(ip_address(evidence.address), evidence.port, limit=_MAX_BYTES)
                connected = True
                async with stream:
                    session = await stream.start_tls(self._context, evidence.host)
        except ssl.SSLError as error:
            problem, detail = tls_problem(error)
            return replace(evidence, problem=problem, detail=detail)
        except TimeoutError:
            return replace(evidence, problem="smtp-timeout" if connected else "smtp-connect-timeout")
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else None
            detail = os.strerror(number) if number else type(error).__name__
            return replace(evidence, problem=_problem(error, connected), detail=detail)
        leaf = read_leaf(session.chain[0]) if session.chain else LeafCertificate("", readable=False)
        return replace(evidence, tls=ServerTlsEvidence(session, leaf, self._verifier.problem(session.chain)))


def _problem(error: Exception, connected: bool) -> str:
    import errno

    if connected:
        return "smtp-closed"
    if isinstance(error, ConnectionRefusedError):
        return "smtp-connect-refused"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return "smtp-no-route"
    return "smtp-connect-failed"
