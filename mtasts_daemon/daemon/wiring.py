"""From the configuration to the parts of the daemon, and the two that it needs beside: late HTTPS, owned tasks."""

import asyncio
import importlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from .. import errors
from ..config import Config
from ..counters import Counters
from ..dns.resolver import DnsCounters, DnsResolver
from ..log import log_event
from ..lookup.service import Settings
from ..policy.cache_entry import CacheRules
from ..policy.decision import Dialect, Override, Zone
from ..policy.mtasts import Mode
from ..policy.precedence import DaneMode, Partial, auto_mode
from ..ports import FetchedBody, PolicyFetcher, Resolver, Spawn
from ..postfix.main_cf import main_cf_value, read_main_cf

__all__ = ["LazyFetcher", "Tasks", "fetcher_for", "resolver_for", "settings_for", "zones_for"]

_HTTPS = "mtasts_daemon.https.policy_fetcher"


def zones_for(config: Config, main_cf: str | None) -> dict[str, Zone]:
    """The zones by map name, with ``dane: auto`` made on or off by this host's ``main_cf``, where it can be read."""
    support = None if main_cf is None else main_cf_value(main_cf, "smtp_dns_support_level")
    zones: dict[str, Zone] = {}
    for name, zone in config.zones.items():
        mode = DaneMode(zone.dane)
        dane = auto_mode(name, support) if mode is DaneMode.AUTO else mode
        zones[name] = Zone(name, Dialect(zone.dialect), zone.default_level, dane, Partial(zone.dane_partial))
    return zones


def settings_for(config: Config) -> Settings:
    """The service's settings."""
    cache = config.cache
    return Settings(
        zones=zones_for(config, read_main_cf()),
        default_zone=config.default_zone,
        overrides={
            domain: Override(
                override.reason,
                skip=override.skip,
                treat_as=None if override.treat_as is None else Mode(override.treat_as),
                reply=override.reply,
            )
            for domain, override in config.overrides.items()
        },
        rules=CacheRules(
            txt_ttl_min=cache.txt_ttl_min,
            txt_ttl_max=cache.txt_ttl_max,
            txt_failure_ttl=min(cache.txt_ttl_min, 60.0),
            refresh_after=cache.refresh_after,
            retry_min=cache.retry_min,
            retry_max=cache.retry_max,
        ),
        deadline=config.lookup.deadline,
        max_entries=config.lookup.ready_replies,
        max_bytes=config.lookup.memory_bytes,
        draft=config.compatibility.draft_2017,
    )


def resolver_for(
    config: Config,
    changed: Callable[[Sequence[str]], None] | None = None,
    counters: DnsCounters | None = None,
    unanswered: Callable[[], None] | None = None,
) -> DnsResolver:
    """The DNS adapter, which goes on with ``counters``; ``changed`` is told when resolv.conf names others.

    ``unanswered`` is told of each question to which no resolver said anything.
    """
    dns = config.dns
    servers = [(server.address, server.port) for server in dns.resolvers] or None
    return DnsResolver(
        servers,
        timeout=dns.timeout,
        trust_ad=dns.trust_ad,
        changed=changed,
        counters=counters,
        unanswered=unanswered,
    )


def fetcher_for(config: Config, resolver: Resolver) -> PolicyFetcher:
    """The HTTPS adapter. Importing what it needs takes a good part of a second. Raises ConfigError."""
    https = importlib.import_module(_HTTPS)
    fetcher: PolicyFetcher = https.HttpsPolicyFetcher(
        resolver,
        ca_file=config.https.ca_file,
        allowed=config.https.allow_addresses,
        total=config.https.timeout,
        limit=config.https.max_fetches,
        per_network=config.https.max_fetches_per_network,
        draft_2017=config.compatibility.draft_2017,
    )
    return fetcher


class LazyFetcher:
    """The HTTPS adapter, made on a thread after start-up, so that the first answers need not wait for it."""

    def __init__(self, make: Callable[[], PolicyFetcher], spawn: Spawn) -> None:
        self._made: asyncio.Future[PolicyFetcher] = asyncio.get_running_loop().create_future()
        spawn(self._make(make), "make-fetcher")

    async def _make(self, make: Callable[[], PolicyFetcher]) -> None:
        try:
            await asyncio.to_thread(importlib.import_module, _HTTPS)
            self._made.set_result(make())
        except (ImportError, errors.ConfigError) as error:
            # Lookups go on, from what is stored and what DNS says.
            log_event("https-unavailable", level=logging.ERROR, error=error)
        finally:
            # Whatever went wrong, nobody waits for ever.
            if not self._made.done():
                self._made.set_exception(errors.HttpsUnavailable())
                self._made.exception()

    async def fetch(self, policy_domain: str, *, live: bool) -> FetchedBody:
        """As the adapter does, once it is there."""
        fetcher = self._made.result() if self._made.done() else await asyncio.shield(self._made)
        return await fetcher.fetch(policy_domain, live=live)

    async def close(self) -> None:
        """As the adapter does, if it is there."""
        if self._made.done() and self._made.exception() is None:
            await self._made.result().close()


class Tasks:
    """Owns every task, so that none is lost and all can be ended. A task that fails is told of, never silent."""

    def __init__(self, counters: Counters) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._counters = counters

    def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        """Start a task."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._counters.unhandled += 1
            logging.getLogger(__name__).error(
                "task-failed", exc_info=error, extra={"fields": {"task": task.get_name()}}
            )

    async def cancel(self) -> None:
        """End all of them, and wait until they have."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
