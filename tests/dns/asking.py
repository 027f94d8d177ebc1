"""A resolver that asks fakes, and an event loop of each kind to ask on."""

import asyncio
import contextlib
import importlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

from mtasts_daemon.dns.resolver import DnsResolver
from mtasts_daemon.errors import DnsError
from mtasts_daemon.policy.dns_answer import DnsAnswer
from tests.fakes.dns import FakeDns

LOOPS: Final = [name for name in ("asyncio", "uvloop") if importlib.util.find_spec(name)]
HOST: Final = {"host.example": ["60 A 192.0.2.1"]}
MUTE: Final = {"host.example": ["A 192.0.2.66", "! * silent"]}

Run = Callable[[Coroutine[Any, Any, None]], None]


def runner_on(loop: str) -> Run:
    def run_to_its_end(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=importlib.import_module(loop).new_event_loop) as runner:
            runner.run(main)

    return run_to_its_end


@contextlib.asynccontextmanager
async def asking(
    *servers: FakeDns | tuple[str, int],
    limit: float = 5.0,
    try_timeout: float = 1.5,
    unanswered: Callable[[], None] | None = None,
) -> AsyncIterator[DnsResolver]:
    addresses = [server.address if isinstance(server, FakeDns) else server for server in servers]
    resolver = DnsResolver(addresses, timeout=limit, try_timeout=try_timeout, unanswered=unanswered)
    try:
        yield resolver
    finally:
        await resolver.close()


async def error_of(asked: Awaitable[DnsAnswer[Any]]) -> type[DnsError] | None:
    try:
        await asked
    except DnsError as error:
        return type(error)
    return None


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 # counters are plain integers, which cannot be awaited
        await asyncio.sleep(0.005)
