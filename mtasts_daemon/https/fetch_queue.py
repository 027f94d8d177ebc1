"""Whose turn it is to fetch, when more is to be fetched than there are slots: a queue over plain values.

A policy host that is well answers within a second; one that hangs holds its slot for a minute, and whoever has many
of them, in many networks, holds all slots. So, only while others wait: those go first whose network was quick lately,
and a new fetch that has lasted long gives way to one that is likely to be quicker. Alone, each has all its time.

All moments are seconds of one steady clock, which whoever asks brings along.
"""

from collections import OrderedDict
from collections.abc import Hashable
from enum import IntEnum

__all__ = ["LONG", "PATIENCE", "REMEMBERED", "SMOOTHING", "FetchQueue", "Paces", "Speed", "Ticket"]

LONG = 1.0
"""Seconds that every fetch is left at the least; hardly a policy host that is well needs them."""
PATIENCE = 5.0
"""Seconds after which a fetch gives way to any other."""
SMOOTHING = 8
"""How many of the last fetches make up about two thirds of what is usual."""
REMEMBERED = 2048
"""Networks of each pace that are remembered, the last seen."""


class Speed(IntEnum):
    """How soon a fetch in a network is likely to end; the quicker go first."""

    QUICK = 0
    UNKNOWN = 1
    SLOW = 2


class Paces:
    """What fetches took lately, by network. Slow ones crowd no quick one out."""

    def __init__(self) -> None:
        self._took: dict[Speed, OrderedDict[Hashable, float]] = {Speed.QUICK: OrderedDict(), Speed.SLOW: OrderedDict()}

    def of(self, network: Hashable) -> Speed:
        """The pace of a network."""
        return next((pace for pace, took in self._took.items() if network in took), Speed.UNKNOWN)

    def note(self, network: Hashable, seconds: float) -> None:
        """A fetch in the network took so long: half of what is known from now on is this, half what was before."""
        seconds = min(seconds, PATIENCE)
        for known in self._took.values():
            if network in known:
                seconds = (known.pop(network) + seconds) / 2
        took = self._took[Speed.QUICK if seconds < LONG else Speed.SLOW]
        took[network] = seconds
        if len(took) > REMEMBERED:
            took.popitem(last=False)


class Ticket:
    """One fetch's place in the queue. ``since`` is the moment from which it holds its slot; None while it waits."""

    __slots__ = ("live", "network", "since")

    def __init__(self, network: Hashable, live: bool) -> None:
        self.network = network
        self.live = live
        self.since: float | None = None


class _Gate:
    """Counts slots: ``limit`` in all, and three quarters of them for live and for new fetches each."""

    __slots__ = ("_free", "_share")

    def __init__(self, limit: int) -> None:
        self._free = limit
        share = limit - limit // 4
        self._share = [share, share]

    def open(self, live: bool) -> bool:
        """Whether there is a slot."""
        return self._free > 0 and self._share[live] > 0

    def opens(self, live: bool) -> bool:
        """Whether there is one as soon as a new fetch ends."""
        return not live or self._share[live] > 0

    def take(self, live: bool) -> None:
        self._free -= 1
        self._share[live] -= 1

    def give(self, live: bool) -> None:
        self._free += 1
        self._share[live] += 1


class _Network:
    """The slots of one network, and how many hold or want one."""

    __slots__ = ("gate", "users")

    def __init__(self, limit: int) -> None:
        self.gate = _Gate(limit)
        self.users = 0


class _Line:
    """Those that wait, of live or of new fetches.

    Networks go by their pace, and those of one pace take turns. Live ones go in the order they came; of new ones the
    newest goes first, because lookups wait for a few seconds only.
    """

    def __init__(self, live: bool) -> None:
        self._live = live
        self._places: dict[Hashable, OrderedDict[Ticket, None]] = {}
        # The networks that have a slot for them. The turn of new ones begins at the end.
        self._open: dict[Speed, OrderedDict[Hashable, None]] = {pace: OrderedDict() for pace in Speed}

    def add(self, place: Ticket, pace: Speed, gate: _Gate) -> None:
        self._places.setdefault(place.network, OrderedDict())[place] = None
        if not self._live or place.network not in self._open[pace]:
            self.file(place.network, pace, gate, last=True)

    def remove(self, place: Ticket) -> None:
        """Take it out; ``file`` its network then."""
        places = self._places[place.network]
        del places[place]
        if not places:
            del self._places[place.network]

    def file(self, network: Hashable, pace: Speed, gate: _Gate, *, last: bool) -> None:
        """Put the network among those of its pace, at the end or at the beginning, if one of it waits for no other."""
        for networks in self._open.values():
            networks.pop(network, None)
        if network in self._places and gate.open(self._live):
            self._open[pace][network] = None
            self._open[pace].move_to_end(network, last)

    def first(self) -> tuple[Speed, Ticket] | None:
        """Whose turn it is, as far as the networks are concerned."""
        for pace, networks in self._open.items():
            if networks:
                places = self._places[next(iter(networks) if self._live else reversed(networks))]
                return pace, next(iter(places) if self._live else reversed(places))
        return None


class FetchQueue:
    """``limit`` slots, ``per_network`` of them in one network.

    A quarter of either is kept for live fetches and a quarter for new ones, so that neither kind can starve the other.
    """

    def __init__(self, limit: int, per_network: int) -> None:
        self._gate = _Gate(limit)
        self._per_network = per_network
        self._paces = Paces()
        self._networks: dict[Hashable, _Network] = {}
        """Dropped with their last user, so there are never more than fetches."""
        self._lines = _Line(live=False), _Line(live=True)
        self._new: OrderedDict[Ticket, None] = OrderedDict()
        """The new ones that hold a slot, the longest first."""
        self.given_up: Ticket | None = None
        """The one that is to give way, until it leaves."""
        self._usual = LONG
        """Seconds that fetches take, as far as they end by themselves: more behind a slow line, on a busy machine."""

    def __len__(self) -> int:
        """In how many networks there are fetches."""
        return len(self._networks)

    def arrive(self, place: Ticket, now: float) -> bool:
        """Whether it holds a slot at once; otherwise it waits. Have it ``leave`` either way."""
        network = self._networks.get(place.network)
        if network is None:
            network = self._networks[place.network] = _Network(self._per_network)
        network.users += 1
        if self._gate.open(place.live) and network.gate.open(place.live):
            self._take(place, network, now)
            return True
        self._lines[place.live].add(place, self._paces.of(place.network), network.gate)
        return False

    def leave(self, place: Ticket, now: float) -> None:
        """It no longer wants its slot, or waits no longer; ``advance`` then."""
        network = self._networks[place.network]
        network.users -= 1
        if place.since is None:
            self._lines[place.live].remove(place)
        else:
            self._gate.give(place.live)
            network.gate.give(place.live)
            self._new.pop(place, None)
            self._ended(place, now - place.since)
        if network.users or place.since is None:
            self._file(place.network, network)
        if not network.users:
            del self._networks[place.network]

    def advance(self, now: float) -> list[Ticket]:
        """Those that waited and hold a slot from now on."""
        granted: list[Ticket] = []
        for live in (True, False):
            line = self._lines[live]
            while self._gate.open(live) and (first := line.first()) is not None:
                _, place = first
                network = self._networks[place.network]
                line.remove(place)
                self._take(place, network, now)
                self._file(place.network, network)
                granted.append(place)
        return granted

    def overdue(self, now: float) -> Ticket | None:
        """The new fetch that is to give way to one that waits; it stays where it is until it leaves."""
        moment = self.moment()
        if moment is None or moment > now:
            return None
        self.given_up, _ = self._new.popitem(last=False)
        return self.given_up

    def moment(self) -> float | None:
        """When a fetch is to give way unless one has ended before; None while there is none or nobody waits for it."""
        # One after another, and each when the one before has left.
        if self.given_up is not None or not self._new:
            return None
        paces = [first[0] for live in (True, False) if self._gate.opens(live) and (first := self._lines[live].first())]
        if not paces:
            return None
        begun = next(iter(self._new)).since
        assert begun is not None
        return begun + (PATIENCE if min(paces) is Speed.SLOW else min(max(LONG, 2 * self._usual), PATIENCE))

    def _take(self, place: Ticket, network: _Network, now: float) -> None:
        self._gate.take(place.live)
        network.gate.take(place.live)
        place.since = now
        if not place.live:
            self._new[place] = None

    def _ended(self, place: Ticket, seconds: float) -> None:
        """Learn from what it took; nobody knows what one would have taken that gave way."""
        if place is self.given_up:
            self.given_up = None
            seconds = PATIENCE
        elif seconds < PATIENCE:
            self._usual += (seconds - self._usual) / SMOOTHING
        self._paces.note(place.network, seconds)

    def _file(self, key: Hashable, network: _Network) -> None:
        """Put the network behind others, as it has just had a turn."""
        pace = self._paces.of(key)
        for live in (True, False):
            self._lines[live].file(key, pace, network.gate, last=live)
