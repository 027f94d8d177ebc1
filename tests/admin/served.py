"""A lookup server among fakes, on a loopback port, and clients of it."""

import asyncio
from collections.abc import Awaitable, Callable
from types import ModuleType

from mtasts_daemon.clock import SystemClock
from mtasts_daemon.lookup.server import LookupServer
from mtasts_daemon.lookup.service import PolicyService
from mtasts_daemon.postfix import socketmap
from tests.fakes.daemon import World

__all__ = ["Peer", "Served", "run"]


class Peer:
    """A client of the server under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, *keys: str, name: str = "postfix") -> None:
        for key in keys:
            request = f"{name} {key}".encode()
            self.send(b"%d:%b," % (len(request), request))

    async def reply(self) -> bytes:
        length = int((await self.reader.readuntil(b":"))[:-1])
        payload = await self.reader.readexactly(length + 1)
        assert payload.endswith(b",")
        return payload[:-1]

    async def lookup(self, key: str, name: str = "postfix") -> bytes:
        self.ask(key, name=name)
        return await self.reply()

    async def closed(self) -> bool:
        return await self.reader.read() == b""


class Served(World):
    """A World with a lookup server on a loopback port, and peers connected to it."""

    def __init__(self, max_connections: int = 512, max_replies: int = 1000, max_reply_bytes: int = 1 << 30) -> None:
        super().__init__()
        # The server's idea of the time is the real one, so the service's has to be as well.
        self.service = PolicyService(
            self.settings,
            resolver=self.resolver,
            fetcher=self.fetcher,
            store=self.store,
            clock=SystemClock(),
            spawn=self.spawn,
            counters=self.counters,
        )
        self.lookups = LookupServer(
            self.service,
            self.counters,
            max_connections=max_connections,
            max_replies=max_replies,
            max_reply_bytes=max_reply_bytes,
        )
        self.peers: list[Peer] = []

    async def open(self, codec: ModuleType) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: self.lookups.protocol(codec), "127.0.0.1", 0)

    async def connect(self) -> Peer:
        address: tuple[str, int] = self.server.sockets[0].getsockname()
        peer = Peer(*await asyncio.open_connection(*address))
        self.peers.append(peer)
        return peer

    async def close(self) -> None:
        for peer in self.peers:
            peer.writer.close()
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.lookups.drain(1)


def run(test: Callable[[Served], Awaitable[None]], codec: ModuleType = socketmap, **limits: int) -> None:
    async def body() -> None:
        world = Served(**limits)
        await world.open(codec)
        try:
            async with asyncio.timeout(10):
                await test(world)
        finally:
            await world.close()

    asyncio.run(body())
