"""The composition root: the only place that names concrete adapters, and the life of the daemon.

Started, it opens the store and the listeners and says READY. SIGHUP validates the configuration and swaps it, or
keeps the old one and says so. SIGTERM stops accepting, answers what is in flight, flushes the store and ends.
"""

import asyncio
import gc
import importlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from . import __version__, errors, observe
from .config import Config, ConfigProblems
from .config.values import Listen
from .dnssec import DnssecWatch, validates
from .flights import Spawn
from .observe import Counters, tell
from .policy.decide import Dialect, Override, Zone
from .policy.entry import CacheRules
from .policy.precedence import DaneMode, Partial, auto_mode
from .policy.sts import Mode
from .ports.api import FetchedBody, PolicyFetcher, Resolver
from .ports.clock import SystemClock
from .ports.dns import DnsResolver
from .ports.main_cf import main_cf_value, read_main_cf
from .ports.store import MEMORY, SqliteStore, StoreLimits, open_store
from .refresh import Refresher, RefreshSettings
from .servers.listen import Listeners
from .servers.lookup import Lookups
from .service import PolicyService, Settings
from .systemd import Activation, Notifier

__all__ = ["Daemon", "Environment", "fetcher_for", "resolver_for", "settings_for"]

_DRAIN_SECONDS = 3.0
_HURRY_AFTER = 2.0
"""Seconds at the end that flights are given; then their lookups are answered from what is known."""

_STATUS_EVERY = 30.0
_HEARTBEAT_LIMIT = 300.0
_RESTART_ONLY = ("store",)
_HTTPS = "mtasts_daemon.ports.https"


# -- from configuration to parts ---------------------------------------------------------------------------


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


def resolver_for(config: Config) -> DnsResolver:
    """The DNS adapter."""
    servers = [(server.address, server.port) for server in config.dns.resolvers] or None
    return DnsResolver(servers, timeout=config.dns.timeout, trust_ad=config.dns.trust_ad)


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


class _LateFetcher:
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
            tell("https-unavailable", level=logging.ERROR, error=error)
        finally:
            # Whatever went wrong, nobody waits for ever.
            if not self._made.done():
                self._made.set_exception(errors.PolicyConnectFailed("HTTPS is not available; the log says why"))
                self._made.exception()

    async def fetch(self, policy_domain: str, *, live: bool) -> FetchedBody:
        fetcher = await asyncio.shield(self._made)
        return await fetcher.fetch(policy_domain, live=live)

    async def close(self) -> None:
        if self._made.done() and self._made.exception() is None:
            await self._made.result().close()


class _Tasks:
    """Owns every task, so that none is lost and all can be ended. A task that fails is told of, never silent."""

    def __init__(self, counters: Counters) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._counters = counters

    def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- the daemon --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Environment:
    """What the process was started with. ``load`` reads the configuration again; it raises ConfigProblems."""

    load: Callable[[], Config]
    environ: Mapping[str, str]
    activation: Activation
    notifier: Notifier
    watchdog: float | None
    """Seconds between two signs of life, where systemd wants them."""


class Daemon:
    """One life of the daemon: ``await Daemon(environment, config).run()``.

    Raises OSError where a listener cannot be opened at the start.
    """

    def __init__(self, environment: Environment, config: Config) -> None:
        self._environment = environment
        self._config = config
        self.counters = Counters()
        self._clock = SystemClock()
        self._stop = asyncio.Event()
        self._tasks = _Tasks(self.counters)
        self._reloading = asyncio.Lock()

    async def run(self) -> None:
        """Live until SIGTERM or SIGINT."""
        store = await self._open_store()
        try:
            await self._compose(store)
            self._start()
            await self._stop.wait()
        finally:
            await self._shut_down(store)

    async def _open_store(self) -> SqliteStore:
        limits = StoreLimits(self._config.store.max_policies, self._config.store.max_bytes)
        path = self._config.store.file(self._environment.environ)
        try:
            store = await open_store(path, limits=limits, now=self._clock.wall(), report=_report_store)
        except errors.StoreError as error:
            tell("store-in-memory", level=logging.WARNING, path=path, error=error)
            return await open_store(MEMORY, limits=limits, now=self._clock.wall(), report=_report_store)
        for problem in store.problems:
            tell("store-problem", level=logging.WARNING, error=problem)
        return store

    async def _compose(self, store: SqliteStore) -> None:
        config = self._config
        self._resolver = resolver_for(config)
        self._fetcher = _LateFetcher(lambda: fetcher_for(config, self._resolver), self._tasks.spawn)
        self._service = PolicyService(
            settings_for(config),
            resolver=self._resolver,
            fetcher=self._fetcher,
            store=store,
            clock=self._clock,
            spawn=self._tasks.spawn,
            counters=self.counters,
        )
        self._lookups = Lookups(
            self._service,
            self.counters,
            max_connections=config.lookup.max_connections,
            max_ready=config.lookup.ready_replies,
        )
        refresh = RefreshSettings(unused_after=config.cache.unused_after)
        self._refresher = Refresher(self._service, store, self._clock, self._tasks.spawn, refresh)
        self._dnssec = DnssecWatch(self._dnssec_changed, asyncio.sleep)
        self._listeners = Listeners(self._lookups)
        for warning in self._environment.activation.warnings:
            tell("socket-activation", level=logging.WARNING, problem=warning)
        for inherited in self._environment.activation.sockets:
            await self._listeners.inherit(inherited.protocol, inherited.listen, inherited.sock)
        await self._listeners.change(self._wanted(config), config.unix_mode)

    def _wanted(self, config: Config) -> list[Listen]:
        """The listeners to open: where systemd passed sockets, only those that the operator wrote down."""
        if self._environment.activation.sockets and "listen" not in config.model_fields_set:
            return []
        return list(config.listen)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.spawn(self.reload(), "reload"))
        self._tasks.spawn(self._refresher.run(), "refresher")
        self._tasks.spawn(self._report_life(), "status")
        self._tasks.spawn(self._dnssec.run(self._look_at_dnssec), "dnssec")
        self._tell_dane()
        # What lives as long as the process need not be looked through for garbage.
        gc.collect()
        gc.freeze()
        self._environment.notifier.ready(self._status())
        tell("ready", version=__version__, pid=os.getpid())

    # -- DANE ----------------------------------------------------------------------------------------------

    async def _look_at_dnssec(self) -> bool | None:
        return await validates(self._resolver, self._config.dns.dnssec_probe, self._config.dns.bogus_probe)

    def _dnssec_changed(self, validates: bool) -> None:
        self._service.dane_trusted = validates
        self._lookups.reconfigured()
        self._environment.notifier.status(self._status())

    def _tell_dane(self) -> None:
        zones = self._service.settings.zones
        modes = " ".join(f"{name}={zone.dane.value}" for name, zone in zones.items())
        tell("dane", zones=modes, main_cf="read" if read_main_cf() is not None else "cannot be read")

    # -- reload --------------------------------------------------------------------------------------------

    async def reload(self) -> bool:
        """Read the configuration again; whether it is in force now. A bad one changes nothing."""
        async with self._reloading:
            notifier = self._environment.notifier
            notifier.reloading()
            refused = await self._take_configuration()
            if refused:
                notifier.ready(f"the old configuration is in force: {refused}")
                return False
            tell("reloaded")
            notifier.ready(self._status())
            return True

    async def _take_configuration(self) -> str:
        """Why the new configuration is not in force, in a few words; empty where it is."""
        try:
            config = await asyncio.to_thread(self._environment.load)
            await self._listeners.change(self._wanted(config), config.unix_mode)
            self._swap(config)
        except ConfigProblems as error:
            for problem in error.problems:
                tell("reload-refused", level=logging.ERROR, problem=problem)
            return f"the new one has {len(error.problems)} problem{'s' if len(error.problems) > 1 else ''}, see the log"
        except OSError as error:
            tell("reload-refused", level=logging.ERROR, problem=error.strerror or error)
            return error.strerror or str(error)
        except Exception:
            # A bug. The service manager must not wait for the end of this reload for ever.
            self.counters.unhandled += 1
            logging.getLogger(__name__).exception("reload-failed")
            return "taking over the new one failed, see the log"
        return ""

    def _swap(self, config: Config) -> None:
        old, self._config = self._config, config
        observe.configure(config.log.level, config.log.format, self._environment.environ)
        for section in _RESTART_ONLY:
            if getattr(old, section) != getattr(config, section):
                tell("restart-needed", level=logging.WARNING, section=section)
        self._service.configure(settings_for(config))
        self._lookups.max_connections = config.lookup.max_connections
        self._lookups.ready.limit = config.lookup.ready_replies
        self._lookups.reconfigured()
        self._refresher.settings = RefreshSettings(unused_after=config.cache.unused_after)
        if (old.dns, old.https, old.compatibility) == (config.dns, config.https, config.compatibility):
            return
        before = (self._fetcher, self._resolver)
        self._service.resolver = self._service.walks.resolver = self._resolver = resolver_for(config)
        self._service.fetcher = self._fetcher = _LateFetcher(
            lambda: fetcher_for(config, self._resolver), self._tasks.spawn
        )
        # Flights under way end with the adapters they began with, or fail and are tried again.
        self._tasks.spawn(_close_later(before, 2 * config.https.timeout), "close-old-adapters")

    async def _report_life(self) -> None:
        environment = self._environment
        every = min(environment.watchdog or _STATUS_EVERY, _STATUS_EVERY)
        told_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(every)
            now = self._clock.monotonic()
            # No sign of life where the refresher has none: policies would end one by one.
            if environment.watchdog is not None and now - self._refresher.heartbeat < _HEARTBEAT_LIMIT:
                environment.notifier.watchdog()
            if now - told_at >= _STATUS_EVERY:
                told_at = now
                environment.notifier.status(self._status())

    def _status(self) -> str:
        where = ", ".join(self._listeners.addresses)
        dane = {
            True: "DNSSEC is validated",
            False: "DNSSEC is not validated, DANE is off",
            None: "DNSSEC is not known yet",
        }
        known = len(self._service.memory)
        return f"{known} domains known, {self.counters.lookups} lookups, {dane[self._dnssec.state]}, on {where}"

    async def _shut_down(self, store: SqliteStore) -> None:
        self._environment.notifier.stopping()
        tell("stopping")
        if hasattr(self, "_listeners"):
            self._listeners.close()
            hurry = asyncio.get_running_loop().call_later(_HURRY_AFTER, self._service.flights.hurry)
            await self._lookups.drain(_DRAIN_SECONDS)
            hurry.cancel()
        await self._tasks.cancel()
        if hasattr(self, "_fetcher"):
            await self._fetcher.close()
            await self._resolver.close()
        with suppress(errors.StoreError):
            await store.close()
        tell("stopped")


def _report_store(error: errors.StoreError) -> None:
    level = logging.WARNING if isinstance(error, errors.StoreDamaged) else logging.ERROR
    tell("store-problem", level=level, once_a_minute=error.slug, error=error)


async def _close_later(parts: Iterable[PolicyFetcher | Resolver], seconds: float) -> None:
    await asyncio.sleep(seconds)
    for part in parts:
        await part.close()
