"""Write DNS records by RFC 2136 with TSIG (RFC 8945), and wait until all authoritative servers have them."""

import asyncio
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.secrets import read_secret
from ..config.sections.publish import DnsUpdateSettings
from ..errors import ConfigError, DnsError, PublishError
from ..ports import Resolver
from .dns_lookup import host_addresses
from .dns_records import RECORD_TTL, DnsRecord, RecordType, record_data

if TYPE_CHECKING:  # dnspython is imported when the first record is written
    import dns.message

__all__ = ["DnsUpdater", "ServerState", "UpdateResult"]

_ASK_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_MAX_SERVERS = 16

# What a record replaces at its name. All names are for one purpose only: RFC 8461 sections 3.1 and 3.2, RFC 8460 3.
_REPLACES: Mapping[RecordType, tuple[str, ...]] = {
    RecordType.CNAME: ("CNAME", "A", "AAAA", "TXT"),
    RecordType.A: ("CNAME", "A", "AAAA"),
    RecordType.AAAA: ("CNAME", "A", "AAAA"),
    RecordType.TXT: ("CNAME", "TXT"),
}


@dataclass(frozen=True, slots=True)
class ServerState:
    """The last state of one authoritative server; ``problem`` is empty if it has the records."""

    name: str
    address: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """The zones that were written, and the authoritative servers."""

    zones: tuple[str, ...]
    servers: tuple[ServerState, ...]

    @property
    def agreed(self) -> bool:
        """True if every server has the records, and there is one."""
        return bool(self.servers) and not any(server.problem for server in self.servers)


class DnsUpdater:
    """Writes to one primary server. Raises ``PublishError`` with a sentence; a network error is one too."""

    def __init__(
        self,
        settings: DnsUpdateSettings,
        environ: Mapping[str, str],
        resolver: Callable[[], Resolver],
        port: int = 53,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._resolver = resolver
        self._port = port
        """Port of the authoritative servers; another one in tests."""

    async def write(self, records: Sequence[DnsRecord], *, remove: Iterable[DnsRecord] = ()) -> UpdateResult:
        """Add the records and remove others, zone by zone, then wait until the authoritative servers agree."""
        add, gone = list(records), list(remove)
        zones: dict[str, tuple[list[DnsRecord], list[DnsRecord]]] = {}
        for record in add:
            zones.setdefault(await self._zone_of(record.name), ([], []))[0].append(record)
        for record in gone:
            zones.setdefault(await self._zone_of(record.name), ([], []))[1].append(record)
        servers: list[ServerState] = []
        for zone, (added, removed) in zones.items():
            await self._update(zone, added, removed)
        for zone, (added, removed) in zones.items():
            servers += await self._wait(zone, added, removed)
        return UpdateResult(tuple(zones), tuple(servers))

    # -- writing -----------------------------------------------------------------------------------------------

    async def _zone_of(self, name: str) -> str:
        """Return the zone of a name, by the SOA records of the primary server."""
        import dns.message
        import dns.rdatatype

        server, owner = self._settings.server, name
        while owner:
            reply = await self._ask(dns.message.make_query(owner, "SOA"), server.address, server.port)
            for section in (reply.answer, reply.authority):
                for rrset in section:
                    zone = rrset.name.to_text().lower()
                    if rrset.rdtype == dns.rdatatype.SOA and f".{name}.".endswith(f".{zone}"):
                        return zone.rstrip(".")
            # A CNAME out of the zone is answered without the zone's SOA record.
            owner = owner.partition(".")[2]
        raise PublishError(f"{server} is not authoritative for {name}")

    async def _update(self, zone: str, added: Sequence[DnsRecord], removed: Sequence[DnsRecord]) -> None:
        import dns.exception
        import dns.name
        import dns.rcode
        import dns.tsigkeyring
        import dns.update

        settings = self._settings
        try:
            secret = read_secret(settings.key_file, self._environ).decode("ascii").strip()
            b64decode(secret, validate=True)
            keys = dns.tsigkeyring.from_text({settings.key_name: secret})
            update = dns.update.UpdateMessage(
                zone, keyring=keys, keyname=dns.name.from_text(settings.key_name), keyalgorithm=settings.key_algorithm
            )
        except ConfigError as error:
            raise PublishError(error.sentence) from None
        except (ValueError, dns.exception.DNSException) as error:
            raise PublishError(f"the TSIG key cannot be used: {type(error).__name__}") from None
        present: set[str] = set()
        for record in added:
            if record.name not in present:
                present.add(record.name)
                for kind in _REPLACES[record.kind]:
                    update.delete(f"{record.name}.", kind)
            update.add(f"{record.name}.", RECORD_TTL, record.kind.value, record_data(record))
        for record in removed:
            update.delete(f"{record.name}.", record.kind.value)
        reply = await self._ask(update, settings.server.address, settings.server.port)
        if reply.rcode() != dns.rcode.NOERROR:
            hint = {"NOTAUTH": "the server knows neither this key nor the zone", "REFUSED": "the key may not write"}
            code = dns.rcode.to_text(reply.rcode())
            raise PublishError(f"{settings.server} refuses to change {zone}: {hint.get(code, code)}")

    # -- waiting -----------------------------------------------------------------------------------------------

    async def _wait(self, zone: str, added: Sequence[DnsRecord], removed: Sequence[DnsRecord]) -> list[ServerState]:
        """Ask the zone's authoritative servers until all have the records, or the time is up."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.wait
        servers = await self._authoritative(zone)
        while True:
            servers = list(await asyncio.gather(*(self._state(server, added, removed) for server in servers)))
            if not any(server.problem for server in servers) or loop.time() >= until:
                return servers
            await asyncio.sleep(min(_AGAIN_SECONDS, max(until - loop.time(), 0.0)))

    async def _authoritative(self, zone: str) -> list[ServerState]:
        resolver = self._resolver()
        try:
            names = sorted(set((await resolver.ns(zone)).records))[:_MAX_SERVERS]
        except DnsError as error:
            return [ServerState(zone, "", f"its name servers cannot be looked up: {error.sentence}")]
        servers: list[ServerState] = []
        for name in names:
            try:
                addresses = sorted(await host_addresses(resolver, name))[:_MAX_SERVERS]
            except DnsError as error:
                servers.append(ServerState(name, "", error.sentence))
                continue
            servers += [ServerState(name, address) for address in addresses]
        return servers or [ServerState(zone, "", "it has no name servers")]

    async def _state(
        self, server: ServerState, added: Sequence[DnsRecord], removed: Sequence[DnsRecord]
    ) -> ServerState:
        if not server.address:
            return server
        try:
            for record in added:
                if await self._values(record, server.address) != {one.value for one in added if _same_set(one, record)}:
                    return ServerState(server.name, server.address, f"does not have {record.name} {record.kind.value}")
            for record in removed:
                if await self._values(record, server.address):
                    return ServerState(server.name, server.address, f"still has {record.name} {record.kind.value}")
        except PublishError as error:
            return ServerState(server.name, server.address, error.detail)
        return ServerState(server.name, server.address)

    async def _values(self, record: DnsRecord, address: str) -> set[str]:
        """Return the values of the record's name and type at a server."""
        import dns.flags
        import dns.message
        import dns.rdatatype

        query = dns.message.make_query(record.name, record.kind.value)
        query.flags &= ~dns.flags.RD
        reply = await self._ask(query, address, self._port)
        kind = dns.rdatatype.from_text(record.kind.value)
        found: set[str] = set()
        for rrset in reply.answer:
            if rrset.rdtype != kind or rrset.name.to_text().lower() != f"{record.name}.":
                continue
            for item in rrset:
                if record.kind is RecordType.TXT:
                    found.add(b"".join(item.strings).decode("latin-1"))
                else:
                    found.add(item.to_text().rstrip(".").lower())
        return found

    async def _ask(self, message: "dns.message.Message", address: str, port: int) -> "dns.message.Message":
        """Send a message and return the reply; an update goes over TCP. Raises ``PublishError``."""
        import dns.asyncquery
        import dns.exception
        import dns.opcode
        import dns.tsig

        try:
            if message.opcode() == dns.opcode.UPDATE:
                return await dns.asyncquery.tcp(message, address, timeout=_ASK_SECONDS, port=port)
            reply, _ = await dns.asyncquery.udp_with_fallback(message, address, timeout=_ASK_SECONDS, port=port)
            return reply
        except dns.exception.Timeout:
            raise PublishError(f"{address} does not answer") from None
        except dns.tsig.PeerBadTime:
            raise PublishError(f"{address} rejects the TSIG signature: the clocks differ") from None
        except (dns.tsig.PeerError, dns.tsig.BadSignature):
            raise PublishError(f"{address} rejects the TSIG key: compare name, algorithm and key") from None
        except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise PublishError(f"{address}: {reason or type(error).__name__}") from None


def _same_set(one: DnsRecord, other: DnsRecord) -> bool:
    return (one.name, one.kind) == (other.name, other.kind)
