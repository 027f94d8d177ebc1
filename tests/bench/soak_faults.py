"""The faults of the soak, and how to see in the daemon that each took effect."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.admin import Admin
from tests.fakes.https import Behaviour, Manner
from tests.fakes.process import Internet, Process

__all__ = ["Fault", "Faults", "Seen"]

_FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"),
)


class Seen:
    """The daemon's log and metrics since this object was made."""

    def __init__(self, daemon: Process, admin: Admin) -> None:
        self._daemon = daemon
        self._admin = admin
        self._lines = len(daemon.log)
        self._before = self._metrics()

    def _metrics(self) -> dict[str, float]:
        lines = (line for line in self._admin.get("/metrics").body.decode().splitlines() if line[:1] not in ("#", ""))
        pairs = (line.rpartition(" ") for line in lines)
        return {name: float(value) for name, _, value in pairs}

    def grown(self, metric: str, label: str = "") -> float:
        """Return by how much the samples of ``metric`` with ``label`` have grown."""
        now = self._metrics()
        return sum(
            value - self._before.get(name, 0.0)
            for name, value in now.items()
            if name.partition("{")[0] == metric and label in name
        )

    def logged(self, event: str, field: str = "") -> int:
        """Return the number of log lines with this event and text."""
        words = (line.split() for line in self._daemon.log[self._lines :] if field in line)
        return sum(event in line for line in words)


@dataclass(frozen=True)
class Fault:
    """``present`` is a context manager; ``evidence`` returns a positive number once the fault has taken effect."""

    name: str
    present: Callable[[], AbstractContextManager[None]]
    evidence: Callable[[Seen], float]
    shown_by: str
    strict: bool = True
    """False if the policies are not live by the daemon's clock meanwhile."""


class Faults:
    """Makes the faults."""

    def __init__(self, internet: Internet, daemon: Process, disk: Path, clock: Path) -> None:
        self._internet = internet
        self._daemon = daemon
        self._disk = disk
        self._clock = clock
        self._stopped = 0

    def all(self) -> list[Fault]:
        """Return the faults in their order."""
        forward, past = (lambda: self._clock_set("+3y")), (lambda: self._clock_set("-3y"))
        return [
            Fault("none", contextlib.nullcontext, lambda seen: seen.grown("mtasts_cache_requests_total"), "requests"),
            Fault("dns-silent", lambda: self._dns("silent"), _dns_failed, "failed DNS queries"),
            Fault("dns-servfail", lambda: self._dns("servfail"), _dns_failed, "failed DNS queries"),
            Fault("dns-stopped", self._dns_stopped, _dns_failed, "failed DNS queries"),
            Fault("https-hangs", self._https_hangs, _fetch_failed, "failed fetches"),
            Fault("disk-full", self._disk_full, _write_failed, "store-write-failed, failed operations"),
            Fault("store-removed", self._store_removed, lambda seen: seen.logged("store-restored"), "store-restored"),
            Fault("reload", self._reload, lambda seen: seen.logged("reloaded"), "reloaded"),
            Fault("stopped", self._stopped_process, lambda _seen: self._stopped, "state T in /proc"),
            Fault("clock-forward", forward, lambda seen: _jumped(seen, ""), "clock-jump", strict=False),
            Fault("clock-back", lambda: self._clock_set("+0"), lambda seen: _jumped(seen, "-"), "clock-jump"),
            Fault("clock-past", past, lambda seen: _jumped(seen, "-"), "clock-jump"),
            Fault(
                *("clock-restored", lambda: self._clock_set("+0"), lambda seen: _jumped(seen, ""), "clock-jump"),
                strict=False,
            ),
        ]

    @staticmethod
    def clock_environment(clock: Path) -> dict[str, str]:
        """Return the environment of a daemon whose wall clock is set by the file ``clock``.

        Raises RuntimeError if libfaketime is not installed.
        """
        library = next((path for path in _FAKETIME if path.exists()), None)
        if library is None:
            raise RuntimeError("libfaketime is not installed (apt-get install faketime)")
        clock.write_text("+0\n")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Its fix for timed waits breaks those on the monotonic clock, by which threads wait for the interpreter
            # lock: lookups then stalled for up to 5 s with the clock as it is.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
        }

    @contextlib.contextmanager
    def _clock_set(self, offset: str) -> Iterator[None]:
        """Set the wall clock; the next phase sets it again."""
        self._clock.write_text(f"{offset}\n")
        yield

    @contextlib.contextmanager
    def _dns(self, behaviour: str) -> Iterator[None]:
        for name in ("*", "."):
            self._internet.records(name, f"! * {behaviour}")
        yield
        for name in ("*", "."):
            self._internet.records(name, "! * delay 0")

    @contextlib.contextmanager
    def _dns_stopped(self) -> Iterator[None]:
        self._internet.stop_dns()
        yield
        self._internet.start_dns()

    @contextlib.contextmanager
    def _https_hangs(self) -> Iterator[None]:
        before = self._internet.host.behaviours
        self._internet.host.behaviours = {"*": Behaviour(manner=Manner.HANG)}
        yield
        self._internet.host.behaviours = before

    @contextlib.contextmanager
    def _disk_full(self) -> Iterator[None]:
        """Fill the disk. Large policies use up what the write-ahead log has reserved."""
        before = self._internet.host.behaviours
        lines = b"".join(b"mx: mx%d.%b.example.com\n" % (number, b"x" * 60) for number in range(400))
        body = b"version: STSv1\nmode: enforce\nmax_age: 604800\nmx: mail.example.com\n" + lines
        self._internet.host.behaviours = {"*": Behaviour(body=body)}
        filler = self._disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                for size in (65536, 512):
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(size))
                yield
            finally:
                filler.unlink()
        self._internet.host.behaviours = before

    @contextlib.contextmanager
    def _store_removed(self) -> Iterator[None]:
        for name in ("policies.sqlite", "policies.sqlite-wal", "policies.sqlite-shm"):
            (self._disk / name).unlink(missing_ok=True)
        yield

    @contextlib.contextmanager
    def _reload(self) -> Iterator[None]:
        self._daemon.signal(signal.SIGHUP)
        yield
        self._daemon.signal(signal.SIGHUP)

    @contextlib.contextmanager
    def _stopped_process(self) -> Iterator[None]:
        assert self._daemon.process is not None
        stat = Path(f"/proc/{self._daemon.process.pid}/stat")
        self._stopped = 0
        self._daemon.signal(signal.SIGSTOP)
        ends = time.monotonic() + 0.5
        while time.monotonic() < ends:
            self._stopped += stat.read_text().rpartition(")")[2].split()[0] == "T"
            time.sleep(0.05)
        self._daemon.signal(signal.SIGCONT)
        yield


def _dns_failed(seen: Seen) -> float:
    return seen.grown("mtasts_dns_failures_total")


def _fetch_failed(seen: Seen) -> float:
    return seen.grown("mtasts_https_failures_total")


def _write_failed(seen: Seen) -> float:
    return seen.grown("mtasts_store_failures_total") if seen.logged("store-write-failed") else 0.0


def _jumped(seen: Seen, sign: str) -> float:
    return seen.logged("clock-jump", f"seconds={sign}94")
