"""The operator's view of the running daemon and its commands, without HTTP.

Results are JSON values. Points in time are wall-clock seconds since the epoch, durations are seconds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from .. import errors, log
from ..config import Loaded, ReloadResult
from ..config.dump import as_json
from ..counters import Counters
from ..dns.health import DnssecMonitor
from ..log import log_event
from ..lookup.deferred_domains import DeferredDomain
from ..lookup.listeners import Listeners
from ..lookup.refresher import Refresher
from ..lookup.server import LookupServer
from ..lookup.service import PolicyService
from ..lookup.single_flight import InFlight
from ..policy.cache_entry import CacheEntry, CacheEvent, next_due, on_load
from ..policy.next_hop import NextHop, NoPolicy, parse_key
from ..ports import Clock
from ..postfix.main_cf import read_main_cf
from ..store import listing
from ..store.policy_store import SqliteStore
from ..tlsrpt.database import overview
from ..tlsrpt.database.results import results, sessions_of
from ..tlsrpt.service import TlsrptService
from .checks import Check, StoreCheck, authorities_check, resolver_check
from .history import History
from .receiving_client import ReceivingGateway, ReceivingUnavailable

if TYPE_CHECKING:
    from ..diagnose.explain import ObservedMail
    from ..diagnose.explanation import Step

    OnStep = Callable[[Step], None]

__all__ = ["AdminService", "DaemonParts"]

_HEARTBEAT_LIMIT = 300.0
_COUNT_EVERY = 60.0
_USED_WITHIN = 2 * 86400.0
_LAG_EVERY = 1.0
_AUTHORITIES_EVERY = 60.0
_PURGE_WAIT = 5.0
_MX_MISMATCH = "policy-permits-no-mx-host"
_SESSION_DAYS = 7


@dataclass(frozen=True, slots=True)
class DaemonParts:
    """The parts of the daemon; they live as long as the process."""

    service: PolicyService
    store: SqliteStore
    lookups: LookupServer
    listeners: Listeners
    refresher: Refresher
    dnssec: DnssecMonitor
    tlsrpt: TlsrptService
    receiving: ReceivingGateway
    history: History
    counters: Counters
    clock: Clock
    configuration: Callable[[], Loaded]
    """The configuration in force."""
    reload: Callable[[], Awaitable[ReloadResult]]
    reloaded: Callable[[], ReloadResult]
    """The last reload."""
    failures: Callable[[], Mapping[str, str]]
    """Parts, listeners and background tasks that failed: name to reason."""
    check_resolver: Callable[[], Awaitable[errors.DnsError | None]]
    """Return why the resolvers fail, or None. Waits up to 3 s if nothing was answered in the last 10 s."""


class AdminService:
    """The operator's view and commands. One instance for the life of the daemon.

    Methods raise StoreError if the store fails.
    """

    def __init__(self, parts: DaemonParts) -> None:
        self.parts = parts
        self.overview = listing.Overview()
        """Counts of the stored policies, updated every minute and for a status."""
        self._counted_at = float("-inf")
        self.deferred: Sequence[DeferredDomain] = ()
        """Domains whose mail is deferred now, the latest first."""
        self.reports: overview.ReportTotals | None = None
        """Counts of TLS reports, updated every minute; None if no TLS results are collected."""
        self.started_at = parts.clock.wall()
        self._store = StoreCheck(parts.store, parts.clock)
        self._authorities: tuple[float, Check | None] = (float("-inf"), None)

    # -- state ---------------------------------------------------------------------------------------------

    async def count_policies(self, max_age: float) -> None:
        """Count the stored policies and the deferred domains, unless that is less than ``max_age`` seconds ago."""
        parts, moment = self.parts, self.parts.clock.monotonic()
        if moment - self._counted_at >= max_age:
            self._counted_at = moment
            now = parts.clock.wall()
            try:
                used_since = now - parts.refresher.settings.unused_after
                self.overview = await parts.store.browse(listing.overview(now, used_since))
            except errors.StoreError as error:
                log_event("store-read-failed", level=logging.ERROR, once_a_minute="overview", error=error)
        await self.find_deferred()

    async def count(self) -> None:
        """Count everything, for metrics. Slow, so it is called once a minute."""
        await self.count_policies(0.0)
        database, now = self.parts.tlsrpt.database, self.parts.clock.wall()
        try:
            self.reports = None if database is None else await overview.reports(database, now)
        except errors.StoreError as error:
            log_event("tlsrpt-database-failed", level=logging.ERROR, once_a_minute="overview", error=error)

    async def find_deferred(self) -> None:
        """Update ``deferred``: lookups with a deferring reply, and enforced policies that permit no MX host."""
        store, now, found = self.parts.store, self.parts.clock.wall(), self.parts.service.mx_mismatches.domains
        try:
            # A broken policy is no problem if no mail is sent to the domain.
            call = listing.enforced(found, now, now - _USED_WITHIN)
            mismatches = tuple(await store.browse(call)) if found else ()
        except errors.StoreError as error:
            log_event("store-read-failed", level=logging.ERROR, once_a_minute="overview", error=error)
            return
        deferred = self.parts.service.deferred
        for domain in mismatches:
            if deferred.get(domain) is None:
                deferred.observe(domain, _MX_MISMATCH)
        for known in deferred.list():
            if known.reason == _MX_MISMATCH and known.domain not in mismatches:
                # The policy or the MX records were corrected, although no lookup came since.
                deferred.observe(known.domain, "")
        self.deferred = deferred.list()

    async def watch(self) -> None:
        """Measure the event loop's lag every second and count everything once a minute, until cancelled."""
        parts = self.parts
        count_at = parts.clock.monotonic()
        while True:
            now = parts.clock.monotonic()
            if now >= count_at:
                count_at = now + _COUNT_EVERY
                parts.history.sample(parts.clock.wall(), now)
                await self.count()
            before = parts.clock.monotonic()
            await asyncio.sleep(_LAG_EVERY)
            parts.counters.loop_lag.add(max(parts.clock.monotonic() - before - _LAG_EVERY, 0.0))

    async def checks(self) -> list[Check]:
        """Return the result of every check. Waits up to 3 s if no resolver has answered in the last 10 s."""
        parts = self.parts
        addresses = parts.listeners.addresses
        age = parts.clock.monotonic() - parts.refresher.heartbeat
        authorities = await self._check_authorities()
        failures = {**parts.failures(), **(await parts.receiving.state()).failures}
        return [
            Check("listeners", bool(addresses), ", ".join(addresses) or "no listener is open"),
            await self._store.result(),
            resolver_check(await parts.check_resolver(), parts.dnssec.state),
            Check("refresher", age < _HEARTBEAT_LIMIT, f"last round {age:.0f} s ago"),
            *([authorities] if authorities is not None else []),
            *(Check(name, False, reason) for name, reason in sorted(failures.items())),
        ]

    async def _check_authorities(self) -> Check | None:
        now = self.parts.clock.monotonic()
        if now - self._authorities[0] > _AUTHORITIES_EVERY:
            ca_file = self.parts.configuration().config.https.ca_file
            self._authorities = (now, await asyncio.to_thread(authorities_check, ca_file))
        return self._authorities[1]

    async def entries(self, query: listing.Query) -> listing.Page:
        """Return a page of stored policies."""
        return await self.parts.store.browse(listing.page(query))

    async def entry(self, domain: str) -> dict[str, Any] | None:
        """Return everything that is known of a policy domain, or None."""
        slot = self.parts.service.policy_cache.get(domain)
        entry = slot.entry if slot is not None else None
        stored = await self.parts.store.get(domain)
        entry = entry or stored
        if entry is None:
            return None
        now, held = self.parts.clock.wall(), entry.held
        found = asdict(replace(entry, held=None))
        found["held"] = None
        if held is not None:
            found["held"] = {
                "record_id": held.record_id,
                "mode": held.policy.mode.value,
                "mx": [pattern.text for pattern in held.policy.mx],
                "max_age": held.policy.max_age,
                "fetched_at": held.fetched_at,
                "valid_until": held.valid_until,
                "live": entry.live(now) is not None,
                "lines": list(held.policy.lines),
            }
        found["due_at"] = next_due(entry, self.parts.service.settings.rules)
        found["stored"] = stored is not None
        found["in_memory"] = slot is not None
        return found

    async def explain(self, key: str, *, live: bool, on_step: "OnStep | None" = None) -> dict[str, Any]:
        """Explain the reply for a key, from what the daemon knows or by live discovery, which changes nothing."""
        from ..diagnose.explain import explain  # imported here: few requests need it

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
        await self.find_deferred()
        observed = await self._observed(hop, now)
        state = self.parts.dnssec.state
        found = await explain(key, service.settings, entry, now, ports, state, verdict, observed, on_step)
        deferral = None if found.policy_domain is None else service.deferred.get(found.policy_domain)
        return {**found.as_json(), "deferred_since": None if deferral is None else deferral.since}

    async def _observed(self, hop: NextHop | NoPolicy, now: float) -> "ObservedMail":
        """Return the daemon's observations about a next hop: deferrals, and TLS results of the last days."""
        from ..diagnose.explain import ObservedMail
        from ..diagnose.policy_map import policy_map
        from ..diagnose.verdict import TlsSessions

        service = self.parts.service
        main_cf = await asyncio.to_thread(read_main_cf)
        asked = policy_map(main_cf, service.settings.zones, service.settings.default_zone)
        if not isinstance(hop, NextHop):
            return ObservedMail(asked)
        deferred = service.deferred.get(hop.policy_domain)
        sessions = None
        with suppress(errors.StoreError):  # the verdict is then made without TLS results
            sessions = await sessions_of(self.parts.tlsrpt.database, hop.policy_domain, now, _SESSION_DAYS)
        seen = None if sessions is None else TlsSessions(_SESSION_DAYS, *sessions)
        return ObservedMail(asked, "" if deferred is None else deferred.sentence, seen)

    async def tls_results(self, days: int) -> dict[str, Any]:
        """Return the TLS results of the last days, as ``tlsrpt.database.results`` documents them."""
        return await results(self.parts.tlsrpt.database, self.parts.clock.wall(), days)

    def overrides(self) -> dict[str, Any]:
        """Return the overrides in force, with the place that sets each."""
        loaded = self.parts.configuration()
        return {
            domain: {
                **override.model_dump(exclude_none=True, exclude_defaults=True),
                "origin": loaded.origin(f"overrides.{domain}.reason"),
            }
            for domain, override in loaded.config.overrides.items()
        }

    def config(self) -> dict[str, Any]:
        """Return the configuration in force and the origin of each value."""
        return as_json(self.parts.configuration())

    @property
    def sends_reports(self) -> bool:
        """True if TLS results are collected and the configuration names the reporting organization."""
        settings = self.parts.configuration().config.tlsrpt
        named = settings.organization and settings.contact and settings.sender
        return bool(named) and self.parts.tlsrpt.database is not None

    # -- commands ------------------------------------------------------------------------------------------

    async def refresh(self, domain: str, on_step: "OnStep | None" = None) -> dict[str, Any] | None:
        """Query DNS and the policy host now, and return the entry. ``on_step`` is called with each step."""
        from ..diagnose.refresh_steps import refresh_step

        def on_event(event: CacheEvent) -> None:
            if on_step is not None:
                on_step(refresh_step(domain, event))

        service = self.parts.service
        log_event("refresh-requested", domain=domain)
        stored = await self.parts.store.get(domain)
        await self._wait_for_discovery(domain)
        # It goes on if the client disconnects: lookups may wait for it.
        work = service.discovery.force_refresh(domain, stored, on_event)
        await asyncio.shield(asyncio.create_task(work, name=f"refresh {domain}"))
        return await self.entry(domain)

    async def purge(self, domain: str) -> bool:
        """Remove everything that is known of a domain. Return True if there was anything."""
        service = self.parts.service
        # A discovery in progress would store its result again; a slow one has nothing to store yet.
        with suppress(TimeoutError):
            async with asyncio.timeout(_PURGE_WAIT):
                await self._wait_for_discovery(domain)
        stored = await self.parts.store.delete(domain)
        slot = service.policy_cache.get(domain)
        if slot is not None:
            service.policy_cache.drop(slot)
        log_event("policy-purged", level=logging.WARNING, domain=domain, stored=stored)
        return stored or slot is not None

    async def import_entries(self, entries: Sequence[CacheEntry]) -> Mapping[str, int]:
        """Add entries unless newer ones are known. Return how many were ``kept`` and ``older``."""
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
        """Read the configuration again. Return whether it is in force."""
        found = await self.parts.reload()
        return {"at": found.at, "ok": not found.problems, "problems": list(found.problems)}

    async def set_log_level(self, level: str) -> None:
        """Set the log level, one of ``log.LEVELS``, until the next reload."""
        log_event("log-level-changed", level=logging.WARNING, was=log.level(), now=level)
        log.set_level(level)
        if (receiving := self.parts.receiving.running) is not None:
            with suppress(ReceivingUnavailable):
                await receiving.set_log_level(level)

    async def log_lines(self) -> list[Mapping[str, Any]]:
        """Return the last log lines of the daemon and of its receiving process, newest first."""
        lines: list[Mapping[str, Any]] = [*log.recent.lines()]
        if (receiving := self.parts.receiving.running) is not None:
            with suppress(ReceivingUnavailable):
                lines += await receiving.log_lines()
        return sorted(lines, key=lambda line: float(line["at"]), reverse=True)[: log.RECENT]

    async def _wait_for_discovery(self, domain: str) -> None:
        """Wait until no discovery of the domain is in progress."""
        memory = self.parts.service.policy_cache
        while (slot := memory.get(domain)) is not None and slot.flight is not None:
            # It may settle several times: early, at its deadline, and at its end.
            await _settled(slot.flight)


async def _settled(flight: InFlight) -> None:
    settled = asyncio.Event()
    flight.when_settled(lambda _now: settled.set())
    await settled.wait()
