"""The latency of lookups while metrics, lists and the status page are read in a loop."""

import contextlib
import http.client
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.bench import load
from tests.bench.figures import Figure, median
from tests.bench.names import NameServer, positive
from tests.bench.processes import LOAD_CORES, await_listener, free_port, on_cores, without_idle_cores
from tests.bench.site import MAP, filled_store, started

__all__ = ["ASKED", "admin_load", "percentiles"]

_LOOPS: Final = (
    ("/metrics",),
    ("/api/v1/entries?sort=-used&limit=100", "/api/v1/entries?q=9&sort=expires&limit=100"),
    ("/", "/api/v1/status", "/api/v1/history?minutes=1440", "/api/v1/log"),
)
"""The paths read in a loop, each line by a separate client."""

ASKED: Final = 100
_EVERY: Final = 0.0005
"""Seconds between two lookups."""


def admin_load(folder: Path, names: NameServer, stored: int, seconds: float, turns: int) -> Iterator[Figure]:
    """Return the p99 of warm lookups with and without readers, in turns; readers pause between requests."""
    filled_store(folder, stored)
    admin = free_port()
    with started(folder, names, admin=admin) as daemon:
        await_listener(admin)
        for number in range(ASKED):
            load.ask(daemon.address, load.netstring(MAP, positive(number)))
        for rest in (1.0, 0.05, 0.0):
            alone, together = [], []
            for _ in range(turns):
                alone.append(percentiles(daemon.address, seconds))
                with _readers(admin, rest):
                    together.append(percentiles(daemon.address, seconds))
            ratio = median([busy[1] / quiet[1] for quiet, busy in zip(alone, together, strict=True)])
            figures = [median([turn[at] for turn in found]) * 1e6 for found in (alone, together) for at in (0, 1, 2)]
            note = "alone median {:.0f}, p99 {:.0f}, p99.9 {:.0f} us; loaded {:.0f}, {:.0f}, {:.0f}".format(*figures)
            yield Figure(f"lookups during scrape, list and page, every {rest:g} s", ratio, "x p99", 1.2, True, note)


def percentiles(address: tuple[str, int], seconds: float, asked: Sequence[str] = ()) -> Sequence[float]:
    """Return the median, 99th and 99.9th percentile of sequential lookups of the domains ``asked``, in seconds."""
    taken: list[float] = []
    with socket.create_connection(address) as connection, without_idle_cores(), _undisturbed():
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests = [load.netstring(MAP, name) for name in asked or map(positive, range(ASKED))]
        ending = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < ending:
            connection.sendall(requests[len(taken) % len(requests)])
            connection.recv(4096)
            taken.append(time.perf_counter() - begun)
            time.sleep(_EVERY)
    parts = statistics.quantiles(taken, n=1000)
    return parts[499], parts[989], parts[998]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Take precedence over the readers on the load's core: only the daemon's time is measured."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def _readers(port: int, rest: float) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    with on_cores(LOAD_CORES):
        readers = [context.Process(target=_read, args=(port, paths, rest)) for paths in _LOOPS]
        for reader in readers:
            reader.start()
    time.sleep(1.0)
    try:
        if not all(reader.is_alive() for reader in readers):
            raise RuntimeError("the admin side does not answer")
        yield
    finally:
        for reader in readers:
            reader.terminate()
            reader.join()


def _read(port: int, paths: Sequence[str], rest: float) -> None:
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for path in paths:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"{path}: {answer.status}")
        connection.close()
        time.sleep(rest)
