"""A lookup server with fakes on a loopback port, and its clients."""

import asyncio
from types import ModuleType
from typing import Self

from mtasts_daemon.lookup.server import LookupServer
from mtasts_daemon.postfix import socketmap
from tests.event_loop import idle, until
from tests.fakes.daemon import World

__all__ = ["Peer", "Served"]


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

    def __init__(
        self,
        codec: ModuleType = socketmap,
        *,
        max_connections: int = 512,
        max_replies: int = 1000,
        max_reply_bytes: int = 1 << 30,
    ) -> None:
        super().__init__()
        self._codec = codec
        self._accepted = 0
        self.lookups = LookupServer(
            self.service,
            self.counters,
            max_connections=max_connections,
            max_replies=max_replies,
            max_reply_bytes=max_reply_bytes,
        )
        self.peers: list[Peer] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0)
        return self

    def _accept(self) -> asyncio.BaseProtocol:
        self._accepted += 1
        return self.lookups.protocol(self._codec)

    async def connect(self) -> Peer:
        address: tuple[str, int] = self.server.sockets[0].getsockname()
        peer = Peer(*await asyncio.open_connection(*address))
        self.peers.append(peer)
        await until(lambda: self._accepted == len(self.peers))
        await idle()
        return peer

    async def __aexit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.writer.close()
        self.server.close()
        await super().__aexit__()
        await self.lookups.drain(1)
