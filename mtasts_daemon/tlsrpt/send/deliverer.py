"""Sends reports: each when its moment has come, in lanes that do not hold each other up.

A lane is all that goes to one HTTPS host, or all mail. Within a lane reports go one after the other, and what became
of each is committed before the next; so what a kill between acceptance and commit can repeat is one report of each
lane, and a repeat is the same octets under the same names. A lane in trouble rests, and gives up what has waited for
too long; the others go on.

A report mail must not be reported about. Postfix 3.10.4 and later does not where it carries ``TLS-Required: No``; for
others the manual has a transport without TLSRPT for the sender's address.
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
from ..database.connection import SavedReport, TlsrptDatabase, day_of
from ..database.outbox import Delivery, DeliveryProgress
from ..database.overview import DeliveryCounters
from ..model.delivery_result import Attempt, Result
from ..model.mail import envelope_sender, message
from ..model.record import parse_rua
from ..model.report import Report
from .https_delivery import Poster
from .planner import MAIL, Planner, backoff, complete_at
from .smtp_delivery import SmtpServer, submit

__all__ = ["SUPPRESSED_FOR", "Deliverer", "Submit"]

SUPPRESSED_FOR = 30 * 86400.0
"""Seconds that an address gets no reports after it refused them for good."""

_REFUSALS = 3
"""Days of refusals by an HTTPS address, with no report taken in between, that are for good."""

_LANES_AT_ONCE = 64
_AT_ONCE = 20_000
"""Subjects decided in one go; at the end of it the slowest lookups are waited for."""

_INTERVAL = 15.0
_WATCH_EVERY = 0.5
_MAX_REST = 3600.0
_MAX_TROUBLES = 10_000
_TIDY_EVERY = 3600.0
_STEADY_AFTER = 3600.0
"""Seconds for which the wall clock must have been in step before anything is forgotten by it."""

_MAX_NAME = 255

T = TypeVar("T")
Submit = Callable[[SmtpServer, str, str, bytes], Attempt]


class Deliverer:
    """Run ``run`` as a task and end it with ``stop``, perhaps after ``finish``.

    ``planner.settings`` may be exchanged meanwhile. ``counters`` are those to go on with. ``submit`` hands mail in, on
    a thread. ``jitter`` gives numbers from 0 to 1. ``steadiness`` is that of the clock since the process started.
    """

    def __init__(
        self,
        database: TlsrptDatabase,
        planner: Planner,
        poster: Poster,
        clock: Clock,
        *,
        counters: DeliveryCounters | None = None,
        submit: Submit = submit,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        steadiness: ClockStability | None = None,
    ) -> None:
        self.counters = counters or DeliveryCounters()
        self.planner = planner
        self.heartbeat = clock.monotonic()
        self._database = database
        self._outbox = planner.outbox
        self._poster = poster
        self._clock = clock
        self._steadiness = steadiness or ClockStability(clock.wall(), clock.monotonic())
        self._submit = submit
        self._sleep = sleep
        self._jitter = jitter
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._troubles: dict[str, int] = {}
        self._planned: set[str] = set()
        self._tidied_at = -_TIDY_EVERY
        self._stopping = False
        self._wake = asyncio.Event()

    # -- the task ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what is due, until ``stop``."""
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping:
                try:
                    await self.round(tasks)
                except errors.StoreError as error:
                    log_event("tlsrpt-database-failed", level=logging.ERROR, once_a_minute="deliver", error=error)
                except Exception:
                    # A bug; the next round may well do, and nothing is lost.
                    self.counters.unhandled += 1
                    logging.getLogger(__name__).exception("tlsrpt-round-failed")
                self.heartbeat = self._clock.monotonic()
                await self._pause()

    async def finish(self) -> None:
        """Begin nothing more, and wait for what is under way, however long that takes."""
        self._stopping = True
        self._wake.set()
        if self._lanes:
            await asyncio.wait(set(self._lanes.values()))

    async def stop(self, within: float = 5.0) -> None:
        """``finish``, but leave what is still under way after so many seconds.

        What is accepted later than that is sent again.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self.finish()
        for lane in self._lanes.values():
            lane.cancel()
        await self._poster.close()

    async def round(self, tasks: asyncio.TaskGroup) -> None:
        """Plan days that are over, decide what is due, and begin lanes with something due."""
        await self._tidy()
        await self._plan()
        if not self.planner.settings.may_send:
            return
        await self._decide()
        for lane in await self._outbox.lanes(self._clock.wall()):
            # The mail's lane does not wait for a place among the others.
            if lane not in self._lanes and not self._stopping and (len(self._lanes) < _LANES_AT_ONCE or lane == MAIL):
                self._lanes[lane] = tasks.create_task(self._run_lane(lane), name=f"reports to {lane}")

    async def _pause(self) -> None:
        self._wake.clear()
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
        for day in await self._outbox.days(day_of(now)):
            if day not in self._planned and now >= complete_at(day):
                await self._outbox.plan(day, partial(self.planner.moment, day))
                self._planned.add(day)

    async def _decide(self) -> None:
        while not self._stopping:
            subjects = await self._outbox.waiting(self._clock.wall(), _AT_ONCE)
            async with aclosing(self.planner.decide(subjects)) as batches:
                async for decisions in batches:
                    await self._outbox.decide(decisions)
                    for decision in decisions:
                        self._count(decision)
                    self.heartbeat = self._clock.monotonic()
                    if self._stopping:
                        return
            if len(subjects) < _AT_ONCE:
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
        self._steadiness.set_by(now, monotonic)
        if monotonic - self._tidied_at < _TIDY_EVERY:
            return
        self._tidied_at = monotonic
        # By a clock that is years ahead, reports that are due would be forgotten.
        if self._steadiness.lasts(monotonic, _STEADY_AFTER):
            await self.planner.suppressions.tidy(now)
            await self._database.expire(day_of(now - self.planner.settings.retention))
        self._planned &= set(await self._outbox.days(day_of(now)))
        problem = await self.planner.dkim_problem()
        if problem is not None:
            log_event("tlsrpt-dkim-key", level=logging.WARNING, problem=problem)

    # -- lanes -------------------------------------------------------------------------------------------------

    async def _run_lane(self, lane: str) -> None:
        try:
            while found := await self._outbox.next(lane, self._clock.wall()):
                if not await self._deliver(lane, *found):
                    return
        except errors.StoreError as error:
            log_event("tlsrpt-database-failed", level=logging.ERROR, once_a_minute="lane", error=error)
        except Exception:
            self.counters.unhandled += 1
            logging.getLogger(__name__).exception("tlsrpt-lane-failed")
        finally:
            del self._lanes[lane]
            if len(self._lanes) == _LANES_AT_ONCE - 1:  # others may have found no place
                self._wake.set()

    async def _deliver(self, lane: str, delivery: Delivery, saved: SavedReport) -> bool:
        """Make one attempt, and keep what it came to; whether the lane goes on."""
        attempt = await self._attempt(delivery, saved)
        now = self._clock.wall()
        # Half of it up to half as much again, so that those that failed together do not come back together.
        next_at = now + max(backoff(delivery.attempts + 1) * (0.5 + self._jitter()), attempt.wait)
        state = await self._record(delivery, attempt, now, next_at)
        self.counters.tried("mail" if lane == MAIL else "https", attempt.result)
        self._tell(delivery, attempt, state)
        if attempt.result is not Result.DEFERRED:
            self._troubles.pop(lane, None)
        if lane != MAIL and attempt.result in (Result.REFUSED, Result.GONE):
            await self._refused(delivery, attempt)
        if attempt.host:
            await self._rest(lane, attempt, now)
        return not (attempt.host or self._stopping)

    async def _record(self, delivery: Delivery, attempt: Attempt, now: float, next_at: float) -> str:
        """Keep what the attempt came to, however long the disk takes: nothing else is sent before that is known."""
        while True:
            try:
                # What was accepted is kept whatever happens to this task.
                return await asyncio.shield(self._outbox.record(delivery, attempt, now, next_at))
            except errors.StoreError as error:
                log_event("tlsrpt-database-failed", level=logging.ERROR, once_a_minute="record", error=error)
                await self._sleep(_INTERVAL)

    async def _attempt(self, delivery: Delivery, saved: SavedReport) -> Attempt:
        if saved.body is None:
            return Attempt(Result.REFUSED, "the report is no longer there")
        report = Report(delivery.day, delivery.domain, saved.report_id)
        settings = self.planner.settings
        if settings.copy_to is not None:
            await asyncio.to_thread(_keep, settings.copy_to, report, saved.body)
        try:
            rua = parse_rua(delivery.uri)
        except ValueError as error:
            return Attempt(Result.REFUSED, str(error))
        if not rua.mailbox:
            return await self._poster.post(rua, saved.body)
        mail = message(
            report, saved.body, tag=delivery.tag, sender=settings.sender, to=rua.mailbox, created_at=saved.created_at
        )
        if settings.signer is not None:
            mail = settings.signer.signed(mail, saved.created_at)
        sender = envelope_sender(settings.sender, delivery.tag)
        return await _on_thread(partial(self._submit, settings.smtp, sender, rua.mailbox, mail))

    async def _refused(self, delivery: Delivery, attempt: Attempt) -> None:
        suppressions, now = self.planner.suppressions, self._clock.wall()
        if attempt.result is Result.GONE or await suppressions.refusals(delivery.uri) >= _REFUSALS:
            await suppressions.suppress(delivery.uri, f"refused: {attempt.detail}", now, now + SUPPRESSED_FOR)
            log_event("tlsrpt-address-suppressed", level=logging.WARNING, uri=delivery.uri, reason=attempt.detail)

    async def _rest(self, lane: str, attempt: Attempt, now: float) -> None:
        troubles = self._troubles[lane] = self._troubles.get(lane, 0) + 1
        while len(self._troubles) > _MAX_TROUBLES:
            self._troubles.pop(next(iter(self._troubles)))
        seconds = max(min(backoff(troubles), _MAX_REST), attempt.wait)
        await self._outbox.rest(lane, now, now + seconds, attempt.detail)
        log_event(
            "tlsrpt-delivery-backoff", level=logging.WARNING, lane=lane, seconds=round(seconds), reason=attempt.detail
        )

    def _tell(self, delivery: Delivery, attempt: Attempt, state: str) -> None:
        level = logging.INFO if state == "delivered" else logging.WARNING
        about = {"day": delivery.day, "domain": delivery.domain, "uri": delivery.uri}
        detail = {"detail": attempt.detail} if attempt.detail else {}
        log_event(f"tlsrpt-report-{state}", level=level, once_a_minute=f"{state} {delivery.uri}", **about, **detail)

    # -- by hand -----------------------------------------------------------------------------------------------

    async def send(
        self, day: str, domain: str | None = None, *, progress: Callable[[DeliveryProgress], None] | None = None
    ) -> DeliveryProgress:
        """Have the day, or its one domain, sent now, and wait until everything has been tried once.

        It is ``run`` that sends, here or in the daemon beside this process; what failed before is tried again, what
        was delivered is not. ``progress`` is called now and then. Raises ``ValueError`` where the day is not over, or
        it is not known who reports.
        """
        now = self._clock.wall()
        if not self.planner.settings.may_send:
            raise ValueError("nothing is sent until organization, contact and sender are given")
        if now < complete_at(day):
            raise ValueError(f"{day} is not over (UTC)")
        await self._outbox.plan(day, partial(self.planner.moment, day))
        await self._outbox.hurry(day, domain, now, now + self.planner.settings.retry_for)
        self._wake.set()
        while True:
            found = await self._outbox.progress(day, domain, self._clock.wall())
            if progress is not None:
                progress(found)
            if not (found.waiting_due or found.pending_due):
                return found
            await self._sleep(_WATCH_EVERY)


def _keep(folder: Path, report: Report, body: bytes) -> None:
    """Keep a copy of the report below ``folder``, once; a copy that cannot be kept is told of and no more."""
    name = report.file_name
    if len(name) > _MAX_NAME - len(".new"):
        name = f"{report.report_id.partition('@')[0]}.json.gz"
    path = folder / report.day / name
    try:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, whenever this process ends.
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
    """What ``call`` gives on a thread that does not keep the process from ending."""
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
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, outcome)

    threading.Thread(target=work, name="report mail", daemon=True).start()
    return await done
