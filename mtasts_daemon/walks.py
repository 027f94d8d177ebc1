"""DANE walks: what DNS says of a destination's MX hosts, asked for once and remembered.

A verdict holds for the least TTL of its answers, within limits. A host's or a destination's last verdict stands in for
lookups that fail, for a day. All of it is in memory only, on the monotonic clock; the destinations and hosts that were
walked to the longest ago go first.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace

from .counters import Counters
from .errors import DnsError
from .flights import Flight, Flights, Spawn
from .policy.answers import Answer, RRType
from .policy.dane import DaneVerdict, Dated, HostKey, HostVerdict, MxStatus, Question, Reply, combine, discover
from .policy.names import NextHop
from .policy.notes import Noted, Walked
from .ports.api import Clock, Resolver

__all__ = ["DaneWalks", "Standing", "walk"]

_TTL_MIN = 60.0
_TTL_MAX = 3600.0
_MAX_DESTINATIONS = 50_000
_MAX_HOSTS = 50_000


@dataclass(frozen=True, slots=True)
class Standing:
    """A verdict, and the monotonic moment until which it holds (the past, where it only stands in)."""

    verdict: DaneVerdict
    until: float


@dataclass(slots=True)
class _Destination:
    """What is known of a next-hop: the last verdict, the last that had not failed, and the walk under way."""

    standing: Standing | None = None
    good: Dated[DaneVerdict] | None = None
    flight: Flight | None = None
    known: dict[Question, Reply] = field(default_factory=dict)


class DaneWalks:
    """The DANE verdicts of all destinations. Used from one event loop."""

    def __init__(self, resolver: Resolver, clock: Clock, flights: Flights, spawn: Spawn, counters: Counters) -> None:
        self.resolver = resolver
        self._clock = clock
        self.flights = flights
        self._spawn = spawn
        self._counters = counters
        self.noted: Noted = lambda _note: None
        self._destinations: dict[NextHop, _Destination] = {}
        self._hosts: dict[HostKey, Dated[HostVerdict]] = {}

    def forget(self) -> None:
        """Forget every verdict: the resolver that they came from is not the one to be believed now."""
        self._destinations.clear()
        self._hosts.clear()

    def standing(self, hop: NextHop) -> Standing | Flight:
        """The verdict to go by, or the walk to wait for. Never waits for a walk that is past its deadline."""
        found = self._destinations.get(hop) or self._admit(hop)
        now = self._clock.monotonic()
        standing = found.standing
        if standing is not None and now < standing.until:
            return standing
        flight = found.flight or self._begin(hop, found)
        if not flight.waited_out:
            return flight
        return Standing(self._completed(discover(hop, found.known).verdict, found, now), now)

    def known(self, hop: NextHop) -> DaneVerdict | None:
        """The last verdict, where there is one; asks nothing."""
        found = self._destinations.get(hop)
        return None if found is None or found.standing is None else found.standing.verdict

    def _admit(self, hop: NextHop) -> _Destination:
        while len(self._destinations) >= _MAX_DESTINATIONS:
            del self._destinations[next(iter(self._destinations))]
        found = self._destinations[hop] = _Destination()
        return found

    def _begin(self, hop: NextHop, found: _Destination) -> Flight:
        self._destinations[hop] = self._destinations.pop(hop)
        found.flight = self.flights.begin()
        self._spawn(self._fly(hop, found), f"dane {hop.policy_domain}")
        return found.flight

    async def _fly(self, hop: NextHop, found: _Destination) -> None:
        self._counters.dane_walks += 1
        found.known = {}
        asked: DaneVerdict | None = None
        try:
            asked = await walk(self.resolver, hop, found.known)
        except Exception:
            # A bug. What is not known counts as an error; nobody is left waiting.
            self._counters.unhandled += 1
            logging.getLogger(__name__).exception("walk-failed", extra={"fields": {"domain": hop.policy_domain}})
        finally:
            now = self._clock.monotonic()
            asked = asked or discover(hop, found.known).verdict
            self.noted(Walked(asked))
            asked = _without_records(asked)
            if self._destinations.get(hop) is found:
                self._remember(found, asked, now)
            verdict = self._completed(asked, found, now)
            found.standing = Standing(verdict, now + min(max(verdict.ttl, _TTL_MIN), _TTL_MAX))
            found.known = {}
            flight, found.flight = found.flight, None
            if flight is not None:
                self.flights.end(flight)

    def _completed(self, verdict: DaneVerdict, found: _Destination, now: float) -> DaneVerdict:
        """The verdict, with what is remembered in place of what failed or is not known yet."""
        if verdict.mx is MxStatus.INSECURE:
            return verdict  # no host of it was asked about; by far the most are such
        return combine(verdict, self._hosts, found.good, now)

    def _remember(self, found: _Destination, verdict: DaneVerdict, now: float) -> None:
        if verdict.mx is not MxStatus.FAILED:
            found.good = Dated(verdict, now)
        for host in verdict.memorable():
            self._hosts.pop(host.key, None)
            self._hosts[host.key] = Dated(host, now)
        while len(self._hosts) > _MAX_HOSTS:
            del self._hosts[next(iter(self._hosts))]


def _without_records(verdict: DaneVerdict) -> DaneVerdict:
    """The verdict without the TLSA records, which nobody asks for later: they may have 64 KiB for each host."""
    if not any(host.records for host in verdict.hosts):
        return verdict
    return replace(verdict, hosts=tuple(replace(host, records=()) for host in verdict.hosts))


# -- asking ------------------------------------------------------------------------------------------------


async def walk(resolver: Resolver, hop: NextHop, known: dict[Question, Reply]) -> DaneVerdict:
    """Ask until no question is open, each as soon as it is, so that no host waits for another; the verdict then.

    What comes is added to ``known`` as it comes, so that a verdict can be had at any moment.
    """
    asked: set[Question] = set()

    async def ask(question: Question, group: asyncio.TaskGroup) -> None:
        known[question] = await _ask(resolver, question)
        ask_open(group)

    def ask_open(group: asyncio.TaskGroup) -> None:
        for question in discover(hop, known).questions:
            if question not in asked:
                asked.add(question)
                group.create_task(ask(question, group))

    # The first question is mostly the last too, and then needs no task.
    first = discover(hop, known).questions
    if len(first) == 1:
        asked.add(first[0])
        known[first[0]] = await _ask(resolver, first[0])
    discovery = discover(hop, known)
    if not discovery.questions:
        return discovery.verdict
    async with asyncio.TaskGroup() as group:
        ask_open(group)
    return discover(hop, known).verdict


async def _ask(resolver: Resolver, question: Question) -> Reply:
    name = question.name
    asking: Awaitable[Answer[object]]
    match question.rrtype:
        case RRType.MX:
            asking = resolver.mx(name)
        case RRType.A:
            asking = resolver.a(name)
        case RRType.AAAA:
            asking = resolver.aaaa(name)
        case RRType.TLSA:
            asking = resolver.tlsa(name)
        case RRType.CNAME:
            asking = resolver.cname(name)
        case _:
            raise AssertionError(question)
    try:
        return await asking
    except DnsError as error:
        return error
