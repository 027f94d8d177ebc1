"""A resolver that queries fake servers."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from mtasts_daemon.dns.resolver import DnsResolver
from mtasts_daemon.errors import DnsError
from mtasts_daemon.policy.dns_answer import DnsAnswer
from tests.fakes.dns import FakeDns

HOST: Final = {"host.example": ["60 A 192.0.2.1"]}
MUTE: Final = {"host.example": ["A 192.0.2.66", "! * silent"]}


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
