"""PolicyService: from a next-hop to an Outcome, with as little work as the case allows.

A lookup is answered from memory when its entry is settled; a live policy always answers, and what is stale about it
is looked at beside. Everything else joins the one flight of its policy domain: the store and TXT are asked together,
HTTPS when TXT names a policy that is not held, and the policy is committed before anybody hears of it. A lookup waits
for its flight until that is ``deadline`` seconds old; the flight itself goes on under the ports' own limits.

Used from one event loop. Nothing here awaits between reading and writing a slot.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from .. import errors
from ..counters import Counters
from ..log import log_event
from ..policy import mtasts
from ..policy.cache_entry import (
    CacheEntry,
    CacheEvent,
    CacheRules,
    Effect,
    PolicyFailed,
    PolicyFetched,
    TxtInvalid,
    on_load,
    settled_until,
    transition,
    txt_event,
)
from ..policy.dane import DaneVerdict, current_hosts, mx_hosts
from ..policy.decision import Decision, Override, Zone, decide, wants_walk
from ..policy.dns_answer import DnsAnswer
from ..policy.findings import FindingSink, HostsSeen, PolicyProblem
from ..policy.next_hop import NextHop
from ..policy.precedence import DaneMode
from ..ports import Clock, Pending, PolicyFetcher, Resolver, Spawn, Store, result_or_error
from .dane_cache import DaneCache
from .maintenance import Maintenance
from .policy_cache import CacheSlot, PolicyCache
from .policy_log import MxMismatches, tell_of_policy
from .single_flight import InFlight, SingleFlight

__all__ = ["LookupOutcome", "PolicyService", "Settings"]

FOREVER = float("inf")
_HARD_CAP = 20.0
_QUICK_BODY = 8192


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator chose, swapped whole on reload. Times in seconds, sizes in bytes."""

    zones: Mapping[str, Zone]
    """By lower-case map name."""
    default_zone: str
    overrides: Mapping[str, Override] = field(default_factory=dict)
    """By policy domain."""
    rules: CacheRules = field(default_factory=CacheRules)
    deadline: float = 5.0
    max_entries: int = 200_000
    max_bytes: int = 64 * 1024 * 1024
    draft: bool = False


@dataclass(frozen=True, slots=True)
class LookupOutcome:
    """A decision, what it was made from, and the monotonic moment until which it holds."""

    decision: Decision
    slot: CacheSlot
    entry: CacheEntry | None
    until: float
    hosts: tuple[str, ...] = ()
    """The domain's MX hosts, where a DANE walk has found all of them."""
    verdict: DaneVerdict | None = None


class PolicyService:
    """The policies of all domains."""

    def __init__(
        self,
        settings: Settings,
        *,
        resolver: Resolver,
        fetcher: PolicyFetcher,
        store: Store,
        clock: Clock,
        spawn: Spawn,
        counters: Counters,
        on_finding: FindingSink = lambda _finding: None,
    ) -> None:
        self.settings = settings
        self.resolver = resolver
        self.fetcher = fetcher
        self.counters = counters
        self._store = store
        self._clock = clock
        self._spawn = spawn
        self.memory = PolicyCache(settings.max_entries, settings.max_bytes)
        self.upkeep = Maintenance(self.memory, store, clock, lambda: self.settings.rules)
        self._overridden = CacheSlot("")
        self.flights = SingleFlight(clock, settings.deadline)
        self.walks = DaneCache(resolver, clock, SingleFlight(clock, _left_for_dane(settings)), spawn, counters)
        self.on_finding = self.walks.on_finding = on_finding
        """Receives failures that no TLS session shows, of domains that mail goes to."""
        self.dane_trusted = True
        """Whether the resolver validates, as far as is known; without that no walk is made."""
        self.mx_mismatches = MxMismatches(counters)

    def configure(self, settings: Settings) -> None:
        """Go by other settings from now on; replies made before no longer hold."""
        self.settings = settings
        self.flights.deadline = settings.deadline
        self.walks.flights.deadline = _left_for_dane(settings)
        self.memory.max_entries = settings.max_entries
        self.memory.max_bytes = settings.max_bytes

    def use(self, resolver: Resolver, fetcher: PolicyFetcher, *, forget_dane: bool) -> None:
        """Use another resolver and fetcher; ``forget_dane`` if the answers of the old resolver no longer count."""
        self.resolver = self.walks.resolver = resolver
        self.fetcher = fetcher
        if forget_dane:
            self.walks.forget()

    def trust_dane(self, trusted: bool) -> bool:
        """Set whether the resolver validates DNSSEC. Return True if that is a change: all verdicts are dropped."""
        if self.dane_trusted is trusted:
            return False
        self.dane_trusted = trusted
        self.walks.forget()
        return True

    def release_waiters(self) -> None:
        """Nobody waits any longer, neither for policies nor for DANE: all are answered from what is known."""
        self.walks.flights.release_waiters()
        self.flights.release_waiters()

    # -- lookups -------------------------------------------------------------------------------------------

    def lookup(self, hop: NextHop, zone: Zone, at: float | None = None) -> LookupOutcome | InFlight:
        """The outcome, or a flight to wait for: that of the policy, then perhaps that of DANE.

        ``at`` is the moment that the first flight gave on settling; with it the policy is not waited for again.
        """
        domain = hop.policy_domain
        override = self.settings.overrides.get(domain)
        now = self._clock.wall() if at is None else at
        if override is not None and override.treat_as is None:
            decision = decide(CacheEntry(domain), zone, override, now)
            return LookupOutcome(decision, self._overridden, None, FOREVER)
        slot = self.memory.get(domain) or self.memory.admit(domain)
        slot.used = True
        entry = slot.entry
        if at is None and slot.flight is not None and slot.flight.committing and not slot.flight.deadline_passed:
            return slot.flight
        settled = now if entry is None or slot.read_failed else settled_until(entry, now)
        if settled <= now and at is None:
            if self.dane_trusted and zone.dane is DaneMode.ALWAYS:
                self.walks.standing(hop)  # begins beside, and first, so that one wait mostly does for both
            flight = slot.flight or self._begin(slot)
            if (entry is None or entry.live(now) is None) and not flight.deadline_passed:
                return flight
            if entry is not None and entry.live(now) is not None:
                self.counters.stale_served += 1
        known = entry or CacheEntry(domain)
        until = self._clock.monotonic() + settled - (now if at is None else self._clock.wall())
        if not self.dane_trusted or not wants_walk(known, zone, override, now):
            return LookupOutcome(decide(known, zone, override, now), slot, entry, until)
        standing = self.walks.standing(hop)
        if isinstance(standing, InFlight):
            return standing
        decision = decide(known, zone, override, now, standing.verdict)
        hosts = current_hosts(standing.verdict)
        self.mx_mismatches.look_at(domain, decision.policy, hosts)
        return LookupOutcome(decision, slot, entry, min(until, standing.until), hosts, standing.verdict)

    def _begin(self, slot: CacheSlot) -> InFlight:
        flight = slot.flight = self.flights.begin()
        asked = self._ask_txt(slot)
        if (slot.entry is None or slot.read_failed) and self._store.may_hold(slot.domain):
            self._spawn(self._fly(slot, flight, partial(self._discover, slot, flight, asked)), slot.domain)
        else:
            # Most domains have no record, and what one answer settles needs no task.
            asked.add_done_callback(partial(self._txt_answered, slot, flight))
        return flight

    # -- flights -------------------------------------------------------------------------------------------

    async def _fly(self, slot: CacheSlot, flight: InFlight, work: Callable[[], Awaitable[bool]]) -> bool:
        """Do the work of a flight, and end it whatever happens."""
        try:
            return await work()
        except Exception as bug:
            self._flight_failed(slot, bug)
            return False
        finally:
            self._land(slot, flight)

    def _flight_failed(self, slot: CacheSlot, bug: Exception) -> None:
        # It must not leave lookups waiting, nor end the refresher.
        self.counters.unhandled += 1
        logging.getLogger(__name__).error(
            "lookup-internal-error", exc_info=bug, extra={"fields": {"domain": slot.domain}}
        )

    def _land(self, slot: CacheSlot, flight: InFlight) -> None:
        slot.flight = None
        self.flights.end(flight)

    def _txt_answered(self, slot: CacheSlot, flight: InFlight, asked: Pending[DnsAnswer[bytes]]) -> None:
        """What ``_discover`` does, where there is nothing to wait for but TXT and perhaps the policy."""
        record_id: str | None = None
        try:
            record_id = self._take_txt(slot, asked)
        except Exception as bug:
            self._flight_failed(slot, bug)
        if record_id is None:
            self._land(slot, flight)
        else:
            self._spawn(self._fly(slot, flight, partial(self._renew, slot, flight, record_id)), slot.domain)

    async def _discover(
        self, slot: CacheSlot, flight: InFlight, asked: Pending[DnsAnswer[bytes]], refresh: bool = False
    ) -> bool:
        """Bring the entry up to date; whether it was saved."""
        if slot.entry is None or slot.read_failed:
            await self._load(slot)
        if slot.entry is not None and slot.entry.live(self._clock.wall()) is not None:
            flight.settle(self._clock.wall())
        with suppress(errors.DnsError):
            await asked
        record_id = self._take_txt(slot, asked, refresh)
        return record_id is not None and await self._renew(slot, flight, record_id)

    def _ask_txt(self, slot: CacheSlot) -> Pending[DnsAnswer[bytes]]:
        self.counters.txt_checks += 1
        return self.resolver.txt(f"_mta-sts.{slot.domain}")

    def _take_txt(self, slot: CacheSlot, asked: Pending[DnsAnswer[bytes]], refresh: bool = False) -> str | None:
        """Let the entry know what TXT says; the id for which the policy is to be fetched now."""
        entry, effects = self._apply(slot, txt_event(result_or_error(asked), draft=self.settings.draft))
        txt, held = entry.txt, entry.held
        if Effect.FETCH in effects:
            assert txt is not None
            return txt.record_id
        if not refresh or held is None:
            return None
        # RFC 8461 section 10.2: refreshed whatever TXT says, also when it is gone or cannot be had.
        record_id = txt.record_id if txt is not None and txt.record_id is not None else held.record_id
        now = self._clock.wall()
        return None if entry.failure is not None and entry.failure.forbids(record_id, now) else record_id

    async def _renew(self, slot: CacheSlot, flight: InFlight, record_id: str) -> bool:
        """Fetch the policy; whether what came of it was saved."""
        fetched = await self._fetch_event(slot, record_id)
        before = None if slot.entry is None else slot.entry.live(self._clock.wall())
        entry, effects = self._apply(slot, fetched)
        held = entry.held
        # No policy that was ever answered is lost on kill -9, so nobody hears of a new one until it is kept.
        flight.committing = held is not None and (before is None or before.policy != held.policy)
        saved = Effect.SAVE in effects and await self.upkeep.save(slot)
        flight.committing = False
        if Effect.CHANGED in effects and held is not None:
            flight.settle(held.fetched_at)
            await self._look_at_mx(slot, entry)
        return saved

    async def _look_at_mx(self, slot: CacheSlot, entry: CacheEntry) -> None:
        """Find out whether the domain can be delivered to under its new policy, before mail does."""
        held = entry.held
        if held is None or held.policy.mode is mtasts.Mode.NONE:
            return
        try:
            answer = await self.resolver.mx(entry.domain)
        except errors.DnsError:
            return
        hosts = mx_hosts(answer, entry.domain)
        self.mx_mismatches.look_at(entry.domain, held.policy, hosts)
        if slot.used:
            self.on_finding(HostsSeen(entry.domain, held.policy, hosts))

    async def _load(self, slot: CacheSlot) -> None:
        """Let the slot have what is stored."""
        stored: CacheEntry | None = None
        try:
            stored = await self._store.get(slot.domain)
            slot.unread = False
        except errors.StoreError as error:
            # A policy may be there, and must not be lost to a disk that failed once: the next lookup reads again.
            slot.unread = True
            log_event("store-read-failed", level=logging.ERROR, once_a_minute="", error=error)
        if stored is None:
            self.memory.hold(slot, slot.entry or CacheEntry(slot.domain))
            return
        loaded = on_load(stored, self._clock.wall())
        self.memory.hold(slot, loaded)
        if loaded is not stored:
            # The clock was set back: the store is to know the new moment at which the refresh is due.
            await self.upkeep.save(slot)

    async def _fetch_event(self, slot: CacheSlot, record_id: str) -> CacheEvent:
        live = slot.entry is not None and slot.entry.live(self._clock.wall()) is not None
        counters, begun = self.counters, self._clock.monotonic()
        counters.fetches += 1
        try:
            fetched = await self.fetcher.fetch(slot.domain, live=live)
            parse = mtasts.parse_policy_draft if fetched.draft else mtasts.parse_policy
            # Thousands of mx lines take long enough to hold up other lookups.
            quick = len(fetched.body) <= _QUICK_BODY
            policy = parse(fetched.body) if quick else await asyncio.to_thread(parse, fetched.body)
            return PolicyFetched(record_id, fetched.body, policy)
        except (errors.PolicyFetchError, errors.PolicySyntaxError) as error:
            counters.count(counters.fetch_failures, error.slug)
            if live:
                counters.count(counters.refresh_failures, error.slug)
            return PolicyFailed(record_id, error.slug, error.sentence)
        finally:
            counters.fetch_seconds.add(self._clock.monotonic() - begun)

    def _apply(self, slot: CacheSlot, event: CacheEvent) -> tuple[CacheEntry, Effect]:
        now = self._clock.wall()
        happened = transition(slot.entry or CacheEntry(slot.domain), event, now, self.settings.rules)
        entry = happened.entry
        if entry.held is not None and not entry.first_used:
            entry = replace(entry, first_used=now, last_used=now)
        self.memory.hold(slot, entry)
        if happened.told is not None:
            self._report(happened.told, entry)
        if isinstance(event, TxtInvalid | PolicyFailed) and slot.used:
            self.on_finding(PolicyProblem(entry, event.problem))
        return entry, happened.effects

    def _report(self, told: str, entry: CacheEntry) -> None:
        self.counters.count(self.counters.policies_changed, told)
        tell_of_policy(told, entry)

    # -- the refresher's side ------------------------------------------------------------------------------

    async def refresh(self, entry: CacheEntry) -> bool:
        """Look at TXT and fetch the policy of a stored entry again; whether the store now knows when to do so next.

        A flight that is under way already does as well.
        """
        resident = self.memory.get(entry.domain)
        slot = resident or self.memory.admit(entry.domain)
        if slot.flight is not None:
            return False
        if resident is None:
            slot.used = False
            self.memory.hold(slot, on_load(entry, self._clock.wall()))
        self.counters.refreshes += 1
        saved = await self._fetch_now(slot)
        if saved and slot.entry is not None and slot.entry.failure is None:
            self.counters.refreshed_at = self._clock.wall()
        if resident is None and not slot.used:
            self.memory.drop(slot)
        return saved

    async def _fetch_now(self, slot: CacheSlot) -> bool:
        flight = slot.flight = self.flights.begin()
        asked = self._ask_txt(slot)
        return await self._fly(slot, flight, partial(self._discover, slot, flight, asked, refresh=True))

    async def force_refresh(self, slot: CacheSlot) -> None:
        """Look at TXT and fetch the policy now, without regard to failures before; no flight may be under way."""
        entry = slot.entry
        if entry is not None:
            self.memory.hold(slot, replace(entry, txt=None, failure=None))
        await self._fetch_now(slot)


def _left_for_dane(settings: Settings) -> float:
    """How long a lookup may wait for DANE when it has waited for the policy, so that it ends within the hard cap."""
    return min(settings.deadline, max(_HARD_CAP - settings.deadline, 0.5))
