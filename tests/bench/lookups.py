"""How many lookups a second, and what each costs: warm, pipelined, cold."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import load
from .figures import Figure, median
from .load import Question, Run
from .names import NameServer, negative, positive
from .processes import Measured
from .reference import REPLY
from .site import MAP, filled_store, no_policy, policy_hosts, policy_reply, started

__all__ = ["Pace", "Server", "cold", "cold_policy", "dane", "pipelined", "warm"]

_CONNECTIONS = (1, 8, 64)
_WARM_DOMAINS = 1000
_DEPTH = 128
_FIRST_FETCHES = 20
"""Not measured: the daemon imports and makes what it needs for them."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how often to measure: ``seconds`` for a turn, ``turns`` of each."""

    seconds: float
    turns: int
    policies: int
    """Domains whose policies are fetched in one turn."""


@dataclass(frozen=True, slots=True)
class Server:
    """A socketmap server that somebody else has started."""

    address: tuple[str, int]
    map_name: str

    def __str__(self) -> str:
        return f"{self.address[0]}:{self.address[1]}:{self.map_name}"


@dataclass(frozen=True, slots=True)
class _Contestant:
    """One of those measured in turns. ``process`` is None where it is not ours."""

    name: str
    address: tuple[str, int]
    questions: Callable[[], Iterator[Question]]
    process: Measured | None = None

    def measured(self, connections: int, seconds: float) -> "_Turn":
        before = 0.0 if self.process is None else self.process.cpu()
        run = load.drive(self.address, connections, self.questions(), seconds)
        after = 0.0 if self.process is None else self.process.cpu()
        return _Turn(run, (after - before) / run.answered * 1e6)


@dataclass(frozen=True, slots=True)
class _Turn:
    run: Run
    microseconds: float
    """Of the server's CPU, for each request."""


# -- warm --------------------------------------------------------------------------------------------------


def warm(folder: Path, names: NameServer, pace: Pace, servers: Sequence[Server]) -> Iterator[Figure]:
    """Lookups answered before, one at a time on each connection."""
    with _warm_contestants(folder, names, servers, batch=1) as contestants:
        for connections in _CONNECTIONS:
            target = 0.85 if connections > 1 else None
            yield from _compared(f"warm, {connections} connections", contestants, connections, pace, target)


def pipelined(folder: Path, names: NameServer, pace: Pace, servers: Sequence[Server]) -> Iterator[Figure]:
    """Lookups answered before, many of them sent at once, each reply compared in its place."""
    with _warm_contestants(folder, names, servers, batch=_DEPTH) as contestants:
        for connections in _CONNECTIONS:
            yield from _compared(f"pipelined, {connections} connections", contestants, connections, pace, 0.5)


@contextlib.contextmanager
def _warm_contestants(
    folder: Path, names: NameServer, servers: Sequence[Server], batch: int
) -> Iterator[list[_Contestant]]:
    filled_store(folder, _WARM_DOMAINS)
    asked = [(positive(n), policy_reply(n)) if n % 2 else (negative(n), no_policy()) for n in range(_WARM_DOMAINS)]
    requests = [load.netstring(MAP, key) for key, _ in asked]
    own = _batches(requests, [reply for _, reply in asked], batch)
    fixed = _batches(requests, [REPLY] * len(requests), batch)
    with started(folder, names) as daemon, Measured(["tests.bench.reference"], folder / "reference.log") as reference:
        contestants = [
            _Contestant("reference", ("127.0.0.1", int(reference.line())), lambda: itertools.cycle(fixed), reference),
            _Contestant("daemon", daemon.address, lambda: itertools.cycle(own), daemon),
        ]
        load.drive(daemon.address, 64, iter(_batches(requests, [reply for _, reply in asked], 1)))
        for server in servers:
            contestants.append(_learned(server, [key for key, _ in asked], batch))
        yield contestants


def _batches(requests: Sequence[bytes], replies: Sequence[bytes], size: int) -> list[Question]:
    return [
        Question(b"".join(requests[at : at + size]), b"".join(replies[at : at + size]), len(requests[at : at + size]))
        for at in range(0, len(requests), size)
    ]


def _learned(server: Server, keys: Sequence[str], batch: int) -> _Contestant:
    """Whatever it answers at first it is expected to answer again."""
    requests = [load.netstring(server.map_name, key) for key in keys]
    replies = [load.ask(server.address, request) for request in requests]
    questions = _batches(requests, replies, batch)
    return _Contestant(str(server), server.address, lambda: itertools.cycle(questions))


def _compared(
    title: str, contestants: Sequence[_Contestant], connections: int, pace: Pace, target: float | None
) -> Iterator[Figure]:
    turns: dict[str, list[_Turn]] = {contestant.name: [] for contestant in contestants}
    for _ in range(pace.turns):
        for contestant in contestants:
            turns[contestant.name].append(contestant.measured(connections, pace.seconds))
    reference = turns["reference"]
    for contestant in contestants:
        own = turns[contestant.name]
        cpu = f"{median([turn.microseconds for turn in own]):.2f} us CPU each" if contestant.process else ""
        yield Figure(f"{title}: {contestant.name}", median([turn.run.rate for turn in own]), "/s", note=cpu)
        if own is reference:
            continue
        ratios = [mine.run.rate / its.run.rate for mine, its in zip(own, reference, strict=True)]
        by_cpu = [
            its.microseconds / mine.microseconds for mine, its in zip(own, reference, strict=True) if contestant.process
        ]
        note = f"by CPU {median(by_cpu):.3f}" if by_cpu else ""
        yield Figure(f"{title}: ratio", median(ratios), "", target, note=note)


# -- cold --------------------------------------------------------------------------------------------------


def cold(folder: Path, names: NameServer, pace: Pace, servers: Sequence[Server]) -> Iterator[Figure]:
    """Lookups of domains never asked about, which have no policy."""
    with started(folder, names) as daemon:
        yield from _cold_turns("cold, no policy", daemon.address, MAP, pace, 10_000, daemon)
    for server in servers:
        yield from _cold_turns(f"cold, no policy: {server}", server.address, server.map_name, pace, None)


def dane(folder: Path, names: NameServer, pace: Pace, servers: Sequence[Server]) -> Iterator[Figure]:
    """The same where DANE is asked about always, and the domains are unsigned."""
    with started(folder, names, dane="always") as daemon:
        yield from _cold_turns("cold, no policy, DANE always", daemon.address, MAP, pace, 6_000, daemon)


def _cold_turns(
    title: str,
    address: tuple[str, int],
    map_name: str,
    pace: Pace,
    target: float | None,
    process: Measured | None = None,
) -> Iterator[Figure]:
    fresh = (Question(load.netstring(map_name, negative(n)), no_policy()) for n in itertools.count())
    contestant = _Contestant(title, address, lambda: fresh, process)
    for connections in (8, 64):
        turns = [contestant.measured(connections, pace.seconds) for _ in range(pace.turns)]
        cpu = median([turn.microseconds for turn in turns])
        note = f"{cpu:.1f} us CPU each, so {1e6 / cpu:,.0f}/s on a core of its own" if process else ""
        rate = median([turn.run.rate for turn in turns])
        yield Figure(
            f"{title}, {connections} connections", rate, "/s", target if connections == 64 else None, note=note
        )


def cold_policy(folder: Path, names: NameServer, pace: Pace, servers: Sequence[Server]) -> Iterator[Figure]:
    """Lookups of domains never asked about that have a policy: DNS, and HTTPS with a TLS connection each."""
    total = pace.policies * pace.turns + _FIRST_FETCHES
    with policy_hosts(folder, total) as ca_file, started(folder, names, ca_file=ca_file) as daemon:
        fresh = (Question(load.netstring(MAP, positive(n)), policy_reply(n)) for n in range(total))
        contestant = _Contestant("daemon", daemon.address, lambda: itertools.islice(fresh, pace.policies), daemon)
        load.drive(daemon.address, 8, itertools.islice(fresh, _FIRST_FETCHES))
        turns = [contestant.measured(32, float("inf")) for _ in range(pace.turns)]
    cpu = median([turn.microseconds for turn in turns]) / 1000
    yield Figure(
        "cold, with a policy: rate", median([turn.run.rate for turn in turns]), "/s", note="load's core included"
    )
    yield Figure("cold, with a policy: CPU each", cpu, "ms", 2.0, at_most=True)
