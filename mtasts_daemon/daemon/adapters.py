"""The resolver and the policy fetcher in use; a reload replaces them."""

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterable

from .. import errors
from ..config import Config
from ..dns.resolver import DnsResolver
from ..log import log_event
from ..ports import FetchedBody, PolicyFetcher, Resolver, Spawn

__all__ = ["LOOKUPS_FIRST", "Adapters", "LazyFetcher"]

LOOKUPS_FIRST = 0.05
"""Seconds for lookups that wait when the daemon starts; then it imports the rest, which would delay them."""

_HTTPS = "mtasts_daemon.https.policy_fetcher"


class LazyFetcher:
    """The policy fetcher, imported and made on a thread, so that no lookup waits for it.

    Reading the system's CA certificates takes 50 ms.
    """

    def __init__(self, make: Callable[[], PolicyFetcher], spawn: Spawn) -> None:
        self._made: asyncio.Future[PolicyFetcher] = asyncio.get_running_loop().create_future()
        spawn(self._make(make), "make-fetcher")

    async def _make(self, make: Callable[[], PolicyFetcher]) -> None:
        try:
            await asyncio.sleep(LOOKUPS_FIRST)
            await asyncio.to_thread(importlib.import_module, _HTTPS)
            self._made.set_result(await asyncio.to_thread(make))
        except (ImportError, errors.ConfigError) as error:
            # Lookups go on with stored policies and DNS.
            log_event("https-unavailable", level=logging.ERROR, error=error)
        finally:
            # After any failure, no fetch waits for it.
            if not self._made.done():
                self._made.set_exception(errors.HttpsUnavailable())
                self._made.exception()

    async def fetch(self, policy_domain: str, *, live: bool) -> FetchedBody:
        """Fetch with the fetcher, after waiting until it is imported."""
        fetcher = self._made.result() if self._made.done() else await asyncio.shield(self._made)
        return await fetcher.fetch(policy_domain, live=live)

    @property
    def own_failure(self) -> str | None:
        """A sentence on the failure of this host that stops fetches, or None."""
        if not self._made.done():
            return None
        error = self._made.exception()
        if error is not None:
            return str(error)
        failure: str | None = getattr(self._made.result(), "own_failure", None)
        return failure

    async def close(self) -> None:
        """Close the fetcher if it has been made."""
        if self._made.done() and self._made.exception() is None:
            await self._made.result().close()


class Adapters:
    """Make, replace and close the resolver and the fetcher."""

    def __init__(
        self,
        config: Config,
        make_resolver: Callable[[Config], DnsResolver],
        make_fetcher: Callable[[Config, Resolver], PolicyFetcher],
        spawn: Spawn,
    ) -> None:
        self._make_fetcher = make_fetcher
        self._make_resolver = make_resolver
        self._spawn = spawn
        self._dns = config.dns
        self.resolver = make_resolver(config)
        self.fetcher = self._lazy_fetcher(config)

    def _lazy_fetcher(self, config: Config) -> LazyFetcher:
        resolver = self.resolver
        return LazyFetcher(lambda: self._make_fetcher(config, resolver), self._spawn)

    def configure(self, config: Config) -> bool:
        """Replace the fetcher, and the resolver if its settings changed: return True then.

        The fetcher is always replaced, so that a reload reads the CA certificates again. Requests under way end with
        the old ones, which are closed after two fetch timeouts.
        """
        old: list[PolicyFetcher | Resolver] = [self.fetcher]
        changed = config.dns != self._dns
        if changed:
            old.append(self.resolver)
            self._dns = config.dns
            self.resolver = self._make_resolver(config)
        self.fetcher = self._lazy_fetcher(config)
        self._spawn(_close_later(old, 2 * config.https.timeout), "close-old-adapters")
        return changed

    async def close(self) -> None:
        """Close the fetcher, then the resolver that it uses."""
        await self.fetcher.close()
        await self.resolver.close()


async def _close_later(adapters: Iterable[PolicyFetcher | Resolver], seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:  # also if the daemon ends earlier
        for adapter in adapters:
            await adapter.close()
