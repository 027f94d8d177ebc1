"""Send reports when they are due. Destinations do not delay each other.

A destination is one HTTPS host, or the mail server. Reports to one destination are sent one after the other, and the
result of each is committed before the next. A kill between acceptance and commit therefore repeats at most one report
per destination, with the same bytes and names. Deliveries to a failing destination are postponed, and fail after
``retry_for``; other destinations are not affected.

Sessions of report mail must not be reported. Postfix 3.10.4 and later excludes mail with ``TLS-Required: No``; for
older versions the manual describes a transport without TLSRPT for the sender's address.
"""

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from ... import errors
from ...clock import ClockStability
from ...log import log_event
from ...ports import Clock
from ...text import utc_day
from ..database.connection import SavedReport, TlsrptDatabase
from ..database.outbox import Delivery, DeliveryProgress
from ..database.overview import DeliveryCounters
from ..model.delivery_result import DeliveryResult, Result
from ..model.mail import envelope_sender, message
from ..model.record import parse_rua
from ..model.report import Report
from .https_delivery import HttpsDelivery
from .planner import MAIL, Planner, backoff, complete_at
from .smtp_delivery import SmtpServer, submit

__all__ = ["SUPPRESSED_FOR", "Deliverer", "Submit"]

SUPPRESSED_FOR = 30 * 86400.0
"""Seconds for which an address gets no reports after it refused them permanently."""

_REFUSALS = 3
"""Days of refusals by an HTTPS address, without an accepted report, that count as a permanent refusal."""

_DESTINATIONS_AT_ONCE = 64
_AT_ONCE = 20_000
"""Maximum number of report units decided in one pass; each pass waits for its slowest lookup."""

_INTERVAL = 15.0
_WATCH_EVERY = 0.5
_MAX_BACK_OFF = 3600.0
_MAX_FAILURES = 10_000
_TIDY_EVERY = 3600.0
_STEADY_AFTER = 3600.0
"""Seconds for which the wall clock must have been stable before expired data is removed."""

_MAX_NAME = 255

T = TypeVar("T")
Submit = Callable[[SmtpServer, str, str, bytes], DeliveryResult]


class Deliverer:
    """Run ``run`` as a task and end it with ``stop``, optionally after ``finish``.

    ``planner.settings`` may be replaced while it runs. ``counters`` may be those of an earlier instance.
    ``submit`` submits mail and is called on a thread. ``jitter`` returns numbers from 0 to 1. ``stability`` is the
    stability of the clock since the process started.
    """

    def __init__(
        self,
        database: TlsrptDatabase,
        planner: Planner,
        https_delivery: HttpsDelivery,
        clock: Clock,
        *,
        counters: DeliveryCounters | None = None,
        submit: Submit = submit,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        stability: ClockStability | None = None,
    ) -> None:
        self.counters = counters or DeliveryCounters()
        self.planner = planner
        self.heartbeat = clock.monotonic()
        self._database = database
        self._outbox = planner.outbox
        self._https_delivery = https_delivery
        self._clock = clock
        self._stability = stability or ClockStability(clock.wall(), clock.monotonic())
        self._submit = submit
        self._sleep = sleep
        self._jitter = jitter
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        self._planned: set[str] = set()
        self._tidied_at = -_TIDY_EVERY
        self._stopping = False
        self._wake = asyncio.Event()

    # -- the task ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send due reports until ``stop``."""
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping:
                # Cleared before the round, so that no wake-up during it is lost.
                self._wake.clear()
                try:
                    await self.round(tasks)
                except errors.StoreError as error:
                    log_event("tlsrpt-database-failed", level=logging.ERROR, once_a_minute="deliver", error=error)
                except Exception:
                    # An internal error. The next round may succeed, and no report is lost.
                    self.counters.unhandled += 1
                    logging.getLogger(__name__).exception("tlsrpt-delivery-internal-error")
                self.heartbeat = self._clock.monotonic()
                await self._pause()

    async def finish(self) -> None:
        """Start no further deliveries, and wait for those in progress."""
        self._stopping = True
        self._wake.set()
        if self._running:
            await asyncio.wait(set(self._running.values()))

    async def stop(self, seconds: float = 5.0) -> None:
        """Do what ``finish`` does, but cancel deliveries after ``seconds``.

        A report that is accepted after that is sent again.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.finish()
        for destination in self._running.values():
            destination.cancel()
        await self._https_delivery.close()

    async def round(self, tasks: asyncio.TaskGroup) -> None:
        """Plan days that are over, decide due report units, and start due deliveries by destination."""
        await self._tidy()
        await self._plan()
        if not self.planner.settings.may_send:
            return
        await self._decide()
        for destination in await self._outbox.destinations(self._clock.wall()):
            # Mail does not wait for the HTTPS hosts.
            if (
                destination not in self._running
                and not self._stopping
                and (len(self._running) < _DESTINATIONS_AT_ONCE or destination == MAIL)
            ):
                self._running[destination] = tasks.create_task(
                    self._deliver_all(destination), name=f"reports to {destination}"
                )

    async def _pause(self) -> None:
        if self._stopping:
            return
        waking = asyncio.create_task(self._wake.wait(), name="reports wake")
        sleeping = asyncio.create_task(_awaited(self._sleep(_INTERVAL)), name="reports sleep")
        try:
            await asyncio.wait({waking, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            sleeping.cancel()

    # -- planning ----------------------------------------------------------------------------------------------

    async def _plan(self) -> None:
        now = self._clock.wall()
        for day in await self._outbox.days(utc_day(now)):
            if day not in self._planned and now >= complete_at(day):
                await self._outbox.plan(day, partial(self.planner.moment, day))
                self._planned.add(day)

    async def _decide(self) -> None:
        while not self._stopping:
            units = await self._outbox.waiting(self._clock.wall(), _AT_ONCE)
            async with aclosing(self.planner.decide(units)) as batches:
                async for decisions in batches:
                    await self._outbox.decide(decisions)
                    for decision in decisions:
                        self._count(decision)
                    self.heartbeat = self._clock.monotonic()
                    if self._stopping:
                        return
            if len(units) < _AT_ONCE:
                return

    def _count(self, decision: object) -> None:
        reason = getattr(decision, "reason", None)
        if reason is None:
            self.counters.made += 1
        else:
            slug = reason.partition(":")[0]
            self.counters.skipped[slug] = self.counters.skipped.get(slug, 0) + 1

    async def _tidy(self) -> None:
        now, monotonic = self._clock.wall(), self._clock.monotonic()
        self._stability.set_by(now, monotonic)
        if monotonic - self._tidied_at < _TIDY_EVERY:
            return
        self._tidied_at = monotonic
        # A clock that is years ahead would remove due reports.
        if self._stability.lasts(monotonic, _STEADY_AFTER):
            await self.planner.suppressions.tidy(now)
            await self._database.expire(utc_day(now - self.planner.settings.retention))
        self._planned &= set(await self._outbox.days(utc_day(now)))
        problem = await self.planner.dkim_problem()
        if problem is not None:
            log_event("tlsrpt-dkim-key", level=logging.WARNING, problem=problem)

    # -- destinations -------------------------------------------------------------------------------------------------

    async def _deliver_all(self, destination: str) -> None:
        try:
            while found := await self._outbox.next(destination, self._clock.wall()):
                if not await self._deliver(destination, *found):
                    return
        except errors.StoreError as error:
            log_event("tlsrpt-database-failed", level=logging.ERROR, once_a_minute="destination", error=error)
        except Exception:
            self.counters.unhandled += 1
            logging.getLogger(__name__).exception("tlsrpt-destination-failed")
        finally:
            del self._running[destination]
            if len(self._running) == _DESTINATIONS_AT_ONCE - 1:  # other destinations may be waiting for a free slot
                self._wake.set()

    async def _deliver(self, destination: str, delivery: Delivery, saved: SavedReport) -> bool:
        """Make one attempt and store the result. Return True if the next delivery may follow."""
        attempt = await self._attempt(delivery, saved)
        now = self._clock.wall()
        # Jitter of 50 %, so that simultaneous failures do not retry together.
        next_at = now + max(backoff(delivery.attempts + 1) * (0.5 + self._jitter()), attempt.wait)
        state = await self._record(delivery, attempt, now, next_at)
        self.counters.count_attempt("mail" if destination == MAIL else "https", attempt.result)
        self._log_attempt(delivery, attempt, state)
        if attempt.result is not Result.DEFERRED:
            self._failures.pop(destination, None)
        if destination != MAIL and attempt.result in (Result.REFUSED, Result.GONE):
            await self._refused(delivery, attempt)
        if attempt.host:
            await self._back_off(destination, attempt, now)
        return not (attempt.host or self._stopping)

    async def _record(self, delivery: Delivery, attempt: DeliveryResult, now: float, next_at: float) -> str:
        """Store the result, and retry while the disk fails. Until then no other report goes to the destination."""
        while True:
            try:
                # Stored even if this task is cancelled: the report may have been accepted.
                return await asyncio.shield(self._outbox.record(delivery, attempt, now, next_at))
            except errors.StoreError as error:
                log_event("tlsrpt-database-failed", level=logging.ERROR, once_a_minute="record", error=error)
                await self._sleep(_INTERVAL)

    async def _attempt(self, delivery: Delivery, saved: SavedReport) -> DeliveryResult:
        if saved.body is None:
            return DeliveryResult(Result.REFUSED, "the report has expired")
        report = Report(delivery.day, delivery.domain, saved.report_id)
        settings = self.planner.settings
        if settings.copy_to is not None:
            await asyncio.to_thread(_keep, settings.copy_to, report, saved.body)
        try:
            rua = parse_rua(delivery.uri)
        except ValueError as error:
            return DeliveryResult(Result.REFUSED, str(error))
        if not rua.mailbox:
            return await self._https_delivery.post(rua, saved.body)
        mail = message(
            report, saved.body, tag=delivery.tag, sender=settings.sender, to=rua.mailbox, created_at=saved.created_at
        )
        if settings.signer is not None:
            mail = settings.signer.signed(mail, saved.created_at)
        sender = envelope_sender(settings.sender, delivery.tag)
        return await _on_thread(partial(self._submit, settings.smtp, sender, rua.mailbox, mail))

    async def _refused(self, delivery: Delivery, attempt: DeliveryResult) -> None:
        suppressions, now = self.planner.suppressions, self._clock.wall()
        if attempt.result is Result.GONE or await suppressions.refusals(delivery.uri) >= _REFUSALS:
            await suppressions.suppress(delivery.uri, f"refused: {attempt.detail}", now, now + SUPPRESSED_FOR)
            log_event("tlsrpt-address-suppressed", level=logging.WARNING, uri=delivery.uri, reason=attempt.detail)

    async def _back_off(self, destination: str, attempt: DeliveryResult, now: float) -> None:
        failures = self._failures[destination] = self._failures.get(destination, 0) + 1
        while len(self._failures) > _MAX_FAILURES:
            self._failures.pop(next(iter(self._failures)))
        seconds = max(min(backoff(failures), _MAX_BACK_OFF), attempt.wait)
        await self._outbox.back_off(destination, now, now + seconds, attempt.detail)
        log_event(
            "tlsrpt-delivery-backoff",
            level=logging.WARNING,
            destination=destination,
            seconds=round(seconds),
            reason=attempt.detail,
        )

    def _log_attempt(self, delivery: Delivery, attempt: DeliveryResult, state: str) -> None:
        level = logging.INFO if state == "delivered" else logging.WARNING
        about = {"day": delivery.day, "domain": delivery.domain, "uri": delivery.uri}
        detail = {"detail": attempt.detail} if attempt.detail else {}
        log_event(f"tlsrpt-report-{state}", level=level, once_a_minute=f"{state} {delivery.uri}", **about, **detail)

    # -- for the command ---------------------------------------------------------------------------------------

    async def send(
        self, day: str, domain: str | None = None, *, progress: Callable[[DeliveryProgress], None] | None = None
    ) -> DeliveryProgress:
        """Make the day, or one domain of it, due now, and wait until each report has been tried once.

        ``run`` sends the reports, in this process or in the daemon. Failed deliveries are retried, finished ones are
        not. ``progress`` is called every half second. Raises ``ValueError`` if the day is not over or the settings of
        the sender are missing.
        """
        now = self._clock.wall()
        if not self.planner.settings.may_send:
            raise ValueError("nothing is sent until tlsrpt.organization, tlsrpt.contact and tlsrpt.sender are set")
        if now < complete_at(day):
            raise ValueError(f"{day} is not over (UTC)")
        await self._outbox.plan(day, partial(self.planner.moment, day))
        await self._outbox.make_due(day, domain, now, now + self.planner.settings.retry_for)
        self._wake.set()
        while True:
            found = await self._outbox.progress(day, domain, self._clock.wall())
            if progress is not None:
                progress(found)
            if not (found.waiting_due or found.pending_due):
                return found
            await self._sleep(_WATCH_EVERY)


def _keep(folder: Path, report: Report, body: bytes) -> None:
    """Write a copy of the report below ``folder`` unless it exists. Log an error if that fails."""
    name = report.file_name
    if len(name) > _MAX_NAME - len(".new"):
        name = f"{report.report_id.partition('@')[0]}.json.gz"
    path = folder / report.day / name
    try:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when complete, so that no partial file is left if this process dies.
        new = path.with_name(f"{name}.new")
        new.write_bytes(body)
        new.replace(path)
    except OSError as error:
        log_event(
            "tlsrpt-copy-failed", level=logging.ERROR, once_a_minute="copy", path=path, error=error.strerror or error
        )


async def _awaited(call: Awaitable[None]) -> None:
    await call


async def _on_thread(call: Callable[[], T]) -> T:
    """Run ``call`` on a daemon thread, which does not delay the exit of the process, and return its result."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def deliver(outcome: Callable[[], None]) -> None:
        if not done.done():
            outcome()

    def work() -> None:
        try:
            outcome = partial(done.set_result, call())
        except Exception as error:
            outcome = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: no caller waits
            loop.call_soon_threadsafe(deliver, outcome)

    threading.Thread(target=work, name="report mail", daemon=True).start()
    return await done
