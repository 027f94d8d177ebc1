"""Accepting connections, and the way from the plain socket to a transport."""

import asyncio
import errno
import socket

import pytest

from mtasts_daemon.public import acceptor as acceptor_module
from mtasts_daemon.public.acceptor import PublicAcceptor
from mtasts_daemon.public.connection import PublicConnection
from mtasts_daemon.public.counters import PublicCounters
from mtasts_daemon.public.site import PublicSite
from tests.event_loop import until
from tests.public.serving import BODY, Client, serving

GET = b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.example.com\r\n"
LARGE = b"x" * 1_000_000


class Exhausted(socket.socket):
    """Has no file descriptor left for the first connection."""

    failures = 1

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_acceptor_without_file_descriptors_pauses_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor_module, "_PAUSE_SECONDS", 0.05)
    site = PublicSite(PublicCounters())
    site.change_policies({b"mta-sts.example.com": BODY})
    sock = Exhausted()
    sock.bind(("127.0.0.1", 0))
    acceptor = PublicAcceptor(sock, site, None, 8)
    client = Client(*await asyncio.open_connection(*sock.getsockname()))
    assert (await client.ask(GET + b"Connection: close\r\n\r\n")).endswith(BODY)
    client.writer.close()
    acceptor.close()
    await site.close()
    assert [record.getMessage() for record in caplog.records].count("public-accept-failed") == 1


@pytest.mark.parametrize("fields", [b"", b"Connection: close\r\n"])
async def test_response_larger_than_the_socket_buffer_arrives_whole(fields: bytes) -> None:
    async with serving({b"mta-sts.example.com": LARGE}) as served:
        served.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # connections inherit it
        client = await served.connect()
        assert (await client.ask(GET + fields + b"\r\n")).endswith(LARGE)
        if fields:
            assert await client.is_closed()
        else:
            assert (await client.ask(GET + b"\r\n")).endswith(LARGE)


async def test_connection_with_a_full_socket_buffer_is_handed_to_a_transport() -> None:
    site = PublicSite(PublicCounters())
    site.change_policies({b"mta-sts.example.com": LARGE})
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = PublicConnection(site, asyncio.get_running_loop())
    connection.start(ours, "")
    client = Client(*await asyncio.open_connection(sock=theirs))
    assert connection.handover is None
    for _ in range(2):
        assert (await client.ask(GET + b"\r\n")).endswith(LARGE)
        assert connection.handover is not None
    client.writer.close()
    await site.close()


@pytest.mark.parametrize("sent", [b"", GET, GET + b"\r\n", GET + b"Keep-Alive: 1\r\n\r\n"])
async def test_connection_aborted_after_its_start_is_closed_and_released(sent: bytes) -> None:
    counters = PublicCounters()
    site = PublicSite(counters)
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setblocking(False)
    theirs.send(sent)
    connection = PublicConnection(site, asyncio.get_running_loop())
    connection.start(ours, "")
    assert counters.connections == 1
    connection.abort()
    await until(lambda: ours.fileno() == -1 and not counters.connections)
    theirs.close()
    await site.close()


async def test_site_that_closes_waits_for_connections_on_their_way() -> None:
    site = PublicSite(PublicCounters())
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.send(GET)
    connection = PublicConnection(site, asyncio.get_running_loop())
    connection.start(ours, "")
    await site.close()
    await until(lambda: ours.fileno() == -1)
    theirs.close()
