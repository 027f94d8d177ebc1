"""``python -m tests.bench.soak``: lookups of learned policies while faults come in turn.

Every lookup of a learned, live policy must be answered with that policy. Prints per fault the number of lookups, wrong
answers and the longest wait, and the resident memory at the end. The daemon stores its policies on a small file system
of its own if the script runs as root, so that it can be filled.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.fakes.https import Behaviour, Manner
from tests.fakes.process import Internet, Process

__all__ = ["main"]

_DOMAINS = 300
_CONNECTIONS = 32
_SETTINGS = {"cache": {"txt_ttl_min": "1s", "txt_ttl_max": "5s", "refresh_after": "1m", "retry_min": "10s"}}


@dataclass(slots=True)
class Tally:
    """Results of one phase. Times in seconds."""

    lookups: int = 0
    wrong: int = 0
    longest: float = 0.0
    example: str = ""


class Load:
    """Asks for learned domains at a steady rate over many connections."""

    def __init__(self, path: str, rate: int) -> None:
        self.path = path
        self.interval = _CONNECTIONS / rate
        self.tally = Tally()
        self.stopped = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(_CONNECTIONS):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        reader, writer = await asyncio.open_unix_connection(self.path)
        due, domain = time.monotonic(), number
        while not self.stopped:
            domain = (domain + _CONNECTIONS) % _DOMAINS
            request = f"postfix d{domain}.example".encode()
            asked = time.monotonic()
            writer.write(b"%d:%b," % (len(request), request))
            length = int((await reader.readuntil(b":"))[:-1])
            reply = (await reader.readexactly(length + 1)).decode()
            waited = time.monotonic() - asked
            self.tally.lookups += 1
            self.tally.longest = max(self.tally.longest, waited)
            if not reply.startswith("OK secure "):
                self.tally.wrong += 1
                self.tally.example = reply
            due += self.interval
            await asyncio.sleep(max(due - time.monotonic(), 0))
        writer.close()


class Faults:
    """Each method is one fault, present inside its ``with`` block."""

    def __init__(self, internet: Internet, daemon: Process, disk: Path) -> None:
        self.internet = internet
        self.daemon = daemon
        self.disk = disk

    @contextlib.contextmanager
    def none(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def dns_silent(self) -> Iterator[None]:
        with self._dns("silent"):
            yield

    @contextlib.contextmanager
    def dns_servfail(self) -> Iterator[None]:
        with self._dns("servfail"):
            yield

    @contextlib.contextmanager
    def dns_stopped(self) -> Iterator[None]:
        self.internet.stop_dns()
        yield
        self.internet.start_dns()

    @contextlib.contextmanager
    def _dns(self, behaviour: str) -> Iterator[None]:
        self.internet.records("*", f"! * {behaviour}")
        yield
        self.internet.records("*", "! * delay 0")

    @contextlib.contextmanager
    def https_hangs(self) -> Iterator[None]:
        before = dict(self.internet.host.behaviours)
        self.internet.host.behaviours = {name: replace(b, manner=Manner.HANG) for name, b in before.items()}
        yield
        self.internet.host.behaviours = before

    @contextlib.contextmanager
    def disk_full(self) -> Iterator[None]:
        filler = self.disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(65536))
                file.flush()
        yield
        filler.unlink()

    @contextlib.contextmanager
    def store_removed(self) -> Iterator[None]:
        for name in ("policies.sqlite", "policies.sqlite-wal", "policies.sqlite-shm"):
            (self.disk / name).unlink(missing_ok=True)
        yield

    @contextlib.contextmanager
    def reload(self) -> Iterator[None]:
        self.daemon.signal(signal.SIGHUP)
        yield
        self.daemon.signal(signal.SIGHUP)

    @contextlib.contextmanager
    def stopped_process(self) -> Iterator[None]:
        self.daemon.signal(signal.SIGSTOP)
        time.sleep(0.5)
        self.daemon.signal(signal.SIGCONT)
        yield


_TURN = (
    *("none", "dns_silent", "dns_servfail", "dns_stopped", "https_hangs", "disk_full", "store_removed"),
    *("reload", "stopped_process"),
)


async def _phases(load: Load, faults: Faults, seconds: float, rounds: int) -> dict[str, Tally]:
    totals = {name: Tally() for name in _TURN}
    running = asyncio.create_task(load.run())
    for _ in range(rounds):
        for name in _TURN:
            load.tally = tally = Tally()
            with getattr(faults, name)():
                await asyncio.sleep(seconds)
            total = totals[name]
            total.lookups += tally.lookups
            total.wrong += tally.wrong
            total.longest = max(total.longest, tally.longest)
            total.example = total.example or tally.example
            if running.done():
                running.result()
    load.stopped = True
    await running
    return totals


def _resident(pid: int) -> int:
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """Return a folder on a file system of 16 MiB if that can be mounted, otherwise an ordinary folder."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "soak", folder], check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)


def main() -> int:
    """Run the soak. Return 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="time of each fault")
    parser.add_argument("--rate", type=int, default=1000, help="lookups per second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Internet(Path(name) / "internet") as internet:
        internet.publish_all({f"d{number}.example": Behaviour() for number in range(_DOMAINS)})
        with _disk(Path(name) / "disk") as disk:
            settings = {**_SETTINGS, "store": {"path": str(disk / "policies.sqlite")}}
            with Process(Path(name) / "daemon", internet, settings, loop="uvloop") as daemon:
                for number in range(_DOMAINS):
                    daemon.lookup(f"d{number}.example")
                assert daemon.process is not None
                pid, before = daemon.process.pid, _resident(daemon.process.pid)
                load, faults = Load(daemon.socket, options.rate), Faults(internet, daemon, disk)
                totals = asyncio.run(_phases(load, faults, options.seconds, options.rounds))
                for fault, tally in totals.items():
                    example = f"  ({tally.example})" if tally.example else ""
                    print(
                        f"{fault:16} {tally.lookups:8} lookups {tally.wrong:6} wrong  {tally.longest:6.3f} s{example}"
                    )
                print(f"resident memory: {before} MiB at the start, {_resident(pid)} MiB at the end")
                events = sorted({line.split()[1] for line in daemon.log if len(line.split()) > 1})
                print("log events:", " ".join(events))
    return 1 if any(tally.wrong for tally in totals.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
