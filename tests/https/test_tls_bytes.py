"""Bytes that a policy host sends below TLS, which no HTTP parser sees."""

import asyncio
import contextlib
import ssl

import pytest

from mtasts_daemon import errors
from mtasts_daemon.https.connector import MAX_RECEIVED
from mtasts_daemon.https.policy_fetcher import HttpsPolicyFetcher
from mtasts_daemon.policy.dns_answer import RRType
from tests.fakes.ca import Ca
from tests.fakes.resolver import FakeResolver
from tests.https.https_world import DOMAIN, HOST, LOOPBACK

_TICKETS = 12_000
"""More than 2 MiB of session tickets (RFC 8446 section 4.6.1), all sent at the end of the handshake."""


async def test_session_tickets_count_against_the_limit_of_a_fetch(ca: Ca) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = _TICKETS
    context.load_cert_chain(ca.issue(HOST))
    sizes: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        with contextlib.suppress(OSError):
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
                writer.write(outgoing.read())
                incoming.write(await reader.read(16384))
            flood = outgoing.read()
            sizes.append(len(flood))
            writer.write(flood)
            await writer.drain()
            await reader.read()
        writer.transport.abort()

    resolver = FakeResolver()
    resolver.put(HOST, RRType.A, ["127.0.0.1"])
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        fetcher = HttpsPolicyFetcher(resolver, port=port, ca_file=ca.pem, allowed=LOOPBACK, own=frozenset)
        try:
            with pytest.raises(errors.PolicyTooLarge, match=f"more than {MAX_RECEIVED} bytes came"):
                await fetcher.fetch(DOMAIN, live=False)
        finally:
            await fetcher.close()
    assert sizes[0] > 2 * MAX_RECEIVED
