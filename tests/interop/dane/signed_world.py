"""The fake Internet with a signed DNS, seen through a validating resolver."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from dns.rdatatype import RdataType

from mtasts_daemon.dns.resolver import DnsResolver
from mtasts_daemon.errors import DnsError
from mtasts_daemon.policy.dane import DaneVerdict, DnsQuestion, DnsResult, discover
from mtasts_daemon.policy.dns_answer import DnsAnswer, RRType
from mtasts_daemon.policy.next_hop import NextHop
from mtasts_daemon.ports import Pending
from tests.fakes.ca import Ca, Flaw
from tests.fakes.smtp import MailSink
from tests.interop.dane.nameservers import RESOLVER, NameServers
from tests.interop.network import Network
from tests.interop.world import World

__all__ = ["SignedWorld"]

_DIGESTS: Final = {1: hashlib.sha256, 2: hashlib.sha512}


class _ChainCa(Ca):
    """Certificates include the authority's, which a client needs for DANE-TA (RFC 7672 section 3.1.2)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.issued: dict[str, x509.Certificate] = {}

    def issue(self, name: str, *more_names: str, flaw: Flaw = Flaw.GOOD, expires: datetime | None = None) -> Path:
        pem = super().issue(name, *more_names, flaw=flaw, expires=expires)
        pem.write_bytes(pem.read_bytes() + self.pem.read_bytes())
        self.issued[name] = x509.load_pem_x509_certificate(pem.read_bytes())
        return pem


class SignedWorld(World):
    """A World with the DNS of ``servers``; nothing below their ``unsigned`` names is signed.

    ``patterns`` are the MX patterns of each domain's policy.
    """

    def __init__(self, network: Network, folder: Path, servers: NameServers) -> None:
        super().__init__(network, folder, None)
        self.ca: _ChainCa = _ChainCa(folder)
        self._servers = servers
        self._records: dict[str, list[str]] = {}
        self._held = False
        self.patterns: dict[str, tuple[str, ...]] = {}
        self._resolver = DnsResolver([(RESOLVER, 53)])

    def close(self) -> None:
        self.wait(self._resolver.close())
        super().close()

    def records(self, name: str, *entries: str) -> None:
        self._records[name] = list(entries)
        self._serve()

    def publish(self, domain: str, mode: str, patterns: Iterable[str], policy_id: str = "1") -> None:
        self.patterns[domain] = tuple(patterns)
        super().publish(domain, mode, self.patterns[domain], policy_id)

    def spoil(self, name: str, rrtype: RRType) -> None:
        """Make the records of this name and type bogus."""
        self._servers.tree.spoiled.add((name, RdataType(rrtype)))
        self._serve()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Sign and serve all changes at the end of the block, which is much faster than one by one."""
        self._held = True
        yield
        self._held = False
        self._serve()

    def _serve(self) -> None:
        if not self._held:
            self._servers.serve(self._records)

    def tlsa(self, exchanger: MailSink, fields: str = "3 1 1", base: str | None = None, *, wrong: bool = False) -> None:
        """Publish a TLSA record with these fields for the exchanger, at its own name or at ``base``."""
        usage, selector, matching_type = map(int, fields.split())
        certificate = x509.load_pem_x509_certificate(self.ca.pem.read_bytes())
        if usage in (1, 3):
            certificate = self.ca.issued[exchanger.name]
        data = certificate.public_bytes(Encoding.DER)
        if selector == 1:
            data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if matching_type in _DIGESTS:
            data = _DIGESTS[matching_type](data).digest()
        if wrong:
            data = bytes(len(data))
        self.records(f"_25._tcp.{base or exchanger.name}", f"TLSA {fields} {data.hex()}")

    def walk(self, domain: str) -> DaneVerdict:
        """Return the daemon's DANE verdict for the domain."""
        return self.wait(self._walk(NextHop(domain)))

    async def _walk(self, next_hop: NextHop) -> DaneVerdict:
        known: dict[DnsQuestion, DnsResult] = {}
        while questions := discover(next_hop, known).questions:
            known.update(zip(questions, await asyncio.gather(*map(self.ask, questions)), strict=True))
        return discover(next_hop, known).verdict

    async def ask(self, question: DnsQuestion) -> DnsResult:
        """Return the resolver's answer or error."""
        ask: dict[RRType, Callable[[str], Pending[DnsAnswer[Any]]]] = {
            RRType.NS: self._resolver.ns,
            RRType.MX: self._resolver.mx,
            RRType.A: self._resolver.a,
            RRType.AAAA: self._resolver.aaaa,
            RRType.CNAME: self._resolver.cname,
            RRType.TLSA: self._resolver.tlsa,
        }
        try:
            return await ask[question.rrtype](question.name)
        except DnsError as error:
            return error
