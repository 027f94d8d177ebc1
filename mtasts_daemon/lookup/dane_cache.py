"""DANE verdicts of destinations: one discovery at a time, cached.

A verdict holds for the least TTL of its answers, within limits. The last verdict of a host or a destination replaces
failed lookups for a day. Everything is in memory only, on the monotonic clock; the destinations and hosts discovered
longest ago are evicted first.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ..counters import Counters
from ..dns.dane_discovery import discover_dane, query
from ..errors import DnsError, DnsUnreachable
from ..policy.cache_entry import OWN_FAILURE_TTL
from ..policy.dane import (
    DaneVerdict,
    DnsQuestion,
    DnsResult,
    HostKey,
    HostVerdict,
    MxStatus,
    Timestamped,
    apply_fallback,
    discover,
    mx_question,
)
from ..policy.dns_answer import DnsAnswer
from ..policy.findings import DaneFinding, FindingSink
from ..policy.next_hop import NextHop
from ..ports import Clock, Pending, Resolver, Spawn, result_or_error
from .single_flight import InFlight, SingleFlight

__all__ = ["CachedVerdict", "DaneCache", "Destination"]

_TTL_MIN = 60.0
_TTL_MAX = 3600.0

_MAX_DESTINATIONS = 50_000
_MAX_HOSTS = 50_000


class CachedVerdict(NamedTuple):
    """A verdict, and the monotonic moment until which it holds (in the past if it only replaces a failed one)."""

    verdict: DaneVerdict
    until: float


@dataclass(slots=True)
class Destination:
    """A next-hop: its last verdict, the last one that had not failed, and the discovery under way."""

    hop: NextHop
    last: CachedVerdict | None = None
    good: Timestamped[DaneVerdict] | None = None
    flight: InFlight | None = None
    answers: dict[DnsQuestion, DnsResult] | None = None
    """The answers of the discovery under way."""


class DaneCache:
    """The DANE verdicts of all destinations. Used from one event loop."""

    def __init__(
        self, resolver: Resolver, clock: Clock, single_flight: SingleFlight, spawn: Spawn, counters: Counters
    ) -> None:
        self.resolver = resolver
        self._clock = clock
        self.single_flight = single_flight
        self._spawn = spawn
        self._counters = counters
        self.on_finding: FindingSink = lambda _finding: None
        # Not plain dicts: these find their first key only behind the gaps of all removed ones.
        self._destinations: OrderedDict[NextHop, Destination] = OrderedDict()
        self._hosts: OrderedDict[HostKey, Timestamped[HostVerdict]] = OrderedDict()

    def clear(self) -> None:
        """Drop every verdict, because the resolver that gave them is no longer the one to trust."""
        self._destinations.clear()
        self._hosts.clear()

    def verdict(self, hop: NextHop) -> CachedVerdict | Destination:
        """Return the verdict, or the destination whose flight the lookup waits for.

        After that wait, ``conclude`` returns the verdict. A flight whose deadline has passed is not waited for.
        """
        destination = self._destinations.get(hop) or self._admit(hop)
        last = destination.last
        if last is not None and self._clock.monotonic() < last.until:
            return last
        flight = destination.flight or self._begin(destination)
        return self.conclude(destination) if flight.deadline_passed else destination

    def conclude(self, destination: Destination) -> CachedVerdict:
        """Return the verdict as it stands, with cached ones in place of answers that failed or are missing."""
        now, last = self._clock.monotonic(), destination.last
        if last is not None and (now < last.until or destination.flight is None):
            return last
        found = discover(destination.hop, destination.answers or {}).verdict
        return CachedVerdict(self._completed(found, destination, now), now)

    def last(self, hop: NextHop) -> DaneVerdict | None:
        """Return the last verdict, or None, without a query."""
        destination = self._destinations.get(hop)
        return None if destination is None or destination.last is None else destination.last.verdict

    def _admit(self, hop: NextHop) -> Destination:
        while len(self._destinations) >= _MAX_DESTINATIONS:
            self._destinations.popitem(last=False)
        destination = self._destinations[hop] = Destination(hop)
        return destination

    def _begin(self, destination: Destination) -> InFlight:
        hop = destination.hop
        if destination.last is not None and hop in self._destinations:  # a new one is the last already
            self._destinations.move_to_end(hop)
        flight = destination.flight = self.single_flight.begin()
        self._counters.dane_discoveries += 1
        answers: dict[DnsQuestion, DnsResult] = {}
        destination.answers = answers
        try:
            question = mx_question(hop)
            if question is None:
                self._start(destination, answers)
            else:
                # The MX answer is mostly all there is to know, and one answer needs no task.
                asked = query(self.resolver, question)
                asked.add_done_callback(partial(self._mx_answered, destination, question))
        except Exception as bug:
            flight.deadline_passed = True
            self._failed(destination, bug)
        return flight

    def _start(self, destination: Destination, answers: dict[DnsQuestion, DnsResult]) -> None:
        work: Coroutine[Any, Any, None] = self._run_flight(destination, answers)
        try:
            self._spawn(work, f"dane {destination.hop.policy_domain}")
        except BaseException:
            work.close()
            raise

    def _mx_answered(self, destination: Destination, question: DnsQuestion, asked: Pending[DnsAnswer[object]]) -> None:
        answers = {} if destination.answers is None else destination.answers
        try:
            answers[question] = result_or_error(asked)
            discovery = discover(destination.hop, answers)
            if discovery.questions:
                self._start(destination, answers)
                return
        except (Exception, asyncio.CancelledError) as bug:
            self._failed(destination, bug)
            return
        self._end_flight(destination, discovery.verdict)

    async def _run_flight(self, destination: Destination, answers: dict[DnsQuestion, DnsResult]) -> None:
        try:
            verdict = await discover_dane(self.resolver, destination.hop, answers)
        except BaseException as bug:
            self._failed(destination, bug)
            if not isinstance(bug, Exception):
                raise
            return
        self._end_flight(destination, verdict)

    def _failed(self, destination: Destination, bug: BaseException) -> None:
        """End a flight after an internal error; missing answers count as failed."""
        if isinstance(bug, Exception):
            self._counters.unhandled += 1
            fields = {"domain": destination.hop.policy_domain}
            log = logging.getLogger(__name__)
            log.error("dane-internal-error", exc_info=bug, extra={"fields": fields})
        answers = {question: known for question, known in (destination.answers or {}).items() if _is_result(known)}
        self._end_flight(destination, discover(destination.hop, answers).verdict)

    def _end_flight(self, destination: Destination, verdict: DaneVerdict) -> None:
        now = self._clock.monotonic()
        flight, destination.flight = destination.flight, None
        try:
            self.on_finding(DaneFinding(verdict))
            verdict = _without_records(verdict)
            if self._destinations.get(destination.hop) is destination:
                self._remember(destination, verdict, now)
            lasts = OWN_FAILURE_TTL if _is_unreachable(verdict) else min(max(verdict.ttl, _TTL_MIN), _TTL_MAX)
            destination.last = CachedVerdict(self._completed(verdict, destination, now), now + lasts)
        finally:
            destination.answers = None
            if flight is not None:
                self.single_flight.end(flight)

    def _completed(self, verdict: DaneVerdict, destination: Destination, now: float) -> DaneVerdict:
        """Return the verdict with cached ones in place of what failed or is missing."""
        if verdict.mx is MxStatus.INSECURE:
            return verdict  # none of its hosts was queried, as for nearly all domains
        return apply_fallback(verdict, self._hosts, destination.good, now)

    def _remember(self, destination: Destination, verdict: DaneVerdict, now: float) -> None:
        if verdict.mx is not MxStatus.FAILED:
            destination.good = Timestamped(verdict, now)
        for host in verdict.cacheable():
            self._hosts.pop(host.key, None)
            self._hosts[host.key] = Timestamped(host, now)
        while len(self._hosts) > _MAX_HOSTS:
            self._hosts.popitem(last=False)


def _is_unreachable(verdict: DaneVerdict) -> bool:
    return DnsUnreachable.slug in (verdict.reason, *(host.reason for host in verdict.hosts))


def _is_result(value: object) -> bool:
    return isinstance(value, DnsAnswer | DnsError)


def _without_records(verdict: DaneVerdict) -> DaneVerdict:
    """Return the verdict without the TLSA records, which nothing reads later: up to 64 KiB for each host."""
    if not any(host.records for host in verdict.hosts):
        return verdict
    return verdict._replace(hosts=tuple(host._replace(records=()) for host in verdict.hosts))
