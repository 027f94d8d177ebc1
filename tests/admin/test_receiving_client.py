"""Requests passed on to a receiving process that ends, hangs or answers in parts."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from mtasts_daemon.admin.http import AdminSite
from mtasts_daemon.admin.receiving_client import ReceivingClient, ReceivingUnavailable, receiving_routes
from mtasts_daemon.admin.receiving_state import ReceivingState
from mtasts_daemon.counters import Counters

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
STEP = b'{"step":{"name":"mx"}}\n'


class World:
    """A process that sends ``answer`` to each request and closes the connection, and an admin listener before it."""

    def __init__(self, folder: Path) -> None:
        self.answer = b""
        self.counters = Counters()
        self.requests: list[bytes] = []
        self._path = str(folder / "receiving.sock")
        self._admin = str(folder / "admin.sock")

    async def open(self) -> None:
        self._process = await asyncio.start_unix_server(self._serve, self._path)
        self._client = ReceivingClient(self._path)
        self._site = AdminSite(self.counters, writable=True)
        self._site.app.add_routes(receiving_routes(self))
        await self._site.open()
        self._server = await asyncio.get_running_loop().create_unix_server(self._site.connected, self._admin)
        self.browser = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._admin))

    async def close(self) -> None:
        await self.browser.close()
        self._server.close()
        await self._site.close()
        await self._client.close()
        self._process.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        writer.close()

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.browser.get(f"http://localhost/api/v1/{path}") as answer:
            return answer.status, await answer.read()

    async def client(self) -> ReceivingClient:
        return self._client

    pid = None

    @property
    def running(self) -> ReceivingClient:
        return self._client

    async def state(self) -> ReceivingState:
        return ReceivingState()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize(
    "sent",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"HTTP/1.1 200 OK\r\nContent-", b"no HTTP\r\n\r\n"],
)
async def test_process_that_ends_in_its_answer_is_an_error(world: World, sent: bytes) -> None:
    world.answer = sent
    status, body = await world.get("watched")
    assert (status, json.loads(body)["title"]) == (503, "receiving-unavailable")
    assert world.counters.unhandled == 0


@pytest.mark.parametrize("half", [b"", b'{"ste'])
async def test_process_that_ends_within_a_stream_adds_an_error_line(world: World, half: bytes) -> None:
    piece = STEP + half
    world.answer = STREAM + b"%x\r\n%b\r\n" % (len(piece), piece)
    status, body = await world.get("check/example.com")
    step, error = body.splitlines()
    assert (status, step + b"\n") == (200, STEP)
    assert json.loads(error)["error"]["slug"] == "receiving-unavailable"
    assert world.counters.unhandled == 0


async def test_client_that_was_closed_answers_with_an_error(world: World) -> None:
    await world.running.close()
    status, body = await world.get("watched")
    assert (status, json.loads(body)["title"]) == (503, "receiving-unavailable")
    with pytest.raises(ReceivingUnavailable, match="was stopped"):
        await world.running.state()
    assert world.counters.unhandled == 0


async def test_stream_is_passed_on_whole(world: World) -> None:
    world.answer = STREAM + b"3\r\n" + STEP[:3] + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(STEP) + 2, STEP[3:] + b"{}\n12")
    assert await world.get("check/example.com") == (200, STEP + b"{}\n12")
