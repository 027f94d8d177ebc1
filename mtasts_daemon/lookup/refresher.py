"""The background refresher: fetches stored policies again before they end (RFC 8461 sections 3.3 and 10.2).

It keeps no state of its own: the store knows which policies are due. Each refresh is a task, bounded in number and by
the ports' time limits, so that no slow host delays another; no exception in one ends the loop.
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
    """Times in seconds. A domain without a lookup for ``unused_after`` is not refreshed."""

    unused_after: float = 30 * 86400.0
    interval: float = 15.0
    at_once: int = 48
    give_up_after: float = 300.0
    skip: float = 300.0
    tidy_every: float = 3600.0


_MAX_SKIPPED = 256
"""Domains whose refresh left them as due as before. With more of them, the refresher waits for its next interval."""

_STEADY_AFTER = 86400.0
"""Seconds for which the wall clock must have been steady before policies are removed by it."""


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
        self._skipped: dict[str, float] = {}
        """Domains whose refresh left them as due as before, and until when they are skipped."""
        self._ended = asyncio.Event()
        self._swept_at = clock.monotonic()
        self._tidied_at = clock.monotonic()
        self._stability = ClockStability(clock.wall(), clock.monotonic())

    @property
    def under_way(self) -> int:
        """The number of refreshes under way."""
        return len(self._under_way)

    def configure(self, settings: RefreshSettings) -> None:
        """Take over other settings."""
        self.settings = settings

    async def run(self) -> None:
        """Refresh due policies until cancelled."""
        more = False
        while True:
            slept, more = not more, False
            try:
                await self._check_clock()
                await self._sweep(slept)
                await self._tidy()
                more = await self._begin_due()
            except errors.StoreError as error:
                log_event("store-read-failed", level=logging.ERROR, once_a_minute="refresh", error=error)
            except Exception:
                # A bug; the next round may succeed, and policies outlive many rounds.
                self._service.counters.unhandled += 1
                logging.getLogger(__name__).exception("refresh-round-failed")
            self.heartbeat = self._clock.monotonic()
            if more:
                await self._one_ended()
            else:
                await self._sleep(self.settings.interval)

    async def _begin_due(self) -> bool:
        """Begin as many refreshes as allowed; return True if more are due."""
        if self._service.maintenance.writes_fail:
            return False  # every policy would be fetched again in vain
        now, at_once = self._clock.wall(), self.settings.at_once
        self._skipped = {domain: until for domain, until in self._skipped.items() if until > self._clock.monotonic()}
        limit = at_once + len(self._skipped)
        due = await self._store.due(now, now - self.settings.unused_after, limit)
        waiting = [entry for entry in due if entry.domain not in self._skipped and entry.domain not in self._under_way]
        for entry in waiting[: at_once - len(self._under_way)]:
            self._under_way.add(entry.domain)
            self._spawn(self._refresh(entry), f"refresh {entry.domain}")
        return len(due) == limit and len(self._skipped) < _MAX_SKIPPED

    async def _refresh(self, entry: CacheEntry) -> None:
        saved = False
        try:
            async with asyncio.timeout(self.settings.give_up_after):
                saved = await self._service.discovery.refresh(entry)
        except TimeoutError:
            log_event("refresh-timeout", level=logging.ERROR, domain=entry.domain)
        finally:
            if not saved:
                self._skipped[entry.domain] = self._clock.monotonic() + self.settings.skip
            self._under_way.discard(entry.domain)
            self._ended.set()

    async def _one_ended(self) -> None:
        self._ended.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.interval):
                await self._ended.wait()

    async def _check_clock(self) -> None:
        maintenance = self._service.maintenance
        moved = self._stability.set_by(self._clock.wall(), self._clock.monotonic())
        if moved:
            log_event("clock-jump", level=logging.WARNING, seconds=round(moved))
            await maintenance.repair_clock()
        else:
            await maintenance.continue_repair()

    async def _sweep(self, slept: bool) -> None:
        """Sweep once per interval, however many rounds it has: a sweep visits all slots."""
        now = self._clock.monotonic()
        if slept or now - self._swept_at >= self.settings.interval:
            self._swept_at = now
            await self._service.maintenance.sweep()

    async def _tidy(self) -> None:
        if self._clock.monotonic() - self._tidied_at < self.settings.tidy_every:
            return
        self._tidied_at = self._clock.monotonic()
        # At the moment 0 nothing has expired yet; entries that exceed the limits are removed all the same.
        steady = self._stability.lasts(self._clock.monotonic(), _STEADY_AFTER)
        removed = await self._store.tidy(self._clock.wall() if steady else 0.0)
        if removed:
            log_event("store-tidied", removed=removed)
