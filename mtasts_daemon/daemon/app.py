"""The daemon: build its parts, serve until SIGTERM, reload on SIGHUP, shut down in order.

Lookup listeners are essential; the daemon ends if none can be opened. Everything else is retried in the background.
"""

import asyncio
import importlib
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from .. import __version__, errors, log
from ..clock import SystemClock
from ..config import Config, Loaded, ReloadResult
from ..config.values import Listen
from ..counters import Counters
from ..dns.health import DnssecMonitor, ResolverHealth, validates
from ..dns.resolver import DnsCounters, DnsResolver
from ..https.untrusted_loop import UntrustedLoop
from ..log import log_event
from ..lookup.listeners import Listeners
from ..lookup.server import LookupServer
from ..lookup.service import PolicyService
from ..postfix.main_cf import read_main_cf
from ..store.policy_store import SqliteStore, StoreLimits, open_store
from .adapters import LOOKUPS_FIRST, Adapters
from .parts import OptionalParts
from .reload import Reloader, wanted_listeners
from .systemd import Activation, Notifier
from .tasks import Tasks
from .tuning import collect_garbage_rarely, switch_threads_quickly, tune_malloc
from .wiring import fetcher_for, resolver_for, settings_for, zones_for

if TYPE_CHECKING:
    from ..admin.service import AdminService
    from ..policy.findings import Finding
    from ..tlsrpt.service import TlsrptService

__all__ = ["Daemon", "Environment"]

_TLSRPT = "mtasts_daemon.tlsrpt.service"
_LATE_PARTS = "mtasts_daemon.daemon.late_parts"

_AD_SECONDS = 3600.0
"""An answer with a trusted AD bit proves for this time that the resolver validates."""

_DRAIN_SECONDS = 3.0
_RELEASE_AFTER = 2.0
"""Seconds at shutdown for pending lookups; then they are answered from cached data."""

_STATUS_EVERY = 30.0
_HEARTBEAT_LIMIT = 300.0
_MAIN_CF_EVERY = 15.0
_RETRY_PARTS_EVERY = 30.0


class Environment(NamedTuple):
    """The environment of the process. ``load`` reads the configuration again; it raises ConfigProblems."""

    load: Callable[[], Loaded]
    environ: Mapping[str, str]
    activation: Activation
    notifier: Notifier
    watchdog: float | None
    """Seconds between two watchdog notifications, if systemd asks for them."""


class Daemon:
    """One life of the daemon: ``await Daemon(environment, loaded).run()``.

    Raises OSError if no lookup listener can be opened at the start.
    """

    def __init__(self, environment: Environment, loaded: Loaded) -> None:
        self._environment = environment
        self.counters = Counters()
        self._dns_counters = DnsCounters()
        self._clock = SystemClock()
        self._tasks = Tasks(self.counters)
        self._optional = OptionalParts(self.counters)
        self._reloader = Reloader(
            loaded, environment.load, environment.notifier, self._clock, self.counters, self._status
        )
        self._tlsrpt: TlsrptService | None = None
        self._stop = asyncio.Event()
        self._built = asyncio.Event()

    @property
    def _config(self) -> Config:
        return self._reloader.loaded.config

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, which may arrive before the daemon is ready."""
        switch_threads_quickly()
        self._take_signals()
        for name in self._reloader.loaded.ignored:
            log_event("environment-variable-ignored", level=logging.WARNING, name=name)
        async with AsyncExitStack() as closing:
            closing.callback(log_event, "stopped")
            try:
                await self._build(closing)
                if not self._stop.is_set():
                    self._start()
                self._built.set()
                await self._stop.wait()
            finally:
                self._environment.notifier.stopping()
                log_event("stopping")

    # -- building ------------------------------------------------------------------------------------------

    async def _build(self, closing: AsyncExitStack) -> None:
        """Make every part. ``closing`` stops them in reverse order."""
        config, environment = self._config, self._environment
        self._store = await self._open_store()
        closing.push_async_callback(self._close_store)
        self._health = ResolverHealth(
            lambda: self._adapters.resolver.probe(),
            lambda: self._adapters.resolver.addresses,
            lambda seconds: self._adapters.resolver.answered_within(seconds),
            lambda reason: self._adapters.resolver.set_down(reason),
            self._tasks.spawn,
            asyncio.sleep,
        )
        untrusted_loop = UntrustedLoop()
        closing.push_async_callback(untrusted_loop.close)
        self._adapters = Adapters(
            config,
            self._make_resolver,
            lambda config, resolver: fetcher_for(config, resolver, untrusted_loop),
            self._tasks.spawn,
        )
        closing.push_async_callback(self._close_tlsrpt)
        closing.push_async_callback(self._adapters.close)
        closing.push_async_callback(self._tasks.cancel)
        self._build_lookups(config)
        closing.push_async_callback(self._optional.stop)
        closing.push_async_callback(self._drain)
        for warning in environment.activation.warnings:
            log_event("socket-activation", level=logging.WARNING, problem=warning)
        # A socket of this process must be open before Postfix has results; one of systemd keeps them.
        tlsrpt = None if config.tlsrpt.socket is None else await self._start_tlsrpt(untrusted_loop)
        for inherited in environment.activation.sockets:
            await self._listeners.inherit(inherited.protocol, inherited.listen, inherited.sock)
        await self._listeners.open(self._wanted(config), config.unix_mode)
        await asyncio.sleep(LOOKUPS_FIRST)
        tlsrpt = tlsrpt or await self._start_tlsrpt(untrusted_loop)
        await self._build_late_parts(environment, tlsrpt)
        await self._optional.configure(config)

    async def _start_tlsrpt(self, untrusted_loop: UntrustedLoop) -> "TlsrptService":
        """Begin to collect TLS results."""
        await asyncio.to_thread(importlib.import_module, _TLSRPT)
        from ..tlsrpt.service import TlsrptService

        environment = self._environment
        self._tlsrpt = TlsrptService(
            self._config,
            environment.environ,
            environment.activation.tlsrpt,
            lambda: self._adapters.resolver,
            self._clock,
            untrusted_loop,
        )
        await self._tlsrpt.start()
        return self._tlsrpt

    async def _build_late_parts(self, environment: Environment, tlsrpt: "TlsrptService") -> None:
        """Make the parts that lookups do not depend on; lookups are answered meanwhile."""
        await asyncio.to_thread(importlib.import_module, _LATE_PARTS)
        from .late_parts import AdminListeners, ReceivingProcess, Refresher, RefreshSettings, StoreRecovery

        refreshing = RefreshSettings(self._config.cache.unused_after)
        self._refresher = Refresher(self._service, self._store, self._clock, self._tasks.spawn, refreshing)
        self._recovery = StoreRecovery(self._store, (tlsrpt,), self._service, self._clock)
        self._receiving = ReceivingProcess(environment.environ, environment.activation)
        self._optional.add(self._receiving)
        self._admin = self._make_admin(tlsrpt)
        self._optional.add(AdminListeners(environment.environ, self._admin))

    def _build_lookups(self, config: Config) -> None:
        self._service = PolicyService(
            settings_for(config, read_main_cf()),
            resolver=self._adapters.resolver,
            fetcher=self._adapters.fetcher,
            store=self._store,
            clock=self._clock,
            spawn=self._tasks.spawn,
            counters=self.counters,
            on_finding=self._on_finding,
        )
        self._lookups = LookupServer(
            self._service,
            self.counters,
            max_connections=config.lookup.max_connections,
            max_replies=config.lookup.ready_replies,
            max_reply_bytes=config.lookup.memory_bytes,
        )
        self._dnssec = DnssecMonitor(self._probe_dnssec, self._dnssec_changed, asyncio.sleep)
        self._listeners = Listeners(self._lookups)

    async def _open_store(self) -> SqliteStore:
        limits = StoreLimits(self._config.store.max_policies, self._config.store.max_bytes)
        path = self._config.store.file(self._environment.environ)
        store = await open_store(path, limits=limits, now=self._clock.wall(), report=_report_store, in_memory=True)
        event = "store-problem" if store.memory_reason is None else "store-in-memory"
        for problem in store.problems:
            log_event(event, level=logging.WARNING, path=path, error=problem)
        return store

    def _make_resolver(self, config: Config) -> DnsResolver:
        return resolver_for(config, self._resolvers_changed, self._dns_counters, self._health.suspect)

    def _make_admin(self, tlsrpt: "TlsrptService") -> "AdminService":
        from .late_parts import AdminService, DaemonParts, History

        return AdminService(
            DaemonParts(
                service=self._service,
                store=self._store,
                lookups=self._lookups,
                listeners=self._listeners,
                refresher=self._refresher,
                dnssec=self._dnssec,
                tlsrpt=tlsrpt,
                receiving=self._receiving,
                history=History(self.counters),
                counters=self.counters,
                clock=self._clock,
                configuration=lambda: self._reloader.loaded,
                reload=self.reload,
                reloaded=lambda: self._reloader.result,
                check_resolver=self._health.check,
                failures=self._failures,
            )
        )

    def _wanted(self, config: Config) -> Sequence[Listen]:
        return wanted_listeners(config, bool(self._environment.activation.sockets))

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.spawn(self.reload(), "reload"))

    def _start(self) -> None:
        self._tasks.supervise(self._refresher.run, "refresher")
        self._tasks.supervise(self._recovery.run, "store-recovery")
        self._tasks.supervise(self._notify_status, "status")
        self._tasks.supervise(self._admin.watch, "admin-statistics")
        self._health.suspect()
        self._tasks.supervise(self._dnssec.run, "dnssec")
        if self._tlsrpt is not None:
            self._tasks.supervise(self._tlsrpt.deliver, "tlsrpt-delivery")
        self._tasks.supervise(self._receiving.run, "receiving-process")
        self._tasks.supervise(self._retry_parts, "retry-parts")
        self._tasks.supervise(self._watch_main_cf, "main-cf")
        self._log_dane()
        collect_garbage_rarely()
        tune_malloc()
        self._environment.notifier.ready(self._status())
        log_event("ready", version=__version__, pid=os.getpid())

    # -- running -------------------------------------------------------------------------------------------

    def _on_finding(self, finding: "Finding") -> None:
        if self._tlsrpt is not None:
            self._tlsrpt.on_finding(finding)

    def _failures(self) -> dict[str, str]:
        """Return what does not work: name to reason."""
        own = self._adapters.fetcher.own_failure
        return {
            **self._tasks.failing,
            **self._optional.failures,
            **self._listeners.failures,
            **({} if own is None else {"https": own}),
        }

    async def _probe_dnssec(self) -> bool | None:
        if self._config.dns.bogus_probe is None and self._adapters.resolver.authenticated_within(_AD_SECONDS):
            return True
        return await validates(self._adapters.resolver, self._config.dns.dnssec_probe, self._config.dns.bogus_probe)

    def _resolvers_changed(self, resolvers: Sequence[str]) -> None:
        log_event("resolvers", ask=",".join(resolvers))
        self._adapters.resolver.forget_authenticated()
        self._tasks.spawn(self._dnssec.check(), "probe-dnssec")

    def _dnssec_changed(self, validates: bool) -> None:
        if self._service.trust_dane(validates):
            self._lookups.reconfigured()
        self._environment.notifier.status(self._status())

    def _log_dane(self) -> None:
        zones = self._service.settings.zones
        modes = " ".join(f"{name}={zone.dane.value}" for name, zone in zones.items())
        log_event("dane", zones=modes, main_cf="read" if read_main_cf() is not None else "cannot be read")

    async def _watch_main_cf(self) -> None:
        """Take over what Postfix changed in main.cf, so that no reply is below its own level."""
        while True:
            await asyncio.sleep(_MAIN_CF_EVERY)
            main_cf = await asyncio.to_thread(read_main_cf)
            if zones_for(self._config, main_cf) != self._service.settings.zones:
                self._service.configure(settings_for(self._config, main_cf))
                self._lookups.reconfigured()
                self._log_dane()

    async def _retry_parts(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_PARTS_EVERY)
            await self._listeners.retry(self._config.unix_mode)
            await self._optional.retry(self._config)

    async def _notify_status(self) -> None:
        environment = self._environment
        every = min(environment.watchdog or _STATUS_EVERY, _STATUS_EVERY)
        notified_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(every)
            now = self._clock.monotonic()
            # Without a live refresher all policies would expire: let the watchdog restart the daemon.
            if environment.watchdog is not None and now - self._refresher.heartbeat < _HEARTBEAT_LIMIT:
                environment.notifier.watchdog()
            if now - notified_at >= _STATUS_EVERY:
                notified_at = now
                environment.notifier.status(self._status())

    def _status(self) -> str:
        listening = ", ".join(self._listeners.addresses)
        dane = {
            True: "DNSSEC is validated",
            False: "DNSSEC is not validated, DANE is off",
            None: "DNSSEC is not known yet",
        }
        known = len(self._service.policy_cache)
        return f"{known} domains known, {self.counters.lookups} lookups, {dane[self._dnssec.state]}, on {listening}"

    # -- reload --------------------------------------------------------------------------------------------

    async def reload(self) -> ReloadResult:
        """Read the configuration and put it in force; a configuration with a problem changes nothing."""
        await self._built.wait()
        activated = bool(self._environment.activation.sockets)
        return await self._reloader.reload(self._listeners, activated, self._configure, self._optional)

    def _configure(self, old: Config, new: Config) -> None:
        log.configure(new.log.level, new.log.format, self._environment.environ)
        zones = self._service.settings.zones
        self._service.configure(settings_for(new, read_main_cf()))
        if self._service.settings.zones != zones:
            self._log_dane()
        if self._tlsrpt is not None:
            self._tlsrpt.configure(new)
        resolver_changed = self._adapters.configure(new)
        self._service.use(self._adapters.resolver, self._adapters.fetcher, forget_dane=resolver_changed)
        lookup = new.lookup
        self._lookups.configure(lookup.max_connections, lookup.ready_replies, lookup.memory_bytes)
        self._refresher.settings = replace(self._refresher.settings, unused_after=new.cache.unused_after)
        # The resolver may validate now, or no longer.
        self._adapters.resolver.forget_authenticated()
        self._tasks.spawn(self._dnssec.check(), "probe-dnssec")

    # -- shutdown ------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Accept no more lookups, and answer those that are pending."""
        self._listeners.close()
        release = asyncio.get_running_loop().call_later(_RELEASE_AFTER, self._service.release_waiters)
        stopping = [] if self._tlsrpt is None else [self._tlsrpt.stop()]
        await asyncio.gather(self._lookups.drain(_DRAIN_SECONDS), *stopping)
        release.cancel()

    async def _close_tlsrpt(self) -> None:
        if self._tlsrpt is not None:
            await self._tlsrpt.close()

    async def _close_store(self) -> None:
        with suppress(errors.StoreError):
            await self._store.close()


def _report_store(error: errors.StoreError) -> None:
    level = logging.WARNING if isinstance(error, errors.StoreDamaged) else logging.ERROR
    log_event("store-problem", level=level, once_a_minute=error.slug, error=error)
