"""HTTPS to hosts whose names and addresses strangers control.

A host is looked up with our own resolver on the caller's event loop. Everything else happens on the loop for untrusted
hosts: only addresses that the address filter permits are connected to, as RFC 8305 describes.
"""

import asyncio
import errno
import ssl
import time
from collections.abc import Awaitable, Callable, Container, Hashable, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final, TypeVar

from .. import errors
from ..config.values import HostPort
from ..ports import Resolver
from ..text import sanitize
from .address_filter import Address, IPNetwork, network_prefix, refusal_reason
from .connector import MAX_RECEIVED
from .errors import NO_ROUTE, fetch_error_for, reason_of
from .happy_eyeballs import AllAttemptsFailed, Race, Won
from .host_addresses import HostAddresses, resolve_host
from .local_addresses import LocalAddresses, has_route
from .proxy import open_tunnel
from .tls_stream import StreamClosed, TlsStream
from .trust_anchors import TrustAnchors, client_tls
from .untrusted_loop import UntrustedLoop, UntrustedLoopClosed, UntrustedLoopFailed

__all__ = ["HttpsClient", "Slot"]

T = TypeVar("T")

Talk = Callable[[TlsStream], Awaitable[T]]
Slot = Callable[[Hashable, float], AbstractAsyncContextManager[None]]
"""Wait for a slot in a network and hold it until a moment of the event loop's clock."""

_CONNECT_SECONDS: Final = 10.0
_RANKS: Final = (errors.NoRoute, errors.PolicyFetchBusy, errors.PolicyAddressRefused, errors.PolicyConnectFailed)
"""Ranks of failures; the least informative come first."""


class HttpsClient:
    """Connects to HTTPS hosts. ``allowed`` networks are exempt from the address filter.

    ``own()`` returns the container of this host's addresses. ``ca_file`` replaces the system's CA certificates. With a
    ``proxy``, that connects to the host, and this host neither resolves nor filters its addresses.

    Raises ``ConfigError`` if ``ca_file`` cannot be read.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        ca_file: Path | None = None,
        allowed: tuple[IPNetwork, ...] = (),
        own: Callable[[], Container[Address]] | None = None,
        proxy: HostPort | None = None,
        untrusted_loop: UntrustedLoop | None = None,
    ) -> None:
        self._resolver = resolver
        self._trust = TrustAnchors(ca_file)
        self._unverified = client_tls(None, verify=False)
        self._allowed = allowed
        self._own = own or LocalAddresses()
        self._proxy = proxy
        self._own_loop = UntrustedLoop() if untrusted_loop is None else None
        self._loop = untrusted_loop or self._own_loop or UntrustedLoop()
        self._tasks: set[asyncio.Task[object]] = set()
        self._closed = False
        self._own_failure: errors.PolicyFetchError | None = None

    @property
    def own_failure(self) -> str | None:
        """A sentence on the failure of this host that stops requests: no CA certificates, no route, no resolver.

        None if there are CA certificates and the last request met no such failure.
        """
        if self._trust.missing:
            return self._trust.failure().sentence
        if isinstance(self._own_failure, errors.NoRoute) and has_route():
            # A host with one address family is normal, and strangers choose the family of their policy hosts.
            return None
        return None if self._own_failure is None else self._own_failure.sentence

    async def request(
        self, host: str, port: int, talk: Talk[T], *, total: float, slot: Slot | None = None, verify: bool = True
    ) -> T:
        """Connect to ``host`` and return what ``talk`` returns, which runs on the loop for untrusted hosts.

        The whole may take ``total`` seconds. ``slot`` is held for each connection. Without ``verify`` any certificate
        will do. Raises ``PolicyFetchError``.
        """
        started = time.monotonic()
        addresses = HostAddresses(())
        if self._proxy is None:
            try:
                async with asyncio.timeout(total):
                    addresses = await resolve_host(self._resolver, host)
            except TimeoutError:
                raise errors.PolicyHostLookupFailed(f"{host}: no answer in time") from None
        remaining = total - (time.monotonic() - started)

        async def work() -> T:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                deadline = asyncio.get_running_loop().time() + remaining
                return await self._connect(host, port, addresses, deadline, talk, slot, verify)
            finally:
                self._tasks.discard(task)

        if self._closed:
            raise errors.HttpsUnavailable("the daemon is stopping")
        try:
            result = await self._loop.run(work)
        except UntrustedLoopClosed:
            raise errors.HttpsUnavailable("the daemon is stopping") from None
        except UntrustedLoopFailed as error:
            raise errors.HttpsUnavailable(str(error)) from None
        except asyncio.CancelledError:
            if self._closed and not _cancelling():
                raise errors.HttpsUnavailable("the daemon is stopping") from None
            raise
        except errors.PolicyFetchError as error:
            if isinstance(error, errors.OwnFetchFailure) and not isinstance(error, errors.PolicyFetchBusy):
                self._own_failure = error
            raise
        self._own_failure = None
        return result

    async def close(self) -> None:
        """Fail the requests under way and every later one."""
        self._closed = True
        with suppress(UntrustedLoopClosed):
            await self._loop.run(self._cancel)
        if self._own_loop is not None:
            await self._own_loop.close()

    # -- on the loop for untrusted hosts -------------------------------------------------------------------

    async def _cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(
        self,
        host: str,
        port: int,
        found: HostAddresses,
        deadline: float,
        talk: Talk[T],
        slot: Slot | None,
        verify: bool,
    ) -> T:
        tls = self._trust.context() if verify else self._unverified

        async def converse(stream: TlsStream, won: Won) -> T:
            async with stream:
                try:
                    async with asyncio.timeout(_CONNECT_SECONDS):
                        await stream.start_tls(tls, host)
                except (StreamClosed, ConnectionError):
                    raise errors.PolicyTlsFailed("the connection was closed during the handshake") from None
                won()
                return await talk(stream)

        async def attempt(address: Address | None, won: Won) -> T:
            key = host if address is None else network_prefix(address)
            async with nullcontext() if slot is None else slot(key, deadline):
                try:
                    return await converse(await self._open(address, host, port), won)
                except Exception as error:
                    raise fetch_error_for(error) from error

        if self._proxy is not None:
            return await attempt(None, lambda: None)
        failures: list[Exception] = []
        later = None if found.later is None else self._permit_later(found.later, deadline, failures)
        race = Race(self._permit(found.now, failures), later, attempt)
        try:
            return await race.run()
        except AllAttemptsFailed:
            raise max(failures + race.failures, key=_rank, default=errors.PolicyTimeout()) from None

    async def _open(self, address: Address | None, host: str, port: int) -> TlsStream:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                if address is None:
                    assert self._proxy is not None
                    return await open_tunnel(self._proxy, host, port, limit=MAX_RECEIVED)
                return await TlsStream.connect(address, port, limit=MAX_RECEIVED)
        except TimeoutError as error:
            if error.errno is not None:
                raise errors.PolicyConnectFailed(reason_of(error)) from error
            raise errors.PolicyConnectFailed(f"no connection within {_CONNECT_SECONDS:g} seconds") from None
        except ssl.SSLError:
            raise
        except OSError as error:
            if error.errno in NO_ROUTE:
                raise errors.NoRoute(errno.errorcode[error.errno]) from error
            raise errors.PolicyConnectFailed(reason_of(error)) from error

    async def _permit_later(
        self, later: "Future[tuple[str, ...]]", deadline: float, failures: list[Exception]
    ) -> Sequence[Address]:
        try:
            async with asyncio.timeout_at(deadline):
                answer: asyncio.Future[tuple[str, ...]] = asyncio.wrap_future(later)
                return self._permit(await answer, failures)
        except TimeoutError:
            return ()

    def _permit(self, candidates: Sequence[str], failures: list[Exception]) -> list[Address]:
        """Return the addresses that may be connected to; append to ``failures`` why the others may not."""
        own = self._own()
        permitted: dict[Address, None] = {}
        for text in candidates:
            if reason := refusal_reason(text, self._allowed, own):
                failures.append(errors.PolicyAddressRefused(f"{sanitize(text)}: {reason}"))
            else:
                permitted[ip_address(text)] = None
        return list(permitted)


def _rank(error: Exception) -> int:
    return next((rank for rank, kind in enumerate(_RANKS) if isinstance(error, kind)), len(_RANKS))


def _cancelling() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
