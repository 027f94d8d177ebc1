"""The public listener over real sockets: policies, routes, and hostile clients."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import web

from mtasts_daemon.config import Config
from mtasts_daemon.config.sections.public import PublicSettings
from mtasts_daemon.public import connection as connection_module
from mtasts_daemon.public import site as site_module
from mtasts_daemon.public.connection import PublicConnection
from mtasts_daemon.public.site import PublicRequest, PublicSite
from tests.event_loop import until
from tests.public.serving import BODY, LOOPBACK, Served, serving

GET = b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.example.com\r\n"


@pytest.fixture
async def served(settings: Mapping[str, Any]) -> AsyncIterator[Served]:
    async with serving(**settings) as served:
        yield served


def status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1]) if response else 0


# -- policies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Accept: */*\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Keep-Alive: timeout=5\r\n",
    ],
)
async def test_policy_is_served_alike_with_and_without_aiohttp(served: Served, fields: bytes) -> None:
    response = await served.ask(GET + fields + b"\r\n")
    head, _, body = response.partition(b"\r\n\r\n")
    assert (status(response), body) == (200, BODY)
    assert b"\r\nContent-Type: text/plain" in head
    assert b"\r\nCache-Control: no-cache" in head
    assert b"\r\nX-Content-Type-Options: nosniff" in head
    assert b"\r\nDate: " in head
    assert served.counters.policies == 1


async def test_policy_is_served_to_old_http_and_head_requests(served: Served) -> None:
    old = await served.ask(GET.replace(b"1.1", b"1.0") + b"\r\n")
    assert (status(old), old.endswith(BODY)) == (200, True)
    head = await served.ask(GET.replace(b"GET", b"HEAD") + b"\r\n")
    assert status(head) == 200
    assert b"Content-Length: %d" % len(BODY) in head


@pytest.mark.parametrize(
    "host",
    [b"mta-sts.example.com", b"MTA-STS.EXAMPLE.COM", b"mta-sts.example.com:443", b"mta-sts.example.com:80"],
)
async def test_host_is_compared_without_case_and_port(served: Served, host: bytes) -> None:
    for extra in (b"", b"Keep-Alive: timeout=5\r\n"):
        request = b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: " + host + b"\r\n" + extra + b"\r\n"
        assert (await served.ask(request)).endswith(BODY)


@pytest.mark.parametrize(
    "host",
    [
        *(
            b"example.com",
            b"www.example.com",
            b"mta-sts.example.org",
            b"x.mta-sts.example.com",
            b"mta-sts.example.com.",
        ),
        *(b"mta-sts.example.com:x", b"mta-sts.example.com:443:443", b"*", b"127.0.0.1", b"[::1]", b"mta-sts", b""),
        *(b"mta-sts.example.com, mta-sts.example.org", b"mta-sts.example.com@a", b"a@mta-sts.example.com", b"%00"),
        *(
            b"mta-sts.example.com\\",
            b"mta_sts.example.com",
            b"mta-sts.xn--exmple-cua.com",
            b"mta-sts.ex\xc3\xa4mple.com",
        ),
    ],
)
async def test_host_without_a_policy_is_not_found(served: Served, host: bytes) -> None:
    for extra in (b"", b"Keep-Alive: timeout=5\r\n"):
        request = b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: " + host + b"\r\n" + extra + b"\r\n"
        response = await served.ask(request)
        assert status(response) in (400, 404)
        assert BODY not in response
    assert served.counters.policies == 0


@pytest.mark.parametrize(
    "line",
    [
        *(b"GET /.well-known/mta-sts.txt?x=1 HTTP/1.1", b"GET /.well-known//mta-sts.txt HTTP/1.1"),
        *(b"GET /%2ewell-known/mta-sts.txt HTTP/1.1", b"GET /.well-known/mta-sts.txt/ HTTP/1.1"),
        *(b"GET /a/../.well-known/mta-sts.txt HTTP/1.1", b"GET http://mta-sts.example.com/ HTTP/1.1"),
        *(b"GET http://mta-sts.example.com/.well-known/mta-sts.txt HTTP/1.1", b"GET * HTTP/1.1"),
        *(b"POST /.well-known/mta-sts.txt HTTP/1.1", b"OPTIONS /.well-known/mta-sts.txt HTTP/1.1"),
        *(b"CONNECT mta-sts.example.com:443 HTTP/1.1", b"GET / HTTP/1.1", b"TRACE / HTTP/1.1"),
        *(b"GET /.well-known/mta-sts.txt HTTP/2.0", b"GET /.well-known/mta-sts.txt", b"GET /" + b"a" * 9000),
        b"GET /ask?domain=mta-sts.example.com HTTP/1.1",
    ],
)
async def test_policy_host_serves_the_policy_path_and_nothing_else(served: Served, line: bytes) -> None:
    response = await served.ask(line + b"\r\nHost: mta-sts.example.com\r\n\r\n")
    assert status(response) in (0, 400, 404, 405, 414, 505)
    assert BODY not in response


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET + b"Host: mta-sts.example.org\r\n\r\n",
        GET + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        GET + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        GET + b"Content-Length: +4\r\n\r\nabcd",
        GET + b"Transfer-Encoding: xchunked\r\n\r\n",
        GET + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
        GET + b"Content-Length: 40\r\n\r\nGET / HTTP/1.1\r\nHost: mta-sts.example.com\r\n",
        GET + b"X : y\r\n\r\n",
        GET.replace(b"Host:", b"Host :") + b"\r\n",
        GET[:-2] + b"\n folded\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(range(256)) * 8 + b"\r\n\r\n",
    ],
)
async def test_ambiguous_request_is_refused_and_its_connection_closed(served: Served, request_bytes: bytes) -> None:
    client = await served.connect()
    response = await client.ask(request_bytes)
    assert status(response) in (0, 400, 404)
    assert BODY not in response
    assert await client.is_closed()


async def test_requests_in_one_segment_are_answered_in_order(served: Served) -> None:
    client = await served.connect()
    client.writer.write((GET + b"\r\n") * 3 + GET.replace(b"example.com", b"example.org") + b"\r\n")
    assert [status(await client.ask(b"")) for _ in range(4)] == [200, 200, 200, 404]


async def test_half_closed_client_gets_its_response(served: Served) -> None:
    client = await served.connect()
    client.writer.write(GET + b"\r\n")
    client.writer.write_eof()
    assert (await client.reader.read()).endswith(BODY)
    await until(lambda: not served.counters.connections)


@pytest.mark.parametrize("sent", [b"", GET, GET + b"Content-Length: 9\r\n\r\n"])
async def test_half_closed_client_without_a_whole_request_is_closed(served: Served, sent: bytes) -> None:
    client = await served.connect()
    client.writer.write(sent)
    client.writer.write_eof()
    assert BODY not in await client.reader.read()
    await until(lambda: not served.counters.connections)


async def test_client_that_asks_for_it_is_closed_after_its_response(served: Served) -> None:
    client = await served.connect()
    assert b"\r\nConnection: close\r\n" in await client.ask(GET + b"Connection: close\r\n\r\n")
    assert await client.is_closed()
    await until(lambda: not served.counters.connections)


async def test_request_in_single_bytes_is_answered(served: Served) -> None:
    client = await served.connect()
    for byte in GET + b"\r":
        client.writer.write(bytes([byte]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.ask(b"\n")).endswith(BODY)
    # The connection goes on in either way of answering.
    assert (await client.ask(GET + b"\r\n")).endswith(BODY)


# -- limits ----------------------------------------------------------------------------------------------------


async def test_endless_head_closes_the_connection(served: Served) -> None:
    client = await served.connect()
    client.writer.write(GET + b"".join(b"X-%d: %b\r\n" % (number, b"a" * 1000) for number in range(40)))
    assert await client.is_closed() or status(await client.ask(b"")) == 400
    await until(lambda: not served.counters.connections)


async def test_slow_head_is_closed_though_bytes_keep_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "_IDLE_SECONDS", 0.3)
    monkeypatch.setattr(site_module, "_SWEEP_SECONDS", 0.05)

    async with serving() as served:
        client = await served.connect()
        client.writer.write(GET)

        async def drip() -> None:
            while True:
                client.writer.write(b"X: y\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await client.is_closed()
        dripping.cancel()
        assert served.counters.expired == 1


async def test_one_client_gets_a_share_of_the_connections(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "_CONNECTIONS_PER_CLIENT", 3)

    clients = [await served.connect() for _ in range(3)]
    for client in clients:
        assert (await client.ask(GET + b"\r\n")).endswith(BODY)
    assert await (await served.connect()).is_closed()
    clients[0].writer.close()
    await until(lambda: served.counters.connections < 3)
    assert (await served.ask(GET + b"\r\n")).endswith(BODY)


async def test_trusted_proxy_has_no_share_but_the_limit_for_all() -> None:
    async with serving(trusted=True) as served:
        settings = PublicSettings(trusted_proxies=LOOPBACK, max_connections=70)
        await served.server.configure(Config(public=settings))
        clients = [await served.connect() for _ in range(70)]
        for client in clients:
            assert (await client.ask(GET + b"\r\n")).endswith(BODY)
        newest = await served.connect()
        assert (await newest.ask(GET + b"\r\n")).endswith(BODY)
        # The connection with the longest silence was closed.
        assert await clients[0].is_closed()
        await until(lambda: served.counters.connections == 70)


async def test_burst_of_connections_does_not_exceed_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    connected = threading.Event()
    admit = PublicSite.admit

    def observed(site: PublicSite, connection: PublicConnection) -> bool:
        if len(counted) >= 64:
            connected.wait(1)
        admitted = admit(site, connection)
        counted.append(site.counters.connections)
        return admitted

    monkeypatch.setattr(PublicSite, "admit", observed)
    async with serving(trusted=True) as served:
        settings = PublicSettings(trusted_proxies=LOOPBACK, max_connections=64)
        await served.server.configure(Config(public=settings))
        burst = [await served.connect() for _ in range(64)]
        await until(lambda: len(counted) == 64)
        # Connected by the kernel before the server admits any of them.
        burst += [await served.connect() for _ in range(100)]
        connected.set()
        assert (await burst[-1].ask(GET + b"\r\n")).endswith(BODY)
        assert len(counted) == 164
        assert max(counted) == 64
        assert served.counters.connections == 64


async def test_client_that_reads_nothing_stops_being_read(served: Served) -> None:
    client = await served.connect()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(4000):
        client.writer.write(GET + b"\r\n")
    try:
        async with asyncio.timeout(1):
            await client.writer.drain()
    except TimeoutError:
        pass
    # Others are served meanwhile.
    assert (await served.ask(GET + b"\r\n")).endswith(BODY)


# -- routes ----------------------------------------------------------------------------------------------------


@pytest.mark.settings(trusted=True)
async def test_route_gets_the_whole_body_and_the_client(served: Served) -> None:
    async def receive(call: PublicRequest) -> web.Response:
        return web.json_response({"client": call.client, "size": len(call.body)}, status=201)

    served.server.add_route("POST", "/reports", receive, max_body=1000)
    head = b"POST /reports HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9, 192.0.2.1\r\n"
    response = await served.ask(head + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)
    assert status(response) == 201
    assert b'{"client": "192.0.2.1", "size": 1000}' in response
    chunks = b"".join(b"1\r\nx\r\n" for _ in range(1000)) + b"0\r\n\r\n"
    response = await served.ask(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert b'"size": 1000' in response


async def test_body_with_a_content_coding_is_left_packed(served: Served) -> None:
    async def receive(call: PublicRequest) -> web.Response:
        return web.Response(text=str(len(call.body)))

    served.server.add_route("POST", "/reports", receive, max_body=100_000)
    bomb = gzip.compress(b"0" * 10_000_000)
    head = b"POST /reports HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    assert (await served.ask(head + bomb)).endswith(b"%d" % len(bomb))


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_beyond_the_limit_is_refused(served: Served, chunked: bool) -> None:
    async def receive(_call: PublicRequest) -> web.Response:
        raise AssertionError

    served.server.add_route("POST", "/reports", receive, max_body=1000)
    head = b"POST /reports HTTP/1.1\r\nHost: a\r\n"
    if chunked:
        request = head + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"
    else:
        request = head + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001
    client = await served.connect()
    assert status(await client.ask(request)) == 413
    assert await client.is_closed()


async def test_upload_that_stalls_ends_with_its_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "_LINGER_SECONDS", 0.1)

    async def receive(_call: PublicRequest) -> web.Response:
        raise AssertionError

    served.server.add_route("POST", "/reports", receive, max_body=1000, seconds=0.2)
    client = await served.connect()
    assert status(await client.ask(b"POST /reports HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx")) == 408
    assert await client.is_closed()


def upload(number: int) -> bytes:
    """The head of a request from a client of its own, behind a trusted proxy."""
    return (
        f"POST /reports HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.{number}\r\nContent-Length: 2\r\n\r\n".encode()
    )


@pytest.mark.settings(trusted=True)
async def test_uploads_at_once_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "_BODY_WAIT", 0.05)

    async def receive(_call: PublicRequest) -> web.Response:
        return web.Response(status=201)

    served.server.add_route("POST", "/reports", receive, max_body=1000)
    slow = [await served.connect() for _ in range(site_module._BODIES_AT_ONCE)]
    for number, client in enumerate(slow):
        client.writer.write(upload(number) + b"x")
    answers = [asyncio.create_task(client.ask(b"")) for client in slow]
    while served.counters.responses.get(503) is None:
        await served.ask(upload(100) + b"xx")
    for client in slow:
        client.writer.write(b"x")
    assert [status(answer) for answer in await asyncio.gather(*answers)] == [201] * len(slow)
    assert status(await served.ask(upload(100) + b"xx")) == 201


@pytest.mark.settings(trusted=True)
async def test_client_that_uploads_slowly_does_not_keep_others_from_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_module, "_BODY_WAIT", 0.05)

    async def receive(_call: PublicRequest) -> web.Response:
        return web.Response(status=201)

    served.server.add_route("POST", "/reports", receive, max_body=1000)
    slow = [await served.connect() for _ in range(2 * site_module._BODIES_AT_ONCE)]
    for client in slow:
        client.writer.write(upload(1) + b"x")
    answers = [asyncio.create_task(client.ask(b"")) for client in slow]
    refused = len(slow) - site_module._BODIES_PER_CLIENT
    await until(lambda: served.counters.responses.get(503) == refused)
    assert status(await served.ask(upload(2) + b"xx")) == 201
    for client in slow:
        client.writer.write(b"x")
    assert sorted(status(answer) for answer in await asyncio.gather(*answers)) == [201] * 4 + [503] * refused


async def test_expect_100_continue_is_answered_before_the_body(served: Served) -> None:
    async def receive(call: PublicRequest) -> web.Response:
        return web.Response(body=call.body)

    served.server.add_route("POST", "/reports", receive, max_body=1000)
    client = await served.connect()
    head = b"POST /reports HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert await client.ask(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await client.ask(b"hello")).endswith(b"hello")


async def test_handler_that_fails_is_logged_and_answered(served: Served) -> None:
    async def broken(_call: PublicRequest) -> web.Response:
        raise ValueError("secret")

    served.server.add_route("GET", "/broken/", broken)
    response = await served.ask(b"GET /broken/%0d%0ax HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status(response) == 500
    assert b"secret" not in response
    assert served.counters.internal_errors == 1
    assert status(await served.ask(b"POST /broken/ HTTP/1.1\r\nHost: a\r\n\r\n")) == 405
    assert status(await served.ask(b"GET /brok HTTP/1.1\r\nHost: a\r\n\r\n")) == 404


async def test_handler_awaits_the_main_loop(served: Served) -> None:
    main = asyncio.get_running_loop()

    async def work() -> bool:
        return asyncio.get_running_loop() is main

    async def handler(_call: PublicRequest) -> web.Response:
        here = asyncio.get_running_loop() is main
        return web.Response(text=f"{here} {await served.server.on_main(work())}")

    served.server.add_route("GET", "/", handler)
    assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).endswith(b"False True")


async def test_handshake_that_stalls_is_counted_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_HANDSHAKE_SECONDS", 0.2)

    async with serving(tls=True) as served:
        client = await served.connect()
        client.writer.write(b"\x16\x03\x01")
        assert await client.is_closed()
        assert served.counters.accepted == 1
        await until(lambda: not served.counters.connections)
