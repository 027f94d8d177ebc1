"""The minimal socketmap server on this event loop: read each netstring and send a fixed reply.

``python -m tests.bench.reference`` listens on a free port of 127.0.0.1, prints it, and serves until it is stopped.
"""

import asyncio
from typing import cast

__all__ = ["REPLY"]

REPLY = b"9:NOTFOUND ,"


class _Connection(asyncio.Protocol):
    __slots__ = ("_buffer", "_transport")

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        replies = start = 0
        while (colon := buffer.find(b":", start)) > 0:
            end = colon + int(buffer[start:colon]) + 2
            if len(buffer) < end:
                break
            if buffer[end - 1] != 0x2C:
                raise ValueError("a netstring ends with a comma")
            replies += 1
            start = end
        self._buffer = buffer[start:]
        self._transport.write(REPLY * replies)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve on the event loop that the daemon uses."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    main()
