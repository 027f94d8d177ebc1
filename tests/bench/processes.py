"""Processes that are measured: started on a core of their own, and asked what they have used."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

__all__ = ["LOAD_CORES", "SERVER_CORES", "Measured", "free_port", "on_cores"]

_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORES: Final = frozenset(_CORES[:1])
"""Where the server runs alone."""
LOAD_CORES: Final = frozenset(_CORES[1:] or _CORES)
"""Where all else runs."""


@contextlib.contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """Run on ``cores`` for a while; what is started meanwhile stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Measured:
    """A Python module that runs as a process of its own; a context manager that ends it."""

    def __init__(self, arguments: Sequence[str], log: Path, cores: frozenset[int] = SERVER_CORES) -> None:
        with on_cores(cores), log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=output, text=True
            )
        self.log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.end()

    def line(self) -> str:
        """The next line it says; raises ``RuntimeError`` where it ended instead."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"it ended with {self._process.wait()}:\n{self.log.read_text()[-2000:]}")
        return said.rstrip("\n")

    def check(self) -> None:
        """Raise ``RuntimeError`` where it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"it ended with {self._process.returncode}:\n{self.log.read_text()[-2000:]}")

    def end(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def cpu(self) -> float:
        """Seconds of CPU that all its threads have used."""
        # clock_getcpuclockid(3), which Python has for threads only; finer than the ticks of /proc/PID/stat.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def resident(self) -> int:
        """Bytes of memory it has now."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("it has ended")


def free_port() -> int:
    """A TCP and UDP port of 127.0.0.1 that is free now."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        port: int = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
    return port
