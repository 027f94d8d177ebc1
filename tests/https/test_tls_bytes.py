"""Bytes that a policy host sends below TLS, which no HTTP parser sees."""

import asyncio
import contextlib
import ssl
import subprocess
from typing import Any

import pytest

from mtasts_daemon import errors
from mtasts_daemon.https.connector import MAX_RECEIVED
from mtasts_daemon.https.policy_fetcher import HttpsPolicyFetcher
from mtasts_daemon.https.trust_anchors import client_tls
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


_ALERT, _HANDSHAKE = 21, 22
"""Types of TLS records, readable also when encrypted (RFC 5246 section 6.2.1)."""


def _records(sent: bytes) -> list[int]:
    """Return the types of the records in ``sent``."""
    types = []
    while sent:
        types.append(sent[0])
        sent = sent[5 + int.from_bytes(sent[3:5], "big") :]
    return types


@pytest.mark.parametrize("refused", [True, False])
async def test_renegotiation_is_answered_with_an_alert_instead_of_a_handshake(ca: Ca, refused: bool) -> None:
    context = client_tls(ca.pem)
    if not refused:  # what OpenSSL does by default
        context.options &= ~ssl.OP_NO_RENEGOTIATION
    pem = str(ca.issue(HOST))
    arguments = ["s_server", "-accept", "127.0.0.1:0", "-cert", pem, "-key", pem, "-tls1_2", "-naccept", "1"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    server = await asyncio.create_subprocess_exec("openssl", *arguments, **pipes)
    assert server.stdin is not None and server.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = b""
            while not line.startswith(b"ACCEPT "):
                line = await server.stdout.readline()
                assert line, "openssl ended"
            reader, writer = await asyncio.open_connection("127.0.0.1", int(line.rpartition(b":")[2]))
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
                writer.write(outgoing.read())
                incoming.write(await reader.read(16384))
            writer.write(outgoing.read())
            tls.write(b"ready\n")
            writer.write(outgoing.read())
            while (await server.stdout.readline()) != b"ready\n":
                pass
            server.stdin.write(b"R\n")  # sends HelloRequest
            sent = b""
            while not sent:
                incoming.write(await reader.read(16384))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.read(1)
                sent = outgoing.read()
            assert _records(sent) == [_ALERT if refused else _HANDSHAKE]
            writer.transport.abort()
    finally:
        server.kill()
        await server.communicate()
