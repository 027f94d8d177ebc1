"""A private DNS, signed from the root down: signed master files and the trust anchor.

The root and ``example.`` are signed; the names given as ``unsigned`` are zones whose delegation proves that they are
not. Each signed zone has two keys, as large zones do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import dns.dnssec
import dns.name
import dns.rdataset
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from dns.dnssec import PrivateKey
from dns.dnssectypes import Algorithm, DSDigest
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.DNSKEY import DNSKEY
from dns.rdtypes.ANY.RRSIG import RRSIG

__all__ = ["ROOT_SERVER", "SignedTree"]

ROOT_SERVER: Final = "a.root."
_KSK, _ZSK = 257, 256
_LIFETIME = 7 * 86400


@dataclass(frozen=True, slots=True)
class _Key:
    private: ec.EllipticCurvePrivateKey
    public: DNSKEY

    @classmethod
    def make(cls, flags: int) -> "_Key":
        private = ec.generate_private_key(ec.SECP256R1())
        return cls(private, dns.dnssec.make_dnskey(private.public_key(), Algorithm.ECDSAP256SHA256, flags))


@dataclass(frozen=True, slots=True)
class _Zone:
    origin: dns.name.Name
    keys: tuple[_Key, ...] = ()
    """Key-signing key and zone-signing key; none for an unsigned zone."""

    @property
    def ds(self) -> str:
        return dns.dnssec.make_ds(self.origin, self.keys[0].public, DSDigest.SHA256).to_text()


@dataclass
class SignedTree:
    """``server`` is the address of the one name server of all zones; ``unsigned`` are names below ``example.``."""

    server: str
    unsigned: Sequence[str] = ()
    spoiled: set[tuple[str, RdataType]] = field(default_factory=set)
    """RRsets with wrong signatures, by name without the final dot."""

    def __post_init__(self) -> None:
        self._root = _Zone(dns.name.root, (_Key.make(_KSK), _Key.make(_ZSK)))
        self._example = _Zone(dns.name.from_text("example."), (_Key.make(_KSK), _Key.make(_ZSK)))
        self._islands = [_Zone(dns.name.from_text(name)) for name in self.unsigned]
        self._serial = 0

    @property
    def trust_anchor(self) -> str:
        """Return the root's trust anchor as resolver configuration."""
        return f". IN DS {self._root.ds}\n"

    @property
    def origins(self) -> list[str]:
        return [str(zone.origin) for zone in self._zones()]

    def master_files(self, records: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Return each zone's master file by origin, for records by name ("MX 10 mx.a.example."), with a TTL of 1 s."""
        self._serial += 1
        lines: dict[dns.name.Name, list[str]] = {zone.origin: self._apex() for zone in self._zones()}
        lines[dns.name.root] += [f"{ROOT_SERVER} 1 IN A {self.server}", f"example. 1 IN NS {ROOT_SERVER}"]
        lines[dns.name.root].append(f"example. 1 IN DS {self._example.ds}")
        lines[self._example.origin] += [f"{zone.origin} 1 IN NS {ROOT_SERVER}" for zone in self._islands]
        for name, entries in records.items():
            origin = self._origin(dns.name.from_text(name))
            lines[origin] += [f"{name}. 1 IN {entry}" for entry in entries]
        return {str(zone.origin): self._signed(zone, lines[zone.origin]) for zone in self._zones()}

    def _zones(self) -> Iterator[_Zone]:
        yield from (self._root, self._example, *self._islands)

    def _origin(self, name: dns.name.Name) -> dns.name.Name:
        return max((zone.origin for zone in self._zones() if name.is_subdomain(zone.origin)), key=len)

    def _apex(self) -> list[str]:
        return [f"@ 1 IN SOA {ROOT_SERVER} nobody.invalid. {self._serial} 3600 600 86400 1", f"@ 1 IN NS {ROOT_SERVER}"]

    def _signed(self, zone: _Zone, lines: Sequence[str]) -> str:
        loaded = dns.zone.from_text("\n".join(lines), zone.origin, relativize=False)
        if zone.keys:
            keys: list[tuple[PrivateKey, DNSKEY]] = [(key.private, key.public) for key in zone.keys]
            dns.dnssec.sign_zone(loaded, keys=keys, lifetime=_LIFETIME)
        for name, rrtype in self.spoiled:
            if self._origin(dns.name.from_text(name)) == zone.origin:
                _spoil(loaded, name, rrtype)
        return loaded.to_text(relativize=False)


def _spoil(zone: dns.zone.Zone, name: str, rrtype: RdataType) -> None:
    signatures = zone.find_rdataset(dns.name.from_text(name), RdataType.RRSIG, rrtype)
    spoiled = [found.replace(signature=bytes(len(found.signature))) for found in signatures if isinstance(found, RRSIG)]
    zone.replace_rdataset(dns.name.from_text(name), dns.rdataset.from_rdata(signatures.ttl, *spoiled))
