"""The background refresher: fetches stored policies again before they end (RFC 8461 sections 3.3 and 10.2).

It keeps no state of its own: the store says what is due. Each refresh is a task of its own, bounded in number and by
the ports' limits of time, so that no slow host holds up another; and nothing that one raises ends the loop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from .. import errors
from ..clock import ClockStability
from ..log import log_event
from ..policy.cache_entry import CacheEntry
from ..ports import Clock, Spawn, Store
from .service import PolicyService

__all__ = ["RefreshSettings", "Refresher"]


@dataclass(frozen=True, slots=True)
class RefreshSettings:
    """Times in seconds. ``unused_after`` is how long a domain is refreshed that nobody asks for."""

    unused_after: float = 30 * 86400.0
    interval: float = 15.0
    at_once: int = 48
    give_up_after: float = 300.0
    skip: float = 300.0
    tidy_every: float = 3600.0


_MAX_PASSED_OVER = 10_000

_STEADY_AFTER = 86400.0
"""Seconds for which the wall clock must have been in step before policies are removed by it."""


class Refresher:
    """Run ``run`` as a task; ``heartbeat`` is the monotonic moment of its last round."""

    def __init__(
        self,
        service: PolicyService,
        store: Store,
        clock: Clock,
        spawn: Spawn,
        settings: RefreshSettings,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings = settings
        self.heartbeat = clock.monotonic()
        self._service = service
        self._store = store
        self._clock = clock
        self._spawn = spawn
        self._sleep = sleep
        self._under_way: set[str] = set()
        # Domains whose refresh left them as due as before, and until when they are passed over.
        self._passed_over: dict[str, float] = {}
        self._ended = asyncio.Event()
        self._tidied_at = clock.monotonic()
        self._steadiness = ClockStability(clock.wall(), clock.monotonic())

    @property
    def under_way(self) -> int:
        """How many refreshes are under way."""
        return len(self._under_way)

    async def run(self) -> None:
        """Refresh what is due, for ever."""
        while True:
            more = False
            try:
                await self._look_at_clock()
                await self._service.upkeep.sweep()
                await self._tidy()
                more = await self._begin_due()
            except errors.StoreError as error:
                log_event("store-read-failed", level=logging.ERROR, once_a_minute="refresh", error=error)
            except Exception:
                # A bug; the next round may well do (and policies outlive many rounds).
                self._service.counters.unhandled += 1
                logging.getLogger(__name__).exception("refresh-round-failed")
            self.heartbeat = self._clock.monotonic()
            if more:
                await self._one_ended()
            else:
                await self._sleep(self.settings.interval)

    async def _begin_due(self) -> bool:
        """Begin as many as there is room for; whether more are due."""
        now, at_once = self._clock.wall(), self.settings.at_once
        passed_over = {domain: until for domain, until in self._passed_over.items() if until > self._clock.monotonic()}
        self._passed_over = passed_over
        limit = at_once + len(passed_over)
        due = await self._store.due(now, now - self.settings.unused_after, limit)
        waiting = [entry for entry in due if entry.domain not in passed_over and entry.domain not in self._under_way]
        for entry in waiting[: at_once - len(self._under_way)]:
            self._under_way.add(entry.domain)
            self._spawn(self._refresh(entry), f"refresh {entry.domain}")
        return len(due) == limit

    async def _refresh(self, entry: CacheEntry) -> None:
        saved = False
        try:
            async with asyncio.timeout(self.settings.give_up_after):
                saved = await self._service.refresh(entry)
        except TimeoutError:
            log_event("refresh-timeout", level=logging.ERROR, domain=entry.domain)
        finally:
            if not saved and len(self._passed_over) < _MAX_PASSED_OVER:
                self._passed_over[entry.domain] = self._clock.monotonic() + self.settings.skip
            self._under_way.discard(entry.domain)
            self._ended.set()

    async def _one_ended(self) -> None:
        self._ended.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.interval):
                await self._ended.wait()

    async def _look_at_clock(self) -> None:
        moved = self._steadiness.set_by(self._clock.wall(), self._clock.monotonic())
        if moved:
            log_event("clock-jump", level=logging.WARNING, seconds=round(moved))
            await self._service.upkeep.clock_set()

    async def _tidy(self) -> None:
        if self._clock.monotonic() - self._tidied_at < self.settings.tidy_every:
            return
        self._tidied_at = self._clock.monotonic()
        # At the moment 0 nothing has expired yet; what exceeds the limits goes all the same.
        steady = self._steadiness.lasts(self._clock.monotonic(), _STEADY_AFTER)
        removed = await self._store.tidy(self._clock.wall() if steady else 0.0)
        if removed:
            log_event("store-tidied", removed=removed)
