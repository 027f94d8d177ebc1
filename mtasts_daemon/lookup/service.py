"""PolicyService: from a next-hop to a LookupOutcome.

A lookup is answered from memory if its entry is settled; a live policy always answers, and is checked for changes
next to the lookup. Every other lookup joins the one flight of its policy domain, and waits until the flight settles
or is ``deadline`` seconds old. ``plan`` decides which; the lookup carries its slot, and later its planned answer,
through every wait, so that nothing that happens to the cache meanwhile changes the answer.

Used from one event loop. Nothing here awaits.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from ..counters import Counters
from ..policy.cache_entry import CacheEntry
from ..policy.dane import DaneVerdict, current_hosts
from ..policy.decision import Decision, Zone, decide
from ..policy.findings import FindingSink
from ..policy.next_hop import NextHop
from ..policy.precedence import DaneMode
from ..ports import Clock, PolicyFetcher, Resolver, Spawn, Store
from .dane_cache import CachedVerdict, DaneCache, Destination
from .deferred_domains import DeferredDomains
from .discovery import PolicyDiscovery
from .maintenance import Maintenance
from .mx_mismatches import MxMismatches
from .plan import FOREVER, WAIT, PlannedAnswer, Wait, plan
from .policy_cache import CacheSlot, PolicyCache
from .settings import Settings
from .single_flight import InFlight, SingleFlight

__all__ = ["LookupOutcome", "PendingLookup", "PolicyService"]

_HARD_CAP = 20.0


class LookupOutcome(NamedTuple):
    """A decision, what it was made from, and the monotonic moment until which it holds."""

    decision: Decision
    slot: CacheSlot
    entry: CacheEntry
    until: float
    hosts: tuple[str, ...] = ()
    """The domain's MX hosts, if DANE discovery found all of them."""
    verdict: DaneVerdict | None = None


@dataclass(slots=True)
class PendingLookup:
    """A lookup that waits for ``flight``; pass it to ``resume`` when that has settled.

    It waits for the policy while ``planned`` is None, and then for the verdict of ``destination``.
    """

    hop: NextHop
    zone: Zone
    slot: CacheSlot
    flight: InFlight
    planned: PlannedAnswer | None = None
    destination: Destination | None = None


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
        self.counters = counters
        self.clock = clock
        self.policy_cache = PolicyCache(settings.max_entries, settings.max_bytes)
        self.maintenance = Maintenance(self.policy_cache, store, clock, settings.rules)
        self.single_flight = SingleFlight(clock, settings.deadline)
        dane_flights = SingleFlight(clock, _left_for_dane(settings))
        self.dane_cache = DaneCache(resolver, clock, dane_flights, spawn, counters)
        self.dane_trusted = True
        """False if the resolver does not validate DNSSEC, as far as is known: DANE is then not asked for."""
        self.deferred = DeferredDomains(clock)
        self.mx_mismatches = MxMismatches(counters)
        self.discovery = PolicyDiscovery(
            self.policy_cache,
            self.maintenance,
            self.single_flight,
            self.mx_mismatches,
            resolver=resolver,
            fetcher=fetcher,
            store=store,
            clock=clock,
            spawn=spawn,
            counters=counters,
            rules=settings.rules,
            policy_format=settings.policy_format,
        )
        self.on_finding = on_finding

    @property
    def on_finding(self) -> FindingSink:
        """Receives failures that no TLS session shows, of domains that mail goes to."""
        return self.discovery.on_finding

    @on_finding.setter
    def on_finding(self, sink: FindingSink) -> None:
        self.discovery.on_finding = self.dane_cache.on_finding = sink

    @property
    def resolver(self) -> Resolver:
        """The resolver in use."""
        return self.discovery.resolver

    @property
    def fetcher(self) -> PolicyFetcher:
        """The policy fetcher in use."""
        return self.discovery.fetcher

    def configure(self, settings: Settings) -> None:
        """Take over other settings; replies made before no longer hold."""
        self.settings = settings
        self.single_flight.deadline = settings.deadline
        self.dane_cache.single_flight.deadline = _left_for_dane(settings)
        self.policy_cache.configure(settings.max_entries, settings.max_bytes)
        self.maintenance.configure(settings.rules)
        self.discovery.configure(settings.rules, settings.policy_format)

    def use(self, resolver: Resolver, fetcher: PolicyFetcher, *, forget_dane: bool) -> None:
        """Use another resolver and fetcher; ``forget_dane`` if the answers of the old resolver no longer count."""
        self.discovery.use(resolver, fetcher)
        self.dane_cache.resolver = resolver
        if forget_dane:
            self.dane_cache.clear()

    def trust_dane(self, trusted: bool) -> bool:
        """Set whether the resolver validates DNSSEC. Return True if that is a change: all verdicts are dropped."""
        if self.dane_trusted is trusted:
            return False
        self.dane_trusted = trusted
        self.dane_cache.clear()
        return True

    def release_waiters(self) -> None:
        """Answer all waiting lookups now, from cached data, and later ones at once."""
        self.dane_cache.single_flight.release_waiters()
        self.single_flight.release_waiters()

    # -- lookups -------------------------------------------------------------------------------------------

    def lookup(self, hop: NextHop, zone: Zone) -> LookupOutcome | PendingLookup:
        """Return the outcome, or the lookup that waits."""
        domain = hop.policy_domain
        slot = self.policy_cache.get(domain) or CacheSlot(domain)
        planned = self._plan(slot, zone)
        if planned is WAIT or planned.refresh:
            if self.dane_trusted and zone.dane is DaneMode.ALWAYS:
                self.dane_cache.verdict(hop)  # started now, so that one wait is usually enough for both
            flight = slot.flight or self.discovery.begin(slot)
            if isinstance(planned, PlannedAnswer):
                self.counters.stale_served += planned.entry.held is not None
            elif not flight.deadline_passed:
                return PendingLookup(hop, zone, slot, flight)
            else:
                planned = self._plan(slot, zone, waited=True)
        return self._conclude(hop, zone, slot, planned)

    def resume(self, pending: PendingLookup, now: float) -> LookupOutcome | PendingLookup:
        """Continue a lookup whose flight has settled. A policy is judged at ``now``, however long DANE takes."""
        hop, zone, slot = pending.hop, pending.zone, pending.slot
        if pending.planned is None or pending.destination is None:
            return self._conclude(hop, zone, slot, self._plan(slot, zone, now, waited=True))
        return self._by_verdict(hop, zone, slot, pending.planned, self.dane_cache.conclude(pending.destination))

    def _plan(
        self, slot: CacheSlot, zone: Zone, now: float | None = None, *, waited: bool = False
    ) -> PlannedAnswer | Wait:
        override = self.settings.overrides.get(slot.domain)
        moment = self.clock.wall() if now is None else now
        return plan(slot, zone, override, moment, dane=self.dane_trusted, waited=waited)

    def _conclude(
        self, hop: NextHop, zone: Zone, slot: CacheSlot, planned: PlannedAnswer | Wait
    ) -> LookupOutcome | PendingLookup:
        assert isinstance(planned, PlannedAnswer)
        slot.used = True
        if planned.decision is not None:
            return LookupOutcome(planned.decision, slot, planned.entry, self._until(slot, planned))
        found = self.dane_cache.verdict(hop)
        if isinstance(found, CachedVerdict):
            return self._by_verdict(hop, zone, slot, planned, found)
        flight = found.flight
        assert flight is not None
        # The lookup holds the entry: it counts until the flight settles, even if the connection is closed.
        self.policy_cache.pin(slot)
        flight.when_settled(partial(self._unpin, slot))
        return PendingLookup(hop, zone, slot, flight, planned, found)

    def _unpin(self, slot: CacheSlot, _now: float) -> None:
        self.policy_cache.unpin(slot)

    def _by_verdict(
        self, hop: NextHop, zone: Zone, slot: CacheSlot, planned: PlannedAnswer, found: CachedVerdict
    ) -> LookupOutcome:
        override = self.settings.overrides.get(slot.domain)
        decision = decide(planned.entry, zone, override, planned.judged_at, found.verdict)
        hosts = current_hosts(found.verdict)
        self.mx_mismatches.check(slot.domain, decision.policy, hosts)
        until = min(self._until(slot, planned), found.until)
        return LookupOutcome(decision, slot, planned.entry, until, hosts, found.verdict)

    def _until(self, slot: CacheSlot, planned: PlannedAnswer) -> float:
        """Return the monotonic moment until which replies hold; the past if the slot has changed since the plan."""
        if planned.settled_until == FOREVER:
            return FOREVER
        if not slot.resident or slot.entry is not planned.entry:
            return 0.0
        return self.clock.monotonic() + planned.settled_until - self.clock.wall()


def _left_for_dane(settings: Settings) -> float:
    """Return how long a lookup may wait for DANE after it waited for the policy, within the hard cap."""
    return min(settings.deadline, max(_HARD_CAP - settings.deadline, 0.5))
