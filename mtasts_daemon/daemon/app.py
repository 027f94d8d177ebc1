"""The composition root: the only place that names concrete adapters, and the life of the daemon.

Started, it opens the store and the listeners and says READY. SIGHUP validates the configuration and swaps it, or
keeps the old one and says so. SIGTERM stops accepting, answers what is in flight, flushes the store and ends.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from .. import __version__, errors, log
from ..admin.history import History
from ..admin.listeners import AdminListeners
from ..admin.service import AdminService, DaemonParts, ReloadResult
from ..clock import SystemClock
from ..config import Config, ConfigProblems, Loaded
from ..config.values import Listen
from ..counters import Counters
from ..dns.health import ResolverHealth
from ..dns.resolver import DnsCounters, DnsResolver
from ..dns.validation import DnssecMonitor, validates
from ..log import log_event
from ..lookup.listeners import Listeners
from ..lookup.refresher import Refresher, RefreshSettings
from ..lookup.server import LookupServer
from ..lookup.service import PolicyService
from ..lookup.store_recovery import StoreRecovery
from ..ports import PolicyFetcher, Resolver
from ..postfix.main_cf import read_main_cf
from ..store.policy_store import MEMORY, SqliteStore, StoreLimits, open_store
from ..tlsrpt.service import TlsrptService
from .systemd import Activation, Notifier
from .wiring import LazyFetcher, Tasks, fetcher_for, resolver_for, settings_for

__all__ = ["Daemon", "Environment"]

_DRAIN_SECONDS = 3.0
_HURRY_AFTER = 2.0
"""Seconds at the end that flights are given; then their lookups are answered from what is known."""

_STATUS_EVERY = 30.0
_HEARTBEAT_LIMIT = 300.0
_SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that computes gives way, to lookups above all. Python's own 5 ms is their whole time."""

_RESTART_ONLY = ("store",)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the process was started with. ``load`` reads the configuration again; it raises ConfigProblems."""

    load: Callable[[], Loaded]
    environ: Mapping[str, str]
    activation: Activation
    notifier: Notifier
    watchdog: float | None
    """Seconds between two signs of life, where systemd wants them."""


class Daemon:
    """One life of the daemon: ``await Daemon(environment, loaded).run()``.

    Raises OSError where a listener cannot be opened at the start.
    """

    def __init__(self, environment: Environment, loaded: Loaded) -> None:
        self._environment = environment
        self._loaded = loaded
        self._config = loaded.config
        self.counters = Counters()
        self._dns_counters = DnsCounters()
        self._clock = SystemClock()
        self._reloaded = ReloadResult(self._clock.wall(), (), self._clock.wall())
        self._stop = asyncio.Event()
        self._tasks = Tasks(self.counters)
        self._reloading = asyncio.Lock()

    async def run(self) -> None:
        """Live until SIGTERM or SIGINT, which may come before it is ready."""
        # A SIGHUP that comes now is for what is about to be there.
        await self._reloading.acquire()
        self._take_signals()
        store = await self._open_store()
        try:
            await self._compose(store)
            if not self._stop.is_set():
                self._start()
            self._reloading.release()
            await self._stop.wait()
        finally:
            await self._shut_down(store)

    async def _open_store(self) -> SqliteStore:
        limits = StoreLimits(self._config.store.max_policies, self._config.store.max_bytes)
        path = self._config.store.file(self._environment.environ)
        try:
            store = await open_store(path, limits=limits, now=self._clock.wall(), report=_report_store)
        except errors.StoreError as error:
            log_event("store-in-memory", level=logging.WARNING, path=path, error=error)
            return await open_store(MEMORY, limits=limits, now=self._clock.wall(), report=_report_store)
        for problem in store.problems:
            log_event("store-problem", level=logging.WARNING, error=problem)
        return store

    async def _compose(self, store: SqliteStore) -> None:
        config = self._config
        self._resolver_watch = ResolverHealth(
            lambda: self._resolver.ns(""),
            lambda: self._resolver.addresses,
            self._tasks.spawn,
            asyncio.sleep,
        )
        self._resolver = self._make_resolver(config)
        self._fetcher = LazyFetcher(lambda: fetcher_for(config, self._resolver), self._tasks.spawn)
        self._service = PolicyService(
            settings_for(config),
            resolver=self._resolver,
            fetcher=self._fetcher,
            store=store,
            clock=self._clock,
            spawn=self._tasks.spawn,
            counters=self.counters,
        )
        environment = self._environment
        self._tlsrpt = TlsrptService(
            config, environment.environ, environment.activation.tlsrpt, lambda: self._resolver, self._clock
        )
        self._service.on_finding = self._service.walks.on_finding = self._tlsrpt.on_finding
        self._lookups = LookupServer(
            self._service,
            self.counters,
            max_connections=config.lookup.max_connections,
            max_ready=config.lookup.ready_replies,
            max_ready_bytes=config.lookup.memory_bytes,
        )
        refresh = RefreshSettings(unused_after=config.cache.unused_after)
        self._refresher = Refresher(self._service, store, self._clock, self._tasks.spawn, refresh)
        self._store_watch = StoreRecovery(store, self._tlsrpt, self._service, self._clock)
        self._dnssec = DnssecMonitor(self._probe_dnssec, self._dnssec_changed, asyncio.sleep)
        self._listeners = Listeners(self._lookups)
        for warning in self._environment.activation.warnings:
            log_event("socket-activation", level=logging.WARNING, problem=warning)
        for inherited in self._environment.activation.sockets:
            await self._listeners.inherit(inherited.protocol, inherited.listen, inherited.sock)
        await self._tlsrpt.start()
        await self._listeners.change(self._wanted(config), config.unix_mode)
        self._control = self._make_control(store)
        self._admin = AdminListeners(self._environment.environ, self._control)
        await self._admin.change(config.admin)

    def _make_resolver(self, config: Config) -> DnsResolver:
        return resolver_for(config, self._resolvers_changed, self._dns_counters, self._resolver_watch.suspect)

    def _make_control(self, store: SqliteStore) -> AdminService:
        return AdminService(
            DaemonParts(
                service=self._service,
                store=store,
                lookups=self._lookups,
                listeners=self._listeners,
                refresher=self._refresher,
                dnssec=self._dnssec,
                tlsrpt=self._tlsrpt,
                history=History(self.counters),
                counters=self.counters,
                clock=self._clock,
                configuration=lambda: self._loaded,
                reload=self.reload,
                reloaded=lambda: self._reloaded,
                probe_resolver=self._probe_dnssec,
            )
        )

    def _wanted(self, config: Config) -> list[Listen]:
        """The listeners to open: where systemd passed sockets, only those that the operator wrote down."""
        if self._environment.activation.sockets and "listen" not in config.model_fields_set:
            return []
        return list(config.listen)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.spawn(self.reload(), "reload"))

    def _start(self) -> None:
        self._tasks.spawn(self._refresher.run(), "refresher")
        self._tasks.spawn(self._store_watch.run(), "store watch")
        self._tasks.spawn(self._report_life(), "status")
        self._tasks.spawn(self._control.watch(), "watch")
        self._tasks.spawn(self._admin.serve(), "serve admin")
        self._tasks.spawn(self._dnssec.run(), "dnssec")
        self._tasks.spawn(self._tlsrpt.deliver(), "deliver reports")
        self._tell_dane()
        # What lives as long as the process need not be looked through for garbage.
        gc.collect()
        gc.freeze()
        # What lookups make is kept, or freed by its count of references. Garbage in circles is rare, and looking for
        # it after every 700 new objects was a tenth of the time of a cold lookup.
        gc.set_threshold(50_000, 20, 50)
        gc.enable()
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self._environment.notifier.ready(self._status())
        log_event("ready", version=__version__, pid=os.getpid())

    # -- DANE ----------------------------------------------------------------------------------------------

    async def _probe_dnssec(self) -> bool | None:
        return await validates(self._resolver, self._config.dns.dnssec_probe, self._config.dns.bogus_probe)

    def _resolvers_changed(self, resolvers: Sequence[str]) -> None:
        log_event("resolvers", ask=",".join(resolvers))
        self._tasks.spawn(self._dnssec.look(), "look at dnssec")

    def _dnssec_changed(self, validates: bool) -> None:
        if self._service.dane_trusted is not validates:
            self._service.dane_trusted = validates
            # What was walked to since it changed was judged by answers of the other kind.
            self._service.walks.forget()
            self._lookups.reconfigured()
        self._environment.notifier.status(self._status())

    def _tell_dane(self) -> None:
        zones = self._service.settings.zones
        modes = " ".join(f"{name}={zone.dane.value}" for name, zone in zones.items())
        log_event("dane", zones=modes, main_cf="read" if read_main_cf() is not None else "cannot be read")

    # -- reload --------------------------------------------------------------------------------------------

    async def reload(self) -> ReloadResult:
        """Read the configuration again, and say whether it is in force now. A bad one changes nothing."""
        async with self._reloading:
            notifier = self._environment.notifier
            notifier.reloading()
            problems = await self._take_configuration()
            now = self._clock.wall()
            self._reloaded = ReloadResult(now, problems, self._reloaded.succeeded_at if problems else now)
            if problems:
                told = problems[0] if len(problems) == 1 else f"the new one has {len(problems)} problems, see the log"
                notifier.ready(f"the old configuration is in force: {told}")
            else:
                log_event("reloaded")
                notifier.ready(self._status())
            return self._reloaded

    async def _take_configuration(self) -> Sequence[str]:
        """Why the new configuration is not in force; empty where it is."""
        try:
            loaded = await asyncio.to_thread(self._environment.load)
            await self._listen(loaded.config)
            self._swap(loaded)
        except ConfigProblems as error:
            for problem in error.problems:
                log_event("reload-refused", level=logging.ERROR, problem=problem)
            return [str(problem) for problem in error.problems]
        except OSError as error:
            log_event("reload-refused", level=logging.ERROR, problem=error.strerror or error)
            return [error.strerror or str(error)]
        except Exception:
            # A bug. The service manager must not wait for the end of this reload for ever.
            self.counters.unhandled += 1
            logging.getLogger(__name__).exception("reload-failed")
            return ["taking over the new one failed, see the log"]
        return ()

    async def _listen(self, config: Config) -> None:
        """Listen where it says, in all or in nothing."""
        await self._listeners.change(self._wanted(config), config.unix_mode)
        try:
            await self._admin.change(config.admin)
        except OSError:
            await self._listeners.change(self._wanted(self._config), self._config.unix_mode)
            raise
        self._tasks.spawn(self._admin.serve(), "serve admin")

    def _swap(self, loaded: Loaded) -> None:
        config = loaded.config
        old, self._config, self._loaded = self._config, config, loaded
        log.configure(config.log.level, config.log.format, self._environment.environ)
        for section in _RESTART_ONLY:
            if getattr(old, section) != getattr(config, section):
                log_event("restart-needed", level=logging.WARNING, section=section)
        zones = self._service.settings.zones
        self._service.configure(settings_for(config))
        if self._service.settings.zones != zones:
            self._tell_dane()
        self._tlsrpt.configure(config)
        self._lookups.max_connections = config.lookup.max_connections
        self._lookups.ready.limit = config.lookup.ready_replies
        self._lookups.ready.max_bytes = config.lookup.memory_bytes
        self._lookups.reconfigured()
        self._refresher.settings = RefreshSettings(unused_after=config.cache.unused_after)
        if (old.dns, old.https, old.compatibility) != (config.dns, config.https, config.compatibility):
            self._swap_adapters(config)
        if old.dns != config.dns:
            self._service.walks.forget()
        # The operator may have mended the resolver.
        self._tasks.spawn(self._dnssec.look(), "look at dnssec")

    def _swap_adapters(self, config: Config) -> None:
        before = (self._fetcher, self._resolver)
        self._resolver = self._make_resolver(config)
        self._service.resolver = self._service.walks.resolver = self._resolver
        self._service.fetcher = self._fetcher = LazyFetcher(
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
        log_event("stopping")
        if hasattr(self, "_listeners"):
            self._listeners.close()
            hurry = asyncio.get_running_loop().call_later(_HURRY_AFTER, self._service.release_waiters)
            await asyncio.gather(self._lookups.drain(_DRAIN_SECONDS), self._tlsrpt.stop())
            hurry.cancel()
        if hasattr(self, "_admin"):
            await self._admin.close()
        await self._tasks.cancel()
        if hasattr(self, "_fetcher"):
            await self._fetcher.close()
            await self._resolver.close()
        if hasattr(self, "_tlsrpt"):
            await self._tlsrpt.close()
        with suppress(errors.StoreError):
            await store.close()
        log_event("stopped")


def _report_store(error: errors.StoreError) -> None:
    level = logging.WARNING if isinstance(error, errors.StoreDamaged) else logging.ERROR
    log_event("store-problem", level=level, once_a_minute=error.slug, error=error)


async def _close_later(parts: Iterable[PolicyFetcher | Resolver], seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:  # also where the daemon ends before
        for part in parts:
            await part.close()
