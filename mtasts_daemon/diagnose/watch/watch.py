"""Watch domains from the daemon: check each regularly, record the history, alert on confirmed changes."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from ...clock import ClockStability
from ...config import Config
from ...config.sections.check import CheckSettings
from ...errors import MtaStsError, StoreError
from ...log import log_event
from ...notify.alert import AlertSink
from ...ports import Clock
from ..check.evidence import CheckEvidence
from ..check.result import CheckResult, judge
from .changes import FindingChanges, alerts_for
from .history import CheckHistory

__all__ = ["DomainWatch", "WatchedState", "history_file"]

_CONFIRM_AFTER = 600.0
"""Seconds after which a new problem is checked again, before it is an alert."""
_RETRY_AFTER = 1800.0
"""Seconds after a check that failed because of this host."""
_START_PER_DOMAIN, _START_MAX = 2.0, 300.0
"""First checks are spread: seconds per domain, and the maximum in total."""
_AT_ONCE = 4
_TIDY_EVERY = 86400.0
_STEADY_AFTER = 3600.0
"""Seconds for which the wall clock must have been steady before history is removed by it."""

T = TypeVar("T")
GatherEvidence = Callable[[str], Awaitable[CheckEvidence]]


@dataclass(frozen=True, slots=True)
class WatchedState:
    """The last check of a watched domain; ``result`` is None until the first one in this process."""

    domain: str
    due: float
    result: CheckResult | None = None
    failure: str = ""


class DomainWatch:
    """A part of the daemon. Its methods are for the main loop; ``gather`` crosses to the check thread."""

    name = "check"

    def __init__(
        self,
        gather: GatherEvidence,
        alert: AlertSink,
        clock: Clock,
        environ: Mapping[str, str],
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._gather = gather
        self._alert = alert
        self._clock = clock
        self._environ = environ
        self._random = random or Random()  # noqa: S311 - it spreads load
        self._sleep = sleep
        self._settings = CheckSettings()
        self._history: CheckHistory | None = None
        self._task: asyncio.Task[None] | None = None
        self._states: dict[str, WatchedState] = {}
        self._tidy_at = 0.0
        self._stability = ClockStability(clock.wall(), clock.monotonic())

    @property
    def states(self) -> Mapping[str, WatchedState]:
        """The watched domains."""
        return self._states

    async def configure(self, config: Config) -> None:
        """Watch the domains of the configuration. Raises ``StoreError`` if the history cannot be opened."""
        settings = config.check
        if settings.domains:
            await self._open(history_file(config, self._environ))
        self._settings = settings
        now, spread = self._clock.monotonic(), min(_START_PER_DOMAIN * len(settings.domains), _START_MAX)
        self._states = {
            domain: self._states.get(domain) or WatchedState(domain, now + self._random.uniform(0, spread))
            for domain in settings.domains
        }
        if settings.domains and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run(), name="domain-watch")
        elif not settings.domains:
            await self._end()

    async def stop(self) -> None:
        """Stop, and close the history."""
        await self._end()
        if self._history is not None:
            with suppress(StoreError):
                await self._history.close()
            self._history = None

    async def read(self, job: Callable[[sqlite3.Connection], T]) -> T | None:
        """Read from the history; None if no domain was ever watched. Raises ``StoreError``."""
        return None if self._history is None else await self._history.read(job)

    async def history(self, domain: str) -> Mapping[str, Any]:
        """Return checks, problems and timeline of a domain as JSON values. Raises ``StoreError``."""
        history = self._history
        if history is None:
            return {"domain": domain, "checks": [], "problems": [], "timeline": []}
        return await _history_json(history, domain)

    # -- running ---------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            now = self._clock.monotonic()
            due = sorted((state for state in self._states.values() if state.due <= now), key=lambda state: state.due)
            await asyncio.gather(*(self._check(state.domain) for state in due[:_AT_ONCE]))
            await self._tidy()
            next_due = min((state.due for state in self._states.values()), default=now + 60.0)
            # At least a second, so that failing checks cannot make a busy loop.
            await self._sleep(min(max(next_due - self._clock.monotonic(), 1.0), 60.0))

    async def _check(self, domain: str) -> None:
        """Check a domain once, and decide when next. Never raises but for cancellation."""
        result, failure, wait = None, "", _RETRY_AFTER
        try:
            evidence = await self._gather(domain)
            # On a thread: a hostile domain has hundreds of findings, and lookups wait for this loop.
            result = await asyncio.to_thread(judge, evidence, mine=True)
            change = await self._record(result)
            wait = self._wait(result, change)
        except TimeoutError:
            failure = "the check did not finish in time"
        except MtaStsError as error:
            failure = error.sentence
        except Exception as error:
            failure = f"internal error: {type(error).__name__}"
            logging.getLogger(__name__).exception("check-internal-error", extra={"fields": {"domain": domain}})
        if failure:
            log_event("check-failed", level=logging.WARNING, domain=domain, error=failure)
        known = self._states.get(domain)
        if known is not None:
            due = self._clock.monotonic() + wait
            self._states[domain] = WatchedState(domain, due, result or known.result, failure)

    async def _record(self, result: CheckResult) -> FindingChanges:
        """Store the result and alert. Without a history nothing is compared, so nothing is an alert."""
        history = self._history
        if history is None:
            raise StoreError("the history of checks is not open")
        change = await history.record(result)
        for alert in alerts_for(result.domain, change, result.evidence.at):
            self._alert(alert)
        log_event(
            "domain-checked",
            domain=result.domain,
            exit_code=result.exit_code,
            added=len(change.added),
            fixed=len(change.fixed),
        )
        return change

    def _wait(self, result: CheckResult, change: FindingChanges) -> float:
        every = float(self._settings.every)
        if change.added:
            return min(_CONFIRM_AFTER, every)
        # A missing route is permanent as a rule: many hosts have no IPv6.
        if any(finding.ours and finding.slug != "smtp-no-route" for finding in result.findings):
            return min(_RETRY_AFTER, every)
        return every * self._random.uniform(0.9, 1.0)

    async def _tidy(self) -> None:
        now, wall = self._clock.monotonic(), self._clock.wall()
        self._stability.set_by(wall, now)
        history = self._history
        if history is None or now < self._tidy_at or not self._stability.lasts(now, _STEADY_AFTER):
            return
        self._tidy_at = now + _TIDY_EVERY
        try:
            await history.tidy(wall)
        except StoreError as error:
            log_event("check-failed", level=logging.WARNING, error=error)

    # -- the history -----------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The file of the history; empty if no domain was ever watched."""
        return "" if self._history is None else self._history.path

    async def recover(self, now: float) -> Sequence[StoreError]:
        """Begin a new history if the file was deleted or replaced. Return the problems found; raises ``StoreError``."""
        return () if self._history is None else await self._history.recover(now)

    async def _open(self, path: str) -> None:
        if self.path == path:
            return
        opened = CheckHistory(path)
        for problem in await opened.open(self._clock.wall()):
            log_event("check-failed", level=logging.WARNING, path=path, error=problem)
        old, self._history = self._history, opened
        if old is not None:
            with suppress(StoreError):
                await old.close()

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None


def history_file(config: Config, environ: Mapping[str, str]) -> str:
    """Return the path of the history."""
    if config.check.database is not None:
        return str(config.check.database)
    return str(Path(config.store.file(environ)).with_name("check.sqlite"))


async def _history_json(history: CheckHistory, domain: str) -> Mapping[str, Any]:
    names = ("slug", "subject", "severity", "sentence", "since", "last_seen", "confirmed", "gone_at")
    return {
        "domain": domain,
        "checks": [
            {
                "at": row.at,
                "exit_code": row.exit_code,
                "errors": row.errors,
                "warnings": row.warnings,
                "outcomes": list(row.outcomes),
            }
            for row in await history.checks(domain)
        ],
        "problems": [dict(zip(names, row, strict=True)) for row in await history.problems(domain)],
        "timeline": [
            {
                "kind": entry.kind,
                "subject": entry.subject,
                "value": entry.value,
                "since": entry.since,
                "last_seen": entry.last_seen,
            }
            for entry in await history.timeline(domain)
        ],
    }
