"""An authoritative name server with RFC 2136 and TSIG, over UDP and TCP, on dnspython's zones."""

import asyncio
import socket
from typing import Any, Self

import dns.exception
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsigkeyring
import dns.zone

__all__ = ["Authority"]


class Authority:
    """A context manager. ``zone`` is served; the first ``late`` queries see it as it was at the start."""

    def __init__(self, zone: str, key_name: str, secret: str) -> None:
        self.origin = dns.name.from_text(zone)
        text = f"{zone}. 60 IN SOA ns.{zone}. host.{zone}. 1 60 60 60 1\n{zone}. 60 IN NS ns.{zone}.\n"
        self.zone = dns.zone.from_text(text, self.origin, relativize=False)
        self.old = dns.zone.from_text(text, self.origin, relativize=False)
        self.late = 0
        self.updates = 0
        self.port = 0
        self._keys = dns.tsigkeyring.from_text({key_name: secret})
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        answer = self.answer

        class Datagrams(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, address: Any) -> None:
                self.transport.sendto(answer(data), address)

        self._transport, _ = await loop.create_datagram_endpoint(
            Datagrams, local_addr=("127.0.0.1", self.port), family=socket.AF_INET
        )
        return self

    async def __aexit__(self, *_exception: object) -> None:
        assert self._server is not None and self._transport is not None
        self._server.close()
        self._transport.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            reply = self.answer(await reader.readexactly(size))
            writer.write(len(reply).to_bytes(2, "big") + reply)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    def answer(self, data: bytes) -> bytes:
        try:
            message = dns.message.from_wire(data, keyring=self._keys)
        except dns.exception.DNSException:
            reply = dns.message.make_response(dns.message.from_wire(data, keyring=False))
            reply.set_rcode(dns.rcode.NOTAUTH)
            return reply.to_wire()
        reply = dns.message.make_response(message)
        if message.opcode() == dns.opcode.UPDATE:
            reply.set_rcode(self._update(message))
        else:
            self._query(message, reply)
        return reply.to_wire()

    def _update(self, message: dns.message.Message) -> dns.rcode.Rcode:
        if not message.had_tsig or message.sections[0][0].name != self.origin:
            return dns.rcode.REFUSED
        self.updates += 1
        for rrset in message.sections[2]:
            if rrset.deleting == dns.rdataclass.ANY:
                if rrset.rdtype == dns.rdatatype.ANY:
                    self.zone.delete_node(rrset.name)
                else:
                    self.zone.delete_rdataset(rrset.name, rrset.rdtype)
            else:
                for item in rrset:
                    self.zone.find_rdataset(rrset.name, rrset.rdtype, create=True).add(item, rrset.ttl)
        return dns.rcode.NOERROR

    def _query(self, message: dns.message.Message, reply: dns.message.Message) -> None:
        question = message.question[0]
        zone = self.zone
        if self.late and question.rdtype != dns.rdatatype.SOA:
            self.late -= 1
            zone = self.old
        alias = zone.get_rrset(question.name, dns.rdatatype.CNAME)
        found = zone.get_rrset(question.name, question.rdtype) or alias
        if found is not None:
            reply.answer.append(found)
            return
        soa = zone.get_rrset(self.origin, dns.rdatatype.SOA)
        assert soa is not None
        reply.authority.append(soa)
        if zone.get_node(question.name) is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
