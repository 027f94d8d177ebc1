"""Lookups per second and CPU per lookup: warm, pipelined, cold."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import load
from tests.bench.figures import Figure, median
from tests.bench.load import Question, Run
from tests.bench.names import NameServer, negative, positive
from tests.bench.processes import Measured
from tests.bench.reference import REPLY
from tests.bench.site import MAP, filled_store, no_policy, policy_hosts, policy_reply, started

__all__ = ["Pace", "Server", "cold", "cold_policy", "dane", "pipelined", "warm"]

_CONNECTIONS = (1, 8, 64)
_WARM_DOMAINS = 1000
_DEPTH = 128
_FIRST_FETCHES = 20
"""Not measured: imports and initialization on the first lookups."""


@dataclass(frozen=True, slots=True)
class Pace:
    """``seconds`` per turn, and ``turns`` of each server."""

    seconds: float
    turns: int
    policies: int
    """Number of domains whose policies are fetched in one turn."""


@dataclass(frozen=True, slots=True)
class Server:
    """A socketmap server that is already running."""

    address: tuple[str, int]
    map_name: str

    def __str__(self) -> str:
        return f"{self.address[0]}:{self.address[1]}:{self.map_name}"


@dataclass(frozen=True, slots=True)
class _Contestant:
    """A server measured in turns. ``process`` is None if this program did not start it."""

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
    """Seconds of the server's CPU per request."""


# -- warm --------------------------------------------------------------------------------------------------


def warm(folder: Path, names: NameServer, pace: Pace, servers: Sequence[Server]) -> Iterator[Figure]:
    """Measure repeated lookups, one at a time on each connection."""
    with _warm_contestants(folder, names, servers, batch=1) as contestants:
        for connections in _CONNECTIONS:
            target = 0.85 if connections > 1 else None
            yield from _compared(f"warm, {connections} connections", contestants, connections, pace, target)


def pipelined(folder: Path, names: NameServer, pace: Pace, servers: Sequence[Server]) -> Iterator[Figure]:
    """Measure repeated lookups sent in batches; each reply is compared in order."""
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
    with started(folder, names) as daemon, _reference(folder, batch) as reference:
        contestants = [reference, _Contestant("daemon", daemon.address, lambda: itertools.cycle(own), daemon)]
        load.drive(daemon.address, 64, iter(_batches(requests, [reply for _, reply in asked], 1)))
        for server in servers:
            contestants.append(_learned(server, [key for key, _ in asked], batch))
        yield contestants


@contextlib.contextmanager
def _reference(folder: Path, batch: int = 1) -> Iterator[_Contestant]:
    requests = [load.netstring(MAP, negative(n)) for n in range(_WARM_DOMAINS)]
    fixed = _batches(requests, [REPLY] * len(requests), batch)
    with Measured(["tests.bench.reference"], folder / "reference.log") as process:
        address = ("127.0.0.1", int(process.line()))
        yield _Contestant("reference", address, lambda: itertools.cycle(fixed), process)


def _batches(requests: Sequence[bytes], replies: Sequence[bytes], size: int) -> list[Question]:
    return [
        Question(b"".join(requests[at : at + size]), b"".join(replies[at : at + size]), len(requests[at : at + size]))
        for at in range(0, len(requests), size)
    ]


def _learned(server: Server, keys: Sequence[str], batch: int) -> _Contestant:
    """Return the reply to the first lookup, which is expected from then on."""
    requests = [load.netstring(server.map_name, key) for key in keys]
    replies = [load.ask(server.address, request) for request in requests]
    questions = _batches(requests, replies, batch)
    return _Contestant(str(server), server.address, lambda: itertools.cycle(questions))


def _in_turns(contestants: Sequence[_Contestant], connections: int, pace: Pace) -> dict[str, list[_Turn]]:
    """Return the results of each server; turns alternate."""
    turns: dict[str, list[_Turn]] = {contestant.name: [] for contestant in contestants}
    for _ in range(pace.turns):
        for contestant in contestants:
            turns[contestant.name].append(contestant.measured(connections, pace.seconds))
    return turns


def _compared(
    title: str, contestants: Sequence[_Contestant], connections: int, pace: Pace, target: float | None
) -> Iterator[Figure]:
    turns = _in_turns(contestants, connections, pace)
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
    """Measure first lookups of domains without a policy."""
    with started(folder, names) as daemon, _reference(folder) as reference:
        contestants = [reference, _fresh("daemon", daemon.address, MAP, daemon)]
        contestants += [_fresh(str(server), server.address, server.map_name) for server in servers]
        yield from _cold_turns("cold, no policy", contestants, pace, 10_000)


def dane(folder: Path, names: NameServer, pace: Pace, servers: Sequence[Server]) -> Iterator[Figure]:
    """Measure first lookups of unsigned domains with ``dane: always``."""
    with started(folder, names, dane="always") as daemon, _reference(folder) as reference:
        contestants = [reference, _fresh("daemon", daemon.address, MAP, daemon)]
        yield from _cold_turns("cold, DANE always", contestants, pace, 6_000)


def _fresh(name: str, address: tuple[str, int], map_name: str, process: Measured | None = None) -> _Contestant:
    questions = (Question(load.netstring(map_name, negative(n)), no_policy()) for n in itertools.count())
    return _Contestant(name, address, lambda: questions, process)


def _cold_turns(title: str, contestants: Sequence[_Contestant], pace: Pace, target: float) -> Iterator[Figure]:
    for connections in (8, 64):
        turns = _in_turns(contestants, connections, pace)
        own = turns["daemon"]
        for name, taken in turns.items():
            rates = [turn.run.rate for turn in taken]
            aim = target if name == "daemon" and connections == 64 else None
            note = _costs(taken, turns["reference"]) if taken is own else ""
            if taken is not turns["reference"]:
                yield Figure(f"{title}, {connections} connections: {name}", median(rates), "/s", aim, note=note)


def _costs(taken: Sequence[_Turn], reference: Sequence[_Turn]) -> str:
    """Return CPU per lookup, and that of a warm one of the reference, which shows the machine's present speed."""
    own, its = ([turn.microseconds for turn in turns] for turns in (taken, reference))
    possible = f"{1e6 / median(own):,.0f} to {1e6 / min(own):,.0f}/s of a whole core"
    return f"{median(own):.0f} us CPU each, at least {min(own):.0f}: {possible}; reference {median(its):.1f} us"


def cold_policy(folder: Path, names: NameServer, pace: Pace, servers: Sequence[Server]) -> Iterator[Figure]:
    """Measure first lookups of domains with a policy: DNS, and HTTPS with a TLS handshake each."""
    total = pace.policies * pace.turns + _FIRST_FETCHES
    with (
        policy_hosts(folder, total) as ca_file,
        started(folder, names, ca_file=ca_file) as daemon,
        _reference(folder) as reference,
    ):
        fresh = (Question(load.netstring(MAP, positive(n)), policy_reply(n)) for n in range(total))
        own = _Contestant("daemon", daemon.address, lambda: itertools.islice(fresh, pace.policies), daemon)
        load.drive(daemon.address, 8, itertools.islice(fresh, _FIRST_FETCHES))
        turns = [(own.measured(32, float("inf")), reference.measured(64, 0.2)) for _ in range(pace.turns)]
    used = [turn.microseconds / 1000 for turn, _ in turns]
    note = f"at least {min(used):.2f}; reference {median([turn.microseconds for _, turn in turns]):.1f} us"
    rate = median([turn.run.rate for turn, _ in turns])
    yield Figure("cold, with a policy: rate", rate, "/s", note="as far as the policy hosts on the load's core keep up")
    yield Figure("cold, with a policy: CPU each", median(used), "ms", 2.0, at_most=True, note=note)
