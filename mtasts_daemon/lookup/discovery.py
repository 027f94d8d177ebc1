"""Discovery of policies: the flights that read the store, query TXT and fetch the policy.

The store and TXT are asked concurrently, the policy host if TXT names a policy that is not held. A new policy is
committed before the flight settles. The flight of a domain pins its slot until it ends.

Used from one event loop. Nothing here awaits between reading and writing a slot.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from .. import errors
from ..counters import Counters
from ..log import log_event
from ..policy.cache_entry import (
    CacheEntry,
    CacheEvent,
    CacheRules,
    Effect,
    PolicyFailed,
    PolicyFetched,
    TxtInvalid,
    on_load,
    transition,
    txt_event,
)
from ..policy.dane import mx_hosts
from ..policy.dns_answer import DnsAnswer
from ..policy.findings import FindingSink, MxHostsFinding, PolicyProblem
from ..policy.mtasts import Mode, PolicyFormat
from ..ports import Clock, Pending, PolicyFetcher, Resolver, Spawn, Store, result_or_error
from .maintenance import Maintenance
from .mx_mismatches import MxMismatches
from .policy_cache import CacheSlot, PolicyCache, policy_weight, weight
from .policy_log import log_policy_event
from .single_flight import InFlight, SingleFlight

__all__ = ["PolicyDiscovery"]

_QUICK_BODY = 8192
"""Bytes of a policy that are parsed at once; larger ones are parsed on a thread."""

_MAX_UNREACHED = 3
"""Policy hosts that cannot be reached one after another; with more of them, this host is probably the cause."""

_NO_ROOM = "the memory for policies in use is full (lookup.memory_bytes)"


class PolicyDiscovery:
    """Brings slots of the policy cache up to date, with one flight for each domain."""

    def __init__(
        self,
        policy_cache: PolicyCache,
        maintenance: Maintenance,
        single_flight: SingleFlight,
        mx_mismatches: MxMismatches,
        *,
        resolver: Resolver,
        fetcher: PolicyFetcher,
        store: Store,
        clock: Clock,
        spawn: Spawn,
        counters: Counters,
        rules: CacheRules,
        policy_format: PolicyFormat,
    ) -> None:
        self.resolver = resolver
        self.fetcher = fetcher
        self.on_finding: FindingSink = lambda _finding: None
        self._cache = policy_cache
        self._maintenance = maintenance
        self._single_flight = single_flight
        self._mx_mismatches = mx_mismatches
        self._store = store
        self._clock = clock
        self._spawn = spawn
        self._counters = counters
        self._rules = rules
        self._format = policy_format
        self._unreached: set[str] = set()
        """Domains whose policy hosts could not be reached since one was reached, at most ``_MAX_UNREACHED``."""
        self._watchers: dict[str, Callable[[CacheEvent], object]] = {}
        """By domain: the receiver of the events of a refresh that an operator requested."""

    def configure(self, rules: CacheRules, policy_format: PolicyFormat) -> None:
        """Take over other rules."""
        self._rules = rules
        self._format = policy_format

    def use(self, resolver: Resolver, fetcher: PolicyFetcher) -> None:
        """Use another resolver and fetcher for flights that begin later."""
        self.resolver = resolver
        self.fetcher = fetcher

    # -- flights -------------------------------------------------------------------------------------------

    def begin(self, slot: CacheSlot) -> InFlight:
        """Begin the flight of a slot that has none. If that fails, the flight has ended and its deadline passed."""
        flight = self._begin_flight(slot)
        try:
            asked = self._ask_txt(slot)
            if slot.read_pending and self._store.may_hold(slot.domain):
                self._start(slot, flight, partial(self._discover, slot, flight, asked))
            else:
                # Most domains have no record, and one answer needs no task.
                slot.unread = False
                asked.add_done_callback(partial(self._txt_answered, slot, flight))
        except Exception as bug:
            flight.deadline_passed = True
            self._failed(slot, bug)
            self._end_flight(slot, flight)
        return flight

    def _begin_flight(self, slot: CacheSlot) -> InFlight:
        if not slot.resident and not slot.pins and self._cache.get(slot.domain) is None:
            self._cache.admit_pinned(slot)
        else:
            self._cache.pin(slot)
        flight = slot.flight = self._single_flight.begin()
        return flight

    def _end_flight(self, slot: CacheSlot, flight: InFlight) -> None:
        slot.flight = None
        try:
            self._single_flight.end(flight)
        finally:
            # Only now: the lookups that waited have used the slot's entry.
            self._cache.unpin(slot)

    def _start(self, slot: CacheSlot, flight: InFlight, work: Callable[[], Awaitable[bool]]) -> None:
        running = self._run_flight(slot, flight, work)
        try:
            self._spawn(running, slot.domain)
        except BaseException:
            running.close()
            raise

    async def _run_flight(self, slot: CacheSlot, flight: InFlight, work: Callable[[], Awaitable[bool]]) -> bool:
        """Do the work of a flight, and always end it."""
        try:
            return await work()
        except Exception as bug:
            self._failed(slot, bug)
            return False
        finally:
            self._end_flight(slot, flight)

    def _failed(self, slot: CacheSlot, bug: BaseException) -> None:
        # It must not leave lookups waiting, nor end the refresher.
        if not isinstance(bug, Exception):
            return  # cancelled
        self._counters.unhandled += 1
        logging.getLogger(__name__).error(
            "lookup-internal-error", exc_info=bug, extra={"fields": {"domain": slot.domain}}
        )

    def _txt_answered(self, slot: CacheSlot, flight: InFlight, asked: Pending[DnsAnswer[bytes]]) -> None:
        """Continue a flight that waits for TXT only, without a task."""
        try:
            record_id = self._take_txt(slot, asked)
            if record_id is not None:
                self._start(slot, flight, partial(self._renew, slot, flight, record_id))
                return
        except (Exception, asyncio.CancelledError) as bug:
            self._failed(slot, bug)
        self._end_flight(slot, flight)

    async def _discover(
        self, slot: CacheSlot, flight: InFlight, asked: Pending[DnsAnswer[bytes]], refresh: bool = False
    ) -> bool:
        """Bring the entry up to date; return True if it was saved."""
        loaded = slot.read_pending
        if loaded:
            await self._load(slot)
        if slot.entry is not None and slot.entry.live(self._clock.wall()) is not None:
            flight.settle(self._clock.wall())
        with suppress(errors.DnsError):
            await asked
        record_id = self._take_txt(slot, asked, refresh)
        if record_id is not None:
            return await self._renew(slot, flight, record_id)
        if loaded and slot.entry is not None:
            # What was found before a restart is not stored.
            await self._check_mx(slot, slot.entry, report=False)
        expired = slot.entry is not None and slot.entry.live(self._clock.wall()) is None
        # Saved, so that the store knows that it is not due any more.
        return refresh and expired and await self._maintenance.save(slot)

    async def _load(self, slot: CacheSlot) -> None:
        """Read the stored entry into the slot; if that fails, ``read_failure`` says why and the next lookup retries."""
        try:
            stored = await self._read(slot.domain)
        except errors.StoreError as error:
            slot.read_failure = f"the policy store cannot be read: {error.sentence}"
            log_event("store-read-failed", level=logging.ERROR, once_a_minute="", error=error)
            return
        loaded = CacheEntry(slot.domain) if stored is None else on_load(stored, self._clock.wall())
        if not self._cache.has_room(slot, weight(loaded), stored=True):
            slot.read_failure = _NO_ROOM
            return
        slot.unread = False
        if stored is None and slot.entry is not None:
            return
        self._cache.hold(slot, loaded)
        if stored is not None and loaded is not stored:
            # The clock was set back: the store needs the new moment of the refresh.
            await self._maintenance.save(slot)

    async def _read(self, domain: str) -> CacheEntry | None:
        """Return the stored entry; read it again if the file was replaced meanwhile. Raises ``StoreError``."""
        while True:
            generation = self._cache.store_generation
            stored = await self._store.get(domain)
            if generation == self._cache.store_generation:
                # With the slot's domain, so that its text is in memory once.
                return None if stored is None else replace(stored, domain=domain)

    # -- TXT -----------------------------------------------------------------------------------------------

    def _ask_txt(self, slot: CacheSlot) -> Pending[DnsAnswer[bytes]]:
        self._counters.txt_checks += 1
        return self.resolver.txt(f"_mta-sts.{slot.domain}")

    def _take_txt(self, slot: CacheSlot, asked: Pending[DnsAnswer[bytes]], refresh: bool = False) -> str | None:
        """Apply the TXT answer; return the id for which the policy must be fetched now, or None."""
        entry, effects = self._apply(slot, txt_event(result_or_error(asked), self._format))
        txt, now = entry.txt, self._clock.wall()
        if Effect.FETCH in effects:
            assert txt is not None
            return txt.record_id
        # RFC 8461 section 3.1: without a record only a live policy counts, so an expired one is not fetched again.
        held = entry.live(now)
        if not refresh or held is None:
            return None
        # RFC 8461 section 10.2: refreshed independently of TXT, also if it is gone or cannot be asked for.
        record_id = txt.record_id if txt is not None and txt.record_id is not None else held.record_id
        return None if entry.failure is not None and entry.failure.forbids(record_id, now) else record_id

    # -- the policy ----------------------------------------------------------------------------------------

    async def _renew(self, slot: CacheSlot, flight: InFlight, record_id: str) -> bool:
        """Fetch the policy; return True if the result was saved."""
        fetched = await self._fetch(slot, record_id)
        before = None if slot.entry is None else slot.entry.live(self._clock.wall())
        entry, effects = self._apply(slot, fetched)
        held = entry.held
        # An answered policy must survive kill -9, so lookups wait until it is committed.
        flight.committing = held is not None and (before is None or before.policy != held.policy)
        try:
            saved = Effect.SAVE in effects and await self._maintenance.save(slot)
        finally:
            flight.committing = False
        if Effect.CHANGED in effects and held is not None:
            flight.settle(held.fetched_at)
            await self._check_mx(slot, entry, report=True)
        return saved

    async def _fetch(self, slot: CacheSlot, record_id: str) -> CacheEvent:
        live = slot.entry is not None and slot.entry.live(self._clock.wall()) is not None
        counters, started = self._counters, self._clock.monotonic()
        counters.fetches += 1
        counters.refreshes += live
        try:
            body = (await self.fetcher.fetch(slot.domain, live=live)).body
            self._unreached.clear()
            quick, parse = len(body) <= _QUICK_BODY, self._format.parse_policy
            policy = parse(body) if quick else await asyncio.to_thread(parse, body)
            if not self._cache.has_room(slot, policy_weight(body, policy), stored=False):
                raise errors.PolicyFetchBusy(_NO_ROOM)
            if live:
                counters.refreshed_at = self._clock.wall()
            return PolicyFetched(record_id, body, policy)
        except (errors.PolicyFetchError, errors.PolicySyntaxError) as error:
            self._note_reached(slot.domain, error)
            counters.count(counters.fetch_failures, error.slug)
            if live:
                counters.count(counters.refresh_failures, error.slug)
            return PolicyFailed(record_id, error.slug, error.sentence)
        finally:
            counters.fetch_seconds.add(self._clock.monotonic() - started)

    def _note_reached(self, domain: str, error: errors.PolicyFetchError | errors.PolicySyntaxError) -> None:
        if isinstance(error, errors.PolicyConnectFailed | errors.PolicyTimeout):
            if len(self._unreached) < _MAX_UNREACHED:
                self._unreached.add(domain)
        elif not isinstance(error, errors.OwnFetchFailure | errors.PolicyHostLookupFailed):
            self._unreached.clear()

    async def _check_mx(self, slot: CacheSlot, entry: CacheEntry, *, report: bool) -> None:
        """Find out if the domain can be delivered to under its policy, before mail does.

        ``report`` adds the MX hosts to TLS reports.
        """
        held = entry.live(self._clock.wall())
        if held is None or held.policy.mode is Mode.NONE:
            return
        try:
            answer = await self.resolver.mx(entry.domain)
        except errors.DnsError:
            return
        hosts = mx_hosts(answer, entry.domain)
        self._mx_mismatches.check(entry.domain, held.policy, hosts)
        if slot.used and report:
            self.on_finding(MxHostsFinding(entry.domain, held.policy, hosts))

    def _apply(self, slot: CacheSlot, event: CacheEvent) -> tuple[CacheEntry, Effect]:
        if self._watchers and (watcher := self._watchers.get(slot.domain)) is not None:
            watcher(event)
        now = self._clock.wall()
        result = transition(slot.entry or CacheEntry(slot.domain), event, now, self._rules)
        entry = result.entry
        if entry.held is not None and not entry.first_used:
            entry = replace(entry, first_used=now, last_used=now)
        if isinstance(event, PolicyFetched):
            slot.unread = False  # a stored policy is older
        self._cache.hold(slot, entry)
        if result.event is not None:
            self._counters.count(self._counters.policies_changed, result.event)
            log_policy_event(result.event, entry)
        # If no policy host can be reached, perhaps because of a firewall, that is no failure of each domain.
        if isinstance(event, TxtInvalid | PolicyFailed) and slot.used and len(self._unreached) < _MAX_UNREACHED:
            self.on_finding(PolicyProblem(entry, event.problem))
        return entry, result.effects

    # -- refreshes -----------------------------------------------------------------------------------------

    async def refresh(self, entry: CacheEntry) -> bool:
        """Ask for TXT and fetch the policy of a stored entry; return True if the store knows when it is due next.

        A flight that is under way already does as well, but returns False.
        """
        resident = self._cache.get(entry.domain)
        slot = resident or CacheSlot(entry.domain)
        if slot.flight is not None:
            return False
        if slot.entry is None or slot.read_pending:
            loaded = on_load(entry, self._clock.wall())
            if not self._cache.has_room(slot, weight(loaded), stored=True):
                return False
            self._cache.hold(slot, loaded)
            slot.unread = False
        if resident is None:
            slot.used = False
        saved = await self._fetch_now(slot)
        if resident is None and not slot.used and not slot.pins:
            self._cache.drop(slot)
        return saved

    async def force_refresh(
        self, domain: str, stored: CacheEntry | None, on_event: Callable[[CacheEvent], object] = lambda _event: None
    ) -> None:
        """Ask for TXT and fetch the policy now, also if an earlier failure forbids it; no flight may be under way.

        ``on_event`` is called with what DNS and the policy host answer, as soon as they do.
        """
        slot = self._cache.get(domain) or CacheSlot(domain)
        entry = slot.entry
        if slot.read_pending:
            slot.unread = False
            entry = entry if stored is None else on_load(stored, self._clock.wall())
        if entry is not None:
            self._cache.hold(slot, replace(entry, txt=None, failure=None))
        self._watchers[domain] = on_event
        try:
            await self._fetch_now(slot)
        finally:
            del self._watchers[domain]

    async def _fetch_now(self, slot: CacheSlot) -> bool:
        flight = self._begin_flight(slot)
        return await self._run_flight(slot, flight, partial(self._asked_now, slot, flight))

    async def _asked_now(self, slot: CacheSlot, flight: InFlight) -> bool:
        return await self._discover(slot, flight, self._ask_txt(slot), refresh=True)
