"""``python -m tests.bench.soak``: lookups of known policies during a sequence of faults.

Every lookup of a learned, live policy must be answered with that policy, within a second. A domain is learned once a
lookup was answered with its policy; new domains are learned all the time. Each fault must be seen in the daemon's log
or metrics. At the end all learned policies must be in the store. Needs root (a tmpfs that can be filled) and
libfaketime.

While the clock is years ahead, and after it was set forward to the right time, policies have expired by the daemon's
clock: lookups without policy are printed as expired then and do not fail the soak.
"""

import argparse
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.bench.soak_faults import Fault, Faults, Seen
from tests.bench.soak_load import Load, Tally
from tests.fakes.admin import Admin
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process

__all__ = ["main"]

_DOMAINS = 300
_DISK = "64m"
_SETTINGS = {
    "cache": {"txt_ttl_min": "1s", "txt_ttl_max": "5s", "refresh_after": "2m", "retry_min": "10s"},
    "https": {"timeout": "20s"},
}
_MAX_STALL = 1.0
_SETTLE = 7.0
"""Seconds until the last lookup that began while policies were expired is answered: ``lookup.deadline`` and some."""
_EVIDENCE_WITHIN = 150.0
"""Seconds; the store's file is checked once a minute."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One fault and what lookups noticed of it. ``evidence`` is 0 if the fault did not take effect."""

    fault: Fault
    tally: Tally
    evidence: float
    resident: int
    cpu_wait: float
    """Seconds for which the daemon's main thread was ready to run and had no CPU."""

    @property
    def failed(self) -> bool:
        """Return True if the phase fails the soak."""
        tally = self.tally
        # What the load itself was late is not the daemon's.
        stalled = tally.longest - tally.own_lag > _MAX_STALL
        return not self.evidence or not tally.lookups or (self.fault.strict and (tally.wrong > 0 or stalled))

    def __str__(self) -> str:
        tally, fault = self.tally, self.fault
        wrong = "wrong" if fault.strict else "expired"
        return (
            f"{'FAIL' if self.failed else 'ok':4} {fault.name:15}{tally.lookups:8} lookups {tally.wrong:6} {wrong:7} "
            f"longest {tally.longest:6.3f} s, load {tally.own_lag:5.3f} s, CPU wait {self.cpu_wait:4.1f} s "
            f"{self.resident:4} MiB {tally.learned:6} learned; {fault.shown_by}: {self.evidence:g} {tally.example}"
        ).rstrip()


def _learn(daemon: Process, domains: Sequence[str]) -> None:
    """Ask for the domains until each was answered with its policy."""
    missing, ends = list(domains), time.monotonic() + 240
    with ThreadPoolExecutor(8) as pool:
        while missing:
            if time.monotonic() > ends:
                raise RuntimeError(f"{len(missing)} policies were not learned")
            replies = list(pool.map(daemon.lookup, missing))
            missing = [name for name, reply in zip(missing, replies, strict=True) if not reply.startswith("OK ")]


def _phase(fault: Fault, load: Load, seconds: float, daemon: Process, admin: Admin, settle: float) -> Phase:
    assert daemon.process is not None
    seen, evidence = Seen(daemon, admin), 0.0
    load.cut()
    with fault.present():
        time.sleep(settle)
        if settle:
            load.cut()
        begun, waited = time.monotonic(), _cpu_wait(daemon.process.pid)
        while not evidence and time.monotonic() - begun < max(_EVIDENCE_WITHIN, seconds):
            time.sleep(1.0)
            evidence = fault.evidence(seen)
        time.sleep(max(begun + seconds - time.monotonic(), 0))
        evidence = fault.evidence(seen)
        tally = load.cut()
        waited = _cpu_wait(daemon.process.pid) - waited
    return Phase(fault, tally, evidence, _resident(daemon.process.pid), waited)


def _phases(faults: Sequence[Fault], load: Load, options: argparse.Namespace, daemon: Process) -> Iterator[Phase]:
    admin, settle = Admin(daemon.config.parent / "admin.sock"), 0.0
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        for fault in faults:
            begun = len(daemon.log)
            phase = _phase(fault, load, options.seconds, daemon, admin, settle)
            print(phase, flush=True)
            if phase.failed:
                events = Counter(line.split()[1] for line in daemon.log[begun:] if len(line.split()) > 1)
                print("    ", ", ".join(f"{event}: {count}" for event, count in events.items()), flush=True)
            settle = 0.0 if fault.strict else _SETTLE
            yield phase


def _missing(store: Path, learned: Sequence[str]) -> set[str]:
    """Return the learned domains that the store lacks after two minutes."""
    ends, missing = time.monotonic() + 120, set(learned)
    while missing and time.monotonic() < ends:
        time.sleep(2.0)
        with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            missing = set(learned).difference(domain for (domain,) in connection.execute("SELECT domain FROM entry"))
    return missing


def _resident(pid: int) -> int:
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def _cpu_wait(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """Return a folder on a small file system of its own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "soak", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def _daemon(folder: Path, internet: Internet, disk: Path, clock: Path) -> Iterator[Process]:
    settings = {
        **_SETTINGS,
        "store": {"path": str(disk / "policies.sqlite")},
        "https": {**internet.settings["https"], **_SETTINGS["https"]},
        "admin": {"socket": str(folder / "admin.sock")},
    }
    environ = Faults.clock_environment(clock)
    with Process(folder, internet, settings, loop="uvloop", environ=environ) as daemon:
        daemon.logged("admin-listening")
        yield daemon


def main() -> int:
    """Run the soak. Return 1 if an answer was wrong or late, a fault had no effect, or a policy was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="least time of each fault")
    parser.add_argument("--rate", type=int, default=1000, help="lookups per second")
    parser.add_argument("--faults", type=lambda text: text.split(","), help="only these, separated by commas")
    options = parser.parse_args()
    learned = [f"d{number}.example" for number in range(_DOMAINS)]
    with tempfile.TemporaryDirectory() as name, Internet(Path(name) / "internet") as internet:
        folder, clock = Path(name) / "daemon", Path(name) / "clock"
        internet.records("*.example", 'TXT "v=STSv1; id=1;"', "A 127.0.0.1", "MX 10 mail.example.com.")
        internet.host.behaviours = {"*": Behaviour()}
        with _disk(Path(name) / "disk") as disk, _daemon(folder, internet, disk, clock) as daemon:
            _learn(daemon, learned)
            with Load(daemon.socket, options.rate, learned) as load:
                faults = Faults(internet, daemon, disk, clock).all()
                if options.faults:
                    faults = [fault for fault in faults if fault.name in options.faults]
                phases = list(_phases(faults, load, options, daemon))
                lost = _missing(disk / "policies.sqlite", load.names())
            wrong = sum(phase.tally.wrong for phase in phases if phase.fault.strict)
            lookups = sum(phase.tally.lookups for phase in phases)
            print(f"{lookups} lookups, {wrong} wrong; {len(lost)} learned policies missing in the store")
            events = sorted({line.split()[1] for line in daemon.log if len(line.split()) > 1})
            print("log events:", " ".join(events))
            crashed = daemon.lines("Traceback|trace=|internal-error|task-failed")
            print("\n".join(crashed[:5]))
    return 1 if lost or crashed or any(phase.failed for phase in phases) else 0


if __name__ == "__main__":
    sys.exit(main())
