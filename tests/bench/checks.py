"""Domains per hour of ``mtastsctl check --file``, and the latency of lookups during checks in the daemon."""

import http.client
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from tests.bench import load
from tests.bench.admin_load import percentiles
from tests.bench.check_servers import domain
from tests.bench.figures import Figure, median
from tests.bench.processes import ALL_CORES, LOAD_CORES, SERVER_CORES, Measured, await_listener, free_port, on_cores

__all__ = ["WARM", "RunningDaemon", "Servers", "checks", "daemon_of", "in_turns", "lookups_during_checks", "servers_of"]

_PORTS = """
import mtasts_daemon.diagnose.check.checker as checker
defaults = checker.DomainChecker.__init__.__kwdefaults__
defaults["https_port"], defaults["smtp_port"] = ports
"""
_LAUNCH = f"""
import sys
patch, ports = {_PORTS!r}, (int(sys.argv[1]), int(sys.argv[2]))
if sys.argv[3] == "daemon_main":
    import mtasts_daemon.daemon.receiving_process as process
    process.PROGRAM = f"ports = {{ports}}; exec({{patch!r}}); {{process.PROGRAM}}"
else:
    exec(patch)
from mtasts_daemon.cli import main
sys.exit(getattr(main, sys.argv[3])(sys.argv[4:]))
"""
_HOUR = 3600.0
_CLIENTS = 2
_AN_HOUR = 20_000
"""Checks with MX handshakes while lookups are measured."""
WARM = [domain(number) for number in range(100)]
"""The domains that are looked up."""


@dataclass(frozen=True)
class Servers:
    """Ports of the policy hosts and MX hosts, and a configuration that leads to them."""

    https: int
    smtp: int
    config: Path


@dataclass(frozen=True)
class RunningDaemon:
    """Where it answers lookups, and its process."""

    address: tuple[str, int]
    pid: int


def checks(folder: Path, domains: int) -> Iterator[Figure]:
    """Return the domains checked per hour and the memory in use."""
    with servers_of(folder, domains) as servers:
        listed = folder / "domains.txt"
        listed.write_text("".join(f"{domain(number)}\n" for number in range(domains)))
        for name, more, target in (("DNS and HTTPS", ["--no-smtp"], 100_000), ("with MX handshakes", [], 20_000)):
            rate, memory = _batch(servers, listed, domains, more)
            yield Figure(f"domains checked, {name}", rate, "an hour", target)
            yield Figure(f"memory of that, {name}", memory, "MiB", 300, at_most=True)


@contextmanager
def servers_of(folder: Path, domains: int) -> Iterator[Servers]:
    """Serve the domains."""
    with Measured(["tests.bench.check_servers", str(folder), str(domains)], folder / "servers.log", LOAD_CORES) as one:
        dns, https, smtp = map(int, one.line().split())
        config = folder / "check.yml"
        config.write_text(
            f'dns: {{resolvers: ["127.0.0.1:{dns}"]}}\n'
            f'https: {{ca_file: "{folder / "ca.pem"}", allow_addresses: [127.0.0.0/8]}}\n'
        )
        yield Servers(https, smtp, config)


def _batch(servers: Servers, listed: Path, domains: int, more: list[str]) -> tuple[float, float]:
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


def lookups_during_checks(folder: Path, domains: int, seconds: float, turns: int) -> Iterator[Figure]:
    """Return the p99 of warm lookups during checks and without, in turns: at the rate of the target, and at most."""
    admin = free_port()
    with (
        servers_of(folder, domains) as servers,
        daemon_of(folder, servers, f"admin: {{listen: 127.0.0.1:{admin}}}") as daemon,
    ):
        await_listener(admin)

        def paced(rate: float) -> Callable[[int], AbstractContextManager[list[int]]]:
            return lambda turn: _checking(admin, domains, turn, rate)

        measured = (daemon.address, seconds, turns)
        yield in_turns(f"checks {_AN_HOUR:,} domains an hour", *measured, paced(_AN_HOUR / _HOUR))
        yield in_turns("checks as many domains as it can", *measured, paced(0.0), target=None)


@contextmanager
def daemon_of(folder: Path, servers: Servers, more: str) -> Iterator[RunningDaemon]:
    """Run a daemon whose first domains are cached; ``more`` are lines of its configuration."""
    address = ("127.0.0.1", free_port())
    config = folder / "daemon.yml"
    config.write_text(
        f'{servers.config.read_text()}listen: ["socketmap:inet:127.0.0.1:{address[1]}"]\n'
        f'store: {{path: "{folder / "policies.sqlite"}"}}\n{more}\n'
    )
    command = ["-c", _LAUNCH, str(servers.https), str(servers.smtp), "daemon_main", "serve", "-c", str(config)]
    with on_cores(ALL_CORES), (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], stderr=log)
    try:
        _wait_for(address)
        for name in WARM:
            load.ask(address, load.netstring("postfix", name))
        yield RunningDaemon(address, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def in_turns(
    what: str,
    address: tuple[str, int],
    seconds: float,
    turns: int,
    busy: Callable[[int], AbstractContextManager[list[int]]],
    target: float | None = 1.5,
) -> Figure:
    """Return the median ratio of the p99 of lookups during ``busy`` to that without; ``busy`` yields a count."""
    alone, loaded, done = [], [], 0
    for turn in range(turns):
        alone.append(percentiles(address, seconds, WARM))
        with busy(turn) as counted:
            loaded.append(percentiles(address, seconds, WARM))
        done += counted[0]
    ratio = median([two[1] / one[1] for one, two in zip(alone, loaded, strict=True)])
    figures = [median([turn[at] for turn in found]) * 1e6 for found in (alone, loaded) for at in (0, 1)]
    note = "alone median {:.0f}, p99 {:.0f} us; loaded {:.0f}, {:.0f}".format(*figures)
    return Figure(
        f"lookups while the daemon {what}", ratio, "x p99", target, True, f"{note}; {done / seconds / turns:.1f}/s"
    )


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
def _checking(admin: int, domains: int, turn: int, rate: float) -> Iterator[list[int]]:
    """Have ``rate`` domains checked a second, by separate processes, or as many as possible; the count that ended."""
    context = multiprocessing.get_context("spawn")
    count: Synchronized[int] = context.Value("q", 0)
    first = turn * 997
    with on_cores(LOAD_CORES):
        # Not threads: the measuring thread would wait for the interpreter while other load has this core.
        clients = [
            context.Process(target=_check, args=(admin, domains, first + at, rate, count)) for at in range(_CLIENTS)
        ]
        for client in clients:
            client.start()
    done = [0]
    try:
        while not count.value:
            time.sleep(0.01)
        before = count.value
        yield done
        done[0] = count.value - before
    finally:
        for client in clients:
            client.terminate()
            client.join()


def _check(admin: int, domains: int, first: int, rate: float, count: "Synchronized[int]") -> None:
    begun = time.monotonic()
    for number in itertools.count(first, _CLIENTS):
        if rate:
            time.sleep(max(begun + (number - first) / rate - time.monotonic(), 0))
        connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=30)
        connection.request("GET", f"/api/v1/check/{domain(number % domains)}")
        if b'"result"' in connection.getresponse().read():
            with count.get_lock():
                count.value += 1
        connection.close()
