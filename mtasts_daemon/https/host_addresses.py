"""Look up the addresses of a host whose DNS answers a stranger controls (RFC 8305 section 3)."""

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from .. import errors
from ..policy.dns_answer import DnsAnswer
from ..ports import Pending, Resolver, result_or_error
from ..text import sanitize
from .happy_eyeballs import alternate

__all__ = ["RESOLUTION_DELAY", "HostAddresses", "resolve_host"]

RESOLUTION_DELAY: Final = 0.05
"""Seconds to wait for the AAAA answer when the A answer is there (RFC 8305 section 3)."""

_PER_FAMILY_MAX: Final = 16
"""Addresses taken of each family; an answer may hold thousands."""

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII | re.IGNORECASE)
"""RFC 1035 section 2.3.4; a policy domain may be too long for its policy host."""


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """Addresses as text, in the order to try. ``later`` gets those of the family whose answer is late.

    A thread-safe future carries these, because another thread connects.
    """

    now: tuple[str, ...]
    later: "Future[tuple[str, ...]] | None" = None


async def resolve_host(resolver: Resolver, host: str) -> HostAddresses:
    """Return the addresses of ``host`` as soon as they may be tried.

    Raises ``PolicyHostNotFound``, ``PolicyHostLookupFailed`` or ``ResolverUnreachable``. The caller limits the time.
    """
    if not _HOST_NAME.fullmatch(host):
        raise errors.PolicyHostNotFound(f"{sanitize(host)} is not a host name")
    ipv6, ipv4 = asked = resolver.aaaa(host), resolver.a(host)
    arrived = asyncio.Event()
    for one in asked:
        one.add_done_callback(lambda _: arrived.set())
    while not (ipv6.done() and ipv4.done()):
        if ipv6.done() and _records(ipv6):
            return HostAddresses(_records(ipv6), _when_done(ipv4))
        arrived.clear()
        if ipv4.done() and _records(ipv4):
            try:
                async with asyncio.timeout(RESOLUTION_DELAY):
                    await arrived.wait()
            except TimeoutError:
                if not ipv6.done():
                    return HostAddresses(_records(ipv4), _when_done(ipv6))
        else:
            await arrived.wait()
    found = alternate(_records(ipv6), _records(ipv4))
    if not found:
        raise _failure(host, [result_or_error(one) for one in asked])
    return HostAddresses(tuple(found))


def _records(asked: Pending[DnsAnswer[str]]) -> tuple[str, ...]:
    answer = result_or_error(asked)
    return answer.records[:_PER_FAMILY_MAX] if isinstance(answer, DnsAnswer) else ()


def _when_done(asked: Pending[DnsAnswer[str]]) -> "Future[tuple[str, ...]]":
    later: Future[tuple[str, ...]] = Future()
    # Running, so that the other thread cannot cancel it.
    later.set_running_or_notify_cancel()
    asked.add_done_callback(lambda done: later.set_result(() if done.cancelled() else _records(done)))
    return later


def _failure(host: str, answers: Sequence[DnsAnswer[str] | errors.DnsError]) -> errors.PolicyFetchError:
    failed = [answer for answer in answers if isinstance(answer, errors.DnsError)]
    if not failed:
        return errors.PolicyHostNotFound(host)
    detail = f"{host}: {sanitize(str(failed[0]))}"
    if all(isinstance(error, errors.DnsUnreachable) for error in failed):
        return errors.ResolverUnreachable(detail)
    return errors.PolicyHostLookupFailed(detail)
