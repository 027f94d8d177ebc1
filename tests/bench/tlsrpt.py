"""TLS results per second, the latency of lookups meanwhile, and the time for a day's reports.

``python -m tests.bench.tlsrpt`` measures in its own network namespace, because that has the kernel's limit on queued
datagrams (net.unix.max_dgram_qlen). Without root it uses the present limit and prints it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtasts_daemon.cli.main import daemon_main
from mtasts_daemon.tlsrpt.collect.collector import Collector, SocketSettings
from mtasts_daemon.tlsrpt.database.connection import open_database
from tests.bench import load
from tests.bench.figures import Figure, as_json, as_text
from tests.bench.names import NameServer, name_server, positive
from tests.bench.processes import LOAD_CORES, Measured, free_port
from tests.bench.site import MAP, filled_store, policy_reply
from tests.bench.tlsrpt_day import DOMAINS, datagram, reported_day

_QLEN = Path("/proc/sys/net/unix/max_dgram_qlen")
_SETTLING = 3.0
"""Seconds after the first answer in which the daemon finishes its start."""


# -- what is sent ------------------------------------------------------------------------------------------


def send(path: str, burst: int, every: float, seconds: float) -> None:
    """Send bursts as Postfix does, without waiting. Print how many were sent and lost."""
    order = random.Random(8460)
    made = [datagram(number) for number in order.choices(range(20 * DOMAINS), k=100_000)]
    sent = lost = late = 0
    lost_by_second: dict[int, int] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(path)
        sock.setblocking(False)
        begun = earliest = time.monotonic()
        for number in range(round(seconds / every)):
            # After a stall this process catches up at twice the rate, not all at once.
            due = max(begun + number * every, earliest)
            while (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            late += wait < -0.01
            earliest = time.monotonic() + every / 2
            for _ in range(burst):
                try:
                    sock.send(made[sent % len(made)])
                except BlockingIOError:
                    lost += 1
                    second = int(due - begun)
                    lost_by_second[second] = lost_by_second.get(second, 0) + 1
                sent += 1
        took = time.monotonic() - begun
    print(json.dumps({"sent": sent, "lost": lost, "seconds": took, "late": late, "when": lost_by_second}), flush=True)


# -- the daemon that collects ------------------------------------------------------------------------------


def serve(folder: str, config: str) -> int:
    """Run the daemon with a collector in its process; print the collector's counts at the end."""
    database = open_database(Path(folder) / "tlsrpt.sqlite", now=time.time())
    collector = Collector(SocketSettings(str(Path(folder) / "tlsrpt.sock")), database)
    collector.start()
    status = daemon_main(["serve", "-c", config])
    begun = time.monotonic()
    whole = collector.stop()
    counted = asdict(collector.counters) | {"whole": whole, "stop_seconds": time.monotonic() - begun}
    Path(folder, "counters.json").write_text(json.dumps(counted))
    database.close_now()
    return status


class _Collecting(Measured):
    """``serve`` as a process on all cores."""

    def __init__(self, folder: Path, names: NameServer) -> None:
        self.address = ("127.0.0.1", free_port())
        config = folder / "config.yml"
        config.write_text(
            f'listen: ["socketmap:inet:127.0.0.1:{self.address[1]}"]\n'
            f'dns: {{resolvers: ["127.0.0.1:{names.port}"]}}\n'
            f'store: {{path: "{folder / "policies.sqlite"}"}}\n'
        )
        cores = frozenset(range(os.cpu_count() or 1))
        super().__init__(["tests.bench.tlsrpt", "--serve", str(folder), str(config)], folder / "daemon.log", cores)
        while True:
            self.check()
            with contextlib.suppress(ConnectionRefusedError):
                load.ask(self.address, load.netstring(MAP, positive(1)))
                return
            time.sleep(0.01)


class _Prober(threading.Thread):
    """Send warm lookups one after another, with pauses, and record the latency of each."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__()
        self.latencies: list[float] = []
        self.ended = threading.Event()
        self._address = address

    def run(self) -> None:
        question, expected = load.netstring(MAP, positive(1)), policy_reply(1)
        with socket.create_connection(self._address) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self.ended.wait(0.002):
                begun = time.perf_counter()
                sock.sendall(question)
                if sock.recv(65536) != expected:
                    raise load.Wrong("another answer")
                self.latencies.append(time.perf_counter() - begun)


def collected(name: str, names: NameServer, qlen: int, burst: int, every: float, seconds: float) -> Iterator[Figure]:
    """Send bursts to the collecting daemon and look up meanwhile."""
    limit = _limited(qlen)
    with tempfile.TemporaryDirectory(prefix="mtasts-bench-", dir="/var/tmp") as text:
        folder = Path(text)
        filled_store(folder, 10)
        with _Collecting(folder, names) as daemon:
            time.sleep(_SETTLING)
            prober = _Prober(daemon.address)
            prober.start()
            before = daemon.cpu()
            order = [str(folder / "tlsrpt.sock"), str(burst), str(every), str(seconds)]
            with Measured(["tests.bench.tlsrpt", "--send", *order], folder / "sender.log", LOAD_CORES) as sender:
                sent = json.loads(sender.line())
            cpu, resident = daemon.cpu() - before, daemon.resident()
            prober.ended.set()
            prober.join()
        if not (folder / "counters.json").exists():
            raise RuntimeError(f"it did not end as it should:\n{daemon.log.read_text()[-2000:]}")
        counted: dict[str, Any] = json.loads((folder / "counters.json").read_text())
        kept = asyncio.run(_sessions(folder / "tlsrpt.sqlite"))
    p50, p99 = (statistics.quantiles(prober.latencies, n=100)[at] * 1000 for at in (49, 98))
    asked = f"median {p50:.2f}, worst {max(prober.latencies) * 1000:.1f}, of {len(prober.latencies):,}"
    when = f"of {sent['sent']:,}" + (f", by second: {sent['when']}" if sent["lost"] else "")
    rate, missing = sent["sent"] / sent["seconds"], sent["sent"] - kept
    yield Figure(f"{name}: sent", rate, "events/s", burst / every * 0.98, note=f"{sent['late']} bursts late; {limit}")
    yield Figure(f"{name}: lost at the socket", sent["lost"], "events", 0, at_most=True, note=when)
    yield Figure(f"{name}: not in the database", missing, "events", 0, at_most=True, note=_told(counted))
    yield Figure(f"{name}: lookups meanwhile, p99", p99, "ms", 5, at_most=True, note=asked)
    yield Figure(f"{name}: CPU", cpu / sent["seconds"] * 100, "%", note=f"{resident / 2**20:.0f} MiB resident")


def _told(counted: dict[str, Any]) -> str:
    average = counted["commit_seconds"] / max(1, counted["commits"]) * 1000
    stopped = f"stopped in {counted['stop_seconds']:.2f} s"
    return f"{counted['commits']} commits of {average:.0f} ms; rejected {counted['rejected']}; {stopped}"


async def _sessions(path: Path) -> int:
    database = open_database(path, now=time.time())
    days = await database.days()
    await database.close()
    return sum(day.sessions for day in days)


def _limited(qlen: int) -> str:
    with contextlib.suppress(OSError):
        _QLEN.write_text(f"{qlen}\n")
    found = int(_QLEN.read_text())
    return f"max_dgram_qlen {found}" if found == qlen else f"max_dgram_qlen {found}, NOT {qlen}"


# -- the command line ----------------------------------------------------------------------------------------


def measure(seconds: float, *, day_only: bool) -> Iterator[Figure]:
    """Return all figures."""
    with (
        tempfile.TemporaryDirectory(prefix="mtasts-names-", dir="/var/tmp") as folder,
        name_server(Path(folder), 100, None) as names,
    ):
        yield from reported_day(Path(folder), int(1_000_000 * min(1.0, seconds / 60)), names.port)
        if day_only:
            return
        yield from collected("20,000/s", names, 512, 20, 0.001, seconds)
        yield from collected("bursts of 10", names, 10, 10, 0.01, seconds)


def main() -> int:
    """Measure and print. Always return 0."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tlsrpt", description=about)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to send (default: 60)")
    parser.add_argument("--json", action="store_true", help="print JSON, a list of figures")
    parser.add_argument("--day", action="store_true", help="measure the making of a day's reports alone")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(*arguments.serve)
    if arguments.send:
        path, burst, every, seconds = arguments.send
        send(path, int(burst), float(every), float(seconds))
        return 0
    if os.geteuid() == 0 and not arguments.inside:
        again = 'ip link set lo up && exec "$0" -m tests.bench.tlsrpt --inside "$@"'
        return subprocess.run(["unshare", "--net", "sh", "-c", again, sys.executable, *sys.argv[1:]]).returncode
    print(f"{os.cpu_count()} cores, machine load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    found: list[Figure] = []
    for figure in measure(arguments.seconds, day_only=arguments.day):
        found.append(figure)
        print(as_text(figure), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.json:
        print(json.dumps(as_json(found), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
