"""The public listener: responses per second with many published domains, memory, and latency of lookups."""

import contextlib
import multiprocessing
import socket
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Final

from tests.bench import load
from tests.bench.admin_load import ASKED, percentiles
from tests.bench.figures import Figure, median
from tests.bench.names import NameServer, positive
from tests.bench.processes import LOAD_CORES, free_port, on_cores
from tests.bench.site import MAP, Daemon, started

__all__ = ["public"]

_CONNECTIONS: Final = 16
_RATE: Final = 10_000
"""Requests per second while lookups are measured."""
_PUBLISHED_WITHIN: Final = 120.0
_REQUEST: Final = (
    "GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.d{}.example\r\nUser-Agent: sender\r\nAccept: */*\r\n\r\n"
)


def public(folder: Path, names: NameServer, domains: int, seconds: float, turns: int) -> Iterator[Figure]:
    """Return the maximum rate, the memory, and the p99 of lookups without load and at 10,000 requests per second."""
    lines = folder / "domains"
    lines.write_text("".join(f"d{n}.example mode=testing mx=mx{n % 50}.example.net\n" for n in range(domains)))
    port = free_port()
    with started(folder, names, public=port, domains_file=lines) as daemon:
        _wait_until_served(port, domains - 1)
        _wait_until_idle(daemon)
        for number in range(ASKED):
            load.ask(daemon.address, load.netstring(MAP, positive(number)))
        with _clients(port, domains, 0) as counted:
            before, cpu = counted.value, daemon.cpu()
            time.sleep(seconds)
            answered, used = counted.value - before, daemon.cpu() - cpu
        yield Figure(
            "policy texts, one core", answered / used, "/s", 10_000, note=f"{answered / seconds:,.0f}/s measured"
        )
        yield Figure(f"memory, {domains:,} published domains", daemon.resident() / 2**20, "MiB", 300, at_most=True)
        alone, together, rates = [], [], []
        for _ in range(turns):
            alone.append(percentiles(daemon.address, seconds))
            with _clients(port, domains, _RATE) as counted:
                before = counted.value
                together.append(percentiles(daemon.address, seconds))
                rates.append((counted.value - before) / seconds)
        ratio = median([busy[1] / quiet[1] for quiet, busy in zip(alone, together, strict=True)])
        shown = [median([turn[at] for turn in found]) * 1e6 for found in (alone, together) for at in (0, 1)]
        note = "alone median {:.0f}, p99 {:.0f} us; during {:.0f}, {:.0f}".format(*shown)
        yield Figure(
            f"lookups during {median(rates):,.0f} policy texts a second", ratio, "x p99", 1.5, at_most=True, note=note
        )


def _wait_until_served(port: int, number: int) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/.well-known/mta-sts.txt", headers={"Host": f"mta-sts.d{number}.example"}
    )
    ending = time.monotonic() + _PUBLISHED_WITHIN
    while time.monotonic() < ending:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as response:
            if response.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("the last domain is not served")


def _wait_until_idle(daemon: Daemon) -> None:
    """Wait until the daemon has finished its start."""
    ending = time.monotonic() + _PUBLISHED_WITHIN
    before = daemon.cpu()
    while time.monotonic() < ending:
        time.sleep(0.5)
        if (now := daemon.cpu()) - before < 0.02:
            return
        before = now
    raise RuntimeError("the daemon does not come to rest")


@contextlib.contextmanager
def _clients(port: int, domains: int, rate: int) -> Iterator["Synchronized[int]"]:
    """Run clients on the load's core, at full speed or at ``rate`` requests per second; yield a counter of
    responses."""
    context = multiprocessing.get_context("spawn")
    counted: Synchronized[int] = context.Value("q", 0)
    with on_cores(LOAD_CORES):
        client = context.Process(target=_ask, args=(port, domains, rate, counted))
        client.start()
    while not counted.value:
        if not client.is_alive():
            raise RuntimeError("the public listener gave a wrong response")
        time.sleep(0.01)
    time.sleep(0.5)
    try:
        yield counted
        if not client.is_alive():
            raise RuntimeError("the public listener gave a wrong response")
    finally:
        client.terminate()
        client.join()


def _ask(port: int, domains: int, rate: int, counted: "Synchronized[int]") -> None:
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(_CONNECTIONS)]
    for connection in connections:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    number, due = 0, time.perf_counter()
    while True:
        for connection in connections:
            number = (number + 7919) % domains
            connection.sendall(_REQUEST.format(number).encode())
        for connection in connections:
            response = connection.recv(4096)
            if not response.startswith(b"HTTP/1.1 200 OK\r\n") or not response.endswith(b"max_age: 2592000\r\n"):
                raise SystemExit(response)
        counted.value += _CONNECTIONS
        if rate:
            due += _CONNECTIONS / rate
            time.sleep(max(due - time.perf_counter(), 0.0))
