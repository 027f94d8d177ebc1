"""All published domains: settings, states and findings. Belongs to the main loop.

A state is stored before it is served, so that after a restart it is known which policies senders may hold.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TypeVar

from ..config.sections.publish import PublishedDomainSettings
from ..errors import StoreError
from ..log import log_event
from ..ports import Clock
from ..store.database import MEMORY
from .database import PublishDatabase, PublishEvent
from .decision import Outcome, PublishDecision, decide
from .drift import DriftFinding
from .file_return import joined_states
from .gate import GateResult
from .policy_text import PublishedPolicy, policy_host_of
from .rollout import RolloutStep
from .serving_clock import ServingClock
from .state import DomainState, PublishPhase

__all__ = ["DomainRegistry", "PublishedDomain", "slices"]

T = TypeVar("T")

SLICE = 1000
"""Domains that are handled at once: the main loop answers lookups between two slices."""
_SERVED_SECONDS = 600.0
"""Time between two writes of the serving clock; after a crash a removal waits that much longer."""

Serve = Callable[[Mapping[bytes, bytes | None]], None]


@dataclass(slots=True)
class PublishedDomain:
    """One domain. ``settings`` is None if it is no longer configured; its policy is still served."""

    state: DomainState
    settings: PublishedDomainSettings | None = None
    outcome: Outcome = Outcome.UNCHANGED
    gate: GateResult | None = None
    findings: tuple[DriftFinding, ...] = ()
    checked_at: float = 0.0
    """When it was last checked from outside; 0 if never since the start."""
    check_problem: str = ""
    """Why the last check failed."""
    step: RolloutStep | None = None
    dns_problem: str = ""
    due: float = float("inf")
    """Time of the watch's next visit, by the monotonic clock."""
    mx_due: float = 0.0
    check_due: float | None = None
    suspected: frozenset[tuple[str, str]] = frozenset()
    """Keys of findings that were seen once and not yet reported."""
    alerted: tuple[DriftFinding, ...] = ()


@dataclass(slots=True)
class DomainRegistry:
    """The domains by name. ``serve`` is called with policy texts by host; None ends a policy."""

    serve: Serve
    database: PublishDatabase
    clock: Clock
    domains: dict[str, PublishedDomain] = field(default_factory=dict)
    write_failure: str = ""
    """Why states cannot be stored at present."""
    serving: ServingClock = field(init=False)
    _file: str = ""
    """The path of the file, also while the states are kept in memory."""
    _all_due: bool = False
    """The file lacks states that no later ``put`` of other domains writes."""
    _writes: int = 0
    """Calls of ``put`` that have not returned."""

    async def open(self) -> None:
        """Load what was published and serve it.

        Falls back to memory if the file cannot be used, until ``recover`` can open it.
        """
        now = self.clock.wall()
        self._file = self.database.path
        try:
            states = await self.database.open(now)
        except StoreError as error:
            log_event("publish-in-memory", level=logging.ERROR, path=self.database.path, error=error)
            self.write_failure = error.sentence
            await self.database.close()
            self.database = PublishDatabase(MEMORY)
            states = await self.database.open(now)
        for problem in self.database.problems:
            log_event("publish-database-problem", level=logging.WARNING, error=problem)
        self.serving = ServingClock(self.clock, self.database.served)
        async for part in slices(states):
            self.domains.update((state.domain, PublishedDomain(state)) for state in part)
            self.serve(_texts(part))

    async def close(self) -> None:
        """Store the serving clock and close the file."""
        with suppress(StoreError):
            await self.database.put((), served=self.serving.now())
        with suppress(StoreError):
            await self.database.close()

    _delegating: dict[str, list[str]] = field(default_factory=dict)
    _schedule: list[tuple[float, str]] = field(default_factory=list)
    """A heap of times and domains; an entry that differs from its domain's ``due`` is outdated."""

    def schedule(self, one: PublishedDomain, due: float) -> None:
        """Let the watch visit a domain at ``due``, by the monotonic clock."""
        one.due = due
        heappush(self._schedule, (due, one.state.domain))

    def take_due(self, now: float, limit: int) -> list[PublishedDomain]:
        """Return the domains that are due, the longest first; each has to be scheduled again."""
        due: list[PublishedDomain] = []
        while self._schedule and self._schedule[0][0] <= now and len(due) < limit:
            moment, name = heappop(self._schedule)
            one = self.domains.get(name)
            if one is not None and one.due == moment:
                one.due = float("inf")
                due.append(one)
        return due

    async def configure(self, settings: Mapping[str, PublishedDomainSettings]) -> None:
        """Apply the configured domains. Removed ones stay as long as a policy is served."""
        async for names in slices([*self.domains]):
            for name in names:
                one = self.domains.get(name)
                if one is not None and name not in settings:
                    one.settings = None
                    if one.state.text is None and one.state.phase is not PublishPhase.REMOVED:
                        del self.domains[name]
        delegating: dict[str, list[str]] = {}
        async for items in slices([*settings.items()]):
            for name, wanted in items:
                if wanted.delegate_to is not None:
                    delegating.setdefault(wanted.delegate_to, []).append(name)
                known = self.domains.get(name)
                if known is None:
                    self.domains[name] = PublishedDomain(DomainState(name), wanted)
                elif known.settings != wanted:
                    known.settings = wanted
                    known.gate = None
        self._delegating = delegating

    def decide(self, one: PublishedDomain, state: DomainState | None = None) -> PublishDecision:
        """Return the action for a domain, in its state or another one, and keep the outcome."""
        decision = decide(one.settings, state or one.state, self.delegate_of(one))
        one.outcome = decision.outcome
        return decision

    def delegate_of(self, one: PublishedDomain) -> PublishedPolicy | None:
        """Return the policy of the domain that ``one`` delegates to, if there is any."""
        if one.settings is None or one.settings.delegate_to is None:
            return None
        target = self.domains.get(one.settings.delegate_to)
        return None if target is None else target.state.live

    def delegating_to(self, name: str) -> list[PublishedDomain]:
        """Return the domains that delegate to a domain."""
        found = (self.domains.get(other) for other in self._delegating.get(name, ()))
        return [one for one in found if one is not None]

    def holds(self, state: DomainState) -> bool:
        """Return True if ``state`` is still the state of its domain."""
        known = self.domains.get(state.domain)
        return known is not None and known.state is state

    async def put(self, states: Sequence[DomainState], events: Iterable[PublishEvent], *, must_keep: bool) -> None:
        """Store the states, then serve them.

        If they cannot be stored, ``must_keep`` raises ``StoreError`` and changes nothing; otherwise they are served
        nevertheless, because a less strict policy must not wait for a disk.
        """
        # Skip domains that were removed from the configuration meanwhile and never served.
        kept = [state for state in states if state.domain in self.domains]
        known = {state.domain for state in kept}
        self._writes += 1
        try:
            noted = [event for event in events if event.domain in known]
            await self.database.put(kept, noted, served=self.serving.now())
            if self.database.path != MEMORY:
                self.write_failure = ""
        except StoreError as error:
            self.write_failure = error.sentence
            log_event("publish-write-failed", level=logging.ERROR, once_a_minute="", error=error)
            if must_keep:
                raise
        finally:
            self._writes -= 1
        for state in kept:
            if state.domain in self.domains:
                self.domains[state.domain].state = state
        self.serve(_texts(kept))

    async def recover(self) -> bool:
        """Reopen the file if it was deleted or replaced, and write all states if the file lacks some.

        Called once a minute; also stores the serving clock from time to time. Return True if the file could not be
        used before: domains may then have policies of the file.
        """
        returned = self.database.path != self._file and await self._leave_memory()
        served = self.serving.now()
        try:
            lost = await self.database.recover(self.clock.wall())
            self._all_due |= lost or (bool(self.write_failure) and self.database.path != MEMORY)
            if self._all_due:
                self.write_failure = self.write_failure or "the file lacks states"
                await self.database.put([one.state for one in self.domains.values()], served=served)
                self.write_failure, self._all_due = "", False
            elif served - self.database.served >= _SERVED_SECONDS:
                await self.database.put((), served=served)
            if lost:
                log_event("publish-database-restored", level=logging.WARNING, path=self.database.path)
        except StoreError as error:
            self.write_failure = error.sentence
        return returned

    async def _leave_memory(self) -> bool:
        """Open the file, and join its states with those in memory. Return False if it cannot be used yet."""
        database, now = PublishDatabase(self._file), self.clock.wall()
        try:
            states = await database.open(now)
        except StoreError as error:
            self.write_failure = error.sentence
            await database.close()
            return False
        before = {name: one.state for name, one in self.domains.items()}
        serving = ServingClock(self.clock, database.served)
        shift = serving.now() - self.serving.now()
        # On a thread: 100,000 domains take seconds.
        after = await asyncio.to_thread(joined_states, states, before, shift, now, database.served)
        if self._writes:  # they were decided by the states in memory: try again in a minute
            await database.close()
            return False
        changed = {name: one.state for name, one in self.domains.items() if one.state is not before.get(name)}
        if changed:
            stored = [state for state in states if state.domain in changed]
            after |= joined_states(stored, changed, shift, now, database.served)
        for problem in database.problems:
            log_event("publish-database-problem", level=logging.WARNING, error=problem)
        log_event("publish-database-restored", level=logging.WARNING, path=self._file)
        self.write_failure, self._all_due = "the states in memory are not stored yet", True
        memory, self.database, self.serving = self.database, database, serving
        for name, state in after.items():
            known = self.domains.get(name)
            if known is not None:
                known.state = state
            elif state.text is not None or state.phase is PublishPhase.REMOVED:
                self.domains[name] = PublishedDomain(state)
        async for part in slices([*self.domains.values()]):
            for one in part:
                self.decide(one)
            self.serve(_texts(one.state for one in part))
        with suppress(StoreError):
            await memory.close()
        return True

    def is_policy_host(self, name: str) -> bool:
        """Return True if ``name`` is a host that has, or is about to have, a policy."""
        prefix, _, domain = name.partition(".")
        one = self.domains.get(domain) if prefix == "mta-sts" else None
        if one is None or one.state.phase is PublishPhase.REMOVED:
            return False
        return one.state.text is not None or one.settings is not None


async def slices(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """Yield the items in slices, and let other tasks run between them."""
    for at in range(0, len(items), SLICE):
        yield items[at : at + SLICE]
        await asyncio.sleep(0)


def _texts(states: Iterable[DomainState]) -> dict[bytes, bytes | None]:
    return {policy_host_of(state.domain).encode("ascii"): state.text for state in states}
