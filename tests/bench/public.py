"""The public listener: policy texts a second with many published domains, its memory, and what lookups notice of it.

Requests come in the forms that senders and web servers use: on kept connections, with and without a Connection field
as Apache sends it, and on a connection each, as nginx sends them by default.
"""

import contextlib
import multiprocessing
import signal
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench import load
from tests.bench.admin_load import ASKED, percentiles
from tests.bench.figures import Figure, median
from tests.bench.names import NameServer, positive
from tests.bench.processes import ALL_CORES, LOAD_CORES, free_port, on_cores
from tests.bench.site import MAP, Daemon, started

__all__ = ["public"]

_CONNECTIONS: Final = 16
_RATE: Final = 10_000
"""Requests per second while lookups are measured."""
_PUBLISHED_WITHIN: Final = 120.0
_QUIET: Final = 6
"""Half seconds without work, one after another, until the daemon counts as idle."""
_HEAD: Final = "GET /.well-known/mta-sts.txt HTTP/1.{}\r\nHost: mta-sts.d{{}}.example\r\nUser-Agent: sender\r\n{}\r\n"


class _Form(NamedTuple):
    """A form of request; ``kept`` if the connection serves for the next request too."""

    name: str
    request: str
    kept: bool


_USUAL: Final = _Form("", _HEAD.format(1, "Accept: */*\r\n"), True)
_FORMS: Final = (
    _Form(", as Apache asks", _HEAD.format(1, "Connection: Keep-Alive\r\nX-Forwarded-For: 192.0.2.1\r\n"), True),
    _Form(", a connection each", _HEAD.format(1, ""), False),
    _Form(", as nginx asks by default", _HEAD.format(0, "Connection: close\r\n"), False),
)


def public(folder: Path, names: NameServer, domains: int, seconds: float, turns: int) -> Iterator[Figure]:
    """Return the maximum rate, the memory, and the p99 of lookups without load and at 10,000 requests per second."""
    lines = folder / "domains"
    lines.write_text("".join(f"d{n}.example mode=testing mx=mx{n % 50}.example.net\n" for n in range(domains)))
    port = free_port()
    with started(folder, names, public=port, domains_file=lines, cores=ALL_CORES) as daemon:
        _wait_until_served(port, domains - 1)
        _wait_until_idle(daemon)
        for number in range(ASKED):
            load.ask(daemon.address, load.netstring(MAP, positive(number)))
        rates = {form: list[float]() for form in (_USUAL, *_FORMS)}
        for _ in range(turns):
            for form, found in rates.items():
                found.append(_texts_per_cpu_second(daemon, port, domains, form, seconds))
        for form, found in rates.items():
            note = f"{min(found):,.0f} to {max(found):,.0f}"
            yield Figure(f"policy texts, one core{form.name}", median(found), "/s", 10_000, note=note)
        yield _idle(daemon, domains, 4 * seconds)
        yield Figure(f"memory, {domains:,} published domains", daemon.resident() / 2**20, "MiB", 300, at_most=True)
        alone, together, served = [], [], []
        for _ in range(turns):
            alone.append(percentiles(daemon.address, seconds))
            with _clients(port, domains, _RATE, _USUAL) as counted:
                before = counted.value
                together.append(percentiles(daemon.address, seconds))
                served.append((counted.value - before) / seconds)
        ratio = median([busy[1] / quiet[1] for quiet, busy in zip(alone, together, strict=True)])
        shown = [median([turn[at] for turn in found]) * 1e6 for found in (alone, together) for at in (0, 1)]
        note = "alone median {:.0f}, p99 {:.0f} us; during {:.0f}, {:.0f}".format(*shown)
        yield Figure(
            f"lookups during {median(served):,.0f} policy texts a second", ratio, "x p99", 1.5, at_most=True, note=note
        )
        yield _reload(daemon, lines, port, domains)


def _texts_per_cpu_second(daemon: Daemon, port: int, domains: int, form: _Form, seconds: float) -> float:
    with _clients(port, domains, 0, form) as counted:
        before, cpu = counted.value, daemon.cpu()
        time.sleep(seconds)
        answered, used = counted.value - before, daemon.cpu() - cpu
    return answered / used


def _idle(daemon: Daemon, domains: int, seconds: float) -> Figure:
    """The CPU of the checks and of the watch while nobody asks."""
    before = daemon.cpu()
    time.sleep(seconds)
    return Figure(f"idle, {domains:,} published domains", (daemon.cpu() - before) / seconds * 100, "% CPU", 3, True)


def _reload(daemon: Daemon, lines: Path, port: int, domains: int) -> Figure:
    """The longest lookup while the daemon reads the file again, in which every line changed."""
    lines.write_text("".join(f"d{n}.example mode=testing mx=new{n % 50}.example.net\n" for n in range(domains + 1)))
    daemon.signal(signal.SIGHUP)
    longest, asked = 0.0, 0
    begun = time.perf_counter()
    served = threading.Thread(target=_wait_until_served, args=(port, domains), daemon=True)
    served.start()
    with socket.create_connection(daemon.address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while served.is_alive():
            sent = time.perf_counter()
            connection.sendall(load.netstring(MAP, positive(asked % ASKED)))
            connection.recv(4096)
            longest, asked = max(longest, time.perf_counter() - sent), asked + 1
            time.sleep(0.001)
    note = f"{asked:,} lookups in {time.perf_counter() - begun:.1f} s"
    return Figure(f"longest lookup, reload of {domains:,} lines", longest * 1e3, "ms", 100, at_most=True, note=note)


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
    """Wait until the daemon has finished its start: it waits for the disk and for cores in between."""
    ending = time.monotonic() + _PUBLISHED_WITHIN
    before, quiet = daemon.cpu(), 0
    while time.monotonic() < ending:
        time.sleep(0.5)
        quiet = quiet + 1 if (now := daemon.cpu()) - before < 0.02 else 0
        if quiet == _QUIET:
            return
        before = now
    raise RuntimeError("the daemon does not come to rest")


@contextlib.contextmanager
def _clients(port: int, domains: int, rate: int, form: _Form) -> Iterator["Synchronized[int]"]:
    """Clients on the load's core, at full speed or at ``rate`` requests a second; the number of responses so far."""
    context = multiprocessing.get_context("spawn")
    counted: Synchronized[int] = context.Value("q", 0)
    with on_cores(LOAD_CORES):
        client = context.Process(
            target=_ask if form.kept else _ask_once, args=(port, domains, rate, form.request, counted)
        )
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


def _ask(port: int, domains: int, rate: int, request: str, counted: "Synchronized[int]") -> None:
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(_CONNECTIONS)]
    for connection in connections:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    number, due = 0, time.perf_counter()
    while True:
        for connection in connections:
            number = (number + 7919) % domains
            connection.sendall(request.format(number).encode())
        for connection in connections:
            response = connection.recv(4096)
            if not response.startswith(b"HTTP/1.1 200 OK\r\n") or not response.endswith(b"max_age: 2592000\r\n"):
                raise SystemExit(response)
        counted.value += _CONNECTIONS
        if rate:
            due += _CONNECTIONS / rate
            time.sleep(max(due - time.perf_counter(), 0.0))


def _ask_once(port: int, domains: int, _rate: int, request: str, counted: "Synchronized[int]") -> None:
    number = 0
    while True:
        number = (number + 7919) % domains
        with socket.create_connection(("127.0.0.1", port)) as connection:
            # No TIME_WAIT: the ports of this host would be used up within seconds.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(request.format(number).encode())
            response = connection.recv(4096)
            if not response.startswith(b"HTTP/1.1 200 OK\r\n") or not response.endswith(b"max_age: 2592000\r\n"):
                raise SystemExit(response)
        counted.value += 1
