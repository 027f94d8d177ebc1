"""Lookups while policies are fetched, and next to policy hosts that reset and cut connections."""

import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

from tests.bench import load
from tests.bench.admin_load import ASKED, percentiles
from tests.bench.figures import Figure, median
from tests.bench.load import Question
from tests.bench.names import NameServer, positive
from tests.bench.processes import LOAD_CORES, on_cores
from tests.bench.site import MAP, no_policy, policy_hosts, policy_reply, started

__all__ = ["fetches", "hostile"]

_HOSTILE: Final = ("answer", "reset", "close", "reset-tls", "close-tls", "close-mid-body")
"""What policy hosts do, by turns; only the first gives a policy."""
_RATE: Final = 200
"""First lookups per second."""
_HOSTILE_RATE: Final = 50
_CONNECTIONS: Final = 24


def fetches(folder: Path, names: NameServer, seconds: float, turns: int) -> Iterator[Figure]:
    """Return the p99 of warm lookups during fetches and without, measured in turns."""
    each = int(_RATE * (seconds + 1))
    with (
        policy_hosts(folder, ASKED + each * turns) as ca_file,
        started(folder, names, ca_file=ca_file) as daemon,
    ):
        _learn(daemon.address)
        alone, loaded, fetched = [], [], 0
        for turn in range(turns):
            alone.append(percentiles(daemon.address, seconds))
            with _first_lookups(daemon.address, ASKED + each * turn, each, _RATE, ("answer",)) as asked:
                loaded.append(percentiles(daemon.address, seconds))
                fetched += asked.value
    ratio = median([busy[1] / quiet[1] for quiet, busy in zip(alone, loaded, strict=True)])
    shown = [median([turn[at] for turn in found]) * 1e6 for found in (alone, loaded) for at in (0, 1)]
    note = "alone median {:.0f}, p99 {:.0f} us; during fetches {:.0f}, {:.0f} us; ".format(*shown)
    rate = f"{fetched / seconds / turns:.0f} fetches/s"
    yield Figure(f"lookups during {_RATE} fetches/s", ratio, "x p99", 2.0, True, note + rate)


def hostile(folder: Path, names: NameServer, seconds: float) -> Iterator[Figure]:
    """Return the p99 of warm lookups next to hostile policy hosts. Raises RuntimeError for a wrong or lost reply."""
    total = int(_HOSTILE_RATE * (seconds + 1))
    with (
        policy_hosts(folder, ASKED + total, _HOSTILE) as ca_file,
        started(folder, names, ca_file=ca_file) as daemon,
    ):
        _learn(daemon.address, len(_HOSTILE))
        warm = [positive(number) for number in range(0, ASKED, len(_HOSTILE))]
        quiet = percentiles(daemon.address, min(seconds, 5.0), warm)
        with _first_lookups(daemon.address, ASKED, total, _HOSTILE_RATE, _HOSTILE) as asked:
            busy = percentiles(daemon.address, seconds, warm)
            count = asked.value
        for name in warm:
            if not load.ask(daemon.address, load.netstring(MAP, name)).split(b":")[1].startswith(b"OK secure "):
                raise RuntimeError(f"{name} lost its policy")
        daemon.check()
    before, after = quiet[1] * 1e6, busy[1] * 1e6
    note = f"{count} first lookups in {seconds:.0f} s, none wrong or lost; p99 {before:.0f}, then {after:.0f} us"
    yield Figure("lookups next to hostile policy hosts", busy[1] / quiet[1], "x p99", note=note)


def _learn(address: tuple[str, int], step: int = 1) -> None:
    for number in range(0, ASKED, step):
        load.ask(address, load.netstring(MAP, positive(number)))


@contextlib.contextmanager
def _first_lookups(
    address: tuple[str, int], first: int, count: int, rate: int, manners: Sequence[str]
) -> Iterator["Synchronized[int]"]:
    """Ask for ``rate`` new domains per second, from another process. Yield their number so far."""
    context = multiprocessing.get_context("spawn")
    asked: Synchronized[int] = context.Value("i", 0)
    ended = context.Event()
    with on_cores(LOAD_CORES):
        process = context.Process(target=_ask, args=(address, (first, count, rate), manners, asked, ended))
        process.start()
    while not asked.value and process.is_alive():
        time.sleep(0.01)
    try:
        yield asked
    finally:
        ended.set()
        process.join(60)
        if process.exitcode != 0:
            raise RuntimeError("a first lookup was answered wrongly, or not at all")


def _ask(
    address: tuple[str, int],
    numbers: tuple[int, int, int],
    manners: Sequence[str],
    asked: "Synchronized[int]",
    ended: Event,
) -> None:
    load.drive(address, _CONNECTIONS, _paced(*numbers, manners, asked, ended))


def _paced(
    first: int, count: int, rate: int, manners: Sequence[str], asked: "Synchronized[int]", ended: Event
) -> Iterator[Question]:
    begun = time.monotonic()
    for number in range(first, first + count):
        time.sleep(max(begun + (number - first) / rate - time.monotonic(), 0))
        if ended.is_set():
            return
        asked.value += 1
        answers = manners[number % len(manners)] == "answer"
        yield Question(load.netstring(MAP, positive(number)), policy_reply(number) if answers else no_policy())
