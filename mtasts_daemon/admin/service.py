"""What an operator can see of the running daemon, and do to it; how it gets to them is the admin server's.

Everything given is JSON values. Moments are wall-clock seconds since the epoch, times are in seconds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from .. import errors, log
from ..config import Loaded
from ..config.dump import as_json
from ..counters import Counters
from ..diagnose.check.service import CheckService
from ..diagnose.watch.watch import DomainWatch
from ..dns.health import DnssecMonitor
from ..log import log_event
from ..lookup.listeners import Listeners
from ..lookup.refresher import Refresher
from ..lookup.server import LookupServer
from ..lookup.service import PolicyService
from ..lookup.single_flight import InFlight
from ..policy.cache_entry import CacheEntry, next_due, on_load
from ..policy.next_hop import NextHop, NoPolicy, parse_key
from ..ports import Clock
from ..postfix.main_cf import main_cf_value, read_main_cf
from ..public.server import PublicServer
from ..publish.operations import PublishOperations
from ..store import listing
from ..store.policy_store import SqliteStore
from ..tlsrpt.database import overview
from ..tlsrpt.database.results import results, sessions_of
from ..tlsrpt.receive.service import ReceiveService
from ..tlsrpt.service import TlsrptService
from .history import History

if TYPE_CHECKING:
    from ..diagnose.explain import Observed

__all__ = ["AdminService", "Check", "DaemonParts", "ReloadResult"]

_HEARTBEAT_LIMIT = 300.0
_LOOK_EVERY = 60.0
_USED_WITHIN = 2 * 86400.0
_LAG_EVERY = 1.0
_READ_HOLDS = 1.0
_PROBE_HOLDS = 10.0
_PROBE_TIMEOUT = 3.0
_PROBE_WAIT = 0.1
_LANDS_WITHIN = 5.0
_SESSION_DAYS = 7


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """How the last reading of the configuration ended, and when; ``problems`` say why it is not in force."""

    at: float
    problems: Sequence[str] = ()
    succeeded_at: float = 0.0
    """When the one in force was taken over."""


@dataclass(frozen=True, slots=True)
class DaemonParts:
    """The parts of the daemon that are there as long as it is."""

    service: PolicyService
    store: SqliteStore
    lookups: LookupServer
    listeners: Listeners
    refresher: Refresher
    dnssec: DnssecMonitor
    tlsrpt: TlsrptService
    receive: ReceiveService
    publish: PublishOperations
    public: PublicServer
    history: History
    counters: Counters
    clock: Clock
    configuration: Callable[[], Loaded]
    """What is in force."""
    reload: Callable[[], Awaitable[ReloadResult]]
    reloaded: Callable[[], ReloadResult]
    """The last time."""
    failures: Callable[[], Mapping[str, str]]
    """Parts, listeners and background tasks that do not work: name to reason."""
    checks: CheckService
    watch: DomainWatch
    probe_resolver: Callable[[], Awaitable[bool | None]]
    """Asks DNS; None where no answer came."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to work, and what was found."""

    name: str
    ok: bool
    detail: str


class AdminService:
    """One for the life of the daemon. Everything raises ``StoreError`` where the store does."""

    def __init__(self, parts: DaemonParts) -> None:
        self.parts = parts
        self.overview = listing.Overview()
        """What is stored, as of the last ``look``."""
        self.mx_mismatches: Sequence[str] = ()
        """Domains used lately whose policy permits none of their MX hosts, the latest used first."""
        self.reports: overview.Reports | None = None
        """What has become of TLS reports, as of the last ``look``; None where no results are collected."""
        self.started_at = parts.clock.wall()
        self._probe: asyncio.Task[bool | None] | None = None
        self._answer: bool | None = None
        self._probed = self._store_read = float("-inf")

    # -- seeing --------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Count what is stored; takes a while, so once a minute is often enough."""
        parts = self.parts
        now = parts.clock.wall()
        try:
            used_since = now - parts.refresher.settings.unused_after
            self.overview = await parts.store.browse(listing.overview(now, used_since))
        except errors.StoreError as error:
            log_event("store-read-failed", level=logging.ERROR, once_a_minute="overview", error=error)
        await self.find_mx_mismatches()
        database = parts.tlsrpt.database
        try:
            self.reports = None if database is None else await overview.reports(database, now)
        except errors.StoreError as error:
            log_event("tlsrpt-database-failed", level=logging.ERROR, once_a_minute="overview", error=error)

    async def find_mx_mismatches(self) -> None:
        """Find out of which domains it still holds that they cannot be delivered to."""
        store, now, found = self.parts.store, self.parts.clock.wall(), self.parts.service.mx_mismatches.domains
        try:
            # What nobody mails to any more need not be looked at, however broken.
            call = listing.enforced(found, now, now - _USED_WITHIN)
            self.mx_mismatches = await store.browse(call) if found else ()
        except errors.StoreError as error:
            log_event("store-read-failed", level=logging.ERROR, once_a_minute="overview", error=error)

    async def watch(self) -> None:
        """Look at the event loop every second and count everything once a minute, for ever."""
        parts = self.parts
        look_at = parts.clock.monotonic()
        while True:
            now = parts.clock.monotonic()
            if now >= look_at:
                look_at = now + _LOOK_EVERY
                parts.history.sample(parts.clock.wall(), now)
                await self.look()
            asked = parts.clock.monotonic()
            await asyncio.sleep(_LAG_EVERY)
            parts.counters.loop_lag.add(max(parts.clock.monotonic() - asked - _LAG_EVERY, 0.0))

    async def checks(self) -> list[Check]:
        """Whether the daemon can do its work, one thing after another."""
        parts = self.parts
        addresses = parts.listeners.addresses
        age = parts.clock.monotonic() - parts.refresher.heartbeat
        return [
            Check("listeners", bool(addresses), ", ".join(addresses) or "nothing is listened on"),
            await self._check_store(),
            await self._check_resolver(),
            Check("refresher", age < _HEARTBEAT_LIMIT, f"last round {age:.0f} s ago"),
            *(Check(name, False, reason) for name, reason in sorted(parts.failures().items())),
        ]

    async def _check_store(self) -> Check:
        store = self.parts.store
        if (reason := store.memory_reason) is not None:
            return Check("store", False, f"{store.file} cannot be written: {reason}; policies are in memory only")
        now = self.parts.clock.monotonic()
        if now - self._store_read > _READ_HOLDS:
            try:
                await store.browse(lambda connection: connection.execute("SELECT 1 FROM entry LIMIT 1").fetchone())
            except errors.StoreError as error:
                return Check("store", False, error.sentence)
            self._store_read = now
        if store.write_failure is not None:
            return Check("store", False, f"{store.path} cannot be written: {store.write_failure.sentence}")
        return Check("store", True, store.path)

    async def _check_resolver(self) -> Check:
        """An answer is used for a while, so that who asks often costs nothing; and none is waited for very long."""
        now = self.parts.clock.monotonic()
        if self._probe is None or (self._probe.done() and now - self._probed > _PROBE_HOLDS):
            self._probed = now
            self._probe = asyncio.create_task(self._ask_resolver(), name="probe resolver")
        done, _ = await asyncio.wait([self._probe], timeout=_PROBE_WAIT)
        if done:
            self._answer = self._probe.result()
        found = self._answer
        words = {True: "DNSSEC is validated", False: "DNSSEC is not validated: DANE is off", None: "no answer came"}
        return Check("resolver", found is not None, words[found])

    async def _ask_resolver(self) -> bool | None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                return await self.parts.probe_resolver()
        except TimeoutError:
            return None

    async def entries(self, query: listing.Query) -> listing.Page:
        """A page of what is stored."""
        return await self.parts.store.browse(listing.page(query))

    async def entry(self, domain: str) -> dict[str, Any] | None:
        """All that is known of a policy domain."""
        slot = self.parts.service.policy_cache.get(domain)
        entry = slot.entry if slot is not None else None
        stored = await self.parts.store.get(domain)
        entry = entry or stored
        if entry is None:
            return None
        now, held = self.parts.clock.wall(), entry.held
        told = asdict(replace(entry, held=None))
        told["held"] = None
        if held is not None:
            told["held"] = {
                "record_id": held.record_id,
                "mode": held.policy.mode.value,
                "mx": [pattern.text for pattern in held.policy.mx],
                "max_age": held.policy.max_age,
                "fetched_at": held.fetched_at,
                "valid_until": held.valid_until,
                "live": entry.live(now) is not None,
                "lines": list(held.policy.lines),
            }
        told["due_at"] = next_due(entry, self.parts.service.settings.rules)
        told["stored"] = stored is not None
        told["in_memory"] = slot is not None
        return told

    async def explain(self, key: str, live: bool) -> dict[str, Any]:
        """Why a key is answered as it is, by what the daemon knows, or by discovery beside it."""
        from ..diagnose.explain import explain  # the first lookup is not to wait for what few ask for

        service, now = self.parts.service, self.parts.clock.wall()
        hop = parse_key(key.encode("utf-8", "surrogateescape"))
        entry = verdict = None
        if isinstance(hop, NextHop):
            slot = service.policy_cache.get(hop.policy_domain)
            entry = slot.entry if slot is not None else None
            if entry is None and (stored := await self.parts.store.get(hop.policy_domain)) is not None:
                entry = on_load(stored, now)
            verdict = service.dane_cache.last(hop) if service.dane_trusted else None
        ports = (service.resolver, service.fetcher) if live else None
        observed = await self._observed(hop, now)
        told = await explain(key, service.settings, entry, now, ports, self.parts.dnssec.state, verdict, observed)
        return told.as_json()

    async def _observed(self, hop: NextHop | NoPolicy, now: float) -> "Observed":
        """Return what the daemon has observed of a next-hop: deferrals, and TLS results of the last days."""
        from ..diagnose.explain import Observed
        from ..diagnose.verdict import TlsSessions, map_name_of

        service = self.parts.service
        main_cf = await asyncio.to_thread(read_main_cf)
        maps = "" if main_cf is None else main_cf_value(main_cf, "smtp_tls_policy_maps")
        name = map_name_of(maps, service.settings.zones, service.settings.default_zone)
        if not isinstance(hop, NextHop):
            return Observed(name)
        deferred = service.deferred.get(hop.policy_domain)
        sessions = None
        with suppress(errors.StoreError):  # the verdict is then made without TLS results
            sessions = await sessions_of(self.parts.tlsrpt.database, hop.policy_domain, now, _SESSION_DAYS)
        seen = None if sessions is None else TlsSessions(_SESSION_DAYS, *sessions)
        return Observed(name, "" if deferred is None else deferred.reason, seen)

    async def tls_results(self, days: int) -> dict[str, Any]:
        """How TLS went in the last days, as ``tlsrpt.results`` has it."""
        return await results(self.parts.tlsrpt.database, self.parts.clock.wall(), days)

    def overrides(self) -> dict[str, Any]:
        """The operator's word on single domains, as it is in force."""
        loaded = self.parts.configuration()
        return {
            domain: {
                **override.model_dump(exclude_none=True, exclude_defaults=True),
                "origin": loaded.origin(f"overrides.{domain}.reason"),
            }
            for domain, override in loaded.config.overrides.items()
        }

    def config(self) -> dict[str, Any]:
        """The configuration in force, and where each value is from."""
        return as_json(self.parts.configuration())

    @property
    def sends_reports(self) -> bool:
        """Whether TLS results are collected and the configuration says who reports, so that reports are sent."""
        settings = self.parts.configuration().config.tlsrpt
        told = settings.organization and settings.contact and settings.sender
        return bool(told) and self.parts.tlsrpt.database is not None

    # -- doing ---------------------------------------------------------------------------------------------

    async def refresh(self, domain: str) -> dict[str, Any] | None:
        """Ask DNS and the policy host again, now, whatever is known; the entry then."""
        service = self.parts.service
        log_event("refresh-asked-for", domain=domain)
        stored = await self.parts.store.get(domain)
        await self._landed(domain)
        await service.discovery.force_refresh(domain, stored)
        return await self.entry(domain)

    async def purge(self, domain: str) -> bool:
        """Forget all that is known of a domain; whether anything was. It is discovered anew when it is asked for."""
        service = self.parts.service
        # A flight would put what it knew back; one that takes long has yet to hear of what it will know.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LANDS_WITHIN):
                await self._landed(domain)
        stored = await self.parts.store.delete(domain)
        slot = service.policy_cache.get(domain)
        if slot is not None:
            service.policy_cache.drop(slot)
        log_event("policy-purged", level=logging.WARNING, domain=domain, stored=stored)
        return stored or slot is not None

    async def keep(self, entries: Sequence[CacheEntry]) -> Mapping[str, int]:
        """Take over entries from elsewhere, where nothing newer is known; how many were ``kept`` and ``older``."""
        counts = {"kept": 0, "older": 0}
        rules, service = self.parts.service.settings.rules, self.parts.service
        for entry in entries:
            held, known = entry.held, await self.parts.store.get(entry.domain)
            ours = known.held if known is not None else None
            if ours is not None and held is not None and ours.fetched_at >= held.fetched_at:
                counts["older"] += 1
                continue
            counts["kept"] += 1
            await self.parts.store.put(entry, next_due(entry, rules))
            slot = service.policy_cache.get(entry.domain)
            if slot is not None and slot.flight is None:
                service.policy_cache.drop(slot)
        log_event("entries-imported", kept=counts["kept"], older=counts["older"])
        return counts

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again; whether it is in force."""
        found = await self.parts.reload()
        return {"at": found.at, "ok": not found.problems, "problems": list(found.problems)}

    def set_log_level(self, level: str) -> None:
        """Until the next reload; one of ``observe.LEVELS``."""
        log_event("log-level", level=logging.WARNING, was=log.level(), now=level)
        log.set_level(level)

    async def _landed(self, domain: str) -> None:
        """Wait until no flight of the domain is under way."""
        memory = self.parts.service.policy_cache
        while (slot := memory.get(domain)) is not None and slot.flight is not None:
            # It may settle more than once: early, at its deadline, and at its end.
            await _settled(slot.flight)


async def _settled(flight: InFlight) -> None:
    settled = asyncio.Event()
    flight.when_settled(lambda _now: settled.set())
    await settled.wait()
