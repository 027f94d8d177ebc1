"""DANE walks: what DNS says of a destination's MX hosts, asked for once and remembered.

A verdict holds for the least TTL of its answers, within limits. A host's or a destination's last verdict stands in for
lookups that fail, for a day. All of it is in memory only, on the monotonic clock; the destinations and hosts that were
walked to the longest ago go first.
"""

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from ..counters import Counters
from ..errors import DnsError
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
from ..policy.dns_answer import DnsAnswer, RRType
from ..policy.findings import FindingSink, Walked
from ..policy.next_hop import NextHop
from ..ports import Clock, Pending, Resolver, Spawn, result_or_error
from .single_flight import InFlight, SingleFlight

__all__ = ["CachedVerdict", "DaneCache", "walk"]

_TTL_MIN = 60.0
_TTL_MAX = 3600.0
_MAX_DESTINATIONS = 50_000
_MAX_HOSTS = 50_000


@dataclass(frozen=True, slots=True)
class CachedVerdict:
    """A verdict, and the monotonic moment until which it holds (the past, where it only stands in)."""

    verdict: DaneVerdict
    until: float


@dataclass(slots=True)
class _Destination:
    """What is known of a next-hop: the last verdict, the last that had not failed, and the walk under way."""

    standing: CachedVerdict | None = None
    good: Timestamped[DaneVerdict] | None = None
    flight: InFlight | None = None
    known: dict[DnsQuestion, DnsResult] = field(default_factory=dict)


class DaneCache:
    """The DANE verdicts of all destinations. Used from one event loop."""

    def __init__(
        self, resolver: Resolver, clock: Clock, flights: SingleFlight, spawn: Spawn, counters: Counters
    ) -> None:
        self.resolver = resolver
        self._clock = clock
        self.flights = flights
        self._spawn = spawn
        self._counters = counters
        self.on_finding: FindingSink = lambda _note: None
        # Ordered ones, because in a plain dict the first is found behind all that were removed before it.
        self._destinations: OrderedDict[NextHop, _Destination] = OrderedDict()
        self._hosts: OrderedDict[HostKey, Timestamped[HostVerdict]] = OrderedDict()

    def forget(self) -> None:
        """Forget every verdict: the resolver that they came from is not the one to be believed now."""
        self._destinations.clear()
        self._hosts.clear()

    def standing(self, hop: NextHop) -> CachedVerdict | InFlight:
        """The verdict to go by, or the walk to wait for. Never waits for a walk that is past its deadline."""
        found = self._destinations.get(hop) or self._admit(hop)
        now = self._clock.monotonic()
        standing = found.standing
        if standing is not None and now < standing.until:
            return standing
        flight = found.flight or self._begin(hop, found)
        if not flight.deadline_passed:
            return flight
        return CachedVerdict(self._completed(discover(hop, found.known).verdict, found, now), now)

    def known(self, hop: NextHop) -> DaneVerdict | None:
        """The last verdict, where there is one; asks nothing."""
        found = self._destinations.get(hop)
        return None if found is None or found.standing is None else found.standing.verdict

    def _admit(self, hop: NextHop) -> _Destination:
        while len(self._destinations) >= _MAX_DESTINATIONS:
            self._destinations.popitem(last=False)
        found = self._destinations[hop] = _Destination()
        return found

    def _begin(self, hop: NextHop, found: _Destination) -> InFlight:
        if found.standing is not None:  # a new one is the last already
            self._destinations.move_to_end(hop)
        flight = found.flight = self.flights.begin()
        self._counters.dane_walks += 1
        found.known = {}
        question = mx_question(hop)
        if question is None:
            self._spawn(self._fly(hop, found), f"dane {hop.policy_domain}")
        else:
            # The MX answer is mostly all there is to know, and what one answer settles needs no task.
            _ask(self.resolver, question).add_done_callback(partial(self._mx_answered, hop, found, question))
        return flight

    def _mx_answered(
        self, hop: NextHop, found: _Destination, question: DnsQuestion, asked: Pending[DnsAnswer[object]]
    ) -> None:
        found.known[question] = result_or_error(asked)
        discovery = discover(hop, found.known)
        if discovery.questions:
            self._spawn(self._fly(hop, found), f"dane {hop.policy_domain}")
        else:
            self._land(hop, found, discovery.verdict)

    async def _fly(self, hop: NextHop, found: _Destination) -> None:
        asked: DaneVerdict | None = None
        try:
            asked = await walk(self.resolver, hop, found.known)
        except Exception:
            # A bug. What is not known counts as an error; nobody is left waiting.
            self._counters.unhandled += 1
            fields = {"domain": hop.policy_domain}
            logging.getLogger(__name__).exception("dane-internal-error", extra={"fields": fields})
        finally:
            self._land(hop, found, asked or discover(hop, found.known).verdict)

    def _land(self, hop: NextHop, found: _Destination, asked: DaneVerdict) -> None:
        now = self._clock.monotonic()
        flight, found.flight = found.flight, None
        try:
            self.on_finding(Walked(asked))
            asked = _without_records(asked)
            if self._destinations.get(hop) is found:
                self._remember(found, asked, now)
            verdict = self._completed(asked, found, now)
            found.standing = CachedVerdict(verdict, now + min(max(verdict.ttl, _TTL_MIN), _TTL_MAX))
            found.known = {}
        finally:
            if flight is not None:
                self.flights.end(flight)

    def _completed(self, verdict: DaneVerdict, found: _Destination, now: float) -> DaneVerdict:
        """The verdict, with what is remembered in place of what failed or is not known yet."""
        if verdict.mx is MxStatus.INSECURE:
            return verdict  # no host of it was asked about; by far the most are such
        return apply_fallback(verdict, self._hosts, found.good, now)

    def _remember(self, found: _Destination, verdict: DaneVerdict, now: float) -> None:
        if verdict.mx is not MxStatus.FAILED:
            found.good = Timestamped(verdict, now)
        for host in verdict.cacheable():
            self._hosts.pop(host.key, None)
            self._hosts[host.key] = Timestamped(host, now)
        while len(self._hosts) > _MAX_HOSTS:
            self._hosts.popitem(last=False)


def _without_records(verdict: DaneVerdict) -> DaneVerdict:
    """The verdict without the TLSA records, which nobody asks for later: they may have 64 KiB for each host."""
    if not any(host.records for host in verdict.hosts):
        return verdict
    return replace(verdict, hosts=tuple(replace(host, records=()) for host in verdict.hosts))


# -- asking ------------------------------------------------------------------------------------------------


async def walk(resolver: Resolver, hop: NextHop, known: dict[DnsQuestion, DnsResult]) -> DaneVerdict:
    """Ask until no question is open, each as soon as it is, so that no host waits for another; the verdict then.

    What comes is added to ``known`` as it comes, so that a verdict can be had at any moment.
    """
    asked: set[DnsQuestion] = set()

    async def ask(question: DnsQuestion, group: asyncio.TaskGroup) -> None:
        answered = _ask(resolver, question)
        with suppress(DnsError):
            await answered
        known[question] = result_or_error(answered)
        ask_open(group)

    def ask_open(group: asyncio.TaskGroup) -> None:
        for question in discover(hop, known).questions:
            if question not in asked:
                asked.add(question)
                group.create_task(ask(question, group))

    async with asyncio.TaskGroup() as group:
        ask_open(group)
    return discover(hop, known).verdict


def _ask(resolver: Resolver, question: DnsQuestion) -> Pending[DnsAnswer[object]]:
    name = question.name
    match question.rrtype:
        case RRType.MX:
            return resolver.mx(name)
        case RRType.A:
            return resolver.a(name)
        case RRType.AAAA:
            return resolver.aaaa(name)
        case RRType.TLSA:
            return resolver.tlsa(name)
        case RRType.CNAME:
            return resolver.cname(name)
        case _:
            raise AssertionError(question)
