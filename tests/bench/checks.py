"""Domains per hour of ``mtastsctl check --file``, and the latency of lookups during checks in the daemon."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import load
from tests.bench.check_servers import domain
from tests.bench.figures import Figure, median
from tests.bench.processes import LOAD_CORES, SERVER_CORES, Measured, free_port, on_cores

__all__ = ["checks"]

_LAUNCH = """
import sys
import mtasts_daemon.diagnose.check.checker as checker
defaults = checker.DomainChecker.__init__.__kwdefaults__
defaults["https_port"], defaults["smtp_port"] = int(sys.argv[1]), int(sys.argv[2])
from mtasts_daemon.cli import main
sys.exit(getattr(main, sys.argv[3])(sys.argv[4:]))
"""
_HOUR = 3600.0
_WARM = 100


@dataclass(frozen=True)
class _Servers:
    https: int
    smtp: int
    config: Path


def checks(folder: Path, domains: int, seconds: float, turns: int) -> Iterator[Figure]:
    """Return the figures; ``seconds`` of lookups in each of ``turns``."""
    with _servers(folder, domains) as servers:
        listed = folder / "domains.txt"
        listed.write_text("".join(f"{domain(number)}\n" for number in range(domains)))
        for name, more, target in (("DNS and HTTPS", ["--no-smtp"], 100_000), ("with MX handshakes", [], 20_000)):
            rate, memory = _batch(servers, listed, domains, more)
            yield Figure(f"domains checked, {name}", rate, "an hour", target)
            yield Figure(f"memory of that, {name}", memory, "MiB", 300, at_most=True)
        yield _lookups(folder, servers, domains, seconds, turns)


@contextmanager
def _servers(folder: Path, domains: int) -> Iterator[_Servers]:
    with Measured(["tests.bench.check_servers", str(folder), str(domains)], folder / "servers.log", LOAD_CORES) as one:
        dns, https, smtp = map(int, one.line().split())
        config = folder / "check.yml"
        config.write_text(
            f'dns: {{resolvers: ["127.0.0.1:{dns}"]}}\n'
            f'https: {{ca_file: "{folder / "ca.pem"}", allow_addresses: [127.0.0.0/8]}}\n'
        )
        yield _Servers(https, smtp, config)


def _batch(servers: _Servers, listed: Path, domains: int, more: list[str]) -> tuple[float, float]:
    """Return domains per hour and the maximum resident memory in MiB."""
    command = [sys.executable, "-c", _LAUNCH, str(servers.https), str(servers.smtp), "ctl_main", "check"]
    command += ["-c", str(servers.config), "--file", str(listed), "--json", *more]
    with on_cores(SERVER_CORES):
        begun = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        found = [json.loads(line) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        taken = time.monotonic() - begun
    if len(found) != domains or any(one["policy"] is None or one["exit_code"] == 2 for one in found):
        raise RuntimeError(f"{len(found)} of {domains} checked, exit code {process.returncode}")
    return domains / taken * _HOUR, usage.ru_maxrss / 1024


def _lookups(folder: Path, servers: _Servers, domains: int, seconds: float, turns: int) -> Figure:
    """Return the p99 of warm lookups during checks and without, measured in turns."""
    lookup, admin = free_port(), free_port()
    config = folder / "daemon.yml"
    config.write_text(
        servers.config.read_text()
        + f'listen: ["socketmap:inet:127.0.0.1:{lookup}"]\nadmin: {{listen: "127.0.0.1:{admin}"}}\n'
        + f'store: {{path: "{folder / "policies.sqlite"}"}}\n'
    )
    command = ["-c", _LAUNCH, str(servers.https), str(servers.smtp), "daemon_main", "serve", "-c", str(config)]
    with on_cores(SERVER_CORES), (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], stderr=log)
    try:
        address = ("127.0.0.1", lookup)
        _wait_for(address)
        for number in range(_WARM):
            load.ask(address, load.netstring("postfix", domain(number)))
        alone, busy, checked = [], [], 0
        for turn in range(turns):
            alone.append(_p99(address, seconds))
            with _checking(admin, domains, turn) as done:
                busy.append(_p99(address, seconds))
            checked += done[0]
        ratio = median([two / one for one, two in zip(alone, busy, strict=True)])
        note = f"alone {median(alone) * 1e6:.0f} us, loaded {median(busy) * 1e6:.0f} us, {checked} checks"
        return Figure("lookups while the daemon checks", ratio, "x p99", 1.5, True, note)
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: tuple[str, int]) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            load.ask(address, load.netstring("postfix", domain(0)))
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def _checking(admin: int, domains: int, turn: int) -> Iterator[list[int]]:
    """Keep two checks running. Return the number of finished checks."""
    stop, done, numbers = threading.Event(), [0], iter(range(turn * 997, 10**9))

    def work() -> None:
        while not stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=30)
            connection.request("GET", f"/api/v1/check/{domain(next(numbers) % domains)}")
            body = connection.getresponse().read()
            connection.close()
            if b'"result"' in body:
                done[0] += 1

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _p99(address: tuple[str, int], seconds: float) -> float:
    code = (
        "import sys,time,socket,statistics\n"
        "from tests.bench import load\n"
        "from tests.bench.check_servers import domain\n"
        "host,port,seconds=sys.argv[1],int(sys.argv[2]),float(sys.argv[3])\n"
        f"requests=[load.netstring('postfix',domain(n)) for n in range({_WARM})]\n"
        "taken=[];end=time.perf_counter()+seconds\n"
        "with socket.create_connection((host,port)) as c:\n"
        "    c.setsockopt(socket.IPPROTO_TCP,socket.TCP_NODELAY,1)\n"
        "    while (begun:=time.perf_counter())<end:\n"
        "        c.sendall(requests[len(taken)%len(requests)]);c.recv(4096)\n"
        "        taken.append(time.perf_counter()-begun);time.sleep(0.0005)\n"
        "print(statistics.quantiles(taken,n=100)[98])\n"
    )
    with on_cores(LOAD_CORES):
        done = subprocess.run(
            [sys.executable, "-c", code, address[0], str(address[1]), str(seconds)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return float(done.stdout)
