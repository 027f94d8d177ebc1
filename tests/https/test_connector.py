"""The HTTP exchange over one connection."""

import asyncio
from typing import Any

from mtasts_daemon.https.connector import HttpConnection


class _SilentStream:
    """A peer that never sends."""

    aborted = False

    async def receive(self) -> bytes:
        never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        return await never

    def abort(self) -> None:
        self.aborted = True


async def test_session_is_closed_although_leaving_is_cancelled_again() -> None:
    stream: Any = _SilentStream()
    opened: asyncio.Queue[HttpConnection] = asyncio.Queue()

    async def talk() -> None:
        async with HttpConnection(stream, {}) as connection:
            opened.put_nowait(connection)
            await asyncio.Event().wait()

    talking = asyncio.create_task(talk())
    connection = await opened.get()
    talking.cancel()
    # Once more each time it waits, so that nothing that leaving starts runs to its end.
    while not talking.done():
        await asyncio.sleep(0)
        talking.cancel()
    assert connection.session.closed
    assert stream.aborted
