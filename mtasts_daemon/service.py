"""PolicyService: from a next-hop to an Outcome, with as little work as the case allows.

A lookup is answered from memory when its entry is settled; a live policy always answers, and what is stale about it
is looked at beside. Everything else joins the one flight of its policy domain: the store and TXT are asked together,
HTTPS when TXT names a policy that is not held, and the policy is committed before anybody hears of it. A lookup waits
for its flight until that is ``deadline`` seconds old; the flight itself goes on under the ports' own limits.

Used from one event loop. Nothing here awaits between reading and writing a slot.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import errors
from .observe import Counters, tell
from .policy import sts
from .policy.answers import Answer
from .policy.decide import Decision, Override, Zone, decide
from .policy.entry import (
    CacheEntry,
    CacheRules,
    Effect,
    Event,
    PolicyFailed,
    PolicyFetched,
    TxtAbsent,
    TxtFailed,
    TxtFound,
    TxtInvalid,
    next_due,
    on_load,
    settled_until,
    transition,
)
from .policy.names import NextHop
from .ports.api import Clock, PolicyFetcher, Resolver, Store

__all__ = ["Flight", "Outcome", "PolicyService", "Settings", "Slot", "Spawn"]

Spawn = Callable[[Coroutine[Any, Any, object], str], object]
"""Starts a named task that somebody owns."""

FOREVER = float("inf")
_SWEEP_CHUNK = 2000
_TOUCH_AFTER = 3600.0
_EVICTION_TRIES = 16


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


class Slot:
    """One policy domain in memory. A reply made from ``entry`` holds only while that is still the entry."""

    __slots__ = ("domain", "entry", "flight", "used")

    def __init__(self, domain: str, entry: CacheEntry | None = None) -> None:
        self.domain = domain
        self.entry = entry
        self.flight: Flight | None = None
        self.used = True


class Flight:
    """The one discovery under way for a policy domain, and who waits for it."""

    __slots__ = ("_waiters", "started", "waited_out")

    def __init__(self, started: float) -> None:
        self.started = started
        self.waited_out = False
        """The deadline has passed: lookups no longer wait for it."""
        self._waiters: list[Callable[[float], None]] = []

    def when_settled(self, waiter: Callable[[float], None]) -> None:
        """Call ``waiter`` once, with the wall-clock moment at which the lookup is to be judged."""
        self._waiters.append(waiter)

    def settle(self, now: float) -> int:
        """Let everybody go on who waits; how many did."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter(now)
        return len(waiters)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision, what it was made from, and the monotonic moment until which it holds."""

    decision: Decision
    slot: Slot
    entry: CacheEntry | None
    until: float


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
    ) -> None:
        self.settings = settings
        self.resolver = resolver
        self.fetcher = fetcher
        self.counters = counters
        self._store = store
        self._clock = clock
        self._spawn = spawn
        self._slots: dict[str, Slot] = {}
        self._policy_bytes = 0
        self._overridden = Slot("")
        # In order of their start, and so of their deadlines.
        self._flights: dict[Flight, None] = {}
        self._deadline_timer: asyncio.TimerHandle | None = None

    # -- lookups -------------------------------------------------------------------------------------------

    def lookup(self, hop: NextHop, zone: Zone, at: float | None = None) -> Outcome | Flight:
        """The outcome, or the flight to wait for.

        ``at`` is the moment that the flight gave on settling; with it the answer is always an Outcome.
        """
        domain = hop.policy_domain
        override = self.settings.overrides.get(domain)
        now = self._clock.wall() if at is None else at
        if override is not None and override.treat_as is None:
            decision = decide(CacheEntry(domain), zone, override, now)
            return Outcome(decision, self._overridden, None, FOREVER)
        slot = self._slots.get(domain) or self._admit(Slot(domain))
        slot.used = True
        entry = slot.entry
        settled = now if entry is None else settled_until(entry, now)
        if settled <= now and at is None:
            flight = slot.flight or self._begin(slot)
            if (entry is None or entry.live(now) is None) and not flight.waited_out:
                return flight
        decision = decide(entry or CacheEntry(domain), zone, override, now)
        until = self._clock.monotonic() + settled - now
        return Outcome(decision, slot, entry, until)

    def _begin(self, slot: Slot) -> Flight:
        flight = self._enter(slot)
        self._spawn(self._fly(slot, flight), slot.domain)
        return flight

    def _enter(self, slot: Slot) -> Flight:
        flight = slot.flight = Flight(self._clock.monotonic())
        self._flights[flight] = None
        if self._deadline_timer is None:
            self._await_deadline(flight)
        return flight

    def _await_deadline(self, oldest: Flight) -> None:
        wait = oldest.started + self.settings.deadline - self._clock.monotonic()
        self._deadline_timer = asyncio.get_running_loop().call_later(max(wait, 0.0), self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline_timer = None
        limit = self._clock.monotonic() - self.settings.deadline
        now = self._clock.wall()
        while self._flights:
            oldest = next(iter(self._flights))
            if oldest.started > limit:
                self._await_deadline(oldest)
                return
            del self._flights[oldest]
            oldest.waited_out = True
            self.counters.deadline_answers += oldest.settle(now)

    # -- flights -------------------------------------------------------------------------------------------

    async def _fly(self, slot: Slot, flight: Flight, refresh: bool = False) -> bool:
        try:
            return await self._discover(slot, flight, refresh)
        except Exception:
            # A bug. It must not leave lookups waiting, nor end the refresher.
            self.counters.unhandled += 1
            logging.getLogger(__name__).exception("flight-failed", extra={"fields": {"domain": slot.domain}})
            return False
        finally:
            slot.flight = None
            self._flights.pop(flight, None)
            flight.settle(self._clock.wall())

    async def _discover(self, slot: Slot, flight: Flight, refresh: bool) -> bool:
        """Bring the entry up to date; whether it was saved."""
        domain = slot.domain
        asked = self.resolver.txt(f"_mta-sts.{domain}")
        if slot.entry is None:
            self._hold(slot, await self._load(domain))
        entry = slot.entry or CacheEntry(domain)
        if entry.live(self._clock.wall()) is not None:
            flight.settle(self._clock.wall())
        entry, effects = self._apply(slot, await self._txt_event(asked))
        record_id = self._id_to_fetch(entry, refresh, effects)
        if record_id is None:
            return False
        entry, effects = self._apply(slot, await self._fetch_event(slot, record_id))
        return Effect.SAVE in effects and await self._save(entry)

    def _id_to_fetch(self, entry: CacheEntry, refresh: bool, effects: Effect) -> str | None:
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

    async def _load(self, domain: str) -> CacheEntry:
        try:
            entry = await self._store.get(domain)
        except errors.StoreError as error:
            tell("store-read-failed", level=logging.ERROR, once_a_minute="", error=error)
            entry = None
        return CacheEntry(domain) if entry is None else on_load(entry, self._clock.wall())

    async def _txt_event(self, asked: Awaitable[Answer[bytes]]) -> Event:
        try:
            answer = await asked
        except errors.DnsError as error:
            return TxtFailed(error.slug, error.sentence)
        try:
            record = sts.parse_txt(answer.records, draft=self.settings.draft)
        except errors.StsRecordError as error:
            return TxtInvalid(error.slug, error.sentence, answer.ttl)
        return TxtAbsent(answer.ttl) if record is None else TxtFound(record.id, answer.ttl)

    async def _fetch_event(self, slot: Slot, record_id: str) -> Event:
        live = slot.entry is not None and slot.entry.live(self._clock.wall()) is not None
        try:
            fetched = await self.fetcher.fetch(slot.domain, live=live)
            parse = sts.parse_policy_draft if fetched.draft else sts.parse_policy
            return PolicyFetched(record_id, fetched.body, parse(fetched.body))
        except (errors.PolicyFetchError, errors.PolicySyntaxError) as error:
            return PolicyFailed(record_id, error.slug, error.sentence)

    def _apply(self, slot: Slot, event: Event) -> tuple[CacheEntry, Effect]:
        now = self._clock.wall()
        happened = transition(slot.entry or CacheEntry(slot.domain), event, now, self.settings.rules)
        entry = happened.entry
        if entry.held is not None and not entry.first_used:
            entry = replace(entry, first_used=now, last_used=now)
        self._hold(slot, entry)
        if happened.told is not None:
            self._report(happened.told, entry)
        return entry, happened.effects

    def _report(self, told: str, entry: CacheEntry) -> None:
        self.counters.count(self.counters.policies_changed, told)
        fields: dict[str, Any] = {"domain": entry.domain}
        level = logging.INFO
        if told in ("policy-learned", "policy-changed", "policy-renewed") and entry.held is not None:
            held = entry.held
            fields |= {"mode": held.policy.mode.value, "id": held.record_id, "max_age": held.policy.max_age}
            fields["mx"] = ",".join(pattern.text for pattern in held.policy.mx)
            level = logging.DEBUG if told == "policy-renewed" else logging.INFO
        elif entry.failure is not None and told.endswith("failed"):
            failure = entry.failure
            fields |= {"reason": failure.problem, "attempt": failure.count, "detail": failure.detail}
            # RFC 8461 section 3.3: the administrator is alerted, unless the policy says none.
            held_mode = entry.held.policy.mode if entry.held is not None else sts.Mode.NONE
            level = logging.INFO if held_mode is sts.Mode.NONE else logging.WARNING
        tell(told, level=level, **fields)

    async def _save(self, entry: CacheEntry) -> bool:
        try:
            await self._store.put(entry, next_due(entry, self.settings.rules))
        except errors.StoreError as error:
            tell("store-write-failed", level=logging.ERROR, once_a_minute="", error=error)
            return False
        return True

    # -- the refresher's side ------------------------------------------------------------------------------

    async def refresh(self, entry: CacheEntry) -> bool:
        """Look at TXT and fetch the policy of a stored entry again; whether the store now knows when to do so next.

        A flight that is under way already does as well.
        """
        resident = self._slots.get(entry.domain)
        slot = resident or self._admit(Slot(entry.domain))
        if slot.flight is not None:
            return False
        if resident is None:
            slot.used = False
            self._hold(slot, on_load(entry, self._clock.wall()))
        self.counters.refreshes += 1
        saved = await self._fly(slot, self._enter(slot), refresh=True)
        if resident is None and not slot.used:
            self._drop(slot)
        return saved

    async def sweep(self) -> None:
        """Note which domains are in use, and let go of what nobody asked for since the last sweep."""
        touched: list[tuple[str, float]] = []
        slots = list(self._slots.values())
        for begin in range(0, len(slots), _SWEEP_CHUNK):
            now = self._clock.wall()
            for slot in slots[begin : begin + _SWEEP_CHUNK]:
                self._sweep_one(slot, now, touched)
            await asyncio.sleep(0)
        if touched:
            try:
                await self._store.touch(touched)
            except errors.StoreError as error:
                tell("store-write-failed", level=logging.ERROR, once_a_minute="", error=error)

    def _sweep_one(self, slot: Slot, now: float, touched: list[tuple[str, float]]) -> None:
        entry, used = slot.entry, slot.used
        slot.used = False
        if slot.flight is not None or entry is None:
            return
        if used and entry.held is not None and abs(now - entry.last_used) >= _TOUCH_AFTER:
            self._hold(slot, replace(entry, last_used=now))
            touched.append((slot.domain, now))
        elif not used and settled_until(entry, now) <= now:
            self._drop(slot)

    # -- memory --------------------------------------------------------------------------------------------

    @property
    def entries(self) -> int:
        """How many domains are known in memory."""
        return len(self._slots)

    def slot(self, domain: str) -> Slot | None:
        """What is known in memory of a policy domain."""
        return self._slots.get(domain)

    def _admit(self, slot: Slot) -> Slot:
        self._slots[slot.domain] = slot
        self._make_room()
        return slot

    def _hold(self, slot: Slot, entry: CacheEntry | None) -> None:
        self._policy_bytes += _weight(entry) - _weight(slot.entry)
        slot.entry = entry
        self._make_room()

    def _make_room(self) -> None:
        """Keep within the limits: the longest known goes, unless it is in use or in flight."""
        tries = 0
        while len(self._slots) > self.settings.max_entries or self._policy_bytes > self.settings.max_bytes:
            slot = next(iter(self._slots.values()))
            busy = slot.flight is not None or (slot.used and tries < _EVICTION_TRIES)
            if not busy:
                self._drop(slot)
                continue
            slot.used = slot.flight is not None
            self._slots[slot.domain] = self._slots.pop(slot.domain)
            tries += 1
            if tries > 4 * _EVICTION_TRIES:
                return

    def _drop(self, slot: Slot) -> None:
        if self._slots.get(slot.domain) is slot:
            del self._slots[slot.domain]
            self._policy_bytes -= _weight(slot.entry)
            # Replies made from it no longer hold.
            slot.entry = None


def _weight(entry: CacheEntry | None) -> int:
    """Bytes of memory that an entry's policy takes, roughly: its body, and its patterns as objects."""
    if entry is None or entry.held is None:
        return 0
    return 512 + len(entry.held.body) + 160 * len(entry.held.policy.mx)
